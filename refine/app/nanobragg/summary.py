"""What is printed: the settings before, statistics after, pixels on request, in nanoBragg.c's words."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from refine.app.nanobragg.image import Image, Last
from refine.app.nanobragg.outputs import Statistics
from refine.app.nanobragg.settings import CrystalSettings, Settings
from refine.app.nanobragg.vectors import dot, length

_SHAPES = {"square": "parallelepiped", "round": "ellipsoidal", "gauss": "gaussian", "tophat": "tophat-spot"}


def before(settings: Settings) -> list[str]:
    """The experiment; lengths in m unless they say otherwise."""
    return [*_crystal(settings), *_beam(settings), *_detector(settings), *_sampling(settings)]


def after(image: Image, settings: Settings, found: Statistics) -> list[str]:
    """The solid angle of what was computed, and the image's statistics."""
    angle = image.solid_angle / settings.sampling.steps
    edge = settings.detector.pixel_size * 1e-3
    to_last = 1.0 - 0.5 / settings.sampling.oversample  # the last sub-pixel's middle
    slow, fast = ((place + to_last) * edge if found.maximum > 0 else 0.0 for place in found.place)
    share = 100 * angle / 4 / math.pi
    return [
        f"solid angle subtended by detector = {angle:g} steradian ( {share:g}% sphere)",
        f"max_I = {found.maximum:g}  at {fast:g} {slow:g}",
        f"mean= {found.mean:g} rms= {found.rms:g} rmsd= {found.rmsd:g}",
    ]


def pixel_lines(pixels: Tensor, last: Last, settings: Settings) -> Iterator[str]:
    """`-printout`: each pixel's last step."""
    wanted = settings.output.printout_pixel
    for i, (slow, fast) in enumerate(pixels.T.tolist()):
        if wanted in (None, (fast, slow)):
            yield from _pixel(i, slow, fast, last, settings)


def _pixel(i: int, slow: int, fast: int, last: Last, settings: Settings) -> Iterator[str]:
    x, y, z = last.position[:, i].tolist()
    nearby = math.sin(math.atan2(math.hypot(y, z), x) / 2.0) / settings.beam.wavelength
    h, k, l = last.indices[:, i].tolist()  # noqa: E741 - the field's own names
    whole = [math.ceil(index - 0.5) for index in (h, k, l)]
    nearest = " ".join(map(str, whole))
    lattice = float(last.lattice[i]) * _sign(whole, settings.crystal)
    stol = 0.5 * float(torch.linalg.vector_norm(last.scattering[:, i])) * 1e10
    yield f"{fast:4d} {slow:4d} : stol = {stol:g} or {nearby:g}"
    yield f"at {x:g} {y:g} {z:g}"
    yield f"hkl= {h:f} {k:f} {l:f}  hkl0= {nearest}"
    yield f" F_cell={float(last.cell[i]):g}  F_latt={lattice:g}   I = {float(last.total[i]):g}"
    yield f"I/steps {float(last.total[i]) / settings.sampling.steps:15.10g}"
    yield f"polar   {float(last.factors.polar[i]):15.10g}"
    yield f"omega   {float(last.factors.omega[i]):15.10g}"
    yield f"capfrac {float(last.factors.capture[i]):15.10g}"
    yield f"pixel   {float(last.photons[i].float()):15.10g}"
    yield "real-space cell vectors (Angstrom):"
    yield f"     {'a':10s}  {'b':10s}  {'c':10s}"
    for name, row in zip("XYZ", last.vectors.T.tolist(), strict=True):
        yield f"{name}: " + " ".join(f"{value:11.8f}" for value in row)


def _sign(whole: list[int], crystal: CrystalSettings) -> int:
    """Of sin(pi N h) / sin(pi h), where the amplitude is computed at the distance from the whole index."""
    if crystal.shape != "square":
        return 1
    return math.prod((-1) ** abs((cells - 1) * index) for cells, index in zip(crystal.cells, whole, strict=True))


def _crystal(settings: Settings) -> list[str]:
    crystal, domains = settings.crystal, settings.crystal.mosaic_domains
    cells = "x".join(map(str, crystal.cells))
    edges = (length(v) * n * 1e-4 for v, n in zip((crystal.a, crystal.b, crystal.c), crystal.cells, strict=True))
    return [
        "Unit Cell: " + _numbers(crystal.cell),
        "Recp Cell: " + _numbers(_reciprocal_cell(crystal)),
        f"volume = {crystal.volume:g} A^3",
        "crystal is {:g} x {:g} x {:g} microns".format(*edges),
        f"misset angles: {_numbers(crystal.misset)} deg",
        f"{_SHAPES[crystal.shape]} xtal: {cells} cells",
        f"{domains} mosaic domains over mosaic spread of {crystal.mosaic_spread:g} degrees",
    ]


def _beam(settings: Settings) -> list[str]:
    beam = settings.beam
    return [
        f"wave={beam.wavelength * 1e-10:g} meters +/- {beam.dispersion * 100:g}% in {beam.dispersion_steps} steps",
        f"Kahn polarization factor: {beam.kahn:f}" if beam.polarized else "polarization effect disabled",
        f"incident fluence: {beam.fluence:g} photons/m^2",
        f"{len(beam.sources)} sources",
    ]


def _detector(settings: Settings) -> list[str]:
    panel = settings.detector
    (slow, fast), attenuation = panel.extent, panel.attenuation
    absorption = -1.0 if attenuation is None else attenuation * 1e3
    return [
        f"{panel.convention} convention selected, pivoting detector around {panel.pivot}",
        f"distance={panel.distance * 1e-3:g} detsize={fast * 1e-3:g}x{slow * 1e-3:g}  "
        f"pixel={panel.pixel_size * 1e-3:g} meters ({panel.size[1]}x{panel.size[0]} pixels)",
        f"sensor is {panel.sensor_thickness * 1e-3:g} m thick in {panel.layers} layers with mu= {absorption:g}",
        "Xbeam={:g} Ybeam={:g}".format(*(value * 1e-3 for value in panel.header_beam)),
        "Fbeam={:g} Sbeam={:g}".format(*(value * 1e-3 for value in panel.beam)),
        "Xclose={:g} Yclose={:g}".format(*(value * 1e-3 for value in panel.given_close)),
        "Fclose={:g} Sclose={:g}".format(*(value * 1e-3 for value in panel.close)),
        "DIRECTION_OF_DETECTOR_X-AXIS= " + _numbers(panel.fast),
        "DIRECTION_OF_DETECTOR_Y-AXIS= " + _numbers(panel.slow),
        "DIRECTION_OF_DETECTOR_Z-AXIS= " + _numbers(panel.normal),
        "INCIDENT_BEAM_DIRECTION= " + _numbers(settings.beam.direction),
        "dials origin= " + _numbers(panel.dials_origin),
    ]


def _sampling(settings: Settings) -> list[str]:
    sampling, scan = settings.sampling, settings.scan
    lines = [
        f"{scan.steps} phi steps from {scan.phi0:g} to {scan.phi0 + scan.osc:g} degrees",
        f"{sampling.oversample}x{sampling.oversample} pixel oversample steps",
    ]
    if sampling.oversample < sampling.recommended_oversample:
        lines.append(
            "WARNING: intensity may vary significantly across a pixel, "
            f"recommend -oversample {sampling.recommended_oversample}"
        )
    return lines


def _reciprocal_cell(crystal: CrystalSettings) -> tuple[float, ...]:
    stars = (crystal.a_star, crystal.b_star, crystal.c_star)
    lengths = [length(star) for star in stars]
    cosines = [dot(stars[i], stars[j]) / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))]
    return (*lengths, *(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) for cosine in cosines))


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
