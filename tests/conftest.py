"""Settings of all tests: hypothesis gives the same examples each time, a warning that nobody expects is an error."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "laws", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("laws")

HERE = Path(__file__).parent
LENIENT = ("gpu", "ray")
"""Where a warning is none yet, to shrink until it is nowhere; and where Ray warns of its own doings."""


def pytest_collection_finish() -> None:
    """What was imported by now stays: nobody need look through it for what may go, again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's own filters come after these, and weigh more."""
    lenient = pytest.mark.filterwarnings("default")
    for item in items:
        if HERE in item.path.parents and item.path.relative_to(HERE).parts[0] in LENIENT:
            item.add_marker(lenient, append=False)
