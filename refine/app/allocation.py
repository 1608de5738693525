"""How the process holds memory: the one place that speaks to the C library's allocator."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 1 << 28  # bytes that may lie free at the end of the heap
OWN_PAGES = 1 << 25  # bytes from which an array has pages of its own, given back when it is freed; the most glibc takes


def keep_freed_memory() -> None:
    """Let the arrays of one tile lie where those of the last one lay. The C library would give their pages back to the
    system each time, and fetching them anew takes up to a third of a run. Nothing happens where it is not glibc."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, OWN_PAGES)
