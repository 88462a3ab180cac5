"""What the tests of compiled models share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters


@pytest.fixture(autouse=True)
def _forget_what_was_compiled() -> Any:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def close(made: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)


def never_again() -> Any:
    """In here, compiling anything once more is an error."""
    return torch._dynamo.config.patch(error_on_recompile=True)
