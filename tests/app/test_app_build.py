"""From the keys of a configuration to the instrument that they stand for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import f64, largest

from refine.app.build import Setup, build_model, build_space
from refine.app.load import parse_config
from refine.app.simulate import model_image
from refine.errors import InputError
from refine.io.images import write_image
from refine.model import forward

PLAIN = """
beam: {wavelength: 1.0}
detector: {distance: 60.0, pixel_size: 0.4, size: [40, 48], beam_center_px: [24.0, 20.0]}
crystal: {cell: [41, 53, 63, 84, 97, 106], cells: [5, 6, 4]}
structure_factors: {default: 100}
"""

SMEARED = "crystal={cell: [41, 53, 63, 84, 97, 106], cells: [5, 6, 4], shape: gauss, mosaic: {model: gaussian, %s}}"


def setup(*overrides: str, directory: Path = Path()) -> Setup:
    return build_model(parse_config(PLAIN, "config.yaml", directory.absolute(), overrides))


def image(*overrides: str, directory: Path = Path()) -> np.ndarray:
    return model_image(setup(*overrides, directory=directory))


def test_spectrum_and_sources_are_weighted_sums_of_single_rays(tmp_path: Path) -> None:
    (tmp_path / "spectrum.txt").write_text("0.98 1\n1.02 3\n")
    found = image("beam.spectrum=spectrum.txt", directory=tmp_path)
    colours = [image(f"beam.wavelength={wavelength}") for wavelength in (0.98, 1.02)]
    assert np.allclose(found, 0.25 * colours[0] + 0.75 * colours[1], rtol=1e-12)
    (tmp_path / "sources.txt").write_text("-1 0 0 1 0.98e-10\n-1 0 0 3 1.02e-10\n")
    assert np.allclose(image("beam.sources=sources.txt", directory=tmp_path), found, rtol=1e-12)


def test_square_and_round_divergence_and_steps_of_each_side() -> None:
    wide = "beam.divergence.horizontal_mrad=4", "beam.divergence.vertical_mrad=6"
    both = setup(*wide, "beam.divergence.steps=[3, 5]").experiment.beam.sources
    square = setup(*wide, "beam.divergence.steps=[3, 5]", "beam.divergence.round=false").experiment.beam.sources
    assert len(both.weights) == 7
    assert len(square.weights) == 15
    one_side = setup("beam.divergence.horizontal_mrad=4", "beam.divergence.steps=7").experiment.beam.sources
    assert len(one_side.weights) == 7


@pytest.mark.parametrize("convention", ["mosflm", "denzo", "adxv", "xds", "dials"])
def test_axes_replace_the_conventions(convention: str) -> None:
    named = setup(f"detector.convention={convention}").experiment
    assert largest(named.detector.frame().origin @ named.beam.direction - f64(60.0)) < 1e-12
    tilted = setup(f"detector.convention={convention}", "detector.axes.spindle=[0, 3, 4]").experiment
    assert tilted.scan.axis.tolist() == [0, 0.6, 0.8]
    assert torch.equal(tilted.detector.fast, named.detector.fast)


def test_turned_axes_and_turned_detector_are_the_same() -> None:
    """A quarter turn about the beam, given both ways."""
    by_axes = image("detector.axes={fast: [0, 1, 0], slow: [0, 0, 1]}")
    by_rotation = image("detector.rotations.x=-90")
    assert by_axes.max() > 100
    assert np.allclose(by_axes, by_rotation, rtol=1e-9, atol=1e-9)
    assert not np.allclose(by_axes, image())


def test_layers_add_up_to_the_sensor() -> None:
    """Without parallax, far away and near the beam, what all layers absorb is 1 - exp(-thickness / attenuation)."""
    far = "detector.distance=60000", "detector.pixel_size=0.001"
    bare = image(*far)
    for steps in (1, 2, 7):
        thick = image(*far, f"detector.thickness={{um: 450, attenuation_um: 350, steps: {steps}}}")
        assert np.allclose(thick, bare * (1 - np.exp(-450 / 350)), rtol=1e-3)


def test_point_pixels_and_curved_panels_change_the_solid_angle_only_as_said() -> None:
    flat = setup("crystal.cells=[1, 1, 1]", "beam.polarization=null")  # scatters alike everywhere
    edge = model_image(flat)[0, 0] / model_image(flat)[20, 24]
    tilt = 60 / np.sqrt(60**2 + (0.4 * 19.5) ** 2 + (0.4 * 23.5) ** 2)
    assert edge == pytest.approx(tilt**3, rel=1e-4)
    point = image("crystal.cells=[1, 1, 1]", "beam.polarization=null", "detector.point_pixel=true")
    assert point[0, 0] / point[20, 24] == pytest.approx(tilt**2, rel=1e-4)
    curved = image("crystal.cells=[1, 1, 1]", "beam.polarization=null", "detector.curved=true")
    assert np.allclose(curved, curved[0, 0], rtol=1e-12)
    assert curved[0, 0] == pytest.approx(100**2 * (0.4 / 60) ** 2, rel=1e-12)


def test_curved_panels_keep_their_distance_and_turn_as_a_whole() -> None:
    for pivot, centre in (("beam", f64(60.0, 0, 0)), ("sample", f64(0, 0, 0))):
        panel = setup(
            "detector.curved=true", f"detector.rotations={{x: 5, y: -7, z: 11, pivot: {pivot}}}"
        ).experiment.detector
        fast, slow = f64([0.0, 24.0, 48.0]), f64([0.0, 20.0, 40.0])
        spot = panel.points(f64([24.0]), f64([20.0]))[:, 0]
        middle = (
            spot - 60 * panel.normals(f64([24.0]), f64([20.0]))[:, 0]
        )  # the sphere's centre, turned about the pivot
        away = panel.points(fast, slow) - middle[:, None]
        assert largest(torch.linalg.vector_norm(away, dim=0) - 60) < 1e-12
        assert largest(away / 60 - panel.normals(fast, slow)) < 1e-14
        if pivot == "beam":
            assert largest(spot - centre) < 1e-12
        else:
            assert largest(middle) < 1e-12


def test_roi_and_mask_leave_the_rest_dark(tmp_path: Path) -> None:
    mask = np.ones((40, 48))
    mask[10:20] = 0
    write_image(tmp_path / "mask.npy", mask)
    whole = image()
    part = image("detector.roi={fast: [5, 30], slow: [0, 25]}", "detector.mask=mask.npy", directory=tmp_path)
    kept = np.zeros_like(mask, dtype=bool)
    kept[0:26, 5:31] = True
    kept[10:20] = False
    assert np.array_equal(part != 0, kept)
    assert np.allclose(part[kept], whole[kept], rtol=1e-12)


def test_resolution_limit_of_the_structure_factors() -> None:
    whole, limited = image(), image("structure_factors.d_min=8")
    lit = limited > 0
    assert np.array_equal(limited[lit], whole[lit])
    assert 0.05 < lit.mean() < 0.95
    rows, columns = np.nonzero(lit)
    radius = 0.4 * np.hypot(rows + 0.5 - 20, columns + 0.5 - 24)
    assert radius.max() <= 60 * np.tan(2 * np.arcsin(1 / 16)) < radius.max() + 0.4


def test_water_is_added_everywhere_and_scales_as_its_volume() -> None:
    bare, little, much = image(), image("background.water_um=1"), image("background.water_um=2")
    assert float((little - bare).min()) > 0
    assert np.allclose(much - bare, 8 * (little - bare), rtol=1e-6)
    molecules = 6.02214179e23 * 1e-12 / 18
    middle = 2.57**2 * molecules * (0.4 / 60) ** 2
    assert (little - bare)[20, 24] == pytest.approx(middle, rel=1e-3)


def test_size_in_micrometres_counts_the_cells_that_reach_over_it() -> None:
    assert setup("crystal={cell: [40, 50, 60, 90, 90, 90], size_um: [0.02, 0.0251, 0.006]}").crystal.cells.tolist() == [
        5,
        6,
        1,
    ]
    lit = "beam={wavelength: 1, flux: 1.0e+12, exposure: 1, size: 0.00001}"
    clipped = setup("crystal={cell: [40, 50, 60, 90, 90, 90], size_um: [0.02, 0.02, 0.02]}", lit)
    assert clipped.crystal.cells.tolist() == [5, 2, 2]


def test_auto_oversamples_as_far_as_the_fringes_need() -> None:
    assert setup("detector.oversample=auto").experiment.detector.oversample == 7  # 3 * 0.4 mm * 318 Å / (1 Å 60 mm)
    with pytest.raises(InputError, match=r"detector\.oversample'.* auto asks for"):
        setup("detector.oversample=auto", "crystal.cells=[200, 200, 200]")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("detector.axes={fast: [1, 0, 0]}", "not in the detector's plane"),
        ("detector.axes={fast: [0, 1, 1]}", "at right angles"),
        ("detector.axes={beam: [0, 0, 0]}", "a vector other than 0 0 0"),
        ("detector.axes={polarization: [1, 0, 0]}", "a direction other than the beam's"),
        ("detector.axes={beam: [0, 1, 1]}", "not in the detector's plane"),
        (
            "detector={distance: 60, pixel_size: 1, size: [9, 9], beam_center_px: [4, 4], curved: true,"
            " axes: {beam: [4, 1, 0]}}",
            "false unless fast and slow are at right angles to the beam",
        ),
        ("beam.divergence.steps=5", "1 without a divergence"),
        ("beam.divergence={horizontal_mrad: 1.0e+6, steps: 3}", "at most 100"),
        ("beam.dispersion.steps=5", "1 when percent is 0"),
        ("compatibility=[layers_beyond_sensor]", "only with a thickness"),
        ("detector.roi={fast: [5, 48]}", "pixels from 0 to 47"),
        ("detector.roi={slow: [7, 5]}", "ascending order"),
        ("detector.thickness={um: 300}", "attenuation_um"),
        ("detector.thickness={attenuation_um: 300}", "detector.thickness.um"),
        ("detector.thickness={steps: 3}", "1 when um is 0"),
        ("beam={wavelength: 1, spectrum: a, dispersion: {percent: 1, steps: 2}}", "not both"),
        ("beam={wavelength: 1, spectrum: a, sources: b}", "a source list alone"),
        ("beam.divergence={horizontal_mrad: 1, steps: 3, round: false}", "true, unless both"),
        ("beam.divergence={horizontal_mrad: 1, steps: [1, 3]}", "2 or more"),
        ("crystal.size_um=[1, 1, 1]", "give one of them"),
        ("structure_factors={default: 1, interpolate: true}", "false when there is no file"),
        ("structure_factors.d_min=0", "above 0, in Å"),
        ("background.water_um=-1", "at least 0, in µm"),
        ("beam.sources=none.txt", "none.txt"),
        ("crystal.mosaic={model: gaussian, spread_deg: 0.1}", "gauss with mosaic model gaussian"),
        ("crystal={cell: [41, 53, 63, 84, 97, 106], shape: gauss, mosaic: {model: gaussian}}", "above 0, in degrees"),
        ("crystal.mosaic={model: gaussian, spread_deg: 1, domains: 3}", "1 with model gaussian"),
        ("crystal.mosaic={model: gaussian, covariance_deg2: [1, 1, 1, 2, 0, 0]}", "positive definite"),
        ("crystal.mosaic={covariance_deg2: [1, 1, 1, 0, 0, 0]}", "null with model domains"),
        ("crystal.mosaic={model: gaussian, spread_deg: 0.1, seed: 5}", "which draws nothing"),
        (SMEARED % "spread_deg: 20", "key 'crystal.mosaic': reflections up to"),
        ("beam.gaussian={bandwidth_percent: 1}", "zeros unless crystal.mosaic.model is gaussian"),
        ("beam={wavelength: 1, gaussian: {bandwidth_percent: 1}, dispersion: {percent: 1, steps: 2}}", "zeros beside"),
    ],
)
def test_what_is_refused(override: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        setup(override)
    assert said in str(caught.value)


def test_one_spread_is_a_covariance_alike_in_all_directions() -> None:
    one = image(SMEARED % "spread_deg: 0.4")
    assert one.max() > 100
    assert np.array_equal(one, image(SMEARED % "covariance_deg2: [0.16, 0.16, 0.16, 0, 0, 0]"))
    assert not np.allclose(one, image(SMEARED % "covariance_deg2: [0.16, 0.16, 0.3, 0, 0, 0]"))
    assert not np.allclose(one, image(SMEARED % "spread_deg: 0.4", "beam.gaussian.bandwidth_percent=1"))


def test_free_parameters_need_something_to_start_from() -> None:
    needs: dict[str, Any] = {
        "divergence": "beam.divergence above 0",
        "dispersion": "beam.dispersion",
        "thickness": "detector.thickness.um above 0",
        "attenuation": "detector.thickness.um above 0",
        "water": "background.water_um above 0",
    }
    for name, needed in needs.items():
        config = parse_config(PLAIN, "config.yaml", Path().absolute(), [f"refinement.free=[{name}]"])
        with pytest.raises(InputError, match=needed):
            build_space(config, build_model(config))


def test_gaussian_mosaics_refuse_what_they_do_not_do() -> None:
    for override, said in (("dtype=float32", "float64 with"), ("compile=true", "auto or false with")):
        with pytest.raises(InputError, match=said):
            setup(SMEARED % "spread_deg: 0.1", override)


def test_overlapping_reflections_are_noted_before_they_are_refused() -> None:
    assert not any("overlap" in note for note in setup(SMEARED % "spread_deg: 0.4").notes)
    assert any("photons between them are missing" in note for note in setup(SMEARED % "spread_deg: 1.5").notes)


def test_sharp_spots_determine_no_cell() -> None:
    config = parse_config(PLAIN, "config.yaml", Path().absolute(), ["crystal.shape=tophat"])
    assert model_image(build_model(config)).max() > 0
    with pytest.raises(InputError, match=r"cell and orientation cannot be refined with crystal\.shape tophat"):
        build_space(config, build_model(config))


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("spectrum", "12398 1", "within a factor of 2"),
        ("sources", "-10 0 0 1 1.0", "within a factor of 2"),
        ("sources", "10 0 0", "a source lies where the beam goes to; accepted: places x y z from where it comes"),
    ],
)
def test_beams_that_cannot_be_meant(key: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "beam.txt").write_text(text)
    with pytest.raises(InputError, match=r"beam\.txt") as caught:
        setup(f"beam.{key}=beam.txt", directory=tmp_path)
    assert said in str(caught.value)


def test_layers_beyond_the_sensor_leave_its_thickness() -> None:
    thick = "detector.thickness={um: 500, attenuation_um: 300, steps: 2}"
    sensor = setup(thick, "compatibility=[layers_beyond_sensor]").experiment.detector.sensor
    assert sensor is not None
    assert float(sensor.thickness) == 500
    assert sensor.depths.tolist() == [0, 0.5]
    inside = setup(thick).experiment.detector.sensor
    assert inside is not None
    assert inside.depths.tolist() == [0, 0.25]


def test_memory_goes_by_points_and_not_by_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rays and sub-pixels: what is asked for at once stays within a tile."""
    asked = []
    photons = forward.expected_photons

    def counted(crystal: Any, experiment: Any, pixels: Any, *more: Any) -> torch.Tensor:
        asked.append(len(pixels) * forward.points_per_pixel(crystal, experiment))
        return photons(crystal, experiment, pixels, *more)

    monkeypatch.setattr(forward, "expected_photons", counted)
    rays = "beam.dispersion={percent: 2, steps: 9}", "detector.oversample=3"
    for overrides in (rays, (SMEARED % "spread_deg: 0.2", "crystal.scan={osc: 1, steps: 9}")):
        built = setup(*overrides)
        forward.expected_image(built.crystal, built.experiment, tile=2000)
        assert 1000 < max(asked) <= 2000
        asked.clear()
