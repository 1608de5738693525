"""Solid angle, polarisation and absorption: which are taken once a pixel, which in every step, which compound."""

from typing import NamedTuple

import torch
from torch import Tensor

from refine.app.nanobragg.settings import Settings
from refine.physics.absorption import absorbed_fraction
from refine.physics.polarization import polarization
from refine.physics.solid_angle import solid_angle

NAMES = ("capture", "polar", "omega")


class Rules(NamedTuple):
    """each: factors taken anew in every step; compounding: those of them that multiply the running sum."""

    each: frozenset[str]
    compounding: frozenset[str]

    @property
    def once(self) -> tuple[str, ...]:
        """Factors that multiply the finished sum."""
        return tuple(name for name in NAMES if name not in self.each)

    @property
    def averaged(self) -> tuple[str, ...]:
        """Factors that multiply the step's own term."""
        return tuple(name for name in NAMES if name in self.each - self.compounding)


def rules(settings: Settings) -> Rules:
    """What the command line and the defects make of the three factors."""
    sampling, defects = settings.sampling, settings.defects
    flags = {
        "capture": sampling.oversample_thickness,
        "polar": sampling.oversample_polarization,
        "omega": sampling.oversample_solid_angle,
    }
    once = {
        "capture": defects.capture_of_last_layer,
        "polar": defects.corner_factors,
        "omega": defects.corner_factors,
    }
    given = frozenset(name for name in NAMES if flags[name])
    each = given | {name for name in NAMES if not once[name]}
    return Rules(frozenset(each), given if defects.oversampled_factors_compound else frozenset())


class Factors(NamedTuple):
    """The factors (P,) as they stand at a step; 0 where not yet known."""

    capture: Tensor
    polar: Tensor
    omega: Tensor

    def product(self, names: tuple[str, ...] | frozenset[str]) -> Tensor:
        """The product of those named."""
        found = torch.ones_like(self.omega)
        for name in names:
            found = found * getattr(self, name)
        return found


def start(settings: Settings, rule: Rules, pixels: int) -> Factors:
    """Before the first step of a pixel."""
    zero = torch.zeros(pixels, dtype=torch.float64)
    return Factors(zero, zero if _polarizes(settings, rule) else zero + 1, zero)


def new_layer(factors: Factors, settings: Settings, rule: Rules) -> Factors:
    """Before the first sub-pixel of a layer; without a sensor everything is captured."""
    if settings.detector.sensor_thickness == 0:
        vanishes = "capture" in rule.compounding  # nanoBragg.c: the fraction that no thickness absorbs
        return factors._replace(capture=torch.full_like(factors.omega, 0.0 if vanishes else 1.0))
    return factors._replace(capture=torch.zeros_like(factors.omega))


def new_subpixel(factors: Factors, settings: Settings, rule: Rules, layer: int, ray: Tensor, path: Tensor) -> Factors:
    """At a sub-pixel in direction `ray` (3, P), `path` (P,) m away."""
    panel = settings.detector
    deeper = 0.0 if settings.defects.solid_angle_of_front else layer * panel.layer_thickness / 1000.0
    plane, pixel = (
        torch.tensor(number, dtype=torch.float64)
        for number in (panel.place.close_distance + deeper, panel.place.pixel_size)
    )
    omega = 1.0 / path**2 if panel.point_pixel else solid_angle(path, plane, pixel)
    factors = factors._replace(omega=_taken("omega", factors.omega, omega, rule))
    if not panel.sensor_thickness:
        return factors
    obliquity = (ray * torch.tensor(panel.normal, dtype=torch.float64)[:, None]).sum(0)
    step, attenuation = (
        torch.tensor(number, dtype=torch.float64) for number in (panel.layer_thickness, panel.attenuation or 0.0)
    )
    capture = absorbed_fraction(layer * step, step, attenuation, obliquity)
    return factors._replace(capture=_taken("capture", factors.capture, capture, rule))


def new_source(
    factors: Factors, settings: Settings, rule: Rules, incident: Tensor, ray: Tensor, within: Tensor
) -> Factors:
    """At a source that shines along `incident` (3,), for the pixels `within` (P,) the resolution limit."""
    if not _polarizes(settings, rule):
        return factors
    kahn = torch.tensor(settings.beam.kahn, dtype=torch.float64)
    incident = incident[:, None].expand_as(ray)
    polar = polarization(incident, ray, torch.tensor(settings.beam.polarization, dtype=torch.float64), kahn)
    square = (incident * ray).sum(0) ** 2
    polar = torch.where(torch.isnan(polar), (1 + square - kahn * (1 - square)) / 2, polar)  # the beam along the axis
    taken = _taken("polar", factors.polar, polar, rule)
    return factors._replace(polar=torch.where(within, taken, factors.polar))


def _polarizes(settings: Settings, rule: Rules) -> bool:
    overridden = settings.sampling.oversample_polarization and settings.defects.oversampled_polarization_overrides
    return settings.beam.polarized or overridden


def _taken(name: str, held: Tensor, found: Tensor, rule: Rules) -> Tensor:
    return found if name in rule.each else torch.where(held == 0, found, held)
