"""Around sglang's denoising, by a look-alike of what it promises: who gets what, and what is said where."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache.servers import sglang as plugin
from bwcache.servers.levels import predicts_flow
from tests.servers import look_alike
from tests.servers.look_alike import SGLANG, SHARES, STEPS, Request, loop, scheduler
from tests.tiny import WAN, wan

NEAR, FAST = "near", "fast"


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    monkeypatch.delenv(plugin.VARIABLE, raising=False)
    caplog.set_level(logging.INFO, logger="sglang.multimodal_gen.bwcache")
    with look_alike.installed(look_alike.sglang):
        registry = sys.modules[f"{SGLANG}platforms.plugins"].HookRegistry
        plugin.register()
        registry.apply_hooks()
        yield


def stage(**more: Any) -> Any:
    kind = sys.modules[f"{SGLANG}models.dits.wanvideo"].WanTransformer3DModel
    return sys.modules[f"{SGLANG}pipelines_core.stages.denoising"].DenoisingStage(kind(), **more)


def sampled(at: Any, request: Request, **how: Any) -> Tensor:
    context = loop(request, **how)
    with torch.no_grad():
        at._run_denoising_loop(context, request, at.server_args)
    made: Tensor = context.latents
    return made


def said(request: Request) -> Any:
    return (request.usage or {}).get("bwcache", [{}])[-1]


def test_nobody_asks_and_nothing_is_touched(caplog: pytest.LogCaptureFixture) -> None:
    at, request = stage(), Request()
    plain = sampled(at, request)
    assert at.transformer.calls == 2 * STEPS
    assert request.usage is None
    assert not caplog.records
    assert torch.equal(sampled(at, Request.saying("off")), plain)
    assert at.transformer.calls == 4 * STEPS


@pytest.mark.parametrize("guided", [True, False])
def test_a_request_is_reused_as_its_trace_says_and_the_next_is_as_before(guided: bool, caplog: Any) -> None:
    at = stage()
    plain = sampled(at, Request(), guided=guided)
    before, request = at.transformer.calls, Request.saying(FAST, request_id="7")
    made = sampled(at, request, guided=guided)
    computed = said(request)["computed"]
    steps, _ = bwcache.policies.planned.plan(SHARES, 0.04)
    assert said(request)["line"] == "".join("C" if step in steps else "r" for step in range(STEPS))
    assert 0 < computed == len(steps) < STEPS
    assert at.transformer.calls - before == computed * (1 + guided)
    assert not torch.equal(made, plain)
    assert torch.isfinite(made).all()
    assert caplog.messages == [
        f"bwcache: request 7: fast, {STEPS} steps, {computed} computed: {STEPS / computed:.2f}x in the model's work"
    ]
    assert torch.equal(sampled(at, Request(), guided=guided), plain)
    assert "_compiled_call_impl" not in vars(at.transformer)


def test_a_tolerance_of_zero_changes_no_bit() -> None:
    at = stage()
    zero = Request.saying({"name": "Planned", "tolerance": 0})
    assert torch.equal(sampled(at, zero), sampled(at, Request()))
    assert said(zero)["computed"] == STEPS


def test_the_environment_says_what_the_others_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.VARIABLE, '{"policy": "near", "policies": {"house": {"name": "Planned", "computed": 4}}}')
    at = stage()
    for asked, word, computed in ((None, NEAR, None), ("house", "house", 4), ("off", None, None)):
        request = Request.saying(asked)
        sampled(at, request)
        assert said(request).get("policy") == word
        assert computed in (None, said(request).get("computed"))


@pytest.mark.parametrize("word", ["Near", " near\n", "NEAR"])
def test_a_grade_is_one_word_however_it_is_written(word: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also in the log, where a line of somebody else's cannot be begun."""
    request = Request.saying(word)
    sampled(stage(), request)
    assert said(request)["policy"] == NEAR
    assert all("\n" not in text for text in caplog.messages)


def test_branches_are_named_by_what_sglang_says_of_them() -> None:
    at, seen = stage(), []
    begun = plugin.begun

    def watched(*args: Any) -> Any:
        sampling = begun(*args)
        sampling.session.on_step(lambda event: seen.append((event.step, event.branch)))
        return sampling

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plugin, "begun", watched)
        sampled(at, Request.saying(NEAR))
        assert seen == [(step, name) for step in range(STEPS) for name in ("cond", "uncond")]
        seen.clear()
        sampled(at, Request.saying(NEAR), branches=[True, False, False])  # two are negative: nobody can name them
        assert len({name for _, name in seen}) == 3


def test_two_experts_keep_apart_what_is_theirs() -> None:
    kind = sys.modules[f"{SGLANG}models.dits.wanvideo"].WanTransformer3DModel
    at = stage(transformer_2=kind(seed=1), boundary=500)
    request = Request.saying(FAST)
    made = sampled(at, request)
    assert torch.isfinite(made).all()
    assert 0 < at.transformer_2.calls < STEPS
    first = next(step for step, share in enumerate(SHARES) if share < 0.5)
    assert said(request)["line"][first] == "C"  # what the other one kept is not for this one


def test_a_plan_for_another_model_is_said_and_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.VARIABLE, look_alike.plan_for_flux(tmp_path))
    at, request = stage(), Request()
    assert torch.equal(sampled(at, request), sampled(at, Request.saying("off")))
    assert "found WanTransformer3DModel under a file tuned for FluxTransformer2DModel" in said(request)["problem"]


def test_a_warm_up_is_left_alone() -> None:
    at, request = stage(), Request.saying(FAST, is_warmup=True)
    sampled(at, request)
    assert at.transformer.calls == 2 * STEPS


WRONG: dict[str, tuple[Request, str]] = {
    "word": (Request.saying("nearly"), "found bwcache 'nearly'; expected near or balanced or fast or off"),
    "kind": (Request.saying(3), "found bwcache 3; expected a word, or a policy's description"),
    "field": (Request.saying({"name": "Planned", "tolerances": 1}), "did you mean tolerance"),
    "name": (Request.saying({"name": ["Planned"]}), "found policy ['Planned'] in a request"),
    "policy": (Request.saying({"name": "BWCache"}), "WanTransformer3DModel"),
    "import": (Request.saying({"name": "os:system"}), "policy 'os:system' in a request"),
    "inner": (
        Request.saying({"name": "Guarded", "policy": {"name": "x:Y"}, "warmup": 1, "tail": 1}),
        "'x:Y' in a request",
    ),
    "file": (Request.saying("/etc/plan.json"), "expected near or balanced or fast or off"),
    "table": (Request.saying({"name": "SmoothCache", "errors": "/etc/x.npz"}), "which may be a file"),
    "form": (Request({"diffusers_kwargs": "near"}), "found diffusers_kwargs 'near'; expected"),
    "TeaCache": (Request.saying(NEAR, enable_teacache=True), "TeaCache at work on this request"),
    "Spectrum": (Request.saying(NEAR, enable_spectrum=True), "Spectrum at work on this request"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_said_and_computed(name: str, caplog: pytest.LogCaptureFixture) -> None:
    at, (request, problem) = stage(), WRONG[name]
    plain = sampled(at, Request())
    assert torch.equal(sampled(at, request), plain)
    assert at.transformer.calls == 4 * STEPS
    assert problem in said(request)["problem"]
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "everything is computed" in record.message
    assert "found" in record.message
    assert record.exc_info in (None, False)
    sampled(at, Request.saying(FAST))  # the worker goes on
    assert at.transformer.calls < 6 * STEPS


def test_a_server_that_replays_graphs_or_another_cache_is_said(caplog: pytest.LogCaptureFixture) -> None:
    at = stage()
    at._cache_dit_enabled = True
    sampled(at, Request.saying(NEAR))
    at._cache_dit_enabled, at.server_args.enable_breakable_cuda_graph = False, True
    sampled(at, Request.saying(NEAR))
    at.server_args.enable_breakable_cuda_graph = False
    with bwcache.attach(at.transformer, bwcache.Planned(0)):
        sampled(at, Request.saying(NEAR))
    problems = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert [part in problem for part, problem in zip(("cache-dit", "graphs", "held by"), problems, strict=True)]
    assert at.transformer.calls == 6 * STEPS


def test_another_scheduler_is_computed() -> None:
    at, request = stage(), Request.saying(FAST)
    plain = sampled(at, Request())
    assert torch.equal(sampled(at, request, flow=scheduler(f"{SGLANG}x", "HeliosScheduler")), plain)
    assert "noise levels" in said(request)["problem"]


def test_any_other_denoiser_is_known_as_a_whole() -> None:
    at, plain = stage(), None
    for transformer in (None, type("Strange", (look_alike.Denoiser,), {})(), derived()):
        at.transformer = transformer or at.transformer
        plain = sampled(at, Request())
        at.transformer.calls, request = 0, Request.saying(FAST)
        made = sampled(at, request)
        assert at.transformer.calls == 2 * said(request)["computed"] < 2 * STEPS
        assert not torch.equal(made, plain)
        request = Request.saying({"name": "BWCache"})
        assert torch.equal(sampled(at, request), plain)
        assert f"keeps blocks, on a {type(at.transformer).__name__}" in said(request)["problem"]


def derived() -> Any:
    """Of a class that derives from one with a row, and has a forward of its own."""
    kind = sys.modules[f"{SGLANG}models.dits.wanvideo"].WanTransformer3DModel
    own = {"forward": lambda self, *args, **kwargs: 2 * kind.forward(self, *args, **kwargs)}
    return type("DerivedModel", (kind,), own)(seed=1)


@pytest.mark.parametrize("name", plugin.STEP)
def test_a_stage_with_a_step_of_its_own_is_computed(name: str) -> None:
    at = stage()
    own = {name: lambda self, *args, **kwargs: getattr(super(type(self), self), name)(*args, **kwargs)}
    at.__class__ = type("LTX2DenoisingStage", (type(at),), own)
    plain, request = sampled(at, Request()), Request.saying(FAST)
    assert torch.equal(sampled(at, request), plain)
    assert f"found LTX2DenoisingStage with a {name} of its own; expected DenoisingStage's" in said(request)["problem"]


def test_a_pipeline_that_samples_in_a_loop_of_its_own_is_named(caplog: pytest.LogCaptureFixture) -> None:
    kind = sys.modules[f"{SGLANG}pipelines_core.composed_pipeline_base"].ComposedPipelineBase
    at = stage()
    plugin._greet.cache_clear()
    usual, own = kind(lambda batch: sampled(at, batch)), type("CausalPipeline", (kind,), {})(lambda batch: None)
    for pipe, word, problem in (
        (usual, FAST, None),
        (usual, None, None),
        (usual, "nearly", "found bwcache 'nearly'"),
        (own, None, None),
        (own, "off", None),
        (kind(lambda batch: None, role="encoder"), FAST, None),
        (own, FAST, "found CausalPipeline, which samples in a loop of its own; expected one that samples in Denoising"),
    ):
        caplog.clear()
        result = pipe.forward(Request.saying(word), None)
        problems = [row["problem"] for row in (result.usage or {}).get("bwcache", ()) if "problem" in row]
        assert len(problems) == len([one for one in caplog.records if one.levelname == "ERROR"]) == bool(problem)
        assert not problem or problem in problems[0]
        greeted = "bwcache: here; requests that say nothing: off" in caplog.messages
        assert greeted == (pipe is usual and word == FAST)  # the first one


def test_an_error_of_the_model_is_the_requests_and_leaves_nothing() -> None:
    at = stage()
    forward = at.transformer.forward

    def fails(*args: Any, **kwargs: Any) -> Any:
        if at.transformer.calls == 3:
            raise RuntimeError("out of memory")
        return forward(*args, **kwargs)

    at.transformer.forward = fails
    with pytest.raises(RuntimeError, match="out of memory"):
        sampled(at, Request.saying({"name": "Planned", "computed": 10}))
    del at.transformer.forward
    assert "_compiled_call_impl" not in vars(at.transformer)
    plain = sampled(at, Request())
    assert torch.equal(plain, sampled(stage(), Request()))


def test_a_pipeline_of_diffusers_is_attached_to() -> None:
    pipe = wan()
    at = sys.modules[f"{SGLANG}pipelines.diffusers_pipeline"].DiffusersExecutionStage(pipe)
    call = {**WAN.call, "num_inference_steps": 8, "output_type": "latent"}
    call = {name: value for name, value in call.items() if name != "generator"}
    request = Request.saying({"name": "FixedInterval", "interval": 2})
    request.extra["call"] = {**call, "generator": torch.Generator().manual_seed(0)}
    handed: list[Any] = []
    at.seen = handed
    at.forward(request, None)
    assert handed == [{}]  # the pipeline does not know our word, and would warn of it
    assert request.extra["diffusers_kwargs"] == {"bwcache": {"name": "FixedInterval", "interval": 2}}
    assert 0 < said(request)["computed"] < said(request)["steps"] == 8


@pytest.mark.parametrize(
    ("said_there", "found"),
    [("nearly", "grade 'nearly'"), ('{"policy": ', "no JSON"), ('{"polity": "near"}', "polity"), ("x.json", "x.json")],
)
def test_an_environment_that_cannot_be_is_an_error_as_the_worker_starts(
    monkeypatch: pytest.MonkeyPatch, said_there: str, found: str
) -> None:
    monkeypatch.setenv(plugin.VARIABLE, said_there)
    with pytest.raises(bwcache.SettingError, match=found):
        plugin.register()


def test_an_sglang_without_a_registry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "version", lambda name: "0.4.1")
    del sys.modules[f"{SGLANG}platforms.plugins"]
    del sys.modules[f"{SGLANG}platforms"]
    with pytest.raises(bwcache.AttachError, match=r"found sglang 0\.4\.1 without .*; expected sglang 0\.5\.23"):
        plugin.register()


def test_known_schedulers_are_those_of_known_homes() -> None:
    assert predicts_flow(scheduler("diffusers.schedulers"))
    assert not predicts_flow(scheduler("elsewhere"))
    assert not predicts_flow(scheduler("diffusers.x", "DDIMScheduler"))
    either = scheduler("diffusers.x", "UniPCMultistepScheduler")
    assert not predicts_flow(either)
    either.config.use_flow_sigmas = True
    assert predicts_flow(either)
    either.config.prediction_type = "epsilon"
    assert not predicts_flow(either)


def test_memory_is_flat_over_many_requests() -> None:
    at, held = stage(), []
    for i in range(200):
        sampled(at, Request.saying((FAST, "nearly", {"name": "Planned", "computed": 3}, None)[i % 4]))
        if i in (19, 199):
            gc.collect()
            held.append(sum(isinstance(each, (Tensor, bwcache.Session)) for each in gc.get_objects()))
    assert held[0] == held[1]
