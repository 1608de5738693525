"""Where the image is not smooth, and pixels away from there in which derivatives can be checked."""

from dataclasses import replace

import torch
from torch import Tensor

from refine.model.forward import Interference, expected_photons, miller_indices, pixel_scattering
from refine.model.pixels import Pixels
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.physics.fused import FUSED
from refine.physics.shapes import TOPHAT_EDGE

JUMP_MARGIN = 0.02  # distance in Miller indices that a chosen pixel keeps from half-way between reflections
EDGE_MARGIN = 0.05  # part of the squared distance that it keeps from the edge of a sharp spot
LIMIT_MARGIN = 1e-3  # relative distance in |q| that it keeps from the resolution limit


def choose_pixels(
    space: ParameterSpace, candidates: Pixels, interference: Interference = FUSED, most: int = 24
) -> Pixels:
    """Pixels in which a wrong derivative would show and no jump is near: the brightest, those where an axis of a step
    is closest to a whole index (there the axis factor's slope is a series of its own), and some at random."""
    model = space.to_model(space.zero())
    with torch.no_grad():
        photons = bragg_photons(model, candidates, interference)
        indices = miller_indices(*model, candidates)
        smooth = far_from_jumps(model, candidates, indices)
    delta = (indices - indices.round()).abs()
    safe = smooth & (photons > 0)
    centred = (delta * model.crystal.cells[:, None, None, None]).amin((1, 2))  # (3, P)
    weak = photons < 1e-6 * photons.max()
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.rand(len(candidates), generator=generator).to(photons)
    picks = [
        *_first(-photons, safe, most // 3),
        *(place for axis in centred for place in _first(axis, safe & ~weak, most // 8)),
        *_first(shuffled, safe & ~weak, most // 4),
    ]
    places = torch.tensor(sorted(set(picks))[:most], dtype=torch.long, device=photons.device)
    return candidates[places]


def bragg_photons(model: Model, pixels: Pixels, interference: Interference = FUSED) -> Tensor:
    """Expected photons (P,) of the crystal alone, without background and water."""
    background = model.experiment.background
    dry = replace(model.experiment, background=replace(background, water=None))
    return expected_photons(model.crystal, dry, pixels, interference) - background.photons(pixels)


def far_from_jumps(model: Model, pixels: Pixels, indices: Tensor) -> Tensor:
    """Pixels (P,) whose Miller indices (3, M, S, P) are away from where the image or its slope jumps: half-way between
    reflections, at whole indices too where F is interpolated, at a sharp spot's edge and at the resolution limit."""
    delta, factors = (indices - indices.round()).abs(), model.experiment.structure_factors
    smooth = delta.amax((0, 1, 2)) < 0.5 - JUMP_MARGIN
    if factors.amplitude is not None:
        smooth &= delta.amin((0, 1, 2)) > JUMP_MARGIN
    if model.crystal.shape == "tophat":
        smooth &= (_reach(model, indices) - 1).abs().amin((0, 1)) > EDGE_MARGIN
    if factors.d_min is not None:
        q = torch.linalg.vector_norm(pixel_scattering(model.experiment, pixels), dim=0)
        smooth &= (q * factors.d_min - 1).abs().amin((0, 1)) > LIMIT_MARGIN
    return smooth


def pieces(model: Model, pixels: Pixels) -> Tensor:
    """Whole numbers (k, P) that stay the same as long as nothing jumps, see above."""
    indices, factors = miller_indices(*model, pixels), model.experiment.structure_factors
    found = [indices.round().flatten(0, 2)]
    if factors.amplitude is not None:
        found.append(indices.floor().flatten(0, 2))
    if model.crystal.shape == "tophat":
        found.append((_reach(model, indices) < 1).flatten(0, 1).to(indices))
    if factors.d_min is not None:
        q = torch.linalg.vector_norm(pixel_scattering(model.experiment, pixels), dim=0)
        found.append((q * factors.d_min <= 1).flatten(0, 1).to(indices))
    return torch.cat(found)


def _reach(model: Model, indices: Tensor) -> Tensor:
    """Squared distances (M, S, P) from the nearest reflection over that of a sharp spot's edge."""
    scaled = (indices - indices.round()) * model.crystal.cells[:, None, None, None]
    return (scaled**2).sum(0) / TOPHAT_EDGE


def _first(keys: Tensor, allowed: Tensor, count: int) -> list[int]:
    """Places of the smallest keys among the allowed ones."""
    order = torch.argsort(torch.where(allowed, keys, torch.inf))[:count]
    return [int(k) for k in order if bool(allowed[k])]
