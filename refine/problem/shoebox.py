"""Shoeboxes: the pixels round predicted spots, each pixel once."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from refine.model.observation import Observation
from refine.model.pixels import Pixels
from refine.model.prediction import Predicted, recording
from refine.parameters.parameter import Model


@dataclass(frozen=True)
class Shoeboxes:
    """R boxes of P = size^2 pixels, rows first, each round a reflection.

    spots: the reflections and where they were predicted. pixels: all R P of them, those beyond the panel's edge moved
    onto it. use (R, P): trusted, on the panel, and nearer to this box's spot than to any other's, so that every pixel
    of the image is in one box at most. observed (R, P) photons; readout (R, P) variance, photons^2. across (2, P):
    places in the box along fast and slow, from -1 to 1. recorded (R, k, 3): the spots' `recording`.
    """

    spots: Predicted
    pixels: Pixels
    use: Tensor
    observed: Tensor
    readout: Tensor
    across: Tensor
    recorded: Tensor

    @classmethod
    def place(
        cls, model: Model, observation: Observation, spots: Predicted, size: int, apart: bool = True
    ) -> "Shoeboxes":
        """Boxes of `size` pixels an edge round the pixels that spots are predicted in; where they need not be `apart`,
        a pixel may be in several."""
        detector = model.experiment.detector
        offsets = torch.arange(size).to(spots.panel.device) - size // 2
        slow = spots.slow.floor().long()[:, None, None] + offsets[:, None]
        fast = spots.fast.floor().long()[:, None, None] + offsets
        slow, fast = (part.expand(-1, size, size).flatten(1) for part in (slow, fast))
        height, width = detector.size
        on_panel = (slow >= 0) & (slow < height) & (fast >= 0) & (fast < width)
        slow, fast = slow.clamp(0, height - 1), fast.clamp(0, width - 1)
        panel = None if detector.panels is None else spots.panel[:, None].expand_as(fast)
        like = spots.fast
        coordinates = slow.to(like).flatten(), fast.to(like).flatten()
        pixels = Pixels(*coordinates, None if panel is None else panel.flatten())
        shape = slow.shape
        trusted = observation.trusted[pixels.place].reshape(shape) & on_panel
        off = (fast + 0.5 - spots.fast[:, None]) ** 2 + (slow + 0.5 - spots.slow[:, None]) ** 2
        place = (spots.panel[:, None] * height + slow) * width + fast
        across = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij")[::-1]).flatten(1).to(like) / (size // 2)
        readout = observation.variance(pixels)
        return cls(
            spots,
            pixels,
            trusted & _nearest(place, torch.where(on_panel, off, torch.inf)) if apart else trusted,
            observation.photons[pixels.place].reshape(shape),
            readout.expand(like.new_zeros(len(pixels)).shape).reshape(shape),
            across,
            recording(model.experiment, spots),
        )

    def __len__(self) -> int:
        return len(self.spots)

    def signature(self) -> tuple[Tensor, ...]:
        """What tells these boxes from others."""
        return self.spots.indices, self.spots.fast, self.spots.slow, self.use.sum(1), self.observed.sum(1)

    def chosen(self, which: Tensor) -> "Shoeboxes":
        """Some of the boxes, by a mask (R,) or their places."""
        kept = torch.arange(len(self), device=which.device)[which]
        pixels = torch.arange(len(self.pixels), device=which.device).reshape(self.use.shape)[kept].flatten()
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        rows = {name: parts[name][kept] for name in ("use", "observed", "readout", "recorded")}
        return Shoeboxes(self.spots.chosen(kept), self.pixels[pixels], across=self.across, **rows)


def _nearest(place: Tensor, off: Tensor) -> Tensor:
    """Where (R, P) the squared distance `off` to the box's own spot is the least of all boxes that hold the pixel of
    that number `place` (R, P); of equal ones the first box's."""
    nearest = torch.isfinite(off)
    claims = torch.zeros(int(place.max()) + 1 if len(place) else 0, dtype=torch.int32, device=place.device)
    claims.index_add_(0, place.flatten(), claims.new_ones(()).expand(place.numel()))
    contested = (claims[place] != 1).nonzero(as_tuple=True)
    nearest[contested] &= _first_of_each(place[contested], off[contested])
    return nearest


def _first_of_each(group: Tensor, off: Tensor) -> Tensor:
    """Which (K,) have the least `off` of all of the same `group` (K,); of equal ones the first."""
    order = torch.argsort(off, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    ordered = group[order]
    winner = torch.ones_like(order, dtype=torch.bool)
    winner[order[1:]] = ordered[1:] != ordered[:-1]
    return winner
