"""Latents that come as a list of tensors, such as picture and sound: one tensor for all that is decided and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from bwcache.models.streams import Stream

Shapes = Sequence[Sequence[int]]
Denoise = Callable[..., Any]


def as_one(
    stream: Stream,
    call: Callable[[Denoise, tuple[Any, ...], dict[str, Any]], Any],
    inner: Denoise,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return what `call(inner, args, kwargs)` returns, in which a list of latents enters and leaves as one tensor.

    Args:
        stream: the denoiser's latents: a list of tensors `[B, …]`, or one tensor as anywhere else.
        call: makes something of a denoiser and its arguments.
        inner: the denoiser, which takes and returns a list.
    """
    listed = stream.read(args, kwargs)
    if not isinstance(listed, (list, tuple)):
        return call(inner, args, kwargs)
    shapes = [part.shape[1:] for part in listed]

    def on_list(*args: Any, **kwargs: Any) -> Any:
        parts = apart(stream.read(args, kwargs), shapes)
        args, kwargs = stream.replaced(parts, args, kwargs)
        return joined(inner(*args, **kwargs))

    made = call(on_list, *stream.replaced(joined(listed), args, kwargs))
    if isinstance(made, tuple):
        return (apart(made[0], shapes), *made[1:])
    return made if len(shapes) == 1 else apart(made, shapes)


def joined(parts: Any) -> Any:
    """Return tensors `[B, …]` as one, `[B, 1, N]`; one alone as it is; of a tuple that begins with a list, its list."""
    if isinstance(parts, Tensor):
        return parts
    if isinstance(parts, tuple) and isinstance(parts[0], list):
        return (joined(parts[0]), *parts[1:])
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.reshape(len(part), 1, -1) for part in parts], 2)


def apart(whole: Tensor, shapes: Shapes) -> list[Tensor]:
    """Return the reverse of `joined`, for tensors of these shapes without the batch."""
    if len(shapes) == 1:
        return [whole]
    parts = whole.split([prod(shape) for shape in shapes], 2)
    return [part.reshape(len(whole), *shape) for part, shape in zip(parts, shapes, strict=True)]
