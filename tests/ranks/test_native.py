"""Native code that splits a video among ranks by itself: its own forward in the place of the model's, xDiT's groups.

The look-alikes' forwards here have the structure of the repositories' own, which `python -m benchmarks.native.ranks`
tries: Wan's takes a share of the tokens before the blocks and gathers what the head makes of them, HunyuanVideo's
stands around the whole forward and cuts the latents by their height.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import bwcache
from bwcache import BWCache
from bwcache.core.trace import reuse_line
from tests.ranks.pair import identical, measured, two_ranks
from tests.tiny import noise, seeded
from tests.zoo.native import FRAMES, HEIGHT, TEXT, C, HYVideoDiffusionTransformer, WanModel

STEPS = 8
XFUSER = "xfuser.core.distributed.parallel_state"
NOISES = tuple(1 - i / STEPS for i in range(STEPS + 1))
WHOLE = bwcache.BlockSpec("Whole", (), latents="latents", timestep="time", per_sample=False, module_prefix="")
POLICIES: dict[str, bwcache.Policy[Any]] = {
    "BWCache": BWCache(threshold=0.2, reuse_interval=2),
    "BWCache, all entries": BWCache(threshold=0.2, reuse_interval=2, sample=1),
    "FirstBlock": bwcache.FirstBlock(0.3),
    "DBCache": bwcache.DBCache(0.3, 1, 1, 0),
    "TaylorSeer": bwcache.TaylorSeer(3, 1, 2, lite=True),
    "HiCache": bwcache.HiCache(3, 2, 2, lite=True),
    "FixedInterval": bwcache.FixedInterval(3),
    "Planned": bwcache.Planned(computed=5),
    "grade": bwcache.Planned(0.2),
}
PROBES = ("FirstBlock", "DBCache")
"""They keep what blocks add, and text joins HunyuanVideo's stream between the probe and the last block."""


@contextmanager
def xdit() -> Iterator[None]:
    """As if xDiT were loaded and all ranks were one sequence; and nothing else is split."""
    alone = [dist.new_group([i]) for i in range(dist.get_world_size())][dist.get_rank()]
    state: Any = ModuleType(XFUSER)
    for kind in ("sp", "cfg", "pp", "tp"):
        size = dist.get_world_size() if kind == "sp" else 1
        group = SimpleNamespace(world_size=size, device_group=dist.group.WORLD if kind == "sp" else alone)
        setattr(state, f"get_{kind}_group", lambda group=group: group)
    sys.modules[XFUSER] = state
    try:
        yield
    finally:
        del sys.modules[XFUSER]


def share(x: Tensor, dim: int) -> Tensor:
    return x.chunk(dist.get_world_size(), dim=dim)[dist.get_rank()]


def gathered(x: Tensor, dim: int) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, dim=dim)


def usp_dit_forward(self, x, t, context, seq_len, clip_fea=None, y=None):
    x, e, kwargs = self.embedded(x, t, context, seq_len)
    x = share(x, 1)
    for block in self.blocks:
        x = block(x, **kwargs)
    return self.unpatchify(gathered(self.head(x, e), 1))


def elsewhere(self, x, t, context, seq_len, clip_fea=None, y=None):
    return usp_dit_forward(self, x, t, context, seq_len)


def attend(self: Any, x: Tensor, context: Tensor | None = None, text: int = 0) -> Tensor:
    """A rank's queries and the keys of all; of its tokens the last ones may be text, which all ranks have."""
    seen = x if context is None else context
    tokens, words = seen[:, : seen.shape[1] - text], seen[:, seen.shape[1] - text :]
    seen = torch.cat([gathered(tokens, 1), words], dim=1)
    return self.out(F.scaled_dot_product_attention(self.q(x), self.k(seen), self.v(seen)))


for _function in (usp_dit_forward, attend):
    _function.__module__ = "wan.distributed.xdit_context_parallel"


def wan(split: bool, forward: Callable[..., Any] = usp_dit_forward) -> Any:
    module: Any = seeded(WanModel)
    if split:
        module.forward = MethodType(forward, module)
        for block in module.blocks:
            block.own.forward = MethodType(attend, block.own)
    return module


def hunyuan(split: bool) -> Any:
    module: Any = seeded(HYVideoDiffusionTransformer)
    if not split:
        return module
    original = module.forward

    @functools.wraps(type(module).forward)
    def new_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = original(share(x, -2), *args, **kwargs)
        output["x"] = gathered(output["x"], -2)
        return output

    module.forward = MethodType(new_forward, module)
    for block in module.double_blocks:
        block.img.own.forward = MethodType(attend, block.img.own)
        block.txt.cross.forward = MethodType(attend, block.txt.cross)
    for block in module.single_blocks:
        block.own.forward = partial(MethodType(attend, block.own), text=TEXT)
    return module


class Whole(nn.Module):
    """A model that takes latents as one tensor, whatever it takes them as."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, time: Tensor) -> Tensor:
        if isinstance(self.model, WanModel):
            made: Tensor = self.model([latents[0]], time, [noise(TEXT, C, seed=1)], FRAMES * HEIGHT**2)[0][None]
            return made
        texts = {"text_states": noise(1, TEXT, C, seed=1), "text_states_2": noise(1, C, seed=2)}
        return self.model(latents, time, **texts, guidance=torch.tensor([6000.0]))["x"]


def told(session: bwcache.Session, model: Any) -> list[Tensor]:
    """The outputs of a loop that tells the noise."""
    made, latents = [], noise(1, C, FRAMES, HEIGHT, HEIGHT)
    for i in range(STEPS):
        said: dict[str, Any] = {
            "index": i,
            "branch": "cond",
            "sigma": NOISES[i],
            "prediction": "flow",
            "schedule": NOISES,
        }
        with session.step(**said), torch.no_grad():
            made.append(model(latents, torch.tensor([1000 * NOISES[i]])))
        latents = latents - made[-1] / STEPS
    return made


def cached(module: Any, policy: Any, **how: Any) -> dict[str, Any]:
    whole = Whole(module).eval()
    planned = isinstance(policy, bwcache.Planned)
    how |= {"spec": WHOLE} if planned else {}
    with bwcache.attach(whole if planned else module, policy, steps=STEPS, **how) as session:
        made = told(session, whole)
    trace = session.trace
    return {
        "made": made,
        "line": reuse_line(trace.events),
        "indicators": [event.indicator for event in trace.events],
        "ranks": trace.meta.get("ranks"),
        "peak": trace.peak_bytes,
    }


def alone_in(make: Callable[..., Any], policy: Any) -> dict[str, Any]:
    return cached(make(False), policy, ranks=None)


def served(make: Callable[..., Any], policy: Any) -> dict[str, Any]:
    with xdit():
        return cached(make(True), policy)


MODELS: dict[str, Callable[..., Any]] = {"wan": wan, "hunyuan": hunyuan}


def cases(rank: int) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for model, make in MODELS.items():
        for name, policy in POLICIES.items():
            found[f"{model} {name} alone"] = partial(alone_in, make, policy)
            found[f"{model} {name}"] = partial(served, make, policy)
    found["nobody says"] = lambda: cached(wan(True), POLICIES["BWCache"])
    found["somebody says"] = lambda: cached(wan(True), POLICIES["BWCache"], ranks=dist.group.WORLD)
    found["not known"] = lambda: cached(wan(True, elsewhere), POLICIES["BWCache"], ranks=dist.group.WORLD)
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_ranks(cases, tmp_path_factory.mktemp("native"))


def near(made: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(made, wanted, strict=True))


@pytest.mark.parametrize("name", POLICIES)
def test_wan_of_several_ranks_is_that_of_one_to_the_last_bit(said: list[dict[str, Any]], name: str) -> None:
    alone = said[0][f"wan {name} alone"]
    assert {"C", "r"} <= set(alone["line"])
    for rank in range(2):
        found = said[rank][f"wan {name}"]
        assert found["ranks"] == "2 of 2 ranks have parts of this video (sequence parallelism of xfuser)"
        assert found["line"] == alone["line"]
        assert identical(found["made"], alone["made"])
        assert found["peak"] == alone["peak"] / (1 if isinstance(POLICIES[name], bwcache.Planned) else 2)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in PROBES])
def test_ranks_of_hunyuan_video_decide_alike(said: list[dict[str, Any]], name: str) -> None:
    alone, (first, second) = said[0][f"hunyuan {name} alone"], (each[f"hunyuan {name}"] for each in said)
    assert {"C", "r"} <= set(alone["line"])
    assert first["ranks"] == "2 of 2 ranks have parts of this video (sequence parallelism of xfuser)"
    assert first["line"] == second["line"] == alone["line"]
    assert measured(first) == measured(second)
    assert near(first["made"], alone["made"])
    assert identical(first["made"], second["made"])


def test_ranks_that_xdit_does_not_know_are_asked_for(said: list[dict[str, Any]]) -> None:
    assert said[0]["nobody says"] == said[1]["nobody says"]
    kind, text = said[0]["nobody says"]
    assert kind == "AttachError"
    assert text.startswith("found usp_dit_forward of wan.distributed.xdit_context_parallel in model, which speaks")
    assert "; pass ranks=" in text
    alone = said[0]["wan BWCache alone"]
    for rank in range(2):
        found = said[rank]["somebody says"]
        assert found["ranks"] == "2 of 2 ranks have parts of this video (ranks=)"
        assert found["line"] == alone["line"]
        assert identical(found["made"], alone["made"])


def test_a_forward_that_no_repository_has_is_refused_with_the_row_to_give(said: list[dict[str, Any]]) -> None:
    kind, text = said[0]["not known"]
    assert kind == "AttachError"
    assert text.startswith(f"found elsewhere of {__name__} in the place of WanModel.forward; expected its own forward")
    assert "pass spec=bwcache.models.row('WanModel', 'wan.modules') if you know that the row fits" in text
