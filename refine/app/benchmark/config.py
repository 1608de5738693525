"""The schema of an optimizer benchmark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from refine.app.config_base import Count, FileName, Number, Positive, Problem, Section, Text, Vector, Whole
from refine.app.config_crystal import Cell
from refine.app.config_refinement import Optimizer


class Truth(Section):
    """What the case's image was made with."""

    cell: Cell = Field(description="true cell [Å and degrees]", examples=[[70, 80, 90, 85, 95, 105]])
    misset_deg: Vector = Field(description="true rotation about lab x, y, z [degrees]", examples=[[0, 0, 0]])


class Case(Section):
    """A refinement whose answer is known."""

    name: Text = Field(description="what tables and pictures call it", examples=["triclinic"])
    config: FileName = Field(description="configuration of a refinement, relative to this file", examples=["a.yaml"])
    settings: tuple[Text, ...] = Field(default=(), description="settings written over it, as key.path=value")
    truth: Truth | None = Field(
        default=None,
        description="of the configuration's image; null: the configuration's own crystal is the truth, and its image is"
        " simulated with noise from the configuration's seed",
    )


class Contestant(Optimizer):
    """An optimizer with its options and strategy."""

    label: Text | None = Field(default=None, description="what tables and pictures call it; null: its name")
    strategy: Literal["single", "auto"] = Field(
        default="single", description="single: from the start as given; auto: by the stages `refine run` would take"
    )

    @property
    def title(self) -> str:
        """Its label, or its name."""
        return self.label or self.name


_Scale = Annotated[Number, Field(gt=0, le=20, description="starting error [%]")]


class OptimizerBenchmark(Section):
    """Optimizers x cases x starting errors x starts."""

    kind: Literal["optimizers"] = Field(description="kind of benchmark", examples=["optimizers"])
    title: Text = Field(default="", description="free text")
    cases: tuple[Case, ...] = Field(
        description="refinements with known answers", examples=[[{"name": "triclinic", "config": "triclinic.yaml"}]]
    )
    optimizers: tuple[Contestant, ...] = Field(description="optimizers compared", examples=[[{"name": "lm"}]])
    scales: tuple[_Scale, ...] = Field(
        default=(1.0, 2.0, 4.0),
        description="starting errors s: cell edges within s %, free angles and each misset angle within s/2 degrees of"
        " the truth, drawn uniformly [%]",
    )
    starts: Count = Field(default=5, description="starts drawn at each scale [starts]")
    seed: Annotated[Whole, Field(ge=0)] = Field(default=0, description="seed of the starts")
    success: Positive = Field(
        default=6.0, description="largest chi-squared a parameter, under the true Fisher information, of a success"
    )
    processes: Count | None = Field(default=None, description="processes; null: one a core [processes]")
    directory: FileName = Field(default=Path("benchmark"), description="folder of the results")

    def problems(self) -> Iterator[Problem]:
        for key, names in (
            ("cases", [case.name for case in self.cases]),
            ("optimizers", [optimizer.title for optimizer in self.optimizers]),
            ("scales", [str(scale) for scale in self.scales]),
        ):
            if not names:
                yield Problem(key, [], "a list of 1 or more")
            if repeated := [name for k, name in enumerate(names) if name in names[:k]]:
                yield Problem(key, names, f"different names; {repeated[0]!r} is there twice (give a label)")
