"""One sampling in a server: the session that holds its model, where it stands, and the line in the log at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

import bwcache
from bwcache.core.trace import Trace, reuse_line
from bwcache.engine.session import policy_of
from bwcache.errors import AttachError, NotProvenError, complaint
from bwcache.models import BlockSpec, table, uncompiled
from bwcache.servers.asked import Asked
from bwcache.servers.levels import Levels


class Target:
    """What a session holds of a server's pipeline: its denoisers, by the names that they have there."""

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self.components = {name: module for name, module in modules.items() if isinstance(module, nn.Module)}


def attached(
    modules: Mapping[str, Any],
    asked: Asked,
    on_trace: Callable[[Trace], None] | None = None,
    *,
    direct: bool = False,
) -> bwcache.Session:
    """Return a session on the denoisers of a server's pipeline, as a request asks.

    Args:
        modules: the denoisers by name.
        asked: what the request asks for.
        on_trace: called with the trace of each run as it ends.
        direct: whether what a denoiser returns is known to be what the scheduler is told: then one without a row, or
            with a forward of its own, is known as a whole.

    Raises:
        BWCacheError: the policy does not fit them, or nobody here knows how they predict.
    """
    target = Target(modules)
    settings: dict[str, Any] = {"memory": asked.memory, "per_sample": False, "on_trace": on_trace}
    kinds = [type(uncompiled(module)) for module in target.components.values()]
    strange = [kind for kind in kinds if table.row_of(kind) is None]
    if strange and not direct:
        raise AttachError(
            complaint(
                f"a {strange[0].__name__} of {strange[0].__module__}",
                "a denoiser with a row in the table, so that it is known what it predicts",
                "docs/servers.md has those of this server",
            )
        )
    try:
        return bwcache.attach(target, asked.policy, spec=as_a_whole(strange[0]) if strange else None, **settings)
    except NotProvenError:
        if not direct:
            raise
        return bwcache.attach(target, asked.policy, spec=as_a_whole(kinds[0]), **settings)


def as_a_whole(kind: type) -> BlockSpec:
    """Return the row of a denoiser of whose inside nothing is known."""
    return BlockSpec(kind.__name__, (), module_prefix=kind.__module__, sources="its server")


def fitted(modules: Mapping[str, Any], asked: Asked) -> Asked:
    """Return the same with a policy that has been read, if it is in a file, and held against the model.

    Raises:
        SettingError: the file cannot be read, or was made for another model.
    """
    return replace(asked, policy=policy_of(asked.policy, Target(modules)))


def expect_known(session: bwcache.Session, levels: Levels) -> None:
    """Raise where a policy keeps clean latents, and what the model predicts is not known for certain.

    Raises:
        AttachError: so it is.
    """
    if not levels.schedule and any(denoiser.plan.clean for denoiser in session.denoisers.values()):
        raise AttachError(
            complaint(
                "a scheduler whose noise levels nobody here knows how to read",
                "one of flow matching",
                "choose a method that keeps blocks, such as BWCache",
            )
        )


@contextmanager
def step(session: bwcache.Session, levels: Levels, index: int | None, branch: str | None) -> Iterator[None]:
    """Around one forward of the denoiser: say where it stands; a step that there should not be is not said."""
    said = {} if index is None else levels.at(index)
    with session.step(**said, branch=branch):
        yield


def line(trace: Trace, asked: Asked, name: str) -> str:
    """Return a sampling in one line: who asked for what, steps, those computed, the speedup of the model's work."""
    computed = trace.computed
    speedup = trace.steps / computed if computed else 1.0
    return f"{name}: {asked.word}, {trace.steps} steps, {computed} computed: {speedup:.2f}x in the model's work"


def row(trace: Trace, asked: Asked) -> dict[str, Any]:
    """Return the same as plain values, for a response."""
    return {
        "policy": asked.word,
        "steps": trace.steps,
        "computed": trace.computed,
        "line": reuse_line(trace.events),
    }
