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


class AsOne:
    """What is made of a denoiser whose latents may be a list: there they enter and leave as one tensor.

    Args:
        stream: the denoiser's latents: a list of tensors `[B, …]`, or one tensor as anywhere else.
        call: makes something of a denoiser and its arguments.
    """

    def __init__(self, stream: Stream, call: Callable[[Denoise, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        self._stream, self._call = stream, call
        self._form = _form([])

    def __call__(self, inner: Denoise, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what `call` makes of a denoiser and its arguments, in the form in which that one returns it."""
        stream = self._stream
        listed = stream.read(args, kwargs)
        if not isinstance(listed, (list, tuple)):
            return self._call(inner, args, kwargs)
        shapes = [part.shape[1:] for part in listed]

        def on_list(*args: Any, **kwargs: Any) -> Any:
            parts = apart(stream.read(args, kwargs), shapes)
            args, kwargs = stream.replaced(parts, args, kwargs)
            returned = inner(*args, **kwargs)
            self._form = _form(returned)
            return joined(returned)

        made = self._call(on_list, *stream.replaced(joined(listed), args, kwargs))
        return self._form(made, shapes)


def _form(returned: Any) -> Callable[[Any, Shapes], Any]:
    """What gives one tensor the form in which a denoiser returned its own: a tensor, a list, or either in a tuple."""
    if isinstance(returned, Tensor):
        return lambda whole, shapes: whole
    if isinstance(returned, tuple) and isinstance(returned[0], list):
        return lambda made, shapes: (apart(made[0], shapes), *made[1:])
    kind = type(returned)
    return lambda whole, shapes: kind(apart(whole, shapes))


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
