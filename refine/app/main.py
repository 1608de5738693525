"""The command line: `refine COMMAND ...`."""

import argparse
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from refine import __version__
from refine.app.allocation import keep_freed_memory
from refine.errors import InputError

NOT_DONE, WRONG_INPUT, INTERRUPTED = 1, 2, 130
Command = Callable[[argparse.Namespace, float], int]
OVERRIDES = "key.path=value: a setting written over the configuration's, the value in YAML"


class _Parser(argparse.ArgumentParser):
    """Errors in one line with the nearest way out, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; see: {self.prog} --help")


class _Completion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, _: object, values: Any, __: str | None = None) -> NoReturn:
        import shtab

        print(shtab.complete(parser, shell=values))
        parser.exit()


def main(arguments: Sequence[str] | None = None, began: float | None = None) -> int:
    """Run a command; returns the exit code: 0 done and converged, 1 not, 2 wrong input, 130 interrupted."""
    began = time.time() if began is None else began
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        chosen = _parse(given)
        command: Command = chosen.command
        with _silent() if getattr(chosen, "quiet", False) else contextlib.nullcontext():
            return command(chosen, began)
    except InputError as error:
        if "--debug" in given:
            traceback.print_exc()
        print(f"refine: {error}", file=sys.stderr)
        return WRONG_INPUT
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):  # torch's own out of memory
            raise
        print("refine: not enough memory; use a smaller detector, or leave out pixels", file=sys.stderr)
        return WRONG_INPUT
    except BrokenPipeError:  # whoever read the output has gone; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_DONE
    except OSError as error:  # a full disk behind the output or the log
        if "--debug" in given:
            traceback.print_exc()
        print(f"refine: {error.filename or 'output'}: cannot be written ({error.strerror or error})", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("refine: interrupted", file=sys.stderr)
        return INTERRUPTED


def entry() -> NoReturn:
    """The console script. Threads that wait sleep, unless the environment says otherwise: where several processes share
    the cores, waiting actively takes most of their time."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()
    code = main()
    try:
        sys.stdout.flush()
    except OSError as error:
        print(f"refine: output: cannot be written ({error.strerror})", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = WRONG_INPUT
    sys.exit(code)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Overrides may stand anywhere behind the configuration, which argparse's own lists cannot."""
    parser = command_line()
    if arguments and arguments[0] == "nanobragg":  # its options are not argparse's
        return argparse.Namespace(command=_nanobragg, arguments=arguments[1:])
    chosen, rest = parser.parse_known_args(arguments)
    if stray := [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(chosen, "overrides")]:
        parser.error(f"{stray[0]!r} is neither an option nor of the form key.path=value")
    if rest:
        chosen.overrides = rest
    return chosen


def command_line() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser("refine", description="Refine crystal parameters from X-ray diffraction images.")
    parser.add_argument("--version", action="version", version=f"refine {__version__}")
    script = 'print the script that completes commands and options, for: eval "$(refine --completion bash)"'
    parser.add_argument("--completion", action=_Completion, choices=("bash", "zsh", "tcsh"), help=script)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, function: Command, summary: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=f"{summary}.", epilog=f"example: refine {example}")
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.add_argument("-q", "--quiet", action="store_true", help="print errors only")
        added.set_defaults(command=function)
        return added

    run = command("run", _run, "Refine against the observed image", "run configs/quickstart.yaml -o out")
    run.add_argument("-o", "--output", type=Path, help="results directory; default: the configuration's")
    run.add_argument("--resume", action="store_true", help="go on where a run into the same directory was stopped")
    _add_config(run)
    simulated = "simulate configs/quickstart.yaml -o model.npz detector.oversample=2"
    simulate = command("simulate", _simulate, "Write the expected image of the starting crystal", simulated)
    simulate.add_argument("-o", "--output", type=Path, required=True, help="image: .npz .npy .bin .cbf .img .h5")
    simulate.add_argument("--noise", action="store_true", help="Poisson and readout noise, drawn from the seed")
    _add_config(simulate)
    validated = "validate configs/quickstart.yaml"
    _add_config(command("validate", _validate, "Check a configuration and the files it names", validated))
    checked = "gradcheck configs/quickstart.yaml --order 1"
    gradcheck = command("gradcheck", _gradcheck, "Prove the derivatives by every free parameter right", checked)
    gradcheck.add_argument("--order", choices=("1", "2", "both"), default="both", help="derivatives to check")
    gradcheck.add_argument("--json", type=Path, metavar="F", help="write the findings as JSON")
    gradcheck.add_argument("--junit", type=Path, metavar="F", help="write the findings as JUnit XML")
    _add_config(gradcheck, default=Path("configs/quickstart.yaml"))
    measured = "benchmark configs/benchmark_optimizers.yaml -o benchmark"
    benchmark = command("benchmark", _benchmark, "Compare optimizers, or time the simulator", measured)
    benchmark.add_argument("-o", "--output", type=Path, help="results directory; default: the configuration's")
    peer = "another program to time, of kind kernel; {case} stands for the case's name"
    benchmark.add_argument("--peer", action="append", default=[], metavar="'NAME=COMMAND'", help=peer)
    _add_config(benchmark)
    reported = "report runs/first"
    report = command("report", _report, "Make report.html again, or a page that compares several runs", reported)
    report.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="results directory; several: compared")
    report.add_argument("-o", "--output", type=Path, help="page; default: DIR/report.html, or comparison.html here")
    command("nanobragg", _nanobragg, "Compute an image from a nanoBragg.c command line", "nanobragg --help")
    _add_init(command("init", _init, "Write a commented starter configuration", "init my.yaml --image shot.cbf"))
    _add_import(command("import", _import, "Write a configuration from the files at hand", "import indexed.expt F.mtz"))
    return parser


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write a commented starter configuration. On a terminal and without options, it asks."
    parser.add_argument("config", type=Path, nargs="?", default=Path("refine.yaml"), help="default: refine.yaml")
    parser.add_argument("--title", metavar="TEXT")
    parser.add_argument("--image", metavar="FILE", help="observed image; its size is read from it")
    parser.add_argument("--structure-factors", metavar="FILE", help="h k l F text, MTZ or mmCIF")
    parser.add_argument("--space-group", metavar="SYMBOL")
    for name, meant in (("wavelength", "Å"), ("distance", "mm"), ("pixel-size", "mm")):
        parser.add_argument(f"--{name}", type=float, metavar="X", help=meant)
    parser.add_argument("--size", type=int, nargs=2, metavar=("SLOW", "FAST"), help="pixels")
    parser.add_argument("--beam-center-px", type=float, nargs=2, metavar=("FAST", "SLOW"), help="pixels")
    cell = ("A", "B", "C", "ALPHA", "BETA", "GAMMA")
    parser.add_argument("--cell", type=float, nargs=6, metavar=cell, help="Å and degrees")
    parser.add_argument("--misset-deg", type=float, nargs=3, metavar=("X", "Y", "Z"), help="degrees")


def _add_import(parser: argparse.ArgumentParser) -> None:
    held = "DIALS .expt and .refl, XPARM.XDS, XDS.INP, MOSFLM .mat, image, structure factors, in any order"
    parser.add_argument("files", nargs="+", metavar="FILE", help=f"{held}; or key.path=value, over what they say")
    parser.add_argument("-o", "--output", type=Path, default=Path("refine.yaml"), help="default: refine.yaml")
    parser.add_argument("--index", type=int, default=0, help="which experiment of the .expt, from 0")
    parser.add_argument("--force", action="store_true", help="write over an existing configuration")
    parser.set_defaults(overrides=[])


def _add_config(parser: argparse.ArgumentParser, default: Path | None = None) -> None:
    optional = {"nargs": "?", "default": default, "help": f"YAML configuration; default: {default}"}
    parser.add_argument("config", type=Path, **(optional if default else {"help": "YAML configuration"}))
    parser.set_defaults(overrides=[])
    parser.usage = parser.format_usage().removeprefix("usage: ").rstrip() + " [key.path=value ...]"
    parser.epilog = f"{OVERRIDES}. {parser.epilog}"


def _run(chosen: argparse.Namespace, began: float) -> int:
    from refine.app.progress import Screen
    from refine.app.run import run

    return run(chosen.config, chosen.output, chosen.overrides, Screen(), began, chosen.resume)


def _simulate(chosen: argparse.Namespace, _: float) -> int:
    from refine.app.simulate import simulate

    print(simulate(chosen.config, chosen.output, chosen.overrides, chosen.noise))
    return 0


def _validate(chosen: argparse.Namespace, _: float) -> int:
    from refine.app.prepare import validate

    print("\n".join(validate(chosen.config, chosen.overrides)))
    return 0


def _gradcheck(chosen: argparse.Namespace, _: float) -> int:
    from refine.app.gradcheck import gradcheck

    passed, lines = gradcheck(chosen.config, chosen.overrides, chosen.order, chosen.json, chosen.junit)
    print("\n".join(lines))
    return 0 if passed else 1


def _benchmark(chosen: argparse.Namespace, _: float) -> int:
    from refine.app.benchmark.command import benchmark
    from refine.app.progress import Screen

    return benchmark(chosen.config, chosen.output, chosen.overrides, Screen(), chosen.peer)


def _report(chosen: argparse.Namespace, _: float) -> int:
    from refine.app.report.command import report

    print(report(chosen.directories, chosen.output))
    return 0


def _nanobragg(chosen: argparse.Namespace, _: float) -> int:
    from refine.app.nanobragg.command import nanobragg

    return nanobragg(chosen.arguments, Path.cwd())


def _import(chosen: argparse.Namespace, _: float) -> int:
    from refine.app.importing.command import import_files

    files = [word for word in chosen.files if "=" not in word or Path(word).exists()]
    assignments = [word for word in chosen.files if word not in files] + list(chosen.overrides)
    paths = [Path(word) for word in files]
    print("\n".join(import_files(paths, chosen.output, assignments, chosen.index, chosen.force)))
    return 0


def _init(chosen: argparse.Namespace, _: float) -> int:
    from refine.app.interview import QUESTIONS, init

    given = {key: value for key in QUESTIONS if (value := getattr(chosen, key)) is not None}
    asked = not given and sys.stdin.isatty() and sys.stdout.isatty()
    print(init(chosen.config, given, _ask if asked else None, print))
    return 0


def _ask(question: str, default: str) -> str:
    try:
        return input(f"{question} [{default}]: ").strip()
    except EOFError as error:
        raise KeyboardInterrupt from error
