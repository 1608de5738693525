"""`refine validate` and `refine init`: before the first run."""

from collections.abc import Sequence
from pathlib import Path

from refine.app.build import Setup, build_model, build_problem, image_file, require_refinable, steps_per_pixel
from refine.app.compilation import SECONDS_A_STEP
from refine.app.load import load_config
from refine.app.template import starter_config
from refine.errors import InputError
from refine.io.atomic import write_text


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
    problem = build_problem(config, setup)
    require_refinable(problem)
    free = ", ".join(f"{p.name} ({p.size})" for p in problem.space.parameters)
    seconds = len(problem.pixels) * steps * SECONDS_A_STEP
    return [
        *lines,
        f"image {image_file(config)}: {len(problem.pixels)} of {setup.region.size} pixels used",
        f"free: {free}",
        f"{steps} steps a pixel: very roughly {max(seconds, 0.1):.1f} s an iteration on one core",
    ]


def _panel_lines(setup: Setup) -> list[str]:
    """What a detector of many panels is made of; nothing where there is one."""
    shape = setup.experiment.detector.shape
    return [f"{shape[0]} panels of {shape[1]} x {shape[2]} pixels (slow x fast)"] if len(shape) == 3 else []


def init(path: Path) -> str:
    """Write a commented starter configuration; refuses to write over a file. Raises InputError."""
    if path.exists():
        raise InputError(f"{path}: exists already and is left as it is; give another name, or move it away")
    write_text(path, starter_config())
    return f"{path}: a starter configuration; edit it, then: refine validate {path}"
