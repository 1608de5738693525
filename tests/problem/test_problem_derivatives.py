"""The pieces of the derivative checks, on functions whose derivatives are known."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import crystal, experiment, f64, largest, relative, rich_crystal, rich_experiment
from torch import Tensor

from refine.model.crystal import Crystal
from refine.model.experiment import Experiment
from refine.model.forward import expected_photons, miller_indices
from refine.model.pixels import Pixels
from refine.model.structure_factors import StructureFactors
from refine.parameters.space import ParameterSpace
from refine.physics.interference import interference
from refine.problem import derivatives
from refine.problem.derivatives import (
    FIRST_ERROR,
    LARGEST_CHANGE,
    SECOND_ERROR,
    Direction,
    Findings,
    ModelImage,
    Row,
    check_derivatives,
    directions,
)
from refine.problem.jumps import JUMP_MARGIN, choose_pixels

CUBIC = (40.0, 40.0, 40.0, 90.0, 90.0, 90.0)
HEXAGONAL = (38.0, 38.0, 52.0, 90.0, 90.0, 120.0)
MONOCLINIC = (36.0, 44.0, 50.0, 90.0, 103.0, 90.0)
SMALL = ("scale", "b_factor")


def space_of(sample: Crystal, free: tuple[str, ...], instrument: Experiment | None = None) -> ParameterSpace:
    return ParameterSpace.of(sample, instrument or rich_experiment(), free, plane_background=True)


def whole(space: ParameterSpace) -> Pixels:
    panel = space.start.experiment.detector
    return Pixels.whole(panel.size, panel.distance)


# Directions.


@pytest.mark.parametrize(
    ("cell", "group", "labels"),
    [
        (CUBIC, "P 2 3", ["a"]),
        (HEXAGONAL, "P 6", ["a", "c"]),
        (MONOCLINIC, "P 1 2 1", ["a", "b", "c", "beta"]),
        (CUBIC, "P 1", ["a", "b", "c", "alpha", "beta", "gamma"]),
    ],
)
def test_tied_values_share_a_direction(cell: tuple[float, ...], group: str, labels: list[str]) -> None:
    space = space_of(crystal(cell, space_group=group), ("scale", "cell", "distance"))
    found = directions(space)
    assert [direction.label for direction in found] == ["scale", *labels, "distance"]
    assert {direction.parameter for direction in found} == {"scale", "cell", "distance"}


@pytest.mark.parametrize(
    ("cell", "group", "tied"), [(CUBIC, "P 2 3", "abc"), (HEXAGONAL, "P 6", "ab"), (MONOCLINIC, "P 1 2 1", "")]
)
def test_a_direction_moves_its_own_value_alone(cell: tuple[float, ...], group: str, tied: str) -> None:
    space = space_of(crystal(cell, space_group=group), ("cell", "orientation", "wavelength"))
    rates = torch.func.jacfwd(space.physical)(space.zero())
    for direction in directions(space):
        assert float(torch.linalg.vector_norm(direction.along)) == pytest.approx(1)
        change = dict(zip(space.names, (rates @ direction.along).tolist(), strict=True))
        assert change[direction.label] == pytest.approx(direction.per_unit, rel=1e-9)
        moved = {name for name, rate in change.items() if abs(rate) > 1e-9 * direction.per_unit}
        assert moved == set(tied) if direction.label in tied else moved == {direction.label}


def test_a_direction_carries_value_and_unit() -> None:
    space = space_of(rich_crystal(), ("cells", "distance", "background"))
    found = {direction.label: direction for direction in directions(space)}
    assert (found["N_b"].value, found["N_b"].unit) == (6.0, "unit cells")
    assert (found["distance"].value, found["distance"].unit) == (45.0, "mm")
    assert found["distance"].per_unit == pytest.approx(0.045)
    assert found["background_slope_fast"].unit == "photons/pixel^2"


# Differences and remainders.


@pytest.mark.parametrize("function", [torch.sin, torch.exp, lambda x: 1 / (2 + x)])
def test_extrapolated_difference_is_of_sixth_order(function: Callable[[Tensor], Tensor]) -> None:
    exact = float(torch.func.grad(function)(f64(0.3)))

    def error(step: float) -> float:
        return abs(float(derivatives._extrapolated(lambda h: function(f64(0.3 + h)), step)) - exact)

    assert math.log2(error(0.4) / error(0.2)) == pytest.approx(6, abs=0.3)
    assert error(0.02) < 1e-11


@pytest.mark.parametrize("degree", range(6))
def test_extrapolated_difference_is_exact_for_polynomials(degree: int) -> None:
    found = derivatives._extrapolated(lambda h: f64(1.5 + h) ** degree, 0.5)
    assert float(found) == pytest.approx(degree * 1.5 ** (degree - 1), rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_remainder_order_is_the_power(order: int) -> None:
    found = derivatives._remainder_order(lambda t: f64(3.0, -2.0) * t**order, f64(1.0, 1.0), 0.5)
    assert found == pytest.approx(order, rel=1e-12)


def test_remainder_order_is_the_lowest_power_there_is() -> None:
    found = derivatives._remainder_order(lambda t: f64([1.0]) * (t**2 + 0.1 * t**3), f64([1.0]), 0.5)
    assert found == pytest.approx(2, abs=0.01)


def test_remainder_that_is_rounding_has_no_order() -> None:
    noise = torch.Generator().manual_seed(1)
    for size in (0.0, 1e-14):
        found = derivatives._remainder_order(
            lambda t, size=size: size * torch.rand(4, generator=noise, dtype=torch.float64), torch.ones(4), 0.5
        )
        assert found is None


def image_of(free: tuple[str, ...]) -> ModelImage:
    space = space_of(rich_crystal(), free)
    return ModelImage(space, choose_pixels(space, whole(space)), interference)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_a_wrong_slope_cannot_choose_the_step(factor: float) -> None:
    """Nor lead out of the parameters' limits."""
    image = image_of(("cell", "wavelength"))
    photons = image(image.space.zero())
    for direction in directions(image.space):
        _, slope = torch.func.jvp(image, (image.space.zero(),), (direction.along,))
        reach = derivatives._reach(image, direction.along, photons, factor * slope)
        changed = [image(t * direction.along) - photons for t in (reach, -reach)]
        size = max(float(torch.linalg.vector_norm(change)) for change in changed)
        assert 0.2 < size / (LARGEST_CHANGE * float(torch.linalg.vector_norm(photons))) < 2.1
        assert image.space.admits(reach * direction.along)


def test_a_value_without_effect_keeps_its_limits() -> None:
    """Nothing changes with the cell where no reflection scatters: the step grows until the limits stop it."""
    dark = replace(rich_experiment(), structure_factors=StructureFactors.uniform(f64(0.0)))
    space = space_of(rich_crystal(), ("cell",), dark)
    image = ModelImage(space, Pixels(f64(3.0, 8.0), f64(5.0, 9.0)), interference)
    along = directions(space)[0].along
    reach = derivatives._reach(image, along, image(space.zero()), torch.zeros(2, dtype=torch.float64))
    assert space.admits(reach * along)
    assert not space.admits(2 * reach * along)


def test_a_value_that_nothing_depends_on_is_named() -> None:
    def deaf(*args: Any) -> Tensor:
        return interference(*(tensor.detach() for tensor in args[:4]), *args[4:])

    space = space_of(rich_crystal(), ("cells",))
    found = check_derivatives(space, whole(space), deaf)
    assert [row.direction.label for row in found.rows] == ["N_a", "N_b", "N_c"]
    assert all(any(text.startswith("no effect") for text in row.failures) for row in found.rows)


# Pixels.


def test_chosen_pixels_keep_away_from_jumps_and_hold_peaks_and_centres() -> None:
    space = space_of(rich_crystal("square"), ("cell",))
    everything = whole(space)
    model = space.start
    indices = miller_indices(*model, everything)
    delta = (indices - indices.round()).abs()
    assert float((delta.amax((0, 1, 2)) > 0.5 - JUMP_MARGIN).double().mean()) > 0.1
    chosen = choose_pixels(space, everything)
    assert 10 < len(chosen) <= 24
    places = (chosen.slow * 20 + chosen.fast).long()
    assert len(set(places.tolist())) == len(places)
    kept = delta[..., places]
    assert float(kept.max()) < 0.5 - JUMP_MARGIN
    photons = expected_photons(*model, everything) - 2
    safe = delta.amax((0, 1, 2)) < 0.5 - JUMP_MARGIN
    assert float(photons[places].max()) == float(photons[safe].max())
    bright = safe & (photons > 1e-6 * photons.max())
    for axis in range(3):
        assert float(kept[axis].min()) == float(delta[axis][..., bright].min())


def test_pixels_without_intensity_are_not_chosen() -> None:
    dark = replace(experiment(size=(8, 8)), structure_factors=StructureFactors.uniform(f64(0.0)))
    space = space_of(crystal(), ("cell",), dark)
    assert len(choose_pixels(space, whole(space))) == 0


def test_pixels_given_are_those_checked() -> None:
    space = space_of(rich_crystal(), SMALL)
    chosen = choose_pixels(space, whole(space), most=4)
    assert check_derivatives(space, whole(space), order=1, pixels=chosen).pixels == len(chosen)


# Findings.

DIRECTION = Direction("cell", "a", "Å", 40.0, f64([1.0]), 0.04)
GOOD = Row(DIRECTION, 1.0, FIRST_ERROR / 2, SECOND_ERROR / 2, 2.0, 3.0, ())


def test_findings_pass_only_where_something_was_checked_and_all_holds() -> None:
    assert Findings(5, (GOOD,), ()).passed
    assert not Findings(5, (), ()).passed
    assert not Findings(5, (GOOD,), ("vmap failed",)).passed
    assert not Findings(5, (GOOD, replace(GOOD, failures=("wrong",))), ()).passed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"first_slope": None, "second_slope": None, "second_error": None}, []),
        ({"first_slope": 2.09, "second_slope": 2.86}, []),
        ({"first_error": 2 * FIRST_ERROR}, ["first derivative: off by"]),
        ({"first_error": math.nan}, ["first derivative: off by"]),
        ({"first_slope": 1.0}, ["first derivative: Taylor remainder of order 1.00"]),
        ({"first_slope": 2.11}, ["first derivative: Taylor remainder of order 2.11"]),
        ({"second_error": math.inf}, ["second derivative: off by"]),
        ({"second_slope": 2.0}, ["second derivative: Taylor remainder of order 2.00"]),
        (
            {"first_slope": math.nan, "second_slope": math.nan},
            ["first derivative: Taylor", "second derivative: Taylor"],
        ),
    ],
)
def test_verdicts(change: dict[str, float | None], words: list[str]) -> None:
    found = list(derivatives._verdicts(replace(GOOD, **change)))
    assert len(found) == len(words)
    assert all(text.startswith(start) for text, start in zip(found, words, strict=True))


def test_first_order_alone_leaves_the_second_out(monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_of(rich_crystal(), SMALL)
    monkeypatch.setattr(torch.autograd, "gradgradcheck", lambda *_, **__: pytest.fail("second order"))
    found = check_derivatives(space, whole(space), order=1)
    assert found.passed
    for row in found.rows:
        assert row.second_error is None
        assert row.second_slope is None
        assert row.first_slope == pytest.approx(2, abs=0.1)


def test_a_linear_parameter_has_no_remainder() -> None:
    space = space_of(rich_crystal(), ("scale", "background"))
    found = check_derivatives(space, whole(space))
    assert found.passed
    rows = {row.direction.label: row for row in found.rows}
    for label in ("background", "background_slope_fast", "background_slope_slow"):
        assert rows[label].first_slope is None
        assert rows[label].second_slope is None
    assert rows["scale"].first_slope == pytest.approx(2, abs=0.1)
    assert rows["scale"].second_slope == pytest.approx(3, abs=0.15)


def test_column_norm_is_in_photons_a_unit() -> None:
    space = space_of(rich_crystal(), ("scale", "b_factor"))
    found = check_derivatives(space, whole(space), order=1)
    chosen = choose_pixels(space, whole(space))
    photons = expected_photons(*space.start, chosen) - 2  # at a scale of 1 this is the derivative by the scale
    rows = {row.direction.label: row for row in found.rows}
    assert rows["scale"].column_norm == pytest.approx(float(torch.linalg.vector_norm(photons)), rel=1e-9)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_second_derivatives_along_all_directions_are_those_along_each() -> None:
    image = image_of(("cell", "cells"))
    found = directions(image.space)
    zero = image.space.zero()
    hessian = torch.func.jacfwd(torch.func.jacfwd(image))(zero)
    for direction, bend in zip(found, derivatives._bends(image, found), strict=True):
        wanted = hessian @ direction.along @ direction.along
        assert largest(wanted) > 0
        assert relative(bend, wanted) < 1e-9


def test_a_derivative_that_cannot_be_computed_is_a_failure() -> None:
    class WithoutRules(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Tensor:
            return interference(*args)

    space = space_of(rich_crystal(), ("cells",))
    found = check_derivatives(space, whole(space), WithoutRules.apply)
    assert not found.passed
    assert not found.rows
    assert found.failures[0].startswith("the derivatives cannot be computed: ")
