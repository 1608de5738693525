"""The sum over one pixel's steps, one number at a time: what the vectorised image is checked against."""

import math
from dataclasses import dataclass, field

import numpy as np

from refine.app.nanobragg.amplitudes import structure_factors
from refine.app.nanobragg.image import computed_pixels, water_intensity
from refine.app.nanobragg.orientations import domain_rotations
from refine.app.nanobragg.settings import Settings
from refine.model.beam import THOMSON_CROSS_SECTION


@dataclass
class Scalar:
    """nanoBragg.c's loops, defects and all; what outlives a pixel is kept here."""

    settings: Settings
    interpolates: bool = False
    turned: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))

    def image(self) -> np.ndarray:
        s = self.settings
        self.interpolates = s.structure_factors.interpolate
        self.real = np.array([s.crystal.a, s.crystal.b, s.crystal.c])
        self.turned = self.real
        self.domains = domain_rotations(s.crystal, single=True).numpy()
        self.listed = structure_factors(s.structure_factors, by_scanf=True)
        found = np.zeros(s.detector.size)
        for slow, fast in np.argwhere(computed_pixels(s)):
            found[slow, fast] = self.pixel(int(slow), int(fast))
        return found

    def pixel(self, slow: int, fast: int) -> float:
        s, sampling, panel = self.settings, self.settings.sampling, self.settings.detector
        edge, thick, mu = panel.pixel_size / sampling.oversample, panel.layer_thickness, panel.attenuation or 0.0
        total, self.polar, omega = water_intensity(s), 0.0 if s.beam.polarized else 1.0, 0.0
        for layer in range(panel.layers):
            capture = 0.0 if panel.sensor_thickness else 1.0
            for sub in range(sampling.oversample**2):
                down, along = divmod(sub, sampling.oversample)
                position = panel.origin + layer * thick * np.array(panel.normal)
                position = position + edge * (slow * sampling.oversample + down + 0.5) * np.array(panel.slow)
                position = position + edge * (fast * sampling.oversample + along + 0.5) * np.array(panel.fast)
                path = float(np.linalg.norm(position))
                ray = position / path
                if omega == 0 or sampling.oversample_solid_angle:
                    omega = panel.pixel_size**2 * panel.close_distance / path**3
                if capture == 0 or sampling.oversample_thickness:
                    c = float(ray @ panel.normal)
                    capture = math.exp(-layer * thick * mu / c) - math.exp(-(layer + 1) * thick * mu / c)
                total = self.sources(total, ray, capture, omega)
        photons = THOMSON_CROSS_SECTION * s.beam.fluence * total / sampling.steps
        photons *= 1.0 if sampling.oversample_thickness else capture
        photons *= 1.0 if sampling.oversample_polarization else self.polar
        return photons * (1.0 if sampling.oversample_solid_angle else omega)

    def sources(self, total: float, ray: np.ndarray, capture: float, omega: float) -> float:
        s, sampling = self.settings, self.settings.sampling
        for source in s.beam.sources:
            q = (ray + np.array(source.direction)) / source.wavelength
            if sampling.dmin > 0 and sampling.dmin > 1 / np.linalg.norm(q):
                continue
            if self.polar == 0 or sampling.oversample_polarization:
                self.polar = (1 + float(ray @ -np.array(source.direction)) ** 2) / 2  # unpolarised only
            factor = capture if sampling.oversample_thickness else 1.0
            factor *= self.polar if sampling.oversample_polarization else 1.0
            factor *= omega if sampling.oversample_solid_angle else 1.0
            for angle in s.scan.angles:
                if angle:
                    self.turned = np.array([rotated(v, np.array(s.scan.spindle), angle) for v in self.real])
                for domain in self.domains:
                    total = self.step(total, (self.turned @ domain.T) @ q, factor)
        return total

    def step(self, total: float, indices: np.ndarray, factor: float) -> float:
        whole = np.ceil(indices - 0.5)
        lattice = self.lattice(indices - whole)
        if lattice == 0 and self.settings.water == 0:
            return total
        grid, low = self.listed.amplitude.numpy(), self.listed.lowest.numpy()
        if self.interpolates and any(
            h > first + size - 3 or h < first + 2 for h, first, size in zip(indices, low, grid.shape, strict=True)
        ):
            self.interpolates = False
        cell = self.cubic(indices, grid, low) if self.interpolates else self.nearest(whole, grid, low)
        return (total + (cell * lattice) ** 2) * factor

    def lattice(self, delta: np.ndarray) -> float:
        crystal = self.settings.crystal
        if crystal.shape == "square":
            return math.prod(
                math.sin(math.pi * n * d) / math.sin(math.pi * d) for d, n in zip(delta, crystal.cells, strict=True)
            )
        away = delta @ np.array([crystal.a_star, crystal.b_star, crystal.c_star])
        volume = math.prod(crystal.cells)
        return volume * float(float(away @ away) * volume**2 * crystal.fudge < 0.3969)

    def nearest(self, whole: np.ndarray, grid: np.ndarray, low: np.ndarray) -> float:
        place = whole - low
        inside = self.settings.structure_factors.hkl and all(0 <= p < n for p, n in zip(place, grid.shape, strict=True))
        return float(grid[tuple(place.astype(int))]) if inside else self.settings.structure_factors.default

    def cubic(self, indices: np.ndarray, grid: np.ndarray, low: np.ndarray) -> float:
        corner = np.floor(indices).astype(int) - 1
        values = grid[tuple(slice(int(c - f), int(c - f) + 4) for c, f in zip(corner, low, strict=True))]
        for h, first in zip(indices, corner, strict=True):
            nodes = first + np.arange(4)
            weights = [math.prod((h - m) / (n - m) for m in nodes if m != n) for n in nodes]
            values = np.tensordot(weights, values, axes=(0, 0))
        return float(values)


def rotated(vector: np.ndarray, axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula."""
    along = axis * (axis @ vector) * (1 - math.cos(angle))
    return along + vector * math.cos(angle) + np.cross(axis, vector) * math.sin(angle)
