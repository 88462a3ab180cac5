"""Three hundred scenarios of the fuzzer, and what it stands on."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import bwcache
from bwcache import policies
from bwcache.features.weighted import Weighted
from tests import tiny
from tests.fuzz import oracle, replay
from tests.fuzz import scenario as scenarios
from tests.fuzz.oracle import check, quietly
from tests.fuzz.policies import Chosen
from tests.fuzz.reduce import as_test, reduced
from tests.fuzz.scenario import DIMENSIONS, KNOWN, Call, Copy, Do, Enter, Hook, Leave, Says, Scenario, draw, source

SEEDS = 300
CHUNK = 10
REPLAYING = Chosen("StepList", (("steps", "(0, 2)"),))


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_scenarios_keep_every_law(first: int) -> None:
    """One that does not is made small by `python -m tests.fuzz --n 1 --seed N`."""
    with quietly():
        found = {seed: check(draw(seed)) for seed in range(first, first + CHUNK)}
    assert {seed: findings for seed, findings in found.items() if findings} == {}


def test_a_seed_always_draws_the_same_scenario() -> None:
    assert [draw(seed) for seed in range(20)] == [draw(seed) for seed in range(20)]


def test_every_policy_is_drawn() -> None:
    """New ones too, without an edit here."""
    drawn = {draw(seed, frozenset()).policy.name for seed in range(300)}
    assert drawn == set(policies.known())


def test_what_is_known_to_fail_has_a_name() -> None:
    assert set(DIMENSIONS) >= KNOWN
    assert not any(DIMENSIONS[name](draw(seed)) for seed in range(100) for name in KNOWN)


def test_a_scenario_is_the_python_that_it_prints() -> None:
    for seed in range(50):
        scenario = draw(seed, frozenset())
        assert eval(source(scenario), {**vars(scenarios)}) == scenario


def test_a_failing_scenario_is_reduced_to_what_it_needs() -> None:
    scenario = Scenario(
        kind="ltx",
        scheduler="ancestral",
        policy=Chosen("FixedInterval", (("interval", "3"), ("warmup", "2"))),
        timing=True,
        script=(Hook(0), Enter("enable"), Call(steps=6, batch=3), Call(seed=2, nan=1), Copy(), Leave(), Call()),
    )
    smallest = reduced(scenario, lambda one: any(call.nan is not None for call in one.calls))
    assert smallest == Scenario(script=(Call(nan=1),)), source(smallest)
    assert "assert check(Scenario(script=(Call(nan=1),))) == []" in as_test(smallest, "seed_0")


def test_a_long_run_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    record = tmp_path / "fuzz.jsonl"

    def run(n: int) -> list[str]:
        command = [sys.executable, "-m", "tests.fuzz", "--n", str(n), "--jobs", "2", "--out", str(record)]
        made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        assert made.stdout.startswith(f"{n} scenarios, ")
        return record.read_text(encoding="utf-8").splitlines()

    first = run(1)
    assert len(first) == 1
    both = run(2)
    assert both[0] == first[0]
    assert [json.loads(line)["seed"] for line in both] == [0, 1]


def laws(scenario: Scenario) -> set[str]:
    with quietly():
        return {finding.law for finding in check(scenario)}


def test_brute_force_notices_another_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """A predictor that is a little off, one that takes the other branch's feature: what the fuzzer is for."""
    scenario = Scenario(policy=REPLAYING)
    assert laws(scenario) == set()
    exact = bwcache.Last.predict
    monkeypatch.setattr(bwcache.Last, "predict", lambda self, *args: exact(self, *args) * 1.001)
    assert laws(scenario) == {"replaying equals brute force"}


def test_a_row_too_few_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = replay.forwards
    monkeypatch.setattr(replay, "forwards", lambda *given: forwards(*given)[:-1])
    assert laws(Scenario(policy=REPLAYING)) == {"the trace says what happened"}


def test_an_attribute_that_stays_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = oracle.Attached.leave

    def leaving(part: oracle.Attached, stage: oracle.Stage) -> None:
        leave(part, stage)
        stage.main.pipe.transformer.blocks[0].left_behind = 1

    monkeypatch.setattr(oracle.Attached, "leave", leaving)
    assert laws(Scenario(policy=REPLAYING)) == {"leaving restores everything"}


def test_memory_stays_flat_over_300_runs() -> None:
    """A session for each run, and one for all: nothing of a run is left when it is over."""
    pipe = tiny.wan(layers=1)
    call = {**tiny.WAN.call, "height": 16, "width": 16, "num_inference_steps": 3}
    policy = bwcache.BWCache(threshold=10.0, reuse_interval=1, tail_guard=0)

    def run(times: int) -> None:
        for _ in range(times):
            tiny.WAN.run(pipe, **call)

    with quietly():
        with bwcache.attach(pipe, policy):
            run(50)
            before = _resident()
            run(100)
            assert _resident() - before < 4 * 2**20
        before = _resident()
        for _ in range(150):
            with bwcache.attach(pipe, policy):
                run(1)
        assert _resident() - before < 4 * 2**20


def _resident() -> int:
    """Bytes of main memory that this process holds."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc to read the memory of a process")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


GREEDY = Chosen("FirstBlock", (("threshold", "10.0"),))
NAMED = Says(index="right", total="right", branch="right")


def bare(*calls: Call, **settings: object) -> Scenario:
    """A loop over the bare denoiser."""
    return Scenario(bare=True, target="module", script=(Enter(), *calls, Leave()), **settings)  # type: ignore[arg-type]


def test_brute_force_replays_residuals(monkeypatch: pytest.MonkeyPatch) -> None:
    """What blocks add to their input, and what a denoiser adds to its latents."""
    scenarios = [
        Scenario(kind="flux", policy=GREEDY, script=(Enter(), Call(steps=6), Leave())),
        Scenario(
            kind="latte",
            policy=Chosen("EasyCache", (("threshold", "10.0"), ("warmup", "1"))),
            script=(Enter(), Call(steps=6), Leave()),
        ),
    ]
    assert [laws(one) for one in scenarios] == [set(), set()]
    exact = bwcache.Last.predict
    monkeypatch.setattr(bwcache.Last, "predict", lambda self, *args: exact(self, *args) * 1.001)
    assert [laws(one) for one in scenarios] == [{"replaying equals brute force"}] * 2


def test_what_is_kept_though_it_was_to_be_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(policy=REPLAYING, script=(Enter(), Call(does=(Do("invalidate", at=0),)), Leave()))
    assert laws(scenario) == set()
    monkeypatch.setattr(bwcache.Session, "invalidate", lambda self: None)
    assert laws(scenario) == {"the trace says what happened"}


def test_a_branch_that_is_taken_for_another_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program names the branches, in one batch or each in a forward of its own."""
    call = Call(order="either", says=NAMED, steps=6, batch=2)
    scenario = bare(call, kind="sd3", policy=Chosen("FixedInterval", (("interval", "3"),)))
    assert laws(scenario) == set()
    step = bwcache.Session.step

    def crossed(session: bwcache.Session, **said: object) -> object:
        if isinstance(said["branch"], str):
            said["branch"] = {"u": "c", "c": "u"}[said["branch"]]
        return step(session, **said)  # type: ignore[arg-type]

    monkeypatch.setattr(bwcache.Session, "step", crossed)
    assert laws(scenario) == {"the trace says what happened"}


def test_another_step_than_the_program_says_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = bare(Call(says=Says(index="late", total="right")))
    assert laws(scenario) == set()
    step = bwcache.Session.step
    monkeypatch.setattr(bwcache.Session, "step", lambda self, index, **said: step(self, index - 1, **said))
    assert laws(scenario) == {"the trace says what happened"}


def test_a_trace_too_many_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(script=(Enter(keep_traces=1), Call(), Call(), Call(), Leave()))
    assert laws(scenario) == set()
    attach = bwcache.attach
    monkeypatch.setattr(bwcache, "attach", lambda *args, **how: attach(*args, **{**how, "keep_traces": 2}))
    assert laws(scenario) == {"the last traces are held"}


def test_memory_that_the_trace_does_not_know_of_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(script=(Enter(max_memory=2**20), Call(), Leave()))
    assert laws(scenario) == set()
    monkeypatch.setattr("bwcache.engine.run.Run.note_bytes", lambda *given: None)
    assert laws(scenario) == {"memory is what it is said to be"}


def test_brute_force_foretells_clean_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held, along the line, and by a tuned list's weights; under a flow, unit size by time, and scaled latents."""
    tuned = (
        ("steps", "(0, 1, 3)"),
        ("rows", "((1.0,), (1.5, -0.5), (1.2, 0.1, -0.3))"),
        ("schedule", "tuple(1 - step / 6 for step in range(7))"),
    )
    named = bare(Call(says=Says(index="right", total="right", branch="right", noise=True), steps=6))
    script = (Enter(), Call(steps=6, batch=2), Leave())
    held = Chosen("Planned", (("computed", "3"), ("predictor", "bwcache.Last()"), ("ahead", "0")))
    foretold = Chosen("Planned", (("computed", "3"), ("ahead", "0")))
    scenarios = [
        Scenario(policy=held, script=script),
        Scenario(kind="cogvideox", scheduler="cogvideox ddim", policy=foretold, script=script),
        Scenario(kind="latte", scheduler="euler", policy=foretold, script=script),
        replace(named, policy=Chosen("Tuned", tuned)),
    ]
    assert [laws(one) for one in scenarios] == [set()] * 4
    for owner, name in ((bwcache.Last, "predict"), (bwcache.Bounded, "predict"), (Weighted, "predict")):
        exact = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda self, *args, exact=exact: exact(self, *args) * 1.001)
    assert [laws(one) for one in scenarios] == [{"clean latents equal brute force"}] * 4
