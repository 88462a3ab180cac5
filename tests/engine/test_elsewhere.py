"""Denoisers evaluated at another noise level: against the same by a plain patch of the forward, on real pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

import bwcache
from bwcache import BlockStack, Decision, Observation, Policy, Site, Trace, compute, reuse
from tests.engine.test_clean import ZOO, with_scheduler
from tests.tiny import BY_NAME, Case

STEPS = 8
COMPUTED = {0: None, 1: None, 3: 1, 6: 1}
"""Steps that are computed, and where: None: in place; else by how many half steps on."""


@dataclass(frozen=True)
class Ahead(Policy[None]):
    """Computes what is written, half a step or more further on; keeps the clean latents."""

    looks_ahead = True

    computed: dict[int, Any] = field(default_factory=lambda: COMPUTED)
    share: Callable[[Observation, Any], float | None] = lambda seen, halves: (
        None if halves is None else halfway(seen.step.noise, seen.step.next_noise, halves)
    )

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        return (stack.site(stack.root, keeps="clean"),)

    def init(self) -> None:
        return None

    def decide(self, observation: Observation, state: None) -> Decision:
        index = observation.step.index
        if index not in self.computed:
            return reuse("window")
        return compute("written (far)", at=self.share(observation, self.computed[index]))


def halfway(before: Any, after: Any, halves: float) -> float:
    found: float = before + halves * (after - before) / 2
    return found


class Plain:
    """As `Ahead`, by the kept estimate: the guided one, of which the sampler makes its steps.

    Args:
        mixed: signal and noise, of the scheduler's step; `at`: of a share of noise, with the time there.
        data, prediction: (latents, prediction, signal, noise) -> data, and back.
        scale: of guidance, between the branches in the order in which they come; 1: there is one.
        rows: whether both come in one forward.
    """

    def __init__(self, pipe: Any, mixed: Any, at: Any, forms: Any, scale: float, rows: bool = False) -> None:
        self.pipe, self.mixed, self.at, self.scale, self.rows = pipe, mixed, at, scale, rows
        self.data, self.prediction = forms
        self.module = pipe.transformer
        self.inner = self.module.forward
        self.branches = 1 if scale == 1 or rows else 2
        self.kept: list[Any] = [None, None]
        self.guided: Any = None
        self.calls = 0
        self.times: list[float] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step, branch = divmod(self.calls, self.branches)
        self.calls += 1
        x, scheduler = kwargs["hidden_states"], self.pipe.scheduler
        a, s, share, after = self.mixed(scheduler, step)
        if step not in COMPUTED:
            return (self.prediction(x, self.kept[branch], a, s),)
        there, time = x, kwargs["timestep"]
        a_there, s_there = a, s
        if COMPUTED[step] is not None:
            a_there, s_there, moved = self.at(scheduler, halfway(share, after, COMPUTED[step]))
            time = torch.full_like(time, moved)
            there = a_there * self.guided + s_there * (x - a * self.guided) / s
        self.times.append(float(time.flatten()[0]))
        out = self.inner(**{**kwargs, "hidden_states": there, "timestep": time, "return_dict": False})[0]
        self.kept[branch] = self.data(there, out, a_there, s_there)
        if branch == self.branches - 1:
            self.guided_soon()
        return (self.prediction(x, self.kept[branch], a, s),)

    def guided_soon(self) -> None:
        """The estimate that the sampler follows, once all branches of the step are there."""
        if self.rows:
            uncond, cond = self.kept[0].chunk(2)
            guided = uncond + self.scale * (cond - uncond)
            self.guided = torch.cat([guided, guided])
        elif self.branches == 1:
            self.guided = self.kept[0]
        else:
            cond, uncond = self.kept
            self.guided = uncond + self.scale * (cond - uncond)


def flow(scheduler: Any, step: int) -> tuple[float, float, float, float]:
    s, after = (float(each) for each in scheduler.sigmas[step : step + 2])
    return 1 - s, s, s, after


def flow_at(scheduler: Any, share: float) -> tuple[float, float, float]:
    return 1 - share, share, 1000 * share


def rising(scheduler: Any, step: int) -> tuple[float, float, float, float]:
    s, after = (float(each) for each in scheduler.sigmas[step : step + 2])
    return s, 1 - s, 1 - s, 1 - after


def rising_at(scheduler: Any, share: float) -> tuple[float, float, float]:
    return 1 - share, share, 1000 * (1 - share)


def kept(scheduler: Any, time: int) -> tuple[float, float]:
    a = float(scheduler.alphas_cumprod[time])
    return a**0.5, (1 - a) ** 0.5


def by_time(scheduler: Any, step: int) -> tuple[float, float, float, float]:
    times = [int(time) for time in scheduler.timesteps]
    (a, s), (b, r) = (kept(scheduler, time) for time in (times[step], times[min(step + 1, STEPS - 1)]))
    return a, s, s / (a + s), r / (b + r)


def by_time_at(scheduler: Any, share: float) -> tuple[float, float, float]:
    over = share / (1 - share)
    time = min(range(1000), key=lambda t: abs(float(scheduler.alphas_cumprod[t]) - 1 / (1 + over**2)))
    return (*kept(scheduler, time), time)


VELOCITY = (lambda x, v, a, s: x - s * v, lambda x, z, a, s: (x - z) / s)
NEGATIVE = (lambda x, v, a, s: x + s * v, lambda x, z, a, s: (z - x) / s)
EPSILON = (lambda x, e, a, s: (x - s * e) / a, lambda x, z, a, s: (x - a * z) / s)

KINDS: dict[str, tuple[Any, ...]] = {
    "flow": ("wan_unguided", flow, flow_at, VELOCITY, 1.0),
    "flow, guided in two forwards": ("wan", flow, flow_at, VELOCITY, 4.0),
    "flow, guided in one": ("ltx", flow, flow_at, VELOCITY, 3.0, True),
    "flow, shifted": ("hunyuan", flow, flow_at, VELOCITY, 1.0),
    "flow, sigmas that rise": ("mochi", rising, rising_at, NEGATIVE, 4.5, True),
    "epsilon, whole times": ("cogvideox", by_time, by_time_at, EPSILON, 6.0, True),
}


def run(case: Case, policy: Policy[Any], **changes: Any) -> tuple[Tensor, Trace]:
    pipe = case.build()
    torch.manual_seed(0)  # of which some samplers draw
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS, **changes)
    return made, session.trace


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_second_implementation(kind: str) -> None:
    name, *how = KINDS[kind]
    case = BY_NAME[name]
    pipe = case.build()
    plain = Plain(pipe, *how)
    pipe.transformer.forward = plain
    expected = case.run(pipe, num_inference_steps=STEPS)
    made, trace = run(case, Ahead())
    places = {event.step: event.evaluated_at for event in trace.events if event.action == "compute"}
    assert [step for step, place in places.items() if place is not None] == [3, 6], trace.summary()
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)
    nearby, _ = run(case, Ahead(share=lambda seen, halves: None))
    assert (made - expected).norm() < 0.02 * (made - nearby).norm()


@pytest.mark.parametrize("name", ["wan", "cogvideox", "mochi"])
def test_at_its_own_level_it_is_an_ordinary_computed_step_bit_for_bit(name: str) -> None:
    in_place, plain = run(BY_NAME[name], Ahead(share=lambda seen, halves: None))
    made, trace = run(BY_NAME[name], Ahead(share=lambda seen, halves: seen.step.noise))
    assert torch.equal(made, in_place)
    assert trace.events == plain.events
    assert {event.evaluated_at for event in trace.events} == {None}


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_never_reusing_it_is_bit_for_bit_the_pipeline() -> None:
    case = BY_NAME["wan"]
    expected = case.run(case.build(), num_inference_steps=STEPS)
    computed = dict.fromkeys(range(STEPS))
    assert torch.equal(run(case, Ahead(computed))[0], expected)


IN_PLACE: dict[str, tuple[Case, str]] = {
    "new noise": (
        with_scheduler("stable_diffusion", EulerAncestralDiscreteScheduler),
        "its scheduler adds new noise",
    ),
    "new noise by the time": (with_scheduler("stable_diffusion", DDPMScheduler), "its scheduler adds new noise"),
    "new noise in a flow": (
        with_scheduler("wan_unguided", lambda: FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)),
        "its scheduler adds new noise",
    ),
    "a time for each token": (ZOO["WanImageToVideoPipeline TI2V"], "each token or frame has a time of its own"),
    "a ControlNet": (ZOO["FluxControlNetPipeline"], "controlnet_block_samples belongs to the latents of now"),
    "times of another kind": (ZOO["svd"], "which time a noise level has is not known"),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_cannot_be_mapped_is_evaluated_in_place_and_says_so(name: str) -> None:
    case, why = IN_PLACE[name]
    in_place, _ = run(case, Ahead(share=lambda seen, halves: None))
    made, trace = run(case, Ahead())
    assert torch.equal(made, in_place)
    said = {event.step: event.reason for event in trace.events}
    assert said[3] == said[6] == f"written (far; in place: {why})"
    assert said[1] == "written (far)"
    assert {event.evaluated_at for event in trace.events} == {None}


def test_at_first_it_is_not_known_where_the_latents_go() -> None:
    _, trace = run(BY_NAME["wan_unguided"], Ahead({0: 1, 1: 1, 4: 1}))
    said = [(event.reason, event.evaluated_at is None) for event in trace.events]
    assert said[0] == ("first step", True)  # the policy is not asked
    assert said[1] == ("written (far)", False)


def test_nothing_of_the_pipeline_s_is_written_into(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME["wan"]
    pipe = case.build()
    step, handed = pipe.scheduler.step, list[Tensor]()

    def watched(told: Tensor, time: Tensor, latents: Tensor, **kwargs: Any) -> Any:
        assert not handed or torch.equal(latents, handed[-1])
        returned = step(told, time, latents, **kwargs)
        handed.append(returned[0].clone())
        return returned

    monkeypatch.setattr(pipe.scheduler, "step", watched)
    with bwcache.attach(pipe, Ahead()):
        case.run(pipe, num_inference_steps=STEPS)
    assert len(handed) == STEPS


def test_samples_that_are_evaluated_elsewhere_each_are_what_they_are_alone() -> None:
    case = BY_NAME["wan_unguided"]
    embeds = torch.cat([case.call["prompt_embeds"], case.call["prompt_embeds"] * 3])
    latents = torch.randn(2, 4, 2, 4, 4, generator=torch.Generator().manual_seed(1))

    def share(seen: Observation, halves: Any) -> float | None:
        sample = seen.step.sample
        if halves is None or sample is None:
            return None if halves is None else halfway(seen.step.noise, seen.step.next_noise, 1)
        return halfway(seen.step.noise, seen.step.next_noise, 1 + sample)

    both, trace = run(case, Ahead(share=share), prompt_embeds=embeds, latents=latents.clone())
    places = [event.evaluated_at for event in trace.events if event.step == 3]
    assert len(set(places)) == 2
    for i, halves in enumerate((1, 2)):
        alone, _ = run(
            case,
            Ahead({0: None, 1: None, 3: halves, 6: halves}),
            prompt_embeds=embeds[i : i + 1],
            latents=latents[i : i + 1],
        )
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_what_is_kept_was_planned() -> None:
    _, trace = run(BY_NAME["wan"], Ahead())
    assert trace.peak_bytes == trace.planned_bytes > 0
