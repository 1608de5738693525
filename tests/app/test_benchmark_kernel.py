"""`refine benchmark` of kind kernel: what it measures, writes and refuses."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from refine.app.benchmark.kernel_config import KernelBenchmark
from refine.app.benchmark.kernel_report import Measured, Point, write_report
from refine.app.load import load_section
from refine.app.main import main

CONFIGS = Path(__file__).parents[2] / "configs"
OPERATIONS = {"forward", "value + Jacobian", "gradient", "Hessian product"}


def settings(directory: Path, **changes) -> Path:
    """A benchmark of a very small image, changed."""
    small = ["detector.size=[24, 24]", "detector.beam_center_px=[12, 12]"]
    content = {
        "kind": "kernel",
        "cases": [{"name": "tiny", "config": str(CONFIGS / "benchmark" / "kernel.yaml"), "settings": small}],
        "dtypes": ["float64"],
        "modes": ["eager"],
        "rounds": 1,
        "directory": "out",
    }
    path = directory / "benchmark.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def test_every_way_and_every_peer_is_a_row(tmp_path, capsys):
    scaling = {"case": "tiny", "pixels": [0.5, 1.0], "domains": [2, 4], "threads": [1]}
    path = settings(tmp_path, dtypes=["float64", "float32"], scaling=scaling)
    assert main(["benchmark", str(path), "--peer", "sums=python3 -c 'print(sum(range(10**6)))'"]) == 0
    out = tmp_path / "out"
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [(row["case"], row["dtype"]) for row in rows] == [("tiny", "float64"), ("tiny", "float32"), ("tiny", "sums")]
    found = json.loads((out / "results.json").read_text())
    ours, peer = found["nanoseconds_a_step"][:2], found["nanoseconds_a_step"][2]
    assert all(row["nanoseconds"].keys() == OPERATIONS and min(row["nanoseconds"].values()) > 0 for row in ours)
    assert all(0.05 < row["memory"] < 50 and row["steps"] == 576 for row in ours)
    assert peer["nanoseconds"].keys() == {"forward"}
    assert peer["nanoseconds"]["forward"] > 1000
    assert {(p["kind"], p["place"]) for p in found["scaling"]} == {
        ("pixels", 0.5),
        ("pixels", 1.0),
        ("shoeboxes", 0.02),
        ("domains", 2.0),
        ("domains", 4.0),
        ("threads", 1.0),
    }
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "log-log slope in pixels" in capsys.readouterr().out


def test_slopes_and_ratios_are_those_of_the_numbers(tmp_path):
    measured = [Measured("M", "float64", "eager", 1e6, {"forward": 10.0, "value + Jacobian": 25.0}, 0.5)]
    points = [Point("pixels", x, 3 * x, 0.5) for x in (0.1, 1.0)] + [
        Point("domains", x, x**0.5, 0.5) for x in (4.0, 16.0)
    ]
    lines = write_report(tmp_path, measured, points)
    assert json.loads((tmp_path / "results.json").read_text())["slopes"] == pytest.approx(
        {"pixels": 1.0, "domains": 0.5}
    )
    assert any("10.0     25.0 (2.5x)" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "peers", "said"),
    [
        ({"cases": []}, [], "a list of 1 or more"),
        ({"scaling": {"case": "other"}}, [], "one of the cases: tiny"),
        ({"dtypes": ["float16"]}, [], "float64"),
        ({}, ["nonsense"], "'NAME=COMMAND'"),
        ({}, ["gone=/no/such/program"], "cannot be run"),
        ({}, ["bad=false"], "exit code 1"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, capsys, changes, peers, said):
    path = settings(tmp_path, **changes)
    assert main(["benchmark", str(path), *(word for peer in peers for word in ("--peer", peer))]) == 2
    assert said in capsys.readouterr().err


def test_peers_are_not_for_optimizers(capsys):
    given = ["benchmark", str(CONFIGS / "benchmark_optimizers.yaml"), "--peer", "a=true"]
    assert main(given) == 2
    assert "of kind kernel" in capsys.readouterr().err


def test_the_shipped_benchmark_is_valid():
    config = load_section(KernelBenchmark, CONFIGS / "benchmark_kernel.yaml")
    assert [case.name for case in config.cases] == ["S", "M"]
