"""The benchmark of every method for GPUs, run tiny on a CPU, so that it works on the day when there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu_methods
from bwcache.policies import known

SOME = ("BWCache", "EasyCache", "PyramidAttentionBroadcast", "Tuned")
"""All blocks, the denoiser itself, parts, and clean latents."""

SCHEDULE = tuple(1 - i / gpu_methods.STEPS for i in range(gpu_methods.STEPS + 1))


def test_every_policy_is_measured_or_has_a_reason() -> None:
    every = gpu_methods.methods(2, SCHEDULE)
    assert {*every} | {*gpu_methods.ELSEWHERE} == {*known()}
    assert not {*every} & {*gpu_methods.ELSEWHERE}
    assert all(policy.may_reuse for policy in every.values())


def test_it_runs_tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    of_all = gpu_methods.methods
    monkeypatch.setattr(gpu_methods, "methods", lambda *of: {name: of_all(*of)[name] for name in SOME})
    gpu_methods.main(small=True, out=tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    for name in SOME:
        one = found["not compiled"]["methods"][name]
        assert one["finite"]
        assert one["reuse_rate"] >= 0.5
        assert one["seconds_per_reused_step"] > 0
        assert one["seconds_per_computed_step"] > 0
        assert one["kept_bytes"] > 0
    compiled = found["compiled"]["methods"]
    assert [compiled[name]["compiled_again"] for name in ("BWCache", "EasyCache", "Tuned")] == [0, 0, 0]
    assert "within a compiled block" in compiled["PyramidAttentionBroadcast"]["refused"]


def test_what_does_not_fit_into_the_time_is_named(tmp_path: Path) -> None:
    gpu_methods.main(small=True, minutes=0, out=tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["not compiled"]["methods"]["TeaCache"] == {"skipped": "no time was left for it"}
