"""What a user sees while a refinement runs: a live line on a terminal, plain lines elsewhere, and always a log."""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from refine.app.outcome import Outcome
from refine.app.results import summary_rows
from refine.io.atomic import write_text
from refine.solvers.loop import Stop
from refine.solvers.solution import Record, Solution, Status

COLOURS = {Status.CONVERGED: "green", Status.INTERRUPTED: "yellow", Status.MAX_ITERATIONS: "yellow"}  # else red


class Screen(Console):
    """Standard output. Where its reader goes away, a run goes on in silence: it is worth more than its lines."""

    def __init__(self) -> None:
        super().__init__(highlight=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """Prints iterations and messages; the log, from when it is opened, has every line, the earlier ones too.

    `stop`: when the iterations end, for the time that is left.
    """

    def __init__(self, console: Console, stop: Stop | None = None) -> None:
        self.console, self.stop = console, stop or Stop()
        self._log: TextIO | None = None
        self._kept: list[str] = []
        self._records: list[Record] = []
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._log:
            self._log.close()

    def say(self, line: str, style: str = "") -> None:
        """A message on screen, in colour where there is some, and in the log."""
        self.console.print(Text(line, style))
        self._write(line)

    def passing(self, line: str) -> None:
        """A message that the next one replaces on a terminal; a line elsewhere."""
        if self._live:
            self._live.update(Text(line, "dim"), refresh=True)
        else:
            self.console.print(Text(line))
        self._write(line)

    def iteration(self, record: Record) -> None:
        """One line an iteration: in place on a terminal, with the time that is left; below one another elsewhere."""
        line = iteration_line(record)
        self._records = [*(self._records if record.iteration else []), record]
        if self._live:
            self._live.update(Text(f"{line}  {left_text(self._records, self.stop)}"), refresh=True)
        else:
            self.console.print(Text(line))
        self._write(line)

    def verdict(self, solution: Solution, warnings: Sequence[str], target: Path) -> None:
        """What to beware of, and how it ended."""
        for warning in warnings:
            self.say(f"WARNING: {warning}", "yellow")
        status = solution.status
        advice = f" ({status.advice})" if status.advice else ""
        self.say(f"{status.value}: {solution.reason}{advice}; results in {target}", COLOURS.get(status, "red"))

    @property
    def logging(self) -> bool:
        """Whether the log is open."""
        return self._log is not None

    def open_log(self, path: Path) -> None:
        """Write the log to a file from here on. Raises InputError where that cannot be."""
        write_text(path, "".join(line + "\n" for line in self._kept))
        self._log = path.open("a", encoding="utf-8")

    def _write(self, line: str) -> None:
        if self._log is None:
            self._kept.append(line)
        else:
            self._log.write(line + "\n")
            self._log.flush()


def iteration_line(record: Record) -> str:
    """Iteration, loss, largest shift still to come in esd, gradient norm, seconds."""
    remaining = "" if record.remaining is None else f"  shift/esd {record.remaining:9.2e}"
    refused = "" if record.accepted else "  (refused)"
    return (
        f"iteration {record.iteration:3d}  loss {record.loss:.6f}{remaining}  |gradient| {record.gradient_norm:9.2e}"
        f"  {record.seconds:6.1f} s{refused}"
    )


def left_text(records: Sequence[Record], stop: Stop) -> str:
    """The time that is left, in words; '' where nothing is known of it."""
    seconds = seconds_left(records, stop)
    if math.isnan(seconds):
        return ""
    return f"about {seconds:.0f} s left" if seconds < 120 else f"about {seconds / 60:.0f} min left"


def seconds_left(records: Sequence[Record], stop: Stop) -> float:
    """Seconds that an iteration has taken, times the iterations until the largest shift has shrunk to nothing at the
    pace of the last ones, or until there have been as many as there may be. NaN before the first iteration."""
    if len(records) < 2:
        return math.nan
    last, before = records[-1], records[-min(len(records), 4)]
    steps = last.iteration - before.iteration
    iterations = float(stop.max_iterations - last.iteration)
    if last.remaining and before.remaining and last.remaining < before.remaining:
        pace = math.log(before.remaining / last.remaining) / steps
        iterations = min(iterations, max(math.log(last.remaining / stop.shift), 0.0) / pace)
    return max(math.ceil(iterations), 0) * (last.seconds - records[0].seconds) / last.iteration


def summary_lines(outcome: Outcome) -> list[str]:
    """The table of start, value(esd) and shift as plain lines."""
    header = ("parameter", "start", "value(esd)", "shift", "unit")
    rows = [header, *summary_rows(outcome)]
    widths = [max(len(row[k]) for row in rows) for k in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
