"""Refinements with known answers, and random starts for them."""

import functools
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import numpy as np
import torch
from torch import Tensor

from refine.app.benchmark.config import Case, Truth
from refine.app.build import build_model, build_problem
from refine.app.config import Config
from refine.app.config_crystal import cell_pattern
from refine.app.load import load_config
from refine.app.simulate import simulate
from refine.errors import InputError
from refine.parameters.space import ParameterSpace
from refine.problem.problem import ImageProblem
from refine.problem.quadratic import covariance

JUDGED = ("cell", "orientation")


@dataclass(frozen=True)
class Start:
    """A starting cell (6) in Å and degrees, and misset angles (3) in degrees."""

    cell: tuple[float, ...]
    misset_deg: tuple[float, ...]


@dataclass(frozen=True)
class KnownCase:
    """A configuration, the true values, and the Fisher information of cell and orientation in the coordinates of a
    space that begins at the truth, the other parameters eliminated."""

    config: Config
    truth: Start
    space: ParameterSpace
    information: Tensor

    def problem(self, start: Start) -> ImageProblem:
        """The refinement from another start."""
        config = _moved(self.config, start)
        return build_problem(config, build_model(config))

    def chi_squared(self, problem: ImageProblem, z: Tensor) -> float:
        """Squared error of an answer under the true Fisher information, a parameter; 1 is what noise alone makes."""
        values = {
            p.name: p.read(part) for p, part in zip(problem.space.parameters, problem.space.split(z), strict=True)
        }
        off = self.space.to_z({name: values[name] for name in JUDGED if name in values})[: len(self.information)]
        chi = float(off @ self.information @ off) / len(off)
        return chi if math.isfinite(chi) else math.inf


def prepare_image(case: Case, directory: Path) -> Case:
    """The case as one with an image and its truth: simulated into `directory` where it has none yet.

    Raises InputError where its files are wrong.
    """
    if case.truth is not None:
        return case
    config = load_config(case.config, case.settings)
    image = directory / f"{case.name}.npz"
    simulate(case.config, image, case.settings, noise=True)
    cell = build_model(config).crystal.cell.tolist()
    truth = Truth(cell=tuple(cell), misset_deg=config.crystal.orientation.misset_deg)
    given = (*case.settings, f"images=[{{file: {json.dumps(str(image.absolute()))}}}]")
    return case.model_copy(update={"settings": given, "truth": truth})


@functools.lru_cache(maxsize=8)
def known_case(case: Case) -> KnownCase:
    """A case that has an image and its truth. Raises InputError where its files are wrong."""
    if case.truth is None:
        raise InputError(f"case {case.name!r}: no truth is given; see prepare_image")
    truth = Start(case.truth.cell, case.truth.misset_deg)
    config = _moved(load_config(case.config, case.settings), truth)
    problem = build_problem(config, build_model(config))
    judged = [p for p in problem.space.parameters if p.name in JUDGED]
    others = [p for p in problem.space.parameters if p.name not in JUDGED]
    space = ParameterSpace(problem.space.start, (*judged, *others))
    inverse, _ = covariance(replace(problem, space=space).quadratic(space.zero()).curvature)
    size = sum(p.size for p in judged)
    return KnownCase(config, truth, space, torch.linalg.inv(inverse[:size, :size]))


def draw_starts(case: KnownCase, scale: float, count: int, seed: int) -> list[Start]:
    """Starts at a scale: edges off by up to `scale` %, free angles and misset angles by up to half as many degrees,
    symmetry's ties kept; uniform draws."""
    generator = np.random.default_rng(seed)
    pattern = cell_pattern(gemmi.find_spacegroup_by_name(case.config.crystal.space_group))
    return [_draw(case.truth, pattern, scale, generator) for _ in range(count)]


def _draw(truth: Start, pattern: tuple[str | float, ...], scale: float, generator: np.random.Generator) -> Start:
    cell = list(truth.cell)
    for name in dict.fromkeys(part for part in pattern if isinstance(part, str)):
        drawn = float(generator.uniform(-1, 1))
        for k in (k for k, part in enumerate(pattern) if part == name):
            cell[k] = cell[k] * (1 + drawn * scale / 100) if k < 3 else cell[k] + drawn * scale / 2
    turns = generator.uniform(-1, 1, 3) * scale / 2
    return Start(tuple(cell), tuple(float(angle + turn) for angle, turn in zip(truth.misset_deg, turns, strict=True)))


def _moved(config: Config, start: Start) -> Config:
    """A configuration that starts elsewhere."""
    orientation = config.crystal.orientation.model_copy(update={"misset_deg": start.misset_deg})
    crystal = config.crystal.model_copy(update={"cell": start.cell, "orientation": orientation})
    return config.model_copy(update={"crystal": crystal})
