"""Weights or features that lie on several ranks: fully sharded, tensor parallel, DTensors between the blocks."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import bwcache
from bwcache import Adaptive, BlockList, BlockSpec, BWCache, Linear
from bwcache.core.trace import reuse_line
from bwcache.models import BlockStack, Site
from tests.ranks.pair import POLICY, cached, measured, same, two_ranks
from tests.tiny import Scripted, noise, seeded, wan_transformer

REUSED = frozenset({2, 3, 5})
SPEC = BlockSpec("Spread", (BlockList("blocks", ("hidden_states",)),), ("hidden_states",), timestep="time")
STEPS = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, hidden_states: Tensor) -> Tensor:
        if isinstance(hidden_states, DTensor) and not isinstance(self.linear.weight, DTensor):
            own = self.forward(hidden_states.to_local())
            return DTensor.from_local(own, hidden_states.device_mesh, hidden_states.placements)
        return hidden_states + torch.tanh(self.linear(hidden_states))


class Spread(nn.Module):
    """Its features are DTensors between the blocks, if it is given a mesh."""

    def __init__(self, mesh: DeviceMesh | None = None, placement: Placement | None = None) -> None:
        super().__init__()
        self.enters = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.mesh, self.placement = mesh, placement or Shard(1)

    def forward(self, latents: Tensor, time: Tensor) -> Tensor:
        hidden_states = self.enters(latents + time / 1000)
        if self.mesh is not None:
            if isinstance(self.placement, Partial):
                hidden_states = DTensor.from_local(hidden_states, self.mesh, [self.placement])
            else:
                whole = DTensor.from_local(hidden_states, self.mesh, [Replicate()])
                hidden_states = whole.redistribute(self.mesh, [self.placement])
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states.full_tensor() if self.mesh is not None else hidden_states


class Residual(Scripted):
    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        return (stack.whole("residual"),)


def spread(placement: Placement | None = None, weights: bool = True, plain: bool = False) -> Spread:
    mesh = None if plain else init_device_mesh("cpu", (2,))
    module = seeded(lambda: Spread(mesh, placement))
    if mesh is not None:
        for block in module.blocks if weights else ():
            distribute_module(block, mesh)
    return module


def denoised(module: Any, policy: Any, batch: int = 1, **how: Any) -> dict[str, Any]:
    made, start = [], noise(batch, 6, 8, seed=1)
    with bwcache.attach(module, policy, spec=SPEC, steps=STEPS, **how) as session, session.run(STEPS):
        for i in range(STEPS):
            with torch.no_grad():
                made.append(module(start * (1 - i / 20), torch.tensor(1000.0 - 100 * i)))
    trace = session.trace
    indicators = [event.indicator for event in trace.events]
    return {
        "made": made,
        "line": reuse_line(trace.events),
        "indicators": indicators,
        "peak": trace.peak_bytes,
        "ranks": trace.meta.get("ranks"),
    }


POLICIES: dict[str, Any] = {
    "sampled": BWCache(threshold=0.1, reuse_interval=2),
    "exact": BWCache(threshold=0.1, reuse_interval=2, sample=1),
    "residual": Residual(REUSED),
    "line": Scripted(REUSED, Linear()),
    "judged": Adaptive(0.5, 0.0),
}


def sharded() -> Any:
    module = wan_transformer()
    for block in module.blocks:
        fully_shard(block)
    return fully_shard(module)


def tensor_parallel() -> Any:
    module, mesh = wan_transformer(), init_device_mesh("cpu", (2,))
    for block in module.blocks:
        parallelize_module(block.ffn, mesh, {"net.0.proj": ColwiseParallel(), "net.2": RowwiseParallel()})
    return module


class Talking(nn.Module):
    """As the attention of native code that speaks to other ranks."""


Talking.__module__ = "yunchang.attention"


def unclear(ranks: Any = "auto") -> Any:
    module = wan_transformer()
    module.blocks[1].attn1.processor = Talking()
    with bwcache.attach(module, POLICY, ranks=ranks) as session:
        return session.ranks


XFUSER = "xfuser.core.distributed.parallel_state"
OMNI, VLLM = "vllm_omni.diffusion.distributed.parallel_state", "vllm.distributed.parallel_state"


def served(
    kinds: tuple[str, ...] = ("sp", "cfg", "pp", "tp"),
    talks: bool = False,
    runtimes: tuple[str, ...] = (XFUSER,),
    run: Callable[[Any], Any] | None = None,
    **sizes: int,
) -> Any:
    """As if runtimes were loaded that know their groups: of each kind one of so many ranks, the last kind the last."""
    own = [dist.new_group([0]), dist.new_group([1])][dist.get_rank()]
    states: list[Any] = [ModuleType(name) for name in runtimes]
    for kind in kinds:
        size = sizes.get(kind, 1)
        group = SimpleNamespace(world_size=size, device_group=dist.group.WORLD if size > 1 else own)
        state = states[-1] if kind == kinds[-1] else states[0]
        setattr(state, f"get_{kind}_group", lambda group=group: group)
    module = wan_transformer()
    if talks:
        module.blocks[1].attn1.processor = Talking()
    sys.modules.update({state.__name__: state for state in states})
    try:
        if run is not None:
            return run(module)
        with bwcache.attach(module, POLICY) as session:
            return session.ranks
    finally:
        for state in states:
            del sys.modules[state.__name__]


def not_served() -> Any:
    """A runtime that was loaded and that nobody has started."""
    state: Any = ModuleType(XFUSER)

    def nothing() -> None:
        raise AssertionError("not initialized")

    state.get_sp_group = state.get_cfg_group = nothing
    sys.modules[state.__name__] = state
    try:
        with bwcache.attach(wan_transformer(), POLICY) as session:
            return session.ranks
    finally:
        del sys.modules[state.__name__]


def not_of_it(rank: int) -> Any:
    """A group that only the first rank is a member of."""
    with bwcache.attach(wan_transformer(), POLICY, ranks=dist.new_group([0])) as session:
        return session.ranks


def former_name() -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with bwcache.attach(wan_transformer(), POLICY, group=dist.group.WORLD) as session:  # type: ignore[call-arg]
            said = session.ranks
        with bwcache.enable(wan_transformer(), POLICY, group=None) as session:
            return said, session.ranks, [str(one.message) for one in caught], [one.filename for one in caught]


def two_axes() -> Any:
    module, mesh = wan_transformer(), init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))
    for block in module.blocks:
        fully_shard(block, mesh=mesh)
    with bwcache.attach(module, POLICY) as session:
        return session.ranks


def mesh_of_two_axes() -> Any:
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))
    with bwcache.attach(wan_transformer(), POLICY, ranks=mesh):
        return "attached"


def _denoised(plain: bool, policy: bwcache.Policy[Any]) -> Any:
    return denoised(spread(plain=True) if plain else spread(), policy)


def cases(rank: int) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for name, policy in POLICIES.items():
        found[f"{name} alone"] = partial(_denoised, True, policy)
        found[name] = partial(_denoised, False, policy)
    found["replicated"] = lambda: denoised(spread(Replicate()), POLICIES["sampled"])
    found["offload"] = lambda: denoised(spread(), POLICIES["residual"], memory="offload")
    found["batch alone"] = lambda: denoised(spread(plain=True), POLICIES["sampled"], 2, per_sample=False)
    found["batch"] = lambda: denoised(spread(Shard(0)), POLICIES["sampled"], 2, per_sample=False)
    found["batch apart"] = lambda: denoised(spread(Shard(0)), POLICIES["sampled"], 2)
    found["batch side by side"] = lambda: denoised(spread(), POLICIES["sampled"], 2)
    found["batch side by side, alone"] = lambda: denoised(spread(plain=True), POLICIES["sampled"], 2)
    found["nobody says"] = lambda: denoised(spread(weights=False), POLICIES["sampled"])
    found["somebody says"] = lambda: denoised(spread(weights=False), POLICIES["sampled"], ranks=dist.group.WORLD)
    found["summands"] = lambda: denoised(spread(Partial(), weights=False), POLICIES["sampled"])
    found["wan alone"] = lambda: cached(wan_transformer(), POLICY)
    found["tensor parallel"] = lambda: cached(tensor_parallel(), POLICY)
    found["fully sharded"] = lambda: cached(sharded(), POLICY)
    found["unclear"] = unclear
    found["unclear, named"] = lambda: unclear(dist.group.WORLD)
    found["two axes"] = two_axes
    found["served"] = lambda: served(sp=2)
    found["served, guidance"] = lambda: served(cfg=2)
    found["served, stages"] = lambda: served(pp=2)
    found["served, tensors"] = lambda: served(tp=2, talks=True)
    found["served, latents of its own"] = lambda: served(sp=2, run=lambda module: cached(module, POLICY, seed=rank))
    found["served, latents of its own, tensors"] = lambda: served(
        tp=2, run=lambda module: cached(module, POLICY, seed=rank)
    )
    found["served by two"] = lambda: served(runtimes=(OMNI, VLLM), tp=2, talks=True)
    found["served by two, alone"] = lambda: served(runtimes=(OMNI, VLLM), talks=True)
    found["served, alone"] = lambda: served(talks=True)
    found["served, not all is known"] = lambda: served(("sp", "cfg"))
    found["served, not all is known, and it talks"] = lambda: served(("sp", "cfg"), talks=True)
    found["not served"] = not_served
    found["not of it"] = lambda: not_of_it(rank)
    found["former name"] = former_name
    found["a mesh of two axes"] = mesh_of_two_axes
    found["each for itself"] = lambda: cached(wan_transformer(), POLICY, seed=rank)
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_ranks(cases, tmp_path_factory.mktemp("spread"))


@pytest.mark.parametrize("name", POLICIES)
def test_dtensors_between_the_blocks_are_measured_kept_and_replayed(said: list[dict[str, Any]], name: str) -> None:
    """Each rank keeps half, and the video is that of one rank."""
    alone = said[0][f"{name} alone"]
    assert {"C", "r"} <= set(alone["line"])
    for rank in range(2):
        together = said[rank][name]
        assert together["ranks"] == "2 of 2 ranks have parts of this video (distributed parameters of model)"
        assert together["line"] == alone["line"]
        assert measured(together) == pytest.approx(measured(alone), rel=1e-4)
        assert together["peak"] == alone["peak"] / 2
        assert same(together["made"], alone["made"])


@pytest.mark.parametrize(
    ("case", "alone"),
    [
        ("replicated", "sampled alone"),
        ("offload", "residual alone"),
        ("batch", "batch alone"),
        ("somebody says", "sampled alone"),
    ],
)
def test_other_ways_to_lie_on_ranks(said: list[dict[str, Any]], case: str, alone: str) -> None:
    for rank in range(2):
        assert said[rank][case]["line"] == said[0][alone]["line"]
        assert same(said[rank][case]["made"], said[0][alone]["made"])


def test_samples_decide_for_themselves_where_each_rank_has_a_part_of_each(
    said: list[dict[str, Any]],
) -> None:
    for rank in range(2):
        found = said[rank]["batch side by side"]
        assert found["line"] == "CCrrCCrC"
        assert same(found["made"], said[0]["batch side by side, alone"]["made"])


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("batch apart", r"2 samples of blocks\.3 that lie on 2 ranks .*; pass per_sample=False"),
        ("nobody says", r"a feature of blocks\.3 that lies on 2 ranks .*; pass ranks="),
        ("summands", r".* of which each rank has a summand .*; redistribute it"),
        ("unclear", r"Talking of yunchang\.attention in model, which speaks to other ranks, .*; pass ranks="),
        ("a mesh of two axes", r"a mesh of 2 dimensions \(replicate, shard\) at ranks=.*; pass ranks="),
    ],
)
def test_what_cannot_be_known_or_kept_is_one_line_on_all_ranks(
    said: list[dict[str, Any]], case: str, what: str
) -> None:
    assert said[0][case] == said[1][case]
    kind, text = said[0][case]
    assert kind == "AttachError"
    assert re.match(f"found {what}", text)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("case", "how"),
    [
        ("tensor parallel", "have parts of this video (distributed parameters of model)"),
        ("fully sharded", "compute in the same steps (fully_shard of model)"),
    ],
)
def test_weights_that_lie_on_several_ranks(said: list[dict[str, Any]], case: str, how: str) -> None:
    for rank in range(2):
        found = said[rank][case]
        assert found["ranks"] == f"2 of 2 ranks {how}"
        assert found["line"] == said[0]["wan alone"]["line"]
        assert same(found["made"], said[0]["wan alone"]["made"])


def test_weights_that_are_replicated_as_well_are_waited_for_along_one_axis(said: list[dict[str, Any]]) -> None:
    assert said[0]["two axes"] == said[1]["two axes"] == "2 of 2 ranks compute in the same steps (fully_shard of model)"


def test_a_group_that_is_named_settles_it(said: list[dict[str, Any]]) -> None:
    assert said[0]["unclear, named"] == "2 of 2 ranks have parts of this video (ranks=)"


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("served", "2 of 2 ranks have parts of this video (sequence parallelism of xfuser)"),
        ("served, guidance", "2 of 2 ranks have parts of this video (guidance parallelism of xfuser)"),
        ("served, tensors", "2 of 2 ranks have parts of this video (tensor parallelism of xfuser)"),
        ("served by two", "2 of 2 ranks have parts of this video (tensor parallelism of vllm_omni)"),
        ("served by two, alone", "alone (vllm_omni makes each video on one rank)"),
        ("served, alone", "alone (xfuser makes each video on one rank)"),
        ("served, not all is known", "alone (nothing in model speaks to the other ranks)"),
        ("not served", "alone (nothing in model speaks to the other ranks)"),
    ],
)
def test_whoever_serves_the_model_knows_its_ranks(said: list[dict[str, Any]], case: str, what: str) -> None:
    assert said[0][case] == said[1][case] == what


def test_latents_are_cut_into_sequences_before_they_enter_and_are_the_same_for_parts_of_tensors(
    said: list[dict[str, Any]],
) -> None:
    """sglang cuts them, so what enters is another on each rank; a grade would have ended each request there."""
    first, second = (each["served, latents of its own"] for each in said)
    assert first["line"] == second["line"]
    assert "sequence parallelism" in first["ranks"]
    for each in said:
        kind, text = each["served, latents of its own, tensors"]
        assert kind == "RanksDifferError"
        assert "latents that are not the same" in text


def test_a_runtime_that_does_not_tell_of_all_its_groups_settles_nothing(said: list[dict[str, Any]]) -> None:
    kind, text = said[0]["served, not all is known, and it talks"]
    assert kind == "AttachError"
    assert "pass ranks=" in text


def test_a_pipeline_of_stages_is_refused(said: list[dict[str, Any]]) -> None:
    kind, text = said[0]["served, stages"]
    assert kind == "AttachError"
    assert text.startswith("found 2 stages of a pipeline (xfuser), each with a stretch of the blocks; expected")


def test_a_group_without_this_rank_is_refused(said: list[dict[str, Any]]) -> None:
    assert said[0]["not of it"] == "alone (as said by ranks=)"
    kind, text = said[1]["not of it"]
    assert kind == "SettingError"
    assert text.startswith("found a group without this rank as ranks=; expected one that it is a member of")


def test_the_former_name_is_understood(said: list[dict[str, Any]]) -> None:
    named, default, texts, files = said[0]["former name"]
    assert named == "2 of 2 ranks have parts of this video (ranks=)"
    assert default == "alone (nothing in model speaks to the other ranks)"
    assert [text.partition(";")[0] for text in texts] == [
        "attach(group=) is called attach(ranks=) now",
        "enable(group=) is called enable(ranks=) now",
    ]
    assert set(files) == {__file__}


def test_ranks_that_share_nothing_decide_alone(said: list[dict[str, Any]]) -> None:
    first, second = (said[rank]["each for itself"] for rank in range(2))
    assert first["ranks"] == second["ranks"] == "alone (nothing in model speaks to the other ranks)"
    assert first["indicators"] != second["indicators"]
