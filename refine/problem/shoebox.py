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
    onto it; number (R, P): of a pixel in the image, -1 beyond the edge. own (R, P): nearer to this box's spot than to
    any other's, or beyond the edge; use (R, P): own, on the panel and trusted, so that every pixel of the image is in
    one box at most. observed (R, P) photons; readout (R, P) variance, photons^2; beside (R, P): photons of other boxes'
    spots. across (2, P): places in the box along fast and slow, from -1 to 1. recorded (R, k, 3): the spots'
    `recording`.
    """

    spots: Predicted
    pixels: Pixels
    number: Tensor
    use: Tensor
    own: Tensor
    observed: Tensor
    readout: Tensor
    beside: Tensor
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
        number = torch.where(on_panel, (spots.panel[:, None] * height + slow) * width + fast, -1)
        own = _nearest(number, off) if apart else torch.ones_like(trusted)
        across = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij")[::-1]).flatten(1).to(like) / (size // 2)
        readout, none = observation.variance(pixels), like.new_zeros(shape)
        return cls(
            spots,
            pixels,
            number,
            trusted & own,
            own,
            observation.photons[pixels.place].reshape(shape),
            readout.expand(none.numel()).reshape(shape),
            none,
            across,
            recording(model.experiment, spots),
        )

    def __len__(self) -> int:
        return len(self.spots)

    def shared(self, photons: Tensor) -> Tensor:
        """What (R, P) of the photons (R, P) of every box's spot falls, besides its own, on the pixels of each box."""
        return (_totals(self.number, photons)[self.number] - photons) * (self.number >= 0)

    def signature(self) -> tuple[Tensor, ...]:
        """What tells these boxes from others."""
        sums = (part.sum(1) for part in (self.use, self.observed, self.beside))
        return self.spots.indices, self.spots.fast, self.spots.slow, *sums

    def chosen(self, which: Tensor) -> "Shoeboxes":
        """Some of the boxes, by a mask (R,) or their places."""
        kept = torch.arange(len(self), device=which.device)[which]
        pixels = torch.arange(len(self.pixels), device=which.device).reshape(self.use.shape)[kept].flatten()
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        names = ("number", "use", "own", "observed", "readout", "beside", "recorded")
        rows = {name: parts[name][kept] for name in names}
        return Shoeboxes(self.spots.chosen(kept), self.pixels[pixels], across=self.across, **rows)


def _nearest(number: Tensor, off: Tensor) -> Tensor:
    """Where (R, P) the squared distance `off` to the box's own spot is the least of all boxes that hold the pixel of
    that `number` (R, P), or none can, as it is negative; of equal ones the first box's."""
    nearest = torch.ones_like(off, dtype=torch.bool)
    claims = _totals(number, torch.ones_like(number, dtype=torch.int32))
    contested = ((number >= 0) & (claims[number] > 1)).nonzero(as_tuple=True)
    nearest[contested] = _first_of_each(number[contested], off[contested])
    return nearest


def _totals(number: Tensor, values: Tensor) -> Tensor:
    """The sums of values (R, P) over the pixels of each number, negative ones left out; one more, 0, at the end."""
    size = int(number.max()) + 1 if len(number) else 0
    totals = values.new_zeros(size + 1)
    totals.index_add_(0, torch.where(number < 0, size, number).flatten(), values.flatten())
    totals[size] = 0
    return totals


def _first_of_each(group: Tensor, off: Tensor) -> Tensor:
    """Which (K,) have the least `off` of all of the same `group` (K,); of equal ones the first."""
    order = torch.argsort(off, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    ordered = group[order]
    winner = torch.ones_like(order, dtype=torch.bool)
    winner[order[1:]] = ordered[1:] != ordered[:-1]
    return winner
