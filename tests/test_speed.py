"""How long the image and its derivatives take: recorded with `--benchmark-enable --benchmark-json=FILE`, never judged.
What is judged is that there is something to time."""

from pathlib import Path

import pytest
import torch

from refine.app.benchmark import kernel_worker as worker
from refine.app.benchmark.kernel_config import KernelCase

STILL = Path(__file__).parents[1] / "configs" / "benchmark" / "kernel.yaml"
SMALL = ("detector.size=[96, 96]", "detector.beam_center_px=[48, 48]")
MOSAIC = "crystal.mosaic={spread_deg: 0.1, domains: 10}"


@pytest.mark.parametrize("operation", worker.OPERATIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_speed(benchmark, operation: str, dtype: str) -> None:
    threads = torch.get_num_threads()
    try:
        steps, note = worker.prepare(
            worker.Way(KernelCase(name="small", config=STILL, settings=(*SMALL, MOSAIC)), dtype, "eager")
        )
        found = benchmark(worker.measure, operation)
    finally:
        torch.set_num_threads(threads)
    benchmark.extra_info["steps"] = steps
    assert steps == 96 * 96 * 10
    assert note == "F = 100 for every reflection"
    assert found["ns"] > 0
