"""Every policy makes of split tokens to the last bit what it makes on one rank; and ring, and uneven shards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import ContextParallelConfig
from torch import Tensor

import bwcache
from bwcache import BWCache
from bwcache.core.trace import reuse_line
from tests.laws.cases import POLICIES, One
from tests.ranks.pair import STEPS, cached, identical, measured, same, two_ranks
from tests.ranks.ring import on_a_cpu
from tests.tiny import BY_NAME, Scripted, wan, wan_transformer

NAMES = [name for name, bold in POLICIES.items() if bold.on_transformers]
ODD = (1, 4, 1, 6, 6)
"""Latents of nine tokens: five and four."""


def made(pipe: Any, name: str) -> dict[str, Any]:
    """A guided video under a policy that reuses, and what was decided."""
    one = One(name, "wan", "Last", "guided")
    with bwcache.attach(pipe, one.bold, spec=one.spec) as session:
        video = one.case.run(pipe, num_inference_steps=STEPS)
    trace = session.trace
    rows = [(event.step, event.branch, event.site, event.action) for event in trace.events]
    return {"made": [video], "rows": rows, "line": reuse_line(trace.events)}


def looks_ahead(pipe: Any) -> dict[str, Any]:
    """A guided video whose denoiser is evaluated inside of windows, at latents that are carried there."""
    with bwcache.attach(pipe, bwcache.Planned(computed=6, ahead=0.5)) as session:
        video = BY_NAME["wan"].run(pipe, num_inference_steps=10)
    events = session.trace.events
    return {"made": [video], "line": reuse_line(events), "at": [event.evaluated_at for event in events]}


def splits(**how: Any) -> Any:
    module = wan_transformer()
    module.enable_parallelism(config=ContextParallelConfig(**how))
    return module


def uneven(policy: Any, make: Callable[[], Any] = wan_transformer) -> Any:
    with on_a_cpu():
        return cached(make(), policy, size=ODD)


UNEVEN: dict[str, Any] = {
    "sampled": BWCache(threshold=0.3, reuse_interval=2),
    "exact": BWCache(threshold=0.3, reuse_interval=2, sample=1),
    "scripted": Scripted(frozenset({2, 3, 5})),
}


def ring(make: Callable[[], Any], policy: Any) -> Any:
    with on_a_cpu():
        return cached(make(), policy)


def cases(rank: int) -> dict[str, Callable[[], Any]]:
    single, both = wan(), wan()
    both.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    found: dict[str, Callable[[], Any]] = {}
    for i, name in enumerate(NAMES):
        if i % 2 == rank:  # each does half of what one rank can do alone
            found[f"{name}, one rank"] = partial(made, single, name)
    found |= {name: partial(made, both, name) for name in NAMES}
    found["ahead, one rank"] = partial(looks_ahead, single)
    found["ahead"] = partial(looks_ahead, both)
    for name, policy in UNEVEN.items():
        found[f"uneven {name}, one rank"] = partial(uneven, policy)
        found[f"uneven {name}"] = partial(uneven, policy, partial(splits, ulysses_degree=2, ulysses_anything=True))
        found[f"ring {name}, one rank"] = partial(ring, wan_transformer, policy)
        found[f"ring {name}"] = partial(ring, partial(splits, ring_degree=2), policy)
    found["uneven ring"] = partial(uneven, UNEVEN["exact"], partial(splits, ring_degree=2, ring_anything=True))
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_ranks(cases, tmp_path_factory.mktemp("catalogue"))


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_makes_the_video_of_one_rank(said: list[dict[str, Any]], name: str) -> None:
    single = next(one[f"{name}, one rank"] for one in said if f"{name}, one rank" in one)
    assert any(action == "reuse" for *_, action in single["rows"]) == (name != "NeverReuse")
    for rank in range(2):
        assert said[rank][name]["rows"] == single["rows"]
        assert identical(said[rank][name]["made"], single["made"])


def test_all_ranks_evaluate_at_the_same_place_inside_of_a_window(said: list[dict[str, Any]]) -> None:
    single = said[0]["ahead, one rank"]
    assert any(at is not None for at in single["at"])
    for rank in range(2):
        found = said[rank]["ahead"]
        assert (found["line"], found["at"]) == (single["line"], single["at"])
        assert identical(found["made"], single["made"])


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_shards(said: list[dict[str, Any]], name: str) -> None:
    single = said[0][f"uneven {name}, one rank"]
    assert {"C", "r"} <= set(single["line"])
    for rank in range(2):
        found = said[rank][f"uneven {name}"]
        assert found["line"] == single["line"]
        assert measured(found) == pytest.approx(measured(single), rel=1e-4)
        assert same(found["made"], single["made"])


@pytest.mark.parametrize("name", UNEVEN)
def test_ring(said: list[dict[str, Any]], name: str) -> None:
    single = said[0][f"ring {name}, one rank"]
    for rank in range(2):
        found = said[rank][f"ring {name}"]
        assert found["line"] == single["line"]
        assert near(found["made"], single["made"])


def test_an_uneven_ring(said: list[dict[str, Any]]) -> None:
    single = said[0]["uneven exact, one rank"]
    for rank in range(2):
        assert said[rank]["uneven ring"]["line"] == single["line"]
        assert near(said[rank]["uneven ring"]["made"], single["made"])


def near(made: list[Tensor], wanted: list[Tensor]) -> bool:
    """Whether two videos are one but for the order in which attention adds up."""
    return all(torch.allclose(a, b, atol=1e-4) for a, b in zip(made, wanted, strict=True))
