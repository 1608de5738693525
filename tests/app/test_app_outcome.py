"""What is said of values that move together, or not at all."""

import torch
from builders import f64, largest

from refine.app.outcome import correlation, moving


def test_values_that_move_by_rounding_alone_do_not_move() -> None:
    """A cell's a, b tied to it, an angle that symmetry fixes but for rounding, and c."""
    moved = f64([[0.3, 0.1], [0.3, 0.1], [2e-15, 3e-15], [0.2, 0.7]])
    found = correlation(moved @ moved.T)
    assert moving(found) == [0, 3]
    assert largest(found[2]) < 1e-2
    assert abs(float(found[0, 1]) - 1) < 1e-12
    assert torch.equal(found, found.T)
