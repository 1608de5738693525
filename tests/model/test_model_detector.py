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
from refine.model.detector import Detector
from refine.model.pixels import Pixels

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
