"""What one forward makes and is left of no use after it: the objects that docs/architecture.md lists, and no others."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache.engine.denoiser import Denoiser
from bwcache.engine.forward import Forward
from bwcache.policies import SenCache
from tests.engine.test_samples import ByTurns, batch_of
from tests.tiny import WAN, Case

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
KEPT = {"Frame", "Evaluated"}
"""What stays of a computed forward besides features, until the next one: how the denoiser returned it, and its call."""


def listed() -> set[str]:
    page = PAGE.read_text(encoding="utf-8")
    (said,) = re.findall(r"State of one forward lies in .*?(?= What outlives it)", page, re.DOTALL)
    return set(re.findall(r"`(\w+?)`", said))


class Watch:
    """The kinds of objects of the engine that came into being since each forward began, from the third step on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.kinds: set[str] = set()
        self._before: list[Any] = []  # held, so that none of their addresses is given to another
        call, leave, finish = Denoiser.call, Forward._leave, Forward.finish

        def begins(one: Denoiser, *given: Any) -> Any:
            self._before = ours()
            return call(one, *given)

        def leaves(one: Forward, *given: Any) -> None:
            leave(one, *given)
            self._look(one)

        def ends(one: Forward) -> None:
            finish(one)
            self._look(one)

        patch.setattr(Denoiser, "call", begins)
        patch.setattr(Forward, "_leave", leaves)
        patch.setattr(Forward, "finish", ends)

    def _look(self, forward: Forward) -> None:
        if forward.steps[0].index < 2:  # the first ones make what stays: lanes, branches, outlines
            return
        known = {id(thing) for thing in self._before}
        self.kinds |= {type(thing).__name__ for thing in ours() if id(thing) not in known} - KEPT


def ours() -> list[Any]:
    """What is of the engine now; what a call was read into counts as the call."""
    found = []
    for thing in gc.get_objects():
        kind = type(thing)
        inside = kind.__module__ in ("bwcache.engine.clock.call", "bwcache.engine.clock.latents") and (
            kind.__name__ != "Call"
        )
        if (str(kind.__module__).startswith("bwcache.engine.") or kind is bwcache.Step) and not inside:
            found.append(thing)
    return found


@pytest.fixture
def aside() -> Iterator[None]:
    """All that was there before is not looked through: in a long run of tests there are millions."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


POLICIES: dict[str, Any] = {
    "one site": bwcache.BWCache(10.0, 2),
    "samples apart": ByTurns(),
    "a probe": bwcache.FirstBlock(0.5),
    "each block": bwcache.Foresight(50.0, 1, 0.3),
    "the denoiser": bwcache.EasyCache(5.0, warmup=1),
    "evaluated elsewhere": bwcache.Planned(0.5),
    "evaluated twice": SenCache.measuring(),
}


def watched(name: str, patch: pytest.MonkeyPatch) -> set[str]:
    case: Case = batch_of(WAN, 2) if name == "samples apart" else WAN
    pipe = case.build()
    with patch.context() as patched:
        watch = Watch(patched)
        with bwcache.attach(pipe, POLICIES[name]):
            case.run(pipe)
    return watch.kinds


@pytest.mark.usefixtures("aside")
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_a_forward_makes_what_the_page_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {name: watched(name, monkeypatch) for name in POLICIES}
    assert set().union(*made.values()) == listed()
    assert len(listed()) == 12  # of which three take turns
    assert {name: sorted(kinds) for name, kinds in made.items() if len(kinds) > 10} == {}
