"""What a shoebox's photons are linear in, fitted: its background and the intensity of its reflection.

For any crystal the best values follow from the box's own pixels, so that a solver need not know them (variable
projection: Golub & Pereyra 1973, SIAM J. Numer. Anal. 10, 413): they are eliminated box by box, all boxes at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from refine.problem.noise import Noise

PASSES = 60  # of Fisher scoring, at most
SETTLED = 1e-8  # relative change of a box's expected photons below which it is done
FREELY = 3  # passes after which a plane that has become a level stays one: some would change at every pass
REGULAR = 1e-12  # added to a unit diagonal: a box without photons or pixels has no inverse


class Amplitudes(NamedTuple):
    """What is known of |F|^2: intensities (R,) and their standard deviations sigmas (R,), electrons^2; sigma 0 where it
    is known, infinity where nothing is."""

    intensities: Tensor
    sigmas: Tensor

    @classmethod
    def unknown(cls, count: int, like: Tensor) -> "Amplitudes":
        """Of so many reflections."""
        return cls(like.new_zeros(count), like.new_full((count,), torch.inf))

    @property
    def precisions(self) -> Tensor:
        """1 / sigma^2 (R,); 0 where nothing is known, and where no fit is needed."""
        partly = torch.isfinite(self.sigmas) & (self.sigmas > 0)
        return torch.where(partly, torch.where(partly, self.sigmas, 1.0) ** -2, 0.0)

    def chosen(self, which: Tensor) -> "Amplitudes":
        """Some of them, by a mask or by their places."""
        return Amplitudes(*(part[which] for part in self))


class BoxData(NamedTuple):
    """observed, readout, use (R, P): as in `refine.problem.shoebox.Shoeboxes`; terms (T, P): the shapes of the
    background, a level first."""

    observed: Tensor
    readout: Tensor
    use: Tensor
    terms: Tensor

    def chosen(self, which: Tensor) -> "BoxData":
        """Some of the boxes, by a mask or by their places."""
        return BoxData(self.observed[which], self.readout[which], self.use[which], self.terms)


class BoxFit(NamedTuple):
    """linear (R, T + 1): the background's terms, then the intensity; expected (R, P) photons; columns (R, T + 1, P):
    their derivatives by the linear values; free (R, T + 1): those that are at no limit; normal (R, T + 1, T + 1): the
    information about the linear values, that of the amplitudes included."""

    linear: Tensor
    expected: Tensor
    columns: Tensor
    free: Tensor
    normal: Tensor

    @property
    def intensities(self) -> Tensor:
        """|F|^2 (R,)."""
        return self.linear[:, -1]

    @property
    def intensity_esds(self) -> Tensor:
        """(R,); 0 where the intensity is held."""
        last = torch.zeros_like(self.linear)[:, :, None]
        last[:, -1] = 1.0
        return torch.sqrt(inverse_product(self.normal, self.free, last)[:, -1, 0].clamp_min(0.0))

    @property
    def background(self) -> Tensor:
        """Photons (R, P)."""
        return (self.linear[:, :-1, None] * self.columns[:, :-1]).sum(1)


def fit_boxes(profiles: Tensor, data: BoxData, noise: Noise, amplitudes: Amplitudes, passes: int = PASSES) -> BoxFit:
    """The likeliest background and intensity of every box, whose photons for |F| = 1 are `profiles` (R, P).

    Neither is ever below 0: a plane that would be, somewhere, becomes a level. Boxes that have settled are left alone
    while the others go on, through so many passes at most.
    """
    columns = torch.cat([data.terms.expand(len(profiles), -1, -1), profiles[:, None]], 1)
    weights = data.use / (data.observed.clamp_min(0.0) + data.readout + 1)
    sloped = torch.ones_like(data.use[:, :1])
    linear, free, normal = _solved(columns, weights, weights * data.observed, amplitudes, sloped)
    unsettled = torch.arange(len(profiles), device=profiles.device)
    columns_left, data_left, known_left = columns, data, amplitudes
    for number in range(passes):
        expected = _sums(linear[unsettled], columns_left)
        given = (expected, data_left.observed, data_left.readout)
        weights, slopes = data_left.use * noise.information(*given), data_left.use * noise.slope(*given)
        sloped = free[unsettled, 1:-1] | (number < FREELY)
        found = _solved(columns_left, weights, weights * expected - slopes, known_left, sloped)
        far = ((found[0] - linear[unsettled])[:, :, None] * columns_left).abs().amax((1, 2)) > SETTLED * (
            expected.amax(1).clamp_min(1.0)
        )
        for whole, part in zip((linear, free, normal), found, strict=True):
            whole[unsettled] = part
        if not bool(far.any()):
            break
        unsettled, columns_left = unsettled[far], columns_left[far]
        data_left, known_left = data_left.chosen(far), known_left.chosen(far)
    return BoxFit(linear, _sums(linear, columns), columns, free, normal)


def _sums(linear: Tensor, columns: Tensor) -> Tensor:
    """Photons (R, P)."""
    return (linear[:, None] @ columns)[:, 0]


def _solved(
    columns: Tensor, weights: Tensor, pull: Tensor, amplitudes: Amplitudes, sloped: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted least squares (weights (R, P), pull (R, P) = weights times what is aimed at) within the limits, where
    slopes may be those that are `sloped` (R, T - 1): the linear values, which of them are free, and the normal matrices
    of `BoxFit`."""
    normal, right = (columns * weights[:, None]) @ columns.mT, (columns @ pull[:, :, None])[:, :, 0]
    normal[:, -1, -1] += amplitudes.precisions
    right[:, -1] += amplitudes.precisions * amplitudes.intensities
    free = torch.ones_like(right, dtype=torch.bool)
    free[:, 1:-1] = sloped
    free[:, -1] = amplitudes.sigmas > 0
    held = torch.zeros_like(right)
    held[:, -1] = torch.where(free[:, -1], 0.0, amplitudes.intensities)
    linear = _least(normal, right, free, held)
    for limit in (_negative_intensity, _negative_plane, _negative_level):
        beyond = limit(linear) & free
        if bool(beyond.any()):
            free = free & ~beyond
            linear = _least(normal, right, free, held)
    return linear, free, normal


def _negative_intensity(linear: Tensor) -> Tensor:
    beyond = torch.zeros_like(linear, dtype=torch.bool)
    beyond[:, -1] = linear[:, -1] < 0
    return beyond


def _negative_plane(linear: Tensor) -> Tensor:
    beyond = torch.zeros_like(linear, dtype=torch.bool)
    beyond[:, 1:-1] = (linear[:, 0] < linear[:, 1:-1].abs().sum(1))[:, None]
    return beyond


def _negative_level(linear: Tensor) -> Tensor:
    beyond = torch.zeros_like(linear, dtype=torch.bool)
    beyond[:, 0] = linear[:, 0] < 0
    return beyond


def _least(normal: Tensor, right: Tensor, free: Tensor, held: Tensor) -> Tensor:
    """Linear values (R, K) where those not free are held at their values."""
    right = right - (normal @ torch.where(free, 0.0, held)[:, :, None])[:, :, 0]
    return torch.where(free, inverse_product(normal, free, right[:, :, None])[:, :, 0], held)


def inverse_product(normal: Tensor, free: Tensor, right: Tensor) -> Tensor:
    """normal^-1 right (R, K, M) of the free linear values; 0 for the others. Scaled to a unit diagonal."""
    diagonal = torch.diagonal(normal, dim1=1, dim2=2)
    use = free & (diagonal > 0)
    scale = torch.where(use, diagonal, 1.0).rsqrt() * use
    unit = normal * scale[:, :, None] * scale[:, None]
    unit = unit + torch.diag_embed((~use).to(unit) + REGULAR)
    return scale[:, :, None] * torch.linalg.solve(unit, scale[:, :, None] * right)
