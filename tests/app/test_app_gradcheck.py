"""`refine gradcheck`, and what decides over compilation."""

import contextlib
import functools
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from cli import TRUTH, configuration, observed, result

import refine
from refine.app.compilation import COMPILERS, DISABLE, WORTHWHILE, decide_compilation
from refine.app.main import main
from refine.physics import tile_sums
from refine.physics.fused import fused_interference
from refine.physics.tile_sums import Execution

HAS_COMPILER = any(map(shutil.which, COMPILERS))
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def no_compiler_calls(monkeypatch):
    """Any use of the compile entry point fails."""

    def refuse(*_, **__):
        raise AssertionError("torch.compile was called")

    tile_sums._compiled_terms.cache_clear()
    monkeypatch.setattr(torch, "compile", refuse)
    yield
    tile_sums._compiled_terms.cache_clear()


def checked(*arguments):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(["gradcheck", *map(str, arguments)])
    return code, said.getvalue()


def test_reports_table_json_and_junit(tmp_path):
    config = configuration(tmp_path, TRUTH)
    code, said = checked(config, "--json", tmp_path / "g.json", "--junit", tmp_path / "g.xml", "--order", "both")
    assert code == 0
    assert said.rstrip().endswith("PASSED")
    record = json.loads((tmp_path / "g.json").read_text())
    labels = [row["label"] for row in record["rows"]]
    assert labels == ["a", "b", "c", "alpha", "beta", "gamma", "misset_x", "misset_y", "misset_z", "scale"]
    assert all(f"\n{label} " in said for label in labels)
    for row in record["rows"]:
        assert row["first_error"] < 1e-6
        assert row["second_error"] < 1e-5
        assert abs(row["first_slope"] - 2) < 0.1
        assert abs(row["second_slope"] - 3) < 0.15
        assert row["column_norm"] > 0
    suite = ElementTree.parse(tmp_path / "g.xml").getroot()
    assert suite.get("failures") == "0"
    assert int(suite.get("tests")) == len(suite) == len(labels) + 1


def test_order_1_leaves_second_derivatives_out(tmp_path):
    code, said = checked(configuration(tmp_path, TRUTH), "--order", "1")
    assert code == 0
    assert "second order" not in said


def test_zero_structure_factors_fail_and_say_why(tmp_path):
    (tmp_path / "zero.hkl").write_text("1 2 3 0.0\n")
    config = configuration(tmp_path, TRUTH)
    code, said = checked(config, "structure_factors={file: zero.hkl}", "--junit", tmp_path / "g.xml")
    assert code == 1
    assert "are all structure factors 0?" in said
    assert ElementTree.parse(tmp_path / "g.xml").getroot().get("failures") == "1"


def test_a_wrong_derivative_fails_by_name(tmp_path, monkeypatch):
    right = tile_sums._by_real_space
    monkeypatch.setattr(tile_sums, "_by_real_space", lambda *given: 1.001 * right(*given))
    code, said = checked(configuration(tmp_path, TRUTH))
    assert code == 1
    assert "FAILED alpha: first derivative" in said
    assert "FAILED misset_x: first derivative" in said
    assert "FAILED scale:" not in said


def test_wrong_configuration_is_exit_2(tmp_path):
    assert checked(tmp_path / "none.yaml")[0] == 2


SHIPPED = sorted(path.name for path in CONFIGS.glob("*.yaml") if not path.name.startswith("benchmark_"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_passes(name):
    code, said = checked(CONFIGS / name)
    assert code == 0, said


def test_the_check_never_compiles(tmp_path, no_compiler_calls, monkeypatch):
    monkeypatch.delenv(DISABLE, raising=False)
    assert checked(configuration(tmp_path, TRUTH, compile=True), "--order", "1")[0] == 0


def test_the_environment_wins_at_call_time(tmp_path, no_compiler_calls, monkeypatch):
    config = observed(tmp_path)
    monkeypatch.setenv(DISABLE, "1")
    assert main(["run", str(config), "-o", str(tmp_path / "out"), "compile=true"]) == 0
    monkeypatch.setenv(DISABLE, "0")
    if HAS_COMPILER:
        with pytest.raises(AssertionError, match=r"torch\.compile was called"):
            main(["run", str(config), "-o", str(tmp_path / "out"), "compile=true"])


@pytest.mark.parametrize(
    ("setting", "environment", "steps", "compiler", "wanted"),
    [
        (True, None, 1, True, True),
        (True, "1", 1, True, False),
        (True, "0", 1, True, True),
        (False, None, 1e12, True, False),
        ("auto", None, 1e5, True, False),
        ("auto", None, 1e9, True, True),
        ("auto", "1", 1e9, True, False),
        (True, None, 1, False, False),
    ],
)
def test_decision(setting, environment, steps, compiler, wanted, monkeypatch):
    monkeypatch.delenv(DISABLE, raising=False)
    if environment is not None:
        monkeypatch.setenv(DISABLE, environment)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/c++" if compiler else None)
    compiled, note = decide_compilation(setting, steps)
    assert compiled is wanted
    assert (note is not None) == (setting is True and not compiler)
    assert WORTHWHILE > 0


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")
def test_compiled_derivatives_are_exact_to_second_order(tmp_path, monkeypatch):
    monkeypatch.delenv(DISABLE, raising=False)
    crystal = {"mosaic": {"spread_deg": 0.4, "domains": 3}}
    truth = {"crystal": crystal | {"cell": TRUTH["cell"], "orientation": {"misset_deg": TRUTH["misset_deg"]}}}
    config = refine.load_config(observed(tmp_path, **truth), ["compile=true", "detector.oversample=2"])
    compiled = refine.build_problem(config, refine.build_model(config))
    calls = []
    real = torch.compile
    tile_sums._compiled_terms.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda f, **options: (calls.append(f), real(f, **options))[1])
    eager = replace(compiled, interference=functools.partial(fused_interference, how=Execution()))
    z = compiled.space.zero() + 0.01
    v = torch.linspace(-1, 1, len(z), dtype=z.dtype)
    for ask in (
        lambda p: p.loss(z),
        lambda p: p.loss_and_gradient(z)[1],
        lambda p: p.quadratic(z).curvature,
        lambda p: p.curvature_product(z, v),
    ):
        expected = ask(eager)
        assert float((ask(compiled) - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    assert calls == [tile_sums._step_terms]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")
def test_compiled_run_gives_the_same_answer(tmp_path, monkeypatch):
    monkeypatch.delenv(DISABLE, raising=False)
    config = observed(tmp_path)
    for name in ("true", "false"):
        assert main(["run", str(config), "-o", str(tmp_path / name), f"compile={name}"]) == 0
    one, other = (result(tmp_path / name)["cell"]["value"] for name in ("true", "false"))
    assert one == pytest.approx(other, abs=1e-8)
