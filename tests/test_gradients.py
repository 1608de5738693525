"""Derivatives of the image, first and second order, held against the image itself; nothing compiled, all in float64.

Every check first proves that there is something to check: an image of zeros would pass with any derivative. Relative
tolerance 1e-6: central differences at a step of 1e-4 of a unit that an image clearly shows are good to about 1e-8 (the
step squared), so that a wrong digit in the sixth place is the derivative's.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from builders import TRICLINIC, crystal, experiment, f64, largest, random_factors, relative, triclinic_cells
from faults import FAULTS, Fault
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from refine.model.crystal import Crystal
from refine.model.experiment import Experiment
from refine.model.forward import expected_image, expected_photons
from refine.model.observation import Observation
from refine.model.pixels import Pixels
from refine.model.structure_factors import StructureFactors
from refine.parameters.catalogue import CATALOGUE, CELL_LABELS
from refine.parameters.space import ParameterSpace
from refine.physics.cell import real_space_vectors, reciprocal_metric, reciprocal_vectors, volume
from refine.physics.fused import FUSED
from refine.physics.interference import interference
from refine.problem.derivatives import (
    STEPS,
    Findings,
    ModelImage,
    _extrapolated,
    _remainder_order,
    check_derivatives,
)
from refine.problem.jumps import choose_pixels
from refine.problem.problem import ImageProblem

# gradcheck's batched modes loop, and say so, where an operation has no batching rule of its own
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

CELLS = {
    "cubic": ((40.0, 40.0, 40.0, 90.0, 90.0, 90.0), "P 2 3"),
    "hexagonal": ((38.0, 38.0, 52.0, 90.0, 90.0, 120.0), "P 6"),
    "monoclinic": ((36.0, 44.0, 50.0, 90.0, 103.0, 90.0), "P 1 2 1"),
    "triclinic": (TRICLINIC, "P 1"),
    "triclinic obtuse": ((31.0, 47.0, 40.0, 101.0, 112.0, 96.0), "P 1"),
}
KERNELS = {"reference": interference, "fused": FUSED}
TOLERANCE = {"eps": 1e-4, "atol": 1e-7, "rtol": 1e-6}
SECOND_TOLERANCE = {"eps": 1e-4, "atol": 1e-6, "rtol": 1e-5}
MODES = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
LEVELS = {
    "kernel": tuple(KERNELS),
    "factors": ("uniform F", "non-uniform F"),
    "domains": (1, 3),
    "phi_steps": (1, 2),
    "oversample": (1, 2),
}
ON_SAMPLE = ("cell", "orientation", "scale", "cells", "b_factor", "mosaic")
ON_INSTRUMENT = ("wavelength", "distance", "beam_center", "detector_rotations", "background")
ON_BEAM = (
    "polarization",
    "divergence",
    "dispersion",
    "bandwidth",
    "thickness",
    "attenuation",
    "water",
)  # test_gradients_instrument
TURNS = ("twotheta", "detector_rotations.x", "detector_rotations.y", "detector_rotations.z")
ALL_AT_ONCE = (*ON_SAMPLE, *(name for name in ON_INSTRUMENT if name != "detector_rotations"), *TURNS)


@dataclass(frozen=True)
class Combination:
    """One level of every factor. tied: in the cell's own space group, not in P 1."""

    cell: str
    kernel: str = "fused"
    factors: str = "non-uniform F"
    domains: int = 3
    phi_steps: int = 2
    oversample: int = 1
    tied: bool = True

    def __str__(self) -> str:
        scan = "still" if self.phi_steps == 1 else "scan"
        group = CELLS[self.cell][1].replace(" ", "") if self.tied else "P1"
        levels = (self.cell, group, self.kernel, self.factors, f"{self.domains} domains", scan)
        return "-".join((*levels, f"{self.oversample}x{self.oversample}"))

    def model(self, cell: Tensor | None = None) -> tuple[Crystal, Experiment]:
        """A crystal with this cell, or the one given, on a tilted detector."""
        shape = "square" if (self.domains + self.phi_steps + self.oversample) % 2 else "gauss"
        spread = 0.5 if self.domains > 1 else 0.0
        values, group = CELLS[self.cell]
        sample = crystal(values, shape=shape, spread=spread, domains=self.domains, b_factor=f64(3.0))
        sample = replace(sample, space_group=group if self.tied else "P 1")
        bare = experiment(size=(20, 20))
        panel = replace(bare.detector, oversample=self.oversample, pixel_size=f64(0.7))
        panel = replace(panel, rotations=f64(1.5, -2.0, 0.7), twotheta=f64(4.0))
        scan = replace(bare.scan, phi0=f64(3.0), osc=f64(float(self.phi_steps - 1)), steps=self.phi_steps)
        factors = random_factors() if self.factors == "non-uniform F" else StructureFactors.uniform(f64(90.0))
        instrument = replace(bare, detector=panel, scan=scan, structure_factors=factors)
        return sample if cell is None else replace(sample, cell=cell), instrument

    def space(self, free: tuple[str, ...], known_background: bool = False) -> ParameterSpace:
        """The parameters named, less the mosaic where it has no domains to act on; the background a plane, or the
        factor of a known image."""
        sample, instrument = self.model()
        if known_background:
            known = 2 + torch.cos(torch.arange(400.0).double()).reshape(20, 20)
            instrument = replace(instrument, background=replace(instrument.background, image=known))
        acting = tuple(name for name in free if name != "mosaic" or self.domains > 1)
        return ParameterSpace.of(sample, instrument, acting, plane_background=True)


def whole(instrument: Experiment) -> Pixels:
    return Pixels.whole(instrument.detector.size, instrument.scale)


def prove_not_zero(photons: Tensor, background: Tensor, columns: Tensor) -> None:
    """A Bragg image (P,) and a column (P,) a parameter, none of them zero or not a number."""
    assert bool(torch.isfinite(photons).all())
    assert largest(photons - background) > 1
    assert bool((torch.linalg.vector_norm(columns, dim=0) > 1e-3).all())


# The six cell values by themselves, each pixel an output, on every kind of cell and by both kernels.


@dataclass(frozen=True)
class ByCell:
    """Expected photons (P,) of a few pixels as a function of some of the cell's six values (k,), by nothing in
    between: neither coordinates nor symmetry."""

    sample: Crystal
    instrument: Experiment
    pixels: Pixels
    places: tuple[int, ...]
    kernel: str

    @classmethod
    def of(cls, model: tuple[Crystal, Experiment], kernel: str, places: tuple[int, ...], most: int) -> "ByCell":
        sample, instrument = model
        space = ParameterSpace.of(sample, instrument, ("cell",))
        return cls(sample, instrument, choose_pixels(space, whole(instrument), most=most), places, kernel)

    @property
    def start(self) -> Tensor:
        return self.sample.cell[list(self.places)]

    def __call__(self, values: Tensor) -> Tensor:
        cell = self.sample.cell.index_put((torch.tensor(self.places),), values)
        return expected_photons(replace(self.sample, cell=cell), self.instrument, self.pixels, KERNELS[self.kernel])

    def proven(self) -> tuple[Tensor, Tensor]:
        """Photons (P,) and their Jacobian (P, k), shown not to be zero."""
        photons, jacobian = self(self.start), torch.func.jacfwd(self)(self.start)
        prove_not_zero(photons, self.instrument.background.photons(self.pixels), jacobian)
        return photons, jacobian

    def scaled(self) -> Callable[[Tensor], Tensor]:
        """Each pixel by its own largest derivative, so that a tolerance means the same in all of them."""
        size = self.proven()[1].abs().amax(1)
        return lambda values: self(values) / size.clamp_min(1e-3 * float(size.max()))


def check_cell_value(label: str) -> None:
    for cell, kernel in itertools.product(CELLS, KERNELS):
        by_cell = ByCell.of(Combination(cell).model(), kernel, (CELL_LABELS.index(label),), most=12)
        photons, jacobian = by_cell.proven()
        at = by_cell.start.requires_grad_()
        assert torch.autograd.gradcheck(by_cell.scaled(), (at,), **TOLERANCE, **MODES), (cell, kernel)
        start, column = by_cell.start, jacobian[:, 0]
        reach = 0.1 * float(torch.linalg.vector_norm(photons) / torch.linalg.vector_norm(column))
        order = _remainder_order(partial(remainder, by_cell, start, photons, column), photons, reach)
        assert order == pytest.approx(2, abs=0.1), (cell, kernel)


def remainder(function: ByCell, start: Tensor, photons: Tensor, column: Tensor, step: Tensor) -> Tensor:
    return function(start + step) - photons - step * column


def test_gradcheck_cell_a() -> None:
    check_cell_value("a")


def test_gradcheck_cell_b() -> None:
    check_cell_value("b")


def test_gradcheck_cell_c() -> None:
    check_cell_value("c")


def test_gradcheck_cell_alpha() -> None:
    check_cell_value("alpha")


def test_gradcheck_cell_beta() -> None:
    check_cell_value("beta")


def test_gradcheck_cell_gamma() -> None:
    check_cell_value("gamma")


def test_joint_gradcheck() -> None:
    """All six at once."""
    for cell, kernel in itertools.product(CELLS, KERNELS):
        by_cell = ByCell.of(Combination(cell).model(), kernel, tuple(range(6)), most=8)
        at = by_cell.start.requires_grad_()
        assert torch.autograd.gradcheck(by_cell.scaled(), (at,), **TOLERANCE, **MODES), (cell, kernel)


def test_gradgradcheck_cell_params() -> None:
    """Second derivatives by every pair of the six, pixel by pixel, none of the six rows zero."""
    for cell, kernel in itertools.product(CELLS, KERNELS):
        by_cell = ByCell.of(Combination(cell).model(), kernel, tuple(range(6)), most=8)
        scaled, start = by_cell.scaled(), by_cell.start
        weights = torch.linspace(0.5, 1.5, len(by_cell.pixels), dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(lambda values, f=scaled, w=weights: w @ f(values), start)
        assert bool((hessian.abs().amax(0) > 1e-3).all())
        given = (weights.requires_grad_(),)
        inputs = (start.requires_grad_(),)
        assert torch.autograd.gradgradcheck(scaled, inputs, given, **SECOND_TOLERANCE), (cell, kernel)


# Every parameter there is, in every combination of what the simulator can do.

COMBINATIONS = [Combination(cell, *levels) for cell in CELLS for levels in itertools.product(*LEVELS.values())]


def test_the_spaces_hold_the_whole_catalogue() -> None:
    assert {*ON_SAMPLE, *ON_INSTRUMENT, *TURNS, *ON_BEAM} == CATALOGUE.keys()
    assert Combination("cubic").space(ON_INSTRUMENT).names[-2:] == ("background_slope_fast", "background_slope_slow")
    assert Combination("cubic").space(ON_INSTRUMENT, known_background=True).names[-1] == "background_factor"
    assert {*ALL_AT_ONCE} == CATALOGUE.keys() - {"detector_rotations", *ON_BEAM}  # the same three, one by one


@pytest.mark.slow
@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_derivatives_in_every_combination(combination: Combination) -> None:
    """Jacobians by forward and by reverse mode, pixel by pixel, and a Hessian-vector product, along a direction in
    which every parameter changes the image alike: a wrong column shows in it. (Two-theta and the rotation about z do
    the same to the image; each derivative can be checked all the same.)"""
    kernel = KERNELS[combination.kernel]
    space = combination.space(ALL_AT_ONCE, known_background=combination.domains == combination.phi_steps)
    instrument = space.start.experiment
    image = ModelImage(space, choose_pixels(space, whole(instrument), kernel, most=8), kernel)
    photons, columns = image(space.zero()), torch.func.jacfwd(image)(space.zero())
    prove_not_zero(photons, instrument.background.photons(image.pixels), columns)
    signs = torch.rand(space.size, generator=torch.Generator().manual_seed(7), dtype=torch.float64) + 0.5
    along = signs / torch.linalg.vector_norm(columns, dim=0) * torch.linalg.vector_norm(photons)
    step = 0.1 / 2 ** STEPS[1] / space.size
    assert relative(columns @ along, _extrapolated(partial(at_step, image, along), step)) < 1e-8
    assert relative(reverse_jacobian(image) * along, columns * along) < 1e-10
    product, difference = hessian_products(image, along, 2 * step)
    assert relative(product * along, difference * along) < 1e-7


def at_step(image: ModelImage, along: Tensor, step: float) -> Tensor:
    return image(step * along)


def reverse_jacobian(image: ModelImage) -> Tensor:
    """(P, n), a pixel at a time."""
    at = image.space.zero().requires_grad_()
    return torch.stack([torch.autograd.grad(pixel, at, retain_graph=True)[0] for pixel in image(at)])


def hessian_products(image: ModelImage, along: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Hessian (n, n) of a weighted sum of the pixels times `along`, by reverse over reverse and by differences of the
    gradient."""
    weights = torch.linspace(0.5, 1.5, len(image.pixels), dtype=torch.float64)

    def gradient(t: float, keep: bool = False) -> tuple[Tensor, Tensor]:
        at = (t * along).requires_grad_()
        return torch.autograd.grad(weights @ image(at), at, create_graph=keep)[0], at

    kept, at = gradient(0.0, keep=True)
    return torch.autograd.grad(kept @ along, at)[0], _extrapolated(lambda t: gradient(t)[0], step)


# Every pair of levels at least once, by the whole of the library. A factor's level in the two combinations of a cell is
# a bit of its code and that bit's complement; two factors whose codes differ, and not in every bit, meet in all pairs.

CODES = {"kernel": 0b00011, "factors": 0b00101, "domains": 0b01001, "phi_steps": 0b00110, "oversample": 0b01010}
CODES |= {"tied": 0b01111, "group": 0b01100}
CHOICES: dict[str, tuple[object, ...]] = LEVELS | {"tied": (False, True), "group": ("sample", "instrument")}


def pairwise() -> list[dict[str, object]]:
    runs = []
    for (k, cell), other in itertools.product(enumerate(CELLS), (0, 1)):
        levels = {name: CHOICES[name][(code >> k & 1) ^ other] for name, code in CODES.items()}
        runs.append({"cell": cell, **levels})
    return runs


def test_every_pair_of_levels_is_met() -> None:
    met = {frozenset(pair) for run in pairwise() for pair in itertools.combinations(run.items(), 2)}
    every = {"cell": tuple(CELLS), **CHOICES}
    for (one, ones), (two, twos) in itertools.combinations(every.items(), 2):
        for pair in itertools.product(ones, twos):
            assert frozenset(zip((one, two), pair, strict=True)) in met


@pytest.mark.slow
@pytest.mark.parametrize("run", pairwise(), ids=lambda run: "-".join(map(str, run.values())))
def test_first_and_second_derivatives_by_the_library(run: dict) -> None:
    combination = Combination(**{name: level for name, level in run.items() if name != "group"})
    for free in (ON_SAMPLE,) if run["group"] == "sample" else (ON_INSTRUMENT, (*TURNS, "background")):
        space = combination.space(free, known_background=free != ON_INSTRUMENT)
        found = check_derivatives(space, whole(space.start.experiment), KERNELS[combination.kernel])
        assert found.passed, told(found)
        assert {row.direction.parameter for row in found.rows} == {parameter.name for parameter in space.parameters}


def told(found: Findings) -> list[str]:
    """Every failure, behind the label of the value it concerns."""
    return [*found.failures, *(f"{row.direction.label}: {text}" for row in found.rows for text in row.failures)]


# What a refinement sees.


@pytest.mark.parametrize("free", [ON_SAMPLE + ON_INSTRUMENT, ALL_AT_ONCE], ids=["rotations", "one by one"])
def test_gradient_flow_simulation(free: tuple[str, ...]) -> None:
    """A Poisson loss of simulated counts: every coordinate has a gradient, and it is J^T times the loss's slope."""
    space = Combination("triclinic", oversample=2).space(free)
    truth = 0.5 * torch.linspace(-1, 1, space.size, dtype=torch.float64)
    counts = torch.poisson(expected_image(*space.to_model(truth)), generator=torch.Generator().manual_seed(3))
    problem = ImageProblem.of(space, Observation.of(counts))
    z = 0.3 * torch.cos(torch.arange(space.size, dtype=torch.float64))
    mu = problem.image(z)
    assert float(mu.max()) > 100
    value, gradient = problem.loss_and_gradient(z)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().min()) > 1e-2
    by_reference = replace(problem, interference=interference)
    jacobian = torch.func.jacfwd(lambda at: by_reference.expected(at, problem.pixels))(z)
    slope = 1 - counts.flatten() / mu
    assert relative(slope @ jacobian, gradient) < 1e-10
    size = torch.linalg.vector_norm(jacobian / mu.sqrt()[:, None], dim=0)
    along = 1 / size
    difference = _extrapolated(lambda t: problem.loss(z + t * along), 1e-2)
    assert float(difference) == pytest.approx(float(gradient @ along), rel=1e-6)
    assert float(value) == pytest.approx(float(problem.loss(z)), rel=1e-12)


# Random cells.


@st.composite
def conditioned_cells(draw: Callable[..., Tensor]) -> Tensor:
    """Triclinic cells (6,) with a volume of at least a third of a brick's."""
    cell = draw(triclinic_cells())
    assume(float(volume(cell)) > float(cell[:3].prod()) / 3)
    return cell


@given(conditioned_cells())
def test_direct_and_reciprocal_metric_are_dual(cell: Tensor) -> None:
    rows = real_space_vectors(cell)
    one = torch.eye(3, dtype=torch.float64)
    assert largest(rows @ reciprocal_vectors(rows) - one) < 1e-12
    assert largest(rows @ rows.T @ reciprocal_metric(cell) - one) < 1e-10
    columns = reciprocal_vectors(rows)
    assert relative(columns.T @ columns, reciprocal_metric(cell)) < 1e-12


@given(conditioned_cells())
def test_volume_is_the_determinant_and_so_is_its_gradient(cell: Tensor) -> None:
    wanted = volume(cell)
    assert float(torch.linalg.det(real_space_vectors(cell))) == pytest.approx(float(wanted), rel=1e-12)
    assert float(torch.linalg.det(reciprocal_metric(cell))) == pytest.approx(float(wanted) ** -2, rel=1e-10)
    by_volume = torch.func.grad(volume)(cell)
    by_determinant = torch.func.grad(lambda at: torch.linalg.det(real_space_vectors(at)))(cell)
    assert relative(by_determinant, by_volume) < 1e-10
    assert relative(by_volume[:3] * cell[:3], wanted.expand(3)) < 1e-10


@given(conditioned_cells(), st.sampled_from(sorted(KERNELS)), st.sampled_from([1, 3]))
@settings(max_examples=25)
def test_gradient_of_an_image_loss_is_stable(cell: Tensor, kernel: str, domains: int) -> None:
    """Finite, not zero, and that of the loss itself, wherever the cell is."""
    model = Combination("triclinic", domains=domains, phi_steps=1).model(cell)
    by_cell = ByCell.of(model, kernel, tuple(range(6)), most=16)
    assume(len(by_cell.pixels) > 2)
    photons, jacobian = by_cell.proven()
    weights = torch.linspace(0.5, 1.5, len(photons), dtype=torch.float64) / photons

    def loss(values: Tensor) -> Tensor:
        return weights @ by_cell(values)

    at = by_cell.start.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at), at)
    assert bool(torch.isfinite(gradient).all())
    units = torch.linalg.vector_norm(photons) / torch.linalg.vector_norm(jacobian, dim=0)
    for k, unit in enumerate(torch.diag(units)):
        difference = _extrapolated(lambda t, unit=unit: loss(by_cell.start + t * unit), 3e-3)
        assert float(gradient[k] * units[k]) != 0
        assert float(gradient[k] * units[k]) == pytest.approx(float(difference), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("k", range(3))
def test_volume_is_stationary_at_right_angles(k: int) -> None:
    """The first derivative by an angle is zero there, and the second is not: -V for a change in radians."""
    cell = f64(36.0, 44.0, 50.0, 90.0, 90.0, 90.0)
    gradient, hessian = torch.func.grad(volume)(cell), torch.func.hessian(volume)(cell)
    assert abs(float(gradient[3 + k])) < 1e-9 * float(volume(cell))
    wanted = -float(volume(cell)) * (torch.pi / 180) ** 2
    assert float(hessian[3 + k, 3 + k]) == pytest.approx(wanted, rel=1e-12)


# Would the library notice? Faults put into the code, one at a time.


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    fault.inject(monkeypatch)
    found = fault.check()
    assert not found.passed
    assert any(fault.blamed in text for text in told(found)), told(found)


def test_enough_faults() -> None:
    assert len(FAULTS) >= 18


IN_THE_CODE = {(fault.free, fault.order): fault for fault in FAULTS.values() if not fault.change}


@pytest.mark.parametrize("fault", IN_THE_CODE.values(), ids=lambda fault: f"{'+'.join(fault.free)}-{fault.order}")
def test_without_the_fault_the_same_check_passes(fault: Fault) -> None:
    found = fault.check()
    assert found.passed, told(found)
