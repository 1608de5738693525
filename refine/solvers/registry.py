"""Solvers by the name a configuration gives them."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from refine.solvers.adam import Adam
from refine.solvers.lbfgs import LBFGS
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.newton_cg import NewtonCG
from refine.solvers.protocol import Solver
from refine.solvers.scipy_optimizer import ScipyOptimizer
from refine.solvers.torch_optimizer import TorchOptimizer
from refine.solvers.trust_region import TrustRegion

SOLVERS: dict[str, Solver] = {
    "lm": LevenbergMarquardt(),
    "trust-region": TrustRegion(),
    "newton-cg": NewtonCG(),
    "lbfgs": LBFGS(),
    "adam": Adam(),
    "nadam": TorchOptimizer("NAdam", rate=0.3),
    "sgd": TorchOptimizer("SGD", rate=0.1, clip=1.0),
    "scipy-least-squares": ScipyOptimizer("least_squares"),
    "scipy-l-bfgs-b": ScipyOptimizer("L-BFGS-B"),
    "scipy-trust-exact": ScipyOptimizer("trust-exact"),
    "scipy-trust-krylov": ScipyOptimizer("trust-krylov"),
    "scipy-nelder-mead": ScipyOptimizer("Nelder-Mead"),
}


def make_solver(name: str, options: Mapping[str, Any], max_iterations: int) -> Solver:
    """The named solver with its options; raises ValueError for an option not known or not above 0."""
    default: Any = SOLVERS[name]
    accepted = {field.name: getattr(default, field.name) for field in fields(default) if field.name != "method"}
    if unknown := [option for option in options if option not in accepted]:
        listed = ", ".join(f"{option} ({value})" for option, value in accepted.items())
        raise ValueError(f"option {unknown[0]!r} of solver {name!r} is not known; accepted: {listed or 'none'}")
    for option, value in options.items():
        whole = isinstance(accepted[option], int)
        if isinstance(value, bool) or not value > 0 or (whole and not isinstance(value, int)):
            kind_of = "a whole number" if whole else "a number"
            raise ValueError(f"option {option!r} of solver {name!r} is {value!r}; accepted: {kind_of} above 0")
    if "horizon" in accepted:
        options = {"horizon": max_iterations, **options}
    return replace(default, **options)
