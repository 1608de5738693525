"""What every part of the configuration is made of: a frozen section, its number types, its cross-checks.

A field's description ends with its unit in square brackets; messages to the user take the unit from there.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


class Problem(NamedTuple):
    """A value that its type allows and its meaning does not."""

    key: str  # dotted, relative to the section that reports it; '' for the value itself
    found: object
    accepted: str


def reject(problems: Iterable[Problem]) -> NoReturn:
    """Fail pydantic's validation with these problems; `refine.app.config_errors` puts them into words."""
    listed = tuple(problems)
    text = "; ".join(f"{p.key} is {p.found!r}, accepted: {p.accepted}" for p in listed)
    raise PydanticCustomError("problems", "{text}", {"text": text, "problems": listed})


class Section(BaseModel):
    """A frozen mapping of the configuration; a key it does not declare is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def problems(self) -> Iterable[Problem]:
        """What is wrong between this section's keys, each of which is right alone."""
        return ()

    @model_validator(mode="after")
    def _check_problems(self) -> Self:
        if found := tuple(self.problems()):
            reject(found)
        return self


def _not_empty(value: Any) -> Any:
    if value == "":
        raise ValueError("empty file name")
    return value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[Whole, Field(ge=1)]
Text = Annotated[str, Field(strict=True)]
FileName = Annotated[Path, BeforeValidator(_not_empty)]
Vector = tuple[Number, Number, Number]
