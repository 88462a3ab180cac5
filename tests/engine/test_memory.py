"""What is kept between steps: where, how much, said in advance, and never more than is allowed."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache import BlockList, BlockSpec, BWCache
from bwcache.core.trace import reuse_line
from bwcache.engine import memory
from tests.engine.test_restore import ERRORS, abort_in_block, abort_in_callback, another_size, blocks_of, tensors_alive
from tests.engine.test_samples import BATCHED, LIVELY, batch_of
from tests.engine.test_session import TwoHalves, forward
from tests.tiny import BY_NAME, VIDEO_TO_VIDEO, WAN, Case, Scripted, each_case, noise, wan, wan_transformer

CAREFREE = BWCache(threshold=10.0, reuse_interval=2)
PREDICTORS = pytest.mark.parametrize("predictor", [bwcache.Last(), bwcache.Linear(), bwcache.Taylor(2)], ids=repr)
GUIDED = [case for case in (*map(BY_NAME.get, ("wan", "wan_two_experts")), VIDEO_TO_VIDEO) if case]


def made(case: Case, policy: Any = CAREFREE, **settings: Any) -> tuple[Tensor, bwcache.Trace]:
    with bwcache.attach(pipe := case.build(), policy, **settings) as session:
        return case.run(pipe), session.trace


# --- in main memory ---------------------------------------------------------------------------------------------------


@each_case
@PREDICTORS
def test_where_features_wait_changes_no_bit_and_no_decision(case: Case, predictor: bwcache.Predictor) -> None:
    policy = replace(CAREFREE, predictor=predictor)
    expected, here = made(case, policy)
    found, away = made(case, policy, memory="offload")
    assert here.reused > 0
    assert torch.equal(found, expected)
    assert away.events == here.events
    assert (here.meta["memory"], away.meta["memory"]) == ("device", "offload")


@each_case
@pytest.mark.parametrize("share", [None, 1])
def test_bytes_on_the_device_and_in_main_memory_are_told_apart(case: Case, share: float | None) -> None:
    policy = replace(CAREFREE, sample=share, predictor=bwcache.Linear())
    _, here = made(case, policy)
    _, away = made(case, policy, memory="offload")
    assert here.host_bytes == 0
    assert away.host_bytes == 2 * len(case.branches) * away.hidden_bytes
    assert away.peak_bytes == here.peak_bytes - away.host_bytes
    assert f"In main memory: {away.host_bytes:,} bytes" in str(away.summary())
    assert "In main memory" not in str(here.summary())


@pytest.mark.parametrize("case", BATCHED[:3], ids=lambda case: case.name)
def test_samples_that_decide_for_themselves_wait_there_too(case: Case) -> None:
    policy = replace(LIVELY, predictor=bwcache.Linear())
    call = {"num_inference_steps": 10, "output_type": "latent", "return_dict": False, **batch_of(case, 3).call}
    videos = {}
    for place in ("device", "offload"):
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
        with bwcache.attach(pipe := case.build(), policy, memory=place) as session:
            videos[place] = pipe(generator=generators, **call)[0], session.trace
    assert torch.equal(videos["device"][0], videos["offload"][0])
    assert videos["device"][1].events == videos["offload"][1].events
    assert videos["offload"][1].reuse_rate > 0


@pytest.mark.parametrize("keeps", ["output", "residual"])
def test_several_sites_and_residuals(keeps: Any) -> None:
    class Kept(TwoHalves):
        def sites(self, stack: Any) -> Any:
            return tuple(replace(site, keeps=keeps) for site in super().sites(stack))

    policy = Kept(frozenset({2, 3, 5}), bwcache.Linear())
    assert torch.equal(made(WAN, policy)[0], made(WAN, policy, memory="offload")[0])


@ERRORS
@pytest.mark.parametrize("where", ["block", "callback", "nowhere"])
@pytest.mark.parametrize("place", ["device", "offload"])
def test_everything_is_freed_when_a_run_ends(error: type[BaseException], where: str, place: str) -> None:
    """And the next one, of another size, sees nothing of it."""
    policy = replace(CAREFREE, predictor=bwcache.Linear(), sample=1)
    hidden = (1, 8, 24)
    clean = WAN.build()
    with bwcache.attach(clean, policy, memory=place):
        expected = WAN.run(clean, **another_size(WAN))
    pipe = WAN.build()
    WAN.run(pipe)
    before = tensors_alive(hidden)
    with bwcache.attach(pipe, policy, memory=place):
        if where == "block":
            abort_in_block(WAN, pipe, 2, 3, error)
        elif where == "callback":
            abort_in_callback(WAN, pipe, 3, error)
        else:
            WAN.run(pipe)
        assert tensors_alive(hidden) == before
        assert torch.equal(WAN.run(pipe, **another_size(WAN)), expected)
        assert tensors_alive(hidden) == before


def test_the_model_never_gets_what_waits() -> None:
    """It may write into what it gets, and into what it returned."""
    module = wan_transformer()
    spoilt: list[int] = []

    def spoil(called: nn.Module, args: Any) -> None:
        spoilt.append(1)
        args[0].fill_(99)

    got = []
    for place in ("device", "offload"):
        handle = module.norm_out.register_forward_pre_hook(lambda _, args: got.append(args[0].clone()))
        last = module.norm_out.register_forward_pre_hook(spoil)
        with bwcache.attach(module, Scripted(frozenset({1, 3, 4})), steps=6, memory=place):
            for i in range(6):
                forward(module, 900 - i)
        handle.remove()
        last.remove()
    assert len(spoilt) == 12
    assert all(torch.equal(a, b) for a, b in zip(got[:6], got[6:], strict=True))


# --- said in advance --------------------------------------------------------------------------------------------------


@each_case
@pytest.mark.parametrize(
    ("predictor", "share", "place"),
    [(bwcache.Last(), None, "device"), (bwcache.Linear(), 1, "device"), (bwcache.Taylor(2), 0.1, "offload")],
    ids=["last-sampled-device", "linear-exact-device", "taylor-share-offload"],
)
def test_what_will_be_kept_is_known_before_the_first_block_runs(
    case: Case, predictor: bwcache.Predictor, share: float | None, place: str
) -> None:
    pipe = case.build()
    policy = replace(CAREFREE, predictor=predictor, sample=share)
    planned: list[tuple[int, int]] = []
    with bwcache.attach(pipe, policy, memory=place) as session:
        note = lambda *_: planned.append((session.trace.planned_bytes, session.trace.planned_host_bytes))  # noqa: E731
        blocks_of(pipe)[0].register_forward_pre_hook(note)
        case.run(pipe)
        trace = session.trace
    assert planned[0] == planned[-1] == (trace.peak_bytes, trace.host_bytes)
    assert (trace.planned_bytes, trace.planned_host_bytes) == planned[0]
    assert f"planned before the first: {trace.peak_bytes:,}" in str(trace.summary())


@pytest.mark.parametrize(
    "policy",
    [
        bwcache.FlowCache(threshold=10.0, warmup=1),
        bwcache.HierarchicalLatentCache(thresholds=(1e3, 1e4)),
        bwcache.MixCache(warmup=2, low=10.0, high=10.0),
        bwcache.FasterCache(),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_what_acts_on_the_denoiser_and_on_its_blocks_is_counted_by_what_enters_each(
    policy: bwcache.Policy[Any],
) -> None:
    """Latents and hidden states go by one name in many models, and are not of one size."""
    pipe, called = WAN.build(), list[int]()
    blocks_of(pipe)[1].register_forward_pre_hook(lambda *_: called.append(1))
    with bwcache.attach(pipe, policy) as session:
        WAN.run(pipe)
    trace = session.trace
    beside = 2 * trace.hidden_bytes  # of which the branch that others are made of keeps none
    assert trace.peak_bytes <= trace.planned_bytes <= trace.peak_bytes + beside
    called.clear()
    with (
        bwcache.attach(pipe, policy, max_memory=trace.peak_bytes - 1),
        pytest.raises(bwcache.OverBudgetError),
    ):
        WAN.run(pipe)
    assert not called


def test_samples_of_predictions_are_counted_too() -> None:
    _, trace = made(WAN, bwcache.Adaptive(tolerance=1e6, predictor=bwcache.Linear()))
    _, same = made(WAN, bwcache.Adaptive(tolerance=1e6, predictor=bwcache.Linear()), max_memory=trace.peak_bytes)
    assert trace.events == same.events
    assert trace.reused > 0
    assert trace.planned_bytes == trace.peak_bytes > len(WAN.branches) * 2 * trace.hidden_bytes


def test_a_policy_that_keeps_nothing_plans_nothing() -> None:
    _, trace = made(WAN, BWCache(threshold=0), max_memory=1)
    assert (trace.planned_bytes, trace.peak_bytes) == (0, 0)
    _, trace = made(WAN, bwcache.NeverReuse(measures="default"))
    assert 0 < trace.planned_bytes == trace.peak_bytes


def test_all_entries_of_all_blocks_are_worth_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MUCH", 1024)
    with warnings.catch_warnings():
        warnings.simplefilter("error", bwcache.MuchKeptWarning)
        for policy in (CAREFREE, replace(CAREFREE, blocks=(1,), sample=1)):
            made(WAN, policy)
    for place in ("device", "offload"):
        with pytest.warns(bwcache.MuchKeptWarning, match=r"KiB of it to compare blocks by \(sample=1\)"):
            made(WAN, replace(CAREFREE, sample=1), memory=place)


# --- a limit ----------------------------------------------------------------------------------------------------------


class Calls:
    """How often blocks ran, and the most that was held at any of their calls."""

    def __init__(self, pipe: Any, session: bwcache.Session | None = None) -> None:
        self.count = self.most = 0
        self._session = session
        for block in blocks_of(pipe):
            block.register_forward_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.count += 1
        run = self._session.here.run if self._session else None
        if run is not None:
            for lane in run.lanes.values():
                lane.count_samples()
            held = run.held.device + run.held.sampled
            self.most = max(self.most, held)


@each_case
@pytest.mark.parametrize(("share", "place"), [(None, "device"), (1, "offload")])
def test_a_limit_is_kept_or_the_run_refused_before_any_block(case: Case, share: float | None, place: str) -> None:
    policy = replace(CAREFREE, predictor=bwcache.Linear(), sample=share)
    expected, trace = made(case, policy, memory=place)
    pipe = case.build()
    with bwcache.attach(pipe, policy, memory=place, max_memory=trace.peak_bytes) as session:
        calls = Calls(pipe, session)
        assert torch.equal(case.run(pipe), expected)
        assert session.trace.events == trace.events
        assert 0 < calls.most <= trace.peak_bytes
        assert session.trace.meta["max_memory"] == trace.peak_bytes

    pipe, hidden = case.build(), tensors_alive((1, 8, 24))
    calls = Calls(pipe)
    with bwcache.attach(pipe, policy, memory=place, max_memory=trace.peak_bytes - 1) as session:
        for _ in range(2):
            with pytest.raises(bwcache.OverBudgetError, match=r"found a run that would keep .*; expected at most .*; "):
                case.run(pipe)
        assert calls.count == 0
        assert tensors_alive((1, 8, 24)) == hidden
    case.run(pipe)
    assert calls.count > 0


@pytest.mark.parametrize(
    ("settings", "place", "advice"),
    [
        ({}, "device", ['memory="offload"']),
        ({"predictor": bwcache.Linear()}, "device", ['memory="offload"', "predictor Last()"]),
        ({"sample": 1}, "device", ["sample=None", 'memory="offload"']),
        ({"sample": 1}, "offload", ["sample=None"]),
        ({"predictor": bwcache.Linear()}, "offload", []),
    ],
)
def test_the_refusal_says_what_would_help(settings: dict[str, Any], place: str, advice: list[str]) -> None:
    with pytest.raises(bwcache.OverBudgetError) as refused:
        made(WAN, replace(CAREFREE, **settings), memory=place, max_memory=100)
    everything = ["sample=None", 'memory="offload"', "predictor Last()", "make fewer frames"]
    assert [words for words in everything if words in str(refused.value)] == [*advice, "make fewer frames"]


@pytest.mark.parametrize("case", GUIDED, ids=lambda case: case.name)
def test_guidance_in_two_forwards_is_counted_before_the_second(case: Case) -> None:
    """One branch would fit, and so it does where nothing is guided."""
    _, trace = made(case)
    budget = int(trace.peak_bytes * 0.75)
    pipe = case.build()
    calls = Calls(pipe)
    with bwcache.attach(pipe, CAREFREE, max_memory=budget) as session:
        with pytest.raises(bwcache.OverBudgetError):
            case.run(pipe)
        assert calls.count == 0
        case.run(pipe, guidance_scale=1.0)
        assert session.trace.reused > 0
        assert session.trace.peak_bytes <= budget


def stepped(module: nn.Module, branches: list[int]) -> None:
    """A run of a bare module with so many guidance branches in each step."""
    for step, count in enumerate(branches):
        for _ in range(count):
            forward(module, 900 - step)


def limit_for_one(module: nn.Module, policy: Any) -> int:
    with bwcache.attach(module, policy, steps=6) as session:
        stepped(module, [1] * 6)
    return session.trace.peak_bytes


def test_a_second_branch_that_nobody_announced_is_refused_in_the_first_step() -> None:
    module, policy = wan_transformer(), Scripted(frozenset({2, 3, 4}))
    with (
        bwcache.attach(module, policy, steps=6, max_memory=limit_for_one(module, policy)),
        pytest.raises(bwcache.OverBudgetError),
    ):
        stepped(module, [2] * 6)


@pytest.mark.parametrize("place", ["device", "offload"])
def test_a_branch_that_comes_later_and_does_not_fit_is_computed_and_not_kept(place: str) -> None:
    module, policy = wan_transformer(), Scripted(frozenset({2, 3, 4}))
    with bwcache.attach(module, policy, steps=6, memory=place) as session:
        stepped(module, [1] * 6)
    limit = session.trace.peak_bytes
    with bwcache.attach(module, policy, steps=6, memory=place, max_memory=limit) as session:
        stepped(module, [1, 2, 2, 2, 2, 2])
    trace = session.trace
    assert trace.peak_bytes <= limit
    lines = {name: reuse_line(e for e in trace.events if e.branch == name) for name in ("call0", "call1")}
    assert lines == {"call0": "CCrrrC", "call1": "CCCCC"}
    assert {e.reason.split(" (")[0] for e in trace.events if e.branch == "call1"} == {"over max_memory"}


class Doubles(nn.Module):
    """A block that may return more tokens than it takes in."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.cat([hidden_states.sin()] * self.times, dim=1)


class Growing(nn.Module):
    """A denoiser whose last block returns twice what entered the first."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Doubles(1), Doubles(1), Doubles(2)])

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        made = hidden_states
        for block in self.blocks:
            made = block(made)
        return made[:, : hidden_states.shape[1]] + timestep


def grown(lengths: list[int], limit: int | None = None, place: str = "device") -> bwcache.Trace:
    """The trace of a run whose steps have so many tokens of 64 bytes."""
    row = BlockSpec("Growing", (BlockList("blocks", outlined=True),))
    module = Growing()
    policy = Scripted(frozenset({1, 2, 4}))
    with bwcache.attach(module, policy, steps=6, spec=row, memory=place, max_memory=limit) as session, torch.no_grad():
        for step, tokens in enumerate(lengths):
            module(noise(1, tokens, 16), torch.tensor([900.0 - step]))
    return session.trace


def test_a_stack_that_returns_more_than_enters_it_is_held_to_the_limit_too() -> None:
    trace = grown([40] * 6)
    assert reuse_line(trace.events) == "CrrCrC"
    feature = 2 * 40 * 64
    assert trace.peak_bytes > feature > trace.planned_bytes
    assert grown([40] * 6, limit=trace.peak_bytes).events == trace.events
    for limit in (trace.planned_bytes, feature, trace.peak_bytes - 1):
        with pytest.raises(bwcache.OverBudgetError):
            grown([40] * 6, limit=limit)
    assert grown([40] * 6, limit=trace.planned_bytes, place="offload").events == trace.events


def test_features_that_grow_within_a_run_are_dropped_where_they_do_not_fit() -> None:
    limit = grown([40] * 6).peak_bytes
    trace = grown([40, 40, 40, 80, 80, 80], limit=limit)
    assert reuse_line(trace.events) == "CrrCCC"
    assert trace.peak_bytes <= limit
    assert [event.reason.split(" (")[0] for event in trace.events][4:] == ["over max_memory"] * 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"memory": "host"}, "memory 'host'"), ({"max_memory": "lots"}, "'lots'"), ({"max_memory": 0}, "0 as an amount")],
)
def test_a_setting_that_is_none_is_refused_and_nothing_attached(settings: dict[str, Any], named: str) -> None:
    pipe = WAN.build()
    with pytest.raises(bwcache.SettingError, match=named):
        bwcache.attach(pipe, **settings)
    bwcache.attach(pipe).close()


@pytest.mark.parametrize("longest", [1, 3])
def test_looks_at_several_steps_before_are_planned_for(longest: int) -> None:
    pipe = wan()
    with bwcache.attach(pipe, bwcache.SmoothCache.measuring(longest)) as session:
        WAN.run(pipe)
    trace = session.trace
    assert trace.planned_bytes == trace.peak_bytes > 0
