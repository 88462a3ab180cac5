"""What a forward is conditioned on, told by its arguments where nobody names it: equal arguments, the same branch.

Read are the values of numbers and words, the shapes of tensors, their sums and a few of their entries, and on which
side of each "from … to …" the run is. Read once for each forward, on the device with one transfer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

PASSING = {
    *("x", "t", "current_step", "current_step_percentage", "last_step", "pred_id"),
    *("transformer_options", "device", "freqs", "seq_len"),
}
"""Arguments that change from step to step, or say how to run."""
ENTRIES = 16
"""So many of each tensor are read."""
MOST = 256
"""Of so many tensors; of the others the shapes."""
SUMMED = (torch.float32, torch.float16, torch.bfloat16)
"""What has a sum on every device."""
PLAIN = (bool, int, float, str, type(None))
SHARE, STEP = "current_step_percentage", "current_step"


class Conditions:
    """The branches of one run."""

    def __init__(self) -> None:
        self._names: dict[Hashable, str] = {}
        self._step, self._seen = -1, dict[Hashable, int]()

    def name(self, given: Mapping[str, Any], module: Any, step: int, total: int) -> str:
        """Return the name of the branch that a forward is of.

        Args:
            given: its arguments.
            module: the denoiser, whose attributes may say more.
            step: ordinal of the evaluation: of forwards that are alike in one, the order decides.
            total: of how many.
        """
        if step != self._step:
            self._step, self._seen = step, {}
        reading = _Reading(given, total)
        key: Hashable = (reading.told, tuple(ranges(vars(module), float(given.get(SHARE) or 0.0))), reading.entries())
        again = self._seen[key] = self._seen.get(key, -1) + 1
        return self._named((key, again), "uncond" if given.get("is_uncond") else "cond")

    def _named(self, key: Hashable, kind: str) -> str:
        if key not in self._names:
            known = sum(name.split()[0] == kind for name in self._names.values())
            self._names[key] = f"{kind} {known + 1}" if known else kind
        return self._names[key]


class _Reading:
    """The arguments of a forward as they are read."""

    def __init__(self, given: Mapping[str, Any], total: int) -> None:
        self._step, self._total = int(given.get(STEP) or 0), total
        self._share = float(given.get(SHARE) or 0.0)
        self._tensors: list[Tensor] = []
        self.told = self._of({name: value for name, value in given.items() if name not in PASSING})

    def entries(self) -> Hashable:
        """Return the sum and a few entries of each tensor."""
        by_device: dict[torch.device, list[Tensor]] = {}
        for tensor in self._tensors[:MOST]:
            flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().reshape(-1)
            some = flat[:: max(1, len(flat) // ENTRIES)][:ENTRIES]
            read = by_device.setdefault(tensor.device, [])
            summed = flat if flat.dtype in SUMMED else flat.to(torch.float32)
            read += [summed.sum(dtype=torch.float32)[None], some.to(torch.float32)]
        return tuple(tuple(torch.cat(some).tolist()) for some in by_device.values())

    def _of(self, value: Any) -> Hashable:
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, Tensor):
            self._tensors.append(value)
            return tuple(value.shape)
        if isinstance(value, Mapping):
            own = tuple((str(name), self._of(each)) for name, each in value.items())
            return own, tuple(ranges(value, self._share))
        if isinstance(value, (list, tuple)):
            return self._of_list(value)
        return type(value).__name__

    def _of_list(self, value: Sequence[Any]) -> Hashable:
        """A number for each step is the one of now."""
        if len(value) >= self._total > 1 and all(isinstance(each, (int, float)) for each in value):
            return float(value[min(self._step, len(value) - 1)])
        return tuple(self._of(each) for each in value)


def ranges(held: Mapping[str, Any], share: float) -> Iterator[bool]:
    """Yield for each pair of "… start …" and "… end …" among the names whether the run is between them."""
    for name, start in held.items():
        end = held.get(str(name).replace("start", "end")) if "start" in str(name) else None
        if isinstance(start, (int, float)) and isinstance(end, (int, float)) and 0 <= start <= end <= 1:
            yield start <= share <= end
