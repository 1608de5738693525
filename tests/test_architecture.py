"""The shape of the package: which folder may know which, how long things may get, what the core must not do."""

import ast
from pathlib import Path

import pytest

import refine

ROOT = Path(refine.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAY_IMPORT = {
    "errors": set(),
    "physics": {"physics"},
    "model": {"physics", "model"},
    "parameters": {"errors", "physics", "model", "parameters"},
    "solvers": {"solvers"},
    "problem": {"errors", "physics", "model", "parameters", "solvers", "problem"},
    "io": {"errors", "physics", "model", "io"},
}
FREE = {"app", "__init__", "__main__"}  # the shell: knows everything
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
EFFECTS = {"print", "open", "input", "item", "environ", "getenv"}


def part(path: Path) -> str:
    """The folder, or the module, directly under the package."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Parts of this package that a file imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "refine"
                else [node.module or ""]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("refine.")}
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_part_is_known() -> None:
    assert {part(path) for path in FILES} == MAY_IMPORT.keys() | FREE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    if part(path) not in FREE:
        assert imported_parts(path) <= MAY_IMPORT[part(path)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("path", [p for p in FILES if part(p) in ("physics", "model")], ids=name_of)
def test_the_core_has_no_effects(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        assert name not in EFFECTS, f"line {node.lineno}: {name}"


def test_only_the_shell_prints() -> None:
    for path in FILES:
        if part(path) not in FREE:
            names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
            assert "print" not in names, name_of(path)
