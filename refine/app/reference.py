"""The README's tables of every key and every option, made from the schemas and the command line itself.

`python -m refine.app.reference README.md` writes them anew.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from refine.app.benchmark.config import OptimizerBenchmark
from refine.app.benchmark.kernel_config import KernelBenchmark
from refine.app.config import Config
from refine.app.config_errors import Explainer, show
from refine.app.config_yaml import Document
from refine.app.main import command_line

BEGIN, END = "<!-- reference, generated -->", "<!-- end of the reference -->"
RESTRAINED = "refinement.restraints"


def reference() -> str:
    """All tables as Markdown."""
    parts = [
        ("Commands and options", options_table()),
        ("Keys of a configuration", keys_table(Config)),
        ("Keys of an optimizer benchmark", keys_table(OptimizerBenchmark)),
        ("Keys of a kernel benchmark", keys_table(KernelBenchmark)),
    ]
    folded = (f"<details><summary>{title}</summary>\n\n" + "\n".join(rows) + "\n\n</details>" for title, rows in parts)
    return "\n\n".join(folded)


def keys_table(model: type[BaseModel]) -> list[str]:
    """A row a key: what is accepted, the default, what it means."""
    explainer = Explainer(model, Document({}, {(): ""}, ()))
    rows = [_row(explainer, key, node) for key, node in _leaves(explainer, explainer.schema, "")]
    return ["| key | accepted | default | meaning |", "| --- | --- | --- | --- |", *rows]


def _leaves(explainer: Explainer, node: dict[str, Any], before: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of a schema node; N stands for a place in a list, NAME for a parameter that is restrained."""
    for name, child in explainer.properties(node).items():
        key = f"{before}{name}"
        if before == f"{RESTRAINED}." and name not in ("cell", "distance", "amplitudes"):
            continue
        key = f"{RESTRAINED}.NAME" if key == f"{RESTRAINED}.distance" else key
        items = explainer.resolve(child).get("items", {})
        plain = [option for option in child.get("anyOf", ()) if "const" in option or "enum" in option]
        if plain and explainer.properties(child):  # a word, or a mapping
            yield key, {**child, "anyOf": plain, "required": False}
        if explainer.properties(child):
            yield from _leaves(explainer, child, f"{key}.")
        elif explainer.properties(items):
            yield from _leaves(explainer, items, f"{key}.N.")
        else:
            yield key, {**child, "required": name in explainer.resolve(node).get("required", ())}


def _row(explainer: Explainer, key: str, node: dict[str, Any]) -> str:
    default = "required" if node["required"] or "default" not in node else f"`{show(node['default'], 60)}`"
    meaning = explainer.resolve(node).get("description", "").split(" [")[0]
    return "| " + " | ".join(map(_cell, (f"`{key}`", explainer.accepted(node), default, meaning))) + " |"


def options_table() -> list[str]:
    """A row an option of every command."""
    rows = ["| command | option | meaning |", "| --- | --- | --- |"]
    for name, parser in commands(command_line()).items():
        for action in parser._actions:
            if action.dest not in ("help", "debug", "quiet"):
                rows.append(f"| `refine {name}` | `{_shown(action)}` | {_cell(action.help or action.dest)} |")
    return [
        *rows,
        "| all | `--quiet`, `-q` | print errors only |",
        "| all | `--debug` | show the traceback of an error |",
    ]


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of every command by its name."""
    (found,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def _shown(action: argparse.Action) -> str:
    metavar = action.metavar or action.dest.upper()
    value = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    choices = "{" + ",".join(action.choices) + "}" if action.choices else value
    return (
        ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {choices}")
        if action.option_strings
        else value
    )


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def renewed(text: str) -> str:
    """A README with its reference written anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{reference()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    readme.write_text(renewed(readme.read_text(encoding="utf-8")), encoding="utf-8")
