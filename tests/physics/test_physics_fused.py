"""The fused sum over steps against the reference, and the reference against a plain evaluation."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import f64, largest, numbers, relative, triclinic_cells, vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, jacfwd, jacrev

from refine.app.compilation import COMPILERS
from refine.physics import tile_sums
from refine.physics.cell import real_space_vectors
from refine.physics.fused import fused_interference
from refine.physics.interference import Steps, interference
from refine.physics.mosaic import mosaic_domains, step_rotations
from refine.physics.rotation import misset_rotation
from refine.physics.shapes import SHAPES
from refine.physics.tile_sums import Execution, Inputs, Moments, Pulled, Wanted, moments, pulled

NAMES = ("scattering", "real_space", "cells", "angles")
ROUNDING = 1e-10
SMOOTH = tuple(sorted(set(SHAPES) - {"tophat"}))  # a tophat has no derivative by delta
LOOKUPS = ("uniform", "nearest", "interpolated")
Case = tuple[Inputs, Steps]


def box(seed: int) -> tuple[Tensor, Tensor]:
    """A box of |F|^2 narrower than the Miller indices met, so that its edge is used too."""
    draws = np.random.default_rng(seed).gamma(2.0, 50.0, (9, 10, 11))
    return torch.from_numpy(draws), f64(-4.0, -4.0, -5.0)


def make_case(
    cell: Tensor,
    misset: Tensor,
    cells: Tensor,
    seed: int,
    domains: int,
    phi_steps: int,
    shape: str,
    lookup: str,
    points: int = 12,
) -> Case:
    """lookup: one F for all, the nearest reflection's, or F interpolated between them."""
    real_space = real_space_vectors(cell) @ misset_rotation(misset).T
    generator = torch.Generator().manual_seed(seed)
    indices = 12 * torch.rand(3, points, generator=generator, dtype=torch.float64) - 6
    indices[:, : points // 2] = indices[:, : points // 2].round() + 0.1 * (indices[:, : points // 2] % 1)
    intensity, lowest = (f64([[[9.0]]]), f64(0.0, 0.0, 0.0)) if lookup == "uniform" else box(seed)
    amplitude = torch.sqrt(intensity) if lookup == "interpolated" else None
    domain = mosaic_domains(domains, seed - 99)
    steps = Steps(*domain, f64(0.0, 0.6, 0.8), phi_steps, intensity, lowest, shape, amplitude)
    return (torch.linalg.solve(real_space, indices), real_space, cells, f64(0.004, 0.003, 0.01)), steps


def cases() -> st.SearchStrategy[tuple]:
    """Arguments of `make_case`: they print shorter than the case itself."""
    return st.tuples(
        triclinic_cells(),
        vectors(-180, 180),
        vectors(1.2, 12.0),
        st.integers(0, 10**6),
        st.integers(1, 5),
        st.integers(1, 3),
        st.sampled_from(SMOOTH),
        st.sampled_from(LOOKUPS),
    )


def fixed_case(shape: str, domains: int = 4, phi_steps: int = 2, points: int = 12, lookup: str = "nearest") -> Case:
    cell, misset, cells = f64(37.0, 43.0, 51.0, 82.0, 95.0, 107.0), f64(10.0, 20.0, 30.0), f64(5.0, 6.5, 4.0)
    return make_case(cell, misset, cells, 11, domains, phi_steps, shape, lookup, points)


def weights(points: int) -> Tensor:
    return torch.linspace(0.5, 1.5, points, dtype=torch.float64)


def amplitude_by_hand(shape: str, delta: list[float], cells: list[float]) -> float:
    if shape == "square":
        return math.prod(math.sin(math.pi * n * d) / math.sin(math.pi * d) for d, n in zip(delta, cells, strict=True))
    square = sum((n * d) ** 2 for d, n in zip(delta, cells, strict=True))
    if shape == "gauss":
        return math.prod(cells) * math.exp(-square / 0.63)
    x = math.pi * math.sqrt(square)
    return 0.723601254558268 * math.prod(cells) * 3 * (math.sin(x) - x * math.cos(x)) / x**3


def intensity_by_hand(steps: Steps, h: list[float]) -> float:
    """|F|^2 of the nearest reflection, or of the cubics through four along each axis, one axis after the other, where
    the box, less its outermost layer, has them."""
    lows, sizes = steps.lowest.tolist(), steps.intensity.shape

    def place(index: list[int]) -> tuple[int, ...]:
        return tuple(min(max(i - int(low), 0), size - 1) for i, low, size in zip(index, lows, sizes, strict=True))

    inside = all(low + 3 <= h_j <= low + size - 4 for h_j, low, size in zip(h, lows, sizes, strict=True))
    if steps.amplitude is None or not inside:
        return float(steps.intensity[place([round(h_j) for h_j in h])])

    def along(axis: int, index: list[int]) -> float:
        if axis == 3:
            return float(steps.amplitude[place(index)])
        nodes = [math.floor(h[axis]) + i for i in (-1, 0, 1, 2)]
        values = [along(axis + 1, [*index, node]) for node in nodes]
        return float(np.polyval(np.polyfit(np.array(nodes) - h[axis], values, 3), 0.0))

    return along(0, []) ** 2


@given(cases())
@settings(max_examples=30)
def test_reference_is_the_equation(drawn: tuple) -> None:
    (q, real_space, cells, angles), steps = make_case(*drawn)
    rotations = step_rotations(angles, steps.axes, steps.fractions, steps.spindle, steps.phi_steps)
    wanted = []
    for point in q.T:
        total = 0.0
        for rotation in rotations:
            h = [float((rotation @ a) @ point) for a in real_space]
            lattice = amplitude_by_hand(steps.shape, [h_j - round(h_j) for h_j in h], cells.tolist())
            total += intensity_by_hand(steps, h) * lattice**2
        wanted.append(total / len(rotations))
    assert max(wanted) > 0
    assert relative(interference(q, real_space, cells, angles, steps), f64(wanted)) < ROUNDING


@given(cases())
def test_values(drawn: tuple) -> None:
    inputs, steps = make_case(*drawn)
    assert relative(fused_interference(*inputs, steps), interference(*inputs, steps)) < ROUNDING


def test_a_tophat_moves_with_nothing_but_its_height() -> None:
    inputs, steps = fixed_case("tophat", lookup="uniform", points=400)
    found = moments(inputs, steps, Wanted(True, True, True, True))
    assert relative(found.value, interference(*inputs, steps)) < ROUNDING
    assert max(map(largest, (found.scattering, found.real_space, found.angles))) == 0
    assert relative(found.cells, 2 * found.value / inputs[2][:, None]) < ROUNDING


@given(cases())
def test_gradients(drawn: tuple) -> None:
    inputs, steps = make_case(*drawn)
    found, wanted = (
        torch.autograd.grad(function(*at, steps) @ weights(12), at)
        for function in (fused_interference, interference)
        for at in [[tensor.clone().requires_grad_() for tensor in inputs]]
    )
    for name, mine, theirs in zip(NAMES, found, wanted, strict=True):
        if name == "angles" and len(steps.fractions) == 1 and steps.phi_steps == 1:
            mine, theirs = mine[1:2], theirs[1:2]
        assert relative(mine, theirs) < ROUNDING, name


@given(cases(), st.integers(1, 4))
@settings(max_examples=30)
def test_weighted_sums_over_the_rays_of_a_pixel(drawn: tuple, rays: int) -> None:
    """Value, gradient and Jacobian by every input, the weights among them."""
    inputs, steps = make_case(*drawn)
    given_weights = 0.5 + torch.rand(rays, 12 // rays, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    q = inputs[0][:, : given_weights.numel()]
    everything = (q, *inputs[1:], given_weights)

    def by(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda q, a, n, angles, w: function(q, a, n, angles, steps, w)

    fused_sum, plain_sum = by(fused_interference), by(interference)
    assert relative(fused_sum(*everything), plain_sum(*everything)) < ROUNDING
    at = [x.clone().requires_grad_() for x in everything]
    seen = fused_sum(*at) @ weights(12 // rays)
    for k, (mine, theirs) in enumerate(
        zip(
            torch.autograd.grad(seen, at),
            torch.autograd.grad(plain_sum(*at) @ weights(12 // rays), at),
            strict=True,
        )
    ):
        if k != 3 or len(steps.fractions) * steps.phi_steps > 1:
            assert relative(mine, theirs) < ROUNDING, k
    for k in (0, 1, 2, 4):
        mine, theirs = (jacfwd(f, argnums=k)(*everything) for f in (fused_sum, plain_sum))
        assert relative(mine, theirs) < ROUNDING, k


@given(cases(), st.sampled_from([(0,), (1,), (2,), (3,), (1, 2), (0, 1, 2, 3)]))
@settings(max_examples=30)
def test_jacobians_by_forward_mode(drawn: tuple, wrt: tuple[int, ...]) -> None:
    inputs, steps = make_case(*drawn)
    inputs = (inputs[0][:, :6], *inputs[1:])
    found, wanted = (
        jacfwd(lambda *at, f=function: f(*at, steps), argnums=wrt)(*inputs)
        for function in (fused_interference, interference)
    )
    for k, mine, theirs in zip(wrt, found, wanted, strict=True):
        assert relative(mine, theirs) < ROUNDING, NAMES[k]


@pytest.mark.parametrize("shape", SMOOTH)
@pytest.mark.parametrize("k", range(4))
def test_gradients_by_function_transforms(shape: str, k: int) -> None:
    inputs, steps = fixed_case(shape)
    found, wanted = (
        grad(lambda *at, f=function: f(*at, steps) @ weights(12), argnums=k)(*inputs)
        for function in (fused_interference, interference)
    )
    assert relative(found, wanted) < ROUNDING
    rows = jacrev(lambda *at: fused_interference(*at, steps), argnums=k)(*inputs)
    assert relative(rows, jacfwd(lambda *at: interference(*at, steps), argnums=k)(*inputs)) < ROUNDING


@pytest.mark.parametrize("shape", SMOOTH)
def test_derivatives_are_those_of_the_values(shape: str) -> None:
    """Central differences of the fused values: an error common to both paths would pass the comparisons above."""
    inputs, steps = fixed_case(shape)
    generator = torch.Generator().manual_seed(3)
    for k in range(4):
        direction = torch.randn(inputs[k].shape, generator=generator, dtype=torch.float64) * inputs[k].abs().max()

        def along(t: float, k: int = k, direction: Tensor = direction) -> Tensor:
            return fused_interference(*(x + t * direction if i == k else x for i, x in enumerate(inputs)), steps)

        slope = torch.func.jvp(lambda t, along=along: along(t), (f64(0.0),), (f64(1.0),))[1]
        coarse, fine = ((along(t) - along(-t)) / (2 * t) for t in (2e-7, 1e-7))
        assert relative((4 * fine - coarse) / 3, slope) < 1e-6, NAMES[k]


NESTED = {
    "forward-forward": lambda f: jacfwd(jacfwd(f)),
    "reverse-reverse": lambda f: jacrev(jacrev(f)),
    "forward-reverse": lambda f: jacfwd(jacrev(f)),
    "reverse-forward": lambda f: jacrev(jacfwd(f)),
}


@pytest.mark.parametrize("shape", SMOOTH)
@pytest.mark.parametrize("nested", NESTED)
def test_hessians(shape: str, nested: str) -> None:
    inputs, steps = fixed_case(shape, domains=3, phi_steps=2, points=3)
    sizes = [tensor.numel() for tensor in inputs]
    units = torch.cat([torch.full((n,), float(x.abs().max())) for n, x in zip(sizes, inputs, strict=True)]).double()

    def total(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        def of(packed: Tensor) -> Tensor:
            parts = [part.reshape(x.shape) for part, x in zip((packed * units).split(sizes), inputs, strict=True)]
            return function(*parts, steps) @ weights(3)

        return of

    packed = torch.cat([x.flatten() for x in inputs]) / units
    wanted = jacfwd(jacrev(total(interference)))(packed)
    found = NESTED[nested](total(fused_interference))(packed)
    blocks = [(i, j) for i in wanted.split(sizes, 0) for j in i.split(sizes, 1)]
    assert all(largest(block) > 0 for _, block in blocks)
    assert relative(found, wanted) < ROUNDING
    for mine, theirs in zip(found.split(sizes, 0), wanted.split(sizes, 0), strict=True):
        for a, b in zip(mine.split(sizes, 1), theirs.split(sizes, 1), strict=True):
            assert relative(a, b) < 1e-9


def test_double_backward() -> None:
    inputs, steps = fixed_case("gauss")
    products = []
    for function in (fused_interference, interference):
        at = [x.clone().requires_grad_() for x in inputs]
        first = torch.autograd.grad(function(*at, steps) @ weights(12), at, create_graph=True)
        scalar = sum((g * x.detach()).sum() for g, x in zip(first, at, strict=True))
        products.append(torch.autograd.grad(scalar, at))
    for name, mine, theirs in zip(NAMES, *products, strict=True):
        assert relative(mine, theirs) < ROUNDING, name


@pytest.mark.parametrize("shape", SMOOTH)
def test_tiles_cannot_change_the_answer(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, steps = fixed_case(shape, domains=5, phi_steps=3)
    everything = Wanted(*[True] * 5)
    wanted = moments(inputs, steps, everything)
    for tile, most in ((7, 3), (1, 1), (40, 64), (15 * 5, 15)):
        monkeypatch.setattr(tile_sums, "TILE", tile)
        monkeypatch.setattr(tile_sums, "MOST_STEPS", most)
        for mine, theirs in zip(moments(inputs, steps, everything), wanted, strict=True):
            assert relative(mine, theirs) < 1e-13


def require_pulled(found: Pulled, sums: Moments, slope: Tensor, tolerance: float) -> None:
    """The derivatives that were wanted are the products of those of the intensity with a function's by it."""
    assert found.real_space.shape == (3, 3)
    assert relative(found.real_space.flatten(), sums.real_space @ slope) < tolerance
    assert relative(found.cells, sums.cells @ slope) < tolerance
    assert relative(found.angles, sums.angles @ slope) < tolerance
    assert relative(found.weights, sums.weights.reshape(found.weights.shape) * slope) < tolerance


@given(cases(), st.integers(1, 4), st.sampled_from([1, 20, 1 << 15]))
@settings(max_examples=30)
def test_derivatives_of_a_function_of_the_intensity(drawn: tuple, rays: int, tile: int) -> None:
    inputs, steps = make_case(*drawn)
    by_ray = 0.5 + torch.rand(rays, 12 // rays, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    inputs = (inputs[0][:, : by_ray.numel()], *inputs[1:])
    wanted, target = Wanted(False, True, True, True, True), weights(12 // rays)
    sums = moments(inputs, steps, wanted, weights=by_ray)

    def pull(value: Tensor, columns: slice) -> Tensor:
        return value * target[columns]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_sums, "TILE", tile)
        value, found = pulled(inputs, steps, wanted, Execution(), by_ray, pull)
    assert relative(value, sums.value) < ROUNDING
    if len(steps.fractions) * steps.phi_steps == 1:
        found, sums = found._replace(angles=found.angles[1:2]), sums._replace(angles=sums.angles[1:2])
    require_pulled(found, sums, value * target, ROUNDING)


def test_only_what_is_wanted_is_computed() -> None:
    inputs, steps = fixed_case("square")
    everything = moments(inputs, steps, Wanted(True, True, True, True))
    for k in range(4):
        some = moments(inputs, steps, Wanted(*(i == k for i in range(4))))
        assert relative(some.value, everything.value) < 1e-13
        for i in range(4):
            if i == k:
                assert relative(some[i + 1], everything[i + 1]) < 1e-13
            else:
                assert some[i + 1].numel() == 0
    none = moments(inputs, steps, Wanted(False, False, False, False))
    assert relative(none.value, everything.value) < 1e-13


@pytest.mark.parametrize("shape", SMOOTH)
def test_single_precision_after_the_indices(shape: str) -> None:
    inputs, steps = fixed_case(shape, points=200)
    inputs = (inputs[0], inputs[1], f64(20.0, 25.5, 18.0), inputs[3])
    everything = Wanted(*[True] * 5)
    found, wanted = (
        moments(inputs, steps, everything, Execution(precision)) for precision in (torch.float32, torch.float64)
    )
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float64
        assert 0 < relative(mine, theirs) < 1e-5


@given(cases(), numbers(-0.5, 0.5))
def test_intensity_does_not_change_with_a_rotation_of_everything(drawn: tuple, angle: float) -> None:
    (q, real_space, cells, angles), steps = make_case(*drawn)
    turn = misset_rotation(f64(360 * angle, 20.0, -50.0))
    turned = replace(steps, axes=steps.axes @ turn.T, spindle=turn @ steps.spindle)
    found = fused_interference(turn @ q, real_space @ turn.T, cells, angles, turned)
    assert relative(found, fused_interference(q, real_space, cells, angles, steps)) < 1e-10


def test_one_cell_scatters_alike_in_all_directions() -> None:
    inputs, steps = fixed_case("square", lookup="uniform")
    found = moments((*inputs[:2], f64(1.0, 1.0, 1.0), inputs[3]), steps, Wanted(True, True, True, True))
    assert relative(found.value, torch.full_like(found.value, 9.0)) < 1e-13
    assert max(map(largest, (found.scattering, found.real_space, found.angles))) < 1e-9
    assert largest(found.cells) > 1


def test_inputs_are_left_alone() -> None:
    inputs, steps = fixed_case("square")
    held = [*inputs, steps.axes, steps.fractions, steps.spindle, steps.intensity, steps.lowest]
    before = [tensor.clone() for tensor in held]
    first = fused_interference(*inputs, steps)
    assert torch.equal(first, fused_interference(*inputs, steps))
    assert all(torch.equal(a, b) for a, b in zip(before, held, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolated", [False, True])
def test_no_number_is_needed_to_know_the_shapes(shape: str, interpolated: bool) -> None:
    """On torch's meta device, which stands for any accelerator: nothing waits for a value or goes through the CPU."""
    inputs, steps = fixed_case(shape, points=30)
    amplitude = steps.intensity.sqrt().to("meta") if interpolated else None
    moved = {k: getattr(steps, k).to("meta") for k in ("axes", "fractions", "spindle", "intensity", "lowest")}
    steps = replace(steps, amplitude=amplitude, **moved)
    by_ray = torch.ones(3, 10, device="meta", dtype=torch.float64)
    inputs = tuple(x.to("meta") for x in inputs)
    for precision in (torch.float64, torch.float32):
        found = moments(inputs, steps, Wanted(*[True] * 5), Execution(precision), by_ray)
        assert [tuple(part.shape) for part in found] == [(10,), (3, 30), (9, 10), (3, 10), (3, 10), (30,)]
        assert all(part.device.type == "meta" and part.dtype == torch.float64 for part in found)


def test_nor_for_the_derivatives_of_a_function_of_the_intensity() -> None:
    inputs, steps = fixed_case("square", points=30)
    moved = {k: getattr(steps, k).to("meta") for k in ("axes", "fractions", "spindle", "intensity", "lowest")}
    by_ray = torch.ones(3, 10, device="meta", dtype=torch.float64)
    for precision in (torch.float64, torch.float32):
        how, wanted = Execution(precision), Wanted(False, True, True, True, True)
        on_device = tuple(x.to("meta") for x in inputs)
        value, found = pulled(on_device, replace(steps, **moved), wanted, how, by_ray, lambda value, _: 2 * value)
        assert [tuple(part.shape) for part in (value, *found)] == [(10,), (3, 3), (3,), (3,), (3, 10)]
        assert all(part.device.type == "meta" and part.dtype == torch.float64 for part in (value, *found))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
@pytest.mark.parametrize("precision", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SMOOTH)
def test_compiled_moments_are_the_same(shape: str, precision: torch.dtype) -> None:
    inputs, steps = fixed_case(shape, points=200)
    inputs = (inputs[0], inputs[1], f64(20.0, 25.5, 18.0), inputs[3])
    by_ray = weights(200).reshape(4, 50)
    for wanted in (Wanted(), Wanted(*[True] * 5)):
        mine, theirs = (moments(inputs, steps, wanted, Execution(precision, c), by_ray) for c in (True, False))
        for a, b in zip(mine, theirs, strict=True):
            assert a.numel() == 0 or relative(a, b) < (1e-11 if precision == torch.float64 else 1e-5)
    target, wanted = weights(50), Wanted(False, True, True, True, True)
    sums = moments(inputs, steps, wanted, weights=by_ray)
    for compiled in (True, False):
        how = Execution(precision, compiled)
        value, found = pulled(inputs, steps, wanted, how, by_ray, lambda _, columns: target[columns])
        bound = 1e-10 if precision == torch.float64 else 1e-4
        assert relative(value, sums.value) < bound
        require_pulled(found, sums, target, bound)
