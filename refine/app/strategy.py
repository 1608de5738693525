"""Which way a refinement takes from its start: stages that are data, each through the one loop of
`refine.solvers.loop`."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from refine.app.config_refinement import Stage
from refine.problem.centroids import INDEXED, CentroidStart, centroid_starts
from refine.problem.coarse import carried, near_spots, with_smaller_crystal
from refine.problem.judgement import Evidence, explained_share, gather, judge
from refine.problem.problem import ImageProblem
from refine.problem.quadratic import Quadratic
from refine.problem.spots import Spots, observed_spots
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.loop import Stop, solve
from refine.solvers.protocol import Solver
from refine.solvers.solution import Record, Solution, Status

FEW_INDEXED = 0.3  # below it the spots do not agree on a lattice; by chance (2 * INDEXED)^3 would be indexed
NEAR = 0.65  # of a spot's photons where the start has some, on average: the image itself then leads to the minimum
SLIGHT_DAMPING = 1e-6  # of Levenberg-Marquardt, for a start that the spots' pixels have refined
ENOUGH_SPOTS = 20  # fewer leave the spots' own pixels with too little to go by

INDEXING, WHOLE = Stage(stage="indexing"), Stage(stage="pixels")
SPOTS = Stage(stage="pixels", spots_only=True, max_iterations=20)
WIDE = tuple(Stage(stage="pixels", cells_factor=factor, max_iterations=15) for factor in (0.3, 0.5, 0.75))

Strategy = Literal["auto", "single", "stages"]


@dataclass(frozen=True)
class Place:
    """A z (n,), with its expected image (P,) and loss () computed when first asked for, unless the image is known."""

    problem: ImageProblem
    z: Tensor
    known: Tensor | None = None

    @cached_property
    def image(self) -> Tensor:
        return self.problem.image(self.z) if self.known is None else self.known

    @cached_property
    def loss(self) -> Tensor:
        return self.problem.loss_of(self.z, self.image)


@dataclass(frozen=True)
class Refined:
    """A solution, judged; where it is, and what speaks for it; the stages that led to it; and the given start.

    Without evidence and stages where it was interrupted before the first iteration.
    """

    solution: Solution
    end: Place
    evidence: Evidence | None
    stages: tuple[Stage, ...]
    start: Place

    @property
    def given_loss(self) -> float:
        """The start's loss, not a number where it is not known because of an interrupt."""
        return math.nan if self.evidence is None else float(self.start.loss)


def refine_image(
    problem: ImageProblem,
    solver: Solver | None = None,
    strategy: Strategy = "auto",
    stages: Sequence[Stage] = (),
    stop: Stop | None = None,
    observe: Callable[[Record], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    passing: Callable[[str], None] = lambda _: None,
) -> Refined:
    """Refine against an image by a strategy.

    'auto' looks at how far off the start seems. Near, it goes to the pixels, those of the spots first; else by way of
    the spots' positions. Where the answer looks false it tries what is left: the other way, and models of fewer cells,
    whose spots are wider. 'single' is the last stage alone, 'stages' those given. `solver` does the last stage,
    Levenberg-Marquardt those before. `observe` gets the last stage's records, `say` a line on what is done,
    `passing` one on every step of the stages before.
    """
    spots = observed_spots(problem.observation, problem.space.start)
    found = _Refinement(problem, solver or LevenbergMarquardt(), stop or Stop(), observe, say, passing, spots)
    return found.run(strategy, tuple(stages))


@dataclass(frozen=True)
class _Refinement:
    problem: ImageProblem
    solver: Solver
    stop: Stop
    observe: Callable[[Record], None]
    say: Callable[[str], None]
    passing: Callable[[str], None]
    spots: Spots

    @cached_property
    def many(self) -> bool:
        return len(self.spots.fast) >= ENOUGH_SPOTS

    @cached_property
    def near(self) -> ImageProblem:
        """The problem on the spots' own pixels."""
        return near_spots(self.problem, self.spots)

    def run(self, strategy: Strategy, given: tuple[Stage, ...]) -> Refined:
        start = Place(self.problem, self.problem.space.zero())
        best: Refined | None = None
        for stages in self._plans(strategy, given, start):
            found = self._through(stages, start)
            solution = found.solution
            best = found if best is None or _rank(found) > _rank(best) else best
            if solution.status is Status.INTERRUPTED:
                stopped = replace(best.solution, status=solution.status, reason=solution.reason)
                return replace(best, solution=stopped)
            if solution.status is Status.CONVERGED or (found.evidence and found.evidence.convincing):
                break
            self.say(f"{solution.status.value}: {solution.reason}")
        assert best is not None
        return best

    def _plans(self, strategy: Strategy, given: tuple[Stage, ...], start: Place) -> Iterator[tuple[Stage, ...]]:
        """The stages to try, one list after the other while the answer looks wrong."""
        if strategy != "auto":
            yield given if strategy == "stages" else (WHOLE,)
            return
        level = self.problem.space.start.experiment.background.photons(self.near.pixels)
        _, met = explained_share(self.near, self.spots, self.near.image(start.z) - level)
        self.say(f"{len(self.spots.fast)} spots, the start has photons for {100 * met:.0f} % of theirs")
        if self.many and met >= NEAR:
            yield (SPOTS, WHOLE)
        yield (INDEXING, SPOTS, WHOLE)
        yield (*WIDE, WHOLE)

    def _through(self, stages: tuple[Stage, ...], start: Place) -> Refined:
        place = start
        for stage in stages[:-1]:
            place = self._index(place) if stage.stage == "indexing" else self._coarse(stage, place)
        solution = solve(self.problem, self._last(stages), place.z, self.stop, self.observe)
        known = solution.quadratic.image if isinstance(solution.quadratic, Quadratic) else None
        end = Place(self.problem, solution.z, known)
        evidence = gather(self.problem, end.z, end.image, self.spots)
        return Refined(judge(self.problem, solution, evidence), end, evidence, stages, start)

    def _last(self, stages: tuple[Stage, ...]) -> Solver:
        """The solver of the last stage; where spots led to it, with full steps from the beginning."""
        if SPOTS in stages and isinstance(self.solver, LevenbergMarquardt):
            return replace(self.solver, initial_damping=min(self.solver.initial_damping, SLIGHT_DAMPING))
        return self.solver

    def _index(self, place: Place) -> Place:
        """Where spot positions lead, if that is somewhere better."""
        found = [
            start
            for start in _distinct(centroid_starts(self.problem.space, self.spots))
            if start.indexed >= FEW_INDEXED and self.problem.space.admits(start.z)
        ]
        models = [place.z, *(start.z for start in found)]
        looked_at = self.near if self.many else near_spots(self.problem, self.spots, *models)
        best, note = Place(looked_at, place.z), "spot positions lead nowhere better"
        for start in found:
            there = Place(looked_at, start.z)
            if there.loss < best.loss:
                share = f"{100 * start.indexed:.0f} % of the spots within {INDEXED} of whole Miller indices"
                best, note = there, f"start from spot positions ({share})"
        self.say(note)
        return Place(self.problem, best.z)

    def _coarse(self, stage: Stage, place: Place) -> Place:
        """Where a stage on the way ends."""
        problem = self.problem
        if stage.spots_only:
            problem = self.near if self.many else near_spots(problem, self.spots, place.z)
        if stage.cells_factor < 1:
            problem = with_smaller_crystal(problem, stage.cells_factor)
        z = carried(problem.space, problem.space.zero(), self.problem.space, place.z)
        stop = replace(self.stop, max_iterations=stage.max_iterations or self.stop.max_iterations)
        solution = solve(problem, LevenbergMarquardt(), z, stop, self._on_the_way)
        if solution.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        return Place(self.problem, carried(self.problem.space, place.z, problem.space, solution.z))

    def _on_the_way(self, record: Record) -> None:
        self.passing(f"on the way: step {record.iteration}, loss {record.loss:.6f}, {record.seconds:.1f} s")


def _rank(found: Refined) -> tuple[bool, float]:
    """A believable answer before any other, then the lower loss."""
    return found.solution.status is Status.CONVERGED, -float(found.solution.quadratic.value)


def _distinct(starts: Sequence[CentroidStart]) -> Iterator[CentroidStart]:
    """Those that differ by more than a hundredth of what an image shows."""
    kept: list[CentroidStart] = []
    for start in starts:
        if all(float((start.z - other.z).abs().max()) > 0.01 for other in kept):
            kept.append(start)
            yield start
