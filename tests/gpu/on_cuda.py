"""The tiny pipelines, on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import CASES, VIDEO_TO_VIDEO, WAN, Case

DEVICE = torch.device("cuda", 0)


def on_cuda(case: Case, dtype: torch.dtype = torch.float32) -> Case:
    """The same case with its pipeline and its tensors there."""
    call = {name: _moved(value, dtype) for name, value in case.call.items()}
    return replace(case, build=lambda: case.build().to(DEVICE, dtype), call=call)


def _moved(value: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(DEVICE, dtype) if value.is_floating_point() else value.to(DEVICE)


each_case_on_cuda = pytest.mark.parametrize(
    "case",
    [on_cuda(case) for case in (*CASES, VIDEO_TO_VIDEO)] if torch.cuda.is_available() else CASES,
    ids=lambda case: case.name,
)


def wan_case() -> Case:
    """Wan's."""
    return on_cuda(WAN)
