"""parameters.csv: every reported value with its esd, its limits and what ties it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from refine.app.outcome import TIED, Outcome
from refine.io.results import write_csv
from refine.parameters.space import ParameterSpace

HEADER = ("name", "unit", "state", "start", "value", "esd", "lower", "upper")


def write_parameters(path: Path, space: ParameterSpace, outcome: Outcome) -> None:
    """Write the table; `state` is refined, tied to another of the same parameter, by symmetry, or fixed."""
    write_csv(path, HEADER, parameter_rows(space, outcome))


def parameter_rows(space: ParameterSpace, outcome: Outcome) -> Iterator[list[Any]]:
    """A row a value, in the order of the results."""
    limits = {p.name: (p.lower.tolist(), p.upper.tolist()) for p in space.parameters}
    for name, estimate in outcome.estimates.items():
        lower, upper = limits.get(name, ([None] * len(estimate.labels),) * 2)
        for k, label in enumerate(estimate.labels):
            esd = None if estimate.esd is None else float(estimate.esd[k])
            state = _state(outcome, estimate.labels[:k], label, esd)
            numbers = [float(estimate.start[k]), float(estimate.value[k]), esd, lower[k], upper[k]]
            yield [label, estimate.units[k], state, *("" if x is None or x != x else x for x in numbers)]


def _state(outcome: Outcome, before: tuple[str, ...], label: str, esd: float | None) -> str:
    if esd is None:
        return "fixed"
    if esd == 0:
        return "by symmetry"
    here = outcome.names.index(label)
    correlation: torch.Tensor = outcome.correlation
    partners = [name for name in before if abs(float(correlation[here, outcome.names.index(name)])) > TIED]
    return f"tied to {partners[0]}" if partners else "refined"
