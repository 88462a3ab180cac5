"""torchvision from a registry is built for CUDA; beside a torch for the CPU it misses operators that nobody calls."""

from __future__ import annotations

import sys
from typing import Any

import torch

_DEFINED: list[Any] = []


def make_importable() -> None:
    """Define the operators that an import of torchvision asks for, where that fails without them."""
    try:
        import torchvision  # type: ignore[import-untyped,import-not-found]  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DEFINED.append(library)
