"""A detector bent so that every pixel is at the same distance."""

import torch
from torch import Tensor

from refine.physics.rotation import axis_rotation


def curved_positions(
    across_fast: Tensor, across_slow: Tensor, beam: Tensor, fast: Tensor, slow: Tensor, distance: Tensor
) -> Tensor:
    """Positions (3, ...), mm: the beam's spot turned about `slow`, then about `fast`, arc lengths as on the flat panel.

    Args:
        across_fast, across_slow: (...) mm along fast and slow from the direct-beam spot.
        beam, fast, slow: (3,) unit vectors.
        distance: () mm, sample to every pixel.

    Near the spot these are the flat panel's positions, to first order in the angles, whichever hand fast, slow and
    beam have.
    """
    shape = across_fast.shape
    to_fast = torch.sign((torch.linalg.cross(slow, beam) * fast).sum())
    to_slow = torch.sign((torch.linalg.cross(fast, beam) * slow).sum())
    about_slow = axis_rotation(slow, to_fast * across_fast.reshape(-1) / distance)
    about_fast = axis_rotation(fast, to_slow * across_slow.reshape(-1) / distance)
    turned = about_fast @ (about_slow @ (beam * distance)[:, None])
    return turned[..., 0].T.reshape(3, *shape)
