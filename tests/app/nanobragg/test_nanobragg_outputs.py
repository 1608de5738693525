"""The command: its files, what it prints, its exit codes."""

import re
from pathlib import Path

import fabio
import numpy as np
import pytest

from refine.app.main import main
from refine.app.nanobragg.image import simulate
from refine.app.nanobragg.options import OPTIONS
from refine.app.nanobragg.outputs import header, noisy_counts, scaled_counts, shortest, statistics
from refine.app.nanobragg.resolve import resolve
from refine.io.images import read_image


def split(words: str) -> list[str]:
    return words.split()


LINE = split(
    "-cell 60 50 40 80 95 105 -misset 3 4 5 -N 5 -default_F 100 -lambda 0.9768123456789012 -distance 61.2345678901 "
    "-pixel 0.3 -detpixels_x 40 -detpixels_y 30 -oversample 1 -detector_rotx 3.3 -phi 10.1 -osc 0.3 -seed 4"
)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["nanobragg", *LINE]) == 0
    return tmp_path


def test_files_have_nanobraggs_names(written: Path) -> None:
    assert {p.name for p in written.iterdir()} == {"floatimage.bin", "intimage.img", "noiseimage.img", "image.pgm"}


def test_floats_are_the_image(written: Path) -> None:
    values = np.fromfile(written / "floatimage.bin", dtype="<f4").reshape(30, 40)
    assert np.array_equal(values, simulate(resolve(LINE, written)).values)


@pytest.mark.parametrize("name", ["intimage.img", "noiseimage.img"])
def test_smv_opens_in_fabio_in_full_precision(name: str, written: Path) -> None:
    settings = resolve(LINE, written)
    image = simulate(settings)
    found = statistics(image, settings)
    expected = {
        "intimage.img": scaled_counts(image, settings, 55000 / found.maximum),
        "noiseimage.img": noisy_counts(image, settings).counts,
    }[name]
    with fabio.open(written / name) as opened:
        assert np.array_equal(opened.data, expected)
        read = dict(opened.header)
    assert np.array_equal(read_image(written / name).values, expected)
    numbers = {
        "WAVELENGTH": settings.beam.wavelength, "DISTANCE": settings.detector.distance,
        "BEAM_CENTER_X": settings.detector.header_beam[0], "BEAM_CENTER_Y": settings.detector.header_beam[1],
        "XDS_ORGX": settings.detector.org[0], "PHI": settings.scan.phi0, "OSC_RANGE": settings.scan.osc,
        "CLOSE_DISTANCE": settings.detector.close_distance, "PIXEL_SIZE": settings.detector.pixel_size,
    }  # fmt: skip
    assert {key: float(read[key]) for key in numbers} == numbers
    assert (read["SIZE1"], read["SIZE2"], read["BEAMLINE"]) == ("40", "30", "fake")
    assert header(settings).keys() < read.keys() | {"DIALS_ORIGIN"}


def test_header_is_of_512_bytes_where_that_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = "-cell 60 -N 5 -default_F 100 -detpixels 16 -pixel 0.5 -xds -distance 64 -oversample 1 -nonoise -nopgm"
    assert main(["nanobragg", *words.split()]) == 0
    content = (tmp_path / "intimage.img").read_bytes()
    assert content.startswith(b"{\nHEADER_BYTES=512;\nDIM=2;\nBYTE_ORDER=little_endian;\nTYPE=unsigned_short;\n")
    assert len(content) == 512 + 2 * 16 * 16
    assert {p.name for p in tmp_path.iterdir()} == {"floatimage.bin", "intimage.img"}


def test_a_written_image_sets_the_detector_again(written: Path) -> None:
    """Through -img: distances, wavelength, size and beam centre as they were."""
    read = resolve([*LINE[:15], "-img", "intimage.img", "-detector_rotx", "3.3"], written)
    first = resolve(LINE, written)
    assert read.beam.wavelength == pytest.approx(first.beam.wavelength, rel=1e-15)
    assert read.detector.size == first.detector.size
    assert read.detector.header_beam == pytest.approx(first.detector.header_beam, rel=1e-14)
    assert read.detector.close_distance == pytest.approx(first.detector.close_distance, rel=1e-13)
    assert (read.scan.phi0, read.scan.osc) == pytest.approx((first.scan.phi0, first.scan.osc), rel=1e-14)


def test_pgm_has_its_scale(written: Path) -> None:
    content = (written / "image.pgm").read_bytes()
    match = re.match(rb"P5\n40 30\n# pixels scaled by (\S+)\n255\n", content)
    assert match
    image = simulate(resolve(LINE, written)).values
    grey = np.frombuffer(content[match.end() :], dtype=np.uint8).reshape(30, 40)
    scale = float(match[1])
    assert np.abs(grey - np.clip(image * scale, 0, 255)).max() <= 1.0 + 1e-3


def test_noise_is_poissons_and_the_seeds(tmp_path: Path) -> None:
    words = split("-cell 60 -N 1 -default_F 3000 -nopolar -detpixels 64 -oversample 1 -adc 10")
    first, again, other = (resolve([*words, "-seed", seed], tmp_path) for seed in ("1", "1", "2"))
    image = simulate(first)
    counts = noisy_counts(image, first).counts
    assert np.array_equal(counts, noisy_counts(image, again).counts)
    assert not np.array_equal(counts, noisy_counts(image, other).counts)
    residual = (counts - 10.0 - image.values) / np.sqrt(image.values)
    assert abs(residual.mean()) < 0.06
    assert residual.std() == pytest.approx(1, abs=0.04)


def test_noise_of_very_many_photons_is_normal_and_cut(tmp_path: Path) -> None:
    settings = resolve(split("-cell 60 -N 1 -default_F 3e6 -detpixels 8 -oversample 1 -seed 1"), tmp_path)
    noisy = noisy_counts(simulate(settings), settings)
    assert noisy.overloads == 64
    assert (noisy.counts == 65535).all()


def test_scales_offset_and_region(tmp_path: Path) -> None:
    words = [*LINE, "-roi", "5", "9", "3", "7", "-scale", "2", "-adc", "7"]
    settings = resolve(words, tmp_path)
    image = simulate(settings)
    counts = scaled_counts(image, settings, 2.0)
    assert settings.output.int_scale == 2.0
    assert np.array_equal(counts[3:8, 5:10], np.floor(image.values[3:8, 5:10] * 2.0 + 7.5).astype(int))
    assert image.computed.sum() == np.count_nonzero(image.values) == np.count_nonzero(counts) == 25


def test_summary_has_nanobraggs_lines(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nanobragg", *LINE, "-noprogress"]) == 0
    said = capsys.readouterr().out
    for line in ("Unit Cell: 60 50 40 79.97", "volume = ", "distance=0.06", "Xbeam=", "Fclose=", "max_I = ", "mean= "):
        assert f"\n{line}" in f"\n{said}"
    assert "% done" not in said


def test_printout_shows_the_pixel(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nanobragg", *LINE, "-printout_pixel", "7", "21"]) == 0
    said = capsys.readouterr().out
    value = simulate(resolve(LINE, written)).values[21, 7]
    assert re.findall(r"^ *(\d+) +(\d+) : stol", said, re.MULTILINE) == [("7", "21")]
    assert float(re.findall(r"pixel +(\S+)", said)[-1]) == pytest.approx(float(value), rel=1e-9)


def test_printout_has_the_signs_and_units_of_nanobragg(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sin(theta) / lambda in 1/m; the lattice amplitude sin(pi N h) / sin(pi h) of each axis, at h, not at its rest."""
    words = [*LINE, "-N", "2", "-Nb", "4", "-phi", "0", "-osc", "0", "-phisteps", "1", "-printout"]
    assert main(["nanobragg", *words]) == 0
    said = capsys.readouterr().out
    indices = np.array(re.findall(r"^hkl= (\S+) (\S+) (\S+) ", said, re.MULTILINE), dtype=float)
    printed = np.array(re.findall(r"F_latt=(\S+)", said), dtype=float)
    expected = np.prod(np.sin(np.pi * indices * (2, 4, 2)) / np.sin(np.pi * indices), axis=1)
    assert (expected > 1).any()
    assert (expected < -1).any()
    np.testing.assert_allclose(printed, expected, atol=1e-3)
    stol = np.array(re.findall(r"stol = (\S+) or (\S+)$", said, re.MULTILINE), dtype=float)
    np.testing.assert_allclose(stol[:, 0], stol[:, 1] * 1e10, rtol=2e-5)


def test_a_list_that_ends_early_is_told(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (written / "some.hkl").write_text("0 0 0 3\n1 1 1 4\n# the rest\n2 2 2 5\n")
    assert main(["nanobragg", *LINE, "-hkl", "some.hkl"]) == 0
    assert "some.hkl is read up to line 3, where '# the rest' is no h k l F" in capsys.readouterr().err


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nanobragg", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for option in OPTIONS for name in option.names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-cel 60", "did you mean -cell"),
        ("-N 5", "no unit cell"),
        ("-cell 60 -default_F 1 -hkl none.hkl", "-hkl"),
        ("-cell 60 -N 5 -default_F 1 -detpixels 4 -floatfile none/out.bin", "none/out.bin"),
    ],
)
def test_wrong_input_is_told_in_a_line(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["nanobragg", *words.split()]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("refine: ")
    assert message in said


@pytest.mark.parametrize("value", [1.0, 0.1, 19.349999999999998, 1e-17, 60, 123456789.123])
def test_shortest_gives_the_number_back(value: float) -> None:
    assert float(shortest(value)) == value
