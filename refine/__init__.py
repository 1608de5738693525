"""Refine crystal parameters from X-ray diffraction images by derivatives through a differentiable simulator."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load_config": "refine.app.load",
    "build_model": "refine.app.build",
    "build_problem": "refine.app.build",
    "refine_image": "refine.app.strategy",
    "conclude": "refine.app.outcome",
    "Crystal": "refine.model.crystal",
    "Experiment": "refine.model.experiment",
    "Observation": "refine.model.observation",
    "expected_image": "refine.model.forward",
    "expected_photons": "refine.model.forward",
    "ParameterSpace": "refine.parameters.space",
    "ImageProblem": "refine.problem.problem",
    "LevenbergMarquardt": "refine.solvers.levenberg_marquardt",
    "Adam": "refine.solvers.adam",
    "Solution": "refine.solvers.solution",
    "Status": "refine.solvers.solution",
    "solve": "refine.solvers.loop",
    "InputError": "refine.errors",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """The public names, found on first use: `refine --help` needs not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'refine' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
