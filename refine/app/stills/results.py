"""The results directory of a run of stills."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from refine.app.config import Config
from refine.app.load import dump_config
from refine.app.parameter_table import HEADER, parameter_rows
from refine.app.refined_expt import refined_experiments
from refine.app.results import image_record, optimizer_record, provenance, write_correlations, write_matrix
from refine.app.stills.inputs import Failed
from refine.app.stills.outcome import Conclusion, Image, Reflections, own_suffix
from refine.app.stills.strategy import LOCAL, Refined
from refine.io.atomic import write_atomically, write_text
from refine.io.experiment_writer import write_expt
from refine.io.results import write_csv, write_yaml

COLUMNS = (
    *("image", "h", "k", "l", "panel", "x_model_px", "y_model_px", "x_obs_px", "y_obs_px"),
    *("amplitude", "amplitude_esd", "background", "score", "holdout"),
)


@dataclass(frozen=True)
class Run:
    """What was run: the configuration, what to beware of, when it began, how long it took."""

    config: Config
    warnings: list[str]
    started: datetime
    seconds: float


def write_results(directory: Path, run: Run, found: Refined, conclusion: Conclusion) -> None:
    """Everything but the trace and the log; result.yaml last, so that where it is, the rest is."""
    write_text(directory / "config.resolved.yaml", dump_config(run.config))
    write_correlations(directory / "correlations.csv", conclusion.names, conclusion.correlation)
    write_csv(directory / "parameters.csv", HEADER, _parameter_rows(found, conclusion))
    write_csv(directory / "reflections.csv", COLUMNS, _reflection_rows(conclusion))
    for image in conclusion.images:
        _write_image(directory, image, alone=len(conclusion.images) == 1)
    write_yaml(directory / "result.yaml", result_record(run, found, conclusion))


def result_record(run: Run, found: Refined, conclusion: Conclusion) -> dict[str, Any]:
    """The content of result.yaml."""
    solution, fit = found.solution, conclusion.fit
    return {
        "status": solution.status.value,
        "reason": solution.reason,
        "warnings": run.warnings,
        "cell": conclusion.images[0].outcome.estimates["cell"].as_yaml(),
        "images": [_image_record(image) for image in conclusion.images],
        "left_out": [_failure(failure) for failure in found.failed],
        "loss": {
            "name": conclusion.images[0].ready.still.noise.name,
            "initial": None if math.isnan(found.start_loss) else found.start_loss,
            "final": float(solution.quadratic.value) if solution.history else None,
            "reduced_deviance": fit.reduced_deviance,
            "expected_deviance": fit.expected,
            "expected_deviance_sd": fit.expected_sd,
            "esd_factor": conclusion.esd_factor,
            "pixels_used": fit.pixels_used,
        },
        "optimizer": optimizer_record(run.config, solution, found.problem.counts),
        "correlations": "correlations.csv",
        "wall_seconds": round(run.seconds, 3),
        "provenance": provenance(run.config, run.started, str(conclusion.values.device)),
    }


def _failure(failure: Failed) -> dict[str, str]:
    return {"file": str(failure.path), "reason": failure.reason}


def _image_record(image: Image) -> dict[str, Any]:
    found = image.reflections
    return {
        **image_record(image.ready.path, image.outcome),
        "name": image.ready.name,
        "frame": image.ready.config.images[0].frame,
        "reduced_deviance": image.outcome.fit.reduced_deviance,
        "reflections": {"used": int((~found.held).sum()), "held_out": int(found.held.sum())},
        "median_offset_px": {"used": _median(found, ~found.held), "held_out": _median(found, found.held)},
    }


def _median(found: Reflections, which: np.ndarray) -> float | None:
    """Of the distances between observed spots and the model's; None where there are none."""
    offsets = found.offsets[which]
    offsets = offsets[np.isfinite(offsets)]
    return float(np.median(offsets)) if len(offsets) else None


def _parameter_rows(found: Refined, conclusion: Conclusion) -> Iterator[list[Any]]:
    """Rows of parameters.csv; an image's own with its name where there are several."""
    for number, (placed, image) in enumerate(zip(found.images, conclusion.images, strict=True)):
        local = {label for p in placed.space.parameters if p.name in LOCAL for label in p.labels}
        told = image.outcome.estimates
        local |= {label for name in LOCAL & told.keys() for label in told[name].labels}
        suffix = own_suffix(image.ready, found.images)
        for row in parameter_rows(placed.space, image.outcome):
            if number == 0 or row[0] in local:
                yield [row[0] + (suffix if row[0] in local else ""), *row[1:]]


def _reflection_rows(conclusion: Conclusion) -> Iterator[list[Any]]:
    for image in conclusion.images:
        r = image.reflections
        columns = (
            *(r.indices.T.tolist()),
            r.panel.tolist(),
            *(_rounded(column, 4) for column in (*r.model.T, *r.observed.T)),
            *(_rounded(column, 6) for column in (r.amplitude, r.amplitude_esd, r.background, r.score)),
            r.held.astype(int).tolist(),
        )
        for row in zip(*columns, strict=True):
            yield [image.ready.shown, *row]


def _rounded(values: np.ndarray, digits: int) -> list[float | str]:
    """Numbers of so many decimals, or significant digits where they are large; empty where undefined."""
    return ["" if x != x else round(x, digits) if abs(x) < 1e6 else float(f"{x:.8g}") for x in values.tolist()]


def _write_image(directory: Path, image: Image, alone: bool) -> None:
    """What belongs to one image; its name is in the files' names where there are several."""
    suffix = "" if alone else f"_{image.ready.name}"
    config, model = image.ready.config, image.outcome.model
    write_matrix(directory / f"A{suffix}.mat", config, model)
    write_expt(directory / f"refined{suffix}.expt", refined_experiments(config, image.ready.path, model))
    write_atomically(directory / f"shoeboxes{suffix}.h5", lambda stream: _write_shoeboxes(stream, image.reflections))


def _write_shoeboxes(stream: BinaryIO, found: Reflections) -> None:
    """R boxes, rows first: observed, model and background photons, which pixels were used; corner: fast and slow of
    each box's first pixel."""
    import h5py

    boxes, fit = found.boxes, found.fit
    edge = round(boxes.use.shape[1] ** 0.5)
    pictures = {"observed": boxes.observed, "model": fit.expected, "background": fit.background}
    corner = np.stack([part.floor().cpu().numpy() for part in (boxes.spots.fast, boxes.spots.slow)], 1) - edge // 2
    with h5py.File(stream, "w") as file:
        for name, values in pictures.items():
            picture = values.cpu().numpy().astype(np.float32).reshape(-1, edge, edge)
            file.create_dataset(name, data=picture, compression="gzip", compression_opts=1)
        file["used"] = boxes.use.cpu().numpy().reshape(-1, edge, edge)
        file["miller_index"], file["panel"], file["corner"] = found.indices, found.panel, corner.astype(np.int32)
        file["score"], file["holdout"] = found.score, found.held
        for name, unit in (("observed", "photons"), ("model", "photons"), ("background", "photons")):
            file[name].attrs["units"] = unit
