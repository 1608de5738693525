"""The unit cell: lengths in Å, angles in degrees, and the lattice vectors they stand for.

Canonical frame (Busing & Levy, Acta Cryst. 22, 457, 1967; nanoBragg's choice): a* along x, b* in the x-y plane,
hence c along z.
"""

import torch
from torch import Tensor


def real_space_vectors(cell: Tensor) -> Tensor:
    """Rows a, b, c (3, 3) in Å of a cell (6,) of a, b, c (Å), alpha, beta, gamma (degrees), in the canonical frame."""
    a, b, c = cell[:3].unbind()
    cos_al, cos_be, cos_ga = torch.cos(torch.deg2rad(cell[3:])).unbind()
    sin_al = torch.sin(torch.deg2rad(cell[3]))
    a_y = a * (cos_ga - cos_al * cos_be) / sin_al
    a_x = volume(cell) / (b * c * sin_al)
    zero = torch.zeros_like(a)
    rows = [a_x, a_y, a * cos_be, zero, b * sin_al, b * cos_al, zero, zero, c]
    return torch.stack(rows).reshape(3, 3)


def volume(cell: Tensor) -> Tensor:
    """Volume () in Å^3 of a cell (6,); not a number where the angles make no cell."""
    x, y, z = torch.cos(torch.deg2rad(cell[3:])).unbind()
    return cell[:3].prod() * torch.sqrt(1 - x * x - y * y - z * z + 2 * x * y * z)


def reciprocal_vectors(real_space: Tensor) -> Tensor:
    """Columns a*, b*, c* (3, 3) in 1/Å of the real-space rows a, b, c (3, 3) in Å, and the other way round."""
    return torch.linalg.inv(real_space)


def cell_of_rows(rows: Tensor) -> Tensor:
    """Cell (6,), lengths and angles in degrees, of three vectors given as rows (3, 3); the inverse of the above."""
    return cell_of_metric(rows @ rows.T)


def cell_of_metric(metric: Tensor) -> Tensor:
    """Cell (6,), lengths and angles in degrees, of a metric tensor (3, 3) of dot products."""
    lengths = torch.sqrt(torch.diagonal(metric))
    a, b, c = lengths.unbind()
    cosines = torch.stack([metric[1, 2] / (b * c), metric[0, 2] / (a * c), metric[0, 1] / (a * b)])
    return torch.cat([lengths, torch.rad2deg(torch.acos(cosines))])


def reciprocal_metric(cell: Tensor) -> Tensor:
    """Reciprocal metric tensor (3, 3) in 1/Å^2 of a cell (6,)."""
    rows = real_space_vectors(cell)
    return torch.linalg.inv(rows @ rows.T)
