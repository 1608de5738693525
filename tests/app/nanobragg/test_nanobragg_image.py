"""The image: the order of its steps, every switch, its factors."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from scalar import Scalar

from refine.app.nanobragg import image as image_module
from refine.app.nanobragg import steps as steps_module
from refine.app.nanobragg.defects import Defects
from refine.app.nanobragg.image import simulate
from refine.app.nanobragg.resolve import resolve
from refine.app.nanobragg.steps import positions
from refine.app.nanobragg.vectors import scaled, turned_about
from refine.errors import InputError
from refine.physics.absorption import absorbed_fraction
from refine.physics.curved import curved_positions
from refine.physics.interpolation import tricubic
from refine.physics.round_lattice import ellipsoid, sphere

SMALL = "-misset 4 5 6 -lambda 1.1 -distance 40 -pixel 2 -detpixels 12"
CELL = "-cell 37 43 51 82 95 107"
PLAIN = f"{CELL} -N 4 -default_F 100 {SMALL}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list that ends inside the detector, and weighted sources."""
    made = tmp_path_factory.mktemp("image")
    rng = np.random.default_rng(3)
    rows = [(h, k, l) for h in range(-5, 9) for k in range(-7, 11) for l in range(-12, 8)]  # noqa: E741
    lines = (
        f"{h} {k} {l} {amplitude:.3f}\n"
        for (h, k, l), amplitude in zip(rows, rng.uniform(5, 90, len(rows)), strict=True)  # noqa: E741
    )
    (made / "some.hkl").write_text("".join(lines := list(lines)))
    (made / "titled.hkl").write_text("".join([*lines[:1500], "# the rest\n", *lines[1500:]]))
    (made / "sources.txt").write_text("-10 0 0 1 1.1e-10\n-10 0.1 0 3 1.12e-10\n-10 0 -0.2 0.5 1.08e-10\n")
    return made


def picture(words: str, folder: Path, **switches: bool) -> np.ndarray:
    return simulate(resolve(words.split(), folder, Defects(**switches))).values.astype(float)


ORDERED = {
    "compounding": f"{PLAIN} -oversample 2 -oversample_omega -phi 3 -osc 1 -phisteps 2 "
    "-sourcefile sources.txt -nopolar",
    "compounding with dmin": f"{PLAIN} -oversample 2 -oversample_omega -oversample_polar -dmin 2 -water 5",
    "compounding tophat": f"{CELL} -N 2 -default_F 100 -tophat_spots -fudge 0.1 {SMALL} -oversample 3 "
    "-oversample_omega",
    "compounding layers": f"{PLAIN} -oversample 2 -detector_abs 300 -detector_thick 400 -thicksteps 3 "
    "-oversample_thick",
    "layers once": f"{PLAIN} -oversample 2 -detector_abs 300 -detector_thick 400 -thicksteps 3",
    "thickness without a sensor": f"{PLAIN} -oversample 1 -oversample_thick -water 2",
    "phi from zero": f"{PLAIN} -oversample 2 -phi 0 -osc 3 -phisteps 3 -mosaic 0.6 -mosaic_domains 3",
    "phi through zero": f"{PLAIN} -oversample 1 -phi -1 -osc 3 -phisteps 3",
    "phi all zero": f"{PLAIN} -oversample 1 -phi 0 -osc 0 -phisteps 2",
    "phi from zero behind dmin": f"{PLAIN} -oversample 2 -phi 0 -osc 3 -phisteps 3 -dmin 2.3",
    "interpolation stops": f"{CELL} -N 3 -hkl some.hkl -interpolate -default_F 7 {SMALL} -oversample 2 -phi 1 -osc 2 "
    "-phisteps 2 -mosaic 0.5 -mosaic_domains 2",
    "interpolation stops late": f"{CELL} -N 3 -hkl some.hkl -interpolate {SMALL} -oversample 2 -dmin 3.5 "
    "-sourcefile sources.txt",
    "interpolation of flat tops": f"{CELL} -N 2 -hkl some.hkl -interpolate -tophat_spots -fudge 0.03 {SMALL} "
    "-oversample 2",
}  # fmt: skip


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("together", [1, 131072])
def test_steps_have_nanobraggs_order(name: str, together: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small tiles and chunks too."""
    if together == 1:
        monkeypatch.setattr(image_module, "_TOGETHER", 1)
        monkeypatch.setattr(image_module, "CHUNK", 2)
        monkeypatch.setattr(steps_module, "CHUNK", 2)
    settings = resolve(ORDERED[name].split(), folder)
    expected = Scalar(settings).image()
    found = simulate(settings).values
    assert name.startswith("thickness") or expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * expected.max() + 1e-35)


SWITCHED = {
    "triclinic_c_star": f"{PLAIN} -oversample 1",
    "layers_beyond_sensor": f"{PLAIN} -detector_abs 300 -detector_thick 400 -thicksteps 3 -oversample 1",
    "phi_zero_not_applied": f"{PLAIN} -phi 0 -osc 3 -phisteps 3 -oversample 1",
    "mosaic_spread_float32": f"{CELL} -N 40 -default_F 100 {SMALL} -mosaic 20 -mosaic_domains 5 -oversample 1",
    "oversampled_factors_compound": f"{PLAIN} -oversample 2 -oversample_omega",
    "oversampled_polarization_overrides": f"{PLAIN} -oversample 1 -oversample_polar -nopolar",
    "corner_factors": f"{PLAIN} -oversample 3",
    "capture_of_last_layer": f"{PLAIN} -detector_abs 300 -detector_thick 400 -thicksteps 3 -oversample 1",
    "solid_angle_of_front": f"{PLAIN} -detector_abs 300 -detector_thick 400 -thicksteps 3 -oversample_omega",
    "water_rescaled": f"{PLAIN} -water 5 -oversample 2",
    "source_weights_ignored": f"{PLAIN} -sourcefile sources.txt -oversample 1",
    "interpolation_stops": f"{CELL} -N 3 -hkl some.hkl -interpolate {SMALL} -oversample 1",
    "curved_in_mosflm_frame": f"{PLAIN} -curved_det -oversample 1",
    "spot_width_by_volume": f"{PLAIN} -gauss_xtal -oversample 1",
    "round_peak_cancels": f"{CELL} -N 4 -default_F 100 -round_xtal -denzo -Xbeam 1.35 -Ybeam 1.35 -pixel 0.3 "
    "-detpixels 9 -distance 40 -oversample 1",
    "list_read_by_scanf": f"{CELL} -N 3 -hkl titled.hkl -nointerpolate {SMALL} -oversample 1",
}  # fmt: skip


def test_every_switch_is_tried() -> None:
    assert SWITCHED.keys() == {field.name for field in fields(Defects)}


@pytest.mark.parametrize("name", SWITCHED)
def test_every_switch_changes_an_image(name: str, folder: Path) -> None:
    literal, other = (picture(SWITCHED[name], folder, **switch) for switch in ({}, {name: False}))
    assert literal.max() > 0
    assert np.abs(literal - other).max() > (1e-9 if name == "mosaic_spread_float32" else 1e-3) * literal.max()


@pytest.mark.parametrize("name", SWITCHED)
def test_a_switch_changes_no_image_that_it_does_not_concern(name: str, folder: Path) -> None:
    words = f"-cell 60 60 60 90 90 90 -N 5 -default_F 100 {SMALL} -oversample 1"
    assert np.array_equal(picture(words, folder), picture(words, folder, **{name: False}))


def test_without_defects_layers_add_up_to_the_sensor(folder: Path) -> None:
    """As many layers as one likes: what a sensor absorbs, less the parallax between them."""
    words = f"-cell 60 60 60 90 90 90 -N 2 -default_F 100 {SMALL} -oversample 1 -detector_abs 300 -detector_thick 4"
    one, many = (simulate(resolve(f"{words} -thicksteps {n}".split(), folder, Defects.none())).values for n in (1, 5))
    np.testing.assert_allclose(one, many, atol=2e-2 * one.max())


def test_without_defects_curvature_vanishes_far_away(folder: Path) -> None:
    """In every convention: a curved detector far away is a flat one."""
    for convention in ("-mosflm", "-xds", "-adxv", "-denzo", "-dials"):
        far = "-distance 20000 -pixel 20 -detpixels 10"
        words = f"-cell 60 60 60 90 90 90 -misset 4 5 6 -N 5 -default_F 100 {convention} {far}"
        flat, curved = (
            simulate(resolve(f"{words}{option} -oversample 1".split(), folder, Defects.none())).values.astype(float)
            for option in ("", " -curved_det")
        )
        assert np.abs(flat - curved).max() < 1e-3 * flat.max()
        assert np.abs(flat - flat.mean()).max() > 1e-2 * flat.max()


def test_without_defects_water_does_not_depend_on_sampling(folder: Path) -> None:
    words = f"{PLAIN} -water 50"
    coarse, fine = (
        simulate(resolve(f"{words}{more}".split(), folder, Defects.none())).values.astype(float)
        - simulate(resolve(f"{PLAIN}{more}".split(), folder, Defects.none())).values.astype(float)
        for more in (" -oversample 1", " -oversample 3 -phi 1 -osc 1 -phisteps 2")
    )
    np.testing.assert_allclose(coarse, fine, rtol=1e-2)


@pytest.mark.parametrize(("place", "centre"), [(4, "1.35"), (6, "1.95")])
def test_the_round_peak_is_there_only_where_the_ray_is_the_beam_exactly(place: int, centre: str, folder: Path) -> None:
    """The beam meets the middle of a pixel: in floating-point numbers exactly, or but for rounding."""
    meets = 0.3 / 1000.0 * place + 0.3 / 1000.0 / 2.0 == float(centre) / 1000.0
    words = f"{CELL} -N 4 -default_F 100 -round_xtal -denzo -Xbeam {centre} -Ybeam {centre} -pixel 0.3 -detpixels 9"
    image = picture(f"{words} -distance 40 -oversample 1", folder)
    assert meets == (place == 6)
    assert (image[place, place] == image.max()) == meets
    assert (image[place, place] > 0) == meets


def test_a_curved_detector_turns_about_axes_of_any_length(folder: Path) -> None:
    """A two-theta axis that is no unit vector leaves a fast and a slow axis that are none either."""
    settings = resolve(f"{PLAIN} -curved_det -twotheta_axis 12 0.9 0.1 -twotheta 20 -oversample 1".split(), folder)
    place, beam = settings.detector.place, settings.beam.direction
    pixels = torch.tensor([[3, 7], [2, 9]])
    for found, (slow, fast) in zip(positions(settings, pixels, 0, 0).T, pixels.T.tolist(), strict=True):
        slow, fast = (place.pixel_size * (number + 0.5) for number in (slow, fast))
        flat = np.array(place.origin) + fast * np.array(place.fast) + slow * np.array(place.slow)
        spot = scaled(beam, place.distance)
        turned = turned_about(spot, place.slow, flat[1] / place.distance)
        expected = turned_about(turned, place.fast, flat[2] / place.distance)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert abs(np.linalg.norm(place.fast) - 1) > 1e-2


def test_an_empty_region_is_an_empty_image(folder: Path) -> None:
    assert not picture(f"{PLAIN} -roi 50 60 0 3", folder).any()


def test_a_list_with_a_reflection_twice_takes_the_later(folder: Path) -> None:
    (folder / "twice.hkl").write_text("0 0 0 5\n1 1 1 6\n0 0 0 9\n")
    (folder / "once.hkl").write_text("0 0 0 9\n1 1 1 6\n")
    words = f"-cell 60 60 60 90 90 90 -N 3 {SMALL} -nointerpolate -hkl"
    assert np.array_equal(picture(f"{words} twice.hkl", folder), picture(f"{words} once.hkl", folder))


def test_a_list_that_is_none_is_named(folder: Path) -> None:
    (folder / "bad.hkl").write_text("not a list\n")
    with pytest.raises(InputError, match=r"-hkl: .*bad\.hkl"):
        picture(f"{CELL} -N 3 -hkl bad.hkl {SMALL}", folder)


def f64(*values: Any) -> torch.Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def test_tricubic_reproduces_cubics_and_differentiates() -> None:
    axis = torch.arange(-3.0, 4.0, dtype=torch.float64)
    h, k, l = torch.meshgrid(axis, axis + 1, axis + 2, indexing="ij")  # noqa: E741
    box = (h**3 - 2 * h) * (k**2 + 1) + l**3 - h * k * l
    at = torch.tensor([[0.3, -1.2], [0.6, 2.1], [3.4, 1.7]], dtype=torch.float64, requires_grad=True)
    lowest = f64(-3.0, -2.0, -1.0)
    exact = (at[0] ** 3 - 2 * at[0]) * (at[1] ** 2 + 1) + at[2] ** 3 - at[0] * at[1] * at[2]
    torch.testing.assert_close(tricubic(at, box, lowest), exact, rtol=1e-12, atol=1e-12)
    box.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: tricubic(x, y, lowest), (at, box))
    assert torch.autograd.gradgradcheck(lambda x: tricubic(x, box.detach(), lowest), (at,))


def test_sphere_is_smooth_where_its_series_ends() -> None:
    square = torch.linspace(0.0, 0.2, 41, dtype=torch.float64, requires_grad=True)
    x = square.detach().sqrt()[1:]
    closed = 3 * (torch.sin(x) - x * torch.cos(x)) / x**3
    torch.testing.assert_close(sphere(square)[1:], closed, rtol=1e-10, atol=0)
    assert torch.autograd.gradcheck(sphere, (square,))
    assert torch.autograd.gradgradcheck(sphere, (f64(0.0, 0.05, 3.0).requires_grad_(),))
    assert float(ellipsoid(torch.zeros(3, dtype=torch.float64), f64(3.0, 4.0, 5.0))) == pytest.approx(43.416, rel=1e-4)


def test_absorption_adds_up_and_differentiates() -> None:
    cosine = f64(1.0, 0.7).requires_grad_()
    parts = sum(absorbed_fraction(f64(0.1 * i), f64(0.1), f64(3.0), cosine) for i in range(4))
    torch.testing.assert_close(parts, absorbed_fraction(f64(0.0), f64(0.4), f64(3.0), cosine))
    numbers = [f64(value).requires_grad_() for value in (0.2, 0.1, 3.0)]
    assert torch.autograd.gradcheck(absorbed_fraction, (*numbers, cosine))
    assert torch.autograd.gradgradcheck(absorbed_fraction, (*numbers, cosine))


def test_curved_positions_keep_the_distance_and_differentiate() -> None:
    across = f64(1.0, -4.0, 9.0).requires_grad_()
    down = f64(0.5, 3.0, -6.0).requires_grad_()
    beam, fast, slow = f64(1.0, 0.0, 0.0), f64(0.0, 0.0, 1.0), f64(0.0, -1.0, 0.0)
    found = curved_positions(across, down, beam, fast, slow, f64(50.0))
    torch.testing.assert_close(torch.linalg.vector_norm(found, dim=0), f64(50.0).expand(3))
    torch.testing.assert_close(fast @ found, across, rtol=2e-2, atol=0)
    torch.testing.assert_close(slow @ found, down, rtol=3e-2, atol=0)
    assert torch.autograd.gradcheck(lambda *a: curved_positions(*a, beam, fast, slow, f64(50.0)), (across, down))
