"""Which free parameters an image can tell apart."""

from dataclasses import replace

import pytest
import torch
from builders import crystal, experiment, f64

from refine.errors import InputError
from refine.model.forward import expected_image
from refine.model.observation import Observation
from refine.model.structure_factors import StructureFactors
from refine.parameters.space import ParameterSpace
from refine.problem.identifiability import (
    ILL_CONDITIONED,
    THINNING,
    require_determined,
    require_identifiable,
    require_refinable,
    weak_combination,
)
from refine.problem.problem import ImageProblem
from refine.problem.quadratic import spectrum

SIZE = (32, 32)
SAME = [
    ("mosflm", ("twotheta", "detector_rotations.z")),
    ("mosflm", ("twotheta", "detector_rotations")),
    ("xds", ("twotheta", "detector_rotations.x")),
    ("dials", ("twotheta", "detector_rotations.y")),
    ("dials", ("distance", "beam_center", "detector_rotations", "twotheta")),
]
DIFFERENT = [
    ("mosflm", ("twotheta", "detector_rotations.x")),
    ("mosflm", ("detector_rotations",)),
    ("mosflm", ("distance", "twotheta")),
    ("mosflm", ("beam_center", "detector_rotations")),
    ("mosflm", ("distance", "beam_center")),
    ("mosflm", ("distance", "beam_center", "detector_rotations")),
    ("xds", ("twotheta", "detector_rotations.z")),
    ("xds", ("distance", "detector_rotations")),
    ("dials", ("twotheta", "detector_rotations.x")),
    ("xds", ("cell", "orientation", "scale", "distance")),
]


def space_of(convention: str, free: tuple[str, ...], corner: bool = False) -> ParameterSpace:
    instrument = experiment(convention, SIZE)
    if corner:
        instrument = replace(instrument, detector=replace(instrument.detector, beam_center=f64(0.0, 0.0)))
    return ParameterSpace.of(crystal(), instrument, free)


def curvature_of(space: ParameterSpace) -> torch.Tensor:
    image = expected_image(*space.start)
    return ImageProblem.of(space, Observation.of(image)).quadratic(space.zero()).curvature


@pytest.mark.parametrize(("convention", "free"), SAME)
def test_same_motion_is_refused_and_named(convention: str, free: tuple[str, ...]) -> None:
    space = space_of(convention, free)
    with pytest.raises(InputError, match="twotheta") as caught:
        require_identifiable(space)
    assert "detector_rotations" in str(caught.value)
    assert spectrum(curvature_of(space)).condition > 1e12


@pytest.mark.parametrize("corner", [False, True])
@pytest.mark.parametrize(("convention", "free"), DIFFERENT)
def test_what_an_image_tells_apart_is_accepted(convention: str, free: tuple[str, ...], corner: bool) -> None:
    space = space_of(convention, free, corner)
    if corner:
        assert spectrum(curvature_of(space)).condition < 1e6
    require_identifiable(space)


def test_parameters_without_effect_are_refused() -> None:
    space = space_of("mosflm", ("cell", "scale", "background"))
    require_determined(space, curvature_of(space))
    dark = replace(space.start.experiment, structure_factors=StructureFactors.uniform(f64(0.0)))
    idle = ParameterSpace.of(space.start.crystal, dark, ("cell", "scale", "background"))
    with pytest.raises(InputError, match="no effect") as caught:
        require_determined(idle, curvature_of(idle))
    assert "cell, scale" in str(caught.value)
    assert "background" not in str(caught.value)


def test_a_turn_of_crystal_and_detector_together_is_refused_in_unpolarised_light() -> None:
    free = ("orientation", "scale", "detector_rotations.x")
    polarised = space_of("mosflm", free)
    require_determined(polarised, curvature_of(polarised))
    beam = replace(polarised.start.experiment.beam, polarization=None)
    even = ParameterSpace.of(polarised.start.crystal, replace(polarised.start.experiment, beam=beam), free)
    with pytest.raises(InputError, match=r"orientation, detector_rotations\.x together"):
        require_determined(even, curvature_of(even))


def test_where_a_part_of_the_pixels_is_too_little_all_of_them_are_looked_at() -> None:
    space = space_of("mosflm", ("cell", "orientation", "scale"))
    image = expected_image(*space.start)
    problem = ImageProblem.of(space, Observation.of(image))
    bright = torch.argsort(image.flatten(), descending=True)[: space.size * (THINNING - 1)]
    few = replace(problem, pixels=problem.pixels[bright])
    assert len(few.pixels[::THINNING]) < space.size
    require_refinable(few)
    with pytest.raises(InputError, match="together"):
        require_refinable(replace(few, pixels=few.pixels[: space.size - 1]))


def test_weak_combinations_are_named() -> None:
    good = space_of("mosflm", ("cell", "orientation", "scale"))
    assert weak_combination(good, curvature_of(good)) is None
    space = space_of("mosflm", ("scale", "twotheta", "detector_rotations.z"))
    text = weak_combination(space, curvature_of(space))
    assert text is not None
    assert "twotheta, detector_rotations.z" in text
    assert "scale" not in text


def test_nearly_equal_columns_are_a_warning_at_the_stated_condition() -> None:
    space = space_of("mosflm", ("scale", "b_factor"))
    for closeness, warned in ((4 / ILL_CONDITIONED, False), (1 / ILL_CONDITIONED, True)):
        off = 1 - closeness
        assert (weak_combination(space, f64([[1.0, off], [off, 1.0]])) is not None) is warned
