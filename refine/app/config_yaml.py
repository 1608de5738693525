"""Strict YAML: text to plain values with the line of every key, and back.

Scalars follow YAML 1.2's core schema, so `1e29` is a number and `no` is text; tags that build objects are refused.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from refine.errors import InputError

KeyPath = tuple[str, ...]
MAX_DEPTH = 20
MAX_NODES = 10_000
UNREADABLE = object()  # stands for a value that is among the faults already

_VALUE = "a YAML value such as 1.0, [1, 2] or text, text with special characters in quotes"
_TAG = "tag:yaml.org,2002:"
_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", "~nN", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+", "-+0123456789", int),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        lambda text: float(re.sub(r"\.(?=[iInN])", "", text)),
    ),
    "str": (r"(?!)", "", str),
}


@dataclass(frozen=True)
class Document:
    """Plain values, the place each key was written at, and what the YAML itself has wrong."""

    data: dict[str, Any]
    places: Mapping[KeyPath, str]
    faults: tuple[str, ...]

    def place(self, path: KeyPath) -> str:
        """Where a key, or the nearest mapping around it, was written: 'FILE:LINE' or "override '...'"."""
        return self.places[next(path[:n] for n in range(len(path), -1, -1) if path[:n] in self.places)]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own class attribute, ours instead
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  as above, so that text like 1e29 is written quoted


for _name, (_pattern, _first, _) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        if _first:
            empty = [""] if _name == "null" else []
            _class.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), [*_first, *empty])


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # outside double quotes PyYAML writes U+0085 and its like raw, and reads them back as line breaks
    return dumper.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _text_node)


class _Reader:
    """One walk over a composed document."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[KeyPath, str] = {}
        self.faults: list[str] = []
        self.nodes = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="too many or too deeply nested values", problem_mark=node.start_mark)
        self.places.setdefault(path, self.at(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return dict(self.pairs(node, path))
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*path, str(i))) for i, item in enumerate(node.value)]
        return self.scalar(node, path)

    def pairs(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            here = (*path, key)
            if key in seen:
                said = f"key '{'.'.join(here)}' is given twice, first in line {seen[key]}; accepted: each key once"
                self.faults.append(f"{self.at(key_node)}: {said}")
                continue
            seen[key] = key_node.start_mark.line + 1
            self.places[here] = self.at(key_node)
            yield key, self.value(value_node, here)

    def scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        read = _SCALARS.get(node.tag.removeprefix(_TAG))
        try:
            if read is None or not isinstance(node, yaml.ScalarNode):
                raise ValueError(node.tag)
            if re.search("[\0\ud800-\udfff]", node.value):
                raise ValueError("not text")
            return read[2](node.value)
        except ValueError:
            said = "null, true or false, numbers, text, lists and mappings, without other tags or control characters"
            self.faults.append(f"{self.at(node)}: {_named(path)} is not a plain value; accepted: {said}")
            return UNREADABLE

    def at(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}"


def read_document(text: str, source: str) -> Document:
    """Read a YAML text whose top is a mapping; faults that leave it readable are in the result's `faults`.

    Raises InputError where the text is not YAML, is empty, is no mapping, or is nested or repeated beyond reason.
    """
    reader = _Reader(source)
    node = _compose(text, lambda line, said: _fail(f"{source}:{line}: not valid YAML: {said}"), reader)
    if node is UNREADABLE:
        _fail("\n".join(reader.faults))
    if not isinstance(node, dict):
        found = "the file is empty" if node is None else f"the file holds {type(node).__name__} {str(node)[:40]!r}"
        _fail(f"{source}:1: {found}; accepted: a mapping of keys such as 'beam: {{wavelength: 1.0}}' (Å)")
    return Document(node, reader.places, tuple(reader.faults))


def override(document: Document, assignment: str) -> Document:
    """The document with one 'key.path=value' written over it; the value is YAML, a number in the path a list index.

    Raises InputError where the assignment is malformed or its path leads through something that has no keys.
    """
    place = f"override {assignment!r}"
    left, equals, right = assignment.partition("=")
    path = tuple(left.strip().split("."))
    if not equals or not all(path) or len(path) > MAX_DEPTH:
        _fail(f"{place}: not of the form KEY.PATH=VALUE; accepted: for example refinement.optimizer.name=adam")
    reader = _Reader(place)
    value = _compose(right, lambda line, said: _fail(f"{place}: not valid YAML: {said}; accepted: {_VALUE}"), reader)
    if reader.faults:
        _fail(f"{place}: the value has a repeated key or is not plain YAML; accepted: {_VALUE}")
    data = _replaced(document.data, path, value, lambda said: _fail(f"{place}: {said}"))
    places = {p: at for p, at in document.places.items() if p[: len(path)] != path}
    new = {path[:n]: place for n in range(1, len(path) + 1) if path[:n] not in places}
    return Document(data, places | new, document.faults)


def write_yaml(data: Mapping[str, Any]) -> str:
    """YAML that `read_document` reads back to equal values; short lists stay on one line."""
    return yaml.dump(
        dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120
    )


def _compose(text: str, fail: Callable[[int, str], NoReturn], reader: _Reader) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else reader.value(node, ())
    except yaml.reader.ReaderError as error:
        fail(text.count("\n", 0, error.position) + 1, f"character U+{ord(text[error.position]):04X} is not allowed")
    except yaml.MarkedYAMLError as error:
        fail(error.problem_mark.line + 1 if error.problem_mark else 1, f"{error.context or ''} {error.problem}".strip())


def _replaced(old: Any, path: KeyPath, new: Any, fail: Callable[[str], NoReturn]) -> Any:
    if not path:
        return new
    head, rest = path[0], path[1:]
    is_index = re.fullmatch("[0-9]{1,4}", head) is not None
    if isinstance(old, list) or (old is None and is_index):
        items = old or []
        if not is_index or int(head) > len(items):
            fail(f"{head!r} is no index of a list of {len(items)}; accepted: a whole number, 0 to {len(items)}")
        i = int(head)
        return [*items[:i], _replaced(items[i] if i < len(items) else None, rest, new, fail), *items[i + 1 :]]
    if old is not None and not isinstance(old, dict):
        fail(f"{head!r} is looked for in {str(old)[:40]!r}, which has no keys; accepted: a path through mappings")
    return {**(old or {}), head: _replaced((old or {}).get(head), rest, new, fail)}


def _named(path: KeyPath) -> str:
    return f"key '{'.'.join(path)}'" if path else "the file"


def _fail(text: str) -> NoReturn:
    raise InputError(text)
