"""What curves say: laws on made ones, clean and noisy, and on the model in the box."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.regression import spearman_corrcoef

import bwcache
from bwcache import shapes
from bwcache.measure.call import Request, call
from bwcache.policies import NeverReuse
from bwcache.study.profile_curves import (
    THRESHOLDS,
    closest,
    fewer_blocks,
    indicator,
    judged,
    most_correlated,
    rank_correlation,
    shape,
    spread,
)

FLAT = np.full(29, 0.05)
LEFT, RIGHT = np.linspace(0.3, 0.05, 10), np.linspace(0.05, 0.4, 10)
FALLS = np.concatenate([LEFT, FLAT[:19]])
RISES = np.concatenate([FLAT[:19], RIGHT])
BOTH = np.concatenate([LEFT, FLAT[:9], RIGHT])
HUMP = np.concatenate([RIGHT, np.full(9, 0.4), RIGHT[::-1]])
MADE = {"U": BOTH, "start": FALLS, "end": RISES, "flat": FLAT, "hump": HUMP}
SHAPES = {
    "U": ("U", None),
    "start": ("inverted L", "start"),
    "end": ("inverted L", "end"),
    "flat": ("neither", None),
    "hump": ("neither", None),
}
curves = st.sampled_from(list(MADE))


@pytest.mark.parametrize("name", MADE)
def test_made_curves(name):
    found = shape(MADE[name])
    assert (found.kind, found.arm) == SHAPES[name]
    assert found.kind in str(found)


@given(name=curves, seed=st.integers(0, 2**31), noise=st.floats(0, 0.12))
@settings(deadline=None)
def test_noise_changes_no_shape(name, seed, noise):
    factors = np.exp(noise * np.random.default_rng(seed).standard_normal(29))
    assert (shape(MADE[name] * factors).kind, shape(MADE[name] * factors).arm) == SHAPES[name]


@given(name=curves, seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_scale_does_not_matter_and_time_turned_round_turns_the_arm(name, seed, scale):
    curve = MADE[name] * np.exp(0.3 * np.random.default_rng(seed).standard_normal(29))
    found, scaled, turned = shape(curve), shape(curve * scale), shape(curve[::-1])
    assert (found.kind, found.arm) == (scaled.kind, scaled.arm)
    assert found.kind == turned.kind
    assert found.start == pytest.approx(turned.end)
    assert {found.arm, turned.arm} in ({None}, {"start", "end"})


def test_what_has_no_shape():
    assert shape([]).kind == shape(BOTH[:8]).kind == shape(np.zeros(30)).kind == "neither"
    assert shape([np.nan, *BOTH, np.nan]) == shape(BOTH)
    assert "fewer than" in str(shape([0.1]))


def test_the_model_in_the_box_makes_a_u():
    pipe = shapes.load()
    pipe.set_progress_bar_config(disable=True)
    with bwcache.attach(pipe, NeverReuse(measures="default")) as session:
        call(pipe, Request(shapes.PROMPTS[0], 30, 0, shapes.GUIDANCE_SCALE, 32, 32, 9))
    events = session.trace.events
    for branch in {event.branch for event in events}:
        found = shape([event.indicator for event in events if event.branch == branch and event.indicator is not None])
        assert found.kind == "U", found


def test_indicator_and_spread_leave_out_what_was_not_measured():
    changes = np.array([[[np.nan, np.nan], [0.1, 0.3], [0.2, np.nan]]])
    assert indicator(changes)[0].tolist() == pytest.approx([np.nan, 0.2, 0.2], nan_ok=True)
    median, low, high = spread(np.array([[np.nan, 1.0], [np.nan, 2.0], [np.nan, 3.0]]))
    assert np.isnan(median[0])
    assert (low[1], median[1], high[1]) == pytest.approx((1.2, 2.0, 2.8))


def random_changes(videos, steps, blocks, seed=0):
    random = np.random.default_rng(seed)
    changes = 0.05 + 0.4 * random.random((videos, steps, blocks))
    changes[:, 0] = np.nan
    return changes


def test_the_whole_judged_by_itself_agrees():
    whole = indicator(random_changes(3, 9, 4))
    found = judged("all", whole, whole, 1.0)
    assert found.agreement == (1.0,) * len(THRESHOLDS)
    assert (found.ratio, found.error, found.videos) == (1, 0, 3)
    assert found.correlation == pytest.approx(1)
    assert found.suffices


def test_agreement_counts_the_steps_on_the_same_side():
    whole, fewer = np.array([[0.04, 0.12, 0.22, 0.4]]), np.array([[0.06, 0.12, 0.18, 0.4]])
    found = judged("some", fewer, whole, None)
    assert found.agreement == (0.75, 1, 1, 0.75, 1, 1)
    assert not found.suffices


def test_agreeing_on_what_is_never_in_doubt_is_not_enough():
    whole = np.full((2, 10), 0.01)
    found = judged("twice as much", 2 * whole, whole, None)
    assert min(found.agreement) == 1
    assert not found.suffices


def test_nothing_to_judge():
    assert judged("nothing", np.full((1, 3), np.nan), np.ones((1, 3)), None) is None


@given(seed=st.integers(0, 2**31), size=st.integers(3, 30), ties=st.booleans())
@settings(deadline=None, max_examples=40)
def test_rank_correlation_is_torchmetrics(seed, size, ties):
    random = np.random.default_rng(seed)
    a, b = (random.integers(4, size=size).astype(float) if ties else random.random(size) for _ in range(2))
    found = rank_correlation(a, b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert found is None
    else:
        expected = spearman_corrcoef(torch.tensor(a), torch.tensor(b)).item()
        assert found == pytest.approx(expected, abs=1e-4)


def test_the_closest_block_is_the_one_that_is_the_mean():
    changes = random_changes(2, 12, 5)
    others = changes[..., [0, 1, 2, 4]].mean(-1)
    changes[..., 3] = others  # so that the mean of all five is this one
    assert closest(changes, 1) == most_correlated(changes, 1) == (3,)
    found = {one.what: one for one in fewer_blocks(changes)}
    assert found["closest block"].suffices
    assert found["closest block"].blocks == (3,)
    assert found["closest block"].ratio == pytest.approx(1)


def test_blocks_are_judged_on_videos_that_did_not_choose_them():
    changes = random_changes(2, 30, 6)
    for video, lucky in ((0, 1), (1, 4)):
        others = [block for block in range(6) if block != lucky]
        changes[video, :, lucky] = changes[video][:, others].mean(-1)
    assert closest(changes[:1], 1) == (1,)
    assert closest(changes[1:], 1) == (4,)
    found = {one.what: one for one in fewer_blocks(changes)}
    assert found["closest block"].error > 0.1


@pytest.mark.parametrize("blocks", [1, 2, 3, 12])
def test_subsets_are_smaller_than_all_and_each_comes_once(blocks):
    found = list(fewer_blocks(random_changes(3, 9, blocks)))
    assert all(0 < len(one.blocks) < blocks and one.memory == len(one.blocks) / blocks for one in found)
    placed = [one.blocks for one in found if not one.what.startswith(("closest", "most"))]
    assert len(set(placed)) == len(placed)
    assert bool(found) is (blocks > 1)
