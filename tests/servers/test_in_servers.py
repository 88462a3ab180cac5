"""The real packages, where BWCACHE_SERVERS is set and they are installed: witnessed from within their own models."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from bwcache.core.trace import reuse_line
from bwcache.servers import sglang, vllm_omni
from tests.servers.look_alike import Asking

WANTED = bool(os.environ.get("BWCACHE_SERVERS"))
ZERO = {"name": "Planned", "tolerance": 0}
BLOCKS = ({"name": "FixedInterval", "interval": 3}, {"name": "BWCache", "threshold": 5.0})
VLLM_OMNI = (
    *("Wan", "HunyuanVideo 1.5", "Flux", "Flux Kontext", "Flux 2", "Flux 2 Klein"),
    *("LongCat-Image", "Ovis-Image", "Qwen-Image", "SD3"),
)
SGLANG = ("Wan", "HunyuanVideo", "Flux", "LongCat-Image", "Qwen-Image", "SD3", "Z-Image", "Sana")
pytestmark = pytest.mark.filterwarnings("ignore")


def needs(package: str) -> Any:
    there = WANTED and find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"BWCACHE_SERVERS is not set, or {package} is not installed")


def witness(model: Any, path: str = "blocks") -> list[int]:
    """Grows by one whenever the blocks of a model run."""
    ran: list[int] = []
    getattr(model, path)[1].register_forward_pre_hook(lambda *_: ran.append(1))
    return ran


@pytest.fixture(scope="module")
def sglang_host() -> Iterator[Any]:
    """Its parts, with our hooks on them."""
    from tests.servers import in_sglang as host

    registry = host.part("runtime.platforms.plugins").HookRegistry
    sglang.register()
    registry.apply_hooks()
    assert {target for target, hooks in registry._hooks.items() if hooks[0][1].__module__ == sglang.__name__} == set(
        registry._patched
    )
    with torch._dynamo.config.patch(disable=True):  # minutes for nothing
        yield host


@needs("sglang")
def test_sglang(sglang_host: Any) -> None:
    host = sglang_host
    stage = host.stage()
    plain, _ = host.Sample(stage).run()
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


@needs("sglang")
@pytest.mark.parametrize("name", SGLANG)
def test_classes_of_sglang(sglang_host: Any, name: str) -> None:
    host = sglang_host
    kind = host.KINDS[name]
    stage = host.stage(kind.build())
    plain, _ = host.Sample(stage, kind=kind).run()
    ran = witness(stage.transformer, kind.lists[-1])
    for said in (ZERO, "near", "fast", *BLOCKS):
        ran.clear()
        made, request = host.Sample(stage, said=said, kind=kind).run()
        (row,) = request.usage["bwcache"]
        if said in BLOCKS and name == "Wan":
            assert "whose row names none" in row["problem"]
            continue
        assert len(ran) == 2 * row["line"].count("C")
        assert (len(ran) < 2 * host.STEPS) == (said != ZERO) == (not torch.equal(made, plain))
        assert torch.isfinite(made).all()


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


@needs("vllm_omni")
@pytest.mark.parametrize("name", VLLM_OMNI)
def test_classes_of_vllm_omni(name: str) -> None:
    from tests.servers import in_vllm_omni as host

    pipe = host.looped(host.KINDS[name])
    plain = host.sampled(pipe, Asking("1"))
    assert pipe.ran == 2 * host.STEPS
    backend = vllm_omni.Backend({"policy": "off"})
    backend.enable(pipe)
    for said in ("off", ZERO, "near", "fast", *BLOCKS):
        made = host.sampled(pipe, Asking("1", said))
        line = "C" * host.STEPS if said == "off" else reuse_line(backend.traces[-1].events)
        assert pipe.ran == 2 * line.count("C")
        assert (pipe.ran < 2 * host.STEPS) == (said not in ("off", ZERO)) == (not torch.equal(made, plain))
        assert torch.isfinite(made).all()


@needs("vllm_omni")
@pytest.mark.parametrize("late", [0, 2])
def test_step_mode_of_vllm_omni(late: int) -> None:
    """Its own runner: whoever is sampled beside it, a request is what it is alone, and one that is aborted is freed."""
    from tests.servers import in_vllm_omni as host

    vllm_omni.register()
    said = {"1": "fast", "2": None, "3": {"name": "FixedInterval", "interval": 2}, "4": "near"}
    requests = {name: (word, int(name), host.STEPS - int(name) % 2) for name, word in said.items()}
    backend = vllm_omni.Backend({"policy": "off"})
    stepped = host.Stepped(backend)
    made = stepped.all(requests, late)
    gc.collect()
    assert sorted(trace.steps for trace in backend.traces) == [11, 11, 12]
    assert all(trace.computed < trace.steps for trace in backend.traces)
    for name, request in requests.items():
        alone = host.Stepped(vllm_omni.Backend({"policy": "off"})).all({name: request})
        torch.testing.assert_close(made[name], alone[name], atol=1e-5 if said[name] is None else 0, rtol=0)
    plain = host.Stepped().all({"2": requests["2"]})
    torch.testing.assert_close(made["2"], plain["2"], atol=1e-5, rtol=0)
    assert "_compiled_call_impl" not in vars(stepped.pipe.transformer)


@needs("vllm_omni")
def test_a_request_that_is_aborted_in_step_mode_leaves_nothing() -> None:
    from tests.servers import in_vllm_omni as host

    vllm_omni.register()
    backend = vllm_omni.Backend({"policy": "off"})
    stepped = host.Stepped(backend)
    stepped.wave({"1": ("fast", 1, host.STEPS), "2": ("near", 2, host.STEPS)}, [])
    for _ in range(3):
        stepped.wave({}, ["1", "2"])
    stepped.wave({}, ["2"], over=["1"])
    gc.collect()
    assert [trace.steps for trace in backend.traces] == [4]
    made = stepped.all({})
    alone = host.Stepped(vllm_omni.Backend({"policy": "off"})).all({"2": ("near", 2, host.STEPS)})
    assert torch.equal(made["2"], alone["2"])
    assert "_compiled_call_impl" not in vars(stepped.pipe.transformer)
