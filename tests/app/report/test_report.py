"""report.html: rebuilt from files alone, self-contained, true to the numbers."""

import base64
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from cli import configuration, observed, result

from refine.app.main import main
from refine.app.report.page import VERDICTS, near_degenerate
from refine.app.report.source import read_run
from refine.solvers.solution import Status

CUBIC = {"cell": [40.0, 40.0, 60.0, 90.0, 90.0, 90.0], "misset_deg": [12.0, -25.0, 33.0]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    config = observed(directory, title="<b>5 & 6</b>", output={"report": True})
    assert main(["run", str(config), "-o", str(directory / "out")]) == 0
    return directory / "out"


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "elsewhere")


def page(directory):
    return (directory / "report.html").read_text(encoding="utf-8")


def test_page_needs_nothing_else(finished):
    text = page(finished)
    assert (finished / "report.html").stat().st_size < 5e6
    sources = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    assert len(sources) > 15
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"<script|@import|url\(|https?:", text)
    for source in sources[1:]:
        assert b"<image" not in (drawn := base64.b64decode(source.partition(",")[2])) or b'"data:image/png' in drawn


def test_text_of_the_user_is_text(finished):
    assert "<h1>&lt;b&gt;5 &amp; 6&lt;/b&gt;</h1>" in page(finished)


def test_page_holds_the_numbers_of_the_run(finished):
    text, found = page(finished), result(finished)
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))
    assert f"Converged: {found['reason']}" in re.sub(r" +(?=:)", "", plain)
    for value in (found["provenance"]["config_sha256"], found["provenance"]["torch"], "seed 0", "esd, below 0.01"):
        assert value in plain
    for heading in ("Parameters", "Convergence", "Agreement", "explained best", "explained worst", "Correlations"):
        assert heading in plain


def test_rebuilding_from_files_alone_gives_the_same_bytes(copied):
    before = page(copied)
    (copied / "report.html").unlink()
    assert main(["report", str(copied)]) == 0
    assert page(copied) == before


@pytest.mark.parametrize("missing", ["observed.npz", "refined.expt", "trace.csv", "correlations.csv", "parameters.csv"])
def test_what_is_missing_is_left_out(copied, missing):
    before = page(copied)
    (copied / missing).unlink()
    assert main(["report", str(copied)]) == 0
    assert len(page(copied)) < len(before)


@pytest.mark.parametrize("name", ["result.yaml", "model.npz", "observed.npz", "refined.expt", "correlations.csv"])
def test_damaged_files_are_named(copied, name, capsys):
    before = page(copied)
    (copied / name).write_bytes((copied / name).read_bytes()[:40] + b"\xff{[")
    assert main(["report", str(copied)]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert "Traceback" not in said
    assert page(copied) == before


def test_a_directory_without_result_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "result.yaml" in capsys.readouterr().err


def test_table_of_parameters_knows_ties_and_limits(tmp_path):
    config = observed(tmp_path, crystal={"space_group": "P 4", "cell": CUBIC["cell"]})
    config = configuration(tmp_path, CUBIC, crystal={"space_group": "P 4"})
    assert main(["simulate", str(config), "-o", str(tmp_path / "image.npz"), "--noise"]) == 0
    assert main(["run", str(config), "-o", str(tmp_path / "out"), "refinement.free=[cell, scale]"]) == 0
    run = read_run(tmp_path / "out")
    rows = {row.name: row for row in run.parameters}
    states = {name: row.state for name, row in rows.items()}
    assert states == {"a": "refined", "b": "tied to a", "c": "refined", "alpha": "by symmetry", "beta": "by symmetry",
                      "gamma": "by symmetry", "misset_x": "fixed", "misset_y": "fixed", "misset_z": "fixed",
                      "scale": "refined"}  # fmt: skip
    assert (rows["a"].lower, rows["a"].upper) == (pytest.approx(32.0), pytest.approx(48.0))
    assert np.isnan(rows["misset_x"].lower)
    assert rows["a"].shift_over_esd == pytest.approx((rows["a"].value - 40) / rows["a"].esd)
    assert not any({"a", "b"} == {one, other} for one, other, _ in near_degenerate(run))


def test_near_degenerate_pairs_are_named(copied):
    names = read_run(copied).correlated
    matrix = np.eye(len(names))
    matrix[2, 0] = matrix[0, 2] = -0.99
    lines = [",".join(["", *names]), *(",".join([n, *map(str, row)]) for n, row in zip(names, matrix, strict=True))]
    (copied / "correlations.csv").write_text("\n".join(lines) + "\n")
    assert near_degenerate(read_run(copied)) == [("a", "c", -0.99)]
    assert main(["report", str(copied)]) == 0
    assert "a and c: -0.9900" in page(copied)


def test_offsets_of_single_reflections_are_drawn(copied):
    rows = [
        "image,h,k,l,panel,x_model_px,y_model_px,x_obs_px,y_obs_px,amplitude,amplitude_esd,background,score,holdout"
    ]
    rows += [f"0,1,2,{k},0,{10 + k}.5,{20 + k}.0,{10 + k}.25,{20 + k}.0,1,1,1,1,False" for k in range(20)]
    (copied / "reflections.csv").write_text("\n".join([*rows, "0,1,2,99,0,1,1,,,1,1,1,1,True"]) + "\n")
    assert main(["report", str(copied)]) == 0
    assert "reflections.csv, 20 spots: r.m.s. 0.250 (fast), 0.000 (slow) pixels, mean +0.250" in page(copied)


def test_every_status_has_a_verdict():
    assert set(VERDICTS) == {status.value for status in Status}


def test_a_report_that_fails_leaves_the_answer(finished, tmp_path, monkeypatch, capsys):
    def fail(_):
        raise ValueError("no ink")

    monkeypatch.setattr("refine.app.report.page.write_report", fail)
    config = finished.parent / "config.yaml"
    assert main(["run", str(config), "-o", str(tmp_path / "out"), "output.report=true"]) == 0
    assert "no report.html (no ink)" in capsys.readouterr().out
    assert result(tmp_path / "out")["cell"] == result(finished)["cell"]


def test_nothing_is_drawn_before_there_is_something_to_show():
    code = "import sys, refine.app.run, refine.app.main; assert not {'matplotlib', 'jinja2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_comparison_of_two_runs(finished, tmp_path, capsys):
    config = finished.parent / "config.yaml"
    assert main(["run", str(config), "-o", str(tmp_path / "out"), "refinement.free=[cell, orientation]"]) == 0
    target = tmp_path / "both.html"
    assert main(["report", str(finished), str(tmp_path / "out"), "-o", str(target)]) == 0
    text = target.read_text(encoding="utf-8")
    assert str(target) in capsys.readouterr().out
    assert "refinement.free" in text
    assert "optimizer.name" not in text
    assert text.count('<p class="verdict') == 2
    assert "<script" not in text
