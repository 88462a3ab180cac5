"""Sites at the denoiser, at runs of blocks, blocks and parts, within each other; what each keeps, and from where."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache import BlockStack, Decision, Observation, Policy, Site, Tap, check, compute, reuse
from bwcache.features import All
from bwcache.models import resolve
from tests.engine.test_living_session import steps_of
from tests.tiny import wan_transformer

STEPS = 8


@dataclass(frozen=True)
class Placed(Policy[dict[str, int]]):
    """Reuses each site in the steps that are written for it; counts what it is asked and told."""

    where: Callable[[BlockStack], tuple[Site, ...]]
    written: Callable[[str, int], bool] = lambda site, step: step in (2, 3, 5)
    tapped: Callable[[BlockStack], tuple[Tap, ...]] = lambda stack: ()
    seen: list[Observation] = field(default_factory=list, compare=False)
    told: list[Observation] = field(default_factory=list, compare=False)

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        return self.where(stack)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        return self.tapped(stack)

    def init(self) -> dict[str, int]:
        return {}

    def decide(self, observation: Observation, state: dict[str, int]) -> Decision:
        self.seen.append(observation)
        assert observation.site in state  # every decision follows a computation that was told of
        return reuse("written") if self.written(observation.site, observation.step.index) else compute("written")

    def refresh(self, observation: Observation, state: dict[str, int]) -> None:
        self.told.append(observation)
        state[observation.site] = observation.step.index


def each_block(stack: BlockStack) -> tuple[Site, ...]:
    return tuple(stack.site(block) for block in stack.blocks)


def brute(modules: Callable[[Any], list[nn.Module]], written: Callable[[int, int], bool]) -> list[Tensor]:
    """The same by hooks that know nothing of the engine: each module's last computed output, or it runs."""
    module, kept, step = wan_transformer(), dict[int, Any](), [0]
    for i, part in enumerate(modules(module)):
        run = part.forward

        def forward(*args: Any, i: int = i, run: Any = run, **kwargs: Any) -> Any:
            if i not in kept or not written(i, step[0]):
                kept[i] = run(*args, **kwargs).clone()
            return kept[i].clone()

        part.forward = forward
    return steps_of(module, STEPS, lambda at: step.__setitem__(0, at))


def made(policy: Policy[Any]) -> tuple[list[Tensor], bwcache.Trace]:
    module = wan_transformer()
    with bwcache.attach(module, policy, steps=STEPS) as session:
        return steps_of(module, STEPS), session.trace


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def test_every_block_for_itself_at_steps_of_its_own() -> None:
    def written(site: str, step: int) -> bool:
        return (step + int(site[-1])) % 3 != 0

    policy = Placed(each_block, written)
    found, trace = made(policy)
    assert equal(
        found, brute(lambda module: list(module.blocks.children()), lambda i, step: step > 0 and (step + i) % 3 != 0)
    )
    assert len(trace.events) == STEPS * 4
    assert {observation.site for observation in policy.seen} == {f"blocks.{i}" for i in range(4)}
    assert {observation.site for observation in policy.told} == {f"blocks.{i}" for i in range(4)}


def test_a_hidden_state_is_that_of_one_site_however_many_there_are() -> None:
    _, whole = made(Placed(lambda stack: (stack.whole(),)))
    _, each = made(Placed(each_block))
    assert each.hidden_bytes == whole.hidden_bytes == whole.peak_bytes > 0
    assert each.peak_bytes == 4 * whole.peak_bytes
    assert "4.00 hidden states" in str(each.summary())


def calls_of_a_step(blocks: int, **settings: Any) -> int:
    """How many functions of the package run in a computed step in which each block is a site."""
    module, counted = wan_transformer(layers=blocks), [0]

    def count(frame: Any, event: str, _argument: object) -> None:
        counted[0] += event == "call" and frame.f_globals.get("__name__", "").startswith("bwcache.")

    before = sys.getprofile()
    with bwcache.attach(module, Placed(each_block, lambda site, step: step == 6), steps=STEPS, **settings):
        try:
            steps_of(module, STEPS, lambda i: sys.setprofile(count if i == 5 else before))
        finally:
            sys.setprofile(before)
    return counted[0]


@pytest.mark.parametrize("settings", [{}, {"max_memory": "1GiB"}, {"memory": "offload"}], ids=str)
def test_what_a_site_costs_does_not_grow_with_their_number(settings: dict[str, Any]) -> None:
    """Its bytes are counted as it is kept; none goes over all the others."""
    few, some, many = (calls_of_a_step(blocks, **settings) for blocks in (4, 8, 16))
    assert some > few
    assert many - some == 2 * (some - few)


@pytest.mark.parametrize("kind", ["self", "cross", "ffn"])
def test_parts_of_a_kind(kind: str) -> None:
    found, trace = made(Placed(lambda stack: tuple(stack.site(part) for part in stack.parts(kind))))
    name = {"self": "attn1", "cross": "attn2", "ffn": "ffn"}[kind]
    assert equal(
        found,
        brute(lambda module: [getattr(block, name) for block in module.blocks], lambda i, step: step in (2, 3, 5)),
    )
    assert len(trace.events) == STEPS * 4


def test_the_denoiser_itself() -> None:
    module = wan_transformer()
    ran: list[int] = []
    module.blocks[0].register_forward_hook(lambda *_: ran.append(1))
    policy = Placed(lambda stack: (stack.site(stack.root),))
    with bwcache.attach(module, policy, steps=STEPS) as session:
        found = steps_of(module, STEPS)
    assert [step for step in range(STEPS) if torch.equal(found[step], found[step - 1])] == [2, 3, 5]
    assert len(ran) == STEPS - 3
    assert [event.site for event in session.trace.events] == ["model/root"] * STEPS


def test_what_the_denoiser_returns_is_put_together_again() -> None:
    module = wan_transformer()
    with bwcache.attach(module, Placed(lambda stack: (stack.site(stack.root),)), steps=STEPS), torch.no_grad():
        for i in range(4):
            output = module(torch.ones(1, 4, 2, 4, 4) * i, torch.tensor([1000.0 - i]), torch.ones(1, 6, 8))
            assert type(output).__name__ == "Transformer2DModelOutput"
            assert output.sample.shape == (1, 4, 2, 4, 4)


def test_a_residual_of_the_denoiser_is_added_to_the_latents_of_now() -> None:
    found, _ = made(Placed(lambda stack: (stack.site(stack.root, keeps="residual"),)))
    drift = 0.01  # by which the latents of `steps_of` move in each step
    torch.testing.assert_close(found[2], found[1] + drift)
    torch.testing.assert_close(found[3], found[1] + 2 * drift)


@pytest.mark.parametrize(("entering", "leaving"), [(4, 4), (4, 6), (6, 4)])
def test_a_residual_where_more_channels_leave_than_enter_or_less(entering: int, leaving: int) -> None:
    class Channels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Identity()])

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return self.blocks[0](torch.cat((x, x), 1)[:, :leaving] * 3)

    row = bwcache.BlockSpec("Channels", (bwcache.BlockList("blocks", ("input",)),), ("input",), "input", latents="x")
    policy = Placed(lambda stack: (stack.site(stack.root, keeps="residual"),), lambda site, step: step == 1)
    module = Channels()
    with bwcache.attach(module, policy, spec=row, steps=3), torch.no_grad():
        module(torch.ones(1, entering, 2, 2), torch.tensor(2.0))
        again = module(torch.full((1, entering, 2, 2), 9.0), torch.tensor(1.0))
    shared = min(entering, leaving)
    assert again[:, :shared].unique().tolist() == [2 + 9]  # what it added to the latents, to those of now
    assert again[:, shared:].unique().tolist() == [3] * (leaving > shared)


def test_a_site_within_a_reused_one_is_not_asked() -> None:
    def nested(stack: BlockStack) -> tuple[Site, ...]:
        return (*each_block(stack), stack.whole())

    policy = Placed(nested, lambda site, step: step in ((2, 3) if site == "stack" else (3, 4, 6)))
    _, trace = made(policy)
    assert len(trace.events) == STEPS * 5
    by_step = {step: [event for event in trace.events if event.step == step] for step in range(STEPS)}
    assert {event.reason for event in by_step[3] if event.site != "model/stack"} == {"lies in a reused site"}
    assert [event.action for event in by_step[4]] == ["compute", *["reuse"] * 4]
    assert not [o for o in policy.seen if o.step.index in (2, 3) and o.site != "stack"]


@pytest.mark.parametrize("first", [1, 2])
def test_a_residual_since_an_earlier_place(first: int) -> None:
    """DiCache's: what the first blocks make is looked at and thrown away, and the whole stack's residual is added."""

    def probing(since: bool) -> Callable[[BlockStack], tuple[Site, ...]]:
        return lambda stack: (
            stack.site(
                stack.blocks[first], stack.blocks[-1], keeps="residual", since=stack.blocks[0] if since else None
            ),
        )

    whole, _ = made(Placed(lambda stack: (stack.whole("residual"),)))
    since, _ = made(Placed(probing(True)))
    own, _ = made(Placed(probing(False)))
    for one, other in zip(since, whole, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(own[2], whole[2])


class Overwriting(nn.Module):
    """A block that writes into what enters it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(1.5)


class Row(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Overwriting(), Overwriting()])

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = x + 1
        for block in self.blocks:
            x = block(x)
        return x


def test_a_residual_of_a_block_that_writes_into_what_enters_it() -> None:
    row = bwcache.BlockSpec("Row", (bwcache.BlockList("blocks", ("x",)),), read_after=("x",), measured="x", latents="x")
    policy = Placed(lambda stack: (stack.whole("residual"),), lambda site, step: step == 1)
    module = Row()
    with bwcache.attach(module, policy, spec=row, steps=3), torch.no_grad():
        first = module(torch.zeros(1, 4, 2), torch.tensor(2.0))
        again = module(torch.full((1, 4, 2), 9.0), torch.tensor(1.0))
    assert first.unique().tolist() == [2.25]
    assert again.unique().tolist() == [10 + 1.25]


def test_a_check_runs_and_keeps_nothing() -> None:
    @dataclass(frozen=True)
    class Checking(Placed):
        def decide(self, observation: Observation, state: dict[str, int]) -> Decision:
            return check("looked at") if observation.step.index == 3 else super().decide(observation, state)

    policy = Checking(lambda stack: (stack.whole(),), lambda site, step: step in (4, 5))
    read: dict[str, list[Tensor]] = {"plain": [], "checked": []}
    module = wan_transformer()
    with module.norm_out.register_forward_pre_hook(lambda m, args: read["plain"].append(args[0].clone())):
        steps_of(module, STEPS)
    with (
        module.norm_out.register_forward_pre_hook(lambda m, args: read["checked"].append(args[0].clone())),
        bwcache.attach(module, policy, steps=STEPS) as session,
    ):
        steps_of(module, STEPS)
    trace, plain, checked = session.trace, read["plain"], read["checked"]
    assert equal(checked[:4], plain[:4])
    assert torch.equal(checked[4], plain[2])
    assert torch.equal(checked[5], plain[2])
    assert [event.action for event in trace.events][3] == "check"
    error = (plain[3] - plain[2]).abs().sum() / plain[3].abs().sum()
    assert trace.events[3].error == pytest.approx(float(error), rel=1e-3)


def test_the_number_that_a_decision_rests_on_is_in_its_row() -> None:
    @dataclass(frozen=True)
    class Counting(Placed):
        def decide(self, observation: Observation, state: dict[str, int]) -> Decision:
            return replace(super().decide(observation, state), value=observation.step.index / 10)

    _, trace = made(Counting(lambda stack: (stack.whole(),)))
    assert [event.value for event in trace.events] == [None, *(i / 10 for i in range(1, STEPS))]


def test_how_a_feature_is_made_may_be_said_by_the_decision() -> None:
    @dataclass(frozen=True)
    class Saying(Placed):
        @property
        def feature_predictor(self) -> bwcache.Predictor:
            return bwcache.Linear()

        def decide(self, observation: Observation, state: dict[str, int]) -> Decision:
            found = super().decide(observation, state)
            how = bwcache.Along(0.0) if observation.step.index == 3 else None
            return reuse("written", how=how) if found.reuses else found

    found, _ = made(Saying(lambda stack: (stack.whole(),)))
    lines, _ = made(bwcache.StepList((0, 1, 4, 6, 7), bwcache.Linear()))
    replays, _ = made(bwcache.StepList((0, 1, 4, 6, 7)))
    assert torch.equal(found[2], lines[2])
    assert torch.equal(found[3], replays[3])
    assert not torch.equal(lines[3], replays[3])


def test_each_tap_keeps_its_own_past_and_looks_where_and_how_it_is_told() -> None:
    def tapped(stack: BlockStack) -> tuple[Tap, ...]:
        return (
            stack.tap(0),
            stack.tap(0, end="in", view=All(), against="step"),
            stack.tap(stack.root, end="in", view=All(), against="step", lags=(1, 2)),
            stack.tap(3, end="residual", view=All(), indicator=bwcache.features.squared),
        )

    policy = Placed(lambda stack: (stack.whole(),), tapped=tapped)
    made(policy)
    told = {observation.step.index: observation.last for observation in policy.told}
    module, entered, left = wan_transformer(), [], []
    module.blocks[3].register_forward_pre_hook(lambda m, args: entered.append(args[0].clone()))
    module.blocks[3].register_forward_hook(lambda m, args, output: left.append(output.clone()))
    steps_of(module, STEPS)
    last = told[4]
    assert last is not None
    residual = [b - a for a, b in zip(entered, left, strict=True)]
    assert last[4] == pytest.approx(float((residual[4] - residual[1]).square().mean()), rel=1e-4)
    assert last[2] == pytest.approx(last[3] / 2, rel=1e-3)  # the latents move by the same in each step, reused or not


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        (
            lambda stack: (stack.site(stack.blocks[0], stack.blocks[2]), stack.site(stack.blocks[1], stack.blocks[3])),
            "cross",
        ),
        (lambda stack: (stack.whole(), stack.whole()), "cross"),
        (lambda stack: (stack.site(stack.parts("self")[0], stack.parts("ffn")[0]),), "one place, or a run of blocks"),
        (lambda stack: (stack.site(stack.root, keeps="beside"),), "a branch to stand beside"),
        (lambda stack: (stack.site(stack.root, beside="cond"),), "a branch to stand beside"),
    ],
)
def test_sites_that_cannot_be_are_refused(sites: Callable[[BlockStack], tuple[Site, ...]], said: str) -> None:
    with pytest.raises(bwcache.AttachError, match=said):
        bwcache.attach(wan_transformer(), Placed(sites))


def test_places_have_names() -> None:
    stack = resolve("transformer", wan_transformer())
    assert stack.root.name == "root"
    assert [part.name for part in stack.parts()][:3] == ["blocks.0.attn1", "blocks.0.attn2", "blocks.0.ffn"]
