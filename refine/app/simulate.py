"""`refine simulate`: the expected image of a configuration's starting crystal."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from refine.app.build import Setup, build_model, by_panel
from refine.app.config import Config
from refine.app.load import load_config
from refine.errors import InputError
from refine.io.beam_keys import beam_keys, named_centre
from refine.io.geometries import to_dials_frame
from refine.io.images import write_image
from refine.model.forward import expected_image

MOST_COUNTS = 1e15  # photons; NumPy's Poisson generator refuses much more


def simulate(path: Path, output: Path, overrides: Sequence[str], noise: bool) -> str:
    """Write the image to `output`, whose suffix chooses the format; returns a line that says what was written.

    Pixels hold ADU: photons times detector.gain plus detector.offset; with `noise` the photons are Poisson counts
    drawn from the configuration's seed, and readout noise is added. Raises InputError.
    """
    config = load_config(path, overrides)
    if config.structure_factors.unknown:
        raise InputError(f"{path}: structure_factors.unknown leaves the image open; give a file or a default")
    if config.threads:
        torch.set_num_threads(config.threads)
    setup = build_model(config)
    expected = model_image(setup)
    if not np.isfinite(expected).all():
        raise InputError(
            f"{path}: the expected image holds values that are not numbers: check fluence, F, cells and b_factor"
        )
    counts = _noisy(expected, config) if noise else _in_adu(expected, config)
    write_image(output, counts, image_header(config, setup))
    order = "slow x fast" if counts.ndim == 2 else "panels x slow x fast"
    size = f"{' x '.join(map(str, counts.shape))} pixels ({order})"
    return f"{output}: {size}, largest {counts.max():.6g}, sum {counts.sum():.6g}"


def model_image(setup: Setup) -> np.ndarray:
    """Expected photons (slow, fast) or (panels, slow, fast) of the starting crystal; 0 outside the region of
    interest."""
    within = torch.from_numpy(setup.region).to(setup.experiment.scale.device)
    image = expected_image(setup.crystal, setup.experiment, interference=setup.interference, within=within)
    return image.cpu().numpy()


def _in_adu(photons: np.ndarray, config: Config) -> np.ndarray:
    gain = by_panel("detector.gain", config.detector.gain, photons.shape)
    return np.asarray(photons * gain + by_panel("detector.offset", config.detector.offset, photons.shape))


def _noisy(expected: np.ndarray, config: Config) -> np.ndarray:
    if expected.max() > MOST_COUNTS:
        raise InputError(
            f"--noise: the brightest pixel expects {expected.max():.1e} photons, accepted: up to {MOST_COUNTS:.0e};"
            " lower beam.fluence"
        )
    generator = np.random.default_rng(config.seed)
    counts = _in_adu(generator.poisson(np.maximum(expected, 0)), config)
    return np.asarray(counts + generator.normal(0, config.detector.readout_noise, expected.shape))


def image_header(config: Config, setup: Setup) -> dict[str, str | float]:
    """What a written image says of its geometry, by nanoBragg's SMV keys (mm, degrees, Å) and miniCBF's Beam_xy."""
    given, panel, scan = config.detector, setup.experiment.detector, config.crystal.scan
    fast, slow = given.beam_center_px
    spot = (fast * given.pixel_size, slow * given.pixel_size, given.pixel_size, given.size[0] * given.pixel_size)
    x, y = named_centre(given.convention, *spot)
    frame = panel.frame()
    close = [-float(axis @ frame.origin) / given.pixel_size for axis in (frame.fast, frame.slow)]
    origin = to_dials_frame(given.convention) @ frame.origin.cpu().numpy()
    return {
        "PIXEL_SIZE": given.pixel_size,
        "DISTANCE": given.distance,
        "WAVELENGTH": config.beam.wavelength,
        "BEAM_CENTER_X": x,
        "BEAM_CENTER_Y": y,
        **beam_keys(*spot),
        "DIALS_ORIGIN": ",".join(repr(float(value)) for value in origin),
        "XDS_ORGX": close[0] + 0.5,
        "XDS_ORGY": close[1] + 0.5,
        "CLOSE_DISTANCE": float(frame.normal_distance),
        "Beam_xy": f"({fast}, {slow}) pixels",
        "PHI": scan.phi0,
        "OSC_START": scan.phi0,
        "OSC_RANGE": scan.osc,
        "TWOTHETA": float(panel.twotheta),
    }
