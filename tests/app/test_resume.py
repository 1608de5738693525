"""Runs that are killed, interrupted or resumed: nothing lost, nothing half written, the same answer."""

import csv
import os
import signal
import threading

import numpy as np
import pytest
import torch
from cli import observed, result
from killing import killed_and_resumed

from refine.app.checkpoint import FOLDER
from refine.app.interrupt import patient
from refine.app.main import main
from refine.problem.problem import ImageProblem

FAR = ["crystal.cell=[40.5, 49.6, 60.6, 80.6, 94.4, 105.5]"]
SOLVERS = ["lm", "trust-region", "newton-cg", "lbfgs", "adam", "scipy-least-squares", "scipy-nelder-mead"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("resume")
    observed(directory, detector={"size": [128, 128], "beam_center_px": [64, 62], "pixel_size": 0.3, "oversample": 2})
    return directory


def run(place, out, *settings):
    return main(["run", str(place / "config.yaml"), "-o", str(out), *FAR, *settings])


def values(directory):
    """result.yaml without times, dates, and the digest of where it was written to."""
    found = result(directory)
    del found["wall_seconds"], found["provenance"]["started"], found["provenance"]["config_sha256"]
    return found


@pytest.fixture(scope="module")
def reference(place):
    assert run(place, place / "reference") == 0
    return place / "reference"


@pytest.mark.parametrize("moments", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on_to_the_same_answer(place, tmp_path, moments):
    def arguments(out):
        return ["run", str(place / "config.yaml"), "-o", str(out), *FAR, "output.report=true"]

    killed_and_resumed(arguments, values, tmp_path, moments)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_resumes_to_the_same_bits_without_computing_again(place, tmp_path, solver, monkeypatch):
    few = "max_iterations: 12" if "scipy" in solver else "max_iterations: 25"
    settings = [f"refinement.optimizer={{name: {solver}, {few}}}", "refinement.strategy=single"]
    run(place, tmp_path / "whole", *settings)
    interrupt(monkeypatch, after=5)
    assert run(place, tmp_path / "out", *settings) == 130
    monkeypatch.undo()
    assert result(tmp_path / "out")["status"] == "interrupted"
    kept = set((tmp_path / "out" / FOLDER).glob("*.npz"))
    assert len(kept) >= 5
    assert run(place, tmp_path / "out", *settings, "--resume") == run(place, tmp_path / "again", *settings)
    assert values(tmp_path / "out") == values(tmp_path / "whole")
    assert names(tmp_path / "out") >= names(tmp_path / "whole")


def names(directory):
    return {path.name for path in (directory / FOLDER).glob("*.npz")}


def interrupt(monkeypatch, after):
    """Ctrl-C, once, at the evaluation after so many."""
    seen = []
    plain = {name: getattr(ImageProblem, name) for name in ("quadratic", "loss_and_gradient", "loss")}

    def watched(name):
        def evaluate(self, z):
            seen.append(name)
            if len(seen) == after + 2:  # the first ones look at the start
                signal.raise_signal(signal.SIGINT)
            return plain[name](self, z)

        return evaluate

    for name in plain:
        monkeypatch.setattr(ImageProblem, name, watched(name))


def test_the_iteration_in_hand_is_finished(place, tmp_path, monkeypatch, capfd):
    interrupt(monkeypatch, after=3)
    assert run(place, tmp_path / "out", "refinement.strategy=single") == 130
    said = capfd.readouterr()
    assert "finishing this iteration" in said.err
    trace = list(csv.DictReader((tmp_path / "out" / "trace.csv").read_text().splitlines()))
    assert len(trace) == 4
    assert result(tmp_path / "out")["optimizer"]["iterations"] == len(trace) - 1
    assert float(trace[-1]["loss"]) >= result(tmp_path / "out")["loss"]["final"]


def test_a_second_interrupt_stops_at_once():
    with patient():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with patient() as check:
        check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone():
    found = []

    def work():
        with patient() as check:
            check()
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def test_resuming_what_never_began_begins(place, reference, tmp_path):
    assert run(place, tmp_path / "out", "--resume") == 0
    assert values(tmp_path / "out") == values(reference)


def test_more_iterations_may_be_asked_for(place, reference, tmp_path, capsys):
    few = ["refinement.strategy=single", "refinement.optimizer.max_iterations=3"]
    assert run(place, tmp_path / "out", *few) == 1
    assert run(place, tmp_path / "out", "refinement.strategy=single", "--resume") == 0
    assert "4 evaluations are kept" in capsys.readouterr().out
    assert result(tmp_path / "out")["cell"]["value"] == pytest.approx(result(reference)["cell"]["value"], abs=1e-4)


def test_another_configuration_is_refused(place, tmp_path, capsys):
    run(place, tmp_path / "out", "refinement.optimizer.max_iterations=2")
    before = (tmp_path / "out" / "result.yaml").read_text()
    assert run(place, tmp_path / "out", "--resume", "refinement.loss=mse") == 2
    said = capsys.readouterr().err
    assert "refinement.loss was poisson, is mse" in said
    assert (tmp_path / "out" / "result.yaml").read_text() == before


def test_another_image_is_refused(place, tmp_path, capsys):
    for name in ("config.yaml", "image.npz"):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    run(tmp_path, tmp_path / "out", "refinement.optimizer.max_iterations=2")
    image = np.load(tmp_path / "image.npz")["image"]
    image[60, 60] += 1
    np.savez(tmp_path / "image.npz", image=image)
    assert run(tmp_path, tmp_path / "out", "--resume") == 2
    assert "has changed" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_computed_again(place, reference, tmp_path):
    run(place, tmp_path / "out")
    for k, path in enumerate(sorted((tmp_path / "out" / FOLDER).glob("*.npz"))):
        path.write_bytes(path.read_bytes()[: 100 * k])
    assert run(place, tmp_path / "out", "--resume") == 0
    assert values(tmp_path / "out") == values(reference)


def test_a_new_run_leaves_nothing_of_the_old_checkpoint(place, tmp_path):
    run(place, tmp_path / "out", "refinement.optimizer={name: adam, max_iterations: 30}", "refinement.strategy=single")
    (tmp_path / "out" / f".{'0' * 32}.tmp").write_text("left by a killed run")
    assert len(list((tmp_path / "out" / FOLDER).glob("*.npz"))) > 25
    run(place, tmp_path / "out")
    assert len(list((tmp_path / "out" / FOLDER).glob("*.npz"))) < 25
    assert not list((tmp_path / "out").glob(".*.tmp"))


def test_every_kind_of_evaluation_is_told_apart(place):
    """The weights of another noise, other pixels and a smaller crystal make another evaluation at the same z."""
    from dataclasses import replace

    from refine.app.build import build_model, build_problem
    from refine.app.checkpoint import Checkpoint, RememberedProblem
    from refine.app.load import load_config
    from refine.problem.coarse import with_smaller_crystal

    config = load_config(place / "config.yaml")
    problem = RememberedProblem.keeping(
        build_problem(config, build_model(config)), Checkpoint(place / "none", config, False)
    )
    others = [
        replace(problem, pixels=problem.pixels[1:]),
        replace(problem, noise=problem.noise.informed(lambda mu, *_: torch.ones_like(mu))),
        with_smaller_crystal(problem, 0.5),
        replace(problem, restraints=("some",)),
    ]
    z = problem.space.zero()
    keys = {p._key(kind, (at,)) for p in (problem, *others) for kind in ("values", "jacobians") for at in (z, z + 1)}
    assert len(keys) == 4 * (1 + len(others))


def test_the_working_directory_does_not_matter(place, tmp_path, monkeypatch):
    run(place, tmp_path / "out", "refinement.optimizer.max_iterations=1")
    monkeypatch.chdir(tmp_path)
    arguments = ["run", os.path.relpath(place / "config.yaml"), "-o", "out", *FAR, "--resume"]
    assert main(arguments) == 0
