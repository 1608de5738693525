"""Runs killed at any moment: what they leave is whole, and resumed they end where they would have."""

import csv
import json
import random
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from refine.app.main import main

SERVER = get_context("forkserver")
LOADED = ["refine.app.run", "refine.app.stills.run", "refine.app.report.page"]


def readable(directory: Path) -> None:
    """Every file that stands under its final name is whole."""
    for path in directory.rglob("*"):
        if path.suffix in (".yaml", ".expt"):
            assert yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else json.loads(path.read_text())
        elif path.suffix == ".npz":
            with np.load(path) as found:
                assert [found[name] for name in found.files]
        elif path.suffix == ".h5":
            with h5py.File(path) as file:
                assert all(file[name][()] is not None for name in file)
        elif path.suffix == ".csv":
            assert len({len(row) for row in csv.reader(path.read_text().splitlines())}) == 1
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        else:
            assert path.is_dir() or path.suffix in (".log", ".mat", ".tmp"), path


def flat_difference(found: Any, wanted: Any) -> float:
    """Largest relative difference of the numbers in two results; everything else has to be equal."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        return max((flat_difference(found[key], wanted[key]) for key in wanted), default=0.0)
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        return max((flat_difference(*pair) for pair in zip(found, wanted, strict=True)), default=0.0)
    if isinstance(wanted, float):
        return abs(found - wanted) / max(abs(wanted), 1e-12)
    assert found == wanted
    return 0.0


def killed_and_resumed(
    run: Callable[[Path], list[str]], values: Callable[[Path], Any], folder: Path, moments: int
) -> None:
    """Kill a run, which has these arguments for a directory of results, at random moments, resume it, and compare the
    values of its results with those of a whole one."""
    SERVER.set_forkserver_preload(LOADED)
    _begun(run(folder / "warm")).join()
    began = time.perf_counter()
    _begun(run(folder / "whole")).join()
    whole, draws, killed = time.perf_counter() - began, random.Random(5), 0
    for k in range(moments):
        out = folder / f"killed{k}"
        process = _begun(run(out))
        time.sleep(whole * (k + draws.random()) / moments)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        readable(out)
        assert main([*run(out), "--resume"]) == 0
        readable(out)
        assert not list(out.rglob(".*.tmp"))
        assert flat_difference(values(out), values(folder / "whole")) < 1e-9
    assert killed  # how many depends on how evenly the machine runs


def _begun(arguments: list[str]) -> BaseProcess:
    process = SERVER.Process(target=main, args=(arguments,))
    process.start()
    return process
