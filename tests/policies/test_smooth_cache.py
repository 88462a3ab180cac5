"""SmoothCache: its replay is the authors' package bit for bit; table and lists are those of a second implementation."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import SettingError, SmoothCache, Trace
from tests import tiny
from tests.policies.proof import HOOKS, proves
from tests.tiny import BY_NAME

STEPS, LONGEST = 8, 3
CASE = BY_NAME["wan"]
LISTS = ("blocks", "transformer_blocks", "single_transformer_blocks")
LAYERS = {"wan": ("attn1", "attn2", "ffn"), "ltx": ("attn1", "attn2", "ff")}


def layers_of(transformer: Any, layers: tuple[str, ...]) -> list[tuple[str, Any]]:
    blocks = [block for part in LISTS for block in getattr(transformer, part, ())]
    return [(name, getattr(block, name)) for block in blocks for name in layers]


def outputs(case: tiny.Case, seed: int) -> dict[tuple[int, str, int], list[Tensor]]:
    """What each layer of each block returned, by block, layer and branch, in all steps of an ordinary run."""
    pipe, layers, branches = case.build(), LAYERS[case.name], len(case.branches)
    found: dict[tuple[int, str, int], list[Tensor]] = defaultdict(list)
    for place, (name, module) in enumerate(layers_of(pipe.transformer, layers)):
        calls = [0]

        def noted(_m: Any, _a: Any, out: Tensor, place: int = place, name: str = name, calls: Any = calls) -> None:
            found[place // len(layers), name, calls[0] % branches].append(out.clone())
            calls[0] += 1

        module.register_forward_hook(noted)
    case.run(pipe, seed, num_inference_steps=STEPS)
    return found


def table(case: tiny.Case, seeds: tuple[int, ...]) -> dict[str, dict[tuple[int, int], float]]:
    """E by layer, for step and lag: |L(t) - L(t + k)| / |L(t + k)|, mean over runs, branches and blocks."""
    errors: dict[str, dict[tuple[int, int], list[float]]] = {name: defaultdict(list) for name in LAYERS[case.name]}
    for seed in seeds:
        for (_, name, _), some in outputs(case, seed).items():
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


def measured(case: tiny.Case) -> list[Trace]:
    made = []
    for seed in (0, 1):
        pipe = case.build()
        with bwcache.attach(pipe, SmoothCache.measuring(LONGEST)) as session:
            found = case.run(pipe, seed, num_inference_steps=STEPS)
        assert torch.equal(found, case.run(case.build(), seed, num_inference_steps=STEPS))
        made.append(session.trace)
    return made


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return measured(CASE)


@proves(SmoothCache, HOOKS, "the table that is measured, and the lists")
@pytest.mark.parametrize("name", LAYERS)
def test_the_lists_are_those_of_a_second_implementation(name: str) -> None:
    case, layers = BY_NAME[name], LAYERS[name]
    traces, expected = measured(case), table(case, (0, 1))
    every = sorted({error for some in expected.values() for error in some.values()})
    thresholds = [0.0, every[0] * 0.5, *(every[len(every) * part // 8] * 1.0001 for part in range(1, 8)), 9.9]
    found = set()
    for threshold in thresholds:
        policy = SmoothCache.fitted(traces, threshold=threshold)
        assert policy.computed == {layer: lists(threshold, expected[layer]) for layer in layers}, threshold
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


def helper_module() -> ModuleType:
    """The file of the package that has its helper: the package itself warns of what else it does not find."""
    found = importlib.util.find_spec("SmoothCache")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs dit-smoothcache")
    path = Path(found.submodule_search_locations[0]) / "smooth_cache_helper.py"
    spec = importlib.util.spec_from_file_location("smooth_cache_helper", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def package(pipe: Any, schedule: dict[str, list[int]], branches: int) -> Iterator[None]:
    """The package at work, with its counters and what it keeps once for each branch: it has one of each."""
    model = pipe.transformer
    blocks = list({type(block) for name in LISTS for block in getattr(model, name, ())})
    helper = helper_module().SmoothCacheHelper(model, blocks, list(schedule), schedule)
    states: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {}) for _ in range(branches)]
    forwards = [0]

    def takes_turns(*_: Any) -> None:
        helper.cache, helper.current_steps = states[forwards[0] % branches]
        forwards[0] += 1

    hook = model.register_forward_pre_hook(takes_turns)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()
        hook.remove()


CHOSEN: dict[str, dict[str, tuple[int, ...]]] = {
    "wan": {"attn1": (0, 2, 5, 7), "attn2": (0, 3), "ffn": (0, 1, 4, 7)},
    "wan_unguided": {"attn1": (0, 2, 5, 7), "ffn": (0, 1, 4, 7)},
    "ltx": {"attn1": (0, 2, 5, 7), "attn2": (0, 3), "ff": (0, 1, 4, 7)},
    "cogvideox": {"attn1": (0, 2, 5, 7), "ff": (0, 1, 4, 7)},
    "hunyuan": {"attn": (0, 2, 5, 7), "ff": (0, 1, 4, 7)},
}
"""By tiny pipeline, the computed steps of some of its layers."""


@proves(SmoothCache, "the authors' package, with a state for each branch")
@pytest.mark.parametrize("name", CHOSEN)
def test_it_is_the_package_bit_for_bit(name: str, capsys: Any) -> None:
    case, computed = BY_NAME[name], CHOSEN[name]
    schedule = {layer: [int(step in steps) for step in range(STEPS)] for layer, steps in computed.items()}
    pipe = case.build()
    with package(pipe, schedule, len(case.branches)):
        expected = case.run(pipe, num_inference_steps=STEPS)
    assert "Returning cached result" in capsys.readouterr().out
    with bwcache.attach(pipe, SmoothCache(computed, STEPS)) as session:
        assert torch.equal(case.run(pipe, num_inference_steps=STEPS), expected)
    assert not torch.equal(case.run(pipe, num_inference_steps=STEPS), expected)
    for event in session.trace.events:
        layer = event.site.rpartition(".")[2]
        assert (event.action == "compute") == (event.step in computed[layer])
    assert {event.site.rpartition(".")[2] for event in session.trace.events} == set(computed)


def test_another_number_of_steps_is_refused() -> None:
    pipe, policy = tiny.wan(), SmoothCache(CHOSEN["wan"], STEPS)
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
