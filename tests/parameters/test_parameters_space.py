"""The vector z."""

import pytest
import torch
from builders import f64, largest, relative, rich_crystal, rich_experiment

from refine.model.forward import expected_image
from refine.parameters.space import ParameterSpace

SIZE = (12, 10)
FREE = ("scale", "cell", "orientation", "beam_center")
MISSET = f64(9.0, 18.0, 27.0)


def space(free: tuple[str, ...] = FREE) -> ParameterSpace:
    return ParameterSpace.of(rich_crystal(), rich_experiment(size=SIZE), free, misset_deg=MISSET)


def random_z(of: ParameterSpace, rng: torch.Generator, size: float = 3.0) -> torch.Tensor:
    return size * torch.randn(of.size, generator=rng, dtype=torch.float64)


def test_names_units_and_sizes_follow_the_order_given() -> None:
    one = space()
    assert one.names[:2] == ("scale", "a")
    assert one.names[-2:] == ("beam_center_fast", "beam_center_slow")
    assert len(one.names) == len(one.units) == one.size == 1 + 6 + 3 + 2
    other = space(FREE[::-1])
    assert sorted(other.names) == sorted(one.names)
    assert other.names[0] == "beam_center_fast"


def test_order_does_not_change_the_model(rng: torch.Generator) -> None:
    one, other = space(), space(FREE[::-1])
    z = random_z(one, rng)
    turned = torch.cat(one.split(z)[::-1])
    assert torch.equal(expected_image(*one.to_model(z)), expected_image(*other.to_model(turned)))
    assert torch.equal(torch.cat(one.split(one.physical(z))[::-1]), other.physical(turned))


def test_to_z_inverts_physical_by_name(rng: torch.Generator) -> None:
    one = space()
    z = random_z(one, rng)
    values = {p.name: p.read(part) for p, part in zip(one.parameters, one.split(z), strict=True)}
    assert largest(one.to_z(values) - z) < 1e-8
    only = one.to_z({"cell": values["cell"]})
    assert largest(only[1:7] - z[1:7]) < 1e-8
    assert largest(torch.cat([only[:1], only[7:]])) == 0


def test_start_is_not_written_to(rng: torch.Generator) -> None:
    one = space()
    before = expected_image(*one.start)
    one.to_model(random_z(one, rng))
    assert torch.equal(expected_image(*one.start), before)
    assert relative(expected_image(*one.to_model(one.zero())), before) < 1e-11


def test_covariance_is_first_order_propagation(rng: torch.Generator) -> None:
    one = space()
    z = random_z(one, rng)
    root = torch.randn(one.size, one.size, generator=rng, dtype=torch.float64)
    steps = 1e-4 * torch.eye(one.size, dtype=torch.float64)
    jacobian = torch.stack([(one.physical(z + h) - one.physical(z - h)) / 2e-4 for h in steps], 1)
    found = one.covariance(z, root @ root.T)
    assert relative(found, jacobian @ root @ root.T @ jacobian.T) < 1e-6
    draws = (1e-3 * root @ torch.randn(one.size, 20000, generator=rng, dtype=torch.float64)).T
    values = torch.stack([one.physical(z + draw) for draw in draws[:2000]])
    esds = values.std(0) / 1e-3
    assert relative(esds / torch.sqrt(torch.diagonal(found)), torch.ones(len(esds), dtype=torch.float64)) < 0.08


def test_tied_values_have_tied_errors() -> None:
    tied = ParameterSpace.of(
        rich_crystal(cell=(40.0, 40.0, 60.0, 90.0, 90.0, 90.0), space_group="P 4"),
        rich_experiment(size=SIZE),
        ("cell",),
    )
    covariance = tied.covariance(tied.zero(), torch.eye(tied.size, dtype=torch.float64))
    assert tied.size == 2
    assert float(covariance[0, 1]) == pytest.approx(float(covariance[0, 0])) == pytest.approx(float(covariance[1, 1]))
    assert largest(covariance[3:]) < 1e-18
