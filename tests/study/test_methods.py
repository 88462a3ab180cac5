"""Methods: what they ask for, what they call themselves, and that they leave the pipeline as it was."""

from dataclasses import dataclass

import pytest
import torch

import bwcache
from bwcache.measure.call import Request
from bwcache.study import FewerSteps, UnderPolicy
from bwcache.study.solvers import fewer_steps
from tests.tiny import WAN, Scripted, wan


@pytest.fixture(scope="module")
def pipe():
    return wan()


@pytest.fixture(scope="module")
def plain(pipe):
    return WAN.run(pipe)


METHODS = (
    UnderPolicy(Scripted(frozenset({3, 4}))),
    UnderPolicy(bwcache.BWCache(threshold=9.0, reuse_interval=2)),
    *(one for one in fewer_steps([10], wan().scheduler) if one.solver),
)


@pytest.mark.parametrize("method", METHODS, ids=lambda one: one.label)
@pytest.mark.parametrize("fails", [False, True])
def test_the_pipeline_is_left_as_it_was(pipe, plain, method, fails):
    own, hooks = pipe.scheduler, len(pipe.transformer._forward_hooks)
    if fails:
        with pytest.raises(KeyboardInterrupt), method.at_work(pipe):
            raise KeyboardInterrupt
    else:
        with method.at_work(pipe) as seen:
            changed = WAN.run(pipe)
        assert not torch.equal(changed, plain)
        assert seen.kept_bytes is not None
    assert pipe.scheduler is own
    assert len(pipe.transformer._forward_hooks) == hooks
    assert torch.equal(WAN.run(pipe), plain)


def test_a_policy_shows_its_trace_and_its_warnings(pipe):
    with UnderPolicy(Scripted(frozenset({3, 4}))).at_work(pipe) as seen:
        WAN.run(pipe)
    assert seen.trace.reused == 2
    assert seen.kept_bytes == seen.trace.peak_bytes > 0
    assert seen.notes == ()
    with UnderPolicy(bwcache.BWCache(threshold=1e-9)).at_work(pipe) as seen:
        WAN.run(pipe)
    assert seen.trace.reused == 0
    assert len(seen.notes) == 1


def test_fewer_steps_ask_for_fewer():
    assert FewerSteps(12).request(Request("p", 30, 5)) == Request("p", 12, 5)
    assert FewerSteps(12).label == "fewer steps (12)"
    assert FewerSteps(12, "UniPC").label == "fewer steps, UniPC (12)"
    with pytest.raises(bwcache.SettingError, match="0 steps"):
        FewerSteps(0)


def test_a_pipeline_that_refuses_a_solver_is_one_line(pipe):
    refusing = FewerSteps(3, "other", lambda own: own)
    said = r"WanPipeline that does not work with other \(no sigmas\)"
    with pytest.raises(bwcache.SettingError, match=said), refusing.at_work(pipe):
        raise ValueError("no sigmas")


def test_labels_show_what_differs_and_tell_every_value_apart():
    assert UnderPolicy(bwcache.BWCache()).label == "BWCache"
    assert UnderPolicy(bwcache.BWCache(threshold=0.2, predictor=bwcache.Linear())).label == (
        "BWCache (threshold 0.2, predictor Linear)"
    )
    assert UnderPolicy(bwcache.BWCache(), ("threshold",)).label == "BWCache (threshold 0.15)"
    near = [UnderPolicy(bwcache.BWCache(threshold=value)).label for value in (0.12345678, 0.12345679)]
    assert near[0] != near[1]


def test_a_policy_without_defaults_shows_all():
    @dataclass(frozen=True)
    class Needy(Scripted):
        wanted: int = None

        def __init__(self, wanted):
            object.__setattr__(self, "wanted", wanted)
            object.__setattr__(self, "reused", frozenset())
            object.__setattr__(self, "predictor", bwcache.Last())
            object.__setattr__(self, "share", None)

    assert "wanted 3" in UnderPolicy(Needy(3)).label
