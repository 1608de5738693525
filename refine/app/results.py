"""The results directory of a run."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refine import __version__
from refine.app.config import Config
from refine.app.load import dump_config
from refine.app.outcome import Estimate, Outcome, moving
from refine.app.parameter_table import write_parameters
from refine.app.refined_expt import refined_experiments
from refine.io.atomic import write_atomically, write_text
from refine.io.experiment_writer import write_expt
from refine.io.geometries import mosflm_matrix_text
from refine.io.images import write_image
from refine.io.results import write_csv, write_yaml
from refine.model.conventions import frame_change
from refine.model.forward import expected_image
from refine.parameters.parameter import Model
from refine.problem.problem import Counts, ImageProblem
from refine.solvers.solution import Record, Solution

ALWAYS = {"cell", "orientation"}  # reported under names of their own
HISTORY = ("iteration", "loss", "accepted", "gradient_norm", "largest_shift_over_esd", "seconds")


@dataclass(frozen=True)
class Run:
    """What was run: the configuration, its image, the loss of the given start, what to beware of, when it began, how
    long it took."""

    config: Config
    image: Path
    initial_loss: float
    warnings: list[str]
    started: datetime
    seconds: float


def trace_row(record: Record, values: Tensor) -> list[float | str]:
    """An iteration as a row of trace.csv, with the physical values (m,) of what is refined."""
    remaining = "" if record.remaining is None else record.remaining
    return [
        record.iteration,
        record.loss,
        int(record.accepted),
        record.gradient_norm,
        remaining,
        record.seconds,
        *values.tolist(),
    ]


def write_trace(directory: Path, names: Sequence[str], rows: list[list[float | str]]) -> None:
    """trace.csv: a row an iteration; `names` (m,) of what is refined."""
    write_csv(directory / "trace.csv", [*HISTORY, *names], rows)


def write_results(directory: Path, run: Run, problem: ImageProblem, solution: Solution, outcome: Outcome) -> None:
    """Everything but the trace and the log; result.yaml last, so that where it is, the rest is. The model image is in
    photons, background included."""
    write_text(directory / "config.resolved.yaml", dump_config(run.config))
    write_correlations(directory / "correlations.csv", outcome.names, outcome.correlation)
    write_parameters(directory / "parameters.csv", problem.space, outcome)
    _write_observed(directory / "observed.npz", problem)
    write_image(directory / "model.npz", expected_image(*outcome.model).cpu().numpy())
    write_matrix(directory / "A.mat", run.config, outcome.model)
    write_expt(directory / "refined.expt", refined_experiments(run.config, run.image, outcome.model))
    write_yaml(directory / "result.yaml", result_record(run, problem, solution, outcome))


def result_record(run: Run, problem: ImageProblem, solution: Solution, outcome: Outcome) -> dict[str, Any]:
    """The content of result.yaml."""
    return {
        "status": solution.status.value,
        "reason": solution.reason,
        "warnings": run.warnings,
        "cell": outcome.estimates["cell"].as_yaml(),
        "images": [image_record(run.image, outcome)],
        "loss": _loss_record(run, problem, solution, outcome),
        "optimizer": optimizer_record(run.config, solution, problem.counts),
        "correlations": "correlations.csv",
        "wall_seconds": round(run.seconds, 3),
        "provenance": provenance(run.config, run.started, str(problem.observation.photons.device)),
    }


def image_record(path: Path, outcome: Outcome) -> dict[str, Any]:
    """An image's entry: what is its own."""
    estimates = outcome.estimates
    return {
        "file": str(path),
        "misset_deg": estimates["orientation"].as_yaml(),
        "a_matrix": outcome.model.crystal.a_matrix.flatten().tolist(),
        **{name: e.as_yaml() for name, e in estimates.items() if name not in ALWAYS},
    }


def optimizer_record(config: Config, solution: Solution, counts: Counts) -> dict[str, Any]:
    """By which solver, and how much it asked for."""
    return {
        "name": config.refinement.optimizer.name,
        "iterations": solution.iterations,
        "value_evaluations": counts.values,
        "gradient_evaluations": counts.gradients,
        "jacobian_evaluations": counts.jacobians,
    }


def _loss_record(run: Run, problem: ImageProblem, solution: Solution, outcome: Outcome) -> dict[str, Any]:
    fit = outcome.fit
    return {
        "name": problem.noise.name,
        "initial": None if math.isnan(run.initial_loss) else run.initial_loss,
        "final": float(solution.quadratic.value) if solution.history else None,
        "reduced_deviance": fit.reduced_deviance,
        "expected_deviance": fit.expected,
        "expected_deviance_sd": fit.expected_sd,
        "pixels_used": fit.pixels_used,
    }


def provenance(config: Config, started: datetime, device: str) -> dict[str, Any]:
    """By what, on what, from what and when a result was made."""
    return {
        "version": __version__,
        "torch": str(torch.__version__),
        "device": device,
        "dtype": config.dtype,
        "config_sha256": hashlib.sha256(dump_config(config).encode()).hexdigest(),
        "seed": config.seed,
        "started": started.isoformat(timespec="seconds"),
    }


def _write_observed(path: Path, problem: ImageProblem) -> None:
    """What the model was compared with: photons, which pixels, readout variance; whole numbers as such."""
    seen = problem.observation
    photons, trusted, readout = (x.cpu().numpy() for x in (seen.photons, seen.trusted, seen.readout_variance))
    used = np.zeros_like(trusted)
    used[tuple(part.cpu().numpy() for part in problem.pixels.place)] = True
    photons = photons.astype(np.int32) if np.all(photons == photons.astype(np.int32)) else photons.astype(np.float32)
    arrays: dict[str, Any] = {"image": photons, "trusted": used, "readout_variance": readout}
    write_atomically(path, lambda stream: np.savez_compressed(stream, **arrays))


def write_correlations(path: Path, names: Sequence[str], correlation: Tensor) -> None:
    """The correlation matrix (m, m) of what moves by itself, with the names of its rows and columns."""
    kept = moving(correlation)
    rows = zip([names[k] for k in kept], correlation[kept][:, kept].tolist(), strict=True)
    write_csv(path, ["", *(names[k] for k in kept)], [[name, *row] for name, row in rows])


def write_matrix(path: Path, config: Config, model: Model) -> None:
    """The refined matrix in MOSFLM's frame and form."""
    crystal, beam = model.crystal, model.experiment.beam
    mosflm = frame_change(config.detector.convention, "mosflm") @ crystal.a_matrix.cpu().numpy()
    write_text(path, mosflm_matrix_text(mosflm, float(beam.wavelength), crystal.cell.tolist()))


def summary_rows(outcome: Outcome) -> list[tuple[str, str, str, str, str]]:
    """Label, start, value with esd, shift and unit of every reported number, for a table."""
    return [row for estimate in outcome.estimates.values() for row in _rows(estimate)]


def _rows(estimate: Estimate) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for i, label in enumerate(estimate.labels):
        start, value = float(estimate.start[i]), float(estimate.value[i])
        esd = None if estimate.esd is None else float(estimate.esd[i])
        shift = "fixed" if esd is None else "by symmetry" if esd == 0 else f"{value - start:+.4f}"
        rows.append((label, f"{start:.4f}", with_esd(value, esd), shift, estimate.units[i]))
    return rows


def with_esd(value: float, esd: float | None) -> str:
    """Crystallographers' notation: 68.071 +- 0.021 is 68.07(2), 68.0712 +- 0.0014 is 68.0712(14); bare without esd."""
    if not esd or esd != esd:
        return f"{value:.4f}"
    digits = max(0, -int(np.floor(np.log10(esd))))
    if round(esd * 10**digits) == 1:
        digits += 1
    return f"{value:.{digits}f}({round(esd * 10**digits)})"
