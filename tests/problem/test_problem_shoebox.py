"""Shoeboxes: each pixel once, backgrounds and intensities eliminated, derivatives of what is left."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from builders import f64, largest, relative, two_panels
from hypothesis import given
from hypothesis import strategies as st
from stills import D_MIN, counts, model, shoeboxes
from torch import Tensor

from refine.model.forward import paths
from refine.model.observation import Observation
from refine.model.prediction import Predicted, predict_all, spots_of
from refine.parameters.space import ParameterSpace
from refine.physics.gaussian_spots import profiles
from refine.problem import shoebox_problem
from refine.problem.noise import NOISES, choose_noise
from refine.problem.restraints import Restraint
from refine.problem.separable import Amplitudes, BoxData, BoxFit, fit_boxes
from refine.problem.shoebox import Shoeboxes
from refine.problem.shoebox_problem import ShoeboxProblem

FREE = ("cell", "orientation", "mosaic", "cells")
MOVING = ("cell", "orientation", "distance", "beam_center")
POISSON = choose_noise("poisson", 0.0)
STILL = model()
IMAGE = counts(STILL)
BOXES = shoeboxes(STILL, IMAGE)
FAINT = shoeboxes(STILL, counts(model(level=0.2, scale=2e-4)))  # many at their limits
INFINITE = float("inf")


def at(*places: tuple[float, float], panel: int = 0) -> Predicted:
    """Spots at (fast, slow)."""
    fast, slow = f64([list(place) for place in places]).T
    return Predicted(torch.zeros(len(fast), 3).double(), torch.full((len(fast),), panel), fast, slow, 0 * fast)


def numbers(boxes: Shoeboxes) -> Tensor:
    """The number (R, P) in the image of every pixel."""
    slow, fast = boxes.pixels.slow.long(), boxes.pixels.fast.long()
    return (slow * STILL.experiment.detector.size[1] + fast).reshape(boxes.use.shape)


# where boxes are


def test_every_pixel_is_in_the_box_of_its_nearest_spot() -> None:
    height, width = STILL.experiment.detector.size
    slow, fast = (torch.arange(n).double() + 0.5 for n in (height, width))
    spots, half = BOXES.spots, 5
    assert len(spots) > 100
    centres = (spots.slow, spots.fast)
    away = [line[:, None] - place for line, place in zip((slow, fast), centres, strict=True)]
    steps = [line.floor()[:, None] - place.floor() for line, place in zip((slow, fast), centres, strict=True)]
    inside = [step.abs() <= half for step in steps]
    far = (away[0] ** 2)[:, None] + (away[1] ** 2)[None]  # (slow, fast, R)
    far = torch.where(inside[0][:, None] & inside[1][None], far, torch.inf)
    least, nearest = far.flatten(0, 1).min(1)
    owner = torch.full((height * width,), -1)
    rows = torch.arange(len(BOXES))[:, None].expand_as(BOXES.use)[BOXES.use]
    used = numbers(BOXES)[BOXES.use]
    assert len(used.unique()) == len(used)
    owner[used] = rows
    assert torch.equal(owner, torch.where(torch.isfinite(least), nearest, -1))


def test_a_box_ends_at_the_edge_of_the_panel() -> None:
    boxes = Shoeboxes.place(STILL, IMAGE, at((1.2, 2.7), (179.9, 191.9), (45.0, 50.0)), 7)
    assert boxes.use.sum(1).tolist() == [5 * 6, 4 * 4, 49]
    assert boxes.observed[2].reshape(7, 7).equal(IMAGE.photons[47:54, 42:49])
    corner = boxes.use[0].reshape(7, 7)
    assert bool(corner[1:, 2:].all())
    assert boxes.observed[0].reshape(7, 7)[1:, 2:].equal(IMAGE.photons[:6, :5])


def test_pixels_that_are_not_trusted_are_not_used() -> None:
    trusted = IMAGE.trusted.clone()
    trusted[50, 45] = False
    boxes = Shoeboxes.place(STILL, replace(IMAGE, trusted=trusted), at((45.5, 50.5)), 7)
    assert (~boxes.use[0]).nonzero().tolist() == [[24]]
    assert (boxes.pixels.slow[24], boxes.pixels.fast[24]) == (50, 45)
    assert boxes.across[:, 24].tolist() == [0, 0]
    assert boxes.across[:, 0].tolist() == [-1, -1]
    assert boxes.across[:, 6].tolist() == [1, -1]


def test_equal_places_of_two_panels_are_different_pixels() -> None:
    panels = replace(STILL.experiment, detector=two_panels(STILL.experiment.detector))
    stack = torch.stack([IMAGE.photons, IMAGE.photons + 1])
    spots = Predicted(*(torch.cat(pair) for pair in zip(at((45.0, 50.0)), at((45.0, 50.0), panel=1), strict=True)))
    readout = replace(Observation.of(stack), readout_variance=f64(2.0, 3.0))
    boxes = Shoeboxes.place(STILL._replace(experiment=panels), readout, spots, 7)
    assert bool(boxes.use.all())
    assert torch.equal(boxes.observed[1], boxes.observed[0] + 1)
    assert boxes.readout[:, 0].tolist() == [2, 3]


def test_where_boxes_need_not_be_apart_a_pixel_is_in_several() -> None:
    both = [Shoeboxes.place(STILL, IMAGE, at((45.0, 50.0), (47.0, 50.0)), 7, apart) for apart in (True, False)]
    assert [int(boxes.use.sum()) for boxes in both] == [7 * 9, 2 * 49]


def test_photons_of_other_boxes_spots_are_counted_in_the_pixels_that_they_share() -> None:
    boxes = Shoeboxes.place(STILL, IMAGE, at((45.0, 50.0), (47.0, 50.0), (1.0, 100.0)), 7)
    photons = f64([[2.0], [5.0], [11.0]]).expand(3, 49)
    shared = boxes.shared(photons).reshape(3, 7, 7)
    assert shared[0].unique(dim=0).tolist() == [[0, 0, 5, 5, 5, 5, 5]]
    assert shared[1].unique(dim=0).tolist() == [[2, 2, 2, 2, 2, 0, 0]]
    assert not bool(shared[2].any())  # by itself, and partly beyond the edge


def test_what_is_beside_a_spot_is_not_taken_for_it() -> None:
    shape, data = peaks(background="constant")
    beside = shape.flip(1).flip(0) * 30
    observed = 4.0 + 50.0 * shape + beside
    known = data._replace(observed=observed, beside=beside)
    fit = fit_boxes(shape, known, POISSON, Amplitudes.unknown(len(shape), shape))
    assert relative(fit.linear, f64([[4.0, 50.0]] * len(shape))) < 1e-6
    assert relative(fit.expected, observed) < 1e-6
    assert relative(fit.background, 4.0 + beside) < 1e-6
    assert relative(fit.spot, 50.0 * shape) < 1e-6


def test_chosen_boxes_keep_what_is_theirs() -> None:
    which = torch.tensor([40, 3, 17])
    some = BOXES.chosen(which)
    mask = torch.zeros(len(BOXES), dtype=torch.bool)
    mask[which] = True
    assert torch.equal(numbers(some), numbers(BOXES)[which])
    assert torch.equal(some.observed, IMAGE.photons[some.pixels.place].reshape(some.use.shape))
    assert torch.equal(some.use, BOXES.use[which])
    assert torch.equal(some.spots.indices, BOXES.spots.indices[which])
    assert torch.equal(numbers(BOXES.chosen(mask)), numbers(BOXES)[which.sort().values])
    assert len(BOXES.chosen(~mask)) == len(BOXES) - 3


# what is linear in a box


def peaks(count: int = 4, edge: int = 9, background: Literal["constant", "plane"] = "plane") -> tuple[Tensor, BoxData]:
    """Profiles (R, P) that differ from box to box, and boxes without photons yet."""
    line = torch.linspace(-1, 1, edge).double()
    across = torch.stack(torch.meshgrid(line, line, indexing="ij")[::-1]).flatten(1)
    terms = torch.cat([torch.ones_like(across[:1]), across])[: 3 if background == "plane" else 1]
    centres = torch.linspace(-0.3, 0.3, count).double()
    shape = torch.exp(-(((across[:, None] - centres[None, :, None]) / 0.25) ** 2).sum(0) / 2)
    none = torch.zeros_like(shape)
    return shape, BoxData(none, none, none, torch.ones_like(none, dtype=torch.bool), terms)


def fitted(linear: Tensor, known: Amplitudes | None = None) -> BoxFit:
    """A fit to the noise-free photons of linear values (R, 4)."""
    shape, data = peaks(len(linear))
    observed = linear[:, :-1] @ data.terms + linear[:, -1:] * shape
    free = Amplitudes.unknown(len(linear), shape)
    return fit_boxes(shape, data._replace(observed=observed), POISSON, known or free)


@given(st.floats(0.5, 100), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.floats(0, 1e5))
def test_a_plane_and_an_intensity_are_recovered(level: float, right: float, down: float, intensity: float) -> None:
    linear = f64([[level, right * level, down * level, intensity]] * 3)
    assert relative(fitted(linear).linear, linear) < 1e-6


def test_a_constant_is_recovered_and_its_esds_are_those_of_the_information() -> None:
    shape, data = peaks(background="constant")
    expected = 4.0 + 50.0 * shape
    found = fit_boxes(shape, data._replace(observed=expected), POISSON, Amplitudes.unknown(4, shape))
    assert largest(found.linear - f64(4.0, 50.0)) < 1e-6
    assert largest(found.background - 4.0) < 1e-6
    columns = torch.stack([torch.ones_like(shape), shape], 1)
    information = columns @ (columns / expected[:, None]).mT
    assert relative(found.intensity_esds, torch.linalg.inv(information)[:, 1, 1].sqrt()) < 1e-6


@given(st.integers(0, 2**31), st.floats(0.0, 3.0))
def test_nothing_is_ever_below_nought(seed: int, level: float) -> None:
    """Noise about a weak background, and a hole where the spot should be."""
    shape, data = peaks()
    generator = torch.Generator().manual_seed(seed)
    observed = torch.poisson(torch.full_like(shape, level), generator=generator) * (shape < 0.5)
    found = fit_boxes(shape, data._replace(observed=observed), POISSON, Amplitudes.unknown(4, shape))
    assert bool((found.linear[:, 0] >= 0).all())
    assert bool((found.intensities >= 0).all())
    assert float(found.expected.min()) >= 0
    assert bool(torch.isfinite(found.intensity_esds).all())


def test_known_amplitudes_stay_and_restrained_ones_are_pulled() -> None:
    linear = f64([[5.0, 1.0, -1.0, 100.0]] * 4)
    wanted, sigmas = f64([150.0] * 4), f64([0.0, 1e-3, 10.0, INFINITE])
    found = fitted(linear, Amplitudes(wanted, sigmas))
    exact, stiff, between, free = found.intensities.tolist()
    assert (exact, stiff, free) == pytest.approx((150, 150, 100), abs=1e-3)
    assert 101 < between < 149
    esds = found.intensity_esds
    assert esds[0] == 0
    assert float(esds[1]) == pytest.approx(1e-3, rel=1e-4)
    assert float(esds[2] ** -2) == pytest.approx(1e-2 + float(esds[3] ** -2), rel=0.2)
    assert found.free[:, -1].tolist() == [False, True, True, True]


def test_boxes_with_outliers_settle_at_a_minimum() -> None:
    """Scoring alone takes hundreds of passes where many pixels are five standard deviations off and more."""
    shape, data = peaks(40, background="constant")
    strength = torch.linspace(100, 4000, 40).double()[:, None]
    observed = torch.poisson(4 + strength * shape**0.5, generator=torch.Generator().manual_seed(3))
    unknown = Amplitudes.unknown(40, shape)
    found = fit_boxes(shape, data._replace(observed=observed), NOISES["robust"], unknown)
    pull = (found.columns @ found.slopes[:, :, None])[:, :, 0]
    assert largest(pull / torch.sqrt(torch.diagonal(found.normal, dim1=1, dim2=2))) < 1e-4
    curvature = NOISES["robust"].derivatives(found.expected, observed, data.readout).curvature
    exact = (found.columns * curvature[:, None]) @ found.columns.mT
    assert float(torch.linalg.eigvalsh(exact).min()) > 0


def test_a_box_of_no_pixels_is_no_trouble() -> None:
    shape, data = peaks()
    use = data.use.clone()
    use[1] = False
    full = data._replace(observed=3 + 20 * shape, use=use)
    found = fit_boxes(shape, full, POISSON, Amplitudes.unknown(4, shape))
    assert bool(torch.isfinite(found.linear).all())
    assert largest(found.intensities[[0, 2, 3]] - 20) < 1e-5


# the problem


def problem(free: tuple[str, ...] = FREE, kind: str = "unknown", boxes: Shoeboxes = BOXES, loss: str = "poisson",
            background: Literal["constant", "plane"] = "constant") -> ShoeboxProblem:  # fmt: skip
    """The still's boxes, its intensities unknown, restrained or known."""
    space = ParameterSpace.of(*STILL, free)
    true = torch.full_like(boxes.spots.fast, 1e4)
    relative_sigma = {"unknown": INFINITE, "restrained": 0.3, "known": 0.0}[kind]
    return ShoeboxProblem(space, boxes, choose_noise(loss, 0.0), Amplitudes(true, relative_sigma * true), background)


def off_the_start(space: ParameterSpace) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return 0.02 * torch.randn(space.size, generator=generator, dtype=torch.float64)


def slope(asked: ShoeboxProblem, z: Tensor, step: float = 3e-4) -> Tensor:
    """Derivatives (n,) of the loss by central differences of fourth order."""
    rows = []
    for direction in torch.eye(len(z)).double():
        near, far = (asked.loss(z + h * direction) - asked.loss(z - h * direction) for h in (step, 2 * step))
        rows.append((8 * near - far) / (12 * step))
    return torch.stack(rows)


@pytest.mark.parametrize("free", [FREE, MOVING])
@pytest.mark.parametrize("kind", ["unknown", "restrained", "known"])
def test_the_gradient_is_that_of_the_loss(free: tuple[str, ...], kind: str) -> None:
    whole = problem(free, kind, background="plane")
    z = off_the_start(whole.space)
    within = whole.fit(z).free[:, :-1].all(1)  # a plane at its limit is a level, which the loss jumps to
    asked = whole.chosen(within.nonzero()[:80, 0])
    value, found = asked.loss_and_gradient(z)
    assert float(value) == pytest.approx(float(asked.loss(z)), rel=1e-13)
    wanted = slope(asked, z)
    assert float(wanted.abs().min()) > 1e-4
    assert largest((found - wanted) / wanted.abs().clamp_min(0.01 * largest(wanted))) < 1e-5


def test_the_gradient_of_weak_boxes_with_levels_is_that_of_the_loss() -> None:
    asked = problem(boxes=FAINT)
    z = off_the_start(asked.space)
    limited = (~asked.fit(z).free).any(1)
    assert 20 < int(limited.sum()) < len(FAINT)
    wanted = slope(asked, z)
    assert relative(asked.quadratic(z).gradient, wanted) < 1e-6


def test_planes_that_reach_nought_settle() -> None:
    dim = shoeboxes(STILL, counts(model(level=0.5, scale=0.01)))
    asked = problem(boxes=dim, background="plane")
    z = off_the_start(asked.space)
    found, longer = (replace(asked, passes=passes).fit(z) for passes in (asked.passes, 4 * asked.passes))
    assert int((~longer.free[:, 1]).sum()) > 10
    change = (found.expected - longer.expected).abs().amax(1) / longer.expected.amax(1).clamp_min(1)
    assert float(change.max()) < 1e-3


def fisher(asked: ShoeboxProblem, z: Tensor) -> Tensor:
    """The information (n, n) about z that is left where every box's linear values are known no better than from its
    own pixels: the Schur complement of J^T W J over all of them, J by autograd."""
    fit, boxes = asked.fit(z), asked.boxes
    count, terms = fit.linear.shape
    factors = paths(asked.space.start.experiment, boxes.pixels).factors.reshape(boxes.use.shape)

    def expected(z: Tensor, linear: Tensor) -> Tensor:
        moved = asked.space.to_model(z)
        q = paths(moved.experiment, boxes.pixels).scattering[:, 0].unflatten(1, boxes.use.shape)
        shape = profiles(spots_of(*moved, boxes.spots.indices, boxes.recorded), q).values * factors
        return linear[:, :-1] @ asked.terms + linear[:, -1:] * shape

    assert relative(expected(z, fit.linear), fit.expected) < 1e-12
    by_z, by_linear = torch.autograd.functional.jacobian(expected, (z, fit.linear))
    jacobian = torch.cat([by_z.flatten(0, 1), by_linear.flatten(2).flatten(0, 1)], 1)
    weights = (boxes.use * asked.noise.information(fit.expected, boxes.observed, boxes.readout)).flatten()
    whole = jacobian.T @ (weights[:, None] * jacobian)
    n = len(z)
    last = n + terms * torch.arange(count) + terms - 1
    whole[last, last] += asked.amplitudes.precisions
    kept = n + fit.free.flatten().nonzero()[:, 0]
    cross = whole[:n, kept]
    return whole[:n, :n] - cross @ torch.linalg.solve(whole[kept[:, None], kept], cross.T)


@pytest.mark.parametrize("free", [FREE, MOVING])
@pytest.mark.parametrize("kind", ["unknown", "restrained", "known"])
def test_the_curvature_is_the_information_without_the_linear_values(free: tuple[str, ...], kind: str) -> None:
    fit = problem().fit(problem().space.zero())
    bright = (fit.intensities / fit.intensity_esds).nan_to_num().argsort()[-7:]
    asked = problem(free, kind, BOXES.chosen(bright), background="plane")
    z = off_the_start(asked.space)
    found, wanted = asked.quadratic(z).curvature, fisher(asked, z)
    scale = torch.diagonal(wanted).sqrt()
    assert float(scale.min()) > 0
    assert largest((found - wanted) / scale / scale[:, None]) < 1e-9
    v = torch.linspace(-1, 1, len(z)).double()
    assert relative(asked.curvature_product(z, v), wanted @ v) < 1e-9


@pytest.mark.parametrize("loss", ["poisson", "robust"])
def test_tiles_do_not_change_the_answer(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = problem(loss=loss)
    z = off_the_start(whole.space)
    wanted, scores, linear = whole.quadratic(z), whole.scores(z), whole.fit(z).linear
    monkeypatch.setattr(shoebox_problem, "TILE_BOXES", 50)
    cut = problem(loss=loss)
    found = cut.quadratic(z)
    assert len(cut._tiles) == -(-len(BOXES) // 50) > 3
    for mine, theirs in zip(found[:3], wanted[:3], strict=True):
        assert relative(mine, theirs) < 1e-11
    assert relative(cut.scores(z), scores) < 1e-11
    assert relative(cut.fit(z).linear, linear) < 1e-11
    assert float(cut.loss(z)) == pytest.approx(float(wanted.value), rel=1e-13)


def test_two_evaluations_agree_to_the_bit() -> None:
    one, two = problem(MOVING), problem(MOVING)
    z = off_the_start(one.space)
    for mine, theirs in zip(one.quadratic(z)[:3], two.quadratic(z)[:3], strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(one.quadratic(z).curvature, two.quadratic(z).curvature)
    assert torch.equal(one.boxes.observed, BOXES.observed)


def test_scores_of_the_boxes_add_up_to_the_gradient() -> None:
    asked = problem()
    z = off_the_start(asked.space)
    assert relative(asked.scores(z).sum(0), asked.quadratic(z).gradient) < 1e-12


def test_a_restraint_adds_its_pull() -> None:
    plain = problem()
    cell = STILL.crystal.cell
    pulled = replace(plain, restraints=(Restraint("cell", cell + 0.1, torch.full_like(cell, 0.05)),))
    z = plain.space.zero()
    assert float(pulled.loss(z) - plain.loss(z)) == pytest.approx(6 * 2**2 / 2)
    assert largest(pulled.quadratic(z).gradient - plain.quadratic(z).gradient) > 1


def test_beyond_the_limits_the_loss_is_infinite() -> None:
    asked = problem(("cell", "cells"))
    z = asked.space.to_z({"cells": f64(0.2, 5.0, 5.0)})
    assert not asked.space.admits(z)
    assert float(asked.loss(z)) == float(asked.quadratic(z).value) == INFINITE


def test_a_spot_has_its_reflection_and_place() -> None:
    spots = predict_all(*STILL, D_MIN)
    assert bool((spots.distance.abs() < 3).all())
    assert len({tuple(hkl) for hkl in spots.indices.tolist()}) == len(spots)
    resolution = 1 / torch.linalg.vector_norm(spots.indices @ STILL.crystal.a_matrix.T, dim=1)
    assert float(resolution.min()) >= D_MIN
