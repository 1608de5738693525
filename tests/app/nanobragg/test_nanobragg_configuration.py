"""Command lines as configurations: `refine simulate` against `refine nanobragg` without defects, two programs of the
same physics."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_nanobragg_golden import CASES, CORRECTED, folder, stored

from refine.app.build import build_model
from refine.app.load import dump_config, load_config, parse_config
from refine.app.nanobragg.command import nanobragg
from refine.app.nanobragg.configuration import configuration
from refine.app.nanobragg.defects import Defects
from refine.app.nanobragg.image import simulate
from refine.app.nanobragg.resolve import resolve
from refine.app.simulate import model_image
from refine.errors import InputError
from refine.io.results import write_yaml

__all__ = ["folder"]  # a fixture

FUDGED = {"round_xtal", "tophat_spots"}
TOLERANCE = 1e-6  # of the maximum; nanoBragg's images are float32
COMPATIBILITY = {"oversample_thick": ["corner_factors", "layers_beyond_sensor"]}


def without_fudge(arguments: list[str]) -> list[str]:
    place = arguments.index("-fudge")
    return [*arguments[:place], *arguments[place + 2 :]]


def simulated(config: dict[str, Any], directory: Path) -> np.ndarray:
    """By way of the file that a user would have."""
    write_yaml(directory / "config.yaml", config)
    loaded = parse_config((directory / "config.yaml").read_text(), "config.yaml", directory)
    assert parse_config(dump_config(loaded), "again", directory) == loaded
    return model_image(build_model(loaded))


def deviation(found: np.ndarray, reference: np.ndarray) -> float:
    assert reference.max() > 0
    return float(np.abs(found - reference).max() / reference.max())


@pytest.mark.parametrize("name", CASES)
def test_configuration_makes_the_same_image(name: str, folder: Path, tmp_path: Path) -> None:
    arguments = without_fudge(CASES[name]["args"]) if name in FUDGED else CASES[name]["args"]
    settings = resolve(arguments, folder, Defects.none())
    reference = simulate(settings).values.astype(float)
    if settings.detector.point_pixel:  # steradians, not 1/m^2
        reference = reference * (settings.detector.pixel_size * 1e-3) ** 2
    assert deviation(simulated(configuration(settings), tmp_path), reference) < TOLERANCE


@pytest.mark.parametrize("name", CORRECTED)
def test_configuration_makes_the_corrected_image(name: str, folder: Path, tmp_path: Path) -> None:
    as_it_stood = replace(Defects.none(), triclinic_c_star=True)  # the crystal is not what was corrected
    config = configuration(resolve(CASES[name]["args"], folder, as_it_stood))
    config["compatibility"] = COMPATIBILITY.get(name, [])
    assert deviation(simulated(config, tmp_path), stored(name)["image_fixed"]) < TOLERANCE


@pytest.mark.parametrize("name", sorted(FUDGED))
def test_what_a_configuration_cannot_say(name: str, folder: Path) -> None:
    with pytest.raises(InputError, match="-fudge"):
        configuration(resolve(CASES[name]["args"], folder, Defects.none()))


def test_the_option_writes_it_instead_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "-cell 60 60 60 90 90 90 -N 5 -default_F 100 -distance 60 -pixel 0.4 -detpixels 64 -oversample 1"
    assert nanobragg([*line.split(), "-config", "my.yaml"], tmp_path) == 0
    said = capsys.readouterr().out
    assert "refine simulate" in said
    assert "no image was written" in said
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]
    found = model_image(build_model(load_config(tmp_path / "my.yaml")))
    assert deviation(found, simulate(resolve(line.split(), tmp_path)).values) < TOLERANCE


def test_what_no_configuration_accepts_is_not_written(tmp_path: Path) -> None:
    line = "-cell 60 60 60 90 90 90 -N 5 -default_F 100 -detpixels 64 -fdet_vector 0 0.1 1 -sdet_vector 0 -1 0"
    with pytest.raises(InputError, match=r"-config: .*at right angles"):
        nanobragg([*line.split(), "-config", "my.yaml"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_numbers_are_written_as_they_were_given(tmp_path: Path) -> None:
    line = "-cell 31 36 41 90 97 90 -N 5 -default_F 100 -distance 60 -pixel 0.4 -detpixels 64 -lambda 0.98"
    content = configuration(resolve(line.split(), tmp_path, Defects.none()))
    assert content["crystal"]["cell"] == [31, 36, 41, 90, 97, 90]
    assert (content["beam"]["wavelength"], content["detector"]["distance"]) == (0.98, 60)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-osc 1 -phistep 0.3", "phi steps that do not add up"),
        ("-hdivrange 3 -hdivstep 0.7", "a divergence or dispersion whose steps"),
        ("-detector_abs inf -detector_thick 300", "absorbs nothing"),
    ],
)
def test_other_things_that_a_configuration_cannot_say(options: str, said: str, tmp_path: Path) -> None:
    line = f"-cell 60 60 60 90 90 90 -N 5 -default_F 100 -detpixels 64 {options}"
    with pytest.raises(InputError, match=said):
        configuration(resolve(line.split(), tmp_path, Defects.none()))
