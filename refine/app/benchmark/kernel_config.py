"""The schema of a kernel benchmark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from refine.app.config_base import Count, FileName, Number, Problem, Section, Text

_Fraction = Annotated[Number, Field(gt=0, le=1, description="part of the pixels")]


class KernelCase(Section):
    """What is simulated: a configuration without an image."""

    name: Text = Field(description="what tables and pictures call it", examples=["still"])
    config: FileName = Field(description="configuration, relative to this file", examples=["still.yaml"])
    settings: tuple[Text, ...] = Field(default=(), description="settings written over it, as key.path=value")


class Scaling(Section):
    """How the cost of value and Jacobian grows, in the first dtype and mode."""

    case: Text = Field(description="name of the case that is varied", examples=["still"])
    pixels: tuple[_Fraction, ...] = Field(default=(0.0625, 0.125, 0.25, 0.5, 1.0), description="parts of the pixels")
    domains: tuple[Count, ...] = Field(default=(8, 16, 32, 64), description="mosaic domains")
    threads: tuple[Count, ...] = Field(default=(1, 2), description="CPU threads [threads]")


class KernelBenchmark(Section):
    """Time and memory of the simulator and its derivatives: cases x dtypes x modes."""

    kind: Literal["kernel"] = Field(description="kind of benchmark", examples=["kernel"])
    title: Text = Field(default="", description="free text")
    cases: tuple[KernelCase, ...] = Field(
        description="what is simulated", examples=[[{"name": "still", "config": "still.yaml"}]]
    )
    dtypes: tuple[Literal["float64", "float32"], ...] = Field(
        default=("float64", "float32"), description="precisions compared"
    )
    modes: tuple[Literal["compiled", "eager"], ...] = Field(default=("compiled", "eager"), description="ways to run")
    rounds: Count = Field(default=5, description="rounds of measurements, of which medians are taken [rounds]")
    scaling: Scaling | None = Field(default=None, description="how the cost grows; null: not measured")
    directory: FileName = Field(default=Path("benchmark"), description="folder of the results")

    def problems(self) -> Iterator[Problem]:
        names = [case.name for case in self.cases]
        for key in ("cases", "dtypes", "modes"):
            if not getattr(self, key):
                yield Problem(key, [], "a list of 1 or more")
        if repeated := [name for k, name in enumerate(names) if name in names[:k]]:
            yield Problem("cases", names, f"different names; {repeated[0]!r} is there twice")
        if self.scaling and self.scaling.case not in names:
            yield Problem("scaling.case", self.scaling.case, f"one of the cases: {', '.join(names)}")
