"""Branches that nobody names: told by their prompts, and never by their order where that could mislead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import ClassifierFreeGuidance, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from torch import Tensor

import bwcache
from bwcache import BWCache, FixedInterval, Trace
from bwcache.engine.clock import Call, Clock, Context
from bwcache.models import BlockSpec, BlockStack, denoisers, resolve
from bwcache.models.streams import Stream
from tests.runs.cases import MODULAR_LARGE
from tests.runs.laws import GREEDY
from tests.tiny import noise, wan_transformer

TEXT = {name: noise(1, 6, 8, seed=ord(name)) for name in "ucdp"}
POLICIES = {
    "greedy": GREEDY,
    "carefree": BWCache(threshold=10, reuse_interval=2, tail_guard=0),
    "interval": FixedInterval(3, 1, 0),
}
each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@dataclass
class Seen:
    """What a loop gave its denoiser, forward by forward, and what a session made of it."""

    prompts: list[str]
    trace: Trace

    def wrong(self) -> list[tuple[int, str]]:
        """The forwards that replay what another prompt left, by step and prompt."""
        kept: dict[str, str] = {}
        found = []
        for prompt, event in zip(self.prompts, self.trace.events, strict=True):
            if event.action == "compute":
                kept[event.branch] = prompt
            elif kept[event.branch] != prompt:
                found.append((event.step, prompt))
        return found

    def line(self, prompt: str) -> str:
        """What was done in the forwards of one prompt."""
        pairs = zip(self.prompts, self.trace.events, strict=True)
        return "".join(event.action[0].replace("c", "C") for name, event in pairs if name == prompt)

    @property
    def steps(self) -> list[int]:
        return [event.step for event in self.trace.events]


def same(text: Tensor) -> Tensor:
    return text


def fresh(text: Tensor) -> Tensor:
    """A copy for each forward, as where a pipeline casts its prompts in every step."""
    return text.clone()


BUFFER = torch.zeros(1, 6, 8)


def written(text: Tensor) -> Tensor:
    """Always the same tensor, written over, as where a graph was captured."""
    return BUFFER.copy_(text)


def loop(
    plan: Sequence[str],
    policy: Any = GREEDY,
    given: Callable[[Tensor], Tensor] = same,
    times: Sequence[float] | None = None,
    texts: dict[str, Tensor] = TEXT,
) -> Seen:
    """A loop over a bare denoiser: each entry of the plan is a step, each letter in it the prompt of a forward."""
    module, latents = wan_transformer(), noise(1, 4, 2, 4, 4)
    with bwcache.attach(module, policy, steps=len(plan)) as session, torch.no_grad():
        for time, prompts in zip(times or [1000.0 - 50 * i for i in range(len(plan))], plan, strict=True):
            made = [module(latents, torch.tensor([time]), given(texts[p]), return_dict=False)[0] for p in prompts]
            latents = latents + 0.05 * sum(made) / len(made)
    assert len(session.traces) == 1
    return Seen([prompt for prompts in plan for prompt in prompts], session.trace)


PLANS = {
    "switched off": ["uc"] * 4 + ["c"] * 6,
    "off and on": ["uc"] * 3 + ["c"] * 4 + ["uc"] * 5,
    "switched on": ["c"] * 3 + ["uc"] * 6,
    "another order": ["uc", "cu", "uc", "uc", "cu", "cu", "cu", "uc"],
    "another prompt": ["uc"] * 4 + ["ud"] * 4 + ["uc"] * 3,
    "another prompt alone": ["c"] * 4 + ["d"] * 4 + ["c"] * 3,
    "three": ["ucp"] * 4 + ["cpu"] * 3 + ["pc"] * 3,
    "in the last step": ["c"] * 5 + ["uc"],
}


@each_policy
@pytest.mark.parametrize("given", [same, fresh, written])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_nothing_of_another_prompt_is_replayed(plan: list[str], given: Any, policy: Any) -> None:
    seen = loop(plan, policy, given)
    assert seen.steps == [step for step, prompts in enumerate(plan) for _ in prompts]
    assert seen.wrong() == []
    assert {event.total for event in seen.trace.events} == {len(plan)}


def test_what_is_told_apart_is_reused() -> None:
    assert loop(PLANS["another order"]).line("u") == "Crrrrrrr"
    assert loop(PLANS["switched off"]).line("c") == "Crrrrrrrrr"
    assert loop(PLANS["off and on"]).line("u") == "CrrCrrrr"  # away for a step is too old
    assert loop(PLANS["another prompt"]).line("d") == "Crrr"


def test_two_prompts_that_are_equal_are_told_by_their_order() -> None:
    texts = {"u": TEXT["u"], "c": TEXT["u"].clone()}
    seen = loop(["uc"] * 6, texts=texts)
    assert [event.branch for event in seen.trace.events] == ["call0", "call1"] * 6
    assert seen.line("u") == seen.line("c") == "Crrrrr"


def test_tiles_that_change_places_are_computed() -> None:
    """Alike in all but their latents, of which a few entries are looked at."""
    module, tiles = wan_transformer(), [noise(1, 4, 2, 4, 4, seed=i) for i in range(2)]
    orders = [(0, 1), (0, 1), (0, 1), (1, 0), (1, 0)]
    with bwcache.attach(module, GREEDY) as session, session.run(steps=5), torch.no_grad():
        for step, order in enumerate(orders):
            for tile in order:
                made = module(tiles[tile], torch.tensor([900.0 - 100 * step]), TEXT["c"], return_dict=False)[0]
                tiles[tile] = tiles[tile] + 0.05 * made
    actions = "".join(event.action[0] for event in session.trace.events)
    assert actions == "ccrrrrccrr"
    assert session.trace.events[6].reason == "latents of something else"


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_a_prompt_for_each_step_keeps_no_more_than_one() -> None:
    texts = {chr(97 + i): noise(1, 6, 8, seed=i) for i in range(20)}
    seen = loop(sorted(texts), texts=texts)
    assert {event.branch for event in seen.trace.events} == {"call0"}
    assert seen.trace.reused == 0
    assert seen.trace.peak_bytes <= 2 * loop(["c"] * 20).trace.peak_bytes


@pytest.mark.parametrize("policy", [POLICIES["carefree"], POLICIES["interval"]], ids=["carefree", "interval"])
@pytest.mark.parametrize("start", [0.0, 0.3, 0.5])
def test_guidance_that_starts_late_under_a_scheduler_that_repeats_timesteps(start: float, policy: Any) -> None:
    pipe = MODULAR_LARGE.build()
    pipe.update_components(scheduler=PNDMScheduler(), guider=ClassifierFreeGuidance(start=start))
    prompts: list[str] = []

    def before(module: Any, args: Any, kwargs: Any) -> None:
        prompts.append(str(float(kwargs["encoder_hidden_states"].sum())))

    (unet,) = denoisers(pipe).values()
    unet.register_forward_pre_hook(before, with_kwargs=True)
    with bwcache.attach(pipe, policy) as session:
        MODULAR_LARGE.run(pipe)
    seen = Seen(prompts, session.trace)
    assert len(set(prompts)) == 2
    assert seen.wrong() == []
    assert session.trace.reused > 0
    assert session.trace.steps == len(pipe.scheduler.timesteps)


# --- the clock alone --------------------------------------------------------------------------------------------------

DENOISER = BlockStack(
    "model",
    torch.nn.Identity(),
    (),
    BlockSpec("Identity", (), conditions=("text",)),
    Stream("timestep", None),
    (),
)
DENOISER.__dict__["condition_names"] = ("text", "pooled")


def ticked(clock: Clock, time: float, name: str | None = None, **given: Any) -> tuple[int, str, str | None]:
    clock.context = None if name is None else Context(name)
    step = clock.tick(Call(DENOISER, (), {"timestep": time, **given}))
    return step.index, step.branch, clock.doubt


def test_a_named_branch_with_another_prompt_is_doubted_once() -> None:
    clock = Clock(lambda: None, 6)
    made = [ticked(clock, 900 - i, "cond", text=TEXT["c" if i < 2 else "d"]) for i in range(4)]
    assert [doubt for _, _, doubt in made] == [None, None, "another prompt or image to go by than before", None]


def test_a_named_branch_that_is_given_copies_is_compared_once() -> None:
    clock = Clock(lambda: None, 6)
    assert [ticked(clock, 900 - i, "cond", text=TEXT["c"].clone())[2] for i in range(5)] == [None] * 5


def test_what_changes_in_every_step_by_its_nature_does_not_count() -> None:
    clock = Clock(lambda: None, 6)
    made = [
        ticked(clock, 900 - i, text=TEXT["c"], guidance=torch.tensor([float(i)]), residuals=[noise(1, 2, seed=i)] * 3)
        for i in range(4)
    ]
    assert made == [(i, "call0", None) for i in range(4)]


def test_what_comes_or_goes_is_doubted() -> None:
    clock = Clock(lambda: None, 6)
    made = [ticked(clock, 900 - i, text=TEXT["c"], residuals=[noise(1, 2)] if i > 1 else None) for i in range(4)]
    assert [doubt for _, _, doubt in made] == [None, None, "other arguments than before", None]


def test_of_branches_alike_each_is_the_one_that_is_asked_to_run_in_its_way() -> None:
    clock = Clock(lambda: None, 6)
    orders = [(None, [1]), ([1], None), ([1],), (None,)]
    made = [
        ticked(clock, 900 - i, text=TEXT["c"], skip_layers=layers) for i, order in enumerate(orders) for layers in order
    ]
    assert [branch for _, branch, _ in made] == ["call0", "call1", "call1", "call0", "call1", "call0"]
    assert [doubt for _, _, doubt in made][2:] == [None] * 4


def test_a_prompt_that_is_freed_is_not_taken_for_the_next_one_in_its_place() -> None:
    clock, places = Clock(lambda: None, 40), set()
    for i in range(40):
        text = noise(1, 6, 8, seed=i)
        places.add(text.data_ptr())
        assert ticked(clock, 900 - i, text=text)[2] is None or i > 0
        doubt = clock.doubt
        assert (doubt is None) == (i == 0)
        del text
    assert len(places) > 1  # while a prompt is remembered, its place is not given to another


def test_in_inference_mode_numbers_are_compared() -> None:
    clock = Clock(lambda: None, 6)
    with torch.inference_mode():
        text = TEXT["c"].clone()
        doubts = []
        for i in range(4):
            if i == 2:
                text.copy_(TEXT["d"])
            doubts.append(ticked(clock, 900 - i, text=text)[2])
    assert doubts == [None, None, "another prompt or image to go by than before", None]


@pytest.mark.parametrize("value", [None, "word", 3, [TEXT["c"], None], {"a": TEXT["c"]}, torch.ones(2, device="meta")])
def test_conditions_of_any_kind(value: Any) -> None:
    clock = Clock(lambda: None, 6)
    made = [ticked(clock, 900 - i, text=value, pooled=TEXT["u"]) for i in range(3)]
    assert made == [(i, "call0", None) for i in range(3)]


def test_rows_name_the_prompts_of_their_denoisers() -> None:
    stack = resolve("model", wan_transformer())
    assert stack.condition_names == ("encoder_hidden_states", "encoder_hidden_states_image")


def tiled(order: Callable[[int], Sequence[int]]) -> Trace:
    """Two tiles with one prompt in each step, by a pipeline whose scheduler counts."""
    module, pipe = wan_transformer(), SimpleNamespace(scheduler=FlowMatchEulerDiscreteScheduler())

    def run(self: Any, tiles: list[Tensor]) -> None:
        self.scheduler.set_timesteps(4)
        for i, time in enumerate(self.scheduler.timesteps):
            made = {}
            for k in order(i):
                made[k] = self.transformer(tiles[k], time.expand(1), TEXT["c"], return_dict=False)[0]
            both = self.scheduler.step(torch.stack([made[0], made[1]]), time, torch.stack(tiles), return_dict=False)
            tiles = list(both[0].unbind(0))

    pipe.transformer = module
    with bwcache.attach(module, FixedInterval(2)) as session, torch.no_grad():
        run(pipe, [noise(1, 4, 2, 4, 4, seed=seed) for seed in (1, 2)])
    return session.trace


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_tiles_that_change_their_order_are_computed() -> None:
    """Which of them the first forward of the run was can be told only if its latents were looked at."""
    stays, changes = tiled(lambda i: (0, 1)), tiled(lambda i: (0, 1) if i % 2 == 0 else (1, 0))
    assert [event.action for event in stays.events if event.step == 1] == ["reuse"] * 2
    assert [event.reason for event in changes.events if event.step == 1] == ["latents of something else"] * 2


def test_a_host_that_names_no_branch_and_begins_again_replays_nothing_of_the_video_before() -> None:
    module = wan_transformer()

    def sample(session: bwcache.Session, seed: int, steps: int) -> None:
        latents = noise(1, 4, 2, 4, 4, seed=seed)
        for i, time in enumerate((900.0, 700.0, 500.0, 300.0)[:steps]):
            with session.step(index=i, total=4):
                latents = latents - 0.1 * module(latents, torch.tensor([time]), TEXT["c"], return_dict=False)[0]

    with bwcache.attach(module, FixedInterval(2)) as session, torch.no_grad():
        sample(session, 1, 1)
        sample(session, 2, 4)
    assert [event.reason for event in session.trace.events if event.step == 1] == ["latents of something else"]


def switched(given: Callable[[Tensor], Tensor], name: str | None = "cond", inference: bool = False) -> list[str]:
    """What was done in the steps of one branch whose prompt is another from the third step on."""
    module, latents, prompt = wan_transformer(), noise(1, 4, 2, 4, 4), TEXT["c"].clone()
    mode = torch.inference_mode() if inference else torch.no_grad()
    with bwcache.attach(module, FixedInterval(4, 1, 0), steps=4) as session, mode:
        prompt = prompt.clone()
        for i in range(4):
            if i == 2:
                prompt.copy_(TEXT["d"])
            with session.step(branch=name):
                module(latents, torch.tensor([900.0 - 50 * i]), given(prompt), return_dict=False)
    return [event.action for event in session.trace.events]


@pytest.mark.parametrize("name", ["cond", None])
@pytest.mark.parametrize(("given", "inference"), [(same, False), (same, True), (fresh, False), (fresh, True)])
def test_a_prompt_that_is_switched_on_the_way_is_computed(name: str | None, given: Any, inference: bool) -> None:
    assert switched(given, name, inference)[:3] == ["compute", "reuse", "compute"]


class OfAnotherKind(Tensor):
    """A tensor of somebody else's kind."""


def test_prompts_of_another_kind_of_tensor_are_different_unless_they_are_one() -> None:
    made: dict[str, Tensor] = {letter: text.as_subclass(OfAnotherKind) for letter, text in TEXT.items()}
    seen = loop(["uc", "cu", "uc", "ud", "uc", "cu"], FixedInterval(3, 1, 0), texts=made)
    assert not seen.wrong()
    assert "r" in seen.line("u")


def test_what_a_denoiser_works_on_is_what_its_row_names() -> None:
    """Whatever the order in which a caller names the arguments."""
    stack = resolve("model", wan_transformer())
    latents, other = noise(1, 4, 2, 4, 4), noise(1, 4, 2, 4, 4, seed=9)
    given = {"attention_kwargs": None, "something": other, "hidden_states": latents, "timestep": torch.tensor([1.0])}
    assert Call(stack, (), given).latents is latents
    assert Call(stack, (latents, torch.tensor([1.0])), {"something": other}).latents is latents
