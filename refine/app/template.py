"""The commented configuration that `refine init` writes."""

from collections.abc import Sequence

from refine.app.config_errors import show

_TEXT = """\
# Configuration of refine. Paths are relative to this file. Lines that start with '#' directly before a key are
# optional and show its default, or an example where the line says so.
title: {title}
images:
  - file: {image}
    #mask: null                     # file of the image's shape, nonzero = use the pixel
    #frame: null                    # number, from 1, in an HDF5 file of many

beam:
  wavelength: {wavelength}  # Å
  #fluence: 1.2593201528622709e29   # photons/m^2; or flux (photons/s) + exposure (s) + size (mm)
  #polarization: 0.0                # Kahn factor, -1 to 1; null turns the correction off
  #divergence: {{horizontal_mrad: 0, vertical_mrad: 0, steps: 1, round: true}}   # full widths
  #dispersion: {{percent: 0, steps: 1}}   # full width of the spectrum
  #gaussian: {{bandwidth_percent: 0, horizontal_mrad: 0, vertical_mrad: 0}}   # with mosaic model gaussian
  #spectrum: null                   # or a text file of wavelengths (Å) and weights
  #sources: null                    # or nanoBragg's list of sources, a ray a line

detector:                           # or file: indexed.expt of DIALS, instead of the four keys and the wavelength
  distance: {distance}  # mm, sample to the direct-beam spot
  pixel_size: {pixel_size}  # mm
  size: {size}  # [slow, fast] pixels
  beam_center_px: {beam_center_px}  # [fast, slow] pixels; the outer corner of the first pixel is (0, 0)
  #convention: mosflm               # lab frame: mosflm | denzo | adxv | xds | dials | expt
  #axes: {{}}                         # vectors instead of the convention's: beam, fast, slow, spindle, ...
  #rotations: {{x: 0, y: 0, z: 0, twotheta: 0, pivot: null}}   # degrees; pivot: beam | sample
  #gain: 1.0                        # ADU/photon, or a list of one a panel; so too the offset
  #offset: 0.0                      # ADU at zero photons
  #readout_noise: 0.0               # ADU rms
  #saturation: null                 # ADU; pixels at or above it are masked
  #thickness: {{um: 0, attenuation_um: 0, steps: 1, parallax: layers}}   # absorbing sensor; parallax: layers | dials
  #curved: false                    # bent so that all pixels are at the same distance
  #point_pixel: false               # solid angle without the pixel's tilt
  #oversample: 1                    # sub-pixels along each pixel edge, or auto
  #roi: {{fast: null, slow: null}}    # or first and last pixel, such as [0, 511], of the part that is used
  #mask: null                       # file of the detector's shape, nonzero = use the pixel
  #file: null                       # DIALS .expt that supplies beam and detector; what is given above stays
  #index: 0                         # number of the experiment in that file

crystal:
  cell: {cell}  # a b c (Å), alpha beta gamma (degrees): the starting cell
  space_group: {space_group}  # ties the cell's parameters
  orientation:
    misset_deg: {misset_deg}  # degrees about lab x, y and z, in that order
    #matrix: A.mat                  # example: the orientation from a MOSFLM matrix file
    #expt: null                     # or DIALS .expt that supplies cell, space group and orientation
    #index: 0                       # number of the experiment in it
  #cells: [20, 20, 20]              # unit cells along a, b and c
  #shape: square                    # square | round | gauss | tophat
  #mosaic: {{model: domains, spread_deg: 0.0, domains: 1, seed: -12345678}}   # degrees; model: domains | gaussian
  #scan: {{phi0: 0, osc: 0, steps: 1}}   # degrees, about the spindle
  #b_factor: 0.0                    # Å^2

structure_factors:
  file: {structure_factors}  # h k l F text (complete P1 list), or .mtz
  #column: null                     # amplitude column of an .mtz
  #default: 0.0                     # F (electrons) where the list has none
  #interpolate: false               # F between the reflections, tricubic
  #d_min: null                      # Å; no reflections beyond

#background: {{model: none, water_um: 0}}   # none | constant | plane | file (photons/pixel), and a cube of water

refinement:
  free: [cell, orientation, scale]  # also cells, mosaic, b_factor, wavelength, distance, beam_center, background, ...
  #loss: poisson                    # poisson | gaussian | mse | robust
  #resolution: {{min: null, max: null}}   # Å: min is the high-resolution limit
  #optimizer: {{name: lm, max_iterations: 50, options: {{}}}}   # lm | trust-region | newton-cg | lbfgs | adam | ...
  #strategy: auto                   # auto = by spot positions when the start may be far | single | stages
  #stages: []                       # example: [{{stage: indexing}}, {{stage: pixels}}]
  #restraints: {{}}                   # example: {{distance: {{target: 120.0, sigma: 0.05}}}}; any parameter of free

#output: {{directory: run, report: true}}
#compatibility: []                   # defects of nanoBragg.c to reproduce: corner_factors, layers_beyond_sensor
#device: auto                        # auto | cpu | cuda
#compile: auto                       # auto | true | false
#dtype: float64                      # float64 | float32
#threads: null                       # CPU threads
#seed: 0
"""


def starter_config(
    *,
    title: str = "my crystal",
    image: str = "image.npz",
    wavelength: float = 1.0,
    distance: float = 100.0,
    pixel_size: float = 0.1,
    size: Sequence[int] = (512, 512),
    beam_center_px: Sequence[float] = (256.0, 256.0),
    cell: Sequence[float] = (70, 80, 90, 85, 95, 105),
    space_group: str = "P1",
    misset_deg: Sequence[float] = (0, 0, 0),
    structure_factors: str = "F.hkl",
) -> str:
    """A commented YAML configuration to edit, with these values as its required keys.

    wavelength in Å; distance and pixel_size in mm; size as slow, fast and beam_center_px as fast, slow, in pixels;
    cell in Å and degrees; misset_deg in degrees.
    """
    values = dict(locals())
    return _TEXT.format_map({name: _flow(value) for name, value in values.items()})


def _flow(value: object) -> str:
    return show(list(value) if isinstance(value, tuple) else value, longest=10_000)
