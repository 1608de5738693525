"""The refined experiment for DIALS: the document that the run began with, renewed, or a new one."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refine.app.build import by_panel
from refine.app.config import Config
from refine.app.config_instrument import Detector
from refine.app.dials import motion
from refine.io.experiment_writer import experiment_list, refined_document
from refine.io.experiments import Panel, read_experiment
from refine.io.geometries import to_dials_frame
from refine.model.detector import MM_PER_UM
from refine.parameters.parameter import Model
from refine.physics.rotation import axis_rotation

SAME = 1e-12  # relative difference of a beam's value that rounding makes


def refined_experiments(config: Config, image: Path, model: Model) -> dict[str, Any]:
    """The content of refined.expt. Where `detector.file` began the run, it is that document with the crystal, and
    beam and panels where they are others now, replaced. Raises InputError."""
    return _new(config, image, model) if config.detector.file is None else _renewed(config.detector, model)


def _renewed(detector: Detector, model: Model) -> dict[str, Any]:
    assert detector.file is not None
    source = read_experiment(detector.file, detector.index)
    found, read = model.experiment.beam, source.beam
    beam = {} if _same(float(found.wavelength), read.wavelength) else {"wavelength": float(found.wavelength)}
    if found.polarization is not None and read.polarization is not None:
        fraction = (1 + float(found.polarization)) / 2
        beam |= {} if _same(fraction, read.polarization[1]) else {"polarization_fraction": fraction}
    return refined_document(
        source,
        real_space=_real_space(model, rotating=source.rotation is not None),
        space_group=model.crystal.space_group,
        beam=beam,
        motion=motion(source, model.experiment.detector.frame()),
    )


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= SAME * abs(other)


def _real_space(model: Model, rotating: bool) -> NDArray[np.float64]:
    """Rows a, b, c (3, 3) in Å: at angle zero, or as a still shows them."""
    rows, scan = model.crystal.real_space, model.experiment.scan
    turned = rows if rotating else rows @ axis_rotation(scan.axis, torch.deg2rad(scan.phi0)).T
    return turned.cpu().numpy()


def _new(config: Config, image: Path, model: Model) -> dict[str, Any]:
    """The refined experiment as DIALS describes it, in the DIALS lab frame."""
    crystal, experiment = model
    beam, detector, scan = experiment.beam, experiment.detector, experiment.scan
    turn = to_dials_frame(config.detector.convention)
    frame = [(turn @ vector.cpu().numpy()).tolist() for vector in detector.frame()]
    kahn = 0.0 if beam.polarization is None else float(beam.polarization)
    normal = torch.linalg.cross(beam.direction, beam.polarization_axis)
    pixel, pedestal = (
        float(detector.pixel_size),
        float(by_panel("detector.offset", config.detector.offset, detector.size)),
    )
    rotating = config.crystal.scan.osc != 0
    real_space = _real_space(model, rotating)
    panel = Panel(
        origin=frame[0],
        fast=frame[1],
        slow=frame[2],
        image_size=(detector.size[1], detector.size[0]),
        pixel_size=(pixel, pixel),
        trusted_range=(-1e9 if pedestal else 0.0, config.detector.saturation or 1e9),
        gain=float(by_panel("detector.gain", config.detector.gain, detector.size)),
        pedestal=pedestal,
        thickness=float(detector.sensor.thickness) * MM_PER_UM if detector.sensor else 0.0,
        mu=1 / (float(detector.sensor.attenuation_length) * MM_PER_UM) if detector.sensor else 0.0,
        parallax=detector.sensor is not None and detector.sensor.at_mean_path,
    )
    return experiment_list(
        beam_direction=(turn @ beam.direction.cpu().numpy()).tolist(),
        wavelength=float(beam.wavelength),
        polarization_normal=(turn @ normal.cpu().numpy()).tolist(),
        polarization_fraction=(1 + kahn) / 2,
        panels=[panel],
        real_space=(real_space @ turn.T).tolist(),
        space_group=crystal.space_group,
        image=image,
        scan=(float(scan.phi0), float(scan.osc)) if rotating else None,
        spindle=(turn @ scan.axis.cpu().numpy()).tolist() if rotating else None,
    )
