"""Sites that keep how their branch differs from another branch in the same step: of that one's value theirs is made.

The value of the branch that others stand beside is held until the next one comes: it is worth something in its own step
alone. That branch itself is always computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from bwcache.core import Step
from bwcache.engine.lane import Lane
from bwcache.engine.run import Run
from bwcache.features.store import Signature
from bwcache.models import Site

Streams = dict[str, Tensor]


def value(run: Run, site: Site, step: Step) -> Streams | None:
    """Return what the branch that a lane stands beside came to in this step; None where it did not come by."""
    other = run.lanes.get((site.beside or "", step.sample))
    slot = None if other is None else other.slots.get(_held(site))
    if slot is None or not slot.past or slot.past[0][0].index != step.index:
        return None
    return {name: past[0][1] for name, past in slot.read().items()}


def differences(
    run: Run, site: Site, signature: Signature, steps: Sequence[Step], lanes: Sequence[Lane], found: Sequence[Streams]
) -> list[Streams | None]:
    """Return what is kept of what the lanes of a forward came to; None of those that keep nothing.

    The values that others stand beside are held first: both branches may be in one forward.
    """
    for step, lane, own in zip(steps, lanes, found, strict=True):
        if step.branch == site.beside:
            run.keep(lane, _held(site), signature, step, own, 1)
    kept: list[Streams | None] = []
    for step, own in zip(steps, found, strict=True):
        other = None if step.branch == site.beside else value(run, site, step)
        kept.append(None if other is None else _less(own, other))
    return kept


def _less(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Streams | None:
    alike = all(name in other and other[name].shape == feature.shape for name, feature in own.items())
    return {name: feature - other[name] for name, feature in own.items()} if alike else None


def _held(site: Site) -> str:
    return f"{site.name} of {site.beside}"
