"""Numbers that say how well a model image agrees with the observed one."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from scipy.special import gammaln, ndtri, pdtr, pdtrc, xlogy

from refine.app.report.source import Array, Compared
from refine.io.experiments import DialsExperiment
from refine.problem.spots import Spots, boxes_round, find_spots, local_background

LEAST = 1e-3  # photons: an expectation below it counts as this in a standard deviation
SAME_SPOT = 3.0  # pixels between an observed and a model spot that are one
FAINT = 3.0  # standard deviations: what is brighter than this, where the other image has a spot, is its counterpart
SHELLS, LEAST_IN_SHELL = 10, 8
RADIAL_BINS = 80


class SpotTable(NamedTuple):
    """A row a spot: the pixel (panel,) slow, fast it is brightest in; whether image and model show it; hkl (n, 3) and
    d (n,) in Å; photons above the model's background in a 5 x 5 box; chi2 a pixel of that box; centroids (n, 2) fast,
    slow in pixels."""

    place: tuple[NDArray[np.int64], ...]
    in_image: NDArray[np.bool_]
    in_model: NDArray[np.bool_]
    hkl: NDArray[np.int64]
    d: Array
    observed: Array
    model: Array
    chi2: Array
    observed_at: Array
    model_at: Array


@dataclass(frozen=True)
class Evidence:
    """An image, its normalised residual (NaN where not trusted), the spots, and 1/d (1/Å) of every pixel."""

    compared: Compared
    residual: Array
    spots: SpotTable
    reciprocal: Array


class Shell(NamedTuple):
    """A resolution shell: d from `low` to `high` Å, how many spots, mean photons a spot, R = sum |Io - Im| / sum Io,
    correlation, chi2 a pixel, and the r.m.s. distance of centroids in pixels."""

    low: float
    high: float
    spots: int
    observed: float
    model: float
    r: float
    correlation: float
    chi2: float
    offset: float


def gather_evidence(compared: Compared, experiment: DialsExperiment) -> Evidence:
    """Look at one image with the geometry of its refined experiment."""
    sigma = np.sqrt(np.maximum(compared.model, LEAST) + compared.readout)
    residual = np.where(compared.trusted, (compared.observed - compared.model) / sigma, np.nan)
    vectors = scattering(experiment, compared.observed.shape)
    spots = _spot_table(compared, residual, vectors, _turned_crystal(experiment))
    return Evidence(compared, residual, spots, np.linalg.norm(vectors, axis=-1))


def scattering(experiment: DialsExperiment, shape: tuple[int, ...]) -> Array:
    """q = (d - s) / wavelength (..., 3) in 1/Å at the middle of every pixel of an image or stack of this shape."""
    rays = lab_points(experiment, shape)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return np.asarray((rays - experiment.beam.direction) / experiment.beam.wavelength)


def lab_points(experiment: DialsExperiment, shape: tuple[int, ...]) -> Array:
    """Where the pixels' middles are (..., 3), mm, the experiment's lab frame."""
    slow, fast = (np.arange(n) + 0.5 for n in shape[-2:])
    stack = [
        np.asarray(panel.origin)
        + (fast * panel.pixel_size[0])[None, :, None] * np.asarray(panel.fast)
        + (slow * panel.pixel_size[1])[:, None, None] * np.asarray(panel.slow)
        for panel in experiment.panels
    ]
    return np.stack(stack).reshape(*shape, 3)


def _turned_crystal(experiment: DialsExperiment) -> Array | None:
    """Rows a, b, c (3, 3) in Å as they stood in the middle of the exposure."""
    if experiment.crystal is None:
        return None
    rows, turn = experiment.crystal.real_space, experiment.rotation
    if turn is None:
        return rows
    middle = Rotation.from_rotvec(np.radians(turn.start + turn.width / 2) * turn.axis)
    return np.asarray(rows @ turn.mount.T @ middle.as_matrix().T)


def _spot_table(compared: Compared, residual: Array, vectors: Array, rows: Array | None) -> SpotTable:
    """The spots that the image or its model shows, brightest first."""
    seen = find_spots(compared.observed, compared.trusted, compared.readout)
    expected = find_spots(compared.model, compared.trusted, compared.readout, sharp=True)
    own = _alone(seen, expected)
    place = tuple(np.concatenate(pair) for pair in zip(seen.place, (p[own] for p in expected.place), strict=True))
    level = local_background(compared.model, compared.trusted)
    excess = [np.where(compared.trusted, image - level, 0.0) for image in (compared.observed, compared.model)]
    boxes = [boxes_round(image, place) for image in excess]
    faint = FAINT * np.sqrt(boxes_round(np.maximum(level, 0.05) + compared.readout, place).sum((1, 2)))
    in_image, in_model = (box.sum((1, 2)) > faint for box in boxes)
    chi2 = np.nanmean(boxes_round(np.where(compared.trusted, residual, 0.0), place) ** 2, (1, 2))
    q = vectors[place]
    hkl = np.rint(q @ rows.T if rows is not None else np.zeros_like(q)).astype(np.int64)
    return SpotTable(
        place,
        in_image | (np.arange(len(place[0])) < len(seen.fast)),
        in_model | (np.arange(len(place[0])) >= len(seen.fast)),
        hkl,
        1 / np.maximum(np.linalg.norm(q, axis=1), 1e-9),
        boxes[0].sum((1, 2)),
        boxes[1].sum((1, 2)),
        chi2,
        *(_centroids(box, place) for box in boxes),
    )


def _alone(seen: Spots, expected: Spots) -> NDArray[np.bool_]:
    """Which model spots (m,) no observed one is near."""
    if not len(seen.fast) or not len(expected.fast):
        return np.ones(len(expected.fast), bool)
    return np.asarray(cKDTree(_coordinates(seen)).query(_coordinates(expected))[0] > SAME_SPOT)


def _coordinates(spots: Spots) -> Array:
    """fast, slow, with panels far apart."""
    panel = np.zeros(len(spots.fast)) if spots.panel is None else spots.panel * 1e6
    return np.stack([spots.fast, spots.slow, panel], 1)


def _centroids(boxes: Array, place: tuple[NDArray[np.int64], ...]) -> Array:
    """Centres of brightness (n, 2) fast, slow; NaN where a box holds no photons."""
    bright, offsets = np.maximum(boxes, 0), np.arange(boxes.shape[-1]) - boxes.shape[-1] // 2
    total = bright.sum((1, 2))
    total = np.where(total > 0, total, np.nan)
    fast, slow = bright.sum(1) @ offsets / total, bright.sum(2) @ offsets / total
    return np.stack([place[-1] + 0.5 + fast, place[-2] + 0.5 + slow], 1)


def shells(spots: SpotTable) -> list[Shell]:
    """Resolution shells of about as many spots each, low resolution first."""
    count = min(SHELLS, len(spots.d) // LEAST_IN_SHELL)
    order = np.argsort(-spots.d)
    return [_shell(spots, part) for part in np.array_split(order, count)] if count else []


def _shell(spots: SpotTable, part: NDArray[np.int64]) -> Shell:
    observed, model, d = spots.observed[part], spots.model[part], spots.d[part]
    spread = observed.std() > 0 and model.std() > 0
    distance = np.linalg.norm(spots.model_at[part] - spots.observed_at[part], axis=1)[paired(spots)[part]]
    return Shell(
        float(d.max()),
        float(d.min()),
        len(part),
        float(observed.mean()),
        float(model.mean()),
        float(np.abs(observed - model).sum() / max(observed.sum(), 1e-9)),
        float(np.corrcoef(observed, model)[0, 1]) if spread else float("nan"),
        float(spots.chi2[part].mean()),
        float(np.sqrt((distance**2).mean())) if len(distance) else float("nan"),
    )


def paired(spots: SpotTable) -> NDArray[np.bool_]:
    """Which spots (n,) both images show."""
    return np.asarray(spots.in_image & spots.in_model & np.isfinite(spots.observed_at + spots.model_at).all(1))


class Radial(NamedTuple):
    """Means over rings: 1/d (1/Å), observed and model photons a pixel, and the relative error of the observed mean."""

    reciprocal: Array
    observed: Array
    model: Array
    error: Array


def radial(evidence: Evidence) -> Radial:
    """Means over rings of equal width in 1/d that hold a trusted pixel."""
    compared, use = evidence.compared, evidence.compared.trusted
    at = evidence.reciprocal[use]
    edges = np.linspace(at.min(), at.max() * (1 + 1e-9), RADIAL_BINS + 1)
    ring = np.digitize(at, edges) - 1
    count = np.bincount(ring, minlength=RADIAL_BINS)[:RADIAL_BINS]
    kept = count > 0

    def mean(values: Array) -> Array:
        return np.bincount(ring, values, minlength=RADIAL_BINS)[:RADIAL_BINS][kept] / count[kept]

    observed, model = mean(compared.observed[use]), mean(compared.model[use])
    variance = mean(np.broadcast_to(np.maximum(compared.model, LEAST) + compared.readout, use.shape)[use])
    error = np.sqrt(variance / count[kept]) / np.maximum(model, LEAST)
    return Radial(((edges[1:] + edges[:-1]) / 2)[kept], observed, model, error)


def normal_residuals(evidence: Evidence) -> Array:
    """Residuals of the trusted pixels (n,) that are unit normal where the model is right, however few the counts:
    randomised quantile residuals (Dunn & Smyth 1996, J. Comput. Graph. Stat. 5, 236) of counts, normalised ones where
    there is readout noise or photons are no whole numbers."""
    compared = evidence.compared
    counts, mean = (image[compared.trusted] for image in (compared.observed, compared.model))
    if np.any(compared.readout > 0) or np.any(counts != np.rint(counts)) or np.any(counts < 0):
        return evidence.residual[compared.trusted]
    share, mean = np.random.default_rng(0).random(len(counts)), np.maximum(mean, LEAST)
    chance = np.exp(xlogy(counts, mean) - mean - gammaln(counts + 1))
    below, above = pdtr(counts, mean) - share * chance, pdtrc(counts, mean) + share * chance
    return np.asarray(np.where(below < above, ndtri(below.clip(1e-300)), -ndtri(above.clip(1e-300))))
