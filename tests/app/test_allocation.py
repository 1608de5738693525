"""What the process asks of the C library's allocator."""

import os
import resource
import subprocess
import sys

import pytest

PASSES = 200
FAULTS = """
import resource, sys
import torch
from refine.app.allocation import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
torch.set_num_threads(1)

def tile():
    return [torch.ones(1 << 15).double() for _ in range(20)]

tile()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(int(sys.argv[2])):
    tile()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages fetched anew while a process makes and frees a tile's arrays a few hundred times, where the allocator does
    not find a threshold by itself."""
    fixed = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", FAULTS, how, str(PASSES)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=fixed).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_pages_are_fetched_once() -> None:
    arrays = 20 * (1 << 18) // resource.getpagesize()
    assert faults("kept") < arrays
    assert faults("returned") > PASSES * arrays / 4
