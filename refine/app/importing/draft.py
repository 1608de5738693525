"""A configuration being put together: settings with their origin, and what is missing; and its text."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from refine.app.config_errors import show

_HEAD = "written by refine import; files are named from this one's folder"
SECTIONS = ("images", "beam", "detector", "crystal", "structure_factors", "background", "refinement")
_WIDTH, _DIGITS = 118, 13


Kind = TypeVar("Kind")


class Setting(NamedTuple):
    """A value at a dotted key, and where it is from."""

    key: str
    value: Any
    origin: str


class Gap(NamedTuple):
    """What only the user can say: the dotted key, an example of a value, and why it matters."""

    key: str
    example: Any
    why: str


@dataclass(frozen=True)
class Draft:
    """Settings, of which the first of a key counts; gaps, of which those without a setting count; lines on what was
    found."""

    settings: tuple[Setting, ...] = ()
    gaps: tuple[Gap, ...] = ()
    found: tuple[str, ...] = ()

    def __add__(self, other: "Draft") -> "Draft":
        return Draft(self.settings + other.settings, self.gaps + other.gaps, self.found + other.found)

    def value(self, key: str, kind: type[Kind]) -> Kind | None:
        """The value at a key, None where there is none of that kind: a wrong one is for the schema to name."""
        found = next((setting.value for setting in self.settings if setting.key == key), None)
        return found if isinstance(found, kind) and not isinstance(found, bool) else None

    def number(self, key: str) -> float | None:
        """The number at a key, None where there is none."""
        return self.value(key, int) or self.value(key, float)

    def says(self, key: str) -> bool:
        """Whether the value at a key is true."""
        return next((setting.value for setting in self.settings if setting.key == key), None) is True

    def without(self, *keys: str) -> "Draft":
        """The draft without settings of these keys."""
        return replace(self, settings=tuple(setting for setting in self.settings if setting.key not in keys))

    def missing(self) -> list[Gap]:
        """The gaps that no setting fills."""
        given = {setting.key for setting in self.settings}
        return [gap for gap in self.gaps if not any(key == gap.key or key.startswith(f"{gap.key}.") for key in given)]

    def filled(self) -> "Draft":
        """With the examples in the gaps, so that all else can be checked; a group that an example could miss left
        out."""
        gaps = self.missing()
        examples = Draft(tuple(Setting(gap.key, gap.example, "") for gap in gaps))
        return self.without(*(["crystal.space_group"] if any(g.key == "crystal.cell" for g in gaps) else [])) + examples

    def text(self, title: str, folder: Path) -> str:
        """The configuration as YAML; files are named from a folder where they are in it."""
        entries: list[Setting | Gap] = [*_distinct(self.settings), *self.missing()]
        titled = next((setting.value for setting in self.settings if setting.key == "title"), title)
        names = dict.fromkeys((*SECTIONS, *(entry.key.split(".")[0] for entry in entries)))
        parts = [_section(name, [e for e in entries if e.key.split(".")[0] == name], folder) for name in names]
        return "\n".join([_line(f"title: {show(titled)}", _HEAD), *filter(None, parts)])


def _distinct(settings: Iterable[Setting]) -> list[Setting]:
    first: dict[str, Setting] = {}
    for setting in settings:
        first.setdefault(setting.key, setting)
    return list(first.values())


def _images(entries: list[Setting | Gap], folder: Path) -> str:
    gaps = [entry for entry in entries if isinstance(entry, Gap)]
    if len(gaps) == len(entries):
        lines = [_line(f"#- file: {gap.example}", f"missing: {gap.why}") for gap in gaps[:1]]
        return "images:\n" + "".join(f"  {line}\n" for line in "".join(lines).splitlines())
    whole = "".join(_entry(entry, folder) for entry in entries).splitlines()
    first = next(number for number, line in enumerate(whole) if not line.startswith("#"))
    return "images:\n" + "".join(f"  {'- ' if n == first else '  '}{line}\n" for n, line in enumerate(whole))


def _section(name: str, entries: list[Setting | Gap], folder: Path) -> str:
    if not entries or name == "title":
        return ""
    if name == "images":
        return _images(entries, folder)
    lines = "".join(_entry(entry, folder) for entry in entries).splitlines(keepends=True)
    if "." not in entries[0].key:
        return "".join(lines)
    return f"{name}:\n" + "".join(f"  {line}" for line in lines)


def _entry(entry: Setting | Gap, folder: Path) -> str:
    name = entry.key.removeprefix("images.0.").split(".", 1)[-1]
    if isinstance(entry, Gap):
        return _line(f"#{name}: {_flow(entry.example, folder)}", f"missing: {entry.why}")
    return _line(f"{name}: {_flow(entry.value, folder)}", entry.origin)


def _line(text: str, comment: str) -> str:
    """With its comment behind it, or before it where both together are too long."""
    together = f"{text}  # {comment}\n" if comment else f"{text}\n"
    return together if len(together) <= _WIDTH else f"# {comment}:\n{text}\n"


def _flow(value: Any, folder: Path) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, Path):
        return show(named(value, folder), longest=10_000)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item, folder)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item, folder) for item in value) + "]"
    if isinstance(value, float | np.floating):
        return repr(float(f"{value:.{_DIGITS}g}"))
    if isinstance(value, str) and value.replace(" ", "").isalnum() and value[0].isalpha():
        return value
    return show(value, longest=10_000)


def named(path: Path, folder: Path) -> str:
    """A file's name as seen from a folder, the whole path where it is not in there."""
    whole = Path(os.path.abspath(path))
    here = Path(os.path.abspath(folder))
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
