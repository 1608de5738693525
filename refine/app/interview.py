"""`refine init`: a starter configuration from options, or from questions where there is somebody to ask."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from refine.app.load import parse_config
from refine.app.template import starter_config
from refine.errors import InputError
from refine.io.atomic import write_text
from refine.io.images import read_image

Ask = Callable[[str, str], str]  # (question, default) -> answer

QUESTIONS = {
    "title": "Title",
    "image": "Observed image, relative to the configuration",
    "wavelength": "Wavelength [Å]",
    "distance": "Distance from sample to direct-beam spot [mm]",
    "pixel_size": "Edge of a pixel [mm]",
    "size": "Size of the image: slow, fast [pixels]",
    "beam_center_px": "Direct beam: fast, slow [pixels from the first pixel's outer corner]",
    "cell": "Cell: a, b, c [Å], alpha, beta, gamma [degrees]",
    "space_group": "Space group",
    "misset_deg": "Orientation: rotations about lab x, y, z [degrees]",
    "structure_factors": "Structure factors (h k l F text, MTZ or mmCIF)",
}
STARTER: dict[str, Any] = {**(starter_config.__kwdefaults__ or {})}
TEXT = {"title", "image", "space_group", "structure_factors"}
LISTS = {"size": int, "beam_center_px": float, "cell": float, "misset_deg": float}


def init(path: Path, given: Mapping[str, Any], ask: Ask | None, say: Callable[[str], None]) -> str:
    """Write a commented configuration of what was given, or asked; refuses to write over a file.

    Raises InputError where a value is wrong, unless there is somebody to be asked again.
    """
    if path.exists():
        raise InputError(f"{path}: exists already and is left as it is; give another name, or move it away")
    values = interview(path, ask, say) if ask else completed(path, given)
    text = starter_config(**values)
    _check(path, text)
    write_text(path, text)
    return f"{path}: a starter configuration; edit it, then: refine validate {path}"


def interview(path: Path, ask: Ask, say: Callable[[str], None]) -> dict[str, Any]:
    """Answers to all questions, each asked until it can be used."""
    values: dict[str, Any] = {}
    for key, question in QUESTIONS.items():
        while True:
            default = shown(defaults(path, values)[key])
            try:
                answer = {key: parsed(key, ask(question, default) or default)}
                _check(path, starter_config(**completed(path, values | answer)))
            except InputError as error:
                say(str(error))
                continue
            values |= answer
            break
    return values


def completed(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, with the size of an image that can be read, and the beam in the middle."""
    found = {key: value for key, value in given.items() if value is not None}
    if (shape := _shape(path, found.get("image"))) and "size" not in found:
        found["size"] = shape
    if "size" in found and "beam_center_px" not in found:
        slow, fast = found["size"]
        found["beam_center_px"] = (fast / 2, slow / 2)
    return found


def defaults(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """What each question suggests, after some answers."""
    return {**STARTER, **completed(path, values)}


def shown(value: Any) -> str:
    """A value as a user would type it."""
    return ", ".join(f"{x:g}" for x in value) if isinstance(value, list | tuple) else str(value)


def parsed(key: str, answer: str) -> Any:
    """An answer as the value it stands for: numbers with or without commas and brackets. Raises InputError."""
    if key in TEXT:
        return answer.strip()
    words = answer.replace(",", " ").strip(" []").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    wanted = len(STARTER[key]) if key in LISTS else 1
    if len(numbers) != wanted or not all(map(math.isfinite, numbers)):
        needs = f"{wanted} numbers" if wanted > 1 else "a number"
        raise InputError(f"{QUESTIONS[key]}: {answer!r}; accepted: {needs}")
    kind = LISTS.get(key, float)
    if kind is int and any(x != int(x) for x in numbers):
        raise InputError(f"{QUESTIONS[key]}: {answer!r}; accepted: whole numbers")
    values = tuple(kind(x) for x in numbers)
    return values if key in LISTS else values[0]


def _shape(path: Path, image: Any) -> tuple[int, ...] | None:
    """The size of an image that is there and can be read."""
    if image is None or not (found := path.parent / str(image)).is_file():
        return None
    try:
        return read_image(found).values.shape
    except InputError:
        return None


def _check(path: Path, text: str) -> None:
    parse_config(text, str(path), path.absolute().parent)
