"""Parameters of beam and detector; each maker takes the starting model and returns the `Parameter`."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from refine.errors import InputError
from refine.model.beam import GaussianBeam
from refine.model.detector import Sensor
from refine.parameters.blocks import block, put_beam, put_detector
from refine.parameters.parameter import Model, Parameter
from refine.parameters.transforms import positive, shifted
from refine.physics.sources import Spread

DIVERGENCE_LABELS = ("divergence_horizontal", "divergence_vertical")


def wavelength(start: Model) -> Parameter:
    """The beam's wavelength; z is its logarithm in tenths of a percent."""
    value = start.experiment.beam.wavelength.reshape(1)
    return block(
        "wavelength",
        ("wavelength",),
        "Å",
        positive(value, 1e-3),
        lambda m, v: put_beam(m, wavelength=v[0]),
        value,
        0.8 * float(value),
        1.2 * float(value),
    )


def distance(start: Model) -> Parameter:
    """Sample to beam spot; z is its logarithm in tenths of a percent."""
    value = start.experiment.detector.distance.reshape(1)
    return block(
        "distance",
        ("distance",),
        "mm",
        positive(value, 1e-3),
        lambda m, v: put_detector(m, distance=v[0]),
        value,
        0.8 * float(value),
        1.25 * float(value),
    )


def beam_center(start: Model) -> Parameter:
    """Where the direct beam hits, fast and slow; a unit of z is a tenth of a pixel."""
    value = start.experiment.detector.beam_center
    return block(
        "beam_center",
        ("beam_center_fast", "beam_center_slow"),
        "pixels",
        shifted(value, 0.1),
        lambda m, v: put_detector(m, beam_center=v),
        value,
    )


def detector_rotations(start: Model, axes: tuple[int, ...] = (0, 1, 2)) -> Parameter:
    """Detector rotations about lab x, y, z, or some of them; a unit of z is 0.1 degrees."""
    value = start.experiment.detector.rotations[list(axes)]

    def put(model: Model, v: Tensor) -> Model:
        before = model.experiment.detector.rotations
        return put_detector(model, rotations=before.index_put((torch.tensor(axes, device=v.device),), v))

    labels = tuple(f"detector_rotation_{'xyz'[axis]}" for axis in axes)
    name = "detector_rotations" if len(axes) == 3 else f"detector_rotations.{'xyz'[axes[0]]}"
    return block(name, labels, "degrees", shifted(value, 0.1), put, value, -180.0, 180.0)


def twotheta(start: Model) -> Parameter:
    """The detector's two-theta; a unit of z is 0.1 degrees."""
    value = start.experiment.detector.twotheta.reshape(1)
    return block(
        "twotheta",
        ("twotheta",),
        "degrees",
        shifted(value, 0.1),
        lambda m, v: put_detector(m, twotheta=v[0]),
        value,
        -180.0,
        180.0,
    )


def polarization(start: Model) -> Parameter:
    """The beam's Kahn factor; a unit of z is 0.01."""
    kahn = start.experiment.beam.polarization
    if kahn is None:
        raise InputError("refinement.free: 'polarization' needs beam.polarization, a number from -1 to 1, not null")
    value = kahn.reshape(1)
    return block(
        "polarization",
        ("polarization",),
        "",
        shifted(value, 0.01),
        lambda m, v: put_beam(m, polarization=v[0]),
        value,
        -1.0,
        1.0,
    )


def divergence(start: Model) -> Parameter:
    """The full divergences that the start has, or the standard deviations of a Gaussian one; positive."""
    gaussian = start.experiment.beam.gaussian
    if gaussian is not None and start.experiment.beam.spread is None:
        return _widths(
            gaussian.divergence,
            "a beam.gaussian divergence above 0",
            lambda m, v, at: put_beam(m, gaussian=_with_widths(_gaussian(m, "divergence"), v, at)),
        )
    needed = "beam.divergence above 0"
    return _widths(
        _spread(start, "divergence", needed).divergence,
        needed,
        lambda m, v, at: put_beam(m, spread=_with_full_widths(_spread(m, "divergence", needed), v, at)),
    )


def _widths(start: Tensor, needed: str, put: Callable[[Model, Tensor, Tensor], Model]) -> Parameter:
    """Those of two widths (2,) that the start has; `put` takes the values (k,) and where they belong (k,)."""
    axes = (start > 0).nonzero()[:, 0]
    if not len(axes):
        raise InputError(f"refinement.free: 'divergence' needs {needed} to start from")
    value, labels = start[axes], tuple(DIVERGENCE_LABELS[k] for k in axes.tolist())
    return block(
        "divergence", labels, "mrad", positive(value), lambda m, v: put(m, v, axes.to(v.device)), value, 0.0, 100.0
    )


def _with_widths(gaussian: GaussianBeam, widths: Tensor, at: Tensor) -> GaussianBeam:
    return replace(gaussian, divergence=gaussian.divergence.index_put((at,), widths))


def _with_full_widths(spread: Spread, widths: Tensor, at: Tensor) -> Spread:
    return spread._replace(divergence=spread.divergence.index_put((at,), widths))


def bandwidth(start: Model) -> Parameter:
    """The standard deviation of a Gaussian spectrum over its mean; positive."""
    value = _gaussian(start, "bandwidth").bandwidth.reshape(1)
    if not bool((value > 0).all()):
        raise InputError("refinement.free: 'bandwidth' needs beam.gaussian.bandwidth_percent above 0 to start from")

    def put(model: Model, v: Tensor) -> Model:
        return put_beam(model, gaussian=replace(_gaussian(model, "bandwidth"), bandwidth=v[0]))

    return block("bandwidth", ("bandwidth",), "%", positive(value), put, value, 0.0, 50.0)


def _gaussian(model: Model, name: str) -> GaussianBeam:
    gaussian = model.experiment.beam.gaussian
    if gaussian is None:
        raise InputError(f"refinement.free: {name!r} needs beam.gaussian above 0 to start from")
    return gaussian


def dispersion(start: Model) -> Parameter:
    """The full width of the spectrum over its mean; positive."""
    spread = _spread(start, "dispersion", "beam.dispersion above 0")
    if not float(spread.dispersion) > 0:
        raise InputError("refinement.free: 'dispersion' needs beam.dispersion.percent above 0 to start from")
    value = spread.dispersion.reshape(1)

    def put(model: Model, v: Tensor) -> Model:
        return put_beam(model, spread=_spread(model, "dispersion", "")._replace(dispersion=v[0]))

    return block("dispersion", ("dispersion",), "%", positive(value), put, value, 0.0, 100.0)


def _spread(model: Model, name: str, needed: str) -> Spread:
    spread = model.experiment.beam.spread
    if not isinstance(spread, Spread):
        raise InputError(f"refinement.free: {name!r} needs {needed} to start from")
    return spread


def thickness(start: Model) -> Parameter:
    """The sensor's thickness; positive."""
    value = _sensor(start, "thickness").thickness
    return _of_sensor("thickness", value, lambda sensor, v: replace(sensor, thickness=v), 1e5)


def attenuation(start: Model) -> Parameter:
    """The depth in which the sensor absorbs all but 1/e; positive."""
    value = _sensor(start, "attenuation").attenuation_length
    return _of_sensor("attenuation", value, lambda sensor, v: replace(sensor, attenuation_length=v), 1e6)


def _of_sensor(name: str, start: Tensor, changed: Callable[[Sensor, Tensor], Sensor], upper: float) -> Parameter:
    """A length of the sensor in µm."""

    def put(model: Model, v: Tensor) -> Model:
        return put_detector(model, sensor=changed(_sensor(model, name), v[0]))

    value = start.reshape(1)
    return block(name, (name,), "µm", positive(value), put, value, 0.0, upper)


def _sensor(model: Model, name: str) -> Sensor:
    sensor = model.experiment.detector.sensor
    if sensor is None:
        raise InputError(f"refinement.free: {name!r} needs detector.thickness.um above 0 to start from")
    return sensor
