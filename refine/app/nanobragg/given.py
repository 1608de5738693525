"""What a command line says, before anything follows from it."""

import math
from dataclasses import dataclass

from refine.app.nanobragg.vectors import Vector

RADIAN_IN_DEGREES = 180.0 * (1 / math.pi)


@dataclass(frozen=True)
class Given:
    """Options and image headers as read, in metres and radians; the defaults are those of nanoBragg.c.

    None, and -1 for a number that cannot be negative, stand for 'not given', as 0 does in the cell, whose lengths are
    in Å.
    """

    n_a: int = 1
    n_b: int = 1
    n_c: int = 1
    cell_a: float = 0.0
    cell_b: float = 0.0
    cell_c: float = 0.0
    cell_alpha: float = 0.0
    cell_beta: float = 0.0
    cell_gamma: float = 0.0
    mat: str | None = None
    misset: Vector = (0.0, 0.0, 0.0)
    misset_random: bool = False
    misset_seed: int | None = None
    sample_x: float = 0.0
    sample_y: float = 0.0
    sample_z: float = 0.0
    shape: str = "square"
    fudge: float = 1.0
    mosaic_spread: float = -1.0
    mosaic_domains: int = -1
    mosaic_seed: int = 12345678

    wavelength: float = 1.0e-10
    dispersion: float = 0.0
    dispersion_steps: int = -1
    hdiv_range: float = -1.0
    hdiv_step: float = -1.0
    hdiv_steps: int = -1
    vdiv_range: float = -1.0
    vdiv_step: float = -1.0
    vdiv_steps: int = -1
    round_divergence: bool = True
    source_file: str | None = None
    fluence: float = 125932015286227086360700780544.0
    flux: float = 0.0
    exposure: float = 1.0
    beam_size: float = 1e-4
    kahn: float = 0.0
    polarized: bool = True

    convention: str = "mosflm"
    pivot: str = "beam"
    beam_vector: Vector = (1.0, 0.0, 0.0)
    fdet_vector: Vector = (0.0, 0.0, 1.0)
    sdet_vector: Vector = (0.0, -1.0, 0.0)
    odet_vector: Vector = (1.0, 0.0, 0.0)
    polar_vector: Vector = (0.0, 0.0, 1.0)
    spindle_axis: Vector = (0.0, 0.0, 1.0)
    twotheta_axis: Vector = (0.0, 1.0, 0.0)
    x_beam: float | None = None
    y_beam: float | None = None
    x_close: float | None = None
    y_close: float | None = None
    org_x: float | None = None
    org_y: float | None = None
    distance: float = 100.0e-3
    close_distance: float | None = None
    rot_x: float = 0.0
    rot_y: float = 0.0
    rot_z: float = 0.0
    twotheta: float = 0.0
    pixel_size: float = 0.1e-3
    extent_fast: float = 102.4e-3
    extent_slow: float = 102.4e-3
    pixels_fast: int = 0
    pixels_slow: int = 0
    sensor_thickness: float = 0.0
    sensor_layers: int = -1
    attenuation: float = -1.0
    curved: bool = False
    point_pixel: bool = False

    phi0: float = 0.0
    phi_step: float = -1.0
    phi_steps: int = -1
    osc: float = -1.0

    oversample: int = -1
    oversample_thickness: bool = False
    oversample_polarization: bool = False
    oversample_solid_angle: bool = False
    roi: tuple[int, int, int, int] = (-1, -1, -1, -1)
    dmin: float = 0.0
    water: float = 0.0
    img: str | None = None
    mask: str | None = None
    hkl: str | None = None
    stol: str | None = None
    default_f: float = 0.0
    interpolate: bool | None = None

    float_file: str = "floatimage.bin"
    int_file: str = "intimage.img"
    noise_file: str = "noiseimage.img"
    pgm_file: str = "image.pgm"
    config: str | None = None
    noise: bool = True
    pgm: bool = True
    int_scale: float = 0.0
    pgm_scale: float = 0.0
    adc_offset: float = 40.0
    seed: int | None = None
    printout: bool = False
    printout_pixel: tuple[int, int] = (-1, -1)
    progress: bool = True
