"""The ways a refinement takes from its start."""

import numpy as np
import pytest
import yaml
from cli import TRUTH, configuration, observed, result

import refine
from refine.app.config_refinement import Stage
from refine.app.main import main
from refine.app.strategy import INDEXING, SPOTS, WHOLE, WIDE, refine_image
from refine.solvers.loop import Stop
from refine.solvers.solution import Status

FINE = {
    "beam": {"wavelength": 1.0, "fluence": 5e26},
    "detector": {"distance": 60.0, "pixel_size": 0.25, "size": [192, 192], "beam_center_px": [96.0, 95.0]},
    "crystal": {"cells": [12, 10, 9]},
}
NEAR = {"cell": [40.05, 49.95, 60.1, 80.05, 94.95, 105.05], "misset_deg": [12.03, -25.03, 33.03]}
FAR = {"cell": [41.4, 48.6, 61.8, 81.5, 93.8, 106.5], "misset_deg": [13.5, -26.5, 34.5]}
LOST = {"cell": [46.0, 45.0, 68.0, 86.0, 90.0, 99.0], "misset_deg": [40.0, 10.0, -20.0]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("strategy")
    changes = {
        **FINE,
        "crystal": {"cell": TRUTH["cell"], "orientation": {"misset_deg": TRUTH["misset_deg"]}, **FINE["crystal"]},
    }
    observed(directory, **changes)
    return directory


def problem_from(directory, start):
    crystal = {"cell": start["cell"], "orientation": {"misset_deg": start["misset_deg"]}, **FINE["crystal"]}
    config = refine.load_config(configuration(directory, start, **{**FINE, "crystal": crystal}))
    return refine.build_problem(config, refine.build_model(config))


def error(problem, refined):
    return np.abs(problem.space.physical(refined.solution.z)[:6].numpy() - TRUTH["cell"]).max()


@pytest.mark.parametrize(
    ("start", "stages"), [(NEAR, (SPOTS, WHOLE)), (FAR, (INDEXING, SPOTS, WHOLE))], ids=["near", "far"]
)
def test_the_start_decides_the_way(place, start, stages):
    problem, said = problem_from(place, start), []
    found = refine_image(problem, say=said.append)
    assert found.stages == stages
    assert found.solution.status is Status.CONVERGED
    assert error(problem, found) < 0.1
    assert "spots, the start has photons for" in said[0]
    assert found.given_loss > float(found.solution.quadratic.value) + 1000


def test_an_unfinished_answer_that_explains_the_spots_is_not_begun_anew(place):
    problem, tried = problem_from(place, NEAR), []
    stop = Stop(max_iterations=1, shift=1e-9)
    found = refine_image(problem, stop=stop, observe=lambda record: tried.append(record.iteration))
    assert found.solution.status is Status.MAX_ITERATIONS
    assert found.evidence.convincing
    assert tried == [0, 1]


def test_from_far_the_image_alone_leads_nowhere_and_is_not_believed(place):
    problem = problem_from(place, FAR)
    found = refine_image(problem, strategy="single")
    assert error(problem, found) > 0.5
    assert found.solution.status is not Status.CONVERGED


def test_when_lost_every_way_is_tried_and_the_best_is_not_believed(place):
    problem, said = problem_from(place, LOST), []
    found = refine_image(problem, stop=Stop(max_iterations=60), say=said.append)
    assert found.solution.status in (Status.FALSE_MINIMUM, Status.MAX_ITERATIONS, Status.STALLED)
    assert found.evidence.explained < 0.5
    assert sum("photons in" in line or "iterations" in line for line in said) >= 2


def test_a_false_minimum_exits_1_and_says_what_to_do(place, capsys):
    crystal = {"cell": FAR["cell"], "orientation": {"misset_deg": FAR["misset_deg"]}, **FINE["crystal"]}
    path = configuration(place, FAR, **{**FINE, "crystal": crystal})
    few = ["refinement.strategy=single", "refinement.optimizer.max_iterations=300"]
    assert main(["run", str(path), "-o", str(place / "false"), *few]) == 1
    found = result(place / "false")
    assert found["status"] == "false_minimum"
    assert "spots" in found["reason"]
    assert "do not use this answer" in capsys.readouterr().out


def test_wide_stages_widen_the_reach_of_the_image(place):
    start = {"cell": [40.3, 49.6, 60.5, 80.0, 95.0, 105.0], "misset_deg": [12.3, -25.3, 33.3]}
    problem = problem_from(place, start)
    found = refine_image(problem, strategy="stages", stages=[*WIDE, WHOLE])
    assert found.solution.status is Status.CONVERGED
    assert error(problem, found) < 0.1


def test_the_stages_taken_are_data_and_repeat_the_run(place):
    crystal = {"cell": FAR["cell"], "orientation": {"misset_deg": FAR["misset_deg"]}, **FINE["crystal"]}
    path = configuration(place, FAR, **{**FINE, "crystal": crystal})
    assert main(["run", str(path), "-o", str(place / "first")]) == 0
    resolved = place / "first" / "config.resolved.yaml"
    stages = yaml.safe_load(resolved.read_text())["refinement"]["stages"]
    assert [stage["stage"] for stage in stages] == ["indexing", "pixels", "pixels"]
    assert main(["run", str(resolved), "-o", str(place / "second")]) == 0
    first, second = (result(place / name) for name in ("first", "second"))
    assert first["cell"] == second["cell"]
    assert first["loss"]["final"] == second["loss"]["final"]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("[]", "a list of stages with strategy 'stages'"),
        ("[{stage: indexing}]", "of which the last is {stage: pixels}"),
        ("[{stage: pixels, cells_factor: 0.5}]", "of which the last is {stage: pixels}"),
        (
            "[{stage: indexing, cells_factor: 0.5}, {stage: pixels}]",
            "pixels where cells_factor, spots_only or max_iterations",
        ),
        ("[{stage: pixel}]", "did you mean 'pixels'?"),
        ("[{stage: pixels, cells_facto: 0.5}, {stage: pixels}]", "did you mean 'cells_factor'?"),
        ("[{stage: pixels, cells_factor: 2.0}, {stage: pixels}]", "at most 1"),
    ],
)
def test_wrong_strategies_are_explained(place, capsys, strategy, expected):
    path = configuration(place, NEAR)
    assert main(["validate", str(path), "refinement.strategy=stages", f"refinement.stages={strategy}"]) == 2
    assert expected in capsys.readouterr().err


def test_only_the_last_stage_is_whole():
    assert WHOLE.whole
    assert not any(stage.whole for stage in (INDEXING, SPOTS, *WIDE))
    assert Stage.model_validate({"stage": "pixels"}) == WHOLE
