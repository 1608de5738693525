"""Unit cells, against gemmi and against their own inverses."""

import gemmi
import numpy as np
import torch
from builders import f64, relative, triclinic_cells, vectors
from hypothesis import given
from torch import Tensor

from refine.physics.cell import (
    cell_of_metric,
    cell_of_rows,
    real_space_vectors,
    reciprocal_metric,
    reciprocal_vectors,
    volume,
)


@given(triclinic_cells())
def test_reciprocal_vectors_are_dual(cell: Tensor) -> None:
    rows = real_space_vectors(cell)
    assert float((rows @ reciprocal_vectors(rows) - torch.eye(3)).abs().max()) < 1e-12
    assert relative(reciprocal_vectors(reciprocal_vectors(rows)), rows) < 1e-12


@given(triclinic_cells())
def test_volume_is_gemmis_and_the_determinant(cell: Tensor) -> None:
    wanted = gemmi.UnitCell(*cell.tolist()).volume
    assert abs(float(volume(cell)) / wanted - 1) < 1e-12
    assert abs(float(torch.linalg.det(real_space_vectors(cell))) / wanted - 1) < 1e-12


@given(triclinic_cells())
def test_cell_comes_back_from_its_vectors_and_metric(cell: Tensor) -> None:
    rows = real_space_vectors(cell)
    assert relative(cell_of_rows(rows), cell) < 1e-12
    assert relative(cell_of_metric(torch.linalg.inv(reciprocal_metric(cell))), cell) < 1e-12


@given(triclinic_cells())
def test_frame_has_a_star_on_x_and_b_star_in_the_xy_plane(cell: Tensor) -> None:
    columns = reciprocal_vectors(real_space_vectors(cell))
    assert float(columns[[1, 2, 2], [0, 0, 1]].abs().max()) < 1e-14
    assert float(torch.diagonal(columns).min()) > 0


@given(triclinic_cells(), vectors(-2, 2))
def test_distances_are_gemmis(cell: Tensor, fractional: Tensor) -> None:
    known = gemmi.UnitCell(*cell.tolist())
    wanted = known.orthogonalize(gemmi.Fractional(*fractional.tolist())).length()
    assert abs(float(torch.linalg.vector_norm(fractional @ real_space_vectors(cell))) - wanted) < 1e-10


@given(triclinic_cells())
def test_reciprocal_metric_is_gemmis(cell: Tensor) -> None:
    known = gemmi.UnitCell(*cell.tolist())
    metric = reciprocal_metric(cell)
    for h in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, -3], [-4, 1, 2]):
        found = np.array(h) @ metric.numpy() @ np.array(h)
        assert abs(found * known.calculate_d(h) ** 2 - 1) < 1e-11
    lengths = known.reciprocal()
    assert relative(cell_of_metric(metric), f64([*lengths.parameters])) < 1e-11


def test_angles_that_make_no_cell_have_no_volume() -> None:
    assert bool(torch.isnan(volume(f64(10.0, 10.0, 10.0, 120.0, 120.0, 130.0))))


@given(triclinic_cells())
def test_derivatives_of_the_vectors(cell: Tensor) -> None:
    jacobian = torch.func.jacfwd(real_space_vectors)(cell)
    assert float(jacobian.abs().amax((0, 1)).min()) > 1e-3
    assert torch.autograd.gradcheck(real_space_vectors, (cell.clone().requires_grad_(),), atol=1e-6)
