"""Two steps whose times were rounded to the same number, told by what else a denoiser is given."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from bwcache.engine.clock.call import Call, leaves

NEAR = 1 / 8
"""How far latents can move, relative to their norm, while the time does not: bfloat16 rounds to one part in 256."""


class FirstForward:
    """What a denoiser was given in the first forward of a step.

    Branches of one step share their latents and differ in something else. The next step has other latents, close to
    these, and all else the same. What is neither, a tile or a perturbed input, is left to the number of forwards.

    Everything is copied: a sampler may write into its own tensors.
    """

    def __init__(self, call: Call) -> None:
        self._names, values = _apart(call)
        self._values = [value.clone() if isinstance(value, Tensor) else value for value in values]

    def is_followed_by(self, call: Call) -> bool:
        """Return whether a forward is of the step after this one. Reads the device."""
        names, values = _apart(call)
        pairs = list(zip(self._values, values, strict=False))
        latents = next((i for i, value in enumerate(values) if value is call.latents), None)
        if names != self._names or latents is None or call.latents is None:
            return False
        if not all(_same(*pair) for i, pair in enumerate(pairs) if i != latents):
            return False
        before, now = pairs[latents]
        if not isinstance(before, Tensor) or (before.shape, before.dtype) != (now.shape, now.dtype):
            return False
        moved = (now.float() - before.float()).norm() / before.float().norm()
        return bool(0 < moved <= NEAR)


def _apart(call: Call) -> tuple[list[str], list[Any]]:
    found = sorted(leaves(dict(call.given)), key=itemgetter(0))
    return [name for name, _ in found], [value for _, value in found]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        both = isinstance(a, Tensor) and isinstance(b, Tensor)
        return both and (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device) and torch.equal(a, b)
    return a is b or (isinstance(a, (str, int, float, bool)) and type(a) is type(b) and a == b)
