"""Which heights, widths and lengths a pipeline can make, found before anything is computed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from bwcache.errors import SettingError, complaint
from bwcache.measure.inputs import answered
from bwcache.models.table import ROWS

SPATIAL = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_spatial_scale_factor", "vae_scale_factor")
TEMPORAL = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
ANY_LENGTH = frozenset(name for row in ROWS if row.any_length for name in row.pipelines)


def check_sizes(
    pipe: Any,
    height: int | None,
    width: int | None,
    frames: int | None,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Raise when a pipeline cannot make a video of these sizes; None means the pipeline's own default.

    Args:
        pipe: a diffusers pipeline, with or without weights.
        height: pixels.
        width: pixels.
        frames: number of frames.
        arguments: whatever else its call is given, such as an image, without which it would not look at sizes.

    Raises:
        SettingError: with the nearest sizes that work.
    """
    multiple = spatial_multiple(pipe, arguments)
    for name, size in (("height", height), ("width", width)):
        if size is not None and (size < multiple or size % multiple):
            _refuse(pipe, name, size, f"a multiple of {multiple}", _nearest(size, multiple, 0))
    group = temporal_multiple(pipe)
    if frames is not None and (frames < 1 or (frames - 1) % group):
        rule = f"a multiple of {group} plus 1" if group > 1 else "at least 1"
        _refuse(pipe, "frames", frames, rule, _nearest(frames, group, 1))
    _ask_pipeline(pipe, height, width, arguments or {})


def spatial_multiple(pipe: Any, arguments: Mapping[str, Any] | None = None) -> int:
    """Pixels that heights and widths must be a multiple of: autoencoder times patch, and what the pipeline asks."""
    factor = next((int(getattr(pipe, name)) for name in SPATIAL if getattr(pipe, name, None)), 1)
    multiple = factor * _patch(pipe)
    asked = re.search(
        r"divisible by (\d+)",
        answered(pipe, {"prompt": "a", "height": multiple, "width": 1, **(arguments or {})}) or "",
    )
    return math.lcm(multiple, int(asked.group(1))) if asked else multiple


def temporal_multiple(pipe: Any) -> int:
    """Frames after the first come in groups of this many."""
    if type(pipe).__name__ in ANY_LENGTH:
        return 1
    return next((int(getattr(pipe, name)) for name in TEMPORAL if getattr(pipe, name, None)), 1)


def _patch(pipe: Any) -> int:
    config = getattr(getattr(pipe, "transformer", None), "config", None)
    patch = getattr(config, "patch_size", None) or 1
    return int(max(patch[-2:])) if isinstance(patch, (list, tuple)) else int(patch)


def _ask_pipeline(pipe: Any, height: int | None, width: int | None, arguments: Mapping[str, Any]) -> None:
    if height is None or width is None:
        return
    answer = answered(pipe, {"prompt": "a", "height": height, "width": width, **arguments})
    if answer is not None and re.search(r"height|width|resolution", answer):
        found = f"height {height} and width {width} ({' '.join(answer.split())})"
        raise SettingError(complaint(found, f"sizes that {type(pipe).__name__} can make", "choose others"))


def _nearest(size: int, multiple: int, offset: int) -> str:
    """The working sizes below and above, in words."""
    below = (size - offset) // multiple * multiple + offset
    sizes = [one for one in (below, below + multiple) if one >= max(1, multiple * (offset == 0))]
    return " or ".join(map(str, sizes)) if sizes else str(multiple if offset == 0 else 1)


def _refuse(pipe: Any, name: str, size: int, rule: str, nearest: str) -> None:
    raise SettingError(complaint(f"{name} {size}", f"{rule} for {type(pipe).__name__}", f"use {nearest}"))
