"""Seeds played in processes of their own: what these import by name."""

from __future__ import annotations

import time
from typing import Any


def all_played(seeds: list[int], everything: bool) -> list[dict[str, Any]]:
    """Some seeds' scenarios, checked."""
    return [played(seed, everything) for seed in seeds]


def played(seed: int, everything: bool) -> dict[str, Any]:
    """One seed's scenario, checked: a line of the record."""
    from tests.fuzz.oracle import check, quietly
    from tests.fuzz.scenario import draw, source

    begun, worked = time.monotonic(), time.process_time()
    scenario = draw(seed, frozenset() if everything else None)
    with quietly():
        found = check(scenario)
    said = [{"law": one.law, "text": one.text, "signature": one.signature} for one in found]
    spent = {"seconds": time.monotonic() - begun, "cpu": time.process_time() - worked}
    return {"seed": seed, **spent, "found": said, "scenario": source(scenario)}
