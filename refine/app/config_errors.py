"""Puts pydantic's findings into the user's words: place, key, what was found, what is accepted, the nearest key."""

import difflib
import functools
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from refine.app.config_base import Problem
from refine.app.config_yaml import UNREADABLE, Document, KeyPath

NOT_YET = "is not supported by this version yet"
UNSUPPORTED_KEYS = frozenset(
    {
        "images.*.background",
        "structure_factors.model",
    }
)
UNSUPPORTED_VALUES = {
    "background.model": ("radial",),
}
_ABSENT = object()
_BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
_NOUNS = {"number": ("a number", "numbers"), "integer": ("a whole number", "whole numbers")}


class Explainer:
    """Explains what is wrong with a document, from the JSON schema of the model that refused it."""

    def __init__(self, model: type[BaseModel], document: Document) -> None:
        self.schema = _schema(model)
        self.document = document

    def lines(self, error: ValidationError) -> list[str]:
        """One line a wrong key, in the schema's order, each once."""
        items = _deepest([dict(item) for item in error.errors()])
        return list(dict.fromkeys(itertools.chain.from_iterable(map(self.explain, items))))

    def explain(self, item: dict[str, Any]) -> Iterator[str]:
        loc = tuple(str(part) for part in item["loc"])
        if item["type"] == "problems":
            yield from (self.problem(loc, p) for p in item["ctx"]["problems"])
        elif item["type"] == "extra_forbidden":
            yield self.unknown_key(loc)
        elif item["type"] == "missing" and isinstance(item["loc"][-1], str):
            yield self.missing(loc)
        else:
            path, node = self.node_at(loc if item["type"] != "missing" else loc[:-1])
            if lookup(self.document.data, path) is not UNREADABLE:
                yield self.wrong_value(path, node)

    def problem(self, loc: KeyPath, problem: Problem) -> str:
        path = loc + tuple(filter(None, problem.key.split(".")))
        given = lookup(self.document.data, path) is not _ABSENT
        if problem.found is None:
            return self.missing(path, problem.accepted)
        default = "" if given else " (the default)"
        return f"{self.head(path)} is {show(problem.found)}{default}; accepted: {problem.accepted}"

    def unknown_key(self, loc: KeyPath) -> str:
        if _pattern(loc) in UNSUPPORTED_KEYS:
            return f"{self.head(loc)} {NOT_YET}; leave it out. {self.accepted_keys(loc)}"
        near = difflib.get_close_matches(loc[-1], self.keys(loc[:-1]), n=1) or self.elsewhere(loc[-1])
        hint = f"; did you mean '{near[0]}'?" if near else "."
        return f"{self.head(loc)} is not known{hint} {self.accepted_keys(loc)}"

    def missing(self, path: KeyPath, accepted: str = "") -> str:
        _, node = self.node_at(path)
        example = f"; example: {path[-1]}: {show(node['examples'][0], 200)}" if "examples" in node else ""
        return f"{self.head(path)} is missing; accepted: {accepted or self.accepted(node)}{example}"

    def wrong_value(self, path: KeyPath, node: dict[str, Any]) -> str:
        value = lookup(self.document.data, path)
        choices = self.resolve(node).get("enum", [])
        if value in UNSUPPORTED_VALUES.get(_pattern(path), ()):
            return f"{self.head(path)} is {show(value)}, which {NOT_YET}; accepted: {self.accepted(node)}"
        near = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{self.head(path)} is {show(value)}; accepted: {self.accepted(node)}{hint}"

    def head(self, path: KeyPath) -> str:
        return f"{self.document.place(path)}: key '{'.'.join(path)}'"

    def keys(self, path: KeyPath) -> list[str]:
        return list(self.properties(self.node_at(path)[1]))

    def accepted_keys(self, loc: KeyPath) -> str:
        return f"Accepted here: {', '.join(self.keys(loc[:-1]))}"

    def elsewhere(self, name: str) -> list[str]:
        """The dotted key of this name in another section, the outermost first."""
        return [path for path in self.paths(self.schema, "") if path.rpartition(".")[2] == name]

    def paths(self, node: dict[str, Any], prefix: str) -> Iterator[str]:
        for name, child in self.properties(node).items():
            yield prefix + name
            yield from self.paths(child, f"{prefix}{name}.")

    def node_at(self, path: KeyPath) -> tuple[KeyPath, dict[str, Any]]:
        """The deepest schema node along a path, and the part of the path that leads to it."""
        node = self.schema
        for depth, part in enumerate(path):
            child = self.child(self.resolve(node), part)
            if child is None:
                return path[:depth], node
            node = child
        return path, node

    def child(self, node: dict[str, Any], part: str) -> dict[str, Any] | None:
        if "anyOf" in node:
            described = ({"description": node.get("description", ""), **self.resolve(n)} for n in node["anyOf"])
            return next((c for n in described if (c := self.child(n, part))), None)
        if node.get("type") == "array" and part.isdecimal():
            items = [*node.get("prefixItems", ()), *itertools.repeat(node.get("items", {}), int(part) + 1)]
            item: dict[str, Any] = items[int(part)]
            return item if _unit(item) else {**item, "description": node.get("description", "")}
        child: dict[str, Any] | None = node.get("properties", {}).get(part) or node.get("additionalProperties") or None
        return child

    def properties(self, node: dict[str, Any]) -> dict[str, Any]:
        node = self.resolve(node)
        options = [self.resolve(n) for n in node.get("anyOf", ())] or [node]
        return next((n["properties"] for n in options if "properties" in n), {})

    def resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        reference = node.get("$ref") or next((n["$ref"] for n in node.get("allOf", ()) if "$ref" in n), None)
        return node if reference is None else {**self.schema["$defs"][reference.rpartition("/")[2]], **node}

    def accepted(self, node: dict[str, Any], unit: str = "", many: bool = False) -> str:
        """What a schema node accepts, in words with its unit."""
        node = self.resolve(node)
        unit = _unit(node) or unit
        kind = node.get("type")
        if "anyOf" in node:
            return " or ".join(dict.fromkeys(self.accepted(n, unit) for n in node["anyOf"]))
        if "enum" in node or "const" in node:
            return _either(node.get("enum") or [node["const"]])
        if kind in _NOUNS:
            return _numbers(node, _NOUNS[kind][many], unit)
        if kind == "array":
            return self.accepted_list(node, unit)
        if kind == "object" and "properties" in node:
            return f"a mapping of the keys {', '.join(node['properties'])}"
        if kind == "object":
            return f"a mapping of names to {self.accepted(node['additionalProperties'])}"
        return {"boolean": "true or false", "null": "null"}.get(
            str(kind), "a file name" if node.get("format") == "path" else "text, in quotes where it looks like a number"
        )

    def accepted_list(self, node: dict[str, Any], unit: str) -> str:
        if "prefixItems" not in node:
            return f"a list of {self.accepted(node['items'], unit)}"
        groups = itertools.groupby(self.accepted(item, unit, many=True) for item in node["prefixItems"])
        return "a list of " + ", then ".join(f"{len(list(same))} {text}" for text, same in groups)


@functools.cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def show(value: object, longest: int = 80) -> str:
    """A value as the user would write it in YAML's flow style, cut to a length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def lookup(data: Any, path: KeyPath) -> Any:
    """The value at a path of plain data, or a marker of its absence."""
    for part in path:
        if isinstance(data, list) and part.isdecimal() and int(part) < len(data):
            data = data[int(part)]
        elif isinstance(data, dict) and part in data:
            data = data[part]
        else:
            return _ABSENT
    return data


def _deepest(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with places of keys alone; of a value that may have several types, what is wrong inside it, rather than
    that it is not of another of them."""
    places = [tuple(filter(_is_key, item["loc"])) for item in items]
    return [
        {**item, "loc": place}
        for item, place in zip(items, places, strict=True)
        if place == item["loc"] or not any(p[: len(place)] == place != p for p in places)
    ]


def _is_key(part: str | int) -> bool:
    """Whether a part of a place is the document's, not the name of one of the types that a value may have."""
    return not re.match(r"(function-\w+|literal)\[", str(part))


def _pattern(path: KeyPath) -> str:
    return ".".join("*" if part.isdecimal() else part for part in path)


def _unit(node: dict[str, Any]) -> str:
    found = re.search(r"\[([^\[\]]+)\]", node.get("description", ""))
    return found[1] if found else ""


def _numbers(node: dict[str, Any], noun: str, unit: str) -> str:
    bounds = " and ".join(f"{word} {node[name]:g}" for name, word in _BOUNDS.items() if name in node)
    return f"{noun} {bounds}".strip() + (f", in {unit}" if unit else "")


def _either(choices: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
