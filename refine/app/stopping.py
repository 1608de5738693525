"""When a run has converged."""

from refine.app.config import Config
from refine.solvers.loop import Stop

SPOT_BY_SPOT = 0.05  # esds of counting noise; those of real spots, which scatter more, are several times larger


def largest_shift(spot_by_spot: bool) -> float:
    """The shift, in esds of counting noise, below which nothing is left to do: in shoeboxes, or of whole images."""
    return SPOT_BY_SPOT if spot_by_spot else Stop().shift


def stop_of(config: Config) -> Stop:
    """When a run of a configuration ends."""
    most = config.refinement.optimizer.max_iterations
    return Stop(max_iterations=most, shift=largest_shift(config.shoebox is not None))
