"""One image against its model: the same loss, gradient and curvature however they are asked for."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from builders import crystal, experiment, f64, largest, relative, rich_crystal, rich_experiment
from scipy.optimize import minimize
from torch import Tensor

from refine.model.forward import expected_image
from refine.model.observation import Observation
from refine.parameters.space import ParameterSpace
from refine.physics.interference import interference
from refine.problem import problem as module
from refine.problem.noise import NOISES
from refine.problem.problem import ImageProblem
from refine.problem.quadratic import Quadratic, covariance, spectrum
from refine.problem.restraints import Restraint, restraint_quadratic

SIZE = (24, 20)
FREE = ("cell", "orientation", "scale", "cells", "mosaic", "b_factor", "distance", "detector_rotations.x", "background")
RESTRAINTS = (Restraint("cell", f64(37.1, 43.0, 50.9, 82.0, 95.0, 107.0), f64(0.1, 0.1, 0.1, 1, 1, 1)),)


def build(noise: str = "poisson", restraints: tuple[Restraint, ...] = (), shape: str = "gauss") -> ImageProblem:
    """Counts of a model a little off the start, a dead row, a tilted and oversampled detector."""
    sample, instrument = rich_crystal(shape), rich_experiment(size=SIZE)
    instrument = replace(instrument, scale=f64(0.02))
    space = ParameterSpace.of(sample, instrument, FREE)
    truth = space.zero() + 0.5 * torch.linspace(-1, 1, space.size, dtype=torch.float64)
    counts = torch.poisson(expected_image(*space.to_model(truth)), generator=torch.Generator().manual_seed(9))
    counts[5] = torch.nan
    problem = ImageProblem.of(space, replace(Observation.of(counts), readout_variance=f64(4.0)))
    return replace(problem, noise=NOISES[noise], restraints=restraints)


def somewhere(problem: ImageProblem) -> Tensor:
    return 0.3 * torch.cos(torch.arange(problem.space.size, dtype=torch.float64))


def explicit_jacobian(problem: ImageProblem, z: Tensor) -> tuple[Tensor, Tensor]:
    """Expected photons (P,) and their Jacobian (P, n) by reverse mode through the reference sum."""
    reference = replace(problem, interference=interference)
    return reference.expected(z, problem.pixels), torch.func.jacrev(lambda at: reference.expected(at, problem.pixels))(
        z
    )


def central(function: Callable[[Tensor], Tensor], z: Tensor, step: float) -> Tensor:
    """Derivatives along every coordinate, fourth order in the step; the coordinate last."""
    columns = []
    for unit in torch.eye(len(z), dtype=z.dtype):
        near, far = ((function(z + h * unit) - function(z - h * unit)) / (2 * h) for h in (step, 2 * step))
        columns.append((4 * near - far) / 3)
    return torch.stack(columns, -1)


CASES = [*((name, ()) for name in NOISES), ("poisson", RESTRAINTS)]


@pytest.mark.parametrize(("noise", "restraints"), CASES)
def test_loss_gradient_and_quadratic_agree(noise: str, restraints: tuple[Restraint, ...]) -> None:
    problem = build(noise, restraints)
    z = somewhere(problem)
    value, gradient = problem.loss_and_gradient(z)
    quadratic = problem.quadratic(z)
    assert float(value) == pytest.approx(float(problem.loss(z)), rel=1e-12)
    assert float(quadratic.value) == pytest.approx(float(value), rel=1e-12)
    assert relative(quadratic.gradient, gradient) < 1e-10
    assert float(gradient.abs().min()) > 1e-3
    assert largest((central(problem.loss, z, 1e-3) - gradient) / gradient) < 1e-5


@pytest.mark.parametrize(("noise", "restraints"), CASES)
def test_curvature_is_the_fisher_information(noise: str, restraints: tuple[Restraint, ...]) -> None:
    problem = build(noise, restraints)
    z = somewhere(problem)
    mu, jacobian = explicit_jacobian(problem, z)
    observed = problem.observation.photons[problem.pixels.slow.long(), problem.pixels.fast.long()]
    weight = problem.noise.information(mu, observed, f64(4.0))
    prior = restraint_quadratic(problem.space, restraints, z)
    wanted = jacobian.T @ torch.diag(weight) @ jacobian + prior.curvature
    slope = problem.noise.slope(mu, observed, f64(4.0))
    found = problem.quadratic(z)
    scale = torch.sqrt(torch.diagonal(wanted))
    assert float(scale.min()) > 0
    assert largest((found.curvature - wanted) / (scale[:, None] * scale)) < 1e-11
    assert relative(found.gradient, jacobian.T @ slope + prior.gradient) < 1e-10


@pytest.mark.parametrize(("noise", "restraints"), CASES)
def test_curvature_product_is_the_exact_hessians(noise: str, restraints: tuple[Restraint, ...]) -> None:
    problem = build(noise, restraints)
    z = somewhere(problem)
    v = torch.sin(1 + torch.arange(len(z), dtype=torch.float64))
    found = problem.curvature_product(z, v)

    def gradient(t: float) -> Tensor:
        return problem.loss_and_gradient(z + t * v)[1]

    near, far = ((gradient(h) - gradient(-h)) / (2 * h) for h in (1e-3, 2e-3))
    assert relative((4 * near - far) / 3, found) < 1e-6
    assert relative(problem.quadratic(z).curvature @ v, found) > 1e-4


@pytest.mark.parametrize("shape", ["square", "gauss"])
def test_tiles_change_nothing(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build("poisson", RESTRAINTS, shape)
    z = somewhere(problem)
    v = torch.ones_like(z)

    scale = torch.sqrt(torch.diagonal(problem.quadratic(z).curvature))  # a gradient is a sum of terms that cancel

    def everything() -> tuple[list[Tensor], list[Tensor]]:
        """What is summed without loss of digits, and what is not."""
        value, gradient = problem.loss_and_gradient(z)
        quadratic = problem.quadratic(z)
        slopes = torch.stack([gradient, quadratic.gradient]) / scale
        curvature = quadratic.curvature / (scale[:, None] * scale)
        product = problem.curvature_product(z, v / scale) / scale
        return [problem.loss(z), value, quadratic.value, curvature, problem.image(z)], [slopes, product]

    whole = everything()
    monkeypatch.setattr(module, "TILE_POINTS", 4 * 37)
    monkeypatch.setattr(module, "TILE_STEPS", 4 * 8 * 50)
    monkeypatch.setattr(ImageProblem._tiles, "__defaults__", (4 * 37,))
    assert len(list(problem._tiles())) == 13
    for found, wanted, tolerance in zip(everything(), whole, (1e-12, 1e-11), strict=True):
        assert all(relative(mine, theirs) < tolerance for mine, theirs in zip(found, wanted, strict=True))


def test_untrusted_pixels_do_not_count() -> None:
    problem = build()
    z = somewhere(problem)
    assert len(problem.pixels) == 23 * 20
    other = problem.observation.photons.clone()
    other[5] = 1e9
    changed = replace(problem, observation=replace(problem.observation, photons=other))
    assert float(changed.loss(z)) == float(problem.loss(z))
    mu = expected_image(*problem.space.to_model(z)).flatten()
    kept = torch.arange(480).reshape(SIZE)[problem.observation.trusted]
    assert relative(problem.image(z), mu[kept]) < 1e-14


def test_every_evaluation_is_counted() -> None:
    problem = build()
    z = problem.space.zero()
    problem.loss(z)
    problem.loss_and_gradient(z)
    problem.loss_and_gradient(z)
    for _ in range(3):
        problem.quadratic(z)
    for _ in range(4):
        problem.curvature_product(z, torch.ones_like(z))
    counts = problem.counts
    assert (counts.values, counts.gradients, counts.jacobians, counts.curvature_products) == (1, 2, 3, 4)
    assert build().counts.values == 0


def test_the_image_of_a_loss_is_computed_once_and_given_once() -> None:
    problem = build()
    z = problem.space.zero()
    fresh, elsewhere = build().image(z), build().image(z + 0.1)
    problem.loss(z)
    assert torch.equal(problem.image(z + 0.1), elsewhere)
    assert torch.equal(problem.image(z), fresh)
    assert problem.counts.values == 2
    assert torch.equal(problem.image(z), fresh)
    assert problem.counts.values == 3


def test_loss_is_infinite_outside_the_limits() -> None:
    problem = build()
    for bad in (
        problem.space.to_z({"cell": f64(37.0, 43.0, 80.0, 82.0, 95.0, 107.0)}),
        problem.space.zero() * torch.nan,
    ):
        assert float(problem.loss(bad)) == torch.inf
        value, gradient = problem.loss_and_gradient(bad)
        assert float(value) == torch.inf
        assert bool(torch.isfinite(gradient).all())
        assert float(problem.quadratic(bad).value) == torch.inf


def test_z_is_left_alone() -> None:
    problem = build("poisson", RESTRAINTS)
    z = somewhere(problem)
    before = z.clone()
    results = [torch.cat([q.gradient, q.curvature.flatten()]) for q in (problem.quadratic(z), problem.quadratic(z))]
    problem.loss_and_gradient(z)
    problem.curvature_product(z, torch.ones_like(z))
    assert torch.equal(z, before)
    assert not z.requires_grad
    assert torch.equal(*results)


def test_restraints_pull_in_units_of_their_sigma() -> None:
    problem = build("poisson", RESTRAINTS)
    bare = replace(problem, restraints=())
    z = problem.space.zero()
    assert float(problem.loss(z) - bare.loss(z)) == pytest.approx((1 + 0 + 1) / 2, rel=1e-6)
    extra = Quadratic(*(a - b for a, b in zip(problem.quadratic(z), bare.quadratic(z), strict=True)))
    direction = torch.linalg.lstsq(extra.curvature[:6, :6], -extra.gradient[:6, None]).solution[:, 0]
    cell = problem.space.physical(torch.cat([direction, z[6:]]))[:6]
    assert largest(cell - RESTRAINTS[0].target) < 0.01
    assert largest(extra.curvature[6:]) < 1e-6 * largest(extra.curvature)


def test_condition_names_the_weakest_direction() -> None:
    found = spectrum(f64([[4.0, 3.8, 0.0], [3.8, 4.0, 0.0], [0.0, 0.0, 100.0]]))
    assert found.condition == pytest.approx(1.95 / 0.05)
    assert largest(found.vectors[:, 0].abs() - f64(0.5**0.5, 0.5**0.5, 0.0)) < 1e-12
    idle = spectrum(f64([[1.0, 0.0], [0.0, 0.0]]))
    assert idle.condition == float("inf")
    assert idle.vectors[:, 0].abs().tolist() == [0, 1]


def test_covariance_leaves_out_what_is_not_determined_and_says_so() -> None:
    regular = f64([[4.0, 1.0, 0.0], [1.0, 9.0, 0.5], [0.0, 0.5, 100.0]])
    inverse, lost = covariance(regular)
    assert largest(inverse @ regular - torch.eye(3)) < 1e-12
    assert not lost.any()
    _, lost = covariance(f64([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 1.0]]))
    assert lost.tolist() == [True, True, False]


def test_scale_and_background_alone_reach_the_optimum_that_scipy_finds() -> None:
    sample, instrument = crystal(), replace(experiment(size=SIZE), scale=f64(0.01))
    space = ParameterSpace.of(sample, instrument, ("scale", "background"))
    truth = space.to_z({"scale": f64([0.013]), "background": f64([2.6])})
    counts = torch.poisson(expected_image(*space.to_model(truth)), generator=torch.Generator().manual_seed(2))
    problem = ImageProblem.of(space, Observation.of(counts))
    z = space.zero()
    for _ in range(8):
        quadratic = problem.quadratic(z)
        z = z - torch.linalg.solve(quadratic.curvature, quadratic.gradient)
    best = minimize(
        lambda at: float(problem.loss(torch.from_numpy(at))),
        [0.0, 0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-6, "fatol": 1e-9},
    )
    esds = torch.sqrt(torch.diagonal(torch.linalg.inv(problem.quadratic(z).curvature)))
    assert largest((z - torch.from_numpy(best.x)) / esds) < 1e-3
    assert largest((z - truth) / esds) < 4
    assert largest(truth / esds) > 6
