"""Where and with what something was measured: a number without that says nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections import Counter
from typing import Any

import torch

from bwcache.models import denoisers

PACKAGES = ("bwcache", "torch", "diffusers", "transformers")


def environment(pipe: Any) -> dict[str, Any]:
    """Versions, processor and precision, ready for JSON."""
    first = next(iter(denoisers(pipe).values()))
    tensor = next(first.parameters(), None)
    where = torch.device(
        str(getattr(pipe, "_execution_device", None) or (tensor.device if tensor is not None else "cpu"))
    )
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else f"{where.type} ({_processor()})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": _dtype(pipe),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def describe_pipeline(pipe: Any, name: str | None) -> dict[str, Any]:
    """Which model was measured: its name, its classes and the size of its denoisers in parameters."""
    parts = tuple(denoisers(pipe).values())
    return {
        "name": name or str(getattr(pipe, "name_or_path", "") or type(pipe).__name__),
        "pipeline": type(pipe).__name__,
        "denoisers": [type(part).__name__ for part in parts],
        "parameters": sum(weight.numel() for part in parts for weight in part.parameters()),
        "scheduler": type(getattr(pipe, "scheduler", None)).__name__,
    }


def _dtype(pipe: Any) -> str | None:
    """What most of the denoisers' weights are in; some stay in float32 in any case."""
    counts: Counter[str] = Counter()
    for part in denoisers(pipe).values():
        for weight in part.parameters():
            counts[str(weight.dtype).removeprefix("torch.")] += weight.numel()
    return counts.most_common(1)[0][0] if counts else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
