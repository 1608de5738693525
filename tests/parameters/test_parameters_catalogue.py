"""Every refinable parameter: its start, its round trip, its place in the model, its effect."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from builders import crystal, experiment, f64, full_experiment, largest, relative, rich_crystal
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refine.errors import InputError
from refine.model.background import Background
from refine.model.crystal import GaussianMosaic, Mosaic
from refine.model.forward import expected_image
from refine.parameters.blocks import holding
from refine.parameters.catalogue import CATALOGUE, orientation
from refine.parameters.parameter import Model, Parameter
from refine.parameters.space import ParameterSpace
from refine.parameters.transforms import positive, shifted
from refine.physics.rotation import misset_angles, misset_rotation

SIZE = (24, 20)
NAMES = tuple(CATALOGUE)
MISSET = f64(9.0, 18.0, 27.0)


def start() -> Model:
    return Model(rich_crystal(), full_experiment(size=SIZE))


def start_with_image() -> Model:
    sample, instrument = start()
    known = 5 * torch.rand(SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Model(sample, replace(instrument, background=replace(instrument.background, image=known)))


def made(name: str) -> tuple[Model, Parameter]:
    """The parameter of a name; two more stand for the other forms of the background."""
    if name == "background of an image":
        model = start_with_image()
        return model, CATALOGUE["background"](model)
    if name == "mosaic of six":
        model = Model(rich_crystal(mosaic=GaussianMosaic.of(SIX)), start().experiment)
        return model, CATALOGUE["mosaic"](model)
    if name in ("bandwidth", "divergence of a Gaussian"):
        beam = replace(start().experiment.beam, spread=None)
        model = Model(rich_crystal(mosaic=GaussianMosaic.of(SIX)), replace(start().experiment, beam=beam))
        return model, CATALOGUE[name.split(" ")[0]](model)
    if name == "background plane":
        model = start()
        return model, ParameterSpace.of(*model, free=["background"], plane_background=True).parameters[0]
    model = start()
    if name == "orientation":
        return model, orientation(model, MISSET)
    return model, CATALOGUE[name](model)


SIX = f64([[0.5, 0.1, -0.05], [0.1, 0.3, 0.04], [-0.05, 0.04, 0.4]])
ALL = (*NAMES, "background of an image", "background plane", "mosaic of six", "divergence of a Gaussian")

FOUND: dict[str, Callable[[Model], Tensor]] = {
    "cell": lambda m: m.crystal.cell,
    "orientation": lambda m: misset_angles(m.crystal.orientation),
    "scale": lambda m: m.experiment.scale.reshape(1),
    "cells": lambda m: m.crystal.cells,
    "mosaic": lambda m: m.crystal.mosaic.spread_deg.reshape(1),
    "mosaic of six": lambda m: m.crystal.mosaic.covariance[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]],
    "b_factor": lambda m: m.crystal.b_factor.reshape(1),
    "wavelength": lambda m: m.experiment.beam.wavelength.reshape(1),
    "distance": lambda m: m.experiment.detector.distance.reshape(1),
    "beam_center": lambda m: m.experiment.detector.beam_center,
    "detector_rotations": lambda m: m.experiment.detector.rotations,
    "detector_rotations.x": lambda m: m.experiment.detector.rotations[:1],
    "detector_rotations.y": lambda m: m.experiment.detector.rotations[1:2],
    "detector_rotations.z": lambda m: m.experiment.detector.rotations[2:],
    "twotheta": lambda m: m.experiment.detector.twotheta.reshape(1),
    "polarization": lambda m: m.experiment.beam.polarization.reshape(1),
    "divergence": lambda m: getattr(m.experiment.beam.spread, "divergence", f64(0.0, 0.0)),
    "bandwidth": lambda m: m.experiment.beam.gaussian.bandwidth.reshape(1),
    "divergence of a Gaussian": lambda m: m.experiment.beam.gaussian.divergence,
    "dispersion": lambda m: getattr(m.experiment.beam.spread, "dispersion", f64(0.0)).reshape(1),
    "thickness": lambda m: m.experiment.detector.sensor.thickness.reshape(1),
    "attenuation": lambda m: m.experiment.detector.sensor.attenuation_length.reshape(1),
    "water": lambda m: m.experiment.background.water.reshape(1),
    "background": lambda m: m.experiment.background.coefficients[:1],
    "background of an image": lambda m: m.experiment.background.factor.reshape(1),
    "background plane": lambda m: m.experiment.background.coefficients,
}


def test_every_entry_has_its_row_here() -> None:
    assert set(FOUND) == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_zero_is_the_start(name: str) -> None:
    model, parameter = made(name)
    zero = f64([0.0] * parameter.size)
    values = parameter.read(zero)
    assert len(values) == len(parameter.labels) == len(parameter.units) == len(parameter.lower) == len(parameter.upper)
    assert relative(values, FOUND[name](model)) < 1e-13
    assert bool(((values > parameter.lower) & (values < parameter.upper)).all())
    assert largest(parameter.encode(values)) < 1e-9


@pytest.mark.parametrize("name", ALL)
def test_catalogue_name_is_the_parameters_own(name: str) -> None:
    assert made(name)[1].name == name.split(" ")[0]


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 10**6))
def test_encode_inverts_read_and_place_puts_what_read_says(name: str, seed: int) -> None:
    model, parameter = made(name)
    z = 5 * torch.randn(parameter.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = parameter.read(z)
    assert largest(parameter.encode(values) - z) < 1e-8
    placed = FOUND[name](parameter.place(model, z))
    if name == "orientation":
        assert largest(placed - values) < 1e-11
    else:
        assert torch.equal(placed, values)


@pytest.mark.parametrize("name", ALL)
def test_nothing_else_is_moved(name: str) -> None:
    model, parameter = made(name)
    placed = parameter.place(model, f64([0.7] * parameter.size))
    for other in NAMES:
        same = {other.split(".")[0], name.split(".")[0].split(" ")[0]}
        if len(same) == 2:
            assert torch.equal(FOUND[other](placed), FOUND[other](model)), other
    assert placed.crystal.space_group == model.crystal.space_group
    assert placed.experiment.scan == model.experiment.scan


@pytest.mark.parametrize("name", ALL)
def test_a_unit_of_every_coordinate_shows_in_the_image(name: str) -> None:
    model, parameter = made(name)
    before = expected_image(*model)
    for unit in torch.eye(parameter.size, dtype=torch.float64):
        change = expected_image(*parameter.place(model, unit)) - before
        assert largest(change) > 1e-4 * largest(before) or largest(change) > 0.005
        opposite = expected_image(*parameter.place(model, -unit)) - before
        assert float((change * opposite).sum()) < 0


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("detector_rotations.")])
def test_single_detector_rotations_leave_the_others(name: str) -> None:
    model, parameter = made(name)
    placed = parameter.place(model, f64([3.0])).experiment.detector.rotations - model.experiment.detector.rotations
    axis = "xyz".index(name[-1])
    assert float(placed[axis]) == pytest.approx(0.3)
    assert largest(placed[[i for i in range(3) if i != axis]]) == 0


@pytest.mark.parametrize(
    "misset",
    [
        (170.0, 5.0, -3.0),
        (0.0, 100.0, 0.0),
        (-175.0, 100.0, 179.9),
        (10.0, -95.0, 350.0),
        (9.0, 88.0, 27.0),
        (400.0, -200.0, 0.0),
    ],
)
def test_reported_angles_continue_the_given_branch(misset: tuple[float, float, float]) -> None:
    given_angles = f64(misset)
    model = Model(crystal(misset=misset), experiment(size=SIZE))
    parameter = orientation(model, given_angles)
    assert largest(parameter.read(f64(0.0, 0.0, 0.0)) - given_angles) < 1e-9
    for unit in torch.eye(3, dtype=torch.float64):
        values = parameter.read(2 * unit)
        assert largest(values - given_angles) < 10  # 0.2 degrees, seen through angles near their pole
        assert largest(misset_rotation(values) - parameter.place(model, 2 * unit).crystal.orientation) < 1e-11
        assert largest(parameter.encode(values) - 2 * unit) < 1e-8


def test_angles_of_an_orientation_without_angles_are_a_small_rotation() -> None:
    model = Model(crystal(), experiment(size=SIZE))
    parameter = orientation(model)
    assert parameter.read(f64(0.0, 0.0, 0.0)).tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    assert parameter.read(f64(1.0, 0.0, 0.0)).tolist() == pytest.approx([0.1, 0, 0], abs=1e-12)
    turn = misset_rotation(f64(0.0, 0.1, 0.0))
    assert (
        largest(parameter.place(model, f64(0.0, 1.0, 0.0)).crystal.orientation - turn @ model.crystal.orientation)
        < 1e-12
    )


REFUSED = {
    "cells of one": (["cells"], {"cells": (5.0, 1.0, 5.0)}, "above 1"),
    "no spread": (["mosaic"], {"spread": 0.0, "domains": 5}, "mosaic.spread_deg"),
    "one domain": (["mosaic"], {"spread": 0.3, "domains": 1}, "2 domains"),
    "unknown": (["cell", "misset"], {}, "misset"),
    "nothing": ([], {}, "nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_refined_is_refused_with_its_name(name: str) -> None:
    free, sample, text = REFUSED[name]
    with pytest.raises(InputError, match=text) as caught:
        ParameterSpace.of(crystal(**sample), experiment(size=SIZE), free=free)
    assert "refinement.free" in str(caught.value)


def test_unknown_space_group_is_refused() -> None:
    with pytest.raises(InputError, match="P 7 7 7"):
        ParameterSpace.of(crystal(space_group="P 7 7 7"), experiment(size=SIZE))


def test_limits_are_honoured() -> None:
    space = ParameterSpace.of(rich_crystal(), full_experiment(size=SIZE), free=NAMES[:9])
    assert space.admits(space.zero())
    assert not space.admits(space.zero().fill_(float("nan")))
    for name, values in {
        "cell": f64(37.0, 43.0, 62.0, 82.0, 95.0, 107.0),
        "wavelength": f64([1.3]),
        "distance": f64([30.0]),
        "mosaic": f64([21.0]),
        "b_factor": f64([600.0]),
    }.items():
        assert not space.admits(space.to_z({name: values})), name
    assert not space.admits(space.to_z({"cell": f64(37.0, 43.0, 51.0, 93.0, 95.0, 107.0)}))
    assert space.admits(space.to_z({"cell": f64(38.0, 42.0, 55.0, 84.0, 95.0, 107.0), "wavelength": f64([1.1])}))


def test_transforms() -> None:
    z = f64(-30.0, 0.0, 70.0)
    plain, bounded = shifted(f64(5.0, -2.0, 0.0), 0.1), positive(f64(5.0, 1.5, 3.0), 0.01, lowest=1.0)
    for transform in (plain, bounded):
        assert largest(transform.encode(transform.decode(z)) - z) < 1e-11
    assert float(bounded.decode(f64(-2000.0, -2000.0, -2000.0)).min()) > 1
    with pytest.raises(ValueError, match="above 0"):
        positive(f64([0.0]))


def test_background_level_of_zero_can_be_refined() -> None:
    model = Model(crystal(), replace(experiment(size=SIZE), background=Background.plane(f64(0.0, 0.0, 0.0), SIZE)))
    parameter = CATALOGUE["background"](model)
    assert float(parameter.read(f64([1.0]))[0]) > 0


def test_mosaic_keeps_its_domains() -> None:
    model, parameter = made("mosaic")
    placed = parameter.place(model, f64([4.0])).crystal.mosaic
    assert isinstance(placed, Mosaic)
    assert torch.equal(placed.axes, model.crystal.mosaic.axes)
    assert torch.equal(placed.fractions, model.crystal.mosaic.fractions)


def test_parameters_act_together_in_any_order(rng: torch.Generator) -> None:
    """What one puts into the model, another does not take out."""
    free = [name for name in NAMES if name != "detector_rotations"]
    for names in (free, free[::-1]):
        space = ParameterSpace.of(*start(), names, misset_deg=MISSET)
        z = torch.randn(space.size, generator=rng, dtype=torch.float64)
        model = space.to_model(z)
        for parameter, part in zip(space.parameters, space.split(z), strict=True):
            assert largest(FOUND[parameter.name](model) - parameter.read(part)) < 1e-10, parameter.name


def test_a_parameter_that_holds_a_coordinate_is_the_same_but_for_it() -> None:
    model, whole = made("detector_rotations")
    part, z = holding(whole, 1), f64(0.4, -0.7)
    assert part.size == 2
    assert torch.equal(part.read(z), whole.read(f64(0.4, 0.0, -0.7)))
    assert torch.equal(part.encode(part.read(z)), whole.encode(part.read(z))[[0, 2]])
    assert torch.equal(
        part.place(model, z).experiment.detector.rotations,
        whole.place(model, f64(0.4, 0.0, -0.7)).experiment.detector.rotations,
    )
