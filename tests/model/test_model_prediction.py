"""How the detector spreads the reflections of a still."""

from dataclasses import replace

import torch
from builders import f64, largest, relative
from stills import D_MIN, model
from torch import Tensor

from refine.model.detector import Sensor
from refine.model.prediction import predict_all, recording, spots_of
from refine.physics.gaussian_spots import profiles, reflected

SHARP = model()
FINE = replace(SHARP.experiment, detector=replace(SHARP.experiment.detector, oversample=8))
STILL = SHARP._replace(crystal=replace(SHARP.crystal, cells=f64(8.0, 7.0, 6.0)), experiment=FINE)  # spots of a pixel
SPOTS = predict_all(*STILL, D_MIN)


def values(fast: Tensor, slow: Tensor, recorded: Tensor | None) -> Tensor:
    """Profiles (R, P) at places (R, P) in pixels."""
    experiment = STILL.experiment
    points = experiment.detector.points(fast, slow)
    rays = torch.nn.functional.normalize(points, dim=0)
    q = (rays - experiment.beam.direction[:, None, None]) / experiment.beam.wavelength
    return profiles(spots_of(*STILL, SPOTS.indices, recorded), q).values


def test_a_pixel_is_as_if_averaged_over_its_area() -> None:
    """Near spots, within what a Gaussian of the pixel's variance can say; the pixel's centre alone is far off."""
    fine = (torch.arange(8).double() + 0.5) / 8 - 0.5
    fast, slow = ((middle[:, None] + torch.zeros(len(fine) ** 2)) for middle in (SPOTS.fast, SPOTS.slow))
    across, along = torch.cartesian_prod(fine, fine).T
    averaged = values(fast + across, slow + along, None).mean(1)
    found, centre = (
        values(SPOTS.fast[:, None], SPOTS.slow[:, None], recorded)[:, 0]
        for recorded in (recording(STILL.experiment, SPOTS), None)
    )
    assert relative(found, averaged) < 0.05
    assert relative(centre, averaged) > 0.2


def test_centres_alone_have_no_area() -> None:
    assert largest(recording(SHARP.experiment, SPOTS)) == 0


def test_recording_moves_no_spot() -> None:
    beam = STILL.experiment.beam
    sensor = Sensor(f64([450.0])[0], f64([300.0])[0], at_mean_path=True)
    thick = replace(STILL.experiment, detector=replace(STILL.experiment.detector, sensor=sensor))
    for experiment in (STILL.experiment, thick):
        recorded = recording(experiment, SPOTS)
        there, before = (
            reflected(spots_of(*STILL, SPOTS.indices, causes), beam.direction, beam.wavelength)
            for causes in (recorded, None)
        )
        assert largest(there.rays - before.rays) < 2e-6  # radians; a pixel is a thousand times as much


def test_a_sensor_spreads_along_the_ray_by_the_paths_in_it() -> None:
    detector = STILL.experiment.detector
    sensor = Sensor(f64([450.0])[0], f64([300.0])[0])
    thick = replace(STILL.experiment, detector=replace(detector, sensor=sensor))
    cause = recording(thick, SPOTS)[:, 2]
    radial = torch.hypot(SPOTS.fast - detector.beam_center[0], SPOTS.slow - detector.beam_center[1])
    far, near = radial.argmax(), radial.argmin()
    assert torch.linalg.vector_norm(cause[far]) > 2 * torch.linalg.vector_norm(cause[near])
    ray = torch.nn.functional.normalize(detector.points(SPOTS.fast, SPOTS.slow), dim=0)
    assert largest((cause * ray.T).sum(1) / torch.linalg.vector_norm(cause, dim=1)) < 1e-3
