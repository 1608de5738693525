"""Whether the sum over steps is compiled: the one place that asks the environment, each time it is called."""

import os
import shutil

DISABLE = "NANOBRAGG_DISABLE_COMPILE"
COMPILERS = ("g++", "clang++", "c++", "cl")
SECONDS_A_STEP = 1e-7  # of value and derivatives, eager, one core
EVALUATIONS = 12  # of a typical refinement
WORTHWHILE = 60.0  # seconds of eager work: compiling takes ten or twenty the first time, and saves two thirds


def decide_compilation(setting: bool | str, steps: float) -> tuple[bool, str | None]:
    """Whether to compile for a setting true, false or 'auto' and a number of steps (sub-pixels x domains x phi), and
    a line to print where a wish could not be granted.

    NANOBRAGG_DISABLE_COMPILE=1 in the environment wins over everything.
    """
    if os.environ.get(DISABLE) == "1" or setting is False:
        return False, None
    if setting == "auto" and steps * SECONDS_A_STEP * EVALUATIONS < WORTHWHILE:
        return False, None
    if not any(map(shutil.which, (os.environ.get("CXX") or COMPILERS[0], *COMPILERS))):
        return False, "no C++ compiler was found (g++ or clang++), so nothing is compiled; the numbers are the same"
    return True, None
