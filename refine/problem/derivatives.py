"""Proof that the derivatives of a model are right, or where they are not.

A check that differentiates nothing passes whatever the derivative is. So first it is proved that there is something to
check: the Bragg image is finite and not zero, evaluating changes nothing, every parameter has an effect, and no pixel
looked at crosses a jump of the nearest-reflection lookup. Then each pixel's derivatives, not only their sum, are held
against differences of the image itself: by Taylor remainders, whose order in the step size (2 behind a right first
derivative, 3 behind a right second one) does not depend on a tolerance; by extrapolated differences; and by torch's own
gradcheck in reverse, forward and batched mode. All in float64, nothing compiled.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from refine.model.forward import Interference, expected_photons
from refine.model.pixels import Pixels
from refine.parameters.space import ParameterSpace
from refine.physics.fused import FUSED
from refine.problem.jumps import bragg_photons, choose_pixels, pieces
from refine.problem.tangent import cotangent, tangent

Image = Callable[[Tensor], Tensor]  # z (n,) -> expected photons (P,)

FIRST_ERROR = 1e-6  # relative; extrapolated differences in float64 are good to about 1e-9
SECOND_ERROR = 1e-5  # relative; one more difference costs two more digits
FIRST_SLOPE, FIRST_SLOPE_OFF = 2.0, 0.1
SECOND_SLOPE, SECOND_SLOPE_OFF = 3.0, 0.15
LEAST_COLUMN = 1e-7  # of the largest column, z being scaled so that a unit of any coordinate shows: less is no effect
LARGEST_CHANGE = 0.1  # of the pixels' photons over the largest step of a Taylor series
STEPS = (4, 5, 6)  # halvings of that step at which the order of a remainder is taken
LEAST_CHANGE = 0.01  # of a pixel's photons, a derivative that torch's differences still resolve: on a peak it is less
FEW_PIXELS = 6  # for torch's own checks, which go entry by entry
NOISE = 1e-12  # a remainder below this part of the photons is rounding


@dataclass(frozen=True)
class Direction:
    """A unit change (n,) of z that moves one physical value (and those symmetry ties to it)."""

    parameter: str
    label: str
    unit: str
    value: float
    along: Tensor
    per_unit: float  # change of the value over a unit of z along it


@dataclass(frozen=True)
class Row:
    """The findings along one direction. column_norm: norm of the derivative image, photons per unit of the value.
    first_error, second_error: largest error relative to the largest derivative of the row. The slopes are None where
    the remainder is rounding alone: the image is linear, or quadratic, in the value. `failures` is empty where all
    holds."""

    direction: Direction
    column_norm: float
    first_error: float
    second_error: float | None
    first_slope: float | None
    second_slope: float | None
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """What was checked on how many pixels, and what failed before or beside the rows."""

    pixels: int
    rows: tuple[Row, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return bool(self.rows) and not self.failures and not any(row.failures for row in self.rows)


def check_derivatives(
    space: ParameterSpace,
    candidates: Pixels,
    interference: Interference = FUSED,
    order: int = 2,
    pixels: Pixels | None = None,
) -> Findings:
    """Check the derivatives of the expected photons by every free parameter at the start of a space.

    Up to 24 pixels are chosen from `candidates` (see `choose_pixels`), or `pixels` are taken as they are.
    order: 1 for first derivatives alone, 2 for both.
    """
    chosen = choose_pixels(space, candidates, interference) if pixels is None else pixels
    model = ModelImage(space, chosen, interference)
    if failures := tuple(_meaningless(model)):
        return Findings(len(chosen), (), failures)
    found = directions(space)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)  # vmap where it has to loop
        try:
            analytic = _analytic(model)
            bends = _bends(model, found) if order > 1 else [None] * len(found)
        except RuntimeError as error:
            return Findings(len(chosen), (), (f"the derivatives cannot be computed: {_short(error)}",))
        rows = tuple(_check_direction(model, analytic, *pair) for pair in zip(found, bends, strict=True))
        return Findings(len(chosen), rows, tuple(_torch_checks(model, analytic, order)))


@dataclass(frozen=True)
class ModelImage:
    """The expected photons (P,) of a few pixels as a function of z (n,)."""

    space: ParameterSpace
    pixels: Pixels
    interference: Interference

    def __call__(self, z: Tensor) -> Tensor:
        photons = expected_photons(*self.space.to_model(z), self.pixels, self.interference)
        return photons + 0 * z.sum()  # no effect is a derivative of 0, not a missing graph

    def line(self, along: Tensor) -> Image:
        """The photons along a direction (n,) from the start, as a function of the step ()."""
        return lambda t: self(self.space.zero() + t * along)


@dataclass(frozen=True)
class Analytic:
    """Photons (P,), and their Jacobian (P, n) by forward mode, by reverse mode under functorch, by plain reverse mode,
    as a refinement makes it (`tangent`), and as it makes a gradient (`cotangent`), pixel by pixel: five paths through
    the code that users take."""

    photons: Tensor
    jacobians: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _analytic(model: ModelImage) -> Analytic:
    zero = model.space.zero()
    at = zero.clone().requires_grad_()
    photons = model(at)
    plain = [torch.autograd.grad(pixel, at, retain_graph=True)[0] for pixel in photons]
    _, refined = tangent(model.space, zero, model.interference).photons_and_jacobian(model.pixels)
    functional = torch.func.jacfwd(model)(zero), torch.func.jacrev(model)(zero)
    return Analytic(photons.data, (*functional, torch.stack(plain), refined, _by_gradients(model)))


def _by_gradients(model: ModelImage) -> Tensor:
    """The Jacobian (P, n) row by row, each the gradient of a pixel's photons as a refinement makes gradients."""
    about = cotangent(model.space, model.space.zero(), model.interference)
    pixels = [pixel for _, pixel in model.pixels.tiles(1)]
    return torch.stack([about.to_z(about.pulled(pixel, lambda mu, _: torch.ones_like(mu))[1]) for pixel in pixels])


def _bends(model: ModelImage, found: list[Direction]) -> list[Tensor | None]:
    """Second derivatives (P,) along every direction by forward over forward mode, batched: one nested pass costs
    twenty."""
    zero = model.space.zero()
    start, one = zero.new_zeros(()), zero.new_ones(())

    def bend(along: Tensor) -> Tensor:
        def slope(t: Tensor) -> Tensor:
            return torch.func.jvp(model.line(along), (t,), (one,))[1]

        return torch.func.jvp(slope, (start,), (one,))[1]

    return list(torch.func.vmap(bend)(torch.stack([direction.along for direction in found])))


def directions(space: ParameterSpace) -> list[Direction]:
    """One direction a physical value that can move, tied ones together."""
    zero = space.zero()
    jacobian, values = space.rates(zero), space.physical(zero)
    found: list[Direction] = []
    place, row = 0, 0
    for parameter in space.parameters:
        block = jacobian[row : row + len(parameter.labels), place : place + parameter.size]
        for k, along in enumerate(torch.linalg.pinv(block, rtol=1e-9).T):
            size = torch.linalg.vector_norm(along)
            unit_along = along / size.clamp_min(1e-300)
            whole = torch.cat([zero[:place], unit_along, zero[place + parameter.size :]])
            twin = any(abs(float(whole @ other.along)) > 1 - 1e-9 for other in found)
            if float(torch.linalg.vector_norm(block[k])) > 1e-9 and not twin:
                label, unit, per_unit = parameter.labels[k], parameter.units[k], float(block[k] @ unit_along)
                found.append(Direction(parameter.name, label, unit, float(values[row + k]), whole, per_unit))
        place, row = place + parameter.size, row + len(parameter.labels)
    return found


def _meaningless(model: ModelImage) -> Iterator[str]:
    """Why a check on these pixels would prove nothing."""
    zero, pixels = model.space.zero(), model.pixels
    if not len(pixels):
        yield (
            "the Bragg image is zero, or every pixel is at a jump of the nearest reflection: no pixel is left to check"
            " (are all structure factors 0?)"
        )
        return
    photons = model(zero)
    bragg = bragg_photons(model.space.start, pixels, model.interference)
    if not bool(torch.isfinite(photons).all()):
        yield "the expected image holds values that are not finite"
    elif not bool((bragg.abs() > 0).any()):
        yield "the Bragg image is zero in every pixel (are all structure factors 0?): any derivative would pass"
    if not torch.equal(photons, model(zero)) or bool(zero.abs().sum() > 0):
        yield "evaluating the model changes its input or its state: two evaluations differ"
    if photons.dtype is not torch.float64:
        yield f"the image is {photons.dtype}, where float64 is needed to tell a wrong derivative from rounding"


def _check_direction(model: ModelImage, analytic: Analytic, direction: Direction, bend: Tensor | None) -> Row:
    """Remainders and differences along one direction; of second order where the second derivative (P,) is given."""
    along, photons = direction.along, analytic.photons
    slope = analytic.jacobians[0] @ along
    reach = _reach(model, along, photons, slope)
    largest = float(_norm(analytic.jacobians[0]).clamp_min(1e-300))
    norm = float(_norm(slope))
    first_slope = _remainder_order(lambda t: model.line(along)(t) - photons - t * slope, photons, reach)
    first_error = _first_error(model, analytic, along, reach)
    second_slope = second_error = None
    if bend is not None:
        second_slope, second_error = _second_order(model, analytic, along, reach, bend)
    row = Row(direction, norm / direction.per_unit, first_error, second_error, first_slope, second_slope, ())
    guards = [_crosses_jump(model, along, reach / 2 ** STEPS[0])]
    if not norm > LEAST_COLUMN * largest:
        guards.append(f"no effect: its derivative image has norm {norm:.1e}, the largest {largest:.1e}")
    return replace(row, failures=(*filter(None, guards), *_verdicts(row)))


def _verdicts(row: Row) -> Iterator[str]:
    if not row.first_error <= FIRST_ERROR:
        yield f"first derivative: off by {row.first_error:.1e} of its size, allowed {FIRST_ERROR:.0e}"
    if row.first_slope is not None and not abs(row.first_slope - FIRST_SLOPE) <= FIRST_SLOPE_OFF:
        yield f"first derivative: Taylor remainder of order {row.first_slope:.2f}, not 2 +- {FIRST_SLOPE_OFF}"
    if row.second_error is not None and not row.second_error <= SECOND_ERROR:
        yield f"second derivative: off by {row.second_error:.1e} of its size, allowed {SECOND_ERROR:.0e}"
    if row.second_slope is not None and not abs(row.second_slope - SECOND_SLOPE) <= SECOND_SLOPE_OFF:
        yield f"second derivative: Taylor remainder of order {row.second_slope:.2f}, not 3 +- {SECOND_SLOPE_OFF}"


def _norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values)


def _reach(model: ModelImage, along: Tensor, photons: Tensor, slope: Tensor) -> float:
    """A step that changes the photons by about `LARGEST_CHANGE`, within the parameters' limits: guessed from the
    slope, then measured and mended, so that a wrong slope cannot choose it."""
    aim = LARGEST_CHANGE * float(_norm(photons))
    line = model.line(along)

    def admitted(t: float) -> bool:
        return model.space.admits(t * along) and model.space.admits(-t * along)

    def change(t: float) -> float:
        return max(float(_norm(line(along.new_tensor(at)) - photons)) for at in (t, -t))

    reach = min(max(aim / max(float(_norm(slope)), 1e-300), 1e-6), 1e3)
    with torch.no_grad():
        while reach > 1e-6 and not (admitted(reach) and change(reach) <= 2 * aim):
            reach /= 2
        while reach < 1e3 and change(reach) < aim / 4 and admitted(2 * reach):
            reach *= 2
    return reach


def _crosses_jump(model: ModelImage, along: Tensor, reach: float) -> str | None:
    """Whether the nearest reflection of a step changes within `reach`, the largest step taken, or what else jumps."""
    with torch.no_grad():
        low, here, high = (pieces(model.space.to_model(t * along), model.pixels) for t in (-reach, 0.0, reach))
    crossing = int(((low != here) | (high != here)).any(0).sum())
    return f"{crossing} pixels cross a jump of the nearest reflection within the steps taken" if crossing else None


def _remainder_order(remainder: Image, photons: Tensor, reach: float) -> float | None:
    """Order of a remainder in the step size, from the last two of a few halved steps above rounding; None where there
    are none."""
    floor = 300 * NOISE * float(_norm(photons))  # rounding of a three-hundredth bends an order by less than 0.01
    with torch.no_grad():
        sizes = [float(_norm(remainder(photons.new_tensor(reach / 2**k)))) for k in STEPS]
    above = [math.log2(size) for size in sizes if size > floor]
    return above[-2] - above[-1] if len(above) > 1 and len(above) >= len(sizes) - 2 else None


def _first_error(model: ModelImage, analytic: Analytic, along: Tensor, reach: float) -> float:
    """Largest error of the Jacobians against extrapolated differences, pixel by pixel: relative to the pixel's own
    derivative, or to a ten-thousandth of the largest where it is less."""
    line = model.line(along)
    difference = _extrapolated(lambda t: line(along.new_tensor(t)), reach / 2 ** STEPS[1])
    size = difference.abs().clamp_min(1e-4 * float(difference.abs().max())).clamp_min(1e-300)
    return max(float(((jacobian @ along - difference).abs() / size).max()) for jacobian in analytic.jacobians)


def _extrapolated(function: Callable[[float], Tensor], step: float) -> Tensor:
    """Derivative at 0 by central differences, extrapolated twice (Richardson): its error is of sixth order."""
    d = [((function(h) - function(-h)) / (2 * h)).data for h in (step, step / 2, step / 4)]
    once = [(4 * d[1] - d[0]) / 3, (4 * d[2] - d[1]) / 3]
    return (16 * once[1] - once[0]) / 15


def _second_order(
    model: ModelImage, analytic: Analytic, along: Tensor, reach: float, bend: Tensor
) -> tuple[float | None, float]:
    """Order of the remainder behind the second derivative (P,), and the error of the Hessian-vector product of a
    weighted sum of the pixels (reverse over reverse, the path of a Newton step): against differences of its gradient,
    and against that second derivative."""
    photons, slope, line = analytic.photons, analytic.jacobians[0] @ along, model.line(along)
    weights = torch.linspace(0.5, 1.5, len(photons)).to(photons) / photons.abs().clamp_min(1e-300)
    order = _remainder_order(lambda t: line(t) - photons - t * slope - t * t / 2 * bend, photons, reach)

    def gradient(t: float, keep: bool = False) -> tuple[Tensor, Tensor]:
        at = (t * along).requires_grad_()
        return torch.autograd.grad(weights @ model(at), at, create_graph=keep)[0], at

    kept, at = gradient(0.0, keep=True)
    if not kept.requires_grad:
        return order, math.inf
    product = torch.autograd.grad(kept @ along, at)[0]
    difference = _extrapolated(lambda t: gradient(t)[0], reach / 2 ** STEPS[0])
    largest = torch.maximum(difference.abs().max(), 1e-3 * kept.data.abs().max() / max(reach, 1.0))
    error = torch.maximum((product - difference).abs().max(), (product @ along - weights @ bend).abs())
    return order, float(error / largest.clamp_min(1e-300))


def _torch_checks(model: ModelImage, analytic: Analytic, order: int) -> Iterator[str]:
    """torch's gradcheck in reverse, forward and batched mode, each pixel an output scaled to its own largest
    derivative; gradgradcheck behind it; and vmap against one point after the other. All parameters together first,
    and where that fails each by itself, to name the one."""
    few = slice(None, None, max(1, len(model.pixels) // FEW_PIXELS))
    largest, photons = analytic.jacobians[0][few].abs().amax(1), analytic.photons[few].abs()
    scale = torch.maximum(largest, LEAST_CHANGE * photons).clamp_min(1e-300)
    part = replace(model, pixels=model.pixels[few])
    zero = model.space.zero()

    def failed(places: Tensor) -> Iterator[str]:
        def block(z: Tensor) -> Tensor:
            return part(zero.index_put((places,), z)) / scale

        for kind, check in _torch_kinds(block, zero[places], order):
            try:
                held, why = check(), "the results differ"
            except RuntimeError as error:  # GradcheckError among them
                held, why = False, _short(error)
            if not held:
                yield f"{kind} failed: {why}"

    everything = torch.arange(model.space.size, device=zero.device)
    if together := [f"all parameters together: {text}" for text in failed(everything)]:
        blocks = zip(model.space.parameters, model.space.split(everything), strict=True)
        yield from [f"{p.name}: {text}" for p, places in blocks for text in failed(places)] or together


def _torch_kinds(function: Image, at: Tensor, order: int) -> Sequence[tuple[str, Callable[[], bool]]]:
    inputs = (at.clone().requires_grad_(),)
    modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    first = partial(torch.autograd.gradcheck, function, inputs, eps=1e-4, atol=1e-7, rtol=1e-6, **modes)
    second = partial(torch.autograd.gradgradcheck, function, inputs, eps=1e-4, atol=1e-6, rtol=1e-5)
    kinds = [("gradcheck", first), ("vmap", partial(_vmap_agrees, function, at)), ("gradgradcheck", second)]
    return kinds if order > 1 else kinds[:2]


def _vmap_agrees(function: Image, at: Tensor) -> bool:
    """vmap over three points against the points one by one."""
    points = torch.stack([at, at + 1e-3, at - 2e-3])
    one_by_one = torch.stack([function(point) for point in points])
    return bool(torch.allclose(torch.func.vmap(function)(points), one_by_one, rtol=1e-12, atol=1e-12))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
