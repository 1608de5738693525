"""Derivatives by every parameter of beam and sensor, and of every shape, panel and lookup of F, first and second
order, by the library of `refine.problem.derivatives`; nothing compiled, all in float64."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from builders import f64, full_experiment, random_factors, rich_crystal, rich_experiment, two_panels

from refine.model.beam import GaussianBeam
from refine.model.crystal import Crystal, GaussianMosaic
from refine.model.detector import Sensor
from refine.model.experiment import Experiment
from refine.model.pixels import Pixels
from refine.parameters.space import ParameterSpace
from refine.physics.sources import Sources
from refine.problem.derivatives import Findings, check_derivatives

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

SAMPLE = ("cell", "orientation", "scale", "cells", "b_factor", "mosaic")
PANEL = ("distance", "beam_center", "detector_rotations")


@dataclass(frozen=True)
class Case:
    """free: what is checked, of a mosaic crystal of this shape in an experiment made by `instrument`."""

    free: tuple[str, ...]
    instrument: Callable[[], Experiment] = rich_experiment
    crystal: dict[str, Any] = field(default_factory=dict)

    def model(self) -> tuple[Crystal, Experiment]:
        return rich_crystal(**{"shape": "gauss", "cells": (6.0, 4.0, 8.0)} | self.crystal), self.instrument()


def panel(**change: Any) -> Callable[[], Experiment]:
    def make() -> Experiment:
        built = full_experiment() if change.get("sensor") else rich_experiment()
        kept = {name: value for name, value in change.items() if name != "sensor"}
        return replace(built, detector=replace(built.detector, **kept))

    return make


def lookup(interpolate: bool = False, d_min: float | None = None) -> Callable[[], Experiment]:
    def make() -> Experiment:
        built, factors = rich_experiment(), random_factors()
        amplitude = torch.sqrt(factors.intensity) if interpolate else None
        return replace(built, structure_factors=replace(factors, amplitude=amplitude, d_min=d_min))

    return make


def listed_rays() -> Experiment:
    built = rich_experiment()
    rays = full_experiment().beam.sources.directions[:3]
    beam = replace(built.beam, spread=Sources(rays, f64(1.0, 1.01, 0.995), f64(0.5, 0.2, 0.3)))
    return replace(built, beam=beam)


def gaussian_beam() -> Experiment:
    built = rich_experiment()
    return replace(built, beam=replace(built.beam, gaussian=GaussianBeam(f64(0.4), f64(2.0, 3.0))))


def panels(sensor: Sensor | None = None) -> Callable[[], Experiment]:
    def make() -> Experiment:
        built = rich_experiment(size=(24, 10))
        return replace(built, detector=replace(two_panels(built.detector), sensor=sensor))

    return make


SMEARED = {"mosaic": GaussianMosaic.of(f64([[0.5, 0.1, -0.05], [0.1, 0.3, 0.04], [-0.05, 0.04, 0.4]]))}

CASES = {
    "two panels": Case((*PANEL, "cell", "orientation"), panels()),
    "two panels with the parallax of DIALS": Case(
        (*PANEL, "thickness", "attenuation"), panels(Sensor(f64(450.0), f64(260.0), 1, True))
    ),
    "Gaussian mosaic": Case(SAMPLE, crystal=SMEARED),
    "Gaussian spectrum and divergence": Case(("bandwidth", "divergence", "scale", "cells"), gaussian_beam, SMEARED),
    "Gaussian mosaic, spectrum and divergence": Case((*PANEL, "wavelength", "cell", "mosaic"), gaussian_beam, SMEARED),
    "beam and sensor": Case(
        ("polarization", "divergence", "dispersion", "thickness", "attenuation", "water", "wavelength"), full_experiment
    ),
    "panel behind a divergent beam": Case((*PANEL, "scale", "background"), full_experiment),
    "sample in a divergent beam": Case(("cell", "orientation", "mosaic"), full_experiment),
    "listed rays": Case(("cell", "wavelength", "distance", "polarization"), listed_rays),
    "round crystal": Case(SAMPLE, crystal={"shape": "round"}),
    "square crystal": Case(SAMPLE, crystal={"shape": "square"}),
    "sharp spots": Case(("scale", "cells", "b_factor"), crystal={"shape": "tophat", "cells": (1.3, 1.2, 1.4)}),
    "interpolated F": Case(SAMPLE, lookup(interpolate=True)),
    "interpolated F, small round crystal": Case(
        SAMPLE, lookup(interpolate=True), {"shape": "round", "cells": (1.5, 2.0, 1.8)}
    ),
    "interpolated F, geometry": Case((*PANEL, "wavelength"), lookup(interpolate=True)),
    "resolution limit": Case((*SAMPLE, "distance"), lookup(d_min=2.2)),
    "curved": Case((*PANEL, "scale"), panel(curved=True)),
    "curved about the sample": Case((*PANEL, "scale"), panel(curved=True, pivot="sample")),
    "curved sensor": Case(("thickness", "attenuation", "distance", "twotheta"), panel(curved=True, sensor=True)),
    "point pixels": Case((*PANEL, "scale"), panel(point_pixel=True)),
    "first sub-pixel's factors": Case((*PANEL, "polarization", "thickness"), panel(corner_factors=True, sensor=True)),
}


def found(case: Case, order: int = 2) -> Findings:
    sample, instrument = case.model()
    space = ParameterSpace.of(sample, instrument, case.free, plane_background=True)
    return check_derivatives(space, Pixels.whole(instrument.detector.shape, instrument.scale), order=order)


def test_water_alone_is_no_image_to_check() -> None:
    """However bright it is, and whatever derivatives the crystal has beside it."""
    sample, instrument = CASES["round crystal"].model()
    wet = replace(instrument, background=replace(instrument.background, water=f64(3.0)))
    dark = replace(wet, structure_factors=replace(wet.structure_factors, intensity=f64([[[0.0]]]), lowest=f64(0, 0, 0)))
    space = ParameterSpace.of(sample, dark, ("scale", "water"))
    findings = check_derivatives(space, Pixels.whole(dark.detector.size, dark.scale), order=1)
    assert not findings.passed
    assert "the Bragg image is zero" in findings.failures[0]


@pytest.mark.parametrize("name", CASES)
def test_first_derivatives(name: str) -> None:
    findings = found(CASES[name], order=1)
    assert findings.passed, told(findings)
    assert {row.direction.parameter for row in findings.rows} == set(CASES[name].free)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_second_derivatives(name: str) -> None:
    findings = found(CASES[name])
    assert findings.passed, told(findings)
    assert all(row.second_error is not None for row in findings.rows)


def told(findings: Findings) -> list[str]:
    rows = [f"{row.direction.label}: {text}" for row in findings.rows for text in row.failures]
    return [*findings.failures, *rows]
