"""The kinds of options: what follows them on the command line, and what they set."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from refine.app.nanobragg.given import RADIAN_IN_DEGREES
from refine.app.nanobragg.words import Reading

Words = Sequence[str]
Fields = dict[str, Any]
Unit = Callable[[float], float]


@dataclass(frozen=True)
class Option:
    """An option of nanoBragg.c.

    names: the program takes every word that contains one of them for this option (with `exact`: that is one of them).
    values: what follows, a word for each. meaning: one line for the user.
    sets: the fields of `Given` that its values set. count: how many values follow, where that depends on them.
    final: no other option is sought in the word.
    """

    names: tuple[str, ...]
    values: str
    meaning: str
    sets: Callable[[Words, Reading], Fields]
    count: Callable[[Words], int] | None = None
    exact: bool = False
    final: bool = False

    def name_in(self, word: str) -> str:
        """The name that makes `word` this option; empty where none does."""
        found = [name for name in self.names if (word == name if self.exact else name in word)]
        return max(found, key=len, default="")

    def count_in(self, following: Words) -> int:
        """How many of the following words are its values."""
        return self.count(following) if self.count else len(self.values.split())


def over(divisor: float) -> Unit:
    """Division by `divisor`: the rounding of nanoBragg.c's conversions depends on it."""
    return lambda value: value / divisor


def times(factor: float) -> Unit:
    """Multiplication by `factor`."""
    return lambda value: value * factor


def from_electronvolts(value: float) -> float:
    """Wavelength in m of an energy in eV."""
    if not value:
        raise ValueError("an energy of 0 eV has no wavelength")
    return (12398.42 / value) / 1.0e10


AS_IS, DEGREES, MILLIMETRES, MILLIRADIANS, PERCENT = (
    over(1.0),
    over(RADIAN_IN_DEGREES),
    over(1000.0),
    over(1000.0),
    over(100.0),
)


def number(
    names: str, values: str, meaning: str, *fields: str, unit: Unit = AS_IS, exact: bool = False, **also: Any
) -> Option:
    """One number for all `fields`, turned into SI units by `unit`; `also` is set with it."""

    def sets(words: Words, read: Reading) -> Fields:
        return dict.fromkeys(fields, unit(read.number(words[0]))) | also

    return Option(tuple(names.split()), values, meaning, sets, exact=exact)


def integer(names: str, values: str, meaning: str, *fields: str, exact: bool = False, sign: int = 1) -> Option:
    """One whole number for all `fields`."""

    def sets(words: Words, read: Reading) -> Fields:
        return dict.fromkeys(fields, sign * read.integer(words[0]))

    return Option(tuple(names.split()), values, meaning, sets, exact=exact)


def integers(names: str, values: str, meaning: str, field: str) -> Option:
    """As many whole numbers as `values` has words, a tuple."""
    count = len(values.split())
    return Option(
        tuple(names.split()),
        values,
        meaning,
        lambda words, read: {field: tuple(read.integer(word) for word in words[:count])},
    )


def vector(name: str, meaning: str, field: str) -> Option:
    """Three numbers, not all zero; makes the convention a custom one."""

    def sets(words: Words, read: Reading) -> Fields:
        found = tuple(read.number(word) for word in words[:3])
        if not math.hypot(*found):
            raise ValueError("0 0 0 has no direction")
        return {field: found, "convention": "custom"}

    return Option((name,), "x y z", meaning, sets)


def text(names: str, values: str, meaning: str, field: str, exact: bool = False, **also: Any) -> Option:
    """One word, the name of a file."""

    def sets(words: Words, read: Reading) -> Fields:
        if words[0].startswith("-"):
            raise ValueError(f"'{words[0]}' is an option, not a file")
        return {field: words[0]} | also

    return Option(tuple(names.split()), values, meaning, sets, exact=exact)


def flag(names: str, meaning: str, final: bool = False, **sets: Any) -> Option:
    """No value."""
    return Option(tuple(names.split()), "", meaning, lambda words, read: dict(sets), final=final)


def ignored(names: str, values: str, meaning: str, exact: bool = False) -> Option:
    """Read over: nanoBragg.c does nothing with it."""
    return Option(tuple(names.split()), values, meaning, lambda words, read: {}, exact=exact)


def cell_count(following: Words) -> int:
    """One to six numbers, up to the next word that begins with a minus sign."""
    numbers = 0
    while numbers < min(6, len(following)) and not following[numbers].startswith("-"):
        numbers += 1
    return max(numbers, 1)


def cell_fields(words: Words, read: Reading) -> Fields:
    """`-cell`: lengths in Å, angles in degrees; what is left out stays as an earlier `-cell` has it."""
    numbers = [read.number(word) for word in words[:6]]
    if min(numbers) < 0:
        raise ValueError("a cell has no negative lengths or angles")
    if not numbers[0]:
        raise ValueError("the first length is 0 Å")
    sides, angles = numbers[:3], [DEGREES(angle) for angle in numbers[3:]]
    names = ("cell_a", "cell_b", "cell_c", "cell_alpha", "cell_beta", "cell_gamma")
    return dict(zip(names, [*sides, *angles], strict=False))


def misset_count(following: Words) -> int:
    """`random`, or three angles."""
    return 1 if following and "rand" in following[0] else 3


def misset_fields(words: Words, read: Reading) -> Fields:
    """`-misset`: degrees, or `random`."""
    if "rand" in words[0]:
        return {"misset_random": True}
    return {"misset": tuple(DEGREES(read.number(word)) for word in words[:3]), "misset_random": False}


def attenuation_fields(words: Words, read: Reading) -> Fields:
    """`-detector_abs`: µm; `inf` and 0 also take away the thickness given so far."""
    depth = 0.0 if "inf" in words[0] else read.number(words[0])
    return {"attenuation": 1.0 / (depth * 1e-6)} if depth else {"attenuation": 0.0, "sensor_thickness": 0.0}


def pivot_fields(words: Words, read: Reading) -> Fields:
    """`-pivot`: beam or sample."""
    found = [pivot for pivot in ("sample", "beam") if pivot in words[0]]
    if not found:
        raise ValueError(f"'{words[0]}' is no pivot; accepted are beam and sample")
    return {"pivot": found[-1]}
