"""Deliberate faults in derivatives and their guards, each put into the real code with pytest's MonkeyPatch.

Most leave the value alone and break its derivative: `with_derivative_of(value, other)` has the value of the one and
the derivatives of the other, in every mode that torch has.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from builders import f64, full_experiment, rich_crystal, rich_experiment
from torch import Tensor
from torch._C import _functorch as functorch

from refine.model import beam as beam_module
from refine.model import crystal as crystal_module
from refine.model import forward, levers
from refine.model.background import Background
from refine.model.crystal import Crystal
from refine.model.detector import Detector
from refine.model.experiment import Experiment
from refine.model.forward import miller_indices
from refine.model.pixels import Pixels
from refine.model.structure_factors import StructureFactors
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.physics import fused, lattice, tile_sums
from refine.physics.panel import PanelFrame
from refine.physics.sources import Spread
from refine.problem import derivatives, tangent
from refine.problem.derivatives import Findings, check_derivatives

Inject = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Fault:
    """inject: puts it into the code for as long as the patch lasts. free, order: what is checked, on a short
    rotation of a mosaic crystal. blamed: what a message has to name: a value's label, or why nothing can be checked.
    change, pixels: where the fault is in what is checked and not in the code. full: with a divergent beam of two
    colours, an absorbing sensor and water."""

    inject: Inject
    blamed: str
    free: tuple[str, ...]
    order: int = 1
    change: Callable[[Experiment], Experiment] | None = None
    pixels: Pixels | None = None
    full: bool = False

    def check(self) -> Findings:
        sample, instrument = model()
        instrument = full_experiment() if self.full else instrument
        instrument = self.change(instrument) if self.change else instrument
        space = ParameterSpace.of(sample, instrument, self.free, plane_background=True)
        return check_derivatives(space, candidates(), fused.FUSED, self.order, self.pixels)


FAULTS: dict[str, Fault] = {}


def fault(blamed: str, *free: str, order: int = 1, **more: Any) -> Callable[[Inject], Inject]:
    """Enter the decorated injection in the table."""

    def enter(inject: Inject) -> Inject:
        FAULTS[inject.__name__] = Fault(inject, blamed, free, order, **more)
        return inject

    return enter


def model() -> tuple[Crystal, Experiment]:
    return rich_crystal("square", cells=(6.0, 4.0, 8.0)), rich_experiment()


def candidates() -> Pixels:
    panel = model()[1].detector
    return Pixels.whole(panel.size, panel.distance)


def with_derivative_of(value: Tensor, other: Tensor) -> Tensor:
    return other + (value - other).detach()


def with_rate(x: Tensor, factor: float) -> Tensor:
    """x, its derivative times a factor."""
    return x.detach() + factor * (x - x.detach())


def wrap(patch: pytest.MonkeyPatch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a function by `around(original, *arguments)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args: around(original, *args))


def wrap_rule(patch: pytest.MonkeyPatch, name: str, around: Callable[..., Any]) -> None:
    """Likewise one of the rules of the fused kernel's autograd function."""
    original = getattr(fused._Interference, name)
    patch.setattr(fused._Interference, name, staticmethod(lambda *args: around(original, *args)))


def wrap_scale(patch: pytest.MonkeyPatch, around: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace the scale of every model by `around(scale, z)`."""

    def to_model(original: Callable[..., Model], space: ParameterSpace, z: Tensor) -> Model:
        found = original(space, z)
        return found._replace(experiment=replace(found.experiment, scale=around(found.experiment.scale, z)))

    wrap(patch, ParameterSpace, "to_model", to_model)


# A parameter that a derivative does not see, or sees wrongly.


@fault("b_factor", "b_factor", "scale")
def detached_parameter(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, forward, "debye_waller", lambda original, q, b: original(q, b.detach()))


@fault("wavelength", "wavelength", "scale")
def partly_detached_parameter(patch: pytest.MonkeyPatch) -> None:
    """The Debye-Waller factor forgets that resolution depends on the wavelength."""
    wrap(patch, forward, "debye_waller", lambda original, q, b: original(q.detach(), b))


@fault("mosaic_spread", "mosaic", "scale")
def degrees_for_radians(patch: pytest.MonkeyPatch) -> None:
    def steps(original: Callable[..., Any], *args: Any) -> Any:
        fixed, angles = original(*args)
        return fixed, with_rate(angles, 180 / torch.pi)

    wrap(patch, forward, "crystal_steps", steps)


@fault("detector_rotation_y", "detector_rotations", "scale")
def radians_for_degrees(patch: pytest.MonkeyPatch) -> None:
    """A rate of the panel's turning, a factor of 57 too small."""

    def frame(original: Callable[[Detector], PanelFrame], panel: Detector) -> PanelFrame:
        x, y, z = panel.rotations
        return original(replace(panel, rotations=torch.stack([x, with_rate(y, torch.pi / 180), z])))

    wrap(patch, Detector, "frame", frame)


@fault("beam_center_fast", "beam_center", "distance")
def swapped_axes(patch: pytest.MonkeyPatch) -> None:
    """Fast for slow in the derivative of the beam centre."""

    def frame(original: Callable[[Detector], PanelFrame], panel: Detector) -> PanelFrame:
        swapped = original(replace(panel, beam_center=panel.beam_center.flip(0)))
        return PanelFrame(*map(with_derivative_of, original(panel), swapped))

    wrap(patch, Detector, "frame", frame)


@fault("background_slope_fast", "scale", "background")
def swapped_background_slopes(patch: pytest.MonkeyPatch) -> None:
    def photons(original: Callable[..., Tensor], level: Background, pixels: Pixels) -> Tensor:
        swapped = replace(level, coefficients=level.coefficients[[0, 2, 1]])
        return with_derivative_of(original(level, pixels), original(swapped, pixels))

    wrap(patch, Background, "photons", photons)


@fault("distance", "beam_center", "distance")
def stale_frame(patch: pytest.MonkeyPatch) -> None:
    """The panel's place as it was when last computed without a derivative."""

    def frame(original: Callable[[Detector], PanelFrame], panel: Detector) -> PanelFrame:
        return PanelFrame(*(vector.detach() for vector in original(panel)))

    wrap(patch, Detector, "frame", frame)


@fault("distance", "beam_center", "distance")
def stale_plane_distance(patch: pytest.MonkeyPatch) -> None:
    """The tilt of the pixels in the solid angle, which the spots' movement hides."""
    wrap(patch, forward, "tilted_solid_angle", lambda original, ray, tilt, size: original(ray, tilt.detach(), size))


@fault("alpha", "cell")
def stale_angle_of_the_cell(patch: pytest.MonkeyPatch) -> None:
    def vectors(original: Callable[[Tensor], Tensor], cell: Tensor) -> Tensor:
        return original(torch.cat([cell[:3], cell[3:4].detach(), cell[4:]]))

    wrap(patch, crystal_module, "real_space_vectors", vectors)


@fault("b_factor", "b_factor", "scale")
def clamped_parameter(patch: pytest.MonkeyPatch) -> None:
    """A limit on which the start stands: the derivative holds on one side."""
    wrap(patch, forward, "debye_waller", lambda original, q, b: original(q, b.clamp(max=3.0)))


@fault("wavelength", "wavelength", "scale")
def clamped_gradient(patch: pytest.MonkeyPatch) -> None:
    class Clipped(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient.clamp(-1e3, 1e3)

        @staticmethod
        def jvp(ctx: Any, tangent: Tensor) -> Tensor:
            return tangent.clone()

    wrap(patch, forward, "scattering_vectors", lambda original, ray, s, length: original(ray, s, Clipped.apply(length)))


@fault("b_factor", "b_factor", "scale")
def wrong_debye_waller(patch: pytest.MonkeyPatch) -> None:
    """exp(-B q^2 / 2) with the derivative of exp(-B q^2 / 4)."""
    wrap(patch, forward, "debye_waller", lambda original, q, b: original(q, with_rate(b, 0.5)))


@fault("detector_rotation_x", "detector_rotations", "scale")
def wrong_polarization(patch: pytest.MonkeyPatch) -> None:
    """The sign of the polarised part."""

    def factor(original: Callable[..., Tensor], s: Tensor, ray: Tensor, axis: Tensor, kahn: Tensor) -> Tensor:
        return with_derivative_of(original(s, ray, axis, kahn), original(s, ray, axis, -kahn))

    wrap(patch, forward, "polarization", factor)


@fault("distance", "beam_center", "distance")
def wrong_solid_angle(patch: pytest.MonkeyPatch) -> None:
    """One power of the distance too few."""

    def steradians(original: Callable[..., Tensor], distance: Tensor, tilt: Tensor, size: Tensor) -> Tensor:
        return original(distance, tilt, size) * distance / distance.detach()

    wrap(patch, forward, "tilted_solid_angle", steradians)


@fault("thickness", "thickness", "scale", full=True)
def detached_thickness(patch: pytest.MonkeyPatch) -> None:
    """The front of a layer moves with the sensor's thickness, its own does not."""

    def absorbed(original: Callable[..., Tensor], depth: Tensor, layer: Tensor, *more: Tensor) -> Tensor:
        return original(depth, layer.detach(), *more)

    wrap(patch, forward, "absorbed_fraction", absorbed)


@fault("attenuation", "attenuation", "scale", full=True)
def attenuation_upside_down(patch: pytest.MonkeyPatch) -> None:
    def absorbed(original: Callable[..., Tensor], depth: Tensor, layer: Tensor, mu: Tensor, tilt: Tensor) -> Tensor:
        return original(depth, layer, with_rate(mu, -1.0), tilt)

    wrap(patch, forward, "absorbed_fraction", absorbed)


@fault("divergence_vertical", "divergence", "scale", full=True)
def one_sided_divergence(patch: pytest.MonkeyPatch) -> None:
    def rays(original: Callable[..., Any], beam: Tensor, electric: Tensor, spread: Spread) -> Any:
        horizontal, vertical = spread.divergence
        return original(beam, electric, spread._replace(divergence=torch.stack([horizontal, vertical.detach()])))

    wrap(patch, beam_module, "spread_sources", rays)


@fault("dispersion", "dispersion", "scale", full=True)
def fraction_for_percent(patch: pytest.MonkeyPatch) -> None:
    def rays(original: Callable[..., Any], beam: Tensor, electric: Tensor, spread: Spread) -> Any:
        return original(beam, electric, spread._replace(dispersion=with_rate(spread.dispersion, 100.0)))

    wrap(patch, beam_module, "spread_sources", rays)


@fault("water", "water", "scale", full=True)
def area_for_volume(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, forward, "water_scattering", lambda original, edge: original(with_rate(edge, 2 / 3)))


@fault("polarization", "polarization", "scale", full=True)
def stale_kahn_factor(patch: pytest.MonkeyPatch) -> None:
    def kahns(original: Callable[..., Tensor], incident: Tensor, ray: Tensor, axis: Tensor, kahn: Tensor) -> Tensor:
        return original(incident, ray, axis, kahn.detach())

    wrap(patch, forward, "polarization", kahns)


@fault("scale", "b_factor", "scale")
def percent_for_fraction(patch: pytest.MonkeyPatch) -> None:
    wrap_scale(patch, lambda scale, z: with_rate(scale, 100.0))


@fault("scale", "scale", "b_factor", order=2)
def linear_for_logarithm(patch: pytest.MonkeyPatch) -> None:
    """The derivative of another transform of z, which at the start has the same slope."""
    wrap_scale(patch, lambda scale, z: with_derivative_of(scale, 1 + 0.01 * z[0]))


# The fused kernel's derivatives.


@fault("b:", "cell")
def missing_factor_two(patch: pytest.MonkeyPatch) -> None:
    """The 2 of d(f^2) in the derivative by the lattice vectors."""
    wrap(patch, tile_sums, "_by_real_space", lambda original, *args: original(*args) / 2)


@fault("mosaic_spread", "mosaic", "scale")
def wrong_sign(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, tile_sums, "_by_angles", lambda original, *args: -original(*args))


@fault("gamma", "cell")
def transposed_lattice_derivative(patch: pytest.MonkeyPatch) -> None:
    def transposed(original: Callable[..., Tensor], *args: Tensor) -> Tensor:
        return original(*args).reshape(3, 3, -1).transpose(0, 1).flatten(0, 1)

    wrap(patch, tile_sums, "_by_real_space", transposed)


@fault("a:", "cell")
def dropped_phi_rotation(patch: pytest.MonkeyPatch) -> None:
    """sum_m G_jm q where R_m^T q belongs."""

    def unturned(original: Callable[..., Tensor], slopes: Tensor, rotations: Tensor, q: Tensor) -> Tensor:
        return original(slopes, torch.eye(3).to(rotations).expand_as(rotations), q)

    wrap(patch, tile_sums, "_by_real_space", unturned)


@fault("mosaic_spread", "mosaic", "scale")
def dropped_mosaic_rotation(patch: pytest.MonkeyPatch) -> None:
    def rates(original: Callable[..., Tensor], *args: Any) -> Tensor:
        return original(*args) * f64(0.0, 1.0, 1.0)[:, None, None, None]

    wrap(patch, tile_sums, "step_rotation_rates", rates)


@fault("N_c", "cells", "scale")
def unweighted_cells(patch: pytest.MonkeyPatch) -> None:
    """The derivative by N of the wrong axis."""

    def slopes(original: Callable[..., Any], *args: Any) -> Any:
        found = original(*args)
        return found._replace(cells=found.cells.roll(1, 0))

    wrap(patch, fused, "moments", slopes)


@fault("mosaic_spread", "mosaic", "scale")
def single_precision(patch: pytest.MonkeyPatch) -> None:
    """The kernel's arithmetic in float32; the result is float64 all the same."""
    single = fused.EAGER._replace(precision=torch.float32)
    wrap(patch, fused, "moments", lambda original, *args: original(*args[:3], single, *args[4:]))


@fault("float32", "b_factor", "scale")
def single_precision_image(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, derivatives, "expected_photons", lambda original, *args: original(*args).float())


@fault("b:", "cell")
def series_beyond_its_range(patch: pytest.MonkeyPatch) -> None:
    """The term that next to delta = 0 stands for the slope's closed form, also where the next one counts."""
    patch.setitem(lattice._CANCELLING, torch.float64, 0.2)


@fault("N_b", "cells", "scale", order=2)
def wrong_series_of_sinc(patch: pytest.MonkeyPatch) -> None:
    """x^4 / 60 for x^4 / 120: in the second derivatives, which the fused kernel takes from the reference."""

    def series(original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return original(x) + torch.where(x.abs() < lattice._SERIES, x**4 / 120, torch.zeros_like(x))

    wrap(patch, lattice, "sinc", series)


# The derivatives as a refinement makes them, from those by the image's levers.


@fault("scale", "b_factor", "scale")
def rate_of_a_lever(patch: pytest.MonkeyPatch) -> None:
    """What z does to the levers, 1 % too much."""
    wrap(patch, tangent, "jacobian", lambda original, *args: 1.01 * original(*args))


@fault("b_factor", "b_factor", "scale")
def lever_forgets_a_factor(patch: pytest.MonkeyPatch) -> None:
    """exp(-B q^2) where exp(-B q^2 / 2) is meant."""
    wrap(patch, levers, "dot", lambda original, *args: 2 * original(*args))


@fault("background_slope_fast", "scale", "background")
def swapped_levers(patch: pytest.MonkeyPatch) -> None:
    def slopes(original: Callable[..., Any], *args: Any) -> Any:
        photons, rows = original(*args)
        return photons, torch.cat([rows[:-2], rows[-2:].flip(0)])

    wrap(patch, tangent, "photons_and_slopes", slopes)


@fault("water", "water", "scale", full=True)
def dry_lever(patch: pytest.MonkeyPatch) -> None:
    """The brightness that water shares, but for the water."""

    def slopes(original: Callable[..., Any], *args: Any) -> Any:
        photons, rows = original(*args)
        return photons, rows * f64(1.0, 0.5)[:, None]

    wrap(patch, tangent, "photons_and_slopes", slopes)


# Gradients as a refinement makes them, without the derivatives of the image.


@fault("misset_y", "orientation", "scale")
def pulled_unturned(patch: pytest.MonkeyPatch) -> None:
    """The sums of every step left in the lab frame."""

    def pulled(original: Callable[..., Any], crossed: Tensor, cells: Tensor, weight: Tensor, given: Any) -> Any:
        return original(
            crossed,
            cells,
            weight,
            given._replace(rotations=torch.eye(3).to(given.rotations).expand_as(given.rotations)),
        )

    wrap(patch, tile_sums, "_uncrossed", pulled)


@fault("mosaic_spread", "mosaic", "scale")
def pulled_the_other_way(patch: pytest.MonkeyPatch) -> None:
    def pulled(original: Callable[..., Any], *args: Any) -> Any:
        found = original(*args)
        return found._replace(angles=-found.angles)

    wrap(patch, tile_sums, "_uncrossed", pulled)


@fault("scale", "b_factor", "scale")
def pulled_too_bright(patch: pytest.MonkeyPatch) -> None:
    """The derivative by the brightness, 1 % too much."""

    def pulled(original: Callable[..., Any], *args: Any) -> Any:
        photons, numbers = original(*args)
        return photons, numbers * torch.cat([torch.ones_like(numbers[1:]), 1.01 * torch.ones_like(numbers[:1])])

    wrap(patch, tangent, "photons_and_pulled", pulled)


# The fused kernel's rules for torch.


@fault("c:", "cell", order=2)
def cut_by_no_grad(patch: pytest.MonkeyPatch) -> None:
    def backward(original: Callable[..., Any], *args: Any) -> Any:
        with torch.no_grad():
            return original(*args)

    wrap_rule(patch, "backward", backward)


@fault("mosaic_spread", "mosaic", "scale", order=2)
def detached_double_backward(patch: pytest.MonkeyPatch) -> None:
    def reference(original: Callable[..., Any], steps: Any) -> Callable[..., Tensor]:
        whole = original(steps)
        return lambda q, a, n, angles, w: with_derivative_of(
            whole(q, a, n, angles, w), whole(q, a, n, angles.detach(), w)
        )

    wrap(patch, fused, "_reference", reference)


@fault("N_a", "cells", "scale", order=2)
def wrong_double_backward(patch: pytest.MonkeyPatch) -> None:
    """A derivative that is right until somebody differentiates it."""

    def reference(original: Callable[..., Any], steps: Any) -> Callable[..., Tensor]:
        whole = original(steps)
        return lambda q, a, n, *others: whole(q, a, with_rate(n, 1.001), *others)

    wrap(patch, fused, "_reference", reference)


@fault("misset_z", "orientation", "scale")
def wrong_forward_mode(patch: pytest.MonkeyPatch) -> None:
    wrap(patch, fused, "_along_matrix", lambda original, by, tangent, rays: original(by, tangent.T, rays))


@fault("cells: vmap failed", "cells", "scale")
def wrong_vmap(patch: pytest.MonkeyPatch) -> None:
    """The first entry of a batch for all of them."""

    def vmap(original: Callable[..., Any], *args: Any) -> Any:
        columns, places = original(*args)
        return tuple(column[:1].expand_as(column) for column in columns), places

    wrap_rule(patch, "vmap", vmap)


@fault("N_b", "cells", "scale")
def wrong_batched_backward(patch: pytest.MonkeyPatch) -> None:
    """A backward that is right for one gradient at a time, and wrong for a batch of them."""

    def backward(original: Callable[..., Any], ctx: Any, gradient: Tensor | None, *rest: Any) -> Any:
        q, a, n, *others = original(ctx, gradient, *rest)
        wrong = gradient is not None and n is not None and functorch.is_batchedtensor(gradient)
        return q, a, n * 2 if wrong else n, *others

    wrap_rule(patch, "backward", backward)


# What makes a check mean something.


@fault("changes its input", "b_factor", "scale")
def input_changed_in_place(patch: pytest.MonkeyPatch) -> None:
    def to_model(original: Callable[..., Model], space: ParameterSpace, z: Tensor) -> Model:
        z.data.add_(1e-9)
        return original(space, z)

    wrap(patch, ParameterSpace, "to_model", to_model)


@fault("two evaluations differ", "b_factor", "scale")
def start_changed_in_place(patch: pytest.MonkeyPatch) -> None:
    def vectors(original: Callable[[Tensor], Tensor], cell: Tensor) -> Tensor:
        found = original(cell)
        cell.data.mul_(1 + 1e-9)
        return found

    wrap(patch, crystal_module, "real_space_vectors", vectors)


def dark(instrument: Experiment) -> Experiment:
    return replace(instrument, structure_factors=StructureFactors.uniform(f64(0.0)))


@fault("structure factors 0", "cell", "background", change=dark)
def zero_image(patch: pytest.MonkeyPatch) -> None:
    """Every structure factor 0: no pixel to choose."""


@fault("any derivative would pass", "cell", "background", change=dark, pixels=Pixels(f64(3.0, 8.0), f64(5.0, 9.0)))
def zero_image_in_given_pixels(patch: pytest.MonkeyPatch) -> None:
    """Likewise, the pixels given."""


ONE_PIXEL = Pixels(f64([12.0]), f64([10.0]))


def beside_a_jump(instrument: Experiment) -> Experiment:
    """The beam moved until a sub-pixel of the one pixel lies a ten-millionth of a pixel before a jump."""
    sample, panel = model()[0], instrument.detector

    def moved(by: float) -> Experiment:
        return replace(instrument, detector=replace(panel, beam_center=panel.beam_center + f64(by, 0.0)))

    def nearest(by: float) -> Tensor:
        return miller_indices(sample, moved(by), ONE_PIXEL).round()

    low, high = 0.0, 5.0
    while high - low > 1e-7:
        half = (low + high) / 2
        low, high = (half, high) if torch.equal(nearest(half), nearest(0.0)) else (low, half)
    return moved(low)


@fault("beam_center_fast", "beam_center", change=beside_a_jump, pixels=ONE_PIXEL)
def jump_of_the_nearest_reflection(patch: pytest.MonkeyPatch) -> None:
    """A pixel half-way between two reflections, whose derivative is another on the other side."""
