"""The real packages, where BWCACHE_SERVERS is set and they are installed: witnessed from within their own models."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from bwcache.core.trace import reuse_line
from bwcache.servers import sglang, vllm_omni
from tests.servers.look_alike import Asking

WANTED = bool(os.environ.get("BWCACHE_SERVERS"))
ZERO = {"name": "Planned", "tolerance": 0}
pytestmark = pytest.mark.filterwarnings("ignore")


def needs(package: str) -> Any:
    there = WANTED and find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"BWCACHE_SERVERS is not set, or {package} is not installed")


def witness(model: Any) -> list[int]:
    """Grows by one whenever the blocks of a model run."""
    ran: list[int] = []
    model.blocks[1].register_forward_pre_hook(lambda *_: ran.append(1))
    return ran


@needs("sglang")
def test_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.servers import in_sglang as host

    monkeypatch.setattr(torch._dynamo.config, "disable", True)  # minutes for nothing
    plain, _ = host.Sample(host.stage()).run()
    registry = host.part("runtime.platforms.plugins").HookRegistry
    sglang.register()
    registry.apply_hooks()
    assert len([target for target in registry._patched if "denois" in target or "diffusers" in target]) == 3
    stage = host.stage()
    ran = witness(stage.transformer)
    for said in (None, "off", ZERO, "nearly", {"name": "BWCache"}):
        made, request = host.Sample(stage, said=said).run()
        assert torch.equal(made, plain)
    assert "no blocks" in str(request.usage) or "found" in str(request.usage)
    ran.clear()
    made, request = host.Sample(stage, said="fast").run()
    (row,) = request.usage["bwcache"]
    assert len(ran) == 2 * row["computed"] == 2 * row["line"].count("C") < 2 * host.STEPS
    assert not torch.equal(made, plain)
    assert torch.equal(host.Sample(stage).run()[0], plain)


@needs("vllm_omni")
def test_vllm_omni() -> None:
    from tests.servers import in_vllm_omni as host

    pipe = host.pipeline()
    plain = host.sampled(pipe, Asking("1"))
    vllm_omni.register()
    selector = host.part("diffusion.cache.selector")
    backend = selector.get_cache_backend("bwcache", host.part("diffusion.data").DiffusionCacheConfig.from_dict({}))
    assert isinstance(backend, selector.CacheBackend)
    assert selector.get_cache_backend("none", None) is None
    backend.enable(pipe)
    ran = witness(pipe.transformer)
    for said in ("off", ZERO, "nearly", {"name": "DeepCache"}):
        assert torch.equal(host.sampled(pipe, Asking("1", said)), plain)
    for said in ("fast", None, {"name": "FixedInterval", "interval": 3}, {"name": "BWCache", "threshold": 0.6}):
        ran.clear()
        made = host.sampled(pipe, Asking("1", said))
        line = reuse_line(backend.traces[-1].events)
        assert len(ran) == 2 * line.count("C") < 2 * host.STEPS
        assert not torch.equal(made, plain)
    assert {event.branch for event in backend.traces[-1].events} == {"cond", "uncond"}
