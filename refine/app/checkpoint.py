"""What a run has computed so far, on disk, so that nothing of it is lost.

Everything between evaluations of the problem is quick and deterministic. So a checkpoint holds the evaluations: a run
that is begun again asks for the same ones, gets those it had from here, and goes on where it was stopped, to the same
bits, whatever the solver or the stage.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from refine.app.config import Config
from refine.app.load import dump_config
from refine.errors import InputError
from refine.io.atomic import make_directory, remove_leftovers, write_atomically, write_text
from refine.io.reading import guarded
from refine.problem.problem import Counted, ImageProblem
from refine.problem.quadratic import Quadratic
from refine.solvers.arrow import Arrow
from refine.solvers.parted import Parted
from refine.solvers.protocol import Problem
from refine.solvers.protocol import Quadratic as QuadraticModel

FOLDER = "checkpoint.d"
FREE_TO_CHANGE = ("title", "output", "refinement.optimizer.max_iterations")  # they do not change an evaluation
SAME = 1e-9  # relative difference of an evaluation that rounding may make


class Checkpoint:
    """The evaluations of one run in DIR/checkpoint.d, a file each, named by what was asked.

    One that resumes refuses another configuration (InputError), and looks at the first evaluation it is asked for
    again: where that has another value now, the files the configuration names have changed (InputError).
    """

    def __init__(self, directory: Path, config: Config, resume: bool) -> None:
        self.folder, self._config = directory / FOLDER, dump_config(config)
        kept = self.folder / "config.yaml"
        self._resumed = resume and kept.is_file()
        if self._resumed:
            _require_same(kept, self._config)
        self._known = {path.name for path in self.folder.glob("*.npz")} if self._resumed else set()
        self._trusted = False
        self._waiting: dict[Path, list[np.ndarray]] | None = {}

    def __len__(self) -> int:
        """How many evaluations there are from before."""
        return len(self._known)

    def told(self) -> str:
        """What to say of them; nothing where there are none."""
        return f"going on where {self.folder.parent} was stopped: {len(self)} evaluations are kept" if len(self) else ""

    def begin(self) -> None:
        """Take the folder over, what another run left there removed, and write what was evaluated so far. Raises
        InputError where that cannot be."""
        if not self._resumed:
            shutil.rmtree(self.folder, ignore_errors=True)
        make_directory(self.folder)
        remove_leftovers(self.folder)
        write_text(self.folder / "config.yaml", self._config)
        waiting, self._waiting = self._waiting or {}, None
        for path, arrays in waiting.items():
            _write(path, arrays)

    def recall(self, key: str, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The value of an evaluation, from before or computed now and kept."""
        path = self.folder / f"{key}.npz"
        kept = _read(path) if path.name in self._known else None
        if kept is None:
            found = compute()
            self._put(path, [part.cpu().numpy() for part in found])
            return found
        if not self._trusted:
            _require_unchanged(self.folder, kept, compute())
            self._trusted = True
        return kept

    def _put(self, path: Path, arrays: list[np.ndarray]) -> None:
        """On disk once the run has begun."""
        if self._waiting is None:
            _write(path, arrays)
        else:
            self._waiting[path] = arrays


def _write(path: Path, arrays: list[np.ndarray]) -> None:
    write_atomically(path, lambda stream: np.savez(stream, *arrays))


def _read(path: Path) -> tuple[Tensor, ...] | None:
    """None where the file is damaged: it is then computed again."""
    try:
        with guarded(path, "a checkpoint"), np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            return tuple(torch.from_numpy(found[name]) for name in found.files)
    except InputError:
        return None


def _require_same(path: Path, config: str) -> None:
    before, now = (dict(_leaves(yaml.safe_load(text))) for text in (path.read_text(encoding="utf-8"), config))
    keys = [key for key in before | now if before.get(key) != now.get(key) and not key.startswith(FREE_TO_CHANGE)]
    if keys:
        changes = "; ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys[:3])
        raise InputError(
            f"{path.parent}: is the checkpoint of another configuration ({changes}); give that configuration to go on,"
            " or leave --resume out to begin anew"
        )


def _leaves(content: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted key; paths by where they lead."""
    if isinstance(content, list | dict) and content:
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _leaves(value, f"{before}.{key}" if before else str(key))
    else:
        yield before, os.path.realpath(content) if str(content).startswith(os.sep) else content


def _require_unchanged(folder: Path, before: tuple[Tensor, ...], now: tuple[Tensor, ...]) -> None:
    if not all(torch.allclose(x, y.cpu(), rtol=SAME, atol=0, equal_nan=True) for x, y in zip(before, now, strict=True)):
        raise InputError(
            f"{folder}: the same evaluation gives another value than when it was written: the image, or another file"
            " that the configuration names, has changed; leave --resume out to begin anew"
        )


@dataclass(frozen=True, kw_only=True)
class RememberedProblem(ImageProblem):
    """A problem whose evaluations are kept in a checkpoint, and counted whether they are computed or recalled."""

    checkpoint: Checkpoint

    @classmethod
    def keeping(cls, problem: ImageProblem, checkpoint: Checkpoint) -> "RememberedProblem":
        """The problem, from now on remembered."""
        return cls(**{f.name: getattr(problem, f.name) for f in fields(problem)}, checkpoint=checkpoint)

    def loss(self, z: Tensor) -> Tensor:
        found = self._recalled("values", lambda: (super(RememberedProblem, self).loss(z),), z)[0]
        self._counted[:] = [z.clone()]
        return found

    def image(self, z: Tensor) -> Tensor:
        """Counted once with its loss, also where that was recalled."""
        before, found = self.counts.values, super().image(z)
        if self._counted and torch.equal(self._counted[0], z):
            self._counted.clear()
            self.counts.values = before
        return found

    @cached_property
    def _counted(self) -> list[Tensor]:
        """The z (n,) of the last loss, if any."""
        return []

    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self._recalled("gradients", lambda: super(RememberedProblem, self).loss_and_gradient(z), z)
        return value, gradient

    def quadratic(self, z: Tensor) -> Quadratic:
        compute = super().quadratic
        value, gradient, curvature, *image = self._recalled(
            "jacobians", lambda: tuple(part for part in compute(z) if part is not None), z
        )
        return Quadratic(value, gradient, curvature, *image)

    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor:
        compute = super().curvature_product
        return self._recalled("curvature_products", lambda: (compute(z, v),), z, v)[0]

    def _recalled(self, kind: str, compute: Callable[[], tuple[Tensor, ...]], *at: Tensor) -> tuple[Tensor, ...]:
        count = getattr(self.counts, kind) + 1
        found = self.checkpoint.recall(self._key(kind, at), compute)
        setattr(self.counts, kind, count)
        return tuple(part.to(at[0]) for part in found)

    def _key(self, kind: str, at: tuple[Tensor, ...]) -> str:
        """What tells an evaluation from every other one of the run: where, of which pixels, model and likelihood."""
        crystal, experiment = self.space.start
        probe = at[0].new_tensor([0.5, 3.0, 80.0])
        noise = [term(probe, probe.flip(0), probe[:1]) for term in (self.noise.loss, self.noise.information)]
        pixels = [self.pixels.slow.sum(), self.pixels.fast.sum()]
        parts = [*at, crystal.cells, experiment.beam.fluence, *noise, *pixels]
        names = f"{kind} {self.noise.name} {len(self.pixels)} {self.space.names} {self.restraints}"
        return _digest(names.encode(), parts)


@dataclass(frozen=True)
class _Remembered:
    """Any problem whose evaluations are kept, told from others by the digest of what it is made of; counted whether
    they are computed or recalled."""

    problem: Counted
    checkpoint: Checkpoint
    made_of: str

    def loss(self, z: Tensor) -> Tensor:
        return self._recalled("values", lambda: (self.problem.loss(z),), z)[0]

    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self._recalled("gradients", lambda: self.problem.loss_and_gradient(z), z)
        return value, gradient

    def quadratic(self, z: Tensor) -> Quadratic | Parted:
        value, gradient, curvature, *there = self._recalled("jacobians", lambda: _arrays(self.problem.quadratic(z)), z)
        if there:
            return Parted(value, gradient, Arrow(curvature, there[0].bool()))
        return Quadratic(value, gradient, curvature)

    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor:
        return self._recalled("curvature_products", lambda: (self.problem.curvature_product(z, v),), z, v)[0]

    def _recalled(self, kind: str, compute: Callable[[], tuple[Tensor, ...]], *at: Tensor) -> tuple[Tensor, ...]:
        count = getattr(self.problem.counts, kind) + 1
        found = self.checkpoint.recall(_digest(f"{self.made_of} {kind}".encode(), at), compute)
        setattr(self.problem.counts, kind, count)
        return tuple(part.to(at[0]) for part in found)


def _arrays(quadratic: QuadraticModel) -> tuple[Tensor, ...]:
    """What to keep of a quadratic: of a sum its parts, which are much less than its curvature."""
    if isinstance(quadratic, Parted):
        return quadratic.values, quadratic.gradients, quadratic.arrow.parts, quadratic.arrow.there
    return quadratic.value, quadratic.gradient, quadratic.curvature


def remembered(problem: Counted, checkpoint: Checkpoint, parts: Sequence[Tensor]) -> Problem:
    """A problem, from now on remembered; `parts` tell it from every other problem of the run."""
    return _Remembered(problem, checkpoint, _digest(b"", parts))


def _digest(words: bytes, parts: Sequence[Tensor]) -> str:
    digest = hashlib.sha256(words)
    for part in parts:
        digest.update(part.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:40]
