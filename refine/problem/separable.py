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
CLOSE = 0.01  # relative change below which steps may be Newton's, which the tails of robust losses mislead farther off
FREELY = 3  # passes after which a plane that has become a level stays one: some would change at every pass
FACTORS = tuple(2 ** (power / 2) for power in range(-6, 8) if power)  # of an intensity, where others are looked at
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
    """observed, readout, beside, use (R, P): as in `refine.problem.shoebox.Shoeboxes`; terms (T, P): the shapes of the
    background, a level first."""

    observed: Tensor
    readout: Tensor
    beside: Tensor
    use: Tensor
    terms: Tensor

    def chosen(self, which: Tensor) -> "BoxData":
        """Some of the boxes, by a mask or by their places."""
        observed, readout, beside, use = (part[which] for part in self[:4])
        return BoxData(observed, readout, beside, use, self.terms)


class BoxFit(NamedTuple):
    """linear (R, T + 1): the background's terms, then the intensity; expected (R, P) photons, those of other boxes'
    spots included; columns (R, T + 1, P): their derivatives by the linear values; free (R, T + 1): those that are at no
    limit; slopes, weights (R, P): of the noise, its slope and information, 0 where a pixel is not used; normal (R,
    T + 1, T + 1): the information about the linear values, that of the amplitudes included."""

    linear: Tensor
    expected: Tensor
    columns: Tensor
    free: Tensor
    slopes: Tensor
    weights: Tensor
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
        """Photons (R, P) of all but the box's own spot."""
        return self.expected - self.spot

    @property
    def spot(self) -> Tensor:
        """Photons (R, P) of the box's own spot."""
        return self.linear[:, -1:] * self.columns[:, -1]


def fit_boxes(profiles: Tensor, data: BoxData, noise: Noise, amplitudes: Amplitudes, passes: int = PASSES) -> BoxFit:
    """The likeliest background and intensity of every box, whose photons for |F| = 1 are `profiles` (R, P).

    Neither is ever below 0: a plane that would be, somewhere, becomes a level. Robust losses have several minima where
    pixels lie far off: such boxes are looked at with other intensities too, and go on from the best of them, so that
    the loss does not jump from one minimum to another as the crystal moves.
    """
    columns = torch.cat([data.terms.expand(len(profiles), -1, -1), profiles[:, None]], 1)
    boxes = _Boxes(columns, data, amplitudes)
    found = boxes.settled(boxes.start(), noise, passes)
    doubtful = boxes.outlying(found.linear, noise).nonzero()[:, 0]
    some, linear = boxes.chosen(doubtful), found.linear[doubtful]
    other, lower = some.best_of_many(linear, noise)
    again = some.chosen(lower).settled(_Linear(other[lower], found.free[doubtful][lower]), noise, passes)
    better = some.losses(linear, noise)[lower] > some.chosen(lower).losses(again.linear, noise)
    for whole, part in zip(found, again, strict=True):
        whole[doubtful[lower][better]] = part[better]
    return boxes.described(found, noise)


class _Linear(NamedTuple):
    """Linear values (R, T + 1) and which of them are free."""

    linear: Tensor
    free: Tensor


class _Boxes(NamedTuple):
    """Boxes to be fitted; columns as in `BoxFit`."""

    columns: Tensor
    data: BoxData
    amplitudes: Amplitudes

    def chosen(self, which: Tensor) -> "_Boxes":
        return _Boxes(self.columns[which], self.data.chosen(which), self.amplitudes.chosen(which))

    def start(self) -> _Linear:
        """Least squares, pixels weighted by what they hold."""
        weights = self.data.use / (self.data.observed.clamp_min(0.0) + self.data.readout + 1)
        sloped, pull = torch.ones_like(self.data.use[:, :1]), weights * (self.data.observed - self.data.beside)
        return _solved(self.columns, weights, pull, self.amplitudes, sloped)

    def expected(self, linear: Tensor) -> Tensor:
        """Photons (R, P)."""
        return self.data.beside + _sums(linear, self.columns)

    def outlying(self, linear: Tensor, noise: Noise) -> Tensor:
        """Which (R,) have pixels in the tails of a robust loss, and an intensity to be found."""
        deviance = noise.deviance(self.expected(linear), self.data.observed, self.data.readout)
        return ((deviance > noise.tail**2) & self.data.use).any(1) & (self.amplitudes.sigmas > 0)

    def losses(self, linear: Tensor, noise: Noise) -> Tensor:
        """The loss (R,) of every box."""
        return box_losses(linear[:, -1], self.expected(linear), self.data, noise, self.amplitudes)

    def best_of_many(self, linear: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Linear values whose intensities are the best of `FACTORS` times those given, and where (R,) they are better
        than those."""
        best, least = linear, (here := self.losses(linear, noise))
        for factor in FACTORS:
            tried = torch.cat([linear[:, :-1], factor * linear[:, -1:]], 1)
            losses = self.losses(tried, noise)
            best = torch.where((losses < least)[:, None], tried, best)
            least = torch.minimum(losses, least)
        return best, least < here

    def settled(self, start: _Linear, noise: Noise, passes: int) -> _Linear:
        """After at most so many steps, of Fisher scoring or, where they are small and shrink, Newton's; boxes that
        have settled are left alone while the others go on."""
        linear, free = start
        left, places = self, torch.arange(len(linear), device=linear.device)
        newton, change = torch.zeros_like(self.data.use[:, 0]), linear.new_full((len(linear),), torch.inf)
        for number in range(passes if len(linear) else 0):
            sloped = free[places, 1:-1] | (number < FREELY)
            before, ((linear[places], free[places]), change) = change, left.step(linear[places], noise, newton, sloped)
            far = change > SETTLED
            if not bool(far.any()):
                break
            newton, change = ((change < CLOSE) & (change < before))[far], change[far]
            left, places = left.chosen(far), places[far]
        return _Linear(linear, free)

    def step(self, linear: Tensor, noise: Noise, newton: Tensor, sloped: Tensor) -> tuple[_Linear, Tensor]:
        """The next linear values, and the relative change (R,) of the photons; by the exact curvature where `newton`
        (R,) and there is a minimum, by the information elsewhere."""
        expected, use = self.expected(linear), self.data.use
        slope, curvature, information = noise.derivatives(expected, self.data.observed, self.data.readout)
        newton = newton & _definite(_normal(self.columns, use * curvature, self.amplitudes))
        weights = use * torch.where(newton[:, None], curvature, information)
        pull = weights * (expected - self.data.beside) - use * slope
        found = _solved(self.columns, weights, pull, self.amplitudes, sloped)
        change = _sums(found.linear - linear, self.columns).abs().amax(1) / expected.amax(1).clamp_min(1.0)
        return found, change

    def described(self, found: _Linear, noise: Noise) -> BoxFit:
        expected, use = self.expected(found.linear), self.data.use
        slope, _, information = noise.derivatives(expected, self.data.observed, self.data.readout)
        normal = _normal(self.columns, weights := use * information, self.amplitudes)
        return BoxFit(found.linear, expected, self.columns, found.free, use * slope, weights, normal)


def box_losses(intensities: Tensor, expected: Tensor, data: BoxData, noise: Noise, amplitudes: Amplitudes) -> Tensor:
    """The loss (R,) of boxes of expected photons (R, P), with the pull of amplitudes that are known to a precision."""
    losses = torch.where(data.use, noise.loss(expected, data.observed, data.readout), 0.0).sum(1)
    return losses + amplitudes.precisions * (intensities - amplitudes.intensities) ** 2 / 2


def _normal(columns: Tensor, weights: Tensor, amplitudes: Amplitudes) -> Tensor:
    normal = (columns * weights[:, None]) @ columns.mT
    normal[:, -1, -1] += amplitudes.precisions
    return normal


def _sums(linear: Tensor, columns: Tensor) -> Tensor:
    """Photons (R, P)."""
    return (linear[:, None] @ columns)[:, 0]


def _definite(normal: Tensor) -> Tensor:
    """Which (R,) of symmetric matrices (R, K, K) are positive definite."""
    return torch.linalg.cholesky_ex(normal).info == 0


def _solved(columns: Tensor, weights: Tensor, pull: Tensor, amplitudes: Amplitudes, sloped: Tensor) -> _Linear:
    """Weighted least squares (weights (R, P), pull (R, P) = weights times what is aimed at) within the limits, where
    slopes may be those that are `sloped` (R, T - 1): the linear values, and which of them are free."""
    normal, right = _normal(columns, weights, amplitudes), (columns @ pull[:, :, None])[:, :, 0]
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
    return _Linear(linear, free)


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
