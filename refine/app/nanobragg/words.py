"""Numbers as words of a command line: strictly, or as C reads them."""

import math
import re
from typing import Protocol

_NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_INTEGER = re.compile(r"\s*[-+]?\d+")
_WHOLE = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)")


class Reading(Protocol):
    """How a word becomes a number; raises ValueError where it does not."""

    def number(self, word: str) -> float: ...

    def integer(self, word: str) -> int: ...


class Strict:
    """The word is a number from its first to its last letter."""

    def number(self, word: str) -> float:
        if not _NUMBER.fullmatch(word) or not math.isfinite(float(word)):
            raise ValueError(f"'{word}' is not a number")
        return float(word)

    def integer(self, word: str) -> int:
        """Cut to a whole number, as C's atoi cuts it."""
        if not _WHOLE.fullmatch(word):
            raise ValueError(f"'{word}' is not a whole number")
        return int(float(word)) if "." in word else int(word)


class Lenient:
    """As C's atof and atoi: the number a word begins with, 0 where there is none."""

    def number(self, word: str) -> float:
        match = _NUMBER.match(word)
        return float(match[0]) if match else 0.0

    def integer(self, word: str) -> int:
        match = _INTEGER.match(word)
        return int(match[0]) if match else 0
