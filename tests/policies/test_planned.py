"""Planned: lists against brute force, damage against its definition, runs with and without a schedule."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import bwcache
from bwcache.core import Step
from bwcache.errors import SettingError
from bwcache.policies import Observation
from bwcache.policies.planned import beyond_newest, inside, plan
from bwcache.policies.planning import DRIFT, POWER, RESPONSE, SEEN_AT_THE_END, Window, at, best, damages, foretold
from tests.policies.proof import ALONE, proves
from tests.tiny import BY_NAME


def flow(steps: int, shift: float) -> tuple[float, ...]:
    """Noise levels of flow matching, evenly spaced before the shift."""
    even = [1 - k / steps for k in range(steps)]
    return (*(shift * u / (1 + (shift - 1) * u) for u in even), 0.0)


def plain(schedule: tuple[float, ...], first: int, end: int) -> float:
    """The squared damage of a window straight from its definition: covariances of drifts, summed pair by pair."""

    def apart(a: int, b: int) -> float:
        return float(abs(at(DRIFT, schedule[a]) - at(DRIFT, schedule[b])) ** (2 * POWER))

    weights = {}
    for step in range(first, end):
        taken = 1 - schedule[step + 1] / schedule[step]
        weights[step] = taken * schedule[end] / schedule[step + 1] if schedule[end] else float(step == end - 1) * taken
    variance = sum(
        a * b * (apart(first, i) + apart(first, j) - apart(i, j)) / 2
        for i, a in weights.items()
        for j, b in weights.items()
    )
    seen = SEEN_AT_THE_END if schedule[end] == 0 else 1.0
    return variance * (at(RESPONSE, schedule[end]) * seen) ** 2


def test_the_last_step_is_left_out_where_hardly_any_noise_is_left_at_it() -> None:
    assert best(damages((*flow(49, 5.0)[:-1], 0.02, 0.0)), None, 8)[-1] < 49
    assert best(damages(flow(20, 5.0)), None, 6)[-1] == 19  # a fifth of noise


def test_where_another_model_goes_on_the_last_window_counts_as_any() -> None:
    whole = flow(20, 5.0)
    assert damages(whole[:12])[9][1] == pytest.approx(damages(whole)[9][1])


def test_a_curve_is_straight_between_its_points_and_flat_outside() -> None:
    curve = ((1.0, 0.0), (0.5, 2.0), (0.0, 3.0))
    assert [at(curve, noise) for noise in (1.2, 1.0, 0.75, 0.5, 0.25, 0.0, -1)] == [0, 0, 1, 2, 2.5, 3, 3]


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_the_damage_of_a_window_is_its_covariances(shift: float) -> None:
    schedule = flow(12, shift)
    windows = damages(schedule)
    for first in range(12):
        for end in range(first + 1, 13):
            assert windows[first][end - first - 1] == pytest.approx(plain(schedule, first, end), abs=1e-12)


def test_a_step_that_is_computed_does_no_damage() -> None:
    schedule = flow(10, 3.0)
    assert all(row[0] == 0 for row in damages(schedule))
    assert foretold(damages(schedule), range(10)) == 0


@proves(bwcache.Planned, "all lists there are", "the list that does the least damage", on=ALONE)
@pytest.mark.parametrize("computed", [1, 2, 3, 5, 8])
def test_no_other_list_of_so_many_steps_does_less(computed: int) -> None:
    windows = damages(flow(8, 3.0))
    lists = [(0, *later) for later in combinations(range(1, 8), computed - 1)]
    found = best(windows, computed=computed)
    assert len(found) == computed
    assert foretold(windows, found) == pytest.approx(min(foretold(windows, each) for each in lists))


@pytest.mark.parametrize("tolerance", [0.003, 0.01, 0.03, 0.1])
def test_no_shorter_list_stays_within_the_tolerance(tolerance: float) -> None:
    windows = damages(flow(9, 5.0))
    found = best(windows, tolerance**2)
    assert foretold(windows, found) <= tolerance
    shorter = [(0, *later) for later in combinations(range(1, 9), len(found) - 2)] if len(found) > 1 else []
    assert all(foretold(windows, each) > tolerance for each in shorter)


@pytest.mark.parametrize(("steps", "shift"), [(30, 1.0), (30, 3.0), (50, 5.0), (50, 8.0)])
def test_a_tighter_tolerance_computes_more_and_the_layout_gets_its_steps(steps: int, shift: float) -> None:
    schedule = flow(steps, shift)
    counts = [len(plan(schedule, tolerance)[0]) for tolerance in (0.1, 0.045, 0.03, 0.02, 0.005)]
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
    assert len(plan(schedule, 0.02)[0]) < steps / 2
    listed = sorted(plan(schedule, 0.02)[0])
    early = [step for step in listed if schedule[step] > 0.75]
    assert len(early) >= len(listed) / 3


def test_more_computed_steps_than_there_are_is_all_of_them() -> None:
    assert plan(flow(6, 1.0), 0.03, 9)[0] == frozenset(range(6))


def test_a_schedule_without_damages_is_computed_as_a_whole() -> None:
    assert plan((math.nan,) * 7, 0.03)[0] == plan((math.nan,) * 7, 0.03, 3)[0] == frozenset(range(6))


def test_fewer_steps_than_the_longest_windows_allow_is_the_fewest_that_can_be() -> None:
    steps, _ = plan(flow(1000, 1.0), 0.03, 3)
    listed = sorted(steps)
    assert len(listed) == 16
    assert all(b - a <= 64 for a, b in zip(listed, [*listed[1:], 1000], strict=True))


def test_a_schedule_of_a_thousand_steps_is_planned_in_moments() -> None:
    steps, damage = plan(flow(1000, 1.0), 0.05)
    assert 16 <= len(steps) < 200
    assert damage <= 0.05


def step(index: int, schedule: tuple[float, ...], known: bool) -> Step:
    total = len(schedule) - 1
    noises = schedule[index], schedule[index + 1]
    return Step(0, index, total, None, None, "cond", None, *noises, schedule if known else None)


def decided(policy: bwcache.Planned, schedule: tuple[float, ...], known: bool) -> list[bool]:
    """Which steps are computed, as the engine would ask."""
    state, found = policy.init(), []
    for index in range(len(schedule) - 1):
        seen = Observation(step(index, schedule, known), "site")
        decision = None if index == 0 else policy.decide(seen, state)
        if decision is None or not decision.reuses:
            policy.refresh(seen, state)
        again = None if index == 0 else policy.decide(seen, state)
        assert again is None or decision is None or again.action == decision.action  # the other branch follows
        found.append(decision is None or not decision.reuses)
    return found


def test_the_plan_is_followed_where_the_schedule_is_known() -> None:
    schedule = flow(30, 3.0)
    listed = plan(schedule, 0.03)[0]
    assert [i for i, each in enumerate(decided(bwcache.Planned(), schedule, True)) if each] == sorted(listed)


def test_a_window_is_evaluated_inside_of_it_but_for_the_first_and_for_single_steps() -> None:
    schedule, steps = (1.0, 0.5, 0.45, 0.4, 0.36, 0.0), frozenset({0, 1, 2, 3})
    assert inside(schedule, steps, 0.5) == {3: pytest.approx(0.38)}
    assert inside(schedule, steps, 0.25) == {3: pytest.approx(0.39)}
    assert inside(schedule, steps, 0.0) == {}


def test_a_step_is_evaluated_in_place_where_the_way_into_its_window_is_too_far() -> None:
    schedule = flow(50, 5.0)
    few, many = (plan(schedule, 0.03, count)[0] for count in (8, 12))
    assert set(inside(schedule, few, 0.5)) < {first for first in few if first} - {49}
    assert set(inside(schedule, many, 0.5)) == {first for first in many if first and first + 1 not in many} - {49}
    for steps in (few, many):
        found, before = inside(schedule, steps, 0.5), 1.0
        for first, end in zip(sorted(steps), [*sorted(steps)[1:], 50], strict=True):
            mean = sum(schedule[first:end]) / (end - first)
            off = abs(at(DRIFT, mean) - at(DRIFT, before)) ** POWER
            far = (1 - mean / schedule[first]) * off * at(RESPONSE, schedule[first]) > 0.01
            assert found.get(first, schedule[first]) == pytest.approx(schedule[first] if far or not first else mean)
            before = found.get(first, schedule[first])


@pytest.mark.parametrize("at", [None, 0.7])
def test_what_was_evaluated_inside_is_held_and_what_was_not_goes_along_the_line(at: float | None) -> None:
    schedule, policy = flow(30, 3.0), bwcache.Planned(computed=6, ahead=0.5)
    state, listed = policy.init(), sorted(plan(schedule, 0.03, 6)[0])
    policy.refresh(Observation(step(listed[2], schedule, True), "site", evaluated_at=at), state)
    decision = policy.decide(Observation(step(listed[2] + 1, schedule, True), "site"), state)
    assert decision.reuses
    assert decision.how == (None if at is None else bwcache.Last())


def test_a_pipeline_is_evaluated_where_the_plan_says() -> None:
    case = BY_NAME["wan"]
    pipe: Any = case.build()
    with bwcache.attach(pipe, bwcache.Planned(computed=6, ahead=0.5)) as session:
        case.run(pipe, num_inference_steps=10)
    trace = session.trace
    assert trace is not None
    done = {event.step: event.evaluated_at for event in trace.events if event.action == "compute"}
    assert done[0] is None
    ends = dict(zip(sorted(done), [*sorted(done)[1:], 10], strict=True))
    long = [first for first, end in ends.items() if first and end > first + 1]
    schedule = tuple(float(share) for share in pipe.scheduler.sigmas)
    expected = inside(schedule, frozenset(done), 0.5)
    assert {first: at for first, at in done.items() if at is not None} == pytest.approx(expected, abs=5e-5)
    assert expected
    assert set(expected) <= set(long)


def beyond(schedule: tuple[float, ...], before: int, first: int, end: int) -> float:
    """What a window of two differences from the start would have to go on, straight from what the one before missed.

    The latents are followed with numpy through both windows for an estimate that moves by one at each computed step:
    what is missed at the end of the first, less what is taken back, over what one more in the second comes to.
    """
    latents = np.zeros(2)  # held, and as it should have been
    for step in range(before, first):
        kept = schedule[step + 1] / schedule[step]
        latents = kept * latents + (1 - kept) * np.array([0.0, 1.0])
    missed = float(latents[1] - latents[0]) * float(
        np.interp(-schedule[first], [-s for s, _ in RESPONSE], [r for _, r in RESPONSE])
    )
    more = np.zeros(2)
    for step in range(first, end):
        kept = schedule[step + 1] / schedule[step]
        more = kept * more + np.array([0.0, 1 - kept])
        missed *= kept
    return min(0.9 * missed / float(more[1]), 1.2)


@pytest.mark.parametrize(("steps", "shift", "computed"), [(50, 5.0, 8), (50, 5.0, 12), (30, 3.0, 9), (30, 1.0, 8)])
def test_early_windows_make_up_for_what_the_one_before_them_missed(steps: int, shift: float, computed: int) -> None:
    schedule = flow(steps, shift)
    listed = sorted(plan(schedule, 0.03, computed)[0])
    expected = {
        step: beyond(schedule, before, first, end)
        for before, first, end in zip(listed, listed[1:], [*listed[2:], steps], strict=False)
        for step in range(first + 1, end)
        if schedule[first] > 0.9
    }
    assert beyond_newest(schedule, frozenset(listed)) == pytest.approx(expected, abs=5e-5)
    assert expected
    policy = bwcache.Planned(computed=computed)
    for index in set(range(1, steps)) - set(listed):
        decision = policy.decide(Observation(step(index, schedule, True), "site"), policy.init())
        how = decision.how.length - 1 if decision.how else None
        assert how == (pytest.approx(expected[index], abs=5e-5) if index in expected else None)
        made_up = decision.reason.startswith("making up for the window before (")
        assert made_up == (index in expected)
        held = bwcache.Planned(computed=computed, makes_up=False).decide(
            Observation(step(index, schedule, True), "site"), policy.init()
        )
        assert held == replace(decision, how=None, reason=held.reason)


def test_nothing_is_made_up_with_one_estimate_or_where_estimates_are_made_inside() -> None:
    assert bwcache.Planned().making_up
    assert not bwcache.Planned(predictor=bwcache.Last()).making_up
    assert not bwcache.Planned(ahead=0.5).making_up
    assert bwcache.Planned(ahead=0.5, makes_up=True).making_up


def test_what_is_made_up_is_a_sum_of_two_estimates() -> None:
    """As under a tuned plan with these weights, which has a loop by hand."""
    case = BY_NAME["wan"]
    pipe: Any = case.build()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    pipe.scheduler.set_timesteps(10)
    schedule = tuple(map(float, pipe.scheduler.sigmas))
    listed = sorted(plan(schedule, 0.03, 5)[0])
    how = beyond_newest(schedule, frozenset(listed))
    rows = [(1 + how[first + 1], -how[first + 1]) if first + 1 in how else (1.0,) for first in listed]
    found = []
    made = bwcache.Planned(computed=5, predictor=bwcache.Bounded(0), makes_up=True)
    for policy in (made, bwcache.Tuned(tuple(listed), tuple(rows), schedule), replace(made, makes_up=False)):
        with bwcache.attach(pipe, policy):
            found.append(case.run(pipe, num_inference_steps=10))
    assert any(len(row) == 2 for row in rows)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[2], rtol=1e-3, atol=1e-4)


def test_without_a_schedule_every_window_stays_within_its_damage() -> None:
    schedule = flow(50, 5.0)
    computed = [i for i, each in enumerate(decided(bwcache.Planned(0.03), schedule, False)) if each]
    assert 5 <= len(computed) <= 25
    for first, end in zip(computed, [*computed[1:], 50], strict=True):
        window = Window(schedule[first])
        damage = [window.go(schedule[k], schedule[k + 1]) ** 0.5 for k in range(first, end)]
        assert damage[-1] <= 0.03 / 10**0.5 + 1e-12


def test_an_unknown_noise_level_is_computed() -> None:
    policy = bwcache.Planned()
    blank = Observation(Step(0, 3, None, None, None, "cond"), "site")
    assert not policy.decide(blank, policy.init()).reuses


def test_on_a_pipeline_so_many_steps_are_computed_and_nothing_of_the_model_is_called_in_others() -> None:
    case = BY_NAME["wan"]
    pipe: Any = case.build()
    called = []
    pipe.transformer.patch_embedding.register_forward_hook(lambda *_: called.append(1))
    with bwcache.attach(pipe, bwcache.Planned(computed=4)) as session:
        case.run(pipe, num_inference_steps=8)
    trace = session.trace
    assert trace is not None
    computed = {event.step for event in trace.events if event.action == "compute"}
    assert len(computed) == 4
    assert len(called) == sum(event.action == "compute" for event in trace.events)
    assert {event.reason.split(" (")[0] for event in trace.events if event.action == "reuse"} == {"held"}


def test_bounded_goes_a_part_of_the_line_and_no_further_than_its_reach() -> None:
    def at_noise(noise: float) -> Step:
        return Step(0, 0, 10, None, None, "cond", None, noise, noise - 0.1)

    past = [(at_noise(0.6), torch.full((2,), 1.0)), (at_noise(0.8), torch.full((2,), 0.0))]
    bounded = bwcache.Bounded(0.5, 1.5)
    assert torch.allclose(bounded.predict(past, at_noise(0.5)), torch.full((2,), 1.25))
    assert torch.allclose(bounded.predict(past, at_noise(0.1)), torch.full((2,), 1.75))
    assert torch.equal(bounded.predict(past[:1], at_noise(0.1)), past[0][1])
    assert torch.equal(bwcache.Bounded(0).predict(past, at_noise(0.1)), past[0][1])


@pytest.mark.parametrize(
    "settings",
    [
        {"tolerance": -1},
        {"tolerance": math.nan},
        {"computed": 0},
        {"computed": 2.5},
        {"predictor": 3},
        {"ahead": 1.5},
        {"makes_up": 1},
        {"makes_up": True, "predictor": bwcache.Last()},
    ],
)
def test_values_outside_their_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        bwcache.Planned(**settings)


@pytest.mark.parametrize("settings", [{"length": -0.1}, {"reach": "far"}])
def test_a_line_of_no_length_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        bwcache.Bounded(**settings)
