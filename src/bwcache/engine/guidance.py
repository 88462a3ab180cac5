"""How many guidance branches come in one batch: as the host, the pipeline or the row says; else as equal rows tell."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bwcache.engine.batch import WHOLE, BatchLayout
from bwcache.engine.clock import Call, Clock
from bwcache.engine.clock.call import channels
from bwcache.errors import SettingError, complaint

JOINED = "cond_uncond"
"""What pipelines call a forward of both branches, or of the only one there is."""


class Layouts:
    """The layouts of one run's batches, each found once.

    Attributes:
        notes: what was found out about the samples of a batch, in words.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], BatchLayout] = {}
        self.notes: list[str] = []

    def of(self, call: Call, branch: str, clock: Clock, apart: bool = False, as_one: bool = False) -> BatchLayout:
        """Return the layout of a forward. Reads the device once for each size of batch in a branch.

        Args:
            call: the forward.
            branch: which it is.
            clock: knows who calls.
            apart: whether each branch is to be a lane, where it is known which is which.
            as_one: whether the samples decide as one: then only the branches that the host names are told apart.
        """
        named = call.host.branches if call.host else ()
        if call.latents is None or ((len(call.latents) == 1 or as_one) and not named):
            return WHOLE
        key = (call.stack.name, branch, named, len(call.latents))
        found = self._found.get(key)
        if found is None:
            whole = self._decides_as_one(call, call.latents)
            found = self._found[key] = WHOLE if whole else self._split(call, call.latents, named, clock, apart, as_one)
        return found

    def _decides_as_one(self, call: Call, latents: Tensor) -> bool:
        """Whether a forward cannot be run on some of its rows."""
        why = None
        if not call.stack.spec.per_sample:
            why = f"not all tensors of {call.stack.spec.model} have the batch first"
        elif has_plain_list(len(latents), call.args, call.kwargs):
            why = "an argument is a list of plain values, perhaps one for each row"
        if why is not None and len(latents) > 1:
            self._note(f"{len(latents)} rows decide as one: {why}")
        return why is not None

    def _split(
        self, call: Call, latents: Tensor, named: tuple[str, ...], clock: Clock, apart: bool, as_one: bool
    ) -> BatchLayout:
        spec, count = call.stack.spec, len(latents)
        if named:
            return BatchLayout.of_branches(named, count // len(named), spec.batch_axis, as_one)
        branches: int | None = 1
        why = f"{spec.model} has each branch in a forward of its own"
        if spec.guidance in ("batched", "either"):
            repeats = period(latents, channels(call.stack.module))
            branches, why = branches_of(count, repeats, _said(call, clock))
        if branches is None:
            self._note(f"{count} rows decide as one: {why}")
            return WHOLE
        self._note(f"{count} rows are {count // branches} samples in {branches} branches: {why}")
        if apart and branches == len(spec.branches):
            return BatchLayout.of_branches(spec.branches, count // branches, spec.batch_axis)
        return BatchLayout.of_samples(count // branches, branches, spec.batch_axis)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def expect_parts(call: Call) -> None:
    """Raise where a batch cannot be cut into as many equal parts as the host names branches.

    Raises:
        SettingError: it cannot.
    """
    named = call.host.branches if call.host else ()
    count = 0 if call.latents is None else len(call.latents)
    if len(named) > 1 and count % len(named):
        raise SettingError(
            complaint(
                f"a batch of {count} where session.step(branch={named!r}) names {len(named)} parts of it",
                "as many rows of each branch",
                "name the branches that this forward has, in the order of its rows",
            )
        )


def _said(call: Call, clock: Clock) -> int | None:
    """How many branches are in a batch, as far as the pipeline says so."""
    says = partial(clock.caller.says, call.stack.module)
    if (call.context and call.context.name) not in (None, JOINED) or says("guider") is not None:
        return 1  # each branch is handed to the denoiser by itself
    guides, perturbs = says("do_classifier_free_guidance"), says("do_perturbed_attention_guidance")
    return 1 + guides + (perturbs is True) if isinstance(guides, bool) else None


def branches_of(count: int, period: int, said: int | None) -> tuple[int, str] | tuple[None, str]:
    """Return how many guidance branches are in a batch, or None, and why.

    Args:
        count: rows of the batch.
        period: after how many rows the latents repeat; `count` if they do not.
        said: how many branches the pipeline says there are, or None.
    """
    repeats = count // period
    if repeats == 1:
        return 1, "no two parts of the batch have the same latents"
    if said is not None and repeats % said == 0:
        return said, "as the pipeline says"
    if said is not None:
        return None, f"the pipeline speaks of {said} branches, and the latents come {repeats} times"
    if period == 1:
        return None, "all have the same latents: branches, or samples of one seed"
    return repeats, f"the same latents come {repeats} times"


def period(latents: Tensor, channels: int | None = None) -> int:
    """Return after how many rows the latents repeat; all rows if they do not. Reads the device.

    Args:
        latents: `[B, C, …]`, or `[B, N, C]`.
        channels: how many of C, from the first on, are latents where there are more.
    """
    if channels and latents.ndim > 3 and latents.shape[1] > channels:
        latents = latents[:, :channels]
    count = len(latents)
    found = (n for n in range(1, count) if count % n == 0 and torch.equal(latents[:-n], latents[n:]))
    return next(found, count)


def has_plain_list(count: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether an argument is a list of so many plain values: perhaps one per row, perhaps not."""
    values = [*args, *kwargs.values()]
    lists = [value for value in values if isinstance(value, list) and len(value) == count]
    return any(not isinstance(item, (Tensor, list, tuple)) for value in lists for item in value)
