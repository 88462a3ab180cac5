"""Four ranks: videos beside each other, each by two ranks; weights shared across; guidance and tokens split."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import ContextParallelConfig
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import bwcache
from bwcache import BWCache
from bwcache.core.trace import reuse_line
from tests.ranks.pair import STEPS, cached, identical, several_ranks, video
from tests.ranks.ring import on_a_cpu
from tests.ranks.test_table import guided
from tests.tiny import Scripted, wan_transformer

POLICY = BWCache(threshold=0.2, reuse_interval=2)
PACES = (0.002, 0.6)
RUNTIME = "xfuser.core.distributed.parallel_state"


def mesh() -> Any:
    return init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=("videos", "ring", "ulysses"))


def pairs() -> Any:
    """A denoiser whose tokens are split between the two ranks of a pair."""
    module = wan_transformer()
    module.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, mesh=mesh()))
    return module


def shared() -> Any:
    """The same, and of whose weights each pair has a half."""
    module, across = wan_transformer(), mesh()
    for block in module.blocks:
        fully_shard(block, mesh=across["videos"])
    fully_shard(module, mesh=across["videos"])
    module.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, mesh=across))
    return module


def own(rank: int) -> dict[str, Any]:
    return {"seed": rank // 2, "prompt": 1 + rank // 2, "pace": PACES[rank // 2]}


def one_more(rank: int) -> Any:
    """The first pair makes a second video, and waits for nobody."""
    module = pairs()
    found = [cached(module, POLICY, **own(rank))]
    if rank < 2:
        found.append(cached(module, POLICY, **own(rank) | {"seed": 7}))
    return found


def stopped(rank: int) -> Any:
    """One rank of four is told to stop."""
    module = shared()
    with bwcache.attach(module, Scripted(frozenset({1, 2, 4})), steps=STEPS) as session:
        session.on_step(lambda event: session.stop() if event.step == 2 and rank == 3 else None)
        with pytest.raises(bwcache.RunStoppedError), session.run(STEPS):
            video(module, seed=rank // 2)
    return reuse_line(session.trace.events)


def both(rank: int) -> Any:
    """Guidance branches on pairs, tokens split in each pair, as a runtime would say it."""
    across = mesh()
    state: Any = ModuleType(RUNTIME)
    for kind, axis in (("sp", "ulysses"), ("cfg", "videos")):
        group = SimpleNamespace(world_size=2, device_group=across.get_group(axis))
        setattr(state, f"get_{kind}_group", lambda group=group: group)
    sys.modules[RUNTIME] = state
    try:
        module = wan_transformer()
        module.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, mesh=across))
        return guided(rank // 2, POLICY, module, "auto", across.get_group("videos"))
    finally:
        del sys.modules[RUNTIME]


def ring_and_ulysses() -> Any:
    module = wan_transformer()
    module.enable_parallelism(config=ContextParallelConfig(ring_degree=2, ulysses_degree=2))
    with on_a_cpu():
        return cached(module, POLICY)


def alone(rank: int) -> Any:
    with on_a_cpu():
        return cached(wan_transformer(), POLICY)


def cases(rank: int) -> dict[str, Callable[[], Any]]:
    return {
        "alone": lambda: cached(wan_transformer(), POLICY, **own(rank)),
        "pairs": lambda: one_more(rank),
        "shared": lambda: cached(shared(), POLICY, **own(rank)),
        "stopped": lambda: stopped(rank),
        "guided, one rank": lambda: guided(None, POLICY),
        "guided": lambda: both(rank),
        "ring and ulysses, one rank": lambda: alone(rank),
        "ring and ulysses": ring_and_ulysses,
    }


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return several_ranks(4, cases, tmp_path_factory.mktemp("grid"))


def test_videos_beside_each_other_know_nothing_of_each_other(said: list[dict[str, Any]]) -> None:
    assert said[0]["alone"]["line"] != said[2]["alone"]["line"]
    for rank in range(4):
        found = said[rank]["pairs"]
        assert len(found) == (2 if rank < 2 else 1)
        assert found[0]["ranks"] == "2 of 4 ranks have parts of this video (context parallelism of model)"
        assert found[0]["line"] == said[rank]["alone"]["line"]
        assert identical(found[0]["made"], said[rank]["alone"]["made"])


def test_weights_that_are_shared_across_videos(said: list[dict[str, Any]]) -> None:
    """Each pair measures its own video, and what one pair computes both compute."""
    lines = {said[rank]["shared"]["line"] for rank in range(4)}
    assert len(lines) == 1
    for rank in range(4):
        assert said[rank]["shared"]["ranks"] == (
            "2 of 4 ranks have parts of this video (context parallelism of model); "
            "2 of 4 ranks compute in the same steps (fully_shard of model)"
        )
        assert said[rank]["shared"]["indicators"] == said[rank ^ 1]["shared"]["indicators"]
    assert said[0]["shared"]["indicators"] != said[2]["shared"]["indicators"]


def test_one_of_four_that_is_told_to_stop_stops_all(said: list[dict[str, Any]]) -> None:
    assert [said[rank]["stopped"] for rank in range(4)] == ["CrrC"] * 4


def test_guidance_and_tokens_on_ranks_of_their_own(said: list[dict[str, Any]]) -> None:
    single = said[0]["guided, one rank"]
    for rank in range(4):
        found = said[rank]["guided"]
        assert found["line"] == single["line"]
        assert identical(found["made"], single["made"])


def test_ring_and_ulysses(said: list[dict[str, Any]]) -> None:
    for rank in range(4):
        found, single = said[rank]["ring and ulysses"], said[0]["ring and ulysses, one rank"]
        assert found["ranks"] == "4 of 4 ranks have parts of this video (context parallelism of model)"
        assert found["line"] == single["line"]
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found["made"], single["made"], strict=True))
