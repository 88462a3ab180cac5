"""Requests that take turns in one session: each is what it is when made alone, whatever comes between its steps."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from tests.tiny import wan_transformer

STEPS = 8
SHARES = tuple(1 - step / STEPS for step in range(STEPS + 1))
BLOCKS, CLEAN = bwcache.FixedInterval(interval=3, warmup=1, tail=1), bwcache.Planned(0.2)


def steps_of(session: bwcache.Session, seed: int, begin: int = 0) -> Iterator[Tensor]:
    """One request, a step at a time: the latents after each."""
    generator = torch.Generator().manual_seed(seed)
    x, text = torch.randn(1, 4, 1, 4, 4, generator=generator), torch.randn(1, 3, 8, generator=generator)
    for index in range(begin, STEPS):
        said: Any = {"index": index, "branch": "cond", "sigma": SHARES[index], "prediction": "flow"}
        with session.step(**said, schedule=SHARES), torch.inference_mode():
            slope = session.denoisers["model"].stack.module(x, torch.tensor([1000 * SHARES[index]]), text)[0]
        x = x + (SHARES[index + 1] - SHARES[index]) * slope
        yield x


def alone(policy: Any, seed: int) -> tuple[Tensor, list[str]]:
    with bwcache.attach(wan_transformer(), policy) as session:
        *_, last = steps_of(session, seed)
    return last, [event.action for event in session.trace.events]


def in_turn(session: bwcache.Session, policies: dict[str, Any]) -> dict[str, Tensor]:
    """All requests, a step of each in turn."""
    begun: dict[str, Iterable[Tensor]] = {name: steps_of(session, seed) for seed, name in enumerate(policies)}
    made: dict[str, Tensor] = {}
    for _ in range(STEPS):
        for name, each in begun.items():
            with session.request(name, policies[name]):
                made[name] = next(iter(each))
    return made


@pytest.mark.parametrize(
    "policies",
    [[BLOCKS, BLOCKS], [CLEAN, bwcache.Planned(0.5)], [BLOCKS, CLEAN, bwcache.NeverReuse()], [None, CLEAN]],
    ids=["alike", "tolerances", "kinds", "the session's own"],
)
def test_each_is_what_it_is_alone(policies: list[Any]) -> None:
    asked = {f"request {i}": policy for i, policy in enumerate(policies)}
    with bwcache.attach(wan_transformer(), BLOCKS) as session:
        made = in_turn(session, asked)
        for name in asked:
            session.drop(name)
        traces = session.traces
    for seed, (name, policy) in enumerate(asked.items()):
        latents, line = alone(policy or BLOCKS, seed)
        assert torch.equal(made[name], latents)
        assert [event.action for event in traces[seed].events] == line
        assert traces[seed].meta["policy"] == (policy or BLOCKS).describe()


def test_one_that_is_given_up_leaves_nothing_and_the_others_go_on() -> None:
    handed: list[bwcache.Trace] = []
    with bwcache.attach(wan_transformer(), BLOCKS, on_trace=handed.append) as session:
        first, second = steps_of(session, 0), steps_of(session, 1)
        with session.request("first"):
            next(first)
        with session.request("second"):
            next(second)
        session.drop("first")
        session.drop("first")
        session.drop("never seen")
        assert [trace.steps for trace in handed] == [1]
        assert len(session._runs) == len(session._requests) == 1
        with session.request("second"):
            *_, last = second
        with session.request("first"):  # the name comes again: another run, from its beginning
            *_, again = steps_of(session, 0)
    assert torch.equal(last, alone(BLOCKS, 1)[0])
    assert torch.equal(again, alone(BLOCKS, 0)[0])


def test_one_may_come_back_in_another_thread() -> None:
    with bwcache.attach(wan_transformer(), BLOCKS) as session:
        steps, made = steps_of(session, 0), []

        def some(count: int) -> None:
            with session.request("moved"):
                made.extend(next(steps) for _ in range(count))

        for count in (3, STEPS - 3):
            thread = threading.Thread(target=some, args=(count,))
            thread.start()
            thread.join()
        session.drop("moved")
        assert session.trace.steps == STEPS
    assert torch.equal(made[-1], alone(BLOCKS, 0)[0])


def test_a_policy_that_does_not_fit_is_refused_and_the_present_one_stays() -> None:
    with bwcache.attach(wan_transformer(), BLOCKS) as session:
        with (
            pytest.raises(bwcache.BWCacheError, match="no U-Net"),
            session.request("bad", bwcache.DeepCache()),
        ):
            pytest.fail("it was taken")
        with pytest.raises(bwcache.SettingError, match="grade"), session.request("bad", "near-ish"):
            pytest.fail("it was taken")
        assert session.policy == BLOCKS
        *_, last = steps_of(session, 0)
    assert torch.equal(last, alone(BLOCKS, 0)[0])


def test_a_session_that_closes_frees_all_of_them() -> None:
    session = bwcache.attach(wan_transformer(), BLOCKS)
    for name in "ab":
        with session.request(name):
            next(steps_of(session, 0))
    session.close()
    assert [trace.steps for trace in session.traces] == [1, 1]
    assert not session._requests


def test_what_is_raised_within_one_ends_that_one() -> None:
    with bwcache.attach(wan_transformer(), BLOCKS) as session:
        first, second = steps_of(session, 0), steps_of(session, 1)
        with session.request("second"):
            next(second)
        with session.request("first"):
            next(first)
        module = session.denoisers["model"].stack.module
        with pytest.raises(RuntimeError), session.request("first"), session.step(index=1, branch="cond"):
            module(torch.zeros(1, 5, 1, 4, 4), torch.tensor([1.0]), torch.zeros(1, 3, 8))
        with session.request("second"):
            *_, last = second
    assert torch.equal(last, alone(BLOCKS, 1)[0])


def test_what_is_none_of_the_requests_runs_beside_them() -> None:
    with bwcache.attach(wan_transformer(), BLOCKS) as session:
        steps, last = steps_of(session, 0), None
        for _ in range(STEPS):
            with session.request("one"):
                last = next(steps)
            with session.aside():
                other = next(iter(steps_of(session, 5)))
        session.drop("one")
        assert [trace.steps for trace in session.traces] == [STEPS]
    assert torch.equal(last, alone(BLOCKS, 0)[0])
    with bwcache.attach(wan_transformer(), bwcache.NeverReuse()) as session:
        assert torch.equal(next(iter(steps_of(session, 5))), other)
