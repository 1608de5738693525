"""What a space group leaves free of a unit cell."""

import gemmi
import torch
from torch import Tensor

from refine.errors import InputError

VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # gemmi's order of a symmetric matrix


def metric_basis(space_group: str) -> Tensor:
    """Symmetric matrices (k, 3, 3) that span the reciprocal metric tensors a space group allows.

    The metric transforms as an anisotropic displacement tensor does, so gemmi's constraints for an atom on the
    origin serve every crystal system and setting alike. Raises InputError where the name is unknown.
    """
    group = gemmi.find_spacegroup_by_name(space_group)
    if group is None:
        raise InputError(
            f"space group {space_group!r} is not known to gemmi; give a name such as 'P 21 21 21' or 'P43212'"
        )
    matrices = []
    for row in gemmi.adp_symmetry_constraints(group):
        matrix = torch.zeros(3, 3, dtype=torch.float64)
        for (i, j), value in zip(VOIGT, row, strict=True):
            matrix[i, j] = matrix[j, i] = value
        matrices.append(matrix)
    return torch.stack(matrices)
