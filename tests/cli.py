"""A tiny experiment on disk, and the command line in this process."""

from pathlib import Path
from typing import Any

import yaml

from refine.app.main import main

TRUTH = {"cell": [40.0, 50.0, 60.0, 80.0, 95.0, 105.0], "misset_deg": [12.0, -25.0, 33.0]}
START = {"cell": [40.1, 49.9, 60.2, 80.2, 94.8, 105.1], "misset_deg": [12.1, -25.1, 33.1]}


def configuration(directory: Path, values: dict[str, list[float]], **changes: Any) -> Path:
    """Write config.yaml for a 64 x 64 image of a uniform-F crystal; `changes` are top-level sections, merged."""
    content: dict[str, Any] = {
        "images": [{"file": "image.npz"}],
        "beam": {"wavelength": 1.0, "fluence": 1e28},
        "detector": {"distance": 60.0, "pixel_size": 0.6, "size": [64, 64], "beam_center_px": [32.5, 31.0]},
        "crystal": {"cell": values["cell"], "orientation": {"misset_deg": values["misset_deg"]}, "cells": [6, 6, 6]},
        "structure_factors": {"default": 100.0},
        "background": {"model": "constant", "value": 3.0},
        "output": {"report": False},
    }
    for section, change in changes.items():
        old = content.get(section)
        content[section] = {**old, **change} if isinstance(old, dict) and isinstance(change, dict) else change
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def observed(directory: Path, **changes: Any) -> Path:
    """Write image.npz with noise from the truth, and a config.yaml that starts off it."""
    truth = configuration(directory, TRUTH, **changes)
    assert main(["simulate", str(truth), "-o", str(directory / "image.npz"), "--noise"]) == 0
    return configuration(directory, START, **changes)


def result(directory: Path) -> Any:
    """The content of result.yaml."""
    return yaml.safe_load((directory / "result.yaml").read_text(encoding="utf-8"))
