"""`refine nanobragg ARGS...`: the command line of nanoBragg.c, its images and its files."""

import sys
from collections.abc import Sequence
from pathlib import Path

from refine.app.config_yaml import write_yaml
from refine.app.load import parse_config
from refine.app.nanobragg.configuration import configuration
from refine.app.nanobragg.defects import Defects
from refine.app.nanobragg.image import Progress, simulate
from refine.app.nanobragg.options import usage
from refine.app.nanobragg.outputs import statistics, write
from refine.app.nanobragg.resolve import resolve
from refine.app.nanobragg.summary import after, before, pixel_lines
from refine.errors import InputError
from refine.io.atomic import write_text

HELP = ("--help", "-help", "-h")
_INTRODUCTION = """usage: refine nanobragg OPTIONS...

Compute an image as nanoBragg.c does, from its own command line; options are read from left to right.
example: refine nanobragg -cell 60 60 60 90 90 90 -N 5 -default_F 100 -distance 60 -pixel 0.3 -detpixels 128

options:
"""


def nanobragg(arguments: Sequence[str], directory: Path) -> int:
    """Run a command line with files relative to `directory`; returns the exit code. Raises InputError."""
    if any(word in HELP for word in arguments):
        print(_INTRODUCTION + usage())
        return 0
    settings = resolve(arguments, directory)
    for note in settings.notes:
        print(f"refine: {note}", file=sys.stderr)
    if settings.output.config_file is not None:
        print(_configured(arguments, directory, settings.output.config_file))
        return 0
    print("\n".join(before(settings)))
    printed = settings.output.printout
    image = simulate(
        settings,
        _meter() if settings.output.progress and not printed else None,
        (lambda pixels, last: print("\n".join(pixel_lines(pixels, last, settings)))) if printed else None,
    )
    if image.note:
        print(f"refine: {image.note}", file=sys.stderr)
    found = statistics(image, settings)
    print("\n".join([*after(image, settings, found), *write(image, settings, found)]))
    return 0


def _configured(arguments: Sequence[str], directory: Path, target: Path) -> str:
    """Write the same experiment as a configuration; returns a line that says so."""
    text = write_yaml(configuration(resolve(arguments, directory, Defects.none())))
    try:
        parse_config(text, target.name, directory)
    except InputError as error:
        raise InputError(f"-config: no configuration can say what this command line does: {error}") from error
    write_text(target, text)
    return (
        f"{target}: the same experiment without nanoBragg.c's defects; no image was written;"
        f" next: refine simulate {target} -o image.npz"
    )


def _meter() -> Progress:
    """Prints every twentieth that is done."""
    printed = 0

    def progress(done: float) -> None:
        nonlocal printed
        if int(done * 20) > printed:
            printed = int(done * 20)
            print(f"{printed * 5}% done", flush=True)

    return progress
