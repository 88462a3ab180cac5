"""Ranks that share their weights and make videos of their own: a vote before each forward, and compute wins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import bwcache
from bwcache import BWCache, DBCache, FirstBlock, PyramidAttentionBroadcast, RunStoppedError
from bwcache.core.trace import reuse_line
from bwcache.engine import reasons
from tests.ranks.pair import STEPS, cached, same, two_ranks, video
from tests.tiny import Scripted, noise, wan_transformer

SLOW, FAST = 0.002, 0.6
"""Of a video that would often reuse, and of one that would not."""

POLICIES: dict[str, bwcache.Policy[Any]] = {
    "BWCache": BWCache(threshold=0.2, reuse_interval=2),
    "FirstBlock": FirstBlock(threshold=0.05),
    "DBCache": DBCache(threshold=0.5, front=1, back=1, warmup=1),
}
"""One that decides before the forward, and two that do in its midst."""

PARTS = PyramidAttentionBroadcast(spatial_window=(0, 1000), cross_window=(0, 1000))


def sharded() -> Any:
    """A denoiser of whose weights each rank has a half."""
    module = wan_transformer()
    for block in module.blocks:
        fully_shard(block)
    return fully_shard(module)


def own(rank: int) -> dict[str, Any]:
    return {"seed": rank, "prompt": 1 + rank, "pace": (SLOW, FAST)[rank]}


def rows(trace: Any) -> dict[str, Any]:
    return {"line": reuse_line(trace.events), "reasons": [event.reason for event in trace.events]}


def sampled(rank: int, policy: Any, during: Callable[[Any, Any], object] | None = None, **how: Any) -> dict[str, Any]:
    """A video of this rank's own, in whose steps something happens on it alone."""
    with bwcache.attach(sharded(), policy, steps=STEPS, **how) as session:
        if during is not None:
            session.on_step(partial(during, session))
        with session.run(STEPS):
            video(session.denoisers["model"].stack.module, **own(rank))
    return rows(session.trace)


def scripts(rank: int) -> Any:
    """Each is told to reuse in steps of its own."""
    return sampled(rank, Scripted(frozenset(({1, 2, 4, 6}, {2, 3, 4, 5})[rank])))


def forgets(rank: int) -> Any:
    def during(session: Any, event: Any) -> None:
        if rank == 1 and event.step == 2:
            session.invalidate()

    return sampled(rank, Scripted(frozenset({1, 2, 3, 4})), during)


def stopped(rank: int) -> Any:
    with bwcache.attach(sharded(), Scripted(frozenset({1, 2, 4})), steps=STEPS) as session:
        end = session.on_step(lambda event: session.stop() if event.step == 2 and rank == 1 else None)
        with pytest.raises(RunStoppedError), session.run(STEPS):
            video(session.denoisers["model"].stack.module, **own(rank))
        line = reuse_line(session.trace.events)
        end()
        with session.run(STEPS):
            video(session.denoisers["model"].stack.module, **own(rank))
    return line, reuse_line(session.trace.events)


def unequal_runs(rank: int) -> Any:
    """As many forwards on each rank, in videos of other lengths."""
    lines = []
    with bwcache.attach(sharded(), Scripted(frozenset({1, 2, 4}))) as session:
        for steps in ((6, 3), (3, 6))[rank]:
            with session.run(steps):
                video(session.denoisers["model"].stack.module, steps=steps, seed=rank)
            lines.append(reuse_line(session.trace.events))
    return lines


def batches(rank: int) -> Any:
    """The first rank makes two videos at once, that would decide apart."""
    module, start = sharded(), noise(2 - rank, 4, 2, 4, 4, seed=rank)
    with bwcache.attach(module, POLICIES["BWCache"], steps=STEPS) as session, session.run(STEPS):
        latents = start
        for i in range(STEPS):
            with torch.no_grad():
                output = module(
                    hidden_states=latents,
                    timestep=torch.full((2 - rank,), 1000.0 - i),
                    encoder_hidden_states=noise(2 - rank, 6, 8, seed=1),
                    return_dict=False,
                )[0]
            pace = torch.tensor([SLOW, FAST][: 2 - rank]).reshape(-1, 1, 1, 1, 1)
            latents = latents - pace * output
    events = session.trace.events
    lanes = {event.sample for event in events}
    return {str(lane): reuse_line([event for event in events if event.sample == lane]) for lane in lanes}


def other_kinds(rank: int) -> Any:
    return sampled(rank, (POLICIES["BWCache"], PARTS)[rank])


def named(rank: int) -> Any:
    """A model that shares nothing, as it may be with offloading that is spread over ranks."""
    ranks = bwcache.Ranks(lockstep=dist.group.WORLD)
    return cached(wan_transformer(), POLICIES["BWCache"], ranks=ranks, **own(rank))


def cases(rank: int) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for name, policy in POLICIES.items():
        found[f"{name} alone"] = partial(cached, wan_transformer(), policy, **own(rank))
        found[name] = partial(cached, sharded(), policy, **own(rank))
        found[f"{name}, one video, alone"] = partial(cached, wan_transformer(), policy)
        found[f"{name}, one video"] = partial(cached, sharded(), policy)
    found["parts of blocks"] = lambda: cached(
        sharded(), PyramidAttentionBroadcast(spatial_window=(0, 1000), cross_window=(0, 1000)), seed=rank
    )
    found["scripts"] = lambda: scripts(rank)
    found["forgets"] = lambda: forgets(rank)
    found["stopped"] = lambda: stopped(rank)
    found["unequal runs"] = lambda: unequal_runs(rank)
    found["batches"] = lambda: batches(rank)
    found["no room"] = lambda: sampled(rank, Scripted(frozenset({1, 2})), max_memory=8 if rank else 2**30)
    found["other kinds"] = lambda: other_kinds(rank)
    found["named"] = lambda: named(rank)
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_ranks(cases, tmp_path_factory.mktemp("lockstep"))


@pytest.mark.parametrize("name", POLICIES)
def test_one_video_is_that_of_a_model_that_is_not_spread(said: list[dict[str, Any]], name: str) -> None:
    alone = said[0][f"{name}, one video, alone"]
    assert {"C", "r"} <= set(alone["line"])
    for rank in range(2):
        found = said[rank][f"{name}, one video"]
        assert found["line"] == alone["line"]
        assert same(found["made"], alone["made"])


@pytest.mark.parametrize("name", POLICIES)
def test_what_one_computes_all_compute(said: list[dict[str, Any]], name: str) -> None:
    """Alone the first one would reuse more; what each measures stays its own."""
    alone = [said[rank][f"{name} alone"] for rank in range(2)]
    together = [said[rank][name] for rank in range(2)]
    assert "r" in alone[0]["line"]
    assert alone[0]["line"] != alone[1]["line"]
    assert together[0]["line"] == together[1]["line"]
    assert together[0]["ranks"] == "2 of 2 ranks compute in the same steps (fully_shard of model)"
    assert together[0]["indicators"] != together[1]["indicators"]


def test_a_vote_counts_every_rank(said: list[dict[str, Any]]) -> None:
    assert [said[rank]["scripts"]["line"] for rank in range(2)] == ["CCrCrCCC"] * 2
    assert said[0]["scripts"]["reasons"].count(reasons.ANOTHER_RANK) == 2  # steps 1 and 6
    assert said[1]["scripts"]["reasons"].count(reasons.ANOTHER_RANK) == 2  # steps 3 and 5


def test_what_one_rank_forgets_all_compute_anew(said: list[dict[str, Any]]) -> None:
    assert [said[rank]["forgets"]["line"] for rank in range(2)] == ["CrrCrCCC"] * 2


def test_one_rank_that_is_told_to_stop_stops_all(said: list[dict[str, Any]]) -> None:
    assert said[0]["stopped"] == said[1]["stopped"] == ("CrrC", "CrrCrCCC")


def test_runs_of_other_lengths(said: list[dict[str, Any]]) -> None:
    """The second run of one begins while the first of the other goes on."""
    assert said[0]["unequal runs"] == ["CrrCrC", "CrC"]
    assert said[1]["unequal runs"] == ["Crr", "CrCCrC"]


def test_a_batch_beside_a_single_video(said: list[dict[str, Any]]) -> None:
    assert len(said[0]["batches"]) == 2
    lines = {*said[0]["batches"].values(), *said[1]["batches"].values()}
    assert len(lines) == 1
    assert "C" in lines.pop()


def test_what_one_rank_has_no_room_for_all_refuse(said: list[dict[str, Any]]) -> None:
    assert [said[rank]["no room"][0] for rank in range(2)] == ["OverBudgetError"] * 2
    assert "one of 2 ranks" in said[0]["no room"][1]
    assert "found a run that would keep" in said[1]["no room"][1]


def test_policies_that_reuse_other_parts_are_refused_on_all(said: list[dict[str, Any]]) -> None:
    kind, text = said[0]["other kinds"]
    assert (kind, text) == said[1]["other kinds"]
    assert kind == "RanksDifferError"
    assert text.startswith("found policies that reuse other parts of the model")


def test_ranks_can_be_named(said: list[dict[str, Any]]) -> None:
    found = [said[rank]["named"] for rank in range(2)]
    assert found[0]["line"] == found[1]["line"] == said[0]["BWCache"]["line"]
    assert found[0]["ranks"] == "2 of 2 ranks compute in the same steps (ranks=)"


def test_sites_within_blocks(said: list[dict[str, Any]]) -> None:
    lines = [said[rank]["parts of blocks"]["line"] for rank in range(2)]
    assert lines[0] == lines[1]
