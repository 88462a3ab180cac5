"""SmoothCache: its table, its lists and its replay, each against a second implementation by plain hooks."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import SettingError, SmoothCache, Trace
from tests import tiny
from tests.tiny import BY_NAME

STEPS, LONGEST = 8, 3
LAYERS = ("attn1", "attn2", "ffn")
CASE = BY_NAME["wan"]


def layers_of(transformer: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(block, name)) for block in transformer.blocks for name in LAYERS]


def outputs(seed: int) -> dict[tuple[int, str, int], list[Tensor]]:
    """What each layer of each block returned, by block, layer and branch, in all steps of an ordinary run."""
    pipe = tiny.wan()
    found: dict[tuple[int, str, int], list[Tensor]] = defaultdict(list)
    for place, (name, module) in enumerate(layers_of(pipe.transformer)):
        calls = [0]

        def noted(_m: Any, _a: Any, out: Tensor, place: int = place, name: str = name, calls: Any = calls) -> None:
            found[place // len(LAYERS), name, calls[0] % 2].append(out.clone())
            calls[0] += 1

        module.register_forward_hook(noted)
    CASE.run(pipe, seed, num_inference_steps=STEPS)
    return found


def table(seeds: tuple[int, ...]) -> dict[str, dict[tuple[int, int], float]]:
    """E by layer, for step and lag: |L(t) - L(t + k)| / |L(t + k)|, mean over runs, branches and blocks."""
    errors: dict[str, dict[tuple[int, int], list[float]]] = {name: defaultdict(list) for name in LAYERS}
    for seed in seeds:
        for (_, name, _), some in outputs(seed).items():
            for step in range(STEPS):
                for lag in range(1, LONGEST + 1):
                    if step + lag < STEPS:
                        new, old = some[step + lag].double(), some[step].double()
                        errors[name][step, lag].append(float((new - old).abs().sum() / new.abs().sum()))
    return {name: {where: sum(each) / len(each) for where, each in some.items()} for name, some in errors.items()}


def lists(threshold: float, found: dict[tuple[int, int], float]) -> tuple[int, ...]:
    """From each computed step the longest lag that is allowed; first and last are computed."""
    chosen, step = [], 0
    while step < STEPS:
        chosen.append(step)
        ahead = [lag for lag in range(1, LONGEST + 1) if step + lag < STEPS and found[step, lag] <= threshold]
        step += (max(ahead) if ahead else 0) + 1
    return tuple(sorted({*chosen, STEPS - 1}))


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    made = []
    for seed in (0, 1):
        pipe = tiny.wan()
        with bwcache.attach(pipe, SmoothCache.measuring(LONGEST)) as session:
            measured = CASE.run(pipe, seed, num_inference_steps=STEPS)
        assert torch.equal(measured, CASE.run(tiny.wan(), seed, num_inference_steps=STEPS))
        made.append(session.trace)
    return made


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[tuple[int, int], float]]:
    return table((0, 1))


def test_the_lists_are_those_of_a_second_implementation(traces: list[Trace], expected: Any) -> None:
    every = sorted({error for some in expected.values() for error in some.values()})
    thresholds = [0.0, every[0] * 0.5, *(every[len(every) * part // 8] * 1.0001 for part in range(1, 8)), 9.9]
    found = set()
    for threshold in thresholds:
        policy = SmoothCache.fitted(traces, threshold=threshold)
        assert policy.computed == {name: lists(threshold, expected[name]) for name in LAYERS}, threshold
        assert policy.steps == STEPS
        found.add(tuple(policy.computed.values()))
    assert len(found) > 4
    assert SmoothCache.fitted(traces, threshold=9.9).computed["attn1"] == (0, 4, 7)
    assert not SmoothCache.fitted(traces, threshold=0).may_reuse


def test_traces_that_were_written_make_the_same(traces: list[Trace], tmp_path: Any) -> None:
    for i, trace in enumerate(traces):
        trace.to_jsonl(tmp_path / f"{i}.jsonl")
    read = [Trace.from_jsonl(tmp_path / f"{i}.jsonl") for i in range(2)]
    assert SmoothCache.fitted(read, threshold=0.3) == SmoothCache.fitted(traces, threshold=0.3)


def test_it_replays_each_layer_bit_for_bit(traces: list[Trace]) -> None:
    policy = SmoothCache({"attn1": (0, 2, 5, 7), "ffn": (0, 1, 4, 7)}, STEPS)
    pipe = tiny.wan()
    kept: dict[tuple[int, int], Tensor] = {}
    for place, (name, module) in enumerate(layers_of(pipe.transformer)):
        steps, inner, calls = policy.computed.get(name), module.forward, [0]

        def forward(
            *args: Any, place: int = place, steps: Any = steps, inner: Any = inner, calls: Any = calls, **kw: Any
        ) -> Tensor:
            step, branch = divmod(calls[0], 2)
            calls[0] += 1
            if steps is None or step in steps:
                kept[place, branch] = inner(*args, **kw).clone()
            return kept[place, branch].clone()

        module.forward = forward
    by_hand = CASE.run(pipe, num_inference_steps=STEPS)
    pipe = tiny.wan()
    with bwcache.attach(pipe, policy) as session:
        assert torch.equal(CASE.run(pipe, num_inference_steps=STEPS), by_hand)
    assert {event.site.rpartition(".")[2] for event in session.trace.events} == {"attn1", "ffn"}
    with bwcache.attach(pipe, policy), pytest.raises(SettingError, match="found lists for 8 steps; expected for 6"):
        CASE.run(pipe, num_inference_steps=6)


def test_what_cannot_be_fitted_is_refused(traces: list[Trace]) -> None:
    with pytest.raises(SettingError, match=r"BWCache to be calibrated; expected a policy with a table"):
        bwcache.BWCache.fitted(traces)
    with pytest.raises(SettingError, match="to be calibrated"):
        bwcache.EasyCache.measuring()
    for wrong in ([], [Trace()], [*traces, Trace(traces[0].meta)]):
        if len(wrong) < 3:
            with pytest.raises(SettingError, match="traces of"):
                SmoothCache.fitted(wrong)
    other = Trace({"policy": {"name": "NeverReuse"}}, traces[0].events)
    with pytest.raises(SettingError, match=r"under SmoothCache.measuring"):
        SmoothCache.fitted([other])


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(
        SettingError, match=r"layers 'attn9' of WanTransformer3DModel; expected some of: attn1, attn2, ffn"
    ):
        bwcache.attach(tiny.wan(), SmoothCache({"attn9": (0,)}))
    for wrong in ({"attn1": (1, 2)}, {"attn1": (0, -1)}, 3):
        with pytest.raises(SettingError, match="computed"):
            SmoothCache(wrong)  # type: ignore[arg-type]
