"""Which run, step and branch: over schedulers, pipelines and calls that make it hard to tell."""

import copy
import threading
import warnings
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanVideoToVideoPipeline,
)
from diffusers.models.cache_utils import CacheMixin
from torch import nn

import bwcache
from bwcache import BWCache, NeverReuse, Trace
from bwcache.core.trace import reuse_line
from bwcache.engine.clock import Call, Clock, Context
from bwcache.models import BlockSpec, BlockStack
from bwcache.models.streams import Stream
from tests.tiny import BY_NAME, VIDEO_TO_VIDEO, WAN, Case, Scripted, cogvideox, noise, wan, wan_transformer

CAREFREE = BWCache(threshold=10.0, reuse_interval=2)
HUNYUAN, LTX, COGVIDEOX, MOCHI = (BY_NAME[name] for name in ("hunyuan", "ltx", "cogvideox", "mochi"))
TRUE_GUIDANCE = {
    "true_cfg_scale": 3.0,
    "negative_prompt_embeds": noise(1, 8, 16, seed=5),
    "negative_pooled_prompt_embeds": noise(1, 8, seed=6),
    "negative_prompt_attention_mask": torch.ones(1, 8),
}


def rows(trace: Trace) -> list[tuple[int, str]]:
    return [(event.step, event.branch) for event in trace.events]


def grid(steps: int, *branches: str) -> list[tuple[int, str]]:
    return [(step, branch) for step in range(steps) for branch in branches]


def traced(case: Case, pipe: Any, policy: bwcache.Policy = CAREFREE, **changes: Any) -> Trace:
    with bwcache.attach(pipe, policy) as session:
        case.run(pipe, **changes)
    assert len(session.traces) == 1
    return session.trace


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


WITHOUT_NAMES = ("call0", "call1")


# --- branches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "changes", "branches"),
    [
        (WAN, {}, ("cond", "uncond")),
        (WAN, {"guidance_scale": 1.0}, ("cond",)),
        (HUNYUAN, {}, ("cond",)),
        (HUNYUAN, TRUE_GUIDANCE, ("cond", "uncond")),
        (LTX, {}, ("cond_uncond",)),
        (VIDEO_TO_VIDEO, {"strength": 1.0}, WITHOUT_NAMES),
        (VIDEO_TO_VIDEO, {"strength": 1.0, "guidance_scale": 1.0}, ("call0",)),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else ",".join(value),
)
def test_guidance_on_and_off(case: Case, changes: dict[str, Any], branches: tuple[str, ...]) -> None:
    trace = traced(case, case.build(), **changes)
    assert rows(trace) == grid(10, *branches)
    assert reuse_line(trace.events) == "CCrrCrrCrC"


class GuidanceIn:
    """Callback that guides in some steps only, as guiders with start and stop do."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def __call__(self, pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 4.0 if index + 1 in self.steps else 1.0
        return kwargs


def test_guidance_that_stops_in_the_middle() -> None:
    trace = traced(WAN, wan(), callback_on_step_end=GuidanceIn(0, 1, 2, 3))
    assert rows(trace) == grid(4, "cond", "uncond") + [(step, "cond") for step in range(4, 10)]
    assert reuse_line(trace.events) == "CCrrCrrCrC"


def test_guidance_that_pauses_does_not_bring_back_what_is_older_than_the_window() -> None:
    script = Scripted(frozenset(range(2, 10)))  # would replay for ever
    trace = traced(WAN, wan(), script, callback_on_step_end=GuidanceIn(0, 1, 2, 6, 7, 8, 9))
    assert [event.step for event in trace.events if event.branch == "uncond"] == [0, 1, 2, 6, 7, 8, 9]
    back = next(event for event in trace.events if event.branch == "uncond" and event.step == 6)
    assert back.action == "compute"


@pytest.mark.parametrize("case", [WAN, LTX, COGVIDEOX, MOCHI, HUNYUAN], ids=lambda case: case.name)
def test_a_batch_of_two_has_the_steps_of_one(case: Case) -> None:
    pipe = case.build()
    twice: dict[str, Any] = {
        key: torch.cat((value, value)) for key, value in case.call.items() if isinstance(value, torch.Tensor)
    }
    trace = traced(case, pipe, **twice)
    for sample in (0, 1):
        own = [event for event in trace.events if event.sample == sample]
        assert rows(bwcache.Trace(events=own)) == grid(10, *case.branches)
    plain = case.run(pipe, **twice)
    with bwcache.attach(pipe, BWCache(threshold=0)):
        assert torch.equal(case.run(pipe, **twice), plain)


# --- schedulers -------------------------------------------------------------------------------------------------------


SCHEDULERS = {
    "heun": (lambda: FlowMatchHeunDiscreteScheduler(), 19),  # [t0, t1, t1, t2, t2, …]
    "unipc": (unipc, 10),  # integer timesteps
    "euler_shifted": (lambda: FlowMatchEulerDiscreteScheduler(shift=9.0), 10),
}


@pytest.mark.parametrize(("scheduler", "steps"), SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_schedulers_that_count_are_followed_to_the_step(scheduler: Any, steps: int, named: bool) -> None:
    case = WAN if named else VIDEO_TO_VIDEO
    pipe = wan(scheduler()) if named else VIDEO_TO_VIDEO.build()
    changes: dict[str, Any] = {}
    if not named:
        pipe.scheduler = scheduler()
        changes["strength"] = 1.0
    trace = traced(case, pipe, **changes)
    assert rows(trace) == grid(steps, *(("cond", "uncond") if named else WITHOUT_NAMES))
    assert {event.total for event in trace.events} == {steps}
    schedule = pipe.scheduler.timesteps.tolist()
    assert [event.timestep for event in trace.events] == [schedule[event.step] for event in trace.events]
    plain = case.run(pipe, **changes)
    with bwcache.attach(pipe, BWCache(threshold=0)):
        assert torch.equal(case.run(pipe, **changes), plain)


def test_heun_keeps_the_sigmas_of_its_second_evaluations() -> None:
    pipe = wan(FlowMatchHeunDiscreteScheduler())
    trace = traced(WAN, pipe, num_inference_steps=6)
    sigmas = pipe.scheduler.sigmas.tolist()
    assert [event.sigma for event in trace.events if event.branch == "cond"] == pytest.approx(sigmas[:11])


@pytest.mark.parametrize("scheduler", [None, CogVideoXDPMScheduler()], ids=["ddim", "dpm"])
def test_schedulers_that_do_not_count_are_followed_by_the_timestep(scheduler: Any) -> None:
    pipe = cogvideox(scheduler)
    assert not hasattr(pipe.scheduler, "step_index")
    with bwcache.attach(pipe, CAREFREE) as session:
        COGVIDEOX.run(pipe)
        COGVIDEOX.run(pipe)
        COGVIDEOX.run(pipe, num_inference_steps=7)
    assert [rows(trace) for trace in session.traces] == [grid(n, "cond_uncond") for n in (10, 10, 7)]
    assert [trace.events[0].total for trace in session.traces] == [10, 10, 7]
    assert reuse_line(session.traces[1].events) == "CCrrCrrCrC"


def test_bfloat16_timesteps_that_collide_are_told_apart_by_the_scheduler() -> None:
    case = VIDEO_TO_VIDEO
    pipe = case.build()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=12.0)
    seen: list[float] = []

    def rounding(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs["timestep"] = kwargs["timestep"].bfloat16()
        seen.append(kwargs["timestep"].max().item())
        return args, kwargs

    pipe.transformer.register_forward_pre_hook(rounding, with_kwargs=True)
    trace = traced(case, pipe, num_inference_steps=40, strength=1.0)
    assert len(set(seen)) < 40  # some of them do collide
    assert rows(trace) == grid(40, *WITHOUT_NAMES)


def test_mochis_ascending_time() -> None:
    given: list[float] = []
    pipe = MOCHI.build()
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["timestep"].max().item()), with_kwargs=True
    )
    with bwcache.attach(pipe, CAREFREE) as session:
        MOCHI.run(pipe)
        MOCHI.run(pipe)
    assert given[:10] == sorted(given[:10])
    assert [rows(trace) for trace in session.traces] == [grid(10, "cond_uncond")] * 2
    assert session.trace.reused == 5


def test_ascending_time_without_a_scheduler_that_counts() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE, steps=8) as session:
        for _ in range(2):
            denoise(module, [125 * i for i in range(8)])
    assert [rows(trace) for trace in session.traces] == [grid(8, "call0")] * 2
    assert session.trace.reused > 0


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("strength", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("scheduler", [FlowMatchEulerDiscreteScheduler, unipc], ids=["euler", "unipc"])
def test_a_schedule_that_starts_in_the_middle(scheduler: Any, strength: float) -> None:
    pipe = VIDEO_TO_VIDEO.build()
    pipe.scheduler = scheduler()
    steps = round(10 * strength)
    trace = traced(VIDEO_TO_VIDEO, pipe, strength=strength)
    assert rows(trace) == grid(steps, *WITHOUT_NAMES)
    assert {event.total for event in trace.events} == {steps}
    schedule = pipe.scheduler.timesteps.tolist()[10 - steps :]
    assert [event.timestep for event in trace.events] == [schedule[event.step] for event in trace.events]


def test_a_begin_index_that_the_pipeline_sets() -> None:
    pipe = VIDEO_TO_VIDEO.build()
    inner = pipe.get_timesteps

    def get_timesteps(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        pipe.scheduler.set_begin_index(2)
        return result

    pipe.get_timesteps = get_timesteps
    trace = traced(VIDEO_TO_VIDEO, pipe, strength=0.8)
    assert rows(trace) == grid(8, *WITHOUT_NAMES)
    assert {event.total for event in trace.events} == {8}


def test_a_deep_copied_scheduler_steps_on_its_own() -> None:
    pipe = LTX.build()
    plain = LTX.run(pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        first = LTX.run(pipe)
        copied = copy.deepcopy(pipe.scheduler)
        copied.set_timesteps(4)
        copied.step(noise(1, 2, 8), copied.timesteps[0], noise(1, 2, 8))
        assert (copied.step_index, pipe.scheduler.step_index) == (1, 10)
        pipe.scheduler = copy.deepcopy(pipe.scheduler)
        assert torch.equal(LTX.run(pipe), first)
    assert [rows(trace) for trace in session.traces] == [grid(10, "cond_uncond")] * 2
    assert torch.equal(LTX.run(pipe), plain)


def test_a_scheduler_that_is_swapped_after_attaching() -> None:
    pipe = LTX.build()
    with bwcache.attach(pipe, CAREFREE) as session:
        LTX.run(pipe)
        pipe.scheduler = FlowMatchHeunDiscreteScheduler()
        pipe.scheduler.set_timesteps(6)
        pipe.scheduler = FlowMatchEulerDiscreteScheduler()
        LTX.run(pipe, num_inference_steps=6)
    assert rows(session.trace) == grid(6, "cond_uncond")
    assert session.trace.events[0].total == 6


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [WAN, BY_NAME["wan_two_experts"], LTX, COGVIDEOX, MOCHI, HUNYUAN, VIDEO_TO_VIDEO],
    ids=lambda case: case.name,
)
def test_runs_of_other_lengths_one_after_the_other(case: Case) -> None:
    pipe = case.build()
    shortest = 2 if case is MOCHI else 1  # its pipeline cannot do one step
    lengths = [6, 12, shortest, shortest, 3, 6]
    if case is VIDEO_TO_VIDEO:
        case = Case(case.name, case.build, {**case.call, "strength": 1.0}, case.branches)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bwcache.NeverReusedWarning)
        with bwcache.attach(pipe, BWCache(threshold=10.0)) as session:
            videos = [case.run(pipe, num_inference_steps=n) for n in lengths]
    assert [rows(trace) for trace in session.traces] == [grid(n, *case.branches) for n in lengths]
    assert [{event.total for event in trace.events} for trace in session.traces] == [{n} for n in lengths]
    assert [trace.events[0].run for trace in session.traces] == list(range(6))
    assert torch.equal(videos[0], videos[5])
    assert torch.equal(videos[2], videos[3])


@pytest.mark.parametrize("case", [WAN, LTX, COGVIDEOX, MOCHI, HUNYUAN], ids=lambda case: case.name)
def test_an_interrupted_pipeline_ends_its_run_early(case: Case) -> None:
    pipe = case.build()

    def interrupt(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = index == 4
        return kwargs

    with bwcache.attach(pipe, CAREFREE) as session:
        case.run(pipe, callback_on_step_end=interrupt)
        full = case.run(pipe)
    assert [rows(trace) for trace in session.traces] == [grid(5, *case.branches), grid(10, *case.branches)]
    with bwcache.attach(pipe, CAREFREE):
        assert torch.equal(case.run(pipe), full)


class Stop(Exception):
    pass


def stop_after(step: int) -> Any:
    def stop(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == step:
            raise Stop
        return kwargs

    return stop


@pytest.mark.parametrize("case", [WAN, LTX, COGVIDEOX, MOCHI, HUNYUAN, VIDEO_TO_VIDEO], ids=lambda case: case.name)
@pytest.mark.parametrize("changes", [{}, {"num_inference_steps": 14}], ids=["as_before", "longer"])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_run_that_broke_off_is_not_continued_by_the_next(case: Case, changes: dict[str, Any], after: int) -> None:
    pipe = case.build()
    policy = BWCache(threshold=10.0, reuse_interval=2, predictor=bwcache.Linear())
    with bwcache.attach(pipe, policy) as session:
        clean = case.run(pipe, seed=1, **changes)
        expected = rows(session.trace)
    with bwcache.attach(pipe, policy) as session:
        with pytest.raises(Stop):
            case.run(pipe, seed=0, callback_on_step_end=stop_after(after))
        made = case.run(pipe, seed=1, **changes)
    assert rows(session.trace) == expected
    assert torch.equal(made, clean)


def test_a_run_that_broke_off_in_its_first_step_is_not_continued_from_further_on() -> None:
    pipe = VIDEO_TO_VIDEO.build()
    policy = BWCache(threshold=10.0, reuse_interval=1, predictor=bwcache.Linear())
    with bwcache.attach(pipe, policy) as session:
        clean = VIDEO_TO_VIDEO.run(pipe, seed=1, strength=0.7)
        expected = rows(session.trace)
    with bwcache.attach(pipe, policy) as session:
        with pytest.raises(Stop):
            VIDEO_TO_VIDEO.run(pipe, seed=0, strength=1.0, callback_on_step_end=stop_after(0))
        assert torch.equal(VIDEO_TO_VIDEO.run(pipe, seed=1, strength=0.7), clean)
    assert rows(session.trace) == expected


def test_two_segments_in_one_call_are_two_runs() -> None:
    """Wan Animate and others go through the schedule once per segment, without telling anybody."""
    pipe = VIDEO_TO_VIDEO.build()
    free, pipe.maybe_free_model_hooks = pipe.maybe_free_model_hooks, lambda: None
    with bwcache.attach(pipe, CAREFREE) as session:
        VIDEO_TO_VIDEO.run(pipe, strength=1.0)
        VIDEO_TO_VIDEO.run(pipe, strength=1.0)
        free()
    assert [rows(trace) for trace in session.traces] == [grid(10, *WITHOUT_NAMES)] * 2


# --- bare modules -----------------------------------------------------------------------------------------------------


def denoise(module: Any, timesteps: list[float], branches: int = 1, size: int = 4, start: int = 0) -> torch.Tensor:
    """A plain Euler loop around a bare denoiser, guided if there are two branches."""
    latents = noise(1, 4, 2, size, size, seed=start)
    for timestep in timesteps:
        with torch.no_grad():
            made = [
                module(
                    hidden_states=latents,
                    timestep=torch.tensor([timestep]),
                    encoder_hidden_states=noise(1, 6, 8, seed=branch),
                    return_dict=False,
                )[0]
                for branch in range(branches)
            ]
        latents = latents + 0.1 * sum(made)
    return latents


TIMES = [1000.0 - 100 * i for i in range(10)]


@pytest.mark.parametrize("branches", [1, 2])
def test_a_bare_module_that_is_told_its_steps(branches: int) -> None:
    module = wan_transformer()
    plain = denoise(module, TIMES, branches)
    with bwcache.attach(module, CAREFREE, steps=10) as session:
        first, second = denoise(module, TIMES, branches), denoise(module, TIMES, branches)
    assert torch.equal(first, second)
    assert not torch.equal(first, plain)
    assert [rows(trace) for trace in session.traces] == [grid(10, *WITHOUT_NAMES[:branches])] * 2
    assert reuse_line(session.trace.events) == "CCrrCrrCrC"
    assert torch.equal(denoise(module, TIMES, branches), plain)


def test_a_bare_module_that_breaks_off_in_its_first_forward_begins_anew() -> None:
    module = wan_transformer()
    clean = denoise(module, TIMES, 2)
    breaking = module.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with bwcache.attach(module, BWCache(threshold=0), steps=10) as session:
        with pytest.raises(ZeroDivisionError):
            denoise(module, TIMES, 2)
        breaking.remove()
        assert torch.equal(denoise(module, TIMES, 2), clean)
    assert rows(session.trace) == grid(10, *WITHOUT_NAMES[:2])


def test_a_bare_module_that_is_not_told_computes_and_says_why() -> None:
    module = wan_transformer()
    plain = denoise(module, TIMES)
    with pytest.warns(bwcache.NeverReusedWarning, match="steps="), bwcache.attach(module, CAREFREE) as session:
        assert torch.equal(denoise(module, TIMES), plain)
    assert rows(session.trace) == grid(10, "call0")
    assert session.trace.reused == 0
    assert all("steps=" in event.reason for event in session.trace.events[1:])


def test_each_run_of_a_bare_module_may_be_told_its_steps() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE) as session:
        for steps in (10, 5, 10):
            with session.run(steps=steps):
                denoise(module, TIMES[:steps])
    assert [rows(trace) for trace in session.traces] == [grid(n, "call0") for n in (10, 5, 10)]
    assert [trace.events[0].total for trace in session.traces] == [10, 5, 10]
    assert session.trace.reused > 0


def test_marked_runs_are_kept_apart_whatever_the_time_says() -> None:
    module = wan_transformer()
    with bwcache.attach(module, BWCache(threshold=10.0), steps=10) as session:
        with session.run():
            denoise(module, TIMES[:4])
        with session.run():
            denoise(module, TIMES[4:])
        for _ in range(3):
            with session.run(steps=1):
                denoise(module, TIMES[:1])
    assert [trace.steps for trace in session.traces] == [4, 6, 1, 1, 1]
    assert [trace.events[0].step for trace in session.traces] == [0] * 5


def test_a_marked_run_that_raises_is_over() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE) as session:
        with suppress(Stop), session.run(steps=10):
            denoise(module, TIMES[:3])
            raise Stop
        with session.run(steps=10):
            denoise(module, TIMES, start=1)
    with bwcache.attach(module, CAREFREE, steps=10) as clean:
        denoise(module, TIMES, start=1)
    assert [trace.steps for trace in session.traces] == [3, 10]
    assert reuse_line(session.trace.events) == reuse_line(clean.trace.events)


def test_time_against_its_direction_begins_a_new_run() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE, steps=10) as session:
        denoise(module, TIMES[:6])
        denoise(module, TIMES[2:])
        denoise(module, TIMES)
    assert [trace.steps for trace in session.traces] == [6, 8, 10]


def test_another_size_computes() -> None:
    module = wan_transformer()
    script = Scripted(frozenset(range(1, 10)))
    with bwcache.attach(module, script, steps=10) as session:
        denoise(module, TIMES[:3])
        denoise(module, TIMES[3:5], size=8)
    assert [event.action for event in session.trace.events] == ["compute", "reuse", "reuse", "compute", "reuse"]
    assert "shape" in session.trace.events[3].reason


def test_another_dtype_computes() -> None:
    module = wan_transformer()
    with bwcache.attach(module, Scripted(frozenset(range(1, 10))), steps=10) as session:
        denoise(module, TIMES[:3])
        module.double()
        with torch.no_grad():
            module(
                hidden_states=noise(1, 4, 2, 4, 4).double(),
                timestep=torch.tensor([TIMES[3]]),
                encoder_hidden_states=noise(1, 6, 8).double(),
            )
    assert [event.action for event in session.trace.events] == ["compute", "reuse", "reuse", "compute"]


def test_a_timestep_per_token_counts_by_its_maximum() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE, steps=6) as session, torch.no_grad():
        for timestep in TIMES[:6]:
            per_token = torch.full((1, 8), timestep)
            per_token[:, :4] = 0  # the tokens of a frame that is given
            module(
                hidden_states=noise(1, 4, 2, 4, 4),
                timestep=per_token,
                encoder_hidden_states=noise(1, 6, 8),
            )
    assert rows(session.trace) == grid(6, "call0")
    assert [event.timestep for event in session.trace.events] == TIMES[:6]


def test_positional_arguments_are_read_too() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE, steps=5) as session, torch.no_grad():
        for timestep in TIMES[:5]:
            module(noise(1, 4, 2, 4, 4), torch.tensor([timestep]), noise(1, 6, 8))
    assert rows(session.trace) == grid(5, "call0")
    assert session.trace.events[3].timestep == TIMES[3]


# --- the clock alone --------------------------------------------------------------------------------------------------


BARE = BlockStack("model", nn.Identity(), (), BlockSpec("Identity", ()), Stream("input", 0), ())
"""A denoiser that takes the time alone."""


def ticks(clock: Clock, *times: float, names: tuple[str | None, ...] = (None,)) -> list[tuple[Any, ...]]:
    """Run, index, total and branch of a forward for each time and name."""
    made = []
    for time in times:
        for name in names:
            clock.context = None if name is None else Context(name)
            step = clock.tick(Call(BARE, (time,), {}))
            made.append((step.run, step.index, step.total, step.branch))
    return made


def scheduler(*times: float, **attributes: Any) -> Any:
    return SimpleNamespace(timesteps=torch.tensor(times), **attributes)


@pytest.mark.parametrize("names", [("cond", "uncond"), (None,)], ids=str)
def test_a_scheduler_whose_copies_step_still_says_how_many_steps_there_are(names: Any) -> None:
    """SkyReels-V2 with diffusion forcing: a copy for each frame; the pipeline's own one never moves."""
    clock = Clock(lambda: still)
    still = scheduler(999, 700, 400, 100, step_index=None, begin_index=None)
    for run in range(2):
        made = ticks(clock, 999, 700, 400, 100, names=names)
        assert made == [(run, i, 4, name or "call0") for i in range(4) for name in names]


def test_a_scheduler_that_stands_still_and_knows_other_times_says_nothing() -> None:
    still = scheduler(999, 700, 400, 100, step_index=None, begin_index=None)
    made = ticks(Clock(lambda: still), 999, 800, 400)
    assert made == [(0, 0, 4, "call0"), (0, 1, None, "call0"), (0, 2, None, "call0")]


@pytest.mark.parametrize("names", [("cond", "uncond"), ("cond_uncond",), (None,), (None, None)], ids=str)
def test_a_time_that_stands_twice_in_the_schedule_is_two_steps(names: Any) -> None:
    """PNDM: it does not count its steps, and the second timestep comes twice."""
    times = (901, 801, 801, 701, 601)
    schedule = scheduler(*times)
    made = ticks(Clock(lambda: schedule), *times, names=names)
    branches = [name or f"call{i}" for i, name in enumerate(names)]
    assert made == [(0, i, 5, branch) for i in range(5) for branch in branches]


@pytest.mark.parametrize("begin", range(10))
def test_a_place_in_a_schedule_that_reads_alike_from_both_ends(begin: int) -> None:
    """900, 800, …, 0: 400 is the sixth, and not 600 backwards."""
    times = [900.0 - 100 * i for i in range(10)]
    schedule = scheduler(*times)
    made = ticks(Clock(lambda: schedule), *times[begin:])
    assert made == [(0, i, 10 - begin, "call0") for i in range(10 - begin)]


def test_times_rounded_to_the_same_number_are_noticed_where_nobody_counts() -> None:
    """Two steps of one time look like one step with two branches; a number of branches that comes and goes is none."""
    made = ticks(Clock(lambda: None, steps=8), 1000, 1000, 992, 984, 984, 976)
    assert [(index, branch) for _, index, _, branch in made] == [
        (0, "call0"),
        (0, "call1"),
        (1, "call0"),
        (2, "call0"),
        (2, "call1"),
        (3, "call0"),
    ]
    assert [total for _, _, total, _ in made] == [8, 8, 8, 8, 8, None]


@pytest.mark.parametrize("widths", [(2, 2, 1, 1), (1, 1, 2, 2), (1, 2, 3, 3)])
def test_guidance_that_begins_or_ends_on_a_bare_module_is_followed(widths: tuple[int, ...]) -> None:
    times = [time for time, width in zip((900, 700, 500, 300), widths, strict=True) for _ in range(width)]
    made = ticks(Clock(lambda: None, steps=4), *times)
    assert made == [(0, i, 4, f"call{j}") for i, width in enumerate(widths) for j in range(width)]


@pytest.mark.parametrize("branches", [1, 2])
def test_the_last_time_once_more_begins_the_next_run(branches: int) -> None:
    """Down and up again: an inversion that begins where sampling ended."""
    clock = Clock(lambda: None, steps=3)
    names = (None,) * branches
    made = ticks(clock, 900, 500, 100, 100, 500, 900, names=names)
    assert [row[:3] for row in made] == [(run, i, 3) for run in range(2) for i in range(3) for _ in names]


# --- pipelines that share -------------------------------------------------------------------------------------------


def test_two_pipelines_that_share_a_transformer_by_from_pipe() -> None:
    pipe = VIDEO_TO_VIDEO.build()
    other = WanPipeline.from_pipe(pipe)
    assert other.transformer is pipe.transformer
    with bwcache.attach(pipe, CAREFREE) as session:
        VIDEO_TO_VIDEO.run(pipe, strength=1.0)
        WAN.run(other, num_inference_steps=7)
        VIDEO_TO_VIDEO.run(pipe, strength=1.0)
    assert [rows(trace) for trace in session.traces] == [
        grid(10, *WITHOUT_NAMES),
        grid(7, "cond", "uncond"),
        grid(10, *WITHOUT_NAMES),
    ]
    assert torch.equal(WAN.run(other), WAN.run(wan(other.scheduler)))


def sharing(pipe: Any, scheduler: Any) -> Any:
    """A pipeline of the same class around the same parts, with a scheduler of its own."""
    parts = {**pipe.components, "scheduler": scheduler}
    if isinstance(pipe, (WanPipeline, WanVideoToVideoPipeline)):
        parts = {key: part for key, part in parts.items() if part is not None}
        parts = {"tokenizer": None, "text_encoder": None, **parts}
    return type(pipe)(**parts)


@pytest.mark.parametrize("case", [WAN, LTX, HUNYUAN, VIDEO_TO_VIDEO], ids=lambda case: case.name)
@pytest.mark.parametrize("first", ["attached", "other"])
def test_two_pipelines_that_share_a_transformer_but_no_scheduler(case: Case, first: str) -> None:
    attached = case.build()
    other = sharing(attached, FlowMatchEulerDiscreteScheduler(shift=5.0))
    changes: dict[str, Any] = {"strength": 1.0} if case is VIDEO_TO_VIDEO else {}
    plain = case.run(attached, **changes), case.run(other, num_inference_steps=6, **changes)
    with bwcache.attach(attached, CAREFREE):
        alone = case.run(attached, **changes)
    attached.scheduler = type(attached.scheduler).from_config(attached.scheduler.config)  # as if it had never run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bwcache.NeverReusedWarning)
        with bwcache.attach(attached, CAREFREE) as session:
            if first == "attached":
                assert torch.equal(case.run(attached, **changes), alone)
            made = case.run(other, num_inference_steps=6, **changes)
            assert torch.equal(case.run(attached, **changes), alone)
            with_zero = session.traces
    for trace in with_zero:
        assert trace.steps in (6, 10)
    of_other = with_zero[1 if first == "attached" else 0]
    assert rows(of_other) == grid(6, *case.branches)
    # of a run whose number of steps nobody says, nothing may be reused
    if of_other.reused == 0:
        assert torch.equal(made, plain[1])
    else:
        assert {event.total for event in of_other.events} == {6}
    assert torch.equal(case.run(attached, **changes), plain[0])


def test_of_two_pipelines_of_one_class_only_the_attached_one_is_touched() -> None:
    attached, other = wan(), wan()
    plain = WAN.run(other)
    with bwcache.attach(attached, CAREFREE) as session:
        assert torch.equal(WAN.run(other), plain)
        assert session.traces == []
        assert not torch.equal(WAN.run(attached), plain)
        assert torch.equal(WAN.run(other), plain)
    assert len(session.traces) == 1


def test_two_threads_with_a_pipeline_each() -> None:
    cases = [WAN, LTX]
    pipes = [case.build() for case in cases]
    expected = []
    for case, pipe in zip(cases, pipes, strict=True):
        with bwcache.attach(pipe, CAREFREE):
            expected.append(case.run(pipe))
    made: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    sessions = [bwcache.attach(pipe, CAREFREE) for pipe in pipes]
    start = threading.Barrier(2, timeout=60)

    def work(i: int) -> None:
        start.wait()
        made[i] += [cases[i].run(pipes[i]) for _ in range(4)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for session in sessions:
        session.close()
    for i in range(2):
        assert len(made[i]) == 4
        assert all(torch.equal(video, expected[i]) for video in made[i])
        assert [rows(trace) for trace in sessions[i].traces] == [grid(10, *cases[i].branches)] * 4


# --- older versions of diffusers --------------------------------------------------------------------------------------


def test_a_model_without_cache_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        for name in ("cache_context", "_reset_stateful_cache"):
            older.delattr(CacheMixin, name)
        pipe = VIDEO_TO_VIDEO.build()
        assert not hasattr(pipe.transformer, "cache_context")
        with bwcache.attach(pipe, CAREFREE) as session:
            videos = [VIDEO_TO_VIDEO.run(pipe, strength=1.0) for _ in range(2)]
            VIDEO_TO_VIDEO.run(pipe, strength=1.0, num_inference_steps=5)
            VIDEO_TO_VIDEO.run(pipe, strength=1.0, guidance_scale=1.0)
    assert [rows(trace) for trace in session.traces] == [
        grid(10, *WITHOUT_NAMES),
        grid(10, *WITHOUT_NAMES),
        grid(5, *WITHOUT_NAMES),
        grid(10, "call0"),
    ]
    assert torch.equal(*videos)
    assert session.traces[0].reused > 0


def test_a_cache_context_that_names_the_branch_only() -> None:
    """Up to diffusers 0.40 Wan's pipeline said no step index."""
    pipe = wan()
    with bwcache.attach(pipe, CAREFREE) as session:
        told = pipe.transformer.cache_context
        pipe.transformer.cache_context = lambda name, **said: told(name)
        try:
            first, second = WAN.run(pipe), WAN.run(pipe)
        finally:
            pipe.transformer.cache_context = told
    assert [rows(trace) for trace in session.traces] == [grid(10, "cond", "uncond")] * 2
    assert reuse_line(session.trace.events) == "CCrrCrrCrC"
    assert torch.equal(first, second)


def test_a_policy_that_keeps_nothing_needs_no_total() -> None:
    module = wan_transformer()
    with warnings.catch_warnings(), bwcache.attach(module, NeverReuse()) as session:
        warnings.simplefilter("error")
        denoise(module, TIMES)
    assert {event.reason for event in session.trace.events} == {"never reuses with these settings"}
