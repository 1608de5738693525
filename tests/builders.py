"""Small crystals, experiments, strategies and least-squares problems that several tests use."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from refine.model.background import Background
from refine.model.beam import UNIT_FLUENCE, Beam, GaussianBeam
from refine.model.conventions import CONVENTIONS
from refine.model.crystal import Crystal, Mosaic
from refine.model.detector import Detector, Sensor
from refine.model.experiment import Experiment
from refine.model.scan import Scan
from refine.model.structure_factors import StructureFactors
from refine.physics.panel import PanelSet
from refine.physics.rotation import misset_rotation
from refine.physics.sources import Spread, even_steps, tilt_grid

TRICLINIC = (37.0, 43.0, 51.0, 82.0, 95.0, 107.0)


def f64(*values: Any) -> Tensor:
    """A float64 tensor (n,) of the values, or of the one nested list given."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Floats between two bounds, without values so small that they only test the printing of zeros."""
    return st.floats(low, high, allow_subnormal=False)


@st.composite
def triclinic_cells(draw: Callable[..., Any]) -> Tensor:
    """Cells (6,) with volume well away from zero."""
    lengths = [draw(numbers(20, 200)) for _ in range(3)]
    angles = [draw(numbers(65, 115)) for _ in range(3)]
    return f64(lengths + angles)


def vectors(low: float, high: float, size: int = 3) -> st.SearchStrategy[Tensor]:
    """Vectors (size,) of independent components."""
    return st.lists(numbers(low, high), min_size=size, max_size=size).map(f64)


def crystal(
    cell: tuple[float, ...] = TRICLINIC,
    misset: tuple[float, float, float] = (9.0, 18.0, 27.0),
    cells: tuple[float, float, float] = (5.0, 6.0, 4.0),
    shape: str = "gauss",
    spread: float = 0.0,
    domains: int = 1,
    **more: Any,
) -> Crystal:
    """A small triclinic crystal."""
    mosaic = Mosaic.sampled(f64(spread), domains)
    built = Crystal(f64(cell), misset_rotation(f64(misset)), f64(cells), mosaic, shape, f64(0.0))
    return replace(built, **more)


def detector(convention: str = "mosflm", size: tuple[int, int] = (48, 48), **more: Any) -> Detector:
    """A panel of 0.3 mm pixels 45 mm from the sample, the beam a little off its middle."""
    frame = CONVENTIONS[convention]
    fast, slow, beam, twotheta = (f64(v) for v in (frame.fast, frame.slow, frame.beam, frame.twotheta))
    centre = f64(size[1] / 2 + 0.7, size[0] / 2 - 1.3)
    built = Detector(
        size, f64(0.3), f64(45.0), centre, f64(0, 0, 0) * 0.1, f64(0.0), fast, slow, beam, twotheta, frame.pivot
    )
    return replace(built, **more)


def two_panels(flat: Detector) -> Detector:
    """The panel, and a second one beside it that is turned by 20 degrees, held by the same frame."""
    sine, cosine = np.sin(np.radians(20.0)), np.cos(np.radians(20.0))
    beside = float(flat.pixel_size) * flat.size[1] + 0.5
    origins = f64([[0.0, beside], [0.0, 1.0], [0.0, -0.7]])
    along = f64([[1.0, cosine], [0.0, 0.0], [0.0, -sine]]), f64([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    return replace(flat, panels=PanelSet(origins, *along))


def beam(convention: str = "mosflm", **more: Any) -> Beam:
    """A beam of 1 Å, the prefactor of the image 1 at 100 electrons."""
    frame = CONVENTIONS[convention]
    built = Beam(f64(1.0), f64(frame.beam), f64(UNIT_FLUENCE), f64(0.95), f64(frame.polarization))
    return replace(built, **more)


def random_factors(seed: int = 5, half: int = 10, mean: float = 100.0) -> StructureFactors:
    """Structure factors that differ from reflection to reflection."""
    draws = np.random.default_rng(seed).gamma(4.0, mean / 4, (2 * half + 1,) * 3)
    return StructureFactors.from_grid(torch.from_numpy(draws), (-half,) * 3, mean)


def experiment(convention: str = "mosflm", size: tuple[int, int] = (48, 48), **more: Any) -> Experiment:
    """A still with two photons of background."""
    panel = detector(convention, size)
    axis = f64(CONVENTIONS[convention].spindle)
    scan = Scan(f64(0.0), f64(0.0), 1, axis)
    level = Background.plane(f64(2.0, 0.0, 0.0), size)
    built = Experiment(beam(convention), panel, scan, random_factors(), level, f64(1.0))
    return replace(built, **more)


def rich_crystal(shape: str = "gauss", **more: Any) -> Crystal:
    """One with mosaic domains and a B factor, so that every parameter acts."""
    return crystal(shape=shape, spread=0.5, domains=4, b_factor=f64(3.0), **more)


def rich_experiment(convention: str = "mosflm", size: tuple[int, int] = (24, 20)) -> Experiment:
    """A short rotation, oversampled, with a tilted detector."""
    built = experiment(convention, size)
    panel = replace(built.detector, oversample=2, rotations=f64(1.5, -2.0, 0.7), twotheta=f64(4.0), pixel_size=f64(0.6))
    scan = replace(built.scan, phi0=f64(3.0), osc=f64(1.0), steps=2)
    return replace(built, detector=panel, scan=scan)


def full_experiment(convention: str = "mosflm", size: tuple[int, int] = (24, 20)) -> Experiment:
    """One in which every parameter acts: a divergent beam of two colours, an absorbing sensor, water."""
    built = rich_experiment(convention, size)
    colours = even_steps(2)
    weights = f64(0.4, 0.6)
    rays = Spread(f64(2.0, 3.0), tilt_grid((2, 2)), f64(1.5), colours, torch.ones_like(colours), weights)
    sensor = Sensor(f64(400.0), f64(300.0), 2)
    return replace(
        built,
        beam=replace(built.beam, spread=rays, gaussian=GaussianBeam(f64(0.4), f64(2.0, 3.0))),
        detector=replace(built.detector, sensor=sensor),
        background=replace(built.background, water=f64(0.02)),
    )


class Quad(NamedTuple):
    """value (), gradient (n,), curvature (n, n)."""

    value: Tensor
    gradient: Tensor
    curvature: Tensor


@dataclass(frozen=True)
class LeastSquares:
    """Half the sum of squared residuals, as a problem for a solver; a box outside which the loss is infinite."""

    residuals: Callable[[Tensor], Tensor]
    bound: float = float("inf")
    calls: list[str] = field(default_factory=list)

    def _value(self, z: Tensor) -> Tensor:
        r = self.residuals(z)
        return r @ r / 2 if bool((z.abs() <= self.bound).all()) else z.new_tensor(torch.inf)

    def loss(self, z: Tensor) -> Tensor:
        self.calls.append("loss")
        return self._value(z)

    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append("gradient")
        return self._value(z), torch.func.grad(lambda at: (self.residuals(at) ** 2).sum() / 2)(z)

    def quadratic(self, z: Tensor) -> Quad:
        self.calls.append("quadratic")
        jacobian = torch.func.jacfwd(self.residuals)(z)
        return Quad(self._value(z), self.residuals(z) @ jacobian, jacobian.T @ jacobian)

    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor:
        return torch.func.jvp(torch.func.grad(lambda at: (self.residuals(at) ** 2).sum() / 2), (z,), (v,))[1]


def largest(tensor: Tensor) -> float:
    """Largest absolute entry."""
    return float(tensor.abs().max())


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest wanted entry; infinite where there is nothing to compare with."""
    scale = largest(wanted)
    return largest(found - wanted) / scale if scale > 0 else float("inf")
