"""Solvers by the name a configuration gives them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from refine.solvers.adam import Adam
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.protocol import Solver

SOLVERS: dict[str, type[LevenbergMarquardt] | type[Adam]] = {"lm": LevenbergMarquardt, "adam": Adam}


def make_solver(name: str, options: Mapping[str, Any], max_iterations: int) -> Solver:
    """The named solver with its options; raises ValueError for an option not known or not above 0."""
    kind = SOLVERS[name]
    accepted = {field.name: field.default for field in fields(kind)}
    if unknown := [option for option in options if option not in accepted]:
        listed = ", ".join(f"{option} ({default})" for option, default in accepted.items())
        raise ValueError(f"option {unknown[0]!r} of solver {name!r} is not known; accepted: {listed}")
    for option, value in options.items():
        whole = isinstance(accepted[option], int)
        if isinstance(value, bool) or not value > 0 or (whole and not isinstance(value, int)):
            kind_of = "a whole number" if whole else "a number"
            raise ValueError(f"option {option!r} of solver {name!r} is {value!r}; accepted: {kind_of} above 0")
    if "horizon" in accepted:
        options = {"horizon": max_iterations, **options}
    return kind(**options)
