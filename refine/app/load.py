"""Reads a configuration file, and writes one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from refine.app.config import Config
from refine.app.config_base import Section
from refine.app.config_errors import Explainer
from refine.app.config_yaml import Document, override, read_document, write_yaml
from refine.app.dials import completed
from refine.errors import InputError

MAX_BYTES = 1_000_000

SectionType = TypeVar("SectionType", bound=Section)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file, with each override 'key.path=value' (a YAML value) written over it.

    Paths in the file and in the overrides are relative to the file and absolute in the result. The DIALS .expt files it
    names are read, for the keys that they supply; whether other files exist is not looked at. Raises InputError
    that lists every problem, each with its file, line and key.
    """
    return parse_config(_read_text(Path(path)), str(path), Path(path).absolute().parent, overrides)


def load_section(kind: type[SectionType], path: Path, overrides: Sequence[str] = ()) -> SectionType:
    """As `load_config`, for a file of another schema."""
    return _parse(kind, _read_text(path), str(path), path.absolute().parent, overrides)


def read_kind(path: Path, overrides: Sequence[str] = ()) -> Any:
    """The value of the key `kind` of a YAML file, None where it has none. Raises InputError where it is no YAML."""
    return _overridden(_read_text(path), str(path), overrides).data.get("kind")


def parse_config(text: str, source_name: str, directory: Path, overrides: Sequence[str] = ()) -> Config:
    """As `load_config`, from a text; `source_name` stands for the file in messages.

    Raises InputError.
    """
    return _parse(Config, text, source_name, directory, overrides)


def dump_config(config: Section) -> str:
    """The whole configuration, defaults included, as YAML that reads back to an equal one."""
    return write_yaml(config.model_dump(mode="json"))


def _parse(
    kind: type[SectionType], text: str, source_name: str, directory: Path, overrides: Sequence[str]
) -> SectionType:
    document = _overridden(text, source_name, overrides)
    if kind is Config:
        document = replace(document, data=completed(document.data, directory))
    return _anchored_section(_validated(kind, document), directory)


def _overridden(text: str, source_name: str, overrides: Sequence[str]) -> Document:
    document = read_document(text, source_name)
    for assignment in overrides:
        document = override(document, assignment)
    return document


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); accepted: a YAML configuration file") from error
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path}: is above {MAX_BYTES} bytes; accepted: a YAML configuration, not an image")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; accepted: UTF-8 text") from error


def _validated(kind: type[SectionType], document: Document) -> SectionType:
    try:
        config = kind.model_validate(document.data)
    except ValidationError as error:
        raise InputError("\n".join([*document.faults, *Explainer(kind, document).lines(error)])) from None
    if document.faults:
        raise InputError("\n".join(document.faults))
    return config


def _anchored_section(section: SectionType, directory: Path) -> SectionType:
    """A section with every relative path in it taken from a directory."""
    fields = {name: _anchored(getattr(section, name), directory) for name in type(section).model_fields}
    return section.model_copy(update=fields)


def _anchored(value: Any, directory: Path) -> Any:
    if isinstance(value, Path):
        return directory / value
    if isinstance(value, tuple):
        return tuple(_anchored(item, directory) for item in value)
    if isinstance(value, Section):
        return _anchored_section(value, directory)
    return value
