"""The rotation of the crystal during the exposure."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scan:
    """phi0 and osc: () degrees; `steps` left edges phi0 + k osc / steps about `axis`, a (3,) unit vector."""

    phi0: Tensor
    osc: Tensor
    steps: int
    axis: Tensor
