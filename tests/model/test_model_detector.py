"""The detector's geometry and the lab frames."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import detector, f64, largest, numbers, vectors
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from refine.model.conventions import CONVENTIONS, frame_change
from refine.model.detector import Detector, Sensor
from refine.model.pixels import Pixels
from refine.physics.panel import PanelSet

FRAMES = sorted(CONVENTIONS)


def beam_spot(panel: Detector) -> Tensor:
    return panel.points(panel.beam_center[0], panel.beam_center[1])


@pytest.mark.parametrize("name", FRAMES)
def test_unrotated_direct_beam_pixel_is_on_the_beam(name: str) -> None:
    panel = detector(name)
    assert largest(beam_spot(panel) - 45.0 * f64(CONVENTIONS[name].beam)) < 1e-12
    assert float(panel.frame().normal_distance) == pytest.approx(45.0)


@pytest.mark.parametrize("name", FRAMES)
def test_convention_vectors_are_unit_and_the_panel_is_normal_to_the_beam(name: str) -> None:
    frame = CONVENTIONS[name]
    for vector in frame[:6]:
        assert np.linalg.norm(vector) == 1
    assert abs(np.dot(np.cross(frame.fast, frame.slow), frame.beam)) == 1
    assert (
        np.dot(frame.spindle, frame.beam)
        == np.dot(frame.polarization, frame.beam)
        == np.dot(frame.twotheta, frame.beam)
        == 0
    )


@given(st.sampled_from(FRAMES), vectors(-80, 80), numbers(-80, 80))
def test_beam_pivot_keeps_the_beam_spot(name: str, rotations: Tensor, twotheta: float) -> None:
    panel = replace(detector(name), rotations=rotations, twotheta=f64(twotheta), pivot="beam")
    assert largest(beam_spot(panel) - 45.0 * panel.beam) < 1e-11
    frame = panel.frame()
    assert (
        largest(torch.stack([frame.fast @ frame.fast, frame.slow @ frame.slow, frame.fast @ frame.slow]) - f64(1, 1, 0))
        < 1e-13
    )


@given(st.sampled_from(FRAMES), vectors(-80, 80), numbers(-80, 80))
def test_sample_pivot_turns_the_panel_rigidly(name: str, rotations: Tensor, twotheta: float) -> None:
    flat = replace(detector(name), pivot="sample")
    panel = replace(flat, rotations=rotations, twotheta=f64(twotheta))
    about = Rotation.from_rotvec(twotheta * panel.twotheta_axis.numpy(), degrees=True)
    turn = about * Rotation.from_euler("xyz", rotations.numpy(), degrees=True)
    pixels = Pixels.whole((3, 4), f64(0.0))
    wanted = torch.from_numpy(turn.as_matrix()) @ flat.points(pixels.fast, pixels.slow)
    assert largest(panel.points(pixels.fast, pixels.slow) - wanted) < 1e-11
    assert float(panel.frame().normal_distance) == pytest.approx(45.0)


def test_positions_are_the_middles_of_subpixels() -> None:
    panel = replace(detector("xds", (3, 4)), oversample=2)
    pixels = Pixels.whole((3, 4), f64(0.0))
    positions = panel.sites(pixels).positions
    assert positions.shape == (3, 4, 12)
    middles = panel.points(pixels.fast + 0.5, pixels.slow + 0.5)
    assert largest(positions.mean(1) - middles) < 1e-13
    shifts = (positions - middles[:, None])[:2, :, 0] / 0.3
    assert sorted(map(tuple, shifts.T.numpy().round(12).tolist())) == [
        (-0.25, -0.25),
        (-0.25, 0.25),
        (0.25, -0.25),
        (0.25, 0.25),
    ]
    assert largest(positions[:, 0] - panel.points(pixels.fast + 0.25, pixels.slow + 0.25)) < 1e-13


@pytest.mark.parametrize("source", FRAMES)
@pytest.mark.parametrize("target", FRAMES)
def test_frame_change_is_a_proper_rotation_of_beam_on_beam(source: str, target: str) -> None:
    change = frame_change(source, target)
    assert np.abs(change @ change.T - np.eye(3)).max() == 0
    assert np.linalg.det(change) == pytest.approx(1)
    for vector in ("beam", "fast"):
        assert tuple(change @ getattr(CONVENTIONS[source], vector)) == getattr(CONVENTIONS[target], vector)
    assert np.array_equal(frame_change(target, source) @ change, np.eye(3))


def several(flat: Detector) -> Detector:
    """The frame of a detector with three panels: its own, one beside it, one turned."""
    turn = torch.from_numpy(Rotation.from_euler("xyz", [5, 70, 3], degrees=True).as_matrix())
    origins = torch.stack([f64(0, 0, 0) * 0.1, f64(10.0, 2.0, 1.0), f64(-9.0, -6.0, -3.0)], 1)
    axes = [torch.stack([e, e, turn @ e], 1) for e in torch.eye(3, dtype=torch.float64)[:2]]
    return replace(flat, panels=PanelSet(origins, *axes))


@given(vectors(-30, 30), numbers(-30, 30), vectors(-20, 20, 2))
def test_panels_move_with_the_frame_that_holds_them(rotations: Tensor, twotheta: float, centre: Tensor) -> None:
    start = several(detector("xds", (6, 5)))
    moved = replace(start, rotations=rotations, twotheta=f64(twotheta), beam_center=centre, distance=f64(71.0))
    pixels = Pixels.whole(start.shape, f64(0.0))
    before, after = (d.points(pixels.fast, pixels.slow, pixels.panel).T for d in (start, moved))
    assert pixels.panel is not None
    assert len(pixels) == 3 * 6 * 5
    assert largest(torch.cdist(before, before) - torch.cdist(after, after)) < 1e-5
    own = pixels[pixels.panel == 0]
    alone = replace(moved, panels=None).points(own.fast, own.slow)
    assert largest(alone - moved.points(own.fast, own.slow, own.panel)) < 1e-12


@given(numbers(-5, 25), numbers(-5, 25), st.integers(0, 2), st.booleans())
def test_rays_are_recorded_where_their_photons_are_counted(fast: float, slow: float, panel: int, deep: bool) -> None:
    sensor = Sensor(f64(450.0), f64(260.0), 1, True) if deep else None
    panels = replace(several(detector("xds", (6, 5))), rotations=f64(3.0, -8.0, 12.0), sensor=sensor)
    number, at = torch.tensor([panel]), (f64([fast]), f64([slow]))
    point = panels.points(*at, number)
    found = panels.recorded(point / torch.linalg.vector_norm(point, dim=0), number)
    assert largest(torch.stack(found) - torch.stack(at)) < 1e-7
    if deep:
        assert largest(point - replace(panels, sensor=None).points(*at, number)) > 0.01


def test_a_bent_panel_follows_no_rays() -> None:
    with pytest.raises(ValueError, match="flat"):
        replace(detector(), curved=True).recorded(f64(1, 0, 0)[:, None])


def test_pixels_of_a_stack_are_places_in_it() -> None:
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[1, 2, 3] = mask[0, 1, 0] = True
    pixels = Pixels.chosen(mask, f64(0.0))
    stack = torch.arange(24).reshape(2, 3, 4)
    assert stack[pixels.place].tolist() == [4, 23]
    assert stack[pixels[1:].place].tolist() == [23]
    assert [stack[part.place].tolist() for _, part in pixels.tiles(1)] == [[4], [23]]
