"""`refine benchmark`: what it measures, what it writes, and that it goes on where it stopped."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from refine.app.benchmark import optimizers
from refine.app.benchmark.cases import Start, draw_starts, known_case, prepare_image
from refine.app.benchmark.config import Case, OptimizerBenchmark
from refine.app.benchmark.optimizers import TRIALS, append_trial, read_trials
from refine.app.benchmark.report import profile, success_rates, summarise
from refine.app.benchmark.trial import Trial
from refine.app.load import load_section
from refine.app.main import main

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "benchmark_smoke.yaml"
PICTURES = ["success.png", "profile_evaluations.png", "profile_seconds.png", "traces.png"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("benchmark")
    assert main(["benchmark", str(SMOKE), "-o", str(directory / "out")]) == 0
    return directory / "out"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    given = Case(name="tetragonal", config=ROOT / "configs" / "benchmark" / "tetragonal.yaml")
    return known_case(prepare_image(given, tmp_path_factory.mktemp("case")))


def test_every_trial_is_a_row_with_its_costs(finished):
    rows = list(csv.DictReader((finished / "results.csv").read_text().splitlines()))
    assert {(r["optimizer"], r["scale"], r["start"]) for r in rows} == {
        (name, scale, "0") for name in ("lm by stages", "lm", "lbfgs") for scale in ("0.2", "1.0")
    }
    for row in rows:
        counts = [int(row[key]) for key in ("values", "gradients", "jacobians", "curvature_products")]
        assert sum(counts) == int(row["evaluations"]) > int(row["iterations"]) > 0
        assert float(row["seconds"]) > 0
        assert (row["success"] == "True") == (float(row["chi2_per_parameter"]) < 6)
    lm = next(r for r in rows if r["optimizer"] == "lm")
    assert int(lm["iterations"]) <= int(lm["jacobians"]) <= int(lm["iterations"]) + 1
    assert lm["success"] == "True"


def test_tables_and_pictures_are_written(finished):
    summary = list(csv.DictReader((finished / "summary.csv").read_text().splitlines()))
    content = json.loads((finished / "results.json").read_text())
    assert [row["optimizer"] for row in summary] == [row["optimizer"] for row in content["summary"]]
    assert len(content["trials"]) == 6
    for name in PICTURES:
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
        assert (finished / name).stat().st_size > 10_000


def test_started_again_it_repeats_nothing(finished, capsys):
    before = (finished / TRIALS).read_bytes()
    assert main(["benchmark", str(SMOKE), "-o", str(finished)]) == 0
    assert "6 trials, 6 done before" in capsys.readouterr().out
    assert (finished / TRIALS).read_bytes() == before


def test_changed_settings_are_new_trials(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(optimizers, "_carry_out", lambda tasks, *_: iter(()))
    with pytest.raises(KeyError):
        main(["benchmark", str(SMOKE), "-o", str(finished), "seed=1"])
    assert "6 trials, 0 done before" in capsys.readouterr().out


def test_interrupted_it_keeps_what_is_done_and_goes_on(tmp_path, capsys, monkeypatch):
    real, count = optimizers.run_task, 0

    def impatient(task):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(optimizers, "run_task", impatient)
    assert main(["benchmark", str(SMOKE), "-o", str(tmp_path / "out")]) == 130
    assert "goes on from the 2 trials" in capsys.readouterr().out
    with (tmp_path / "out" / TRIALS).open("a") as file:
        file.write('{"key": "half a li')
    assert main(["benchmark", str(SMOKE), "-o", str(tmp_path / "out")]) == 0
    assert "2 done before" in capsys.readouterr().out
    assert count == 3 + 4


@pytest.mark.slow
def test_processes_give_the_same_answers(finished, tmp_path):
    assert main(["benchmark", str(SMOKE), "-o", str(tmp_path / "out"), "processes=2"]) == 0
    alone, together = (
        {(t.optimizer, t.scale): (t.status, t.success, t.values, t.jacobians) for t in read_trials(path / TRIALS)}
        for path in (finished, tmp_path / "out")
    )
    assert alone == together


def test_starts_keep_symmetry_and_range(case):
    starts = draw_starts(case, 2.0, 200, 0)
    cells = np.array([start.cell for start in starts])
    missets = np.array([start.misset_deg for start in starts]) - case.truth.misset_deg
    assert (cells[:, 0] == cells[:, 1]).all()
    assert (cells[:, 3:] == 90).all()
    for k in (0, 2):
        off = cells[:, k] / case.truth.cell[k] - 1
        assert 0.018 < np.abs(off).max() <= 0.02
        assert off.std() == pytest.approx(0.02 / 3**0.5, rel=0.15)
    assert 0.9 < np.abs(missets).max() <= 1.0
    assert draw_starts(case, 2.0, 3, 0) == starts[:3]
    assert draw_starts(case, 2.0, 3, 1) != starts[:3]


def test_chi_squared_is_that_of_the_fisher_information(case):
    """A shift by one unit of an eigenvector, in standard deviations, costs one over the number of parameters."""
    exact = case.problem(case.truth)
    assert case.chi_squared(exact, exact.space.zero()) == pytest.approx(0, abs=1e-12)
    values, vectors = np.linalg.eigh(case.information.numpy())
    shift = case.space.zero()
    shift[: len(values)] = case.information.new_tensor(vectors[:, 0] / values[0] ** 0.5)
    physical = case.space.physical(shift).tolist()
    moved = case.problem(Start(tuple(physical[:6]), tuple(physical[6:9])))
    assert case.chi_squared(moved, moved.space.zero()) == pytest.approx(1 / len(values), rel=1e-6)


def trial(optimizer, start, cost, success=True, status="converged", scale=1.0):
    counts = {"values": 0, "gradients": 0, "jacobians": cost, "curvature_products": 0}
    numbers = {"iterations": cost, "evaluations": cost, "seconds": cost / 10, "loss": 0.0}
    return Trial("", "a", optimizer, scale, start, status, success, 1.0, **numbers, **counts, trace=())


def test_profiles_are_dolan_and_mores():
    trials = [trial("x", 0, 4), trial("y", 0, 8), trial("x", 1, 30), trial("y", 1, 10)]
    trials += [trial("x", 2, 5), trial("y", 2, 5, success=False)]
    trials += [trial("x", 3, 5, success=False), trial("y", 3, 5, success=False)]
    found = profile(trials, ["x", "y"], "evaluations")
    assert found == {"x": [1, 1, 3], "y": [1, 2, math.inf]}


def test_summary_counts_false_confidence_and_takes_medians_of_successes():
    trials = [trial("x", k, cost) for k, cost in enumerate((4, 6, 100))]
    trials += [trial("x", 3, 999, success=False), trial("x", 4, 1, success=False, status="stalled", scale=2.0)]
    trials += [trial("x", 5, 7, status="max_iterations", scale=2.0)]
    (row,) = summarise(trials, ["x"])
    assert row["success"] == pytest.approx(4 / 6, abs=1e-3)
    assert row["failures_called_converged"] == 1
    assert row["successes_not_called_converged"] == 1
    assert row["evaluations"] == 6.5
    assert success_rates(trials, "x", (1.0, 2.0)) == [0.75, 0.5]


def test_trials_survive_the_file(tmp_path):
    written = replace(trial("x", 0, 4), chi2_per_parameter=math.inf, trace=((0.1, 1, 5.0), (0.2, 2, 4.0)))
    append_trial(tmp_path / TRIALS, written)
    append_trial(tmp_path / TRIALS, written)
    assert list(read_trials(tmp_path / TRIALS)) == [written, written]


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("kind=speed", "accepted: optimizers"),
        ("optimizers=[]", "a list of 1 or more"),
        ("optimizers=[{name: lm}, {name: lm}]", "'lm' is there twice (give a label)"),
        ("optimizers=[{name: lm, options: {rate: 1}}]", "option 'rate' of solver 'lm' is not known"),
        ("optimizers=[{name: lmm}]", "did you mean 'lm'?"),
        ("scales=[0]", "above 0"),
        ("starts=0", "at least 1"),
        ("startz=1", "did you mean 'starts'?"),
        ("cases=[{name: a, config: nowhere.yaml}]", "nowhere.yaml: cannot be read"),
    ],
)
def test_wrong_input_is_explained_before_anything_runs(tmp_path, capsys, assignment, expected):
    text = yaml.safe_load(SMOKE.read_text())
    text["cases"][0]["config"] = str(ROOT / "configs" / text["cases"][0]["config"])
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(text))
    assert main(["benchmark", str(tmp_path / "b.yaml"), "-o", str(tmp_path / "out"), assignment]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out" / TRIALS).exists()


def test_a_file_without_kind_is_no_benchmark(capsys):
    assert main(["benchmark", str(ROOT / "configs" / "quickstart.yaml")]) == 2
    assert "key 'kind' is None; accepted: optimizers" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("benchmark_*.yaml")), ids=lambda path: path.stem)
def test_shipped_benchmarks_are_valid(path):
    if yaml.safe_load(path.read_text())["kind"] == "optimizers":
        config = load_section(OptimizerBenchmark, path)
        assert all(case.config.exists() for case in config.cases)
