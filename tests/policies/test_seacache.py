"""SeaCache: decisions of diffusers' own hook, its bits where residuals are replayed, and its filter."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import bwcache
from bwcache import Observation, Readings, SeaCache, SettingError, Step
from bwcache.features import Signal
from tests import tiny
from tests.policies.oracle import sea, sea_cache
from tests.policies.proof import proves
from tests.tiny import BY_NAME, noise

STEPS = 12


@proves(SeaCache, "diffusers' hook", "decisions, and latents bit for bit with order=0, else up to rounding")
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("threshold", "longest", "warmup", "tail"), [(0.25, 2, 1, 1), (0.6, 3, 2, 0), (0.9, None, 1, 3)]
)
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "hunyuan", "mochi"])
def test_it_is_diffusers_hook(
    name: str, threshold: float, longest: int | None, warmup: int, tail: int, order: int
) -> None:
    case = BY_NAME[name]
    settings = {"max_consecutive_cached": longest or 0, "retention_steps": warmup, "cache_end_steps": tail}
    with sea_cache(pipe := case.build(), threshold=threshold, residual_order=order, **settings) as said:
        expected = case.run(pipe, num_inference_steps=STEPS)
    policy = SeaCache(threshold, order, longest, warmup, tail)
    with bwcache.attach(pipe := case.build(), policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == said
    assert threshold < 0.6 or said.count("reuse") >= 4
    if order == 0:
        assert torch.equal(made, expected)
    else:  # the line is the same, with its weights multiplied out
        torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exponent", [2.0, 3.0])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_its_filter_is_diffusers(share: float, exponent: float) -> None:
    latents = noise(2, 3, 5, 4, 6)
    step = Step(0, 3, 10, None, None, "cond", noise=share)
    found = Signal(exponent, (2, 3, 4)).take(latents, step)
    expected = torch.stack(
        [sea._apply_sea_filter(each.movedim(0, -1), share, exponent).movedim(-1, 0) for each in latents]
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.untyped_storage().nbytes() == latents.nbytes  # and not a view into complex numbers
    flat = Signal(exponent, (2, 3, 4)).take(torch.ones(1, 1, 2, 2, 2), step)
    assert flat.std() < 1e-6  # a picture without detail stays one


def seen(index: int, change: float | None, level: float | None = 0.5) -> Observation:
    readings = Readings((change or 0.0,), (0.0 if change is None else 1.0,))
    return Observation(Step(0, index, 10, None, None, "cond", noise=level), "stack", look=lambda: readings)


def test_a_worked_sequence() -> None:
    policy = SeaCache(threshold=0.5)
    state = policy.init()
    changes = [None, 0.2, 0.2, 0.0, 0.4, 0.4, 0.0, 0.1, 0.1, 0.1]
    found = [policy.decide(seen(i, change), state).reason for i, change in enumerate(changes)]
    assert found == [
        "warm-up (the first 1 steps)",
        "within the budget (0.2000 < 0.5)",
        "within the budget (0.4000 < 0.5)",
        "longest window (after 2 reused steps)",
        "within the budget (0.4000 < 0.5)",
        "budget spent (0.8000 >= 0.5)",
        "within the budget (0.0000 < 0.5)",
        "within the budget (0.1000 < 0.5)",
        "longest window (after 2 reused steps)",
        "tail (the last 1 steps)",
    ]


@pytest.mark.parametrize(
    ("change", "level", "reason"),
    [
        (None, 0.5, "nothing to compare with yet"),
        (math.nan, 0.5, "indicator is not finite"),
        (0.1, None, "noise level unknown: pass steps= where nobody says it"),
    ],
)
def test_doubt_computes_and_starts_from_0(change: float | None, level: float | None, reason: str) -> None:
    policy = SeaCache(threshold=0.5)
    state = policy.init()
    policy.decide(seen(2, 0.4), state)
    assert policy.decide(seen(3, change, level), state).reason == reason
    assert policy.decide(seen(4, 0.4), state).value == 0.4
    policy.refresh(seen(5, None), state)
    assert policy.decide(seen(6, 0.3), state).value == 0.3


def test_latents_with_frames_first_and_pictures_are_looked_at_along_their_own_axes() -> None:
    stack = bwcache.models.resolve("transformer", tiny.cogvideox().transformer)
    assert stack.axes("fhw") == (1, 3, 4)
    (tap,) = SeaCache().taps(stack)
    assert tap.view == Signal(3.0, (1, 3, 4))


def test_models_that_it_does_not_fit() -> None:
    with pytest.raises(
        SettingError, match="found latents of LTXVideoTransformer3DModel that lie as bnc; expected some"
    ):
        bwcache.attach(tiny.ltx(), SeaCache())
    row = bwcache.models.table.row_of(type(tiny.wan_transformer()))
    with pytest.raises(SettingError, match=r'say `layout=` in its row, such as "bcfhw"'):
        bwcache.attach(tiny.wan_transformer(), SeaCache(), spec=replace(row, layout=""))


def test_a_threshold_of_0_never_reuses_and_measures_nothing() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, SeaCache(threshold=0)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize(
    "bad",
    [{"threshold": -1}, {"order": 2}, {"longest": 0}, {"warmup": -1}, {"tail": 0.5}, {"exponent": 0}],
    ids=str,
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        SeaCache(**bad)
