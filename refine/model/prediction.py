"""Which reflections a still of a Gaussian mosaic shows, and where."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from refine.model.crystal import Crystal, Mosaic
from refine.model.detector import Detector
from refine.model.experiment import Experiment
from refine.model.forward import blur, photons_per_electron
from refine.physics.gaussian_spots import GaussianSpots, gaussian_spots, reflected
from refine.physics.parallax import path_deviation
from refine.physics.rotation import axis_rotation

ROUGH = 2.0  # times the reach that a lattice point must be within before its own spread is looked at


class Predicted(NamedTuple):
    """Reflections (R, 3) that meet the detector: panel (R,), fast, slow (R,) in pixels, the outer corner of the panel's
    first pixel at (0, 0); distance (R,) of the Ewald sphere from the reflection's centre, in standard deviations."""

    indices: Tensor
    panel: Tensor
    fast: Tensor
    slow: Tensor
    distance: Tensor

    def __len__(self) -> int:
        return len(self.fast)

    def chosen(self, which: Tensor) -> "Predicted":
        """Some of them, by a mask or by their places."""
        return Predicted(*(part[which] for part in self))


def standing_real_space(crystal: Crystal, experiment: Experiment) -> Tensor:
    """Rows a, b, c (3, 3) in Å as a still shows them: at phi0."""
    scan = experiment.scan
    return crystal.real_space @ axis_rotation(scan.axis, torch.deg2rad(scan.phi0)).T


def spots_of(
    crystal: Crystal, experiment: Experiment, indices: Tensor, recorded: Tensor | None = None
) -> GaussianSpots:
    """The reflections (R, 3) of a still, their heights in photons per unit of |F|^2 in a pixel of 1 sr; as the detector
    records them where their `recording` is given."""
    if isinstance(crystal.mosaic, Mosaic):
        raise ValueError("reflections are followed one by one for a Gaussian mosaic only")
    shape = (standing_real_space(crystal, experiment), crystal.cells, blur(crystal.mosaic, experiment))
    found = gaussian_spots(indices, *shape, recorded)
    fall = -crystal.b_factor / 2 * (found.centres**2).sum(1)
    return found._replace(log_heights=found.log_heights + torch.log(photons_per_electron(experiment)) + fall)


def recording(experiment: Experiment, spots: Predicted) -> Tensor:
    """What the detector spreads reflections by, as causes (R, k, 3), standard deviations in 1/Å: photons count where
    their pixel's centre is, in whichever of its sub-pixels they fell and, with a sensor, however deep they went.

    A Gaussian of the sub-pixels' variance, (1 - 1 / oversample^2) / 12 of the pixel's edge squared, stands for them:
    the model's photons are taken at the pixel's centre. All of it lies in the Ewald sphere and moves no spot.
    """
    detector, panel = experiment.detector, None if experiment.detector.panels is None else spots.panel

    def rays(fast: Tensor, slow: Tensor) -> Tensor:
        return torch.nn.functional.normalize(detector.points(fast, slow, panel), dim=0)

    across = rays(spots.fast + 0.5, spots.slow) - rays(spots.fast - 0.5, spots.slow)
    along = rays(spots.fast, spots.slow + 0.5) - rays(spots.fast, spots.slow - 0.5)
    edge = ((1 - detector.oversample**-2) / 12) ** 0.5
    causes = [edge * across, edge * along]
    if detector.sensor is not None:
        ray, normals = rays(spots.fast, spots.slow), detector.normals(spots.fast, spots.slow, panel)
        spread = path_deviation((ray * normals).sum(0), *detector.sensor.in_mm)
        shift = [part / detector.pixel_size for part in detector.shift(ray, spread, panel)]
        causes.append(across * shift[0] + along * shift[1])
    return torch.stack(causes, 1).permute(2, 1, 0) / experiment.beam.wavelength


def predict(crystal: Crystal, experiment: Experiment, indices: Tensor) -> Predicted:
    """Where reflections (R, 3) are recorded; panel -1 and undefined places where the detector does not meet them."""
    beam = experiment.beam
    found = reflected(spots_of(crystal, experiment, indices), beam.direction, beam.wavelength)
    return Predicted(indices, *_recorded(experiment.detector, found.rays), found.distances)


def predict_all(
    crystal: Crystal, experiment: Experiment, d_min: float, d_max: float = torch.inf, reach: float = 3.0
) -> Predicted:
    """Every reflection between two resolutions (Å) that is recorded and whose centre is within `reach` standard
    deviations of the Ewald sphere."""
    with torch.no_grad():
        near = torch.cat([*_near_sphere(crystal, experiment, d_min, d_max, ROUGH * reach)])
        found = predict(crystal, experiment, near)
        return found.chosen((found.panel >= 0) & (found.distance.abs() < reach))


def corner_resolution(experiment: Experiment) -> float:
    """The highest resolution (Å) of the detector's corners."""
    detector, beam = experiment.detector, experiment.beam
    slow, fast = (torch.arange(2).to(beam.wavelength) * size for size in detector.size)
    corners = torch.cartesian_prod(slow, fast)
    panels = detector.shape[0] if detector.panels is not None else 1
    which = None if detector.panels is None else torch.arange(panels).repeat_interleave(4)
    places = corners.repeat(panels, 1)
    points = detector.points(places[:, 1], places[:, 0], which)
    rays = points / torch.linalg.vector_norm(points, dim=0)
    q = torch.linalg.vector_norm(rays - beam.direction[:, None], dim=0) / beam.wavelength
    return float(1 / q.max())


def _near_sphere(
    crystal: Crystal, experiment: Experiment, d_min: float, d_max: float, reach: float
) -> Iterator[Tensor]:
    """Reflections (R, 3) that may be within reach, slab by slab of h, so that memory stays small."""
    rows, beam = standing_real_space(crystal, experiment), experiment.beam
    limits = [int(edge / d_min) for edge in torch.linalg.vector_norm(rows, dim=1).tolist()]
    h, k, l = (  # noqa: E741 - the field's own names
        torch.arange(-limit, limit + 1).to(rows) for limit in limits
    )
    reciprocal, (own, by_length) = torch.linalg.inv(rows), _variance_limits(crystal, experiment)
    for plane in h:
        indices = torch.cartesian_prod(plane[None], k, l)
        q = indices @ reciprocal.T
        length = torch.linalg.vector_norm(q, dim=1)
        within = (length <= 1 / d_min) & (length >= 1 / d_max) & (length > 0)
        indices, q = indices[within], q[within]
        away = torch.linalg.vector_norm(beam.direction / beam.wavelength + q, dim=1) - 1 / beam.wavelength
        yield indices[away.abs() < reach * torch.sqrt(own + by_length * length[within] ** 2)]


def _variance_limits(crystal: Crystal, experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Upper limits of a reflection's variance in any direction: () in 1/Å^2 of what all share, and () times |q|^2."""
    none = spots_of(crystal, experiment, crystal.cell.new_zeros(1, 3)).covariances[0]
    assert not isinstance(crystal.mosaic, Mosaic)
    causes = blur(crystal.mosaic, experiment)
    return torch.trace(none), torch.linalg.matrix_norm(causes.rotations) ** 2 + causes.bandwidth**2


def _recorded(detector: Detector, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Panel (R,), fast, slow (R,) of rays (3, R); panel -1 where none is met."""
    none = torch.full_like(rays[0], torch.nan)
    panels, fasts, slows = torch.full_like(none, -1, dtype=torch.int64), none, none
    for number in range(1 if detector.panels is None else detector.shape[0]):
        panel = None if detector.panels is None else torch.full_like(panels, number)
        fast, slow = detector.recorded(rays, panel)
        ahead = (detector.normals(fast, slow, panel) * rays).sum(0) > 0
        inside = (fast >= 0) & (fast < detector.size[1]) & (slow >= 0) & (slow < detector.size[0])
        here = ahead & inside & (panels < 0)
        panels = torch.where(here, number, panels)
        fasts, slows = torch.where(here, fast, fasts), torch.where(here, slow, slows)
    return panels, fasts, slows
