"""Files of a finished run, each written whole or not at all."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from refine.io.atomic import write_text


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line, mappings on their own, null as null."""


def _sequence(dumper: yaml.SafeDumper, data: Sequence[Any]) -> yaml.Node:
    plain = not any(isinstance(item, dict | list | tuple) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


_Dumper.add_representer(list, _sequence)
_Dumper.add_representer(tuple, _sequence)


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """A mapping as YAML, keys in their order. Raises InputError where it cannot be written."""
    text = yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    write_text(path, text)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table with a header line. Raises InputError where it cannot be written."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, stream.getvalue())
