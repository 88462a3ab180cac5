"""A session that lives: it goes over to another policy, is told of changes, stopped, watched and replaced."""

import pickle
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from time import sleep
from typing import Any

import pytest
import torch

import bwcache
from bwcache import Adaptive, BWCache, FixedInterval, Linear
from bwcache.core.trace import reuse_line
from bwcache.engine.denoiser import Denoiser
from tests.engine.test_restore import snapshot
from tests.tiny import VIDEO_TO_VIDEO, WAN, Scripted, noise, wan, wan_transformer

CAREFREE = BWCache(threshold=10.0, reuse_interval=2)


def rows(trace: bwcache.Trace) -> list[bwcache.Event]:
    """Its rows, whichever run of its session it was."""
    return [replace(event, run=0) for event in trace.events]


def steps_of(module: Any, count: int, pause: Any = None) -> list[torch.Tensor]:
    """Forwards of a bare module, on latents that move."""
    made = []
    for i in range(count):
        if pause is not None:
            pause(i)
        latents = noise(1, 4, 2, 4, 4) + 0.01 * i
        with torch.no_grad():
            made.append(module(latents, torch.tensor([1000.0 - 50 * i]), noise(1, 6, 8, seed=1), return_dict=False)[0])
    return made


# --- another policy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [Adaptive(10.0, warmup=0.0), FixedInterval(3, predictor=Linear()), BWCache(0.0)], ids=repr
)
def test_another_policy_takes_over_with_the_next_run(other: bwcache.Policy[Any]) -> None:
    pipe = wan()
    with bwcache.attach(pipe, other) as alone:
        expected = WAN.run(pipe)
    before = snapshot(pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        first = WAN.run(pipe)
        session.use(other)
        assert session.policy == other
        assert torch.equal(WAN.run(pipe), expected)
        session.use(CAREFREE)
        assert torch.equal(WAN.run(pipe), first)
    assert rows(session.traces[1]) == rows(alone.trace)
    assert [trace.meta["policy"]["name"] for trace in session.traces] == ["BWCache", type(other).__name__, "BWCache"]
    assert snapshot(pipe) == before


def test_another_policy_in_the_middle_of_a_run_waits_for_its_end() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE, steps=8) as session:
        steps_of(module, 8, lambda i: session.use(FixedInterval(4)) if i == 3 else None)
        steps_of(module, 8)
    assert [reuse_line(trace.events) for trace in session.traces] == ["CCrrCrrC", "CrrrCrrC"]


def test_a_policy_that_does_not_fit_is_refused_and_the_old_one_stays() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE, steps=8) as session:
        with pytest.raises(bwcache.SettingError, match="blocks 99"):
            session.use(BWCache(blocks=(99,)))
        steps_of(module, 8)
        with pytest.raises(AttributeError):
            session.policy = FixedInterval(2)  # type: ignore[misc]
    assert session.trace.meta["policy"]["name"] == "BWCache"


# --- what changes in the middle ---------------------------------------------------------------------------------------


def test_what_was_kept_is_not_used_once_it_is_said_to_be_stale() -> None:
    module = wan_transformer()
    with bwcache.attach(module, Scripted(frozenset(range(1, 8))), steps=8) as session:
        steps_of(module, 8, lambda i: session.invalidate() if i in (3, 5) else None)
    assert reuse_line(session.trace.events) == "CrrCrCrr"
    assert session.trace.events[3].reason.startswith("nothing kept to reuse")


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_what_is_measured_after_forgetting_is_held_against_nothing_of_before() -> None:
    module = wan_transformer()
    with bwcache.attach(module, BWCache(threshold=1e-9, tail_guard=0), steps=8) as session:
        steps_of(module, 8, lambda i: session.invalidate() if i == 4 else None)
        measured = [event.indicator is not None for event in session.trace.events]
    assert measured == [False, True, True, True, False, True, True, True]


def test_what_a_forward_under_way_makes_is_not_kept_once_all_is_forgotten() -> None:
    module = wan_transformer()
    with bwcache.attach(module, Scripted(frozenset(range(1, 8))), steps=8) as session:
        hook = module.blocks[1].register_forward_hook(lambda *_: session.invalidate())  # before the last block
        steps_of(module, 1)
        hook.remove()
        assert not [lane for run in session._runs for lane in run.lanes.values() if lane.slots]


def test_without_a_total_what_needs_none_is_reused() -> None:
    module = wan_transformer()
    with bwcache.attach(module, Scripted(frozenset({1, 3}))) as session:
        steps_of(module, 5)
    assert {event.total for event in session.trace.events} == {None}
    assert reuse_line(session.trace.events) == "CrCrC"


def test_a_stopped_pipeline_ends_its_loop_and_the_next_video_is_whole() -> None:
    pipe = wan()
    with bwcache.attach(pipe, CAREFREE) as session:
        expected = WAN.run(pipe)
        seen: list[int] = []

        def watch(event: bwcache.Event) -> None:
            seen.append(event.step)
            if event.step == 3:
                session.stop()

        stop = session.on_step(watch)
        WAN.run(pipe)
        stop()
        assert torch.equal(WAN.run(pipe), expected)
    assert [trace.steps for trace in session.traces] == [10, 4, 10]
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_stopped_module_raises_at_its_next_forward_and_only_there() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE, steps=8) as session:
        expected = steps_of(module, 8)
        with pytest.raises(bwcache.RunStoppedError, match="expected nothing"):
            steps_of(module, 8, lambda i: session.stop() if i == 4 else None)
        for made, wanted in zip(steps_of(module, 8), expected, strict=True):
            assert torch.equal(made, wanted)
    assert [trace.steps for trace in session.traces] == [8, 4, 8]


def test_what_a_listener_raises_ends_the_run_and_reaches_the_caller() -> None:
    pipe = wan()
    WAN.run(pipe)
    before = snapshot(pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        expected = WAN.run(pipe)

        def fails(event: bwcache.Event) -> None:
            if event.step == 3:
                raise LookupError("no listener")

        stop = session.on_step(fails)
        with pytest.raises(LookupError, match="no listener"):
            WAN.run(pipe)
        assert session.here.run is None
        assert session.traces[-1].steps == 4
        stop()
        assert torch.equal(WAN.run(pipe), expected)
    assert [trace.steps for trace in session.traces] == [10, 4, 10]
    assert snapshot(pipe) == before


def test_what_on_trace_raises_leaves_nothing_attached() -> None:
    def fails(trace: bwcache.Trace) -> None:
        raise LookupError(f"no room for {trace.steps} steps")

    module = wan_transformer()
    before = set(vars(module))
    session = bwcache.attach(module, CAREFREE, steps=8, on_trace=fails)
    steps_of(module, 8)
    with pytest.raises(LookupError, match="no room for 8 steps"):
        session.close()
    assert set(vars(module)) == before
    assert session.denoisers == {}
    assert not session.is_of(module)
    assert session.trace.steps == 8
    session.close()


# --- looking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", [CAREFREE, Adaptive(10.0, warmup=0.0), FixedInterval(3, predictor=bwcache.Damped())], ids=repr
)
def test_looking_at_a_run_in_progress_changes_nothing(policy: bwcache.Policy[Any]) -> None:
    pipe = wan()
    with bwcache.attach(pipe, policy) as session:
        expected = WAN.run(pipe)
        looks: list[int] = []
        session.on_step(lambda event: looks.append(session.trace.summary().steps))
        assert torch.equal(WAN.run(pipe), expected)
    assert rows(session.traces[0]) == rows(session.traces[1])
    assert looks == sorted(looks)
    assert len(looks) == 20


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_what_a_listener_was_told_is_completed_when_the_numbers_are_there() -> None:
    module = wan_transformer()
    told: list[tuple[bwcache.Event, float | None]] = []
    with bwcache.attach(module, BWCache(threshold=1e-9), steps=4) as session:
        session.on_step(lambda event: told.append((event, event.indicator)))
        steps_of(module, 4)
    assert [indicator for _, indicator in told] == [None] * 4
    assert [event.indicator is None for event, _ in told] == [True, False, False, False]
    assert [event for event, _ in told] == session.trace.events


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_a_run_in_progress_shows_what_it_measured() -> None:
    module = wan_transformer()
    indicators: list[float | None] = []
    with bwcache.attach(module, BWCache(threshold=1e-9), steps=4) as session:
        steps_of(module, 4, lambda i: indicators.append(session.trace.events[-1].indicator) if i else None)
    found = [event.indicator for event in session.trace.events]
    assert indicators == found[:-1]
    assert found[1] is not None


# --- traces -----------------------------------------------------------------------------------------------------------


def test_traces_are_handed_on_and_no_more_are_held_than_asked_for() -> None:
    pipe, handed = wan(), []
    with bwcache.attach(pipe, CAREFREE, keep_traces=2, on_trace=handed.append) as session:
        for _ in range(4):
            WAN.run(pipe)
        assert session.traces == handed[2:]
        session.clear_traces()
        assert session.traces == []
    assert len(handed) == 4


@pytest.mark.parametrize("keep", [-1, 1.5, "all", True])
def test_how_many_traces_are_held_is_checked(keep: Any) -> None:
    with pytest.raises(bwcache.SettingError, match="keep_traces"):
        bwcache.attach(wan(), CAREFREE, keep_traces=keep)


def test_a_session_is_not_pickled_and_says_what_is() -> None:
    with bwcache.attach(wan(), CAREFREE) as session, pytest.raises(bwcache.BWCacheError, match=r"session.trace"):
        pickle.dumps(session)


# --- replaced ---------------------------------------------------------------------------------------------------------


def test_enabling_twice_replaces_where_that_is_said() -> None:
    pipe = wan()
    WAN.run(pipe)
    before = snapshot(pipe)
    first = bwcache.enable(pipe, CAREFREE)
    with pytest.raises(bwcache.AlreadyAttachedError, match="replace=True"):
        bwcache.enable(pipe, FixedInterval(3))
    second = bwcache.enable(pipe, FixedInterval(3), replace=True)
    WAN.run(pipe)
    assert second.trace.steps == 10
    with pytest.raises(bwcache.BWCacheError, match="no run"):
        _ = first.trace
    bwcache.disable(pipe)
    assert snapshot(pipe) == before
    bwcache.enable(pipe, CAREFREE, replace=True)
    bwcache.disable(pipe)


def test_a_component_put_in_place_of_another_is_told_and_can_be_left() -> None:
    pipe, other = wan(), wan_transformer()
    bwcache.enable(pipe, CAREFREE)
    pipe.transformer = other
    with pytest.warns(
        bwcache.NeverReusedWarning, match=r"another module than the session was attached to.*replace=True"
    ):
        WAN.run(pipe)
    session = bwcache.enable(pipe, CAREFREE, replace=True)
    WAN.run(pipe)
    assert session.trace.reused > 0
    bwcache.disable(pipe)


def test_who_replaced_a_component_can_still_leave() -> None:
    pipe = wan()
    held = pipe.transformer
    before = snapshot(held)
    bwcache.enable(pipe, CAREFREE)
    assert snapshot(held) != before
    pipe.transformer = wan_transformer()
    bwcache.disable(pipe)
    assert snapshot(held) == before
    with pytest.raises(bwcache.AttachError, match="no session at this WanPipeline"):
        bwcache.disable(pipe)


def test_no_policy_is_refused_before_anything_is_touched() -> None:
    with pytest.raises(bwcache.SettingError, match=r"the method of this name is bwcache\.BWCache\(…\)"):
        bwcache.attach(wan(), "bwcache")
    with pytest.raises(bwcache.SettingError, match="found 3 as a policy"):
        bwcache.attach(wan(), 3)  # type: ignore[arg-type]


# --- forwards within forwards, and beside each other ------------------------------------------------------------------


def test_a_hook_that_calls_the_denoiser_again_makes_no_step() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE, steps=8) as session:
        expected = steps_of(module, 8)
        again: list[torch.Tensor] = []

        def once_more(called: Any, args: Any, output: Any) -> None:
            if len(again) % 2 == 0:
                again.append(torch.empty(0))
                again.append(called(*args, return_dict=False)[0])

        with module.register_forward_hook(once_more):
            for made, wanted in zip(steps_of(module, 8), expected, strict=True):
                assert torch.equal(made, wanted)
    assert [reuse_line(trace.events) for trace in session.traces] == ["CCrrCrrC"] * 2
    plain = steps_of(module, 8)
    assert all(torch.equal(one, wanted) for one, wanted in zip(again[1::2], plain, strict=True))


def test_two_threads_with_one_model_know_nothing_of_each_other() -> None:
    module = wan_transformer()
    meet = threading.Barrier(2, timeout=60)
    with bwcache.attach(module, Scripted(frozenset({2, 3, 5})), steps=8) as session:
        expected = steps_of(module, 8)
        made: dict[int, list[torch.Tensor]] = {}

        def work(which: int) -> None:
            made[which] = steps_of(module, 8, lambda i: meet.wait())

        threads = [threading.Thread(target=work, args=(which,), daemon=True) for which in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
    for which in range(2):
        assert all(torch.equal(one, wanted) for one, wanted in zip(made[which], expected, strict=True))
    assert [reuse_line(trace.events) for trace in session.traces] == ["CCrrCrCC"] * 3


def test_threads_that_begin_together_take_up_another_policy_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes its time here is what every first forward does after `use`: making a plan, and putting it in place."""
    module, before = wan_transformer(), threading.Barrier(2, timeout=60)
    begun, plan_for = snapshot(module), Denoiser.plan_for

    def slowly(self: Denoiser, policy: bwcache.Policy[Any]) -> None:
        sleep(0.2)
        plan_for(self, policy)
        sleep(0.2)

    monkeypatch.setattr(Denoiser, "plan_for", slowly)
    with bwcache.attach(module, bwcache.NeverReuse(), steps=4) as session:
        session.use(bwcache.BWCache(10.0, 2, 0.0))

        def work() -> None:
            before.wait()
            steps_of(module, 4)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        session.end_run()
    assert snapshot(module) == begun
    assert [reuse_line(trace.events) for trace in session.traces] == ["CCrr"] * 2


def test_a_run_whose_thread_is_gone_is_handed_on_once() -> None:
    told: list[bwcache.Trace] = []
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE, steps=4, on_trace=told.append) as session:
        gone = threading.Thread(target=steps_of_one, args=(module, 0))
        gone.start()
        gone.join()
        (run,) = session._runs
        ends = [threading.Thread(target=session._finish, args=(run,)) for _ in range(8)]
        for thread in ends:
            thread.start()
        for thread in ends:
            thread.join()
    assert len(told) == 1


# --- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [CAREFREE, BWCache(10.0, 2, sample=1), Adaptive(10.0, warmup=0.0)], ids=repr)
@pytest.mark.parametrize("first", ["inference", "no grad"])
def test_a_run_may_go_over_from_one_mode_to_the_other(policy: bwcache.Policy[Any], first: str) -> None:
    module = wan_transformer()
    with bwcache.attach(module, policy, steps=8) as session:
        expected = steps_of(module, 8)
        for i in range(8):
            with torch.inference_mode((i < 4) == (first == "inference")), torch.no_grad():
                latents = noise(1, 4, 2, 4, 4) + 0.01 * i
                made = module(latents, torch.tensor([1000.0 - 50 * i]), noise(1, 6, 8, seed=1), return_dict=False)[0]
            assert torch.equal(made, expected[i])
    one, two = session.traces
    assert reuse_line(one.events) == reuse_line(two.events)


def test_what_was_made_under_autocast_is_not_replayed_outside_of_it() -> None:
    module = wan_transformer()
    with bwcache.attach(module, Scripted(frozenset(range(1, 8))), steps=8) as session:
        for i in range(8):
            with torch.autocast("cpu", torch.bfloat16, enabled=i < 4):
                steps_of_one(module, i)
    assert reuse_line(session.trace.events) == "CrrrCrrr"
    assert session.trace.events[4].reason.startswith("another shape, dtype or device")


def steps_of_one(module: Any, i: int) -> None:
    with torch.no_grad():
        module(noise(1, 4, 2, 4, 4), torch.tensor([1000.0 - 50 * i]), noise(1, 6, 8, seed=1))


def test_settings_that_never_reuse_are_not_asked() -> None:
    """A policy may rely on it that every decision follows a computation it was told of."""
    pipe = VIDEO_TO_VIDEO.build()
    with warnings.catch_warnings(), bwcache.attach(pipe, FixedInterval(1, warmup=0)) as session:
        warnings.simplefilter("error")
        VIDEO_TO_VIDEO.run(pipe)
    assert {event.reason for event in session.trace.events} == {"never reuses with these settings"}


# --- the host says it -------------------------------------------------------------------------------------------------


def test_what_the_host_says_of_a_step_stands_in_the_trace() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE) as session:
        for i in range(8):
            for branch in ("text", "none"):
                with session.step(index=i, total=8, branch=branch, sigma=1 - i / 8, noise=(1 - i / 8, 1 - (i + 1) / 8)):
                    steps_of_one(module, 0)  # the time stands still: it tells nothing
    events = session.trace.events
    assert session.trace.meta["source"] == "host"
    assert [(event.step, event.branch, event.total) for event in events[:3]] == [
        (0, "text", 8),
        (0, "none", 8),
        (1, "text", 8),
    ]
    assert [event.sigma for event in events[::2]] == [1 - i / 8 for i in range(8)]
    assert reuse_line(events) == "CCrrCrrC"


def test_branches_named_by_the_host_share_what_is_kept_in_one_forward_and_in_two() -> None:
    module = wan_transformer()
    texts = [noise(1, 6, 8, seed=seed) for seed in (1, 2)]

    def forward(i: int, *which: int) -> torch.Tensor:
        latents = (noise(1, 4, 2, 4, 4) + 0.01 * i).expand(len(which), -1, -1, -1, -1).contiguous()
        text = torch.cat([texts[each] for each in which])
        with torch.no_grad():
            return module(latents, torch.full((len(which),), 1000.0 - 50 * i), text, return_dict=False)[0]

    made: dict[str, list[torch.Tensor]] = {}
    for way in ("apart", "mixed"):
        made[way] = []
        with bwcache.attach(module, Scripted(frozenset({2, 3, 5})), steps=8) as session:
            for i in range(8):
                if way == "mixed" and i % 2:
                    with session.step(index=i, total=8, branch=("text", "none")):
                        made[way].append(forward(i, 0, 1))
                else:
                    parts = []
                    for which, name in enumerate(("text", "none")):
                        with session.step(index=i, total=8, branch=name):
                            parts.append(forward(i, which))
                    made[way].append(torch.cat(parts))
        assert reuse_line(session.trace.events) == "CCrrCrCC"
        assert {event.branch for event in session.trace.events} == {"text", "none"}
    for one, other in zip(made["apart"], made["mixed"], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "said", [{"index": -1}, {"index": 3, "total": 3}, {"branch": ("a", "a")}, {"noise": 2.0}], ids=str
)
def test_what_a_host_cannot_mean_is_refused(said: dict[str, Any]) -> None:
    with (
        bwcache.attach(wan_transformer(), CAREFREE) as session,
        pytest.raises(bwcache.SettingError),
        session.step(**said),
    ):
        pass


def test_a_marked_run_says_nothing_of_later_ones() -> None:
    module = wan_transformer()
    with bwcache.attach(module, CAREFREE, steps=6) as session:
        with session.run(steps=8):
            steps_of(module, 8)
        steps_of(module, 6)
    assert [trace.meta["total"] for trace in session.traces] == [8, 6]


def test_parts_of_blocks_can_be_taken_up_in_a_session() -> None:
    """The session's own interceptors make no compiled blocks of them."""
    module = wan_transformer()
    with bwcache.attach(module, FixedInterval(2), steps=4) as session:
        session.use(bwcache.PyramidAttentionBroadcast())
        assert session.policy == bwcache.PyramidAttentionBroadcast()


def test_another_policy_waits_until_nobody_samples() -> None:
    """A run in one thread goes on as it began, whatever another thread begins meanwhile."""
    module, waits, goes = wan_transformer(), threading.Event(), threading.Event()

    def step_of(i: int) -> None:
        with torch.no_grad():
            module(noise(1, 4, 2, 4, 4), torch.tensor([900.0 - 100 * i]), noise(1, 6, 8))

    with bwcache.attach(module, FixedInterval(2, 1, 0), steps=4) as session:

        def first() -> None:
            step_of(0)
            waits.set()
            goes.wait(10)
            for i in (1, 2, 3):
                step_of(i)

        thread = threading.Thread(target=first)
        thread.start()
        waits.wait(10)
        session.use(bwcache.Foresight())
        step_of(0)
        goes.set()
        thread.join()
        for i in (1, 2, 3, 0):
            step_of(i)
    done = [(trace.meta["policy"]["name"], reuse_line(trace.events)) for trace in session.traces]
    assert sorted(done) == [("FixedInterval", "CrCr"), ("FixedInterval", "CrCr"), ("Foresight", "C")]


class Asked:
    """A scheduler that makes its timesteps each time that it is asked for them."""

    def __init__(self, made: Callable[[], Any]) -> None:
        self._made = made

    @property
    def timesteps(self) -> Any:
        return self._made()


KINDS: dict[str, Any] = {
    "each time anew": lambda: torch.tensor([900.0, 800.0, 700.0, 600.0]),
    "list": lambda: [900.0, 800.0, 700.0, 600.0],
    "tuple": lambda: (900, 800, 700, 600),
    "method": lambda: print,
}


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_schedulers_hold_their_times_in_many_ways(made: Callable[[], Any]) -> None:
    module = wan_transformer()

    class Pipeline:
        def __init__(self) -> None:
            self.transformer, self.scheduler = module, Asked(made)

        def __call__(self) -> None:
            for time in (900.0, 800.0, 700.0, 600.0):
                module(noise(1, 4, 2, 4, 4), torch.tensor([time]), noise(1, 6, 8))

    with bwcache.attach(module, FixedInterval(2, 1, 0), steps=4) as session, torch.no_grad():
        Pipeline()()
    assert [reuse_line(trace.events) for trace in session.traces] == ["CrCr"]


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_several_forwards_of_one_name_in_each_step_replay_nothing_of_each_other() -> None:
    module = wan_transformer()
    with (
        bwcache.attach(module, FixedInterval(2, 1, 0), steps=4) as session,
        torch.no_grad(),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        for time in (900.0, 800.0, 700.0, 600.0):
            for seed in (1, 2):
                with session.step(index=round(9 - time / 100), branch="cond"):
                    module(noise(1, 4, 2, 4, 4, seed=seed), torch.tensor([time]), noise(1, 6, 8))
    assert {event.action for trace in session.traces for event in trace.events} == {"compute"}
    assert any("name them apart" in str(each.message) for each in said)


def test_what_is_no_policy_is_not_taken_up() -> None:
    with bwcache.attach(wan_transformer(), FixedInterval(2)) as session:
        with pytest.raises(bwcache.SettingError, match=r"the method of this name is bwcache\.FirstBlock"):
            session.use("FirstBlock")
        assert session.policy == FixedInterval(2)


def test_two_steps_are_not_called_too_few_since_some_policies_reuse_the_second() -> None:
    pipe = wan()
    with bwcache.attach(pipe, bwcache.Planned(computed=1)) as session:
        WAN.run(pipe, num_inference_steps=2)
    assert session.trace.reused > 0
    said = pytest.warns(bwcache.NeverReusedWarning, match=r"nothing was reused in 2 steps: planned \(2 of 2 rows")
    with said, bwcache.attach(pipe, bwcache.Planned(computed=2)) as session:
        WAN.run(pipe, num_inference_steps=2)


@pytest.mark.parametrize("broke_off", [False, True], ids=["went through", "broke off"])
def test_a_bar_that_is_collected_as_garbage_ends_no_later_run(broke_off: bool) -> None:
    """tqdm closes a bar again as it goes, which may be in the middle of a run and within an exception's handling."""
    pipe = wan()
    bars: list[Any] = []
    own = pipe.progress_bar
    pipe.progress_bar = lambda *args, **kwargs: bars.append(own(*args, **kwargs)) or bars[-1]

    def halt(*_: Any) -> Any:
        raise KeyboardInterrupt

    def collected(_pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            try:
                raise ValueError
            except ValueError:
                bars[0].__del__()
        return tensors

    with bwcache.attach(pipe, FixedInterval(interval=3)) as session:
        if broke_off:
            with pytest.raises(KeyboardInterrupt):
                WAN.run(pipe, num_inference_steps=6, callback_on_step_end=halt)
        else:
            WAN.run(pipe, num_inference_steps=6)
        WAN.run(pipe, num_inference_steps=6, callback_on_step_end=collected)
    assert len(session.traces) == 2
    assert session.trace.steps == 6
    assert session.trace.computed < 6
