"""Models of WanVideoWrapper: around its sampler node, in a look-alike, and in the real one where there is a copy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bwcache
from bwcache.comfy import wan_video, words
from bwcache.comfy.runs import Runs
from bwcache.comfy.sampling import Settings
from bwcache.errors import AttachError, BWCacheError
from bwcache.policies.grades import graded
from tests.comfy.wan_video import IS_REAL, Wrapper, look_alike, real

pytestmark = pytest.mark.filterwarnings("ignore::bwcache.errors.NeverReusedWarning")
PLANNED = bwcache.Planned(0.03)
REAL = pytest.mark.skipif(not IS_REAL, reason="BWCACHE_WANVIDEO names no copy of WanVideoWrapper: see CONTRIBUTING.md")


@pytest.fixture(scope="module", params=["look-alike", pytest.param("real", marks=REAL)])
def known(request: pytest.FixtureRequest) -> Wrapper:
    return real() if request.param == "real" else look_alike()


@pytest.fixture
def wrapper(known: Wrapper, monkeypatch: pytest.MonkeyPatch) -> Wrapper:
    """One whose sampler node ComfyUI knows."""
    return installed(known, monkeypatch)


@pytest.fixture
def written_here(monkeypatch: pytest.MonkeyPatch) -> Wrapper:
    """The look-alike, for what the real one would need more of."""
    return installed(look_alike(), monkeypatch)


def installed(one: Wrapper, patch: pytest.MonkeyPatch) -> Wrapper:
    patch.setitem(sys.modules, "nodes", SimpleNamespace(NODE_CLASS_MAPPINGS={"WanVideoSampler": one.sampler}))
    return one


@contextmanager
def witness(model: Any) -> Iterator[list[float]]:
    """The times at which the blocks ran."""
    ran: list[float] = []
    module, now = model.model.diffusion_model, [0.0]
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, kw: now.__setitem__(0, float(kw["t"].max())), with_kwargs=True
        ),
        module.blocks[-1].register_forward_pre_hook(lambda *_: ran.append(now[0])),
    ]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def computed(trace: Any) -> list[int]:
    return sorted({event.step for event in trace.events if event.action == "compute"})


def test_without_reuse_or_without_the_node_no_bit_changes(wrapper: Wrapper) -> None:
    model = wrapper.model()
    plain = wrapper.sampled(model)
    for policy in (bwcache.Planned(0), bwcache.EasyCache(threshold=0.0)):
        assert torch.equal(wrapper.sampled(wan_video.cached(model, Settings(policy))[0]), plain)
    clone, _ = wan_video.cached(model, Settings(PLANNED))
    assert not torch.equal(wrapper.sampled(clone), plain)
    assert torch.equal(wrapper.sampled(model), plain)
    module = model.model.diffusion_model
    assert not any({"_compiled_call_impl", "forward"} & vars(each).keys() for each in module.modules())


@pytest.mark.parametrize("grade", ["near", "balanced", "fast"])
def test_blocks_run_where_the_trace_says_so(wrapper: Wrapper, grade: str) -> None:
    model = wrapper.model()
    clone, runs = wan_video.cached(model, Settings(graded(grade).policy))
    with witness(model) as ran:
        assert torch.isfinite(wrapper.sampled(clone)).all()
    (trace,), (note,) = runs.traces, runs.notes
    assert not note
    times = wrapper.scheduled()[1]
    assert trace.steps == trace.meta["sampler_steps"] == 16
    assert {event.branch for event in trace.events} == {"cond", "uncond"}
    assert 2 < len(computed(trace)) < 16
    assert ran == pytest.approx([times[step] for step in computed(trace) for _ in range(2)], rel=1e-4)
    told = {event.step: event.sigma for event in trace.events}
    assert [1000 * told[step] for step in range(16)] == pytest.approx(times, rel=1e-4)
    assert {event.total for event in trace.events} == {16}


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_stage_of_a_run_is_a_run_that_ends_with_noise(wrapper: Wrapper, cfg: float) -> None:
    model = wrapper.model()
    whole = wrapper.sampled(model, cfg=cfg)
    clone, runs = wan_video.cached(model, Settings(bwcache.Planned(0)))
    first = wrapper.sampled(clone, cfg=cfg, end_step=8)
    wrapper.sampled(clone, cfg=cfg, start_step=8, samples={"samples": first})
    assert torch.equal(wrapper.sampled(model, cfg=cfg), whole)
    assert [trace.steps for trace in runs.traces] == [8, 8]
    assert runs.traces[1].events[0].sigma == pytest.approx(wrapper.scheduled()[1][8] / 1000)
    planned, runs = wan_video.cached(model, Settings(PLANNED))
    first = wrapper.sampled(planned, cfg=cfg, end_step=8)
    wrapper.sampled(planned, cfg=cfg, start_step=8, samples={"samples": first})
    assert all(0 in computed(trace) for trace in runs.traces)
    assert all(0 < len(computed(trace)) < 8 for trace in runs.traces)


def test_a_scheduler_that_comes_by_a_link(wrapper: Wrapper) -> None:
    made, times = wrapper.scheduled(12)
    clone, runs = wan_video.cached(wrapper.model(), Settings(PLANNED))
    wrapper.sampled(clone, scheduler={"sample_scheduler": made, "timesteps": torch.tensor(times)})
    assert not runs.notes[-1]
    assert runs.traces[-1].steps == 12
    assert len(computed(runs.traces[-1])) < 12


@pytest.mark.parametrize("name", words.methods())
def test_each_method_samples_or_is_refused_at_the_node(written_here: Wrapper, name: str) -> None:
    model, refusal, runs = written_here.model(), "", Runs()
    plain = written_here.sampled(model)
    try:
        clone, runs = wan_video.cached(model, Settings(words.of_method(name, "")))
        assert torch.isfinite(written_here.sampled(clone)).all()
    except BWCacheError as error:
        refusal = str(error)
    assert "expected" in refusal or [trace.steps for trace in runs.traces] == [16]
    assert torch.equal(written_here.sampled(model), plain)


def test_times_that_are_rounded_alike_are_told_apart(wrapper: Wrapper) -> None:
    made, times = wrapper.scheduled()
    rounded = (torch.tensor(times) / 40).round() * 40
    assert len(set(rounded.tolist())) < 16
    model = wrapper.model()
    given = {"sample_scheduler": made, "timesteps": rounded}
    plain = wrapper.sampled(model, scheduler=given)
    off, runs = wan_video.cached(model, Settings(bwcache.Planned(0)))
    assert torch.equal(wrapper.sampled(off, scheduler=given), plain)
    assert [trace.steps for trace in runs.traces] == [16]
    clone, runs = wan_video.cached(model, Settings(PLANNED))
    wrapper.sampled(clone, scheduler=given)
    (trace,) = runs.traces
    assert {event.step for event in trace.events} == set(range(16))
    assert trace.reuse_rate > 0.2


def test_noise_that_rises_on_the_way_breaks_nothing() -> None:
    assert wan_video._shares([1000.0, 500.0], [1.0, 0.5, 0.0]) == (1.0, 0.5, 0.0)
    assert wan_video._shares([999.0, 500.0], [0.9995, 0.4996, 0.2]) == (0.9995, 0.4996, 0.2)
    assert wan_video._shares([800.0, 900.0], []) == (0.8, 0.9, 0.0)
    sampling = wan_video.Sampling(Settings(PLANNED), None)
    sampling.begin(SimpleNamespace(), [800.0, 900.0])
    assert sampling._said(0) == {"index": 0, "total": 2, "sigma": 0.8, "prediction": "flow", "noise": (0.8, 0.9)}
    sampling.begin(SimpleNamespace(sigmas=[0.0, 0.5, 1.0]), [0.0, 500.0])
    assert sampling._said(0)["schedule"] == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("input_name", ["context_options", "cache_args", "loop_args"])
def test_what_nothing_is_said_of_is_computed_and_said(written_here: Wrapper, input_name: str) -> None:
    model = written_here.model()
    plain = written_here.sampled(model)
    clone, runs = wan_video.cached(model, Settings(PLANNED))
    assert torch.equal(written_here.sampled(clone, **{input_name: {"some": 1}}), plain)
    assert input_name in runs.notes[-1]
    assert runs.notes[-1].endswith("nothing was reused here")


def almost_nothing() -> torch.Tensor:
    """Zeros but for one place, which no sample of a few entries may find."""
    made = torch.zeros(1, 64, 4, 5)
    made[0, 33, 1, 3] = 1.0
    return made


@pytest.mark.parametrize(
    "embeds",
    [
        {"control": torch.ones(1, 2, 4, 4)},
        {"control": almost_nothing()},
        {"vace": [{"scale": 1.0, "start": 0.4, "end": 1.0}]},
        {"vace": [{"scale": 1.0, "start": 0.0, "end": 0.4}]},
    ],
    ids=["a picture takes the place of zeros", "a dot takes the place of zeros", "hints begin", "hints end"],
)
def test_what_begins_or_ends_on_the_way_gets_nothing_of_before(written_here: Wrapper, embeds: dict[str, Any]) -> None:
    clone, runs = wan_video.cached(written_here.model(), Settings(PLANNED))
    written_here.sampled(clone, embeds=embeds)
    events = runs.traces[-1].events
    assert {event.branch for event in events} == {"cond", "uncond", "cond 2", "uncond 2"}
    first = next(event for event in events if event.branch == "cond 2")
    assert first.action == "compute"
    assert first.step == 7
    assert runs.traces[-1].reuse_rate > 0.3


def test_skip_layer_guidance_that_begins(wrapper: Wrapper) -> None:
    clone, runs = wan_video.cached(wrapper.model(), Settings(PLANNED))
    said = {"blocks": [1], "start": 0.4, "end": 1.0, "start_percent": 0.4, "end_percent": 1.0}
    wrapper.sampled(clone, slg_args=said)
    assert {"uncond", "uncond 2"} <= {event.branch for event in runs.traces[-1].events}
    first = next(event for event in runs.traces[-1].events if event.branch == "uncond 2")
    assert (first.action, first.step) == ("compute", 7)


def test_cancelled_in_the_middle_leaves_nothing_behind(wrapper: Wrapper) -> None:
    model = wrapper.model()
    plain = wrapper.sampled(model)
    clone, runs = wan_video.cached(model, Settings(PLANNED))
    undisturbed = wrapper.sampled(clone)
    seen: list[int] = []

    def cancel(*_: Any) -> None:
        seen.append(1)
        if len(seen) == 5:
            raise InterruptedError

    hook = model.model.diffusion_model.blocks[0].register_forward_pre_hook(cancel)
    with pytest.raises(InterruptedError):
        wrapper.sampled(clone)
    hook.remove()
    assert 0 < runs.traces[-1].steps < 16
    assert torch.equal(wrapper.sampled(model), plain)
    assert torch.equal(wrapper.sampled(clone), undisturbed)


def test_the_last_node_counts_and_a_clone_behind_it_keeps_it(wrapper: Wrapper) -> None:
    model = wrapper.model()
    first, early = wan_video.cached(model, Settings(bwcache.Planned(0)))
    second, late = wan_video.cached(first, Settings(PLANNED))
    made = wrapper.sampled(second.clone())
    assert not early.traces
    assert late.traces[-1].reuse_rate > 0
    assert torch.equal(made, wrapper.sampled(wan_video.cached(model, Settings(PLANNED))[0]))


def test_a_model_that_somebody_else_holds_is_left_alone(wrapper: Wrapper) -> None:
    model = wrapper.model()
    plain = wrapper.sampled(model)
    clone, runs = wan_video.cached(model, Settings(PLANNED))
    with bwcache.attach(model.model.diffusion_model, bwcache.Planned(0), spec=wan_video.ROW, per_sample=False):
        assert torch.equal(wrapper.sampled(clone), plain)
    assert "another session holds this model" in runs.notes[-1]


def test_what_cannot_be_is_said_at_the_node(wrapper: Wrapper, monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapper.model()
    with pytest.raises(BWCacheError, match="Planned"):
        wan_video.cached(model, Settings(bwcache.BWCache()))
    with pytest.raises(AttachError, match="a model of WanVideoWrapper's loader"):
        wan_video.cached(SimpleNamespace(), Settings(PLANNED))
    nodes: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "nodes", SimpleNamespace(NODE_CLASS_MAPPINGS=nodes))
    with pytest.raises(AttachError, match="no node WanVideoSampler"):
        wan_video.cached(model, Settings(PLANNED))
    nodes["WanVideoSampler"] = type("Other", (), {"process": lambda self, image: None})
    with pytest.raises(AttachError, match="takes no model, or asks no get_scheduler"):
        wan_video.cached(model, Settings(PLANNED))
