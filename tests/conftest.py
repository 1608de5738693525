"""Shared set-up: the helper module beside this file, one deterministic profile for the property-based tests."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

torch.set_num_threads(1)  # the tensors here are small: threads would only wait for each other

settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("deterministic")


@pytest.fixture
def rng() -> torch.Generator:
    """Random numbers, the same in every run."""
    return torch.Generator().manual_seed(20240607)
