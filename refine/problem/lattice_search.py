"""Lattice vectors near expected ones from spot positions, one axis at a time: a start far beyond what indexing from
the given cell and orientation reaches.

A real-space vector t of the crystal's lattice makes t . q a whole number for every spot's scattering vector q, so the
mean of cos(2 pi t . q) over the spots is near 1 there and near 0 elsewhere. Three dimensions are few enough to look
everywhere within reach (Steller, Bolotovsky & Rossmann 1997, J. Appl. Cryst. 30, 1036; Gildea et al. 2014, Acta Cryst.
D70, 2652), however far the three axes are off together.
"""

import itertools

import torch
from torch import Tensor

LENGTH_REACH = 0.07  # fraction of an axis' length that is looked at on either side of the expected length
ANGLE_REACH = 0.11  # likewise across, as a fraction of the length: 6 degrees
FINEST = 4.0  # Å: spots of higher resolution only sharpen the maxima, and ask for a finer grid
SAMPLES = 5.0  # grid points over the shortest period in use
FEWEST = 30  # spots used, of whatever resolution
KEPT = 3  # maxima kept of every axis


def lattice_candidates(expected: Tensor, scattering: Tensor) -> list[Tensor]:
    """Triples of lattice vectors (3, 3), rows in Å, near the expected rows, best first.

    scattering (3, n): the spots' vectors in 1/Å, by ascending length.
    """
    lengths = torch.linalg.vector_norm(scattering, dim=0)
    few = max(min(FEWEST, len(lengths)), int((lengths < 1 / FINEST).sum()))
    maxima = [_maxima(axis, scattering[:, :few], float(lengths[few - 1])) for axis in expected]
    triples = itertools.product(*maxima)
    ranked = sorted(triples, key=lambda triple: -sum(score for score, _ in triple))
    return [torch.stack([vector for _, vector in triple]) for triple in ranked]


def _maxima(axis: Tensor, scattering: Tensor, highest: float) -> list[tuple[float, Tensor]]:
    """The best few local maxima (score, vector (3,)) near one expected axis (3,), best first."""
    grid, shape = _grid(axis, 1 / (SAMPLES * highest))
    score = torch.cat([torch.cos(2 * torch.pi * (part @ scattering)).mean(1) for part in grid.split(4096)])
    box = score.reshape(1, 1, *shape)
    peak = (torch.nn.functional.max_pool3d(box, 3, 1, 1) == box).flatten()
    places = torch.where(peak, score, -torch.inf).topk(min(KEPT, len(score))).indices
    return [(float(score[k]), grid[k]) for k in places.tolist()]


def _grid(axis: Tensor, step: float) -> tuple[Tensor, tuple[int, int, int]]:
    """Vectors (m, 3) at most `step` apart within reach of an axis (3,), and their number along and across it."""
    length = torch.linalg.vector_norm(axis)
    along = axis / length
    across = torch.linalg.qr(torch.stack([along, *torch.eye(3).to(axis)], 1))[0][:, 1:3]
    half = [max(1, int(float(length) * reach / step) + 1) for reach in (LENGTH_REACH, ANGLE_REACH, ANGLE_REACH)]
    marks = [step * torch.arange(-n, n + 1).to(axis) for n in half]
    shifts = torch.cartesian_prod(*marks)
    grid = axis + shifts @ torch.stack([along, across[:, 0], across[:, 1]])
    a, b, c = (2 * n + 1 for n in half)
    return grid, (a, b, c)
