"""Ranks that work on one video decide together; ranks that do not, do not wait for each other."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

import bwcache
from bwcache import BWCache, FixedInterval, Policy
from bwcache.core.trace import reuse_line
from bwcache.engine.numbers import Numbers
from bwcache.engine.ranks import Parts
from tests.ranks.pair import two_ranks
from tests.tiny import noise, wan_transformer

STEPS = 16


def denoise(module: Any, seed: int, pace: float, spoilt: bool = False) -> None:
    """Forwards on latents of this rank's own, which change the slower the smaller `pace` is."""
    start, drift = noise(1, 4, 2, 4, 4, seed=seed), noise(1, 4, 2, 4, 4, seed=seed + 50)
    for i in range(STEPS):
        latents = start + pace * i * drift
        if spoilt and i == 3:
            latents[0, 0, 0, 0, 0] = torch.nan
        with torch.no_grad():
            module(
                hidden_states=latents,
                timestep=torch.tensor([1000.0 - i]),
                encoder_hidden_states=noise(1, 6, 8, seed=1),
            )


POLICY = BWCache(threshold=0.12, reuse_interval=2)


EVERY_THIRD = FixedInterval(interval=3, tail=1)
"""Computes step 3, and measures nothing: that a feature is not finite shows in itself alone."""


def line(
    seed: int, pace: float, group: Any, spoilt: bool = False, policy: Policy[Any] = POLICY
) -> tuple[str, list[float | None], list[str]]:
    module = wan_transformer()
    with bwcache.attach(module, policy, steps=STEPS, ranks=group) as session:
        denoise(module, seed, pace, spoilt)
    events = session.trace.events
    return reuse_line(events), [event.indicator for event in events], [event.reason for event in events]


def summed(rank: int, group: Any) -> list[list[float] | None]:
    """What ranks read of parts that all have, that one of them lacks, and that none has."""
    numbers = Numbers(Parts((group,), "here"))
    own = torch.full((2, 3), float(rank + 1))
    places = [numbers.add(part, 6) for part in (own, own if rank else None, None, own)]
    numbers.set_out()
    return [numbers.read(place) for place in places]


def collectives(group: Any) -> tuple[str, list[int]]:
    """A line, and the steps in which ranks spoke to each other."""
    add_up, step, spoken = Parts.add_up, [-1], []

    def counted(self: Parts, vector: torch.Tensor) -> Any:
        spoken.append(step[0])
        return add_up(self, vector)

    def now(event: Any) -> None:
        step[0] = event.step

    Parts.add_up = counted  # type: ignore[method-assign]
    try:
        with bwcache.attach(wan_transformer(), EVERY_THIRD, steps=STEPS, ranks=group) as session:
            session.on_step(now)
            denoise(session.denoisers["model"].stack.module, 0, 0.005)
    finally:
        Parts.add_up = add_up  # type: ignore[method-assign]
    return reuse_line(session.trace.events), spoken


def late_rank(rank: int, group: Any, beside: Any) -> bool:
    """Whether a rank goes on while the other one has not added its numbers; each has been read in the end."""
    numbers = Numbers(Parts((group,), "here"))
    place = numbers.add(torch.ones(1), 1)
    if rank == 1:
        dist.monitored_barrier(group=beside, timeout=timedelta(seconds=60))
    numbers.set_out()
    if rank == 0:
        dist.monitored_barrier(group=beside, timeout=timedelta(seconds=60))
    return numbers.read(place) == [2.0]


def cases(rank: int) -> dict[str, Callable[[], Any]]:
    both = dist.group.WORLD
    own = [dist.new_group([0]), dist.new_group([1])][rank]
    beside = dist.new_group([0, 1])
    pace = (0.005, 0.3)[rank]  # alone, the one would reuse often and the other never
    found: dict[str, Callable[[], Any]] = {
        "alone": lambda: line(rank, pace, None),
        "own": lambda: line(rank, pace, own),
        "together": lambda: line(rank, pace, both),
        "one_spoilt": lambda: line(rank, 0.005, both, rank == 1, EVERY_THIRD),
        "summed": lambda: summed(rank, both),
        "collectives": lambda: collectives(both),
        "late": lambda: late_rank(rank, both, beside),
    }
    if rank == 0:  # the other rank is not asked: it must not be waited for
        found["more"] = lambda: line(7, pace, own)
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks reports."""
    return two_ranks(cases, tmp_path_factory.mktemp("ranks"))


def test_ranks_with_different_data_decide_the_same(said: list[dict[str, Any]]) -> None:
    assert said[0]["alone"][0] != said[1]["alone"][0]  # so that agreeing is something
    assert "r" in said[0]["alone"][0]
    assert said[0]["together"] == said[1]["together"]


def test_ranks_in_groups_of_their_own_decide_alone_and_wait_for_nobody(said: list[dict[str, Any]]) -> None:
    for rank in range(2):
        assert said[rank]["own"] == said[rank]["alone"]
    assert "more" in said[0]


def test_what_is_not_finite_on_one_rank_means_compute_on_all(said: list[dict[str, Any]]) -> None:
    """Step 3 cannot be used on one of them, so in step 4 both compute, and say why."""
    assert said[0]["one_spoilt"][0] == said[1]["one_spoilt"][0]
    for rank in range(2):
        line, _, why = said[rank]["one_spoilt"]
        assert line == "CrrCCrrCrrCrrCrC"
        assert why[4].startswith("the last computed feature is not finite")


def test_numerators_and_denominators_are_added(said: list[dict[str, Any]]) -> None:
    """A part that one rank lacks is nobody's, and shifts no other."""
    assert said[0]["summed"] == said[1]["summed"] == [[3.0] * 6, None, None, [3.0] * 6]


def test_one_vector_for_each_computed_forward_and_nothing_in_reused_ones(said: list[dict[str, Any]]) -> None:
    for rank in range(2):
        line, spoken = said[rank]["collectives"]
        assert line == "CrrCrrCrrCrrCrrC"
        assert spoken == [step for step, letter in enumerate(line) if letter == "C"]


def test_nobody_waits_for_a_late_rank_before_its_numbers_are_wanted(said: list[dict[str, Any]]) -> None:
    """The first one meets the other at a barrier, which that one comes to before it adds its own."""
    assert [said[rank]["late"] for rank in range(2)] == [True, True]
