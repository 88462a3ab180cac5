"""Attach and detach: what a person calls."""

from __future__ import annotations

from typing import Any

from torch import nn

from bwcache.engine import hooks
from bwcache.engine.memory import Memory
from bwcache.engine.session import Session
from bwcache.errors import AttachError, complaint
from bwcache.models import BlockSpec, uncompiled
from bwcache.policies import BWCache, Policy
from bwcache.policies.presets import preset


def attach(
    target: Any,
    policy: Policy[Any] | None = None,
    *,
    steps: int | None = None,
    timing: bool = False,
    spec: BlockSpec | None = None,
    group: Any = None,
    per_sample: bool = True,
    memory: str = "device",
    max_memory: int | str | None = None,
) -> Session:
    """Attaches a policy to a pipeline or a module, until the session is left or closed.

    Args:
        target: a diffusers pipeline, or the denoiser alone.
        policy: what to reuse and when; if none is given, BWCache with the settings published for the model, or else
            with the paper's defaults.
        steps: number of steps of each run of a bare module, where no pipeline announces it.
        timing: whether the trace carries the seconds of blocks and indicator.
        spec: the row of a model that is not in the table.
        group: process group of the ranks that work on one video together.
        per_sample: whether each sample of a batch decides for itself, so that its video is what it is when made alone:
            where they differ, the denoiser runs twice, on those that compute and on those that reuse. Without effect on
            policies with more sites than one and on models whose row says so.
        memory: where kept features wait between steps: on the "device", or in main memory ("offload"), from where they
            are brought back as soon as a step is known to be reused.
        max_memory: how much may be held on the device from one step to the next, in bytes or such as "2GiB". A run that
            would need more is refused before its first block runs (`OverBudget`).

    Raises:
        NoBlocksFound: nothing in the target is known.
        SpecMismatch: the module is not as its row says.
        AlreadyAttached: another session holds it.
        SettingError: no such place, or no amount of memory.
    """
    kept = Memory.of(memory, max_memory)
    if policy is None:
        policy = BWCache() if spec else preset(target)
    return Session(
        target, policy, steps=steps, timing=timing, spec=spec, group=group, per_sample=per_sample, memory=kept
    )


def enable(target: Any, policy: Policy[Any] | None = None, **settings: Any) -> Session:
    """As `attach`, for a long-lived pipeline without `with`; undone by `disable`."""
    return attach(target, policy, **settings)


def disable(target: Any) -> None:
    """Ends the session that holds this pipeline or module.

    Raises:
        AttachError: none does.
    """
    parts = [target] if isinstance(target, nn.Module) else getattr(target, "components", {}).values()
    for part in parts:
        session = hooks.watcher(uncompiled(part)) if isinstance(part, nn.Module) else None
        if session is not None:
            session.close()
            return
    raise AttachError(complaint(f"no session at this {type(target).__name__}", "one", "call bwcache.enable first"))
