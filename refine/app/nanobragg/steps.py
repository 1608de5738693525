"""The steps of the sum over a pixel, in nanoBragg.c's order: layers, sub-pixels, sources, phi, mosaic domains."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from refine.app.nanobragg import factors as f
from refine.app.nanobragg.orientations import Orientations
from refine.app.nanobragg.settings import Place, Settings
from refine.app.nanobragg.vectors import Vector, scaled
from refine.physics.curved import curved_positions
from refine.physics.scattering import rays

CHUNK = 1024  # steps over phi and domains that are computed together


class Passage(NamedTuple):
    """One source's light to one sub-pixel of one layer, for P pixels.

    number: its place in the order. position (3, P) m; scattering (3, P) 1/Å; within (P,) the resolution limit;
    weight of the source, 1 on average; factors as they stand; opens: the first source of its sub-pixel.
    """

    number: int
    position: Tensor
    scattering: Tensor
    within: Tensor
    weight: float
    factors: f.Factors
    opens: bool


class Block(NamedTuple):
    """Some steps of a passage: the first one's number among all steps of a pixel, and indices (3, m, P)."""

    first: int
    indices: Tensor


def passages(settings: Settings, rule: f.Rules, pixels: Tensor) -> Iterator[Passage]:
    """All passages to pixels (2, P) slow, fast, in order."""
    number, weights, factors = 0, source_weights(settings), f.start(settings, rule, pixels.shape[1])
    for layer in range(settings.detector.layers):
        factors = f.new_layer(factors, settings, rule)
        for sub in range(settings.sampling.oversample**2):
            position = positions(settings, pixels, layer, sub)
            ray, path = rays(position)
            factors = f.new_subpixel(factors, settings, rule, layer, ray, path)
            for place, source in enumerate(settings.beam.sources):
                incident = -_tensor(source.direction)
                scattering = (ray - incident[:, None]) / source.wavelength
                within = _within(scattering, settings.sampling.dmin)
                factors = f.new_source(factors, settings, rule, incident, ray, within)
                yield Passage(number, position, scattering, within, weights[place], factors, place == 0)
                number += 1


def blocks(passage: Passage, turned: Orientations, fresh: tuple[int, int] | None) -> Iterator[Block]:
    """The steps of a passage; `fresh` is the (pixel, passage) computed first of all, if it is among these pixels."""
    steps = turned.vectors.shape[1]
    for first in range(0, steps, CHUNK):
        indices = _indices(turned.vectors[:, first : first + CHUNK], passage.scattering)
        if fresh is not None and turned.first is not None and fresh[1] == passage.number:
            pixel = slice(fresh[0], fresh[0] + 1)
            indices[:, :, pixel] = _indices(turned.first[:, first : first + CHUNK], passage.scattering[:, pixel])
        yield Block(passage.number * steps + first, indices)


def source_weights(settings: Settings) -> list[float]:
    """1 on average."""
    weights = [source.weight for source in settings.beam.sources]
    total = sum(weights)
    if settings.defects.source_weights_ignored or not total:
        return [1.0] * len(weights)
    return [weight * len(weights) / total for weight in weights]


def positions(settings: Settings, pixels: Tensor, layer: int, sub: int) -> Tensor:
    """Where (3, P), m, the sub-pixel number `sub` (slow first) of a layer is."""
    place, oversample = settings.detector.place, settings.sampling.oversample
    within = torch.tensor(divmod(sub, oversample))[:, None]
    edge = place.pixel_size / oversample
    slow, fast = edge * (pixels * oversample + within).double() + edge / 2.0
    depth = layer * settings.detector.layer_thickness / 1000.0
    vectors = (place.fast, place.slow, scaled(place.normal, depth), place.origin)
    along_fast, along_slow, behind, origin = (_tensor(vector)[:, None] for vector in vectors)
    flat = fast * along_fast + slow * along_slow + behind + origin
    if not settings.detector.curved:
        return flat
    beam = settings.beam.direction
    return _mosflm_curved(place, beam, flat) if settings.defects.curved_in_mosflm_frame else _curved(place, beam, flat)


def _mosflm_curved(place: Place, beam: Vector, flat: Tensor) -> Tensor:
    spot = (place.distance * _tensor(beam))[:, None].expand_as(flat)
    about_slow = _turned_about(spot, place.slow, flat[1] / place.distance)
    return _turned_about(about_slow, place.fast, flat[2] / place.distance)


def _turned_about(vectors: Tensor, axis: Vector, angles: Tensor) -> Tensor:
    """Vectors (3, P) as `vectors.turned_about` turns them: about an axis that need not have length 1."""
    along = _tensor(axis)[:, None]
    cosine, sine = torch.cos(angles), torch.sin(angles)
    shift = along * ((along * vectors).sum(0) * (1.0 - cosine))
    return shift + vectors * cosine + torch.linalg.cross(along.expand_as(vectors), vectors, dim=0) * sine


def _curved(place: Place, beam: Vector, flat: Tensor) -> Tensor:
    direction, fast, slow = _tensor(beam), _tensor(place.fast), _tensor(place.slow)
    offset = flat - (place.distance * direction)[:, None]
    across = (fast @ offset, slow @ offset)
    return curved_positions(*across, direction, fast, slow, torch.tensor(place.distance, dtype=torch.float64))


def _indices(vectors: Tensor, scattering: Tensor) -> Tensor:
    return (vectors.reshape(-1, 3) @ scattering).reshape(3, -1, scattering.shape[1])


def _within(scattering: Tensor, dmin: float) -> Tensor:
    if dmin <= 0:
        return torch.ones(scattering.shape[1], dtype=torch.bool)
    half = 0.5 * torch.sqrt((scattering * scattering).sum(0))
    return dmin <= torch.where(half > 0, 0.5 / half, math.inf)


def _tensor(vector: Vector) -> Tensor:
    return torch.tensor(vector, dtype=torch.float64)
