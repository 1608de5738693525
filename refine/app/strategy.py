"""Where the refinement against the pixels starts from. Every stage goes through the one loop of
`refine.solvers.loop`."""

from dataclasses import dataclass

from torch import Tensor

from refine.problem.centroids import INDEXED, centroid_start
from refine.problem.problem import ImageProblem

FEW_INDEXED = 0.5  # below it the spots do not agree on a lattice; by chance (2 * INDEXED)^3 would be indexed


@dataclass(frozen=True)
class Start:
    """Where the pixels' refinement begins: z (n,), in words how it was found, and the loss () of the given start."""

    z: Tensor
    note: str
    given_loss: Tensor


def choose_start(problem: ImageProblem, strategy: str = "auto") -> Start:
    """The given start, or with 'auto' the one that spot positions lead to, whichever explains the image better."""
    given = problem.space.zero()
    loss = problem.loss(given)
    if strategy == "single":
        return Start(given, "start as given", loss)
    found = centroid_start(problem.space, problem.observation)
    if found is None:
        return Start(given, "start as given: cell and orientation fixed, or too few spots to index", loss)
    z, indexed = found
    share = f"{100 * indexed:.0f} % of the spots within {INDEXED} of whole Miller indices"
    if indexed < FEW_INDEXED or not problem.loss(z) < loss:
        return Start(given, f"start as given: spot positions lead nowhere better ({share})", loss)
    return Start(z, f"start from spot positions ({share})", loss)
