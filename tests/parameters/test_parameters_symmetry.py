"""The cell under every space group."""

import gemmi
import pytest
import torch
from builders import crystal, experiment, f64, largest, relative

from refine.errors import InputError
from refine.parameters.catalogue import cell
from refine.parameters.parameter import Model
from refine.parameters.symmetry import metric_basis

EXPERIMENT = experiment(size=(4, 4))
FREE = {"triclinic": 6, "monoclinic": 4, "orthorhombic": 3, "tetragonal": 2, "trigonal": 2, "hexagonal": 2, "cubic": 1}
GROUPS = [group for group in gemmi.spacegroup_table() if group.is_reference_setting()]
SETTINGS = list(gemmi.spacegroup_table())


def is_rhombohedral(group: gemmi.SpaceGroup) -> bool:
    return group.hm.startswith("R") and group.ext == "R"


def allowed_cell(group: gemmi.SpaceGroup) -> tuple[float, ...]:
    """A cell of the group's crystal system and setting."""
    system = group.crystal_system_str()
    if is_rhombohedral(group):
        return (50.0, 50.0, 50.0, 75.0, 75.0, 75.0)
    if system == "monoclinic":
        unique = group.monoclinic_unique_axis()
        return (40.0, 50.0, 60.0, *(103.0 if axis == unique else 90.0 for axis in "abc"))
    return {
        "triclinic": (40.0, 50.0, 60.0, 82.0, 95.0, 107.0),
        "orthorhombic": (40.0, 50.0, 60.0, 90.0, 90.0, 90.0),
        "tetragonal": (40.0, 40.0, 60.0, 90.0, 90.0, 90.0),
        "trigonal": (40.0, 40.0, 60.0, 90.0, 90.0, 120.0),
        "hexagonal": (40.0, 40.0, 60.0, 90.0, 90.0, 120.0),
        "cubic": (40.0, 40.0, 40.0, 90.0, 90.0, 90.0),
    }[system]


def equal_values(group: gemmi.SpaceGroup) -> list[tuple[int, int]]:
    """Pairs of cell values that the system ties."""
    if is_rhombohedral(group):
        return [(0, 1), (1, 2), (3, 4), (4, 5)]
    ties = {"tetragonal": [(0, 1)], "trigonal": [(0, 1)], "hexagonal": [(0, 1)], "cubic": [(0, 1), (1, 2)]}
    return ties.get(group.crystal_system_str(), [])


def test_all_230_are_here() -> None:
    assert sorted(group.number for group in GROUPS) == list(range(1, 231))
    assert len(SETTINGS) > 500


def test_every_group_and_setting_frees_what_its_system_leaves_free(rng: torch.Generator) -> None:
    for group in SETTINGS:
        start = allowed_cell(group)
        parameter = cell(Model(crystal(start, space_group=group.xhm()), EXPERIMENT))
        assert parameter.size == FREE[group.crystal_system_str()], group.xhm()
        z = 20 * torch.randn(parameter.size, generator=rng, dtype=torch.float64)
        found = parameter.read(z)
        assert largest(found - f64(start)) > 1e-4, group.xhm()
        for i, j in equal_values(group):
            assert abs(float(found[i] - found[j])) < 1e-9, group.xhm()
        if not is_rhombohedral(group):
            fixed = [i for i in (3, 4, 5) if start[i] in (90.0, 120.0) and group.crystal_system_str() != "triclinic"]
            assert largest((found - f64(start))[fixed] if fixed else f64([0.0])) < 1e-9, group.xhm()
        assert largest(parameter.encode(found) - z) < 1e-7, group.xhm()


def test_basis_is_invariant_under_the_groups_operations() -> None:
    """B = R^T B R for every operation's rotation, directly from the operations: no table of systems in between."""
    for group in GROUPS:
        basis = metric_basis(group.xhm())
        for operation in group.operations().sym_ops:
            rotation = torch.tensor(operation.rot, dtype=torch.float64) / operation.DEN
            turned = rotation @ basis @ rotation.T  # rows h transform as h R: reciprocal metric, contravariant
            assert largest(turned - basis) < 1e-12, group.xhm()
        assert int(torch.linalg.matrix_rank(basis.flatten(1))) == len(basis)


def test_a_cell_that_breaks_the_symmetry_is_projected_by_encode() -> None:
    parameter = cell(Model(crystal((40.0, 40.0, 60.0, 90.0, 90.0, 90.0), space_group="P 4"), EXPERIMENT))
    found = parameter.read(parameter.encode(f64(40.5, 40.7, 60.0, 90.0, 90.2, 90.0)))
    assert relative(found, f64(40.6, 40.6, 60.0, 90.0, 90.0, 90.0)) < 1e-3
    assert float(found[0]) == pytest.approx(float(found[1]), abs=1e-10)


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="not known"):
        metric_basis("Q 1")
