"""Settings against the facts of nanoBragg.c; see tests/golden/nanobragg/README.md."""

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine.app.nanobragg.defects import Defects
from refine.app.nanobragg.headers import header_value
from refine.app.nanobragg.image import computed_pixels
from refine.app.nanobragg.options import OPTIONS
from refine.app.nanobragg.resolve import resolve
from refine.app.nanobragg.settings import Settings
from refine.errors import InputError

GOLDEN = Path(__file__).parents[2] / "golden" / "nanobragg"
FACTS = json.loads((GOLDEN / "facts.json").read_text())
CASES = {case["name"]: case for case in FACTS["cases"]}
MM, ANGSTROM, DEGREE = 1e-3, 1e-10, np.pi / 180
INSIDE = np.outer([1, 1, 1, 0], [0, 1, 1, 1, 1]) > 0  # -roi 1 4 0 2 of 4 x 5 pixels
MINIMAL = "-cell 60 60 60 90 90 90 -N 5 -default_F 100"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs, with empty lists of structure factors."""
    made = tmp_path_factory.mktemp("nanobragg")
    shutil.copytree(GOLDEN / "inputs", made / "inputs")
    for name in ("mono.hkl", "ortho.hkl", "tri.hkl", "tri_sparse.hkl"):
        (made / "inputs" / name).touch()
    return made


@cache
def settings(name: str, folder: Path) -> Settings:
    return resolve([*CASES[name]["args"], *FACTS["common_args"]], folder)


def line(words: str, folder: Path = GOLDEN) -> Settings:
    return resolve(words.split(), folder)


def crystal_facts(s: Settings) -> dict[str, Any]:
    crystal = s.crystal
    return {
        "a_A": crystal.a, "b_A": crystal.b, "c_A": crystal.c,
        "a_star_invA": crystal.a_star, "b_star_invA": crystal.b_star, "c_star_invA": crystal.c_star,
        "V_cell_A3": crystal.volume, "cell": crystal.cell, "misset_deg": crystal.misset,
        "N": crystal.cells, "fudge": crystal.fudge, "xtal_shape": crystal.shape.upper(),
        "mosaic_domains": crystal.mosaic_domains, "mosaic_spread_rad": crystal.mosaic_spread * DEGREE,
    }  # fmt: skip


def detector_facts(s: Settings) -> dict[str, Any]:
    panel = s.detector
    return {
        "convention": panel.convention.upper(), "pivot": panel.pivot.upper(),
        "pix0_vector_m": np.multiply(panel.origin, MM), "fdet_vector": panel.fast, "sdet_vector": panel.slow,
        "odet_vector": panel.normal, "twotheta_axis": panel.twotheta_axis, "dials_origin_mm": panel.dials_origin,
        "distance_m": panel.distance * MM, "close_distance_m": panel.close_distance * MM,
        "Xbeam_m": panel.header_beam[0] * MM, "Ybeam_m": panel.header_beam[1] * MM,
        "Fbeam_m": panel.beam[0] * MM, "Sbeam_m": panel.beam[1] * MM,
        "Fclose_m": panel.close[0] * MM, "Sclose_m": panel.close[1] * MM,
        "Xclose_m": panel.given_close[0] * MM, "Yclose_m": panel.given_close[1] * MM,
        "ORGX_px": panel.org[0], "ORGY_px": panel.org[1],
        "detector_rotx_rad": panel.rotations[0] * DEGREE, "detector_roty_rad": panel.rotations[1] * DEGREE,
        "detector_rotz_rad": panel.rotations[2] * DEGREE, "twotheta_rad": panel.twotheta * DEGREE,
        "pixel_size_m": panel.pixel_size * MM, "fpixels": panel.size[1], "spixels": panel.size[0],
        "detector_thicksteps": panel.layers, "detector_thick_m": panel.sensor_thickness * MM,
        "detector_thickstep_m": panel.layer_thickness * MM,
        "detector_mu_invm": -1 if panel.attenuation is None else panel.attenuation / MM,
        "curved_detector": panel.curved, "point_pixel": panel.point_pixel,
    }  # fmt: skip


def beam_facts(s: Settings) -> dict[str, Any]:
    beam = s.beam
    return {
        "beam_vector": beam.direction, "polar_vector": beam.polarization, "vert_vector": beam.vertical,
        "lambda0_m": beam.wavelength * ANGSTROM, "dispersion": beam.dispersion, "dispsteps": beam.dispersion_steps,
        "hdivrange_rad": beam.hdiv_range * 1e-3, "vdivrange_rad": beam.vdiv_range * 1e-3,
        "hdivsteps": beam.hdiv_steps, "vdivsteps": beam.vdiv_steps, "round_div": beam.round_divergence,
        "sources": len(beam.sources), "kahn_polarization": beam.kahn, "nopolar": not beam.polarized,
        "fluence": beam.fluence, "flux": beam.flux, "exposure": beam.exposure, "beamsize_m": beam.size * MM,
    }  # fmt: skip


def sampling_facts(s: Settings) -> dict[str, Any]:
    scan, sampling = s.scan, s.sampling
    return {
        "spindle_vector": scan.spindle, "phisteps": scan.steps, "phi0_rad": scan.phi0 * DEGREE,
        "phistep_rad": scan.step * DEGREE, "osc_rad": scan.osc * DEGREE,
        "oversample": sampling.oversample, "recommended_oversample": sampling.recommended_oversample,
        "oversample_thick": sampling.oversample_thickness, "oversample_polar": sampling.oversample_polarization,
        "oversample_omega": sampling.oversample_solid_angle, "steps": sampling.steps, "roi": sampling.roi,
        "dmin_m": sampling.dmin * ANGSTROM, "water_size_m": s.water * 1e-6,
        "default_F": s.structure_factors.default, "interpolate_at_start": s.structure_factors.interpolate,
    }  # fmt: skip


def test_the_inputs_are_those_of_the_facts() -> None:
    for name, checksum in FACTS["inputs_sha256"].items():
        assert hashlib.sha256((GOLDEN / "inputs" / name).read_bytes()).hexdigest() == checksum


@pytest.mark.parametrize("name", CASES)
def test_settings_are_the_facts(name: str, folder: Path) -> None:
    """Within 1e-13 of each value's largest component: the same operations in the same order.

    That holds for -misset random too, whose single-precision angle is reproduced to the bit.
    """
    s, facts = settings(name, folder), CASES[name]["facts"]
    found = crystal_facts(s) | detector_facts(s) | beam_facts(s) | sampling_facts(s)
    assert found.keys() == facts.keys()
    for key, expected in facts.items():
        if isinstance(expected, str):
            assert found[key] == expected, key
        else:
            scale = np.max(np.abs(expected))
            np.testing.assert_allclose(found[key], expected, rtol=0, atol=1e-13 * scale, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_sources_are_those_of_nanobragg(name: str, folder: Path) -> None:
    sources = settings(name, folder).beam.sources
    found = np.array([[*s.direction, s.weight, s.wavelength * ANGSTROM] for s in sources])
    np.testing.assert_allclose(found, CASES[name]["source_list"], rtol=1e-14, atol=1e-17)


def test_seeds() -> None:
    assert line(MINIMAL).crystal.mosaic_seed == 12345678
    assert line(f"{MINIMAL} -mosaic_seed 7 -seed 9").crystal.mosaic_seed == 7
    assert line(f"{MINIMAL} -mosaic_seed -7").crystal.mosaic_seed == 1
    assert line(f"{MINIMAL} -mosaic_seed 7 -seed 9").output.seed == 9
    drawn = line(f"-misset_seed 3 -misset random {MINIMAL}").crystal
    assert drawn == line(f"-misset_seed 3 -misset random {MINIMAL}").crystal
    assert drawn != line(f"-misset_seed 4 -misset random {MINIMAL}").crystal
    assert line(f"{MINIMAL} -misset random").crystal.misset != (0, 0, 0)


@pytest.mark.parametrize(
    ("words", "steps", "osc", "step"),
    [
        ("", 1, 0, 0),
        ("-phistep 0.5", 2, 0.5, 0.5),
        ("-osc 2", 2, 2, 1),
        ("-osc 0", 2, 0, 0),
        ("-osc 2 -phistep 0.5", 4, 2, 0.5),
        ("-phisteps 4", 4, 1, 0.25),
        ("-phisteps 4 -osc 2", 4, 2, 0.5),
        ("-phisteps 4 -phistep 0.3", 2, 0.3, 0.3),
        ("-phisteps 4 -osc 2 -phistep 0.3", 4, 2, 0.3),
        ("-phisteps 0 -osc 2", 1, 2, 2),
        ("-osc -1 -phisteps 2", 2, 1, 0.5),
    ],
)
def test_phi_steps(words: str, steps: int, osc: float, step: float) -> None:
    scan = line(f"{MINIMAL} {words}").scan
    assert scan.steps == steps
    assert (scan.osc, scan.step) == pytest.approx((osc, step), rel=1e-12)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("", 1),
        ("-hdivrange 2", 2),
        ("-hdivsteps 4", 4),
        ("-hdivstep 0.5", 2),
        ("-hdivrange 2 -hdivstep 0.5", 4),
        ("-hdivrange 2 -hdivsteps 1", 2),
        ("-hdivrange 2 -hdivsteps 5 -hdivstep 0.1", 5),
        ("-divergence 2 -divsteps 3", 5),
        ("-divergence 2 -divsteps 5", 13),
        ("-divergence 2 -divsteps 5 -square_div", 25),
        ("-dispersion 1 -dispsteps 3 -hdivrange 2", 6),
        ("-dispsteps 3", 1),
        ("-dispersion -1 -dispsteps 3", 3),
    ],
)
def test_numbers_of_sources(words: str, count: int) -> None:
    sources = line(f"{MINIMAL} {words}").beam.sources
    assert len(sources) == count
    assert sum(source.weight for source in sources) == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "domains", "spread"),
    [("-mosaic 1", 10, 1), ("-mosaic_domains 5", 1, 0), ("-mosaic 0 -mosaic_domains 5", 1, 0),
     ("-mosaic 1 -mosaic_dom 5", 5, 1)],
)  # fmt: skip
def test_mosaic_defaults(words: str, domains: int, spread: float) -> None:
    crystal = line(f"{MINIMAL} {words}").crystal
    assert (crystal.mosaic_domains, crystal.mosaic_spread) == (domains, pytest.approx(spread))


def test_interpolation_is_chosen_before_the_size_sets_the_cells(folder: Path) -> None:
    start = "-cell 60 -hkl inputs/tri.hkl"
    assert line(f"{start} -xtalsize 0.0003", folder).structure_factors.interpolate
    assert line(f"{start} -xtalsize 0.0003", folder).crystal.cells == (50, 50, 50)
    assert not line(f"{start} -N 3", folder).structure_factors.interpolate
    assert not line(f"{start} -N 3 -interpolate -nointerpolate", folder).structure_factors.interpolate
    assert not line("-cell 60 -N 1 -interpolate -default_F 1").structure_factors.interpolate


def test_named_conventions_force_their_pivot_and_vectors() -> None:
    plain = line(f"{MINIMAL} -xds").detector
    assert line(f"{MINIMAL} -fdet_vector 0 1 0 -pivot beam -xds").detector == plain
    assert line(f"{MINIMAL} -close_distance 100 -ORGX 30").detector.pivot == "beam"
    assert line(f"{MINIMAL} -xds -Xbeam 3").detector.origin == plain.origin
    custom = line(f"{MINIMAL} -pix0_vector 1 2 3 -close_distance 50").detector
    assert (custom.convention, custom.pivot) == ("custom", "sample")
    assert custom.origin == pytest.approx((50, 51.2, -51.2))


def test_a_cell_beside_a_matrix_forces_lengths_and_volume() -> None:
    crystal = line("-mat inputs/tri_100.mat -cell 38 44 52 82 95 107 -N 5 -default_F 1").crystal
    assert crystal.cell[:3] == pytest.approx((38, 44, 52), rel=1e-12)


def test_without_defects_the_triclinic_cell_is_the_one_given() -> None:
    words = ["-cell", "60", "50", "40", "70", "80", "75", "-misset", "1", "2", "3", "-N", "5", "-default_F", "1"]
    right = resolve(words, GOLDEN, Defects.none()).crystal
    assert right.cell == pytest.approx((60, 50, 40, 70, 80, 75), rel=1e-12)
    assert np.dot(right.a, right.a_star) == pytest.approx(1, abs=1e-13)
    wrong = resolve(words, GOLDEN).crystal
    assert wrong.cell[3:] == pytest.approx((69.799, 79.893, 74.947), abs=5e-4)
    assert np.dot(wrong.a, wrong.a_star) == pytest.approx(0.9984, abs=5e-5)


@pytest.mark.parametrize("layers", [1, 2, 3, 7])
def test_without_defects_the_layers_add_up_to_the_sensor(layers: int) -> None:
    words = f"{MINIMAL} -detector_thick 450 -detector_thicksteps {layers}".split()
    right, wrong = (resolve(words, GOLDEN, defects).detector for defects in (Defects.none(), Defects()))
    assert right.layers == layers
    assert right.layers * right.layer_thickness == pytest.approx(0.45)
    assert wrong.layers * wrong.layer_thickness == pytest.approx(0.45 * max(layers, 2) / (max(layers, 2) - 1))


def test_defects_are_all_on_or_all_off() -> None:
    assert all(getattr(Defects(), field.name) for field in fields(Defects))
    assert not any(getattr(Defects.none(), field.name) for field in fields(Defects))
    assert line(MINIMAL).defects == Defects()


def test_header_keywords_are_found_inside_others() -> None:
    header = "{\nDISTANCE=100;\nCLOSE_DISTANCE=90;\nXDS_ORGX=12.5;\nPHI;\n}"
    assert header_value(header, "DISTANCE") == 90
    assert header_value(header, "ORGX") == 12.5
    assert header_value(header, "PHI") == 0
    assert header_value(header, "WAVELENGTH") is None


def test_headers_of_any_length_and_options_over_them(tmp_path: Path) -> None:
    text = "{\nHEADER_BYTES=1024;\nSIZE1=8;\nSIZE2=6;\nPIXEL_SIZE=0.2;\n" + "X=1;\n" * 120 + "DISTANCE=77;\n}"
    (tmp_path / "long.img").write_bytes(text.encode().ljust(1024) + bytes(96))
    detector = line(f"-distance 80 {MINIMAL} -img long.img", tmp_path).detector
    assert (detector.size, detector.distance, detector.pixel_size) == ((6, 8), pytest.approx(80), pytest.approx(0.2))
    assert line(f"{MINIMAL} -img long.img", tmp_path).detector.distance == pytest.approx(77)


@pytest.mark.parametrize("size", [512, 1024, 2048, 4096])
def test_images_behind_headers_of_any_length_mask(size: int, tmp_path: Path) -> None:
    """The pixels follow the header, wherever that ends."""
    text = f"{{\nHEADER_BYTES={size};\nDIM=2;\nTYPE=unsigned_short;\nSIZE1=5;\nSIZE2=4;\nPIXEL_SIZE=2;\n}}\f"
    zeros = np.arange(20).reshape(4, 5) % 3
    (tmp_path / "mask.img").write_bytes(text.encode().ljust(size) + zeros.astype("<u2").tobytes())
    words = f"{MINIMAL} -mask mask.img -img mask.img -distance 40 -roi 1 4 0 2"
    assert np.array_equal(computed_pixels(line(words, tmp_path)), (zeros != 0) & INSIDE)


def test_output_files() -> None:
    output = line(f"{MINIMAL} -noisefile n.img -nonoise -pgmscale 2 -printout_pixel 3 4 -adc 10 -scale 5").output
    assert output.float_file == GOLDEN / "floatimage.bin"
    assert output.int_file == GOLDEN / "intimage.img"
    assert output.noise_file is None
    assert output.pgm_file == GOLDEN / "image.pgm"
    assert (output.int_scale, output.pgm_scale, output.adc_offset) == (5, 2, 10)
    assert (output.printout, output.printout_pixel) == (True, (3, 4))


def test_source_columns_left_out_have_defaults(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("\n-10, 0.1\t0; 2\r\n  -10\n")
    first, second = line(f"{MINIMAL} -lambda 1.5 -sourcefile s.txt", tmp_path).beam.sources
    assert (first.weight, first.wavelength) == (2, pytest.approx(1.5))
    assert second.direction == (-1, 0, 0)
    assert second.weight == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-N 5 -default_F 1", "no unit cell: give -cell"),
        ("-cell 60 -N 5", "no structure factors: give -hkl FILE or -default_F"),
        ("-cell 0 -default_F 1", "^-cell: the first length is 0"),
        ("-cell 60 60 60 10 20 170 -default_F 1", "^-cell: no cell has the angles 10 20 170"),
        ("-cell 60 -hkl absent.hkl", "^-hkl: .*absent.hkl: cannot be opened"),
        ("-mat absent.mat -default_F 1", "^-mat: .*absent.mat: cannot be opened"),
        ("-mat inputs/sources.txt -default_F 1 -stol absent", "^-stol: .*absent: cannot be opened"),
        ("-img absent.img -cell 60 -default_F 1", "^-img: .*absent.img: cannot be opened"),
        ("-mask inputs/tri_100.mat -cell 60 -default_F 1", "^-mask: .*tri_100.mat is not an SMV image"),
        ("-mask inputs/mask96.img -detpixels 64 -cell 60 -default_F 1", r"^-mask: .*\(96, 96\) .* \(64, 64\)"),
        (f"{MINIMAL} -sourcefile README.md", "^-sourcefile .*README.md, line 1: '#' is not a number"),
        (f"{MINIMAL} -sourcefile absent.txt", "^-sourcefile: .*absent.txt: cannot be opened"),
        (f"{MINIMAL} -pixel 0", "^-pixel 0: accepted is a size in mm above 0"),
        (f"{MINIMAL} -detpixels -5", "correct -detpixels"),
        (f"{MINIMAL} -distance 0", "give another -distance"),
        (f"{MINIMAL} -lambda 0", "^-lambda 0: accepted is a wavelength"),
        (f"{MINIMAL} -beamsize 0 -flux 1", "^-beamsize 0 with -flux"),
        (f"{MINIMAL} -osc 0 -phistep 1", "^-osc 0 with -phistep"),
        (f"{MINIMAL} -divergence 1 -divsteps 9999", "asks for 99980001 sources"),
        (f"{MINIMAL} -divsteps 1", "leaves no source; give -square_div"),
        (f"{MINIMAL} -twotheta_axis 1 1e300 1", "give another -distance"),
        (f"{MINIMAL} -pixel 1e-320", "a number on the command line is far too"),
    ],
)
def test_wrong_input_names_the_option(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        line(words)


_NAMES = st.sampled_from([name for option in OPTIONS for name in option.names])
_VALUES = st.sampled_from(["0", "1", "-1", "2.5", "90", "1e-30", "1e300", "-1e300", "inf", "x", "inputs/tri_100.mat"])
_OPTION = st.tuples(_NAMES, st.lists(_VALUES, max_size=4)).map(lambda option: [option[0], *option[1]])


@given(st.lists(_OPTION, max_size=3))
def test_any_command_line_is_resolved_or_refused(options: list[list[str]]) -> None:
    words = [*MINIMAL.split(), *(word for option in options for word in option)]
    with suppress(InputError):
        assert resolve(words, GOLDEN).sampling.steps > 0
