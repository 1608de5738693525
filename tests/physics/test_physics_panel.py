"""Where a panel stands."""

import pytest
import torch
from builders import f64, largest, numbers, vectors
from hypothesis import given
from scipy.spatial.transform import Rotation
from torch import Tensor

from refine.physics.panel import PanelFrame, panel_pivoted_on_beam, panel_pivoted_on_sample, panel_rotation

BEAM = f64(0.0, 0.0, 1.0)
FLAT = PanelFrame(f64(-12.0, -9.0, 0.0), f64(1.0, 0.0, 0.0), f64(0.0, 1.0, 0.0))


@given(vectors(-90, 90), numbers(-90, 90))
def test_rotation_is_x_y_z_then_twotheta(angles: Tensor, twotheta: float) -> None:
    axis = f64(0.6, 0.0, -0.8)
    wanted = Rotation.from_rotvec(twotheta * axis.numpy(), degrees=True) * Rotation.from_euler(
        "xyz", angles.numpy(), degrees=True
    )
    assert largest(panel_rotation(angles, f64(twotheta), axis) - torch.from_numpy(wanted.as_matrix())) < 1e-13


@given(vectors(-60, 60))
def test_pivots(angles: Tensor) -> None:
    rotation = panel_rotation(angles, f64(0.0), BEAM)
    about_spot = panel_pivoted_on_beam(FLAT, rotation, BEAM, f64(100.0))
    about_sample = panel_pivoted_on_sample(FLAT, rotation, BEAM, f64(100.0))
    assert largest(about_spot.origin + 12 * about_spot.fast + 9 * about_spot.slow - 100 * BEAM) < 1e-12
    assert largest(about_sample.origin - rotation @ f64(-12.0, -9.0, 100.0)) < 1e-12
    assert largest(about_sample.fast - about_spot.fast) < 1e-15
    assert float(about_sample.normal_distance) == pytest.approx(100)
    assert float(about_spot.normal_distance) == pytest.approx(100 * abs(float((rotation @ BEAM) @ BEAM)), abs=1e-9)
