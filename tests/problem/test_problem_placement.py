"""Which reflections are held out, and which shoeboxes a start or an answer gets."""

from dataclasses import replace

import gemmi
import pytest
import torch
from builders import f64
from hypothesis import given
from hypothesis import strategies as st
from stills import D_MIN, counts, crowded, model

from refine.model.observation import Observation
from refine.model.prediction import predict
from refine.parameters.space import ParameterSpace
from refine.problem.noise import choose_noise
from refine.problem.placement import Choice, Still, _allowed, displacement, held_out, place_far, place_near
from refine.problem.shoebox import Shoeboxes

TRUTH = model()
IMAGE = counts(TRUTH)
CHOICE = Choice(11, 5.0, D_MIN, float("inf"), 0.3, 0)


def still(observation: Observation = IMAGE, **changes: object) -> Still:
    choice = replace(CHOICE, **changes)  # type: ignore[arg-type]
    return Still(observation, choose_noise("poisson", 0.0), "constant", choice, None, float("inf"))


def lattice(half: int = 8) -> torch.Tensor:
    line = torch.arange(-half, half + 1).double()
    return torch.cartesian_prod(line, line, line)


@given(st.floats(0.0, 0.99), st.integers(0, 2**31 - 1))
def test_held_out_is_the_fraction_asked_for(fraction: float, seed: int) -> None:
    found = held_out(lattice(), fraction, seed)
    four_sigma = 4 * (fraction * (1 - fraction) / len(found)) ** 0.5
    assert abs(float(found.double().mean()) - fraction) <= four_sigma


@given(st.integers(0, 2**31 - 1))
def test_held_out_does_not_depend_on_the_order_or_on_the_others(seed: int) -> None:
    indices = lattice(4)
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))
    whole = held_out(indices, 0.3, seed)
    assert torch.equal(held_out(indices[order], 0.3, seed), whole[order])
    assert torch.equal(held_out(indices[order[:5]], 0.3, seed), whole[order[:5]])
    assert bool((held_out(indices, 0.5, seed) | ~whole).all())


def test_seeds_draw_different_reflections() -> None:
    draws = [held_out(lattice(), 0.5, seed) for seed in range(4)]
    for k, one in enumerate(draws):
        for other in draws[:k]:
            assert 0.4 < float((one == other).double().mean()) < 0.6
    mates = held_out(-lattice(), 0.5, 0)
    assert 0.4 < float((mates == draws[0]).double().mean()) < 0.6


@pytest.mark.parametrize("name", ["P 1", "A 1 2 1", "C 1 2 1", "I 2 2 2", "F 2 2 2", "R 3:R", "R 3:H"])
def test_absences_are_those_of_the_centring(name: str) -> None:
    group = gemmi.find_spacegroup_by_name(name)
    operations = gemmi.GroupOps([gemmi.Op("x,y,z")])
    operations.cen_ops = group.operations().cen_ops
    indices = lattice(4)
    wanted = [not operations.is_systematically_absent([int(n) for n in hkl]) for hkl in indices.tolist()]
    assert _allowed(indices, group.centring_type()).tolist() == wanted
    assert all(wanted) == (len(operations.cen_ops) == 1)


def test_boxes_are_of_what_is_seen() -> None:
    boxes = place_near(still(), TRUTH)
    assert 100 < len(boxes) < 229
    assert bool((boxes.use.sum(1) > 0.5 * boxes.own.sum(1)).all())
    assert int(boxes.use.sum(1).min()) >= 16
    stronger = place_near(still(min_signal=50.0), TRUTH)
    assert 5 < len(stronger) < len(boxes)


def test_a_start_a_pixel_off_has_boxes_where_the_spots_are() -> None:
    tilted = TRUTH._replace(crystal=replace(TRUTH.crystal, cell=TRUTH.crystal.cell * f64(1.004, 1.004, 1.004, 1, 1, 1)))
    far, near = place_far(still(), tilted), place_near(still(), TRUTH)
    known = {tuple(hkl) for hkl in near.spots.indices.tolist()}
    found = [tuple(hkl) in known for hkl in far.spots.indices.tolist()]
    assert len(found) > 20
    assert sum(found) > 0.8 * len(found)
    moved = displacement(far.spots, TRUTH)
    there = predict(*TRUTH, far.spots.indices)
    torch.testing.assert_close(moved, torch.hypot(there.fast - far.spots.fast, there.slow - far.spots.slow))
    assert float(moved[moved.isfinite()].max()) > 0.1


def test_an_image_without_a_crystal_has_no_boxes() -> None:
    flat = Observation.of(torch.full_like(IMAGE.photons, 3.0))
    assert len(place_near(still(flat), TRUTH)) == len(place_far(still(flat), TRUTH)) == 0


def test_a_centred_lattice_has_no_boxes_of_absent_reflections() -> None:
    boxes = place_near(still(centring="I"), TRUTH)
    assert len(boxes) > 10
    assert bool((boxes.spots.indices.sum(1) % 2 == 0).all())


def test_resolution_limits_the_boxes() -> None:
    boxes = place_near(still(d_min=4.0, d_max=9.0), TRUTH)
    d = 1 / torch.linalg.vector_norm(boxes.spots.indices @ TRUTH.crystal.a_matrix.T, dim=1)
    assert len(boxes) > 10
    assert 4 <= float(d.min()) < float(d.max()) <= 9


def test_spots_that_share_their_pixels_are_told_apart() -> None:
    near = model(level=2.0, larger=1.5, broader=3.0)
    spots, intensities, image = crowded(near, 3e5)
    boxes = place_near(still(image), near)
    assert len(boxes) > 0.6 * len(spots)
    assert float(boxes.own.double().mean()) < 0.25  # of eleven pixels square
    known = {tuple(hkl): k for k, hkl in enumerate(spots.indices.tolist())}
    true = intensities[[known[tuple(hkl)] for hkl in boxes.spots.indices.tolist()]]

    def misfit(boxes: Shoeboxes) -> tuple[float, float]:
        """Deviance a pixel, and how far most intensities are off."""
        problem = still(image).problem(ParameterSpace(near, ()), boxes)
        fit = problem.fit(problem.space.zero())
        deviance = problem.noise.deviance(fit.expected, boxes.observed, boxes.readout)[boxes.use].mean()
        return float(deviance), float(((fit.intensities - true).abs() / true).median())

    deviance, error = misfit(boxes)
    by_itself, worse = misfit(replace(boxes, beside=torch.zeros_like(boxes.beside)))
    assert deviance < 3 < 15 < by_itself
    assert error < 0.7 * worse
