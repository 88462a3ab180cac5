"""Attach and detach: what a person calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bwcache.core import Trace
from bwcache.engine import hooks
from bwcache.engine.memory import Memory
from bwcache.engine.ranks import AUTO, asked
from bwcache.engine.session import KEEP_TRACES, Session, policy_of
from bwcache.errors import AttachError, SettingError, complaint
from bwcache.former_names import takes_former_arguments
from bwcache.models import BlockSpec, uncompiled
from bwcache.policies import BWCache, Policy
from bwcache.policies.presets import preset


@takes_former_arguments
def attach(
    target: Any,
    policy: Policy[Any] | Mapping[str, Policy[Any]] | str | Path | None = None,
    *,
    steps: int | None = None,
    timing: bool = False,
    spec: BlockSpec | None = None,
    ranks: Any = AUTO,
    per_sample: bool = True,
    memory: str = "device",
    max_memory: int | str | None = None,
    keep_traces: int | None = KEEP_TRACES,
    on_trace: Callable[[Trace], None] | None = None,
    replace: bool = False,
) -> Session:
    """Attach a policy to a pipeline or a module, until the session is left or closed.

    Args:
        target: a diffusers pipeline, or the denoiser alone.
        policy: what to reuse and when. A grade ("near", "balanced", "fast") is this project's own method. If none is
            given, BWCache with the settings published for the model, or else with `BWCache()`'s: the paper's
            thresholds and windows, on a sample of the entries. A mapping names one for each denoiser, such as
            "transformer_2"; one that it does not name is always computed. A path is that of a file which
            `bwcache tune` or `bwcache calibrate` wrote.
        steps: number of steps of each run of a bare module, where no pipeline announces it.
        timing: whether the trace carries the seconds of blocks and indicator.
        spec: the row of a model that is not in the table.
        ranks: who decides together with this rank. "auto": as the model shows it, and never the world; a process group,
            or a device mesh of one dimension: those have parts of one video; `Ranks(parts=, lockstep=)`: see there;
            None: alone, whatever is found. `session.ranks` says in words what came of it.
        per_sample: whether each sample of a batch decides for itself, so that its video is what it is when made alone:
            where they differ, the denoiser runs twice, on those that compute and on those that reuse. Without effect on
            policies that look inside a forward and on models whose row says so.
        memory: where kept features wait between steps: on the "device", or in main memory ("offload"), from where they
            are brought back as soon as a step is known to be reused.
        max_memory: how much may be held on the device from one step to the next, in bytes or such as "2GiB". A run that
            would need more is refused before its first block runs (`OverBudgetError`).
        keep_traces: how many traces of runs that are over `session.traces` holds, the last ones; None: all.
        on_trace: called with the trace of each run as it ends.
        replace: whether a session that already holds the target ends first.

    Returns:
        The session: leave it with `with`, `close()` or `bwcache.disable(target)`.

    Raises:
        NoBlocksFoundError: nothing in the target is known.
        SpecMismatchError: the module is not as its row says.
        AlreadyAttachedError: another session holds it.
        SettingError: no such place, no amount of memory, no policy, no ranks, or a file that was made for another
            model.
        AttachError: ranks speak to each other inside of the model, and which ones cannot be known.
    """
    kept, others = Memory.of(memory, max_memory), asked(ranks)
    if policy is None:
        policy = BWCache() if spec else preset(target)
    policy = policy_of(policy, target)
    if keep_traces is not None and (
        isinstance(keep_traces, bool) or not isinstance(keep_traces, int) or keep_traces < 0
    ):
        raise SettingError(complaint(f"keep_traces {keep_traces!r}", "a number of traces >= 0, or None", "try 100"))
    if replace:
        for session in _sessions_of(target):
            session.close()
    return Session(
        target,
        policy,
        steps=steps,
        timing=timing,
        spec=spec,
        ranks=others,
        per_sample=per_sample,
        memory=kept,
        keep_traces=keep_traces,
        on_trace=on_trace,
    )


@takes_former_arguments
def enable(
    target: Any, policy: Policy[Any] | Mapping[str, Policy[Any]] | str | Path | None = None, **settings: Any
) -> Session:
    """As `attach`, for a long-lived pipeline without `with`; undone by `disable`."""
    return attach(target, policy, **settings)


def disable(target: Any) -> None:
    """End the session that holds this pipeline or module.

    Raises:
        AttachError: none does.
    """
    found = _sessions_of(target)
    if not found:
        raise AttachError(complaint(f"no session at this {type(target).__name__}", "one", "call bwcache.enable first"))
    for session in found:
        session.close()


def _sessions_of(target: Any) -> list[Session]:
    """The sessions that were attached to it, or that hold one of its components."""
    parts = [target] if isinstance(target, nn.Module) else list(getattr(target, "components", {}).values())
    holders = [hooks.holder(uncompiled(part)) for part in parts if isinstance(part, nn.Module)]
    found = [session for session in hooks.sessions() if session.is_of(target)] + [one for one in holders if one]
    return list({id(session): session for session in found}.values())
