"""One way to compute one case, in a process of its own: the time of each operation, and the memory they needed."""

import gc
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from refine.app.benchmark.kernel_config import KernelCase
from refine.app.build import build_model
from refine.app.load import load_config
from refine.model.forward import expected_image, miller_indices
from refine.model.observation import Observation
from refine.parameters.space import ParameterSpace
from refine.problem.problem import ImageProblem

FREE = ("cell", "orientation", "scale", "cells")
OPERATIONS = ("forward", "value + Jacobian", "gradient", "Hessian product")
SPARSE = 16  # the Hessian product, which goes through the reference, is timed on every 16th pixel


@dataclass(frozen=True)
class Way:
    """How a case is computed."""

    case: KernelCase
    dtype: str
    mode: str
    threads: int = 1

    def overrides(self) -> tuple[str, ...]:
        """As settings of the case's configuration."""
        return (*self.case.settings, f"dtype={self.dtype}", f"compile={'true' if self.mode == 'compiled' else 'false'}")


_problem: ImageProblem  # of this process
_steps = 0  # a pixel


def prepare(way: Way) -> tuple[float, str]:
    """Build the problem of this process, and run every operation once; the steps of an image, and a note where the
    way is not to be had. The process's own threads are set."""
    global _problem, _steps
    torch.set_num_threads(way.threads)
    config = load_config(way.case.config, way.overrides())
    setup = build_model(config)
    space = ParameterSpace.of(setup.crystal, setup.experiment, FREE, setup.misset_deg)
    expected = expected_image(setup.crystal, setup.experiment, interference=setup.interference)
    photons = torch.poisson(expected, generator=torch.Generator(expected.device).manual_seed(0))
    whole = torch.ones_like(photons, dtype=torch.bool)
    observation = Observation(photons, whole, torch.zeros_like(setup.experiment.scale))
    _problem = ImageProblem(space, observation, observation.pixels(), interference=setup.interference)
    _steps = miller_indices(setup.crystal, setup.experiment, _problem.pixels[:1])[0].numel()
    return float(len(_problem.pixels) * _steps), "; ".join(setup.notes)


def measure(operation: str, part: float = 1.0) -> dict[str, float]:
    """Processor and wall nanoseconds a step, and seconds, of one operation on the first part of the pixels."""
    problem = _part(part if operation != OPERATIONS[3] else part / SPARSE)
    run = _operation(problem, operation)
    gc.collect()
    wall, processor = time.perf_counter(), time.process_time()
    run()
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    steps = len(problem.pixels) * _steps
    return {"ns": processor / steps * 1e9, "wall_ns": wall / steps * 1e9, "seconds": wall}


def peak_memory() -> float:
    """Most memory this process has held, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _part(part: float) -> ImageProblem:
    pixels = _problem.pixels
    return replace(_problem, pixels=pixels[: max(1, round(len(pixels) * part))])


def _operation(problem: ImageProblem, operation: str) -> Callable[[], Any]:
    z = problem.space.zero()
    calls: dict[str, Callable[[], Any]] = {
        "forward": partial(problem.image, z),
        "value + Jacobian": partial(problem.quadratic, z),
        "gradient": partial(problem.loss_and_gradient, z),
        "Hessian product": partial(problem.curvature_product, z, torch.ones_like(z)),
    }
    return calls[operation]
