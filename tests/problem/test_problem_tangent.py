"""The image's derivatives by its levers, against the reference's by automatic differentiation."""

import math
from dataclasses import replace

import pytest
import torch
from builders import f64, full_experiment, largest, relative, rich_crystal, two_panels
from torch import Tensor

from refine.model.crystal import Crystal, GaussianMosaic
from refine.model.experiment import Experiment
from refine.model.forward import expected_photons
from refine.model.levers import Levers
from refine.model.pixels import Pixels
from refine.parameters.catalogue import CATALOGUE
from refine.parameters.jacobian import jacobian
from refine.parameters.space import ParameterSpace
from refine.physics.fused import FUSED, FusedSum
from refine.physics.interference import interference
from refine.physics.tile_sums import Execution
from refine.problem.tangent import cotangent, tangent

SIZE = (12, 10)
HELD = ("cell", "orientation", "scale", "cells", "mosaic", "b_factor", "background", "water")
BENDING = tuple(name for name in CATALOGUE if name not in (*HELD, "bandwidth"))  # the paths of the photons


def known_image(instrument: Experiment) -> Experiment:
    image = 2 + torch.cos(torch.arange(120.0, dtype=torch.float64)).reshape(SIZE)
    return replace(instrument, background=replace(instrument.background, image=image))


def limited(instrument: Experiment) -> Experiment:
    return replace(instrument, structure_factors=replace(instrument.structure_factors, d_min=3.0))


def corners(instrument: Experiment) -> Experiment:
    return replace(instrument, detector=replace(instrument.detector, corner_factors=True))


def on_panels(instrument: Experiment) -> Experiment:
    return replace(instrument, detector=two_panels(instrument.detector))


def dry(instrument: Experiment) -> Experiment:
    return replace(instrument, background=replace(instrument.background, water=None))


CHANGES = (lambda same: same, known_image, limited, corners, on_panels)


def space_of(sample: Crystal, instrument: Experiment, free: tuple[str, ...]) -> ParameterSpace:
    return ParameterSpace.of(sample, instrument, free, plane_background=True)


def whole(space: ParameterSpace) -> Pixels:
    panel = space.start.experiment.detector
    return Pixels.whole(panel.shape, panel.distance)


def somewhere(space: ParameterSpace) -> Tensor:
    return 0.3 * torch.cos(torch.arange(space.size, dtype=torch.float64))


def require_same(space: ParameterSpace, z: Tensor, tolerance: float = 1e-11, how: Execution | None = None) -> None:
    """Photons and every column of the Jacobian, which is not zero, are those of the reference."""
    pixels = whole(space)

    def image(at: Tensor) -> Tensor:
        return expected_photons(*space.to_model(at), pixels, interference)

    photons, found = tangent(space, z, FusedSum(how) if how else FUSED).photons_and_jacobian(pixels)
    wanted = torch.func.jacfwd(image)(z)
    assert relative(photons, image(z)) < tolerance
    require_same_gradient(space, z, photons, found, 10 * tolerance, how)
    for mine, theirs in zip(found.T, wanted.T, strict=True):
        assert largest(theirs) > 0
        assert largest(mine - theirs) / largest(theirs) < tolerance


def require_same_gradient(
    space: ParameterSpace, z: Tensor, photons: Tensor, rows: Tensor, tolerance: float, how: Execution | None
) -> None:
    """The derivatives of half the sum of the photons' squares, over two lists of pixels, are those by the Jacobian."""
    pixels, about = whole(space), cotangent(space, z, FusedSum(how) if how else FUSED)
    parts = [about.pulled(pixels[part], lambda mu, _: mu) for part in (slice(70), slice(70, None))]
    assert relative(torch.cat([part[0] for part in parts]), photons) < tolerance
    assert relative(about.to_z(parts[0][1] + parts[1][1]), photons @ rows) < tolerance


@pytest.mark.parametrize("shape", ["square", "gauss", "round"])
@pytest.mark.parametrize("change", CHANGES)
def test_all_that_leaves_the_paths_alone(shape: str, change) -> None:
    space = space_of(rich_crystal(shape), change(full_experiment(size=SIZE)), HELD)
    z = somewhere(space)
    about = tangent(space, z, FUSED)
    assert len(about.by_z) == 9 + 3 + 1 + 1 + 1 + 1 + (1 if change is known_image else 3) + 2  # angles come in threes
    require_same(space, z)


@pytest.mark.parametrize("name", HELD)
def test_each_by_itself(name: str) -> None:
    space = space_of(rich_crystal(), full_experiment(size=SIZE), (name,))
    require_same(space, somewhere(space))


def test_a_still_without_water() -> None:
    instrument = dry(full_experiment(size=SIZE))
    still = replace(instrument, scan=replace(instrument.scan, osc=f64(0.0), steps=1))
    require_same(space_of(rich_crystal("square"), still, HELD[:-1]), 0.1 * torch.ones(18).double())


def test_single_precision_is_that_of_the_sums() -> None:
    space = space_of(rich_crystal("gauss"), full_experiment(size=SIZE), HELD)
    require_same(space, somewhere(space), 1e-5, Execution(torch.float32))


@pytest.mark.parametrize("name", BENDING)
def test_what_bends_the_paths_goes_another_way(name: str) -> None:
    space = space_of(rich_crystal("gauss"), full_experiment(size=SIZE), ("cell", name))
    z = somewhere(space)
    assert torch.equal(tangent(space, z, FUSED).by_z, torch.eye(space.size).to(z))
    require_same(space, z)


def test_a_gaussian_mosaic_goes_another_way() -> None:
    sample = replace(rich_crystal("gauss"), mosaic=GaussianMosaic.of(0.04 * torch.eye(3).double()))
    space = space_of(sample, full_experiment(size=SIZE), ("cell", "orientation", "mosaic", "bandwidth"))
    z = somewhere(space)
    assert torch.equal(tangent(space, z, FUSED).by_z, torch.eye(space.size).to(z))
    require_same(space, z)


def test_levers_without_effect_are_left_out() -> None:
    space = space_of(rich_crystal(), full_experiment(size=SIZE), ("scale",))
    about = tangent(space, space.zero(), FUSED)
    assert about.by_z.tolist() == [[pytest.approx(0.01)]]
    assert about.slopes(whole(space))[1].shape == (1, 120)


def test_the_levers_are_numbers() -> None:
    found = Levers.of(rich_crystal(), full_experiment())
    assert [part.numel() for part in found] == [9, 3, 3, 1, 1, 1, 1, 2, 1]


def test_jacobian_of_few_numbers() -> None:
    z = f64(0.3, -0.2).requires_grad_()
    values = torch.stack([z[0] * z[1], z[0].exp(), z.new_zeros(())])
    assert largest(jacobian(values, z) - f64([[-0.2, 0.3], [math.exp(0.3), 0.0], [0.0, 0.0]])) < 1e-15
    assert torch.equal(jacobian(z.detach() ** 2, z), torch.zeros(2, 2).double())
    assert torch.equal(jacobian(f64(1.0).requires_grad_() * 2, z), torch.zeros(1, 2).double())
