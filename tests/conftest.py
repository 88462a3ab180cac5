"""Settings of all tests: hypothesis gives the same examples each time, a warning that nobody expects is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "laws", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("laws")

HERE = Path(__file__).parent
STRICT = ("core", "docs", "models", "policies", "shapes", "test_extras.py", "test_layers.py", "test_public.py")
"""Where a warning is an error; to grow until it is everywhere."""

THEIRS = (
    # diffusers renamed an argument; the old name works in every version that is claimed
    "ignore:`torch_dtype` is deprecated:FutureWarning",
    # diffusers imports a class of its own by its old path
    "ignore:`FluxPosEmbed` is deprecated:FutureWarning",
    # diffusers' Mochi asks for autocast to float32, which a CPU does not have
    "ignore:In CPU autocast, but the target dtype is not supported:UserWarning",
    # diffusers' solvers turn tensors into arrays in numpy's old way
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    # torch, of layers without weights in tiny configurations
    "ignore:Initializing zero-element tensors is a no-op:UserWarning",
    # torch, of attention that nobody compiled
    "ignore:flex_attention called without torch.compile:UserWarning",
)
"""What other people's code says and no test can mend."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's own filters come after these, and weigh more."""
    strict = pytest.mark.filterwarnings("error", *THEIRS)
    for item in items:
        if HERE in item.path.parents and item.path.relative_to(HERE).parts[0] in STRICT:
            item.add_marker(strict, append=False)
