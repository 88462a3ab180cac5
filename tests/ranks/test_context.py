"""Context parallelism of diffusers: each rank has half of the tokens, and the video is that of one rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from diffusers import ContextParallelConfig

import bwcache
from bwcache import Adaptive, BWCache, EasyCache, FirstBlock, Foresight, RunStoppedError
from bwcache.core.trace import reuse_line
from bwcache.engine.run import Run
from bwcache.models import BlockStack, Site
from tests.ranks.pair import STEPS, cached, identical, measured, split, two_ranks, video
from tests.tiny import Scripted, wan_transformer


@dataclass(frozen=True)
class Residual(Scripted):
    """Keeps what all blocks add, from what enters the first one on."""

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        return (stack.whole("residual"),)


REUSED = frozenset({2, 3, 5})
POLICIES: dict[str, bwcache.Policy[Any]] = {
    "BWCache": BWCache(threshold=0.3, reuse_interval=2),
    "scripted": Scripted(REUSED),
    "residual": Residual(REUSED),
    "FirstBlock": FirstBlock(threshold=0.1),
    "EasyCache": EasyCache(0.5, 2),
    "Foresight": Foresight(50.0, 1, 0.3),
    "Adaptive": Adaptive(0.5, 0.0),
}


def other_seeds(rank: int) -> Any:
    return cached(split(), POLICIES["BWCache"], seed=rank)


def other_prompts(rank: int) -> Any:
    return cached(split(), POLICIES["BWCache"], prompt=1 + rank)


def other_settings(rank: int) -> Any:
    return cached(split(), BWCache(threshold=0.3 + rank / 10, reuse_interval=2))


def other_versions(rank: int) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bwcache.engine.run.version", lambda: f"0.1.{rank}")
        return cached(split(), POLICIES["BWCache"])


def no_room(rank: int, limit: int) -> Any:
    """Only the second rank may not hold what it would."""
    return cached(split(), POLICIES["scripted"], max_memory=limit if rank else 2**30)


def room_that_goes(rank: int) -> Any:
    """The second rank cannot keep what it computed in the second step, and could later."""
    keep, calls = Run.keep, []

    def keeps(self: Run, *args: Any, **kwargs: Any) -> bool:
        calls.append(rank)
        return keep(self, *args, **kwargs) if len(calls) != 2 else False

    if rank == 1:
        Run.keep = keeps  # type: ignore[method-assign]
    try:
        return cached(split(), POLICIES["scripted"])
    finally:
        Run.keep = keep  # type: ignore[method-assign]


def stopped(rank: int) -> Any:
    """The first rank is told to stop in its third step."""
    module = split()
    with bwcache.attach(module, POLICIES["scripted"], steps=STEPS) as session:
        forget = session.on_step(lambda event: session.stop() if event.step == 2 and rank == 0 else None)
        with pytest.raises(RunStoppedError), session.run(STEPS):
            video(module)
        line = reuse_line(session.trace.events)
        forget()
        with session.run(STEPS):
            video(module)
    return line, reuse_line(session.trace.events)


def late(rank: int) -> Any:
    """Tokens that are split after the session was attached."""
    module = wan_transformer()
    with bwcache.attach(module, POLICIES["BWCache"], steps=STEPS) as session:
        module.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        with session.run(STEPS):
            made = video(module)
    return {"made": made, "line": reuse_line(session.trace.events)}


def _cached(make: Callable[[], Any], policy: bwcache.Policy[Any]) -> Any:
    return cached(make(), policy)


def cases(rank: int) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for name, policy in POLICIES.items():
        found[f"{name} alone"] = partial(_cached, wan_transformer, policy)
        found[name] = partial(_cached, split, policy)
    found["offload"] = lambda: cached(split(), POLICIES["residual"], memory="offload")
    found["seeds"] = lambda: other_seeds(rank)
    found["prompts"] = lambda: other_prompts(rank)
    found["settings"] = lambda: other_settings(rank)
    found["versions"] = lambda: other_versions(rank)
    found["no room"] = lambda: no_room(rank, 8)
    found["room for a part"] = lambda: cached(split(), POLICIES["residual"], max_memory=1200)
    found["room that goes"] = lambda: room_that_goes(rank)
    found["stopped"] = lambda: stopped(rank)
    found["late"] = lambda: late(rank)
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_ranks(cases, tmp_path_factory.mktemp("context"))


@pytest.mark.parametrize("name", POLICIES)
def test_the_video_is_that_of_one_rank(said: list[dict[str, Any]], name: str) -> None:
    """The group is found by itself; without it the ranks would wait for each other in vain."""
    alone = said[0][f"{name} alone"]
    assert {"C", "r"} <= set(alone["line"])
    for rank in range(2):
        together = said[rank][name]
        assert together["ranks"] == "2 of 2 ranks have parts of this video (context parallelism of model)"
        assert together["line"] == alone["line"]
        assert measured(together) == pytest.approx(measured(alone), rel=1e-4)
        assert identical(together["made"], alone["made"])


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"EasyCache"}))
def test_each_rank_plans_and_keeps_its_part(said: list[dict[str, Any]], name: str) -> None:
    alone, together = said[0][f"{name} alone"], said[0][name]
    assert together["planned"] == together["peak"] == alone["peak"] / 2


def test_features_that_wait_in_main_memory_and_a_limit_that_a_part_keeps(said: list[dict[str, Any]]) -> None:
    for case in ("offload", "room for a part"):
        for rank in range(2):
            assert said[rank][case]["line"] == said[0]["residual alone"]["line"]
            assert identical(said[rank][case]["made"], said[0]["residual alone"]["made"])


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("seeds", "latents"),
        ("prompts", "prompts"),
        ("settings", "policies, numbers of steps or versions of bwcache"),
        ("versions", "policies, numbers of steps or versions of bwcache"),
    ],
)
def test_other_seeds_prompts_or_settings_are_an_error_on_all(said: list[dict[str, Any]], case: str, what: str) -> None:
    kind, text = said[0][case]
    assert (kind, text) == said[1][case]
    assert kind == "RanksDifferError"
    assert text.startswith(f"found {what} that are not the same on 2 ranks")


def test_what_one_rank_has_no_room_for_all_refuse_before_the_first_block(said: list[dict[str, Any]]) -> None:
    assert [said[rank]["no room"][0] for rank in range(2)] == ["OverBudgetError", "OverBudgetError"]
    assert "too much on some of 2" in said[0]["no room"][1]


def test_what_one_rank_could_not_keep_none_reuses(said: list[dict[str, Any]]) -> None:
    """Reuse was due in steps 2, 3 and 5; in step 1 one rank kept nothing."""
    assert [said[rank]["room that goes"]["line"] for rank in range(2)] == ["CCCrCrCC"] * 2


def test_one_rank_that_is_told_to_stop_stops_all(said: list[dict[str, Any]]) -> None:
    assert said[0]["stopped"] == said[1]["stopped"]
    line, later = said[0]["stopped"]
    assert 2 < len(line) < STEPS
    assert line == "CCrrCr"
    assert later == "CCrrCrCC"


def test_a_model_that_is_split_while_attached(said: list[dict[str, Any]]) -> None:
    for rank in range(2):
        assert said[rank]["late"]["line"] == said[0]["BWCache alone"]["line"]
        assert identical(said[rank]["late"]["made"], said[0]["BWCache alone"]["made"])
