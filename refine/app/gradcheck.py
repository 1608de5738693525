"""`refine gradcheck`: are the derivatives right for this configuration?"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from refine.app.build import build_model, build_space
from refine.app.config import Config
from refine.app.load import load_config
from refine.errors import InputError
from refine.io.atomic import write_bytes, write_text
from refine.model.pixels import Pixels
from refine.problem.derivatives import Findings, Row, check_derivatives

ORDERS = {"1": 1, "2": 2, "both": 2}
MOST_CANDIDATES = 1 << 16  # pixels among which those to check are chosen
BRIGHT = 100.0  # electrons
HEADER = ("parameter", "unit", "value", "column norm", "error 1st", "order", "error 2nd", "order", "verdict")


def gradcheck(
    path: Path, overrides: Sequence[str], order: str, json_file: Path | None, junit_file: Path | None
) -> tuple[bool, list[str]]:
    """Check every free parameter of the configuration at its start, in float64 and never compiled.

    Returns whether all holds, and the lines of a table. order: '1', '2' or 'both'; second derivatives are only worth
    checking behind first ones, so '2' is 'both'. Raises InputError for a wrong configuration.
    """
    config = _of_pixels(load_config(path, overrides), path)
    setup = build_model(config)
    space = build_space(config, setup)
    whole = Pixels.whole(setup.experiment.detector.shape, setup.experiment.scale)
    stride = max(1, len(whole) // MOST_CANDIDATES)
    found = check_derivatives(space, whole[::stride], order=ORDERS[order])
    if json_file:
        write_text(json_file, json.dumps(as_record(found), indent=2, allow_nan=False) + "\n")
    if junit_file:
        write_bytes(junit_file, as_junit(found, path.name))
    return found.passed, table(found)


def _of_pixels(config: Config, path: Path) -> Config:
    """Without the amplitudes, which shoeboxes find by themselves: the model of the image has no derivatives by them,
    and where they are unknown, all are alike and bright enough to stand above the background's rounding.
    Raises InputError where nothing is left."""
    free = tuple(name for name in config.refinement.free if name != "amplitudes")
    if not free:
        raise InputError(f"{path}: key 'refinement.free': amplitudes are no parameters of the image; give others, too")
    factors = config.structure_factors
    if factors.unknown:
        factors = factors.model_copy(update={"unknown": False, "default": BRIGHT})
    refinement = config.refinement.model_copy(update={"free": free})
    return config.model_copy(update={"refinement": refinement, "structure_factors": factors})


def table(found: Findings) -> list[str]:
    """One line a direction, then what failed, parameter and kind, and the verdict."""
    rows = [HEADER, *map(_cells, found.rows)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    failures = _failures(found)
    verdict = "PASSED" if found.passed else f"FAILED: {len(failures)} checks"
    told = [*(f"FAILED {line}" for line in failures), f"{found.pixels} pixels{_largest_errors(found)}: {verdict}"]
    return [*lines, *told] if found.rows else told


def _largest_errors(found: Findings) -> str:
    first = [row.first_error for row in found.rows]
    second = [row.second_error for row in found.rows if row.second_error is not None]
    said = [f"{max(errors):.1e} {name} order" for name, errors in (("first", first), ("second", second)) if errors]
    return f"; largest relative error {', '.join(said)}" if said else ""


def _cells(row: Row) -> tuple[str, ...]:
    direction = row.direction

    def order(slope: float | None) -> str:
        return "exact" if slope is None else f"{slope:.2f}"

    return (
        direction.label,
        direction.unit,
        f"{direction.value:.4f}",
        f"{row.column_norm:.2e}",
        f"{row.first_error:.1e}",
        order(row.first_slope),
        "" if row.second_error is None else f"{row.second_error:.1e}",
        "" if row.second_error is None else order(row.second_slope),
        "FAILED" if row.failures else "ok",
    )


def _failures(found: Findings) -> list[str]:
    return [*found.failures, *(f"{row.direction.label}: {failure}" for row in found.rows for failure in row.failures)]


def as_record(found: Findings) -> dict[str, Any]:
    """Plain numbers, null where there are none."""
    rows = []
    for row in found.rows:
        record = {k: v for k, v in asdict(row).items() if k != "direction"}
        direction = row.direction
        named = {"parameter": direction.parameter, "label": direction.label, "unit": direction.unit}
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        rows.append({**named, "value": direction.value, **plain})
    return {"passed": found.passed, "pixels": found.pixels, "failures": list(found.failures), "rows": rows}


def as_junit(found: Findings, name: str) -> bytes:
    """A JUnit report: a case a direction, and one for what stands before and beside them."""
    failed = bool(found.failures) + sum(bool(row.failures) for row in found.rows)
    counts = {"name": f"gradcheck {name}", "tests": str(len(found.rows) + 1), "failures": str(failed)}
    suite = ElementTree.Element("testsuite", counts)
    cases = [("guards and torch's own checks", found.failures)]
    cases += [(row.direction.label, row.failures) for row in found.rows]
    for label, failures in cases:
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"gradcheck.{name}", "name": label})
        if failures:
            ElementTree.SubElement(case, "failure", {"message": failures[0]}).text = "\n".join(failures)
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
