"""What the program around a denoiser says of a forward is what it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import SettingError
from bwcache.core.trace import reuse_line
from bwcache.engine.clock import HostStep
from bwcache.policies.planned import plan
from tests.runs.laws import GREEDY
from tests.tiny import Scripted, noise, wan, wan_transformer

TEXT = {"u": noise(1, 6, 8, seed=1), "c": noise(1, 6, 8, seed=2)}
TOTAL = 6


def forward(module: Any, latents: Tensor, names: str, time: float = 500.0) -> Tensor:
    """One forward of these prompts in a batch, `[len(names), …]`."""
    count = len(names)
    times, text = torch.full((count,), time), torch.cat([TEXT[name] for name in names])
    with torch.no_grad():
        return module(latents.repeat(count, 1, 1, 1, 1), times, text, return_dict=False)[0]


def loop(session: bwcache.Session, module: Any, plan: list[list[str]], **more: Any) -> Tensor:
    """Each entry is a step: the forwards in it, and the prompts that each has in its batch. The time never moves."""
    latents = noise(1, 4, 2, 4, 4)
    for index, forwards in enumerate(plan):
        made: dict[str, Tensor] = {}
        for names in forwards:
            branch = names if len(names) == 1 else tuple(names)
            with session.step(index=index, total=len(plan), branch=branch, **more):
                made |= dict(zip(names, forward(module, latents, names).split(1), strict=True))
        latents = latents + 0.05 * (made["u"] + made["c"])
    return latents


def test_index_total_and_branch_are_what_is_said() -> None:
    module = wan_transformer()
    with bwcache.attach(module, GREEDY) as session:
        loop(session, module, [["u", "c"]] * TOTAL)
    assert session.trace.meta["source"] == "host"
    events = session.trace.events
    assert [(event.step, event.branch) for event in events] == [(i, name) for i in range(TOTAL) for name in "uc"]
    assert {event.total for event in events} == {TOTAL}
    assert reuse_line(events) == "Crrrrr"


SPLITS = {
    "apart": [["u", "c"]] * TOTAL,
    "together": [["uc"]] * TOTAL,
    "as memory allows": [["uc"], ["u", "c"], ["u", "c"], ["uc"], ["c", "u"], ["uc"]],
}


@pytest.mark.parametrize("policy", [GREEDY, Scripted(frozenset({1, 2, 4}))], ids=["greedy", "some"])
@pytest.mark.parametrize("plan", SPLITS.values(), ids=SPLITS)
def test_branches_share_what_is_kept_whether_they_come_in_one_batch_or_not(plan: Any, policy: Any) -> None:
    module = wan_transformer()
    with bwcache.attach(module, policy) as session:
        apart = loop(session, module, SPLITS["apart"])
        made = loop(session, module, plan)
    torch.testing.assert_close(made, apart, rtol=1e-4, atol=1e-5)
    lines = [[(e.step, e.branch, e.action) for e in trace.events] for trace in session.traces]
    assert sorted(lines[0]) == sorted(lines[1])


def test_a_branch_of_a_batch_that_was_not_there_before_is_computed_by_itself() -> None:
    module, sizes = wan_transformer(), []
    module.blocks[0].register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    with bwcache.attach(module, GREEDY) as session:
        latents = noise(1, 4, 2, 4, 4)
        for index, names in enumerate(["c", "c", "uc", "uc"]):
            with session.step(index=index, total=4, branch=tuple(names)):
                forward(module, latents, names)
    assert sizes == [1, 1]
    assert [event.action[0] for event in session.trace.events if event.branch == "u"] == ["c", "r"]
    assert [event.action[0] for event in session.trace.events if event.branch == "c"] == ["c", "r", "r", "r"]


def test_sigma_and_noise_are_in_the_step() -> None:
    module, steps = wan_transformer(), []

    class Listening(Scripted):
        def refresh(self, observation: Any, state: None) -> None:
            steps.append(observation.step)

    with bwcache.attach(module, Listening(frozenset())) as session:
        for index, noise_ in enumerate([(0.9, 0.5), 0.5]):
            with session.step(index=index, total=2, sigma=7.0 - index, noise=noise_):  # type: ignore[arg-type]
                forward(module, noise(1, 4, 2, 4, 4), "c")
    assert [(step.sigma, step.noise, step.next_noise) for step in steps] == [(7.0, 0.9, 0.5), (6.0, 0.5, None)]


def test_a_name_alone_leaves_the_step_to_weaker_signals() -> None:
    module = wan_transformer()
    with bwcache.attach(module, GREEDY, steps=3) as session:
        for time in (900.0, 600.0, 300.0):
            for name in ("left", "right"):
                with session.step(branch=name):
                    forward(module, noise(1, 4, 2, 4, 4), "c", time)
    assert session.trace.meta["source"] == "timestep"
    assert [event.branch for event in session.trace.events] == ["left", "right"] * 3
    assert reuse_line(session.trace.events) == "Crr"


def test_an_index_that_goes_back_or_comes_twice_begins_a_run() -> None:
    module = wan_transformer()
    with bwcache.attach(module, GREEDY) as session:
        for index in (0, 1, 2, 0, 1, 1, 2):
            with session.step(index=index, total=3, branch="c"):
                forward(module, noise(1, 4, 2, 4, 4), "c")
    assert [[event.step for event in trace.events] for trace in session.traces] == [[0, 1, 2], [0, 1], [1, 2]]
    assert [event.action[0] for trace in session.traces for event in trace.events] == list("crrcrcr")


def test_the_host_is_trusted_more_than_the_pipeline() -> None:
    pipe = wan()
    with bwcache.attach(pipe, GREEDY) as session, session.step(index=3, total=9, branch="mine"):
        forward(pipe.transformer, noise(1, 4, 2, 4, 4), "c")
    (event,) = session.trace.events
    assert (event.step, event.total, event.branch) == (3, 9, "mine")


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ({"index": -1}, "index -1"),
        ({"index": True}, "index True"),
        ({"index": 1.0}, "index 1.0"),
        ({"index": 5, "total": 5}, "index 5 of total 5"),
        ({"total": 0}, "total 0"),
        ({"branch": ""}, "branch ''"),
        ({"branch": ()}, "branch ()"),
        ({"branch": ("a", "a")}, "branch ('a', 'a')"),
        ({"branch": ("a", 3)}, "branch ('a', 3)"),
        ({"branch": "a#1"}, "branch 'a#1'"),
        ({"noise": 2}, "noise 2"),
        ({"noise": (1, 0.5, 0)}, "noise (1, 0.5, 0)"),
        ({"noise": float("nan")}, "noise nan"),
        ({"noise": "much"}, "noise 'much'"),
        ({"sigma": float("inf")}, "sigma inf"),
        ({"index": 0, "schedule": (0.5, 0.9, 0.8)}, "schedule (0.5, 0.9, 0.8)"),
        ({"index": 0, "schedule": (1.0,)}, "schedule (1.0,)"),
        ({"index": 2, "schedule": (1.0, 0.5, 0.0)}, "a schedule of 2 steps with index 2 of total None"),
        ({"index": 0, "total": 3, "schedule": (1.0, 0.5, 0.0)}, "a schedule of 2 steps with index 0 of total 3"),
        ({"schedule": (1.0, 0.5, 0.0)}, "a schedule of 2 steps with index None of total None"),
    ],
)
def test_what_cannot_be_meant_is_refused(what: dict[str, Any], found: str) -> None:
    with pytest.raises(SettingError) as caught:
        HostStep(**what)
    assert found in str(caught.value)


def test_a_schedule_that_is_no_list_is_refused() -> None:
    with (
        bwcache.attach(wan_transformer(), GREEDY, steps=3) as session,
        pytest.raises(SettingError, match="found schedule 5"),
        session.step(index=0, schedule=5),  # type: ignore[arg-type]
    ):
        pass


def test_a_schedule_tells_the_steps_their_noise_and_what_a_plan_is_made_of() -> None:
    module, schedule = wan_transformer(), tuple(5 * s / (1 + 4 * s) for s in (1 - i / 12 for i in range(13)))
    policy = bwcache.Planned(0.04)
    latents = noise(1, 4, 2, 4, 4)
    with bwcache.attach(module, policy) as session:
        for index in range(12):
            with session.step(
                index=index, branch="c", sigma=schedule[index], prediction="flow", schedule=list(schedule)
            ):
                velocity = forward(module, latents, "c", 1000 * schedule[index])
            latents = latents + (schedule[index + 1] - schedule[index]) * velocity
    events = session.trace.events
    assert {event.total for event in events} == {12}
    expected, _ = plan(schedule, 0.04)
    assert {event.step for event in events if event.action == "compute"} == expected
    assert 1 < len(expected) < 10


@pytest.mark.parametrize(("names", "rows"), [(("a", "b", "c"), 1), (("a", "b"), 1), (("a", "b"), 3)])
@pytest.mark.parametrize("more", [{}, {"per_sample": False}], ids=["by sample", "as one"])
def test_more_names_than_a_batch_has_parts_are_refused(names: tuple[str, ...], rows: int, more: dict[str, Any]) -> None:
    module = wan_transformer()
    latents = noise(1, 4, 2, 4, 4)
    with bwcache.attach(module, GREEDY, **more) as session:
        with session.step(index=0, total=4, branch=names):
            expected = rf"found a batch of {rows} where .* names {len(names)} parts of it; expected as many rows"
            with pytest.raises(SettingError, match=expected):
                forward(module, latents, "u" * rows)
        with session.step(index=0, total=4, branch=names):
            forward(module, latents, "u" * len(names))
    assert [event.branch for event in session.trace.events] == list(names)
