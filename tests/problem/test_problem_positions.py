"""Spots several widths from where the model has them: their positions lead back."""

from dataclasses import replace

import torch
from builders import f64, largest, relative
from stills import D_MIN, counts, model, shoeboxes

from refine.model.prediction import Predicted, predict_all
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.problem.placement import displacement
from refine.problem.positions import MISSED, Positions, brightest, positions
from refine.problem.restraints import Restraint
from refine.problem.shoebox import Shoeboxes
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.loop import solve

TRUTH = model()
IMAGE = counts(TRUTH)
FREE = ("cell", "orientation", "beam_center")


def off(pixels: float) -> Model:
    """The crystal with a detector whose beam centre is so many pixels off along fast, half as many along slow."""
    space = ParameterSpace.of(*TRUTH, ("beam_center",))
    return space.to_model(space.to_z({"beam_center": space.physical(space.zero()) + f64(pixels, -pixels / 2)}))


def bright(shown: Model) -> Shoeboxes:
    boxes = Shoeboxes.place(shown, IMAGE, predict_all(*shown, D_MIN), 15)
    return boxes.chosen(boxes.observed.amax(1) > 30)


def problem(shown: Model, *restraints: Restraint) -> Positions:
    return positions(ParameterSpace.of(*shown, FREE), bright(shown), restraints)


def test_the_brightest_place_is_the_spots() -> None:
    boxes = shoeboxes(TRUTH, IMAGE)
    boxes = boxes.chosen(boxes.observed.amax(1) > 100)
    away = brightest(boxes) - torch.stack([boxes.spots.fast, boxes.spots.slow], 1)
    assert len(boxes) > 30
    assert float(away.abs().amax(1).median()) < 0.6


def test_a_beam_centre_four_pixels_off_is_found_again() -> None:
    start, truth = off(4.0), predict_all(*TRUTH, D_MIN)
    space = ParameterSpace.of(*start, FREE)
    z = space.zero()
    for _ in range(4):
        z = solve(positions(space, bright(space.to_model(z))), LevenbergMarquardt(), z).z
    assert float(displacement(truth, start).nanmedian()) > 4
    assert float(displacement(truth, space.to_model(z)).nanquantile(0.9)) < 0.5


def test_its_gradient_is_that_of_its_loss() -> None:
    space = ParameterSpace.of(*TRUTH, FREE)
    known = Restraint("cell", TRUTH.crystal.cell + 0.1, torch.full_like(TRUTH.crystal.cell, 0.05))
    found = problem(off(1.0), known)
    z = 0.01 * torch.randn(space.size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    value, gradient = found.loss_and_gradient(z)
    steps = 1e-5 * torch.eye(len(z), dtype=torch.float64)
    slopes = torch.stack([(found.loss(z + step) - found.loss(z - step)) / 2e-5 for step in steps])
    assert relative(found.loss(z), value) < 1e-12
    assert largest(slopes - gradient) < 1e-5 * largest(gradient)
    assert relative(found.curvature_product(z, gradient), found.quadratic(z).curvature @ gradient) < 1e-12


def test_a_spot_that_leaves_the_detector_explains_nothing() -> None:
    found = problem(TRUTH)
    away = replace(found, spots=Predicted(found.spots.indices + 40, *found.spots[1:]))
    assert float(away.loss(found.space.zero())) > 10 * float(found.loss(found.space.zero()))
    assert not away.quadratic(found.space.zero()).curvature.any()
    assert MISSED > 10


def test_limits_are_kept() -> None:
    found = problem(TRUTH)
    z = found.space.zero()
    z[0] = torch.inf
    assert torch.isinf(found.loss(z))
    assert torch.isinf(found.quadratic(z).value)
