"""Whatever a file holds: an exit code, a message, no traceback, no hang, little memory, nothing overwritten."""

import contextlib
import io
import os
import random
import resource
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from fuzz import SETTINGS, lay_out, spoil, words

from refine.app.main import main

SECONDS, MEMORY = 20.0, 2e9
ADDRESSES = 12 << 30  # bytes, so that an input that asks for all memory takes it from nobody else
EACH = 90  # damaged files of each kind in the long form


def attempt(folder: Path, name: str, number: int) -> str | None:
    """Damage one file, run, put it back; what went wrong, or None."""
    original = (folder / name).read_bytes()
    (folder / name).write_bytes(spoil(name, original, random.Random(f"{name} {number}")))
    before, began = snapshot(folder), time.perf_counter()
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = main(words(folder, name))
    except BaseException as error:
        return f"{name} {number}: {type(error).__name__}: {error}"[:500]
    finally:
        seconds, after = time.perf_counter() - began, snapshot(folder)
        (folder / name).write_bytes(original)
    said = errors.getvalue()
    faults = [
        (code not in (0, 1, 2), f"exit code {code}"),
        (code == 2 and not said.startswith("refine: "), f"said {said[:100]!r}"),
        ("Traceback" in said or "Warning" in said, said[:300]),
        (seconds > SECONDS, f"{seconds:.0f} s"),
        (code == 2 and after != before, f"files changed: {sorted(set(after.items()) ^ set(before.items()))[:3]}"),
        ((folder / "built_by_yaml").exists() or Path("built_by_yaml").exists(), "YAML ran a program"),
    ]
    wrong = [text for is_so, text in faults if is_so]
    return f"{name} {number}: {'; '.join(wrong)}" if wrong else None


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ready(folder: Path) -> Path:
    lay_out(folder)
    (folder / "out").mkdir()
    (folder / "out" / "result.yaml").write_text("an earlier result")
    return folder


@pytest.mark.parametrize("name", SETTINGS)
def test_the_undamaged_file_is_read(tmp_path, name):
    ready(tmp_path)
    assert main(words(tmp_path, name)) in (0, 1)


@pytest.mark.parametrize("name", SETTINGS)
def test_damage_is_answered_with_a_message(tmp_path, name):
    folder = ready(tmp_path)
    for number in range(24 if name.endswith(".yaml") else 8):
        assert (found := attempt(folder, name, number)) is None, found
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY


def work(folder: str, name: str, first: int, found: object) -> None:
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    for number in range(first, first + EACH):
        if wrong := attempt(Path(folder), name, number):
            found.put(wrong)  # type: ignore[attr-defined]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found.put(f"peak {peak}" if peak > MEMORY else "")  # type: ignore[attr-defined]


@pytest.mark.slow
def test_over_a_thousand_damaged_inputs(tmp_path):
    """A process a kind, in which any crash, hang or hunger for memory shows."""
    context, wrong = get_context("spawn"), []
    for name in SETTINGS:
        found = context.Queue()
        process = context.Process(target=work, args=(str(ready(tmp_path / name)), name, 1000, found))
        process.start()
        while (said := found.get(timeout=SECONDS * EACH)) and not said.startswith("peak"):
            wrong.append(said)
        process.join()
        wrong += [said] if said else []
        assert process.exitcode == 0
    assert EACH * len(SETTINGS) > 1000
    assert not wrong, "\n".join(wrong)
