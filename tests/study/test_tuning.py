"""Tuning without a model: plans against brute force, tables against sums by hand, weights that are found again."""

from itertools import combinations

import numpy as np
import pytest
import torch

import bwcache
from bwcache import SettingError
from bwcache.features import Bounded, Extended
from bwcache.policies.lists import best_lists
from bwcache.policies.planned import beyond_newest
from bwcache.policies.planning import RESPONSE, SEEN_AT_THE_END, at, best, damages
from bwcache.study.tuning.fitting import as_planned, fitted
from bwcache.study.tuning.recording import Recording, recorded
from bwcache.study.tuning.tables import damage, window_weights
from bwcache.study.tuning.tuning import Proof, planned
from bwcache.study.tuning.wish import Wish, wish
from tests import tiny

COUNT = 8
SHARES = tuple(3 * s / (1 + 2 * s) for s in np.linspace(1, 0, COUNT + 1).tolist())


def price(table: np.ndarray, steps: tuple[int, ...]) -> float:
    ends = (*steps[1:], table.shape[0])
    earlier = (steps[0], *steps[:-1])
    return float(sum(table[p, i, j] for p, i, j in zip(earlier, steps, ends, strict=True)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("earlier", [1, COUNT])
def test_lists_are_the_best_of_all(seed: int, earlier: int) -> None:
    table = np.random.default_rng(seed).exponential(size=(earlier, COUNT, COUNT + 1))
    whole = np.broadcast_to(table, (COUNT, COUNT, COUNT + 1))
    for used, found in enumerate(best_lists(table), start=1):
        lists = [(0, *rest) for rest in combinations(range(1, COUNT), used - 1)]
        best = min(lists, key=lambda steps: price(whole, steps))
        assert found.steps == best
        assert found.damage == pytest.approx(price(whole, best))
    assert used == COUNT


def test_lists_that_cannot_be_are_left_out() -> None:
    """No window may be longer than three steps."""
    table = np.ones((1, COUNT, COUNT + 1))
    for first in range(COUNT):
        table[0, first, first + 4 :] = np.inf
    assert [len(one.steps) for one in best_lists(table)] == [3, 4, 5, 6, 7, 8]


def run(seed: int, clean: np.ndarray | None = None) -> Recording:
    """A run whose latents go where its estimates lead."""
    draw = np.random.default_rng(seed)
    clean = draw.normal(size=(COUNT, 50)) if clean is None else clean
    latents = [draw.normal(size=clean.shape[1])]
    for k in range(COUNT):
        kept = SHARES[k + 1] / SHARES[k]
        latents.append(kept * latents[-1] + (1 - kept) * clean[k])
    return Recording(SHARES, np.stack(latents), clean)


def test_window_weights_lead_from_one_end_to_the_other() -> None:
    one = run(0)
    for first, end in ((0, 1), (2, 5), (3, COUNT)):
        weights, left = window_weights(SHARES, first, end)
        np.testing.assert_allclose(left * one.latents[first] + weights @ one.clean, one.latents[end], atol=1e-12)
        assert weights.sum() + left == pytest.approx(1)


def test_damage_is_what_no_sum_of_two_estimates_comes_to() -> None:
    runs = [run(1)]
    table = damage(runs)
    for p, i, j in ((0, 2, 5), (1, 4, 8), (3, 3, 6)):
        weights, _ = window_weights(SHARES, i, j)
        wanted = weights @ runs[0].clean
        basis = runs[0].clean[[i] if p == i else [p, i]].T
        best = basis @ np.linalg.lstsq(basis, wanted, rcond=None)[0]
        seen = SEEN_AT_THE_END if j == COUNT else 1
        expected = ((wanted - best) ** 2).mean() * (at(RESPONSE, SHARES[j]) * seen) ** 2
        assert table[p, i, j] == pytest.approx(expected, rel=1e-4)
    assert all(table[p, i, i + 1] == 0 for i in range(COUNT) for p in range(i + 1))


def test_estimates_on_a_line_do_no_damage() -> None:
    draw = np.random.default_rng(2)
    line = draw.normal(size=50) + np.outer(SHARES[:-1], draw.normal(size=50))
    table, scattered = damage([run(0, line)]), damage([run(0)])
    assert table[1, 3, 6] < 1e-2 * scattered[1, 3, 6]
    assert table[3, 3, 6] > 10 * table[1, 3, 6]


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("count", [5, 8])
def test_weights_without_a_video_lead_where_planned_does(shift: float, count: int) -> None:
    """Each window ends in the very latents to which `Planned` leads, step by step, from the same estimates."""
    shares = tuple(shift * s / (1 + (shift - 1) * s) for s in np.linspace(1, 0, 31).tolist())
    steps = tuple(best(damages(shares), computed=count))
    draw = np.random.default_rng(0)
    clean, start = draw.normal(size=(count, 50)), draw.normal(size=50)
    beyond = beyond_newest(shares, frozenset(steps))
    rows = as_planned(steps, shares)
    assert any(step + 1 in beyond for step in steps)
    assert not all(step + 1 in beyond for step in steps[1:])
    for place, (step, end) in enumerate(zip(steps, (*steps[1:], 30), strict=True)):
        known = [(at_noise(shares, steps[p]), torch.from_numpy(clean[p])) for p in range(place, max(place - 2, -1), -1)]
        way, at_once = start, start
        for k in range(step + 1, end):
            kept = shares[k + 1] / shares[k]
            how = Extended(1 + beyond[k]) if k in beyond else Bounded()
            way = kept * way + (1 - kept) * how.predict(known, at_noise(shares, k)).numpy()
            at_once = kept * at_once + (1 - kept) * sum(
                w * c[1].numpy() for w, c in zip(rows[place], known, strict=False)
            )
        np.testing.assert_allclose(at_once, way, atol=1e-9)


def at_noise(shares: tuple[float, ...], index: int) -> bwcache.core.Step:
    return bwcache.core.Step(0, index, 30, 1000 * shares[index], shares[index], "", None, shares[index], None)


def test_weights_are_found_again() -> None:
    """Runs in which the reused steps of a window had such a sum are led by just that sum."""
    steps, row = (0, 1, 3), (1.6, -0.9, 0.3)
    uncached, cached = [], []
    for seed in range(3):
        one = run(seed)
        clean = one.clean.copy()
        clean[4:] = row[0] * clean[3] + row[1] * clean[1] + row[2] * clean[0]
        kept = one.latents[:5]
        end = SHARES[COUNT] / SHARES[4]
        latents = np.concatenate([kept, np.zeros((COUNT - 4, 50))])
        latents[COUNT] = end * latents[4] + (1 - end) * clean[4]
        uncached.append(Recording(SHARES, latents, clean))
        cached.append(one)
    rows: tuple[tuple[float, ...], ...] = ((1.0,),) * 3
    for _ in range(4):
        rows = fitted(steps, uncached, cached, rows)
    assert rows[2] == pytest.approx(row, abs=1e-4)
    assert rows[0] == (1.0,)
    assert all(sum(each) == pytest.approx(1) for each in rows)


def test_a_recording_says_what_the_scheduler_was_given() -> None:
    pipe = tiny.wan()
    with recorded(pipe, bwcache.models.table.row_of(type(pipe.transformer))) as found:  # type: ignore[arg-type]
        end = tiny.WAN.run(pipe, num_inference_steps=6)
    one = found[0]
    assert "step" not in vars(pipe.scheduler)
    assert sorted(one.latents[-1].tolist()) == sorted(end.float().flatten().tolist())
    assert one.shares == pytest.approx(tuple(float(s) for s in pipe.scheduler.sigmas))
    assert one.clean.shape == (6, end.numel())


def test_a_run_on_euler_goes_where_its_estimates_lead() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe = tiny.wan(FlowMatchEulerDiscreteScheduler(shift=3.0))
    with recorded(pipe, bwcache.models.table.row_of(type(pipe.transformer))) as found:  # type: ignore[arg-type]
        tiny.WAN.run(pipe, num_inference_steps=6)
    one = found[0]
    for k in range(6):
        kept = one.shares[k + 1] / one.shares[k]
        np.testing.assert_allclose(
            kept * one.latents[k] + (1 - kept) * one.clean[k], one.latents[k + 1], rtol=1e-3, atol=1e-4
        )


def test_a_scheduler_that_evaluates_twice_is_refused() -> None:
    from diffusers import FlowMatchHeunDiscreteScheduler

    pipe = tiny.wan(FlowMatchHeunDiscreteScheduler())
    with (
        pytest.raises(SettingError, match=r"found FlowMatchHeunDiscreteScheduler, .* expected one that is called once"),
        recorded(pipe, bwcache.models.table.row_of(type(pipe.transformer))),  # type: ignore[arg-type]
    ):
        tiny.WAN.run(pipe, num_inference_steps=4)
    assert "step" not in vars(pipe.scheduler)


def test_wishes() -> None:
    assert wish("near") == Wish(psnr=40)
    assert wish(" Balanced ") == Wish(psnr=35)
    assert wish("32.5dB") == Wish(psnr=32.5)
    assert wish("3x") == Wish(speed=3)
    for text in ("best", "35", "dB", "0.5x", "1x", "900dB", "-3x", ""):
        with pytest.raises(SettingError, match=r"found grade .*; expected .*; (name one|try) "):
            wish(text)


def test_an_interval_holds_the_mean() -> None:
    proof = Proof((30.0, 35.0, 41.0, 38.0), (0.9,) * 4)
    low, high = proof.interval()
    assert 30 < low < proof.mean < high < 41
    assert torch.tensor(proof.psnr).mean().item() == pytest.approx(proof.mean)


def test_estimates_that_are_all_zero_have_plans_too() -> None:
    """A model whose estimates of the data are nothing, at some steps or at all of them."""
    shares = tuple(np.linspace(1, 0, 9))
    rng = np.random.default_rng(0)
    for zeros in (range(8), (0,), (0, 1, 5)):
        clean = rng.standard_normal((8, 50)).astype(np.float32)
        clean[list(zeros)] = 0.0
        plans = planned([Recording(shares, np.zeros((9, 50), np.float32), clean)], 8)
        assert sorted(plans) == list(range(1, 9))
        assert all(np.isfinite(plan.damage) for plan in plans.values())
