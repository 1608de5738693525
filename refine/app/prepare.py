"""`refine validate`: what a configuration stands for, and what a run of it will take."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from refine.app.build import Setup, build_model, build_problem, image_file, steps_per_pixel
from refine.app.config import Config
from refine.app.load import load_config
from refine.app.stills.inputs import free_space, make_ready
from refine.parameters.parameter import Model
from refine.problem.identifiability import require_refinable
from refine.problem.placement import place_far

ITERATIONS = 12  # of a typical run, all stages together
PROGRAM, A_PIXEL = 3.5e8, 160.0  # bytes: what is there before the image, and what every pixel of it takes


def validate(path: Path, overrides: Sequence[str]) -> list[str]:
    """What the configuration stands for, as lines to print; reads every file it names. Raises InputError."""
    config = load_config(path, overrides)
    setup = build_model(config)
    detector, crystal = config.detector, setup.crystal
    steps = steps_per_pixel(crystal, setup.experiment)
    fast, slow = detector.beam_center_px
    lines = [
        f"{path}: valid",
        f"lab frame {detector.convention}, pivot {detector.pivot}; beam centre {fast} (fast), {slow} (slow) pixels",
        *_panel_lines(setup),
        f"cell {', '.join(f'{x:.4f}' for x in crystal.cell.tolist())} (Å, degrees), space group {crystal.space_group}",
        *setup.notes,
    ]
    if not config.images:
        return [*lines, "no image: good for simulate, not for run"]
    if config.shoebox:
        return [*lines, *_still_lines(config)]
    problem = build_problem(config, setup)
    began = time.perf_counter()
    require_refinable(problem)
    seconds = time.perf_counter() - began
    free = ", ".join(f"{p.name} ({p.size})" for p in problem.space.parameters)
    return [
        *lines,
        f"image {image_file(config)}: {len(problem.pixels)} of {setup.region.size} pixels used",
        f"free: {free}",
        f"{steps} steps a pixel: {_few(seconds)} s an iteration here, {_few(ITERATIONS * seconds)} s for a run of"
        f" {ITERATIONS}, and {memory_needed(setup) / 1e9:.1f} GB of memory",
    ]


def _still_lines(config: Config) -> list[str]:
    """What a run of stills will have to go by; the rest of what it takes depends on how far off they are."""
    ready, failed = make_ready(config)
    lines = [f"left out: {failure.reason}" for failure in failed]
    for one in ready:
        boxes = place_far(one.still, Model(one.setup.crystal, one.setup.experiment))
        lines.append(f"image {one.path}: {len(boxes)} reflections stand out near their predicted places")
    space, notes = free_space(ready[0])
    return [*lines, *notes, f"free: {', '.join(f'{p.name} ({p.size})' for p in space.parameters)}"]


def _panel_lines(setup: Setup) -> list[str]:
    """What a detector of many panels is made of; nothing where there is one."""
    shape = setup.experiment.detector.shape
    return [f"{shape[0]} panels of {shape[1]} x {shape[2]} pixels (slow x fast)"] if len(shape) == 3 else []


def memory_needed(setup: Setup) -> float:
    """Bytes that a run takes on a CPU: the pixels', whatever the number of steps, and the structure factors'."""
    factors = setup.experiment.structure_factors
    listed = sum(part.nbytes for part in vars(factors).values() if isinstance(part, torch.Tensor))
    return PROGRAM + A_PIXEL * setup.region.size + 3 * listed


def _few(seconds: float) -> str:
    """Two digits, which is what is known of a time to come."""
    return f"{seconds:.1f}" if seconds < 10 else f"{float(f'{seconds:.2g}'):.0f}"
