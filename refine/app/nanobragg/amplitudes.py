"""What a step contributes: the structure factor and the lattice amplitude at fractional Miller indices."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refine.app.nanobragg.files import named
from refine.app.nanobragg.scanned import scanned_grid
from refine.app.nanobragg.settings import Settings, StructureFactorSettings
from refine.io.reflections import read_structure_factors, to_grid
from refine.physics.interpolation import STENCIL, tricubic
from refine.physics.lattice import GAUSS_WIDTH, gauss, square_value
from refine.physics.round_lattice import SPHERE_IN_CUBE, ellipsoid
from refine.physics.shapes import TOPHAT_EDGE
from refine.physics.structure_factor import nearest_intensity


class StructureFactors(NamedTuple):
    """F (H, K, L), `lowest` (3,) its first indices; padded and its `padded_lowest` with the default all around.

    note: a remark for the user, empty for none.
    """

    amplitude: Tensor
    lowest: Tensor
    padded: Tensor
    padded_lowest: Tensor
    note: str = ""

    @property
    def can_interpolate(self) -> bool:
        return min(self.amplitude.shape) >= STENCIL

    def nearest(self, whole: Tensor) -> Tensor:
        """F (...) of whole indices (3, ...)."""
        return nearest_intensity(whole, self.padded, self.padded_lowest)

    def beyond(self, indices: Tensor) -> Tensor:
        """Where (...) the stencil about `indices` (3, ...) leaves the list, by nanoBragg.c's rule."""
        sizes = torch.tensor(self.amplitude.shape, dtype=torch.float64).reshape(3, *[1] * (indices.dim() - 1))
        offset = indices - self.lowest.reshape(sizes.shape)
        return ((offset + 3 > sizes) | (offset < 2)).any(0)

    def mixed(self, indices: Tensor, whole: Tensor, interpolated: Tensor) -> Tensor:
        """F (...), interpolated where `interpolated` (...)."""
        found = self.nearest(whole).clone()
        chosen = interpolated.expand(found.shape)
        if self.can_interpolate and bool(chosen.any()):
            found[chosen] = tricubic(indices[:, chosen], self.amplitude, self.lowest)
        return found


def structure_factors(settings: StructureFactorSettings, by_scanf: bool) -> StructureFactors:
    """The list as a box; of a reflection listed twice the later holds; `by_scanf` as nanoBragg.c reads it.

    Raises InputError.
    """
    if settings.hkl is None:
        one, zero = torch.full((1, 1, 1), settings.default, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        return StructureFactors(one, zero, one, zero)
    note = ""
    with named("-hkl"):
        if by_scanf:
            grid, lowest, note = scanned_grid(settings.hkl, settings.default)
        else:
            grid, lowest = _whole_list(settings.hkl, settings.default)
    first = torch.tensor(lowest, dtype=torch.float64)
    padded = np.pad(grid, 1, constant_values=settings.default)
    return StructureFactors(torch.from_numpy(grid), first, torch.from_numpy(padded), first - 1, note)


def _whole_list(path: Path, default: float) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    read = read_structure_factors(path)
    _, last = np.unique(read.hkl[::-1], axis=0, return_index=True)
    kept = len(read.hkl) - 1 - last
    return to_grid(read.hkl[kept], read.amplitude[kept], default)


class Shape(NamedTuple):
    """The crystal's shape: N (3,), a*, b*, c* (3, 3) rows in 1/Å, the name, the fudge factor.

    by_volume: the width of gauss and tophat as nanoBragg.c has it; cancels: so the peak of round.
    """

    cells: Tensor
    reciprocal: Tensor
    name: str
    fudge: float
    by_volume: bool
    cancels: bool

    def amplitude(self, delta: Tensor) -> Tensor:
        """The lattice amplitude (...) at distances (3, ...) from the nearest whole indices."""
        if self.name == "square":
            return self._square(delta)
        if self.name == "round":
            return self._cancelling_ellipsoid(delta) if self.cancels else ellipsoid(delta, self.cells, self.fudge)
        if self.name == "gauss" and not self.by_volume:
            cells = self.cells.reshape(3, *[1] * (delta.dim() - 1))
            return gauss(delta * self.fudge**0.5, cells).prod(0)
        reach, peak = self._reach(delta) * self.fudge, self.cells.prod()
        return peak * (torch.exp(-reach / GAUSS_WIDTH) if self.name == "gauss" else (reach < TOPHAT_EDGE).double())

    def _square(self, delta: Tensor) -> Tensor:
        product = torch.ones_like(delta[0])
        for along, cells in zip(delta, self.cells, strict=True):
            if cells > 1:
                product *= square_value(along, cells)
        return product

    def _cancelling_ellipsoid(self, delta: Tensor) -> Tensor:
        reach = ((delta * self.cells.reshape(3, *[1] * (delta.dim() - 1))) ** 2).sum(0)
        x = torch.pi * torch.sqrt(reach * self.fudge)
        sphere = torch.where(x == 0, 1.0, 3.0 * (torch.sin(x) / x - torch.cos(x)) / (x * x))
        return SPHERE_IN_CUBE * self.cells.prod() * sphere

    def _reach(self, delta: Tensor) -> Tensor:
        """The squared distance from the reflection, in units of the spot's width."""
        if not self.by_volume:
            return ((delta * self.cells.reshape(3, *[1] * (delta.dim() - 1))) ** 2).sum(0)
        vector = torch.tensordot(self.reciprocal.T, delta, dims=1)
        return (vector**2).sum(0) * self.cells.prod() ** 2


def shape(settings: Settings) -> Shape:
    """The shape of a command line."""
    crystal = settings.crystal
    return Shape(
        torch.tensor(crystal.cells, dtype=torch.float64),
        torch.tensor([crystal.a_star, crystal.b_star, crystal.c_star], dtype=torch.float64),
        crystal.shape,
        crystal.fudge,
        settings.defects.spot_width_by_volume,
        settings.defects.round_peak_cancels,
    )
