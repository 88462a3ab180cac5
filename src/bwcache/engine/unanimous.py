"""Whether all of several ranks were told the same thing at the same moment: agreed without a collective.

In a collective, a rank that was told alone would wait for the others in vain. Here it waits for a while in the store by
which their group met, and then nobody may come to it any more: the answer is written once, and is the same for all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

ALL, NOT_ALL = "all", "not all"
LONGEST_NAP = 0.02
"""Seconds between two looks into the store, at most."""


def all_are_told(store: Store, key: str, rank: int, count: int, patience: float) -> bool:
    """Return whether each of `count` ranks asks by this key, before one of them has lost its patience.

    The answer is the same on all that ask, whenever they do.

    Args:
        store: of their group.
        key: of what they were told, and when; it never comes again.
        rank: of this one among them.
        count: how many they are.
        patience: seconds to wait for the others.
    """
    everybody, answer = [f"{key}/{other}" for other in range(count)], f"{key}/answer"
    store.set(everybody[rank], "told")
    over, nap = time.monotonic() + patience, LONGEST_NAP / 64
    while not store.check([answer]):
        if store.check(everybody):
            return _first(store, answer, ALL)
        if time.monotonic() > over:
            return _first(store, answer, NOT_ALL)
        time.sleep(nap)
        nap = min(2 * nap, LONGEST_NAP)
    return store.get(answer) == ALL.encode()


def _first(store: Store, answer: str, mine: str) -> bool:
    """Whether the answer is that all are told, once it has been given: by this rank, or by one before it."""
    return bool(store.compare_set(answer, "", mine) == ALL.encode())
