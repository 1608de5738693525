"""`refine run`: the whole way from a configuration to the results directory."""

import csv
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from cli import START, TRUTH, configuration, observed, result

import refine
from refine.app import run as run_module
from refine.app.main import main
from refine.app.results import with_esd, write_correlations


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    config = observed(directory)
    assert main(["run", str(config), "-o", str(directory / "out")]) == 0
    return directory


def test_recovers_the_truth_within_its_own_uncertainties(finished):
    found = result(finished / "out")
    assert found["status"] == "converged"
    value, esd, start = (np.array(found["cell"][k]) for k in ("value", "esd", "start"))
    assert np.abs(value - TRUTH["cell"]).max() < 0.2 * np.abs(start - TRUTH["cell"]).max()
    assert (np.abs(value - TRUTH["cell"]) < 4.5 * esd).all()
    misset = found["images"][0]["misset_deg"]
    assert (np.abs(np.array(misset["value"]) - TRUTH["misset_deg"]) < 4.5 * np.array(misset["esd"])).all()
    assert found["images"][0]["scale"]["value"] == pytest.approx(1, abs=5 * found["images"][0]["scale"]["esd"])
    assert found["loss"]["final"] < found["loss"]["initial"] - 100
    assert (
        abs(found["loss"]["reduced_deviance"] - found["loss"]["expected_deviance"])
        < 5 * found["loss"]["expected_deviance_sd"]
    )


def test_reports_starts_as_given(finished):
    found = result(finished / "out")
    assert found["cell"]["start"] == pytest.approx(START["cell"], abs=1e-12)
    assert found["images"][0]["misset_deg"]["start"] == pytest.approx(START["misset_deg"], abs=1e-12)


def test_a_matrix_is_that_of_cell_and_misset(finished):
    found = result(finished / "out")
    crystal = refine.build_model(refine.load_config(finished / "config.yaml")).crystal
    again = configuration(
        finished, {"cell": found["cell"]["value"], "misset_deg": found["images"][0]["misset_deg"]["value"]}
    )
    crystal = refine.build_model(refine.load_config(again)).crystal
    assert crystal.a_matrix.flatten().tolist() == pytest.approx(found["images"][0]["a_matrix"], abs=1e-12)
    configuration(finished, START)


def test_every_file_of_the_contract_is_there(finished):
    out = finished / "out"
    found = result(out)
    trace = list(csv.DictReader((out / "trace.csv").read_text().splitlines()))
    assert len(trace) == found["optimizer"]["iterations"] + 1 <= found["optimizer"]["jacobian_evaluations"]
    assert float(trace[-1]["loss"]) == found["loss"]["final"]
    assert float(trace[-1]["gamma"]) == pytest.approx(found["cell"]["value"][5], abs=1e-9)
    rows = list(csv.reader((out / "correlations.csv").read_text().splitlines()))
    matrix = np.array([row[1:] for row in rows[1:]], float)
    assert rows[0][1:] == [row[0] for row in rows[1:]]
    assert np.allclose(np.diag(matrix), 1)
    assert np.allclose(matrix, matrix.T)
    assert np.abs(matrix).max() <= 1 + 1e-12
    model = np.load(out / "model.npz")["image"]
    assert np.corrcoef(model.ravel(), np.load(finished / "image.npz")["image"].ravel())[0, 1] > 0.9
    assert (out / "refine.log").read_text().count("iteration ") == len(trace)
    as_given = ["refinement.strategy=auto", "refinement.stages=[]"]
    assert refine.load_config(out / "config.resolved.yaml", as_given) == refine.load_config(finished / "config.yaml")


def test_written_matrices_hold_the_refined_crystal(finished):
    found = result(finished / "out")
    matrix = np.array((finished / "out" / "A.mat").read_text().split()[:9], float).reshape(3, 3)
    assert matrix == pytest.approx(np.array(found["images"][0]["a_matrix"]).reshape(3, 3), abs=1e-9)
    crystal = json.loads((finished / "out" / "refined.expt").read_text())["crystal"][0]
    edges = [np.linalg.norm(crystal[f"real_space_{axis}"]) for axis in "abc"]
    assert edges == pytest.approx(found["cell"]["value"][:3], abs=1e-9)


def test_the_same_case_through_python_gives_the_same_bits(finished):
    config = refine.load_config(finished / "config.yaml", ["refinement.strategy=single"])
    setup = refine.build_model(config)
    problem = refine.build_problem(config, setup)
    solution = refine.solve(problem, refine.LevenbergMarquardt(), problem.space.zero())
    outcome = refine.conclude(problem, solution, setup.misset_deg)
    command = ["run", str(finished / "config.yaml"), "-o", str(finished / "single"), "refinement.strategy=single"]
    assert main(command) == 0
    assert outcome.estimates["cell"].value.tolist() == result(finished / "single")["cell"]["value"]


def test_two_runs_give_the_same_result(finished):
    for name in ("first", "second"):
        assert main(["run", str(finished / "config.yaml"), "-o", str(finished / name), "output.report=true"]) == 0
    timed = {"result.yaml", "report.html", "trace.csv", "refine.log"}  # seconds and dates; the rest is the same bytes
    written = {path.name for path in (finished / "first").iterdir() if path.is_file()}
    assert len(written - timed) > 6
    for file in written - timed:
        assert (finished / "first" / file).read_bytes() == (finished / "second" / file).read_bytes(), file
    lines = [(finished / name / "result.yaml").read_text().splitlines() for name in ("first", "second")]
    differing = {one.split(":")[0].strip() for one, other in zip(*lines, strict=True) if one != other}
    assert differing <= {"wall_seconds", "started"}
    first, second = (result(finished / name) for name in ("first", "second"))
    for found in (first, second):
        del found["wall_seconds"], found["provenance"]["started"]
    assert first == second


def test_strategies_and_solvers_agree(finished):
    answers = []
    for name, settings in (
        ("auto", []),
        ("single", ["refinement.strategy=single"]),
        ("adam", ["refinement.optimizer={name: adam, max_iterations: 400}"]),
    ):
        assert main(["run", str(finished / "config.yaml"), "-o", str(finished / name), *settings]) == 0
        answers.append(result(finished / name))
    assert answers[2]["optimizer"]["gradient_evaluations"] > 50
    for found in answers[1:]:
        shift = np.abs(np.array(found["cell"]["value"]) - answers[0]["cell"]["value"])
        assert (shift < 0.03 * np.array(answers[0]["cell"]["esd"])).all()


def test_every_parameter_at_once(tmp_path):
    free = "cell, orientation, scale, cells, mosaic, b_factor, beam_center, detector_rotations, background"
    crystal = {
        "mosaic": {"spread_deg": 0.4, "domains": 3},
        "b_factor": 5.0,
        "scan": {"phi0": 1, "osc": 0.5, "steps": 2},
    }
    config = observed(
        tmp_path, crystal=crystal | {"orientation": {"misset_deg": TRUTH["misset_deg"]}}, beam={"fluence": 1e29}
    )
    config = configuration(
        tmp_path, START, crystal=crystal | {"orientation": {"misset_deg": START["misset_deg"]}}, beam={"fluence": 1e29},
    )  # fmt: skip
    assert main(["run", str(config), "-o", str(tmp_path / "out"), f"refinement.free=[{free}]"]) == 0
    image = result(tmp_path / "out")["images"][0]
    for name in ("cells", "mosaic", "b_factor", "beam_center", "detector_rotations", "background", "scale"):
        value, start, esd = (np.atleast_1d(image[name][key]) for key in ("value", "start", "esd"))
        assert (esd > 0).all(), name
        assert (np.abs(value - start) < 5 * esd).all(), name  # they start at the truth
        assert (value != start).all(), name


def test_symmetry_ties_values_and_esds(tmp_path):
    truth = {"cell": [50.0, 50.0, 70.0, 90.0, 90.0, 120.0], "misset_deg": [12.0, -25.0, 33.0]}
    config = configuration(tmp_path, truth, crystal={"cell": truth["cell"], "space_group": "P 6"})
    assert main(["simulate", str(config), "-o", str(tmp_path / "image.npz"), "--noise"]) == 0
    assert main(["run", str(config), "-o", str(tmp_path / "out"), "crystal.cell=[50.1, 50.1, 69.9, 90, 90, 120]"]) == 0
    cell = result(tmp_path / "out")["cell"]
    assert cell["value"][0] == pytest.approx(cell["value"][1], abs=1e-10)
    assert cell["value"][3:] == pytest.approx([90, 90, 120], abs=1e-10)
    assert cell["esd"][3:] == [0, 0, 0]
    assert cell["esd"][0] == pytest.approx(cell["esd"][1])
    assert 0 < cell["esd"][0] < 0.1


def test_fixed_parameters_are_reported_without_esd(finished):
    command = ["run", str(finished / "config.yaml"), "-o", str(finished / "fixed"), "refinement.free=[orientation]"]
    main([*command, "refinement.strategy=single"])
    found = result(finished / "fixed")
    assert found["cell"]["value"] == found["cell"]["start"] == pytest.approx(START["cell"])
    assert found["cell"]["esd"] == [None] * 6
    assert found["images"][0]["scale"] == {"start": 1.0, "value": 1.0, "esd": None}


def test_a_restraint_holds_the_cell(finished):
    restraint = f"refinement.restraints.cell={{target: {START['cell']}, sigma: {[1e-5] * 6}}}"
    main(["run", str(finished / "config.yaml"), "-o", str(finished / "held"), restraint])
    found = result(finished / "held")["cell"]
    assert found["value"] == pytest.approx(START["cell"], abs=2e-4)
    assert max(found["esd"]) < 1.1e-5


RESTRAINABLE = {
    "orientation": ("[12.1, -25.1, 33.1]", [12.1, -25.1, 33.1], "misset_deg"),
    "scale": ("1.02", 1.02, "scale"),
    "cells": ("[6.2, 6.1, 6.0]", [6.2, 6.1, 6.0], "cells"),
    "distance": ("60.1", 60.1, "distance"),
    "beam_center": ("[32.6, 30.9]", [32.6, 30.9], "beam_center"),
    "background": ("3.1", 3.1, "background"),
    "b_factor": ("0.5", 0.5, "b_factor"),
}


@pytest.mark.parametrize("name", RESTRAINABLE)
def test_any_parameter_can_be_restrained(finished, name):
    """A tight restraint moves the value to its target and is its esd."""
    target, wanted, key = RESTRAINABLE[name]
    sigma = "1.0e-4" if not target.startswith("[") else [1e-4] * len(wanted)
    free = list(dict.fromkeys(["cell", "orientation", "scale", name]))
    settings = [f"refinement.restraints.{name}={{target: {target}, sigma: {sigma}}}", f"refinement.free={free}"]
    main(["run", str(finished / "config.yaml"), "-o", str(finished / name), *settings, "refinement.strategy=single"])
    found = result(finished / name)["images"][0][key]
    assert np.array(found["value"]) == pytest.approx(np.array(wanted), abs=5e-3)
    assert np.max(found["esd"]) < 1.2e-4


def test_gaussian_noise_with_gain_offset_and_readout(tmp_path):
    detector = {"gain": 2.5, "offset": 30.0, "readout_noise": 4.0}
    config = observed(tmp_path, detector=detector, refinement={"loss": "gaussian"})
    assert main(["run", str(config), "-o", str(tmp_path / "out")]) == 0
    found = result(tmp_path / "out")
    assert (np.abs(np.array(found["cell"]["value"]) - TRUTH["cell"]) < 4.5 * np.array(found["cell"]["esd"])).all()
    assert found["loss"]["reduced_deviance"] == pytest.approx(1, abs=0.1)


def test_masked_and_saturated_pixels_do_not_count(finished, tmp_path):
    image = np.load(finished / "image.npz")["image"]
    hot = image.copy()
    hot[10:14, 20:24] = 1e6
    np.savez(tmp_path / "image.npz", image=hot)
    mask = np.ones(image.shape)
    mask[10:14, 20:24] = 0
    np.save(tmp_path / "mask.npy", mask)
    config = str(configuration(tmp_path, START))
    assert main(["run", config, "-o", str(tmp_path / "masked"), "images.0.mask=mask.npy"]) == 0
    assert main(["run", config, "-o", str(tmp_path / "saturated"), "detector.saturation=900000"]) == 0
    masked, saturated = (result(tmp_path / name) for name in ("masked", "saturated"))
    assert masked["loss"]["pixels_used"] == saturated["loss"]["pixels_used"] == image.size - 16
    assert masked["cell"] == saturated["cell"]


def test_resolution_limits_choose_pixels(finished):
    used = []
    for limits in ("{}", "{min: 3.5}", "{max: 6}", "{min: 3.5, max: 6}"):
        out = finished / "limits"
        main(["run", str(finished / "config.yaml"), "-o", str(out), f"refinement.resolution={limits}"])
        used.append(result(out)["loss"]["pixels_used"])
    everything, low, high, both = used
    assert both == low + high - everything
    assert 0 < both < low < everything


def test_float32_is_within_a_small_part_of_an_esd(finished):
    assert main(["run", str(finished / "config.yaml"), "-o", str(finished / "f32"), "dtype=float32"]) == 0
    single, double = result(finished / "f32"), result(finished / "out")
    shift = np.abs(np.array(single["cell"]["value"]) - double["cell"]["value"])
    assert (shift < 0.1 * np.array(double["cell"]["esd"])).all()
    assert single["loss"]["final"] != double["loss"]["final"]


def test_too_few_iterations_exit_1_and_leave_a_result(finished):
    command = ["run", str(finished / "config.yaml"), "-o", str(finished / "short"), "refinement.strategy=single"]
    assert main([*command, "refinement.optimizer.max_iterations=1"]) == 1
    assert result(finished / "short")["status"] == "max_iterations"


def test_a_model_that_does_not_explain_the_image_is_said_to(finished, capsys):
    main(["run", str(finished / "config.yaml"), "-o", str(finished / "wrong"), "crystal.cells=[3, 3, 3]"])
    assert "WARNING: the deviance per pixel is" in capsys.readouterr().out


def test_an_interrupt_writes_the_best_answer_and_exits_130(finished, monkeypatch):
    @dataclass(frozen=True)
    class Impatient(refine.LevenbergMarquardt):
        def step(self, problem, z, state):
            if problem.counts.jacobians >= 2:
                raise KeyboardInterrupt
            return super().step(problem, z, state)

    monkeypatch.setattr(run_module, "make_solver", lambda *_: Impatient())
    assert main(["run", str(finished / "config.yaml"), "-o", str(finished / "stopped")]) == 130
    found = result(finished / "stopped")
    assert found["status"] == "interrupted"
    assert found["loss"]["final"] < found["loss"]["initial"]


@pytest.mark.parametrize(
    ("value", "esd", "text"),
    [
        (68.071, 0.021, "68.07(2)"),
        (68.0712, 0.0014, "68.0712(14)"),
        (90.0, 0.0, "90.0000"),
        (68.07, None, "68.0700"),
        (1234.6, 12.3, "1235(12)"),
        (5.0, 0.0996, "5.00(10)"),
    ],
)
def test_esd_notation(value, esd, text):
    assert with_esd(value, esd) == text


def test_thread_count_is_honoured(finished):
    before = torch.get_num_threads()
    try:
        main(["run", str(finished / "config.yaml"), "-o", str(finished / "one"), "threads=1"])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert yaml.safe_load((finished / "one" / "config.resolved.yaml").read_text())["threads"] == 1


@pytest.mark.parametrize("stage", ["refine_image", "require_refinable"])
def test_an_interrupt_before_the_first_iteration_is_said_and_kept(finished, monkeypatch, stage):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, stage, stop)
    assert main(["run", str(finished / "config.yaml"), "-o", str(finished / stage)]) == 130
    found = result(finished / stage)
    assert found["status"] == "interrupted"
    assert found["cell"]["value"] == pytest.approx(START["cell"])
    assert found["cell"]["esd"] == [None] * 6
    assert found["loss"]["final"] is None


def test_an_interrupt_inside_the_search_for_a_start_is_not_swallowed(finished, monkeypatch):
    from refine.problem import centroids

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(centroids.CentroidProblem, "quadratic", stop)
    by_spots = ["refinement.strategy=stages", "refinement.stages=[{stage: indexing}, {stage: pixels}]"]
    assert main(["run", str(finished / "config.yaml"), "-o", str(finished / "searching"), *by_spots]) == 130


def test_an_earlier_result_is_set_aside(finished):
    command = ["run", str(finished / "config.yaml"), "-o", str(finished / "again")]
    main(command)
    first = result(finished / "again")
    main([*command, "title=second"])
    previous = yaml.safe_load((finished / "again" / "result.previous.yaml").read_text())
    assert previous == first
    assert result(finished / "again")["provenance"]["config_sha256"] != first["provenance"]["config_sha256"]


def test_warnings_are_in_the_result(finished):
    main(["run", str(finished / "config.yaml"), "-o", str(finished / "warned"), "crystal.cells=[3, 3, 3]"])
    assert any("does not explain the image" in warning for warning in result(finished / "warned")["warnings"])
    assert result(finished / "out")["warnings"] == []


def test_a_still_off_phi_zero_is_written_as_it_stood(tmp_path):
    scan = {"scan": {"phi0": 30.0}, "cell": TRUTH["cell"], "orientation": {"misset_deg": TRUTH["misset_deg"]}}
    config = observed(tmp_path, crystal=scan)
    config = configuration(tmp_path, START, crystal=scan)
    assert main(["run", str(config), "-o", str(tmp_path / "out")]) == 0
    expt = json.loads((tmp_path / "out" / "refined.expt").read_text())
    assert not expt["scan"]
    written = np.array([expt["crystal"][0][f"real_space_{axis}"] for axis in "abc"])
    at_zero = np.linalg.inv(np.array(result(tmp_path / "out")["images"][0]["a_matrix"]).reshape(3, 3))
    turn = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # the MOSFLM frame in that of DIALS
    phi = np.radians(30)
    about_z = np.array([[np.cos(phi), -np.sin(phi), 0], [np.sin(phi), np.cos(phi), 0], [0, 0, 1]])
    assert written == pytest.approx(at_zero @ about_z.T @ turn.T, abs=1e-9)


def test_output_that_nobody_reads_does_not_stop_a_run(finished):
    command = f"{sys.executable} -m refine run {finished / 'config.yaml'} -o {finished / 'piped'} | head -1"
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert result(finished / "piped")["status"] == "converged"


def test_correlations_are_of_what_moves_by_itself(tmp_path):
    whole = torch.tensor([[1.0, 1.0, 0.3, 0.0], [1.0, 1.0, 0.3, 0.0], [0.3, 0.3, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    write_correlations(tmp_path / "c.csv", ("a", "b", "c", "alpha"), whole.double())
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == ["", "a", "c"]
    assert np.array([row[1:] for row in rows[1:]], float) == pytest.approx(np.array([[1, 0.3], [0.3, 1]]))
