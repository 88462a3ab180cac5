"""Tables in files: what calibrate writes goes there and back, and tables as the methods' authors publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bwcache
from bwcache import MagCache, Policy, SenCache, SettingError, SmoothCache, TeaCache
from bwcache.engine.made_for import scheduler_settings
from bwcache.models.weights import architecture, weight_sample
from bwcache.policies import known
from bwcache.policies.calibrated_file import CalibratedFile, read_policy_file
from bwcache.policies.table_file import table_of
from tests import tiny
from tests.policies.test_known import EVERY

WITH_TABLE = {name: kind for name, kind in known().items() if table_of(kind) is not None}
each_with_table = pytest.mark.parametrize("kind", WITH_TABLE.values(), ids=WITH_TABLE)


def made_for(pipe: Any, **changed: Any) -> dict[str, Any]:
    sample = weight_sample(pipe.transformer)
    assert sample is not None
    settings = scheduler_settings(pipe.scheduler)
    return {
        "model": "tiny",
        "denoiser": type(pipe.transformer).__name__,
        "architecture": architecture(pipe.transformer),
        "weight_sample": sample.to_json(),
        "scheduler": {"class": type(pipe.scheduler).__name__, "predicts": "flow", "settings": settings},
        **changed,
    }


def written(path: Path, policy: Policy[Any], made: dict[str, Any] | None = None) -> Path:
    path.write_text(json.dumps(CalibratedFile(policy, made or {}, {}).to_json()))
    return path


def kind_in_every(kind: type[Policy[Any]]) -> Policy[Any]:
    return next(policy for policy in EVERY if type(policy) is kind)


@each_with_table
def test_a_table_goes_there_and_back(kind: type[Policy[Any]], tmp_path: Path) -> None:
    policy, table = kind_in_every(kind), table_of(kind)
    assert table is not None
    path = written(tmp_path / "table.json", policy)
    assert kind.load(path) == kind.load(str(path)) == policy
    assert bwcache.policy(path) == bwcache.policy(str(path)) == read_policy_file(path).policy == policy
    for said in (table.fields[0], "table"):
        named = {"name": kind.__name__, said: str(path)}
        assert {getattr(bwcache.policy(named), field) == getattr(policy, field) for field in table.fields} == {True}


@each_with_table
def test_a_table_of_another_method_is_refused(kind: type[Policy[Any]], tmp_path: Path) -> None:
    other = next(one for one in WITH_TABLE.values() if one is not kind)
    path = written(tmp_path / "table.json", kind_in_every(other))
    with pytest.raises(SettingError, match=rf"a table of {other.__name__} in .*; expected one of {kind.__name__}"):
        kind.load(path)


def test_settings_beside_a_table(tmp_path: Path) -> None:
    path = written(tmp_path / "table.json", MagCache((1.0, 0.9), threshold=0.2, longest=5))
    assert MagCache.load(path, longest=4) == MagCache((1.0, 0.9), 0.2, 4)
    assert bwcache.policy({"name": "MagCache", "ratios": str(path)}) == MagCache((1.0, 0.9))
    with pytest.raises(SettingError, match=r"found a table for DBCache; expected a policy that has one"):
        bwcache.DBCache.load(path)
    with pytest.raises(SettingError, match=r"policy BWCache in .*; expected one with a table"):
        bwcache.policy(written(path, bwcache.BWCache()))


def raw(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_ratios_as_magcache_publishes_them(tmp_path: Path) -> None:
    one, turns = [1.0, 1.21, 1.1, 0.9], [1.0, 1.0, 1.2, 1.4, 0.9, 0.7]
    assert MagCache.load(raw(tmp_path / "a.json", one), longest=2) == MagCache(tuple(one), longest=2)
    found = MagCache.load(raw(tmp_path / "b.json", turns))
    assert found.ratios == pytest.approx((1.0, 1.3, 0.8))
    for wrong in ([], [0.9, 1.1], ["1"], {"ratios": one}, 3, None):
        with pytest.raises(SettingError, match=r"no table of MagCache in .*a list of ratios, 1 first; 1 twice"):
            MagCache.load(raw(tmp_path / "c.json", wrong))


def test_coefficients_as_teacache_publishes_them(tmp_path: Path) -> None:
    published = TeaCache.published("Latte")
    path = raw(tmp_path / "latte.json", list(published.coefficients))
    assert TeaCache.load(path, threshold=0.1) == published
    for wrong in ([], [1.0], [1.0, "2"], {"coefficients": [1, 2]}):
        with pytest.raises(SettingError, match=r"no table of TeaCache in .*the highest power first"):
            TeaCache.load(raw(tmp_path / "c.json", wrong))


def test_schedules_as_smoothcache_publishes_them(tmp_path: Path) -> None:
    path = raw(tmp_path / "schedule.json", {"attn1": [1, 0, 0, 1, 1], "ffn": [1, 1, 0, 0, 1]})
    assert SmoothCache.load(path) == SmoothCache({"attn1": (0, 3, 4), "ffn": (0, 1, 4)}, 5)
    odd: list[Any] = [
        {},
        [1, 0],
        {"attn1": [0, 1]},
        {"attn1": [1, 2]},
        {"attn1": [1], "ffn": [1, 0]},
        {"attn-0": [1, 0]},
    ]
    for wrong in [*odd, *({"attn1": [1, each]} for each in ([], {}, None, "1", [0]))]:
        with pytest.raises(SettingError, match=r"no table of SmoothCache in .*by kind of layer a list of 1 and 0"):
            SmoothCache.load(raw(tmp_path / "c.json", wrong))


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_sensitivities_as_sencache_publishes_them(suffix: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"timesteps": [900.0, 500.0], "J_x_norm": [0.5, 0.25], "J_t_norm": [4.0, 2.0]}
    path = tmp_path / f"sensitivity{suffix}"

    def put(**more: Any) -> str:
        if suffix == ".json":
            return raw(path, {**arrays, **more})
        named: dict[str, Any] = {name: np.array(value) for name, value in {**arrays, **more}.items()}
        np.savez(path, **named)
        return str(path)

    assert SenCache.load(put(entries=400)).sensitivities == ((900.0, 0.5, 0.2), (500.0, 0.25, 0.1))
    assert bwcache.policy({"name": "SenCache", "sensitivities": str(path), "longest": 2}).longest == 2  # type: ignore[attr-defined]
    with pytest.raises(SettingError, match=r"J_t_norm without the number of entries .*; expected entries"):
        SenCache.load(put())
    with pytest.raises(SettingError, match="no table of SenCache"):
        SenCache.load(put(J_x_norm=[1.0]))


@pytest.mark.parametrize("name", ["gone.npz", "damaged.npz", "pickled.npz", "gone.json", "damaged.json"])
def test_files_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "pickled.npz":
        np.savez(path, timesteps=np.array([{}], dtype=object))
    elif name.startswith("damaged"):
        path.write_bytes(b"{")
    with pytest.raises(
        SettingError, match=r"found a file .* that (cannot be read|is damaged) \(.*\); expected"
    ) as ended:
        SenCache.load(path if name.endswith("json") else str(path))
    assert "\n" not in str(ended.value)


@pytest.mark.parametrize("odd", ["x\n", "a" * 100_000], ids=["a line's end", "long"])
def test_odd_names_in_a_file_are_repeated_on_one_short_line(odd: str, tmp_path: Path) -> None:
    content = CalibratedFile(MagCache((1.0, 0.9)), {}, {}).to_json()
    policies: list[Any] = [odd, {**content["policy"], odd: 1}, {**content["policy"], "name": odd}]
    for policy in policies:
        with pytest.raises(SettingError) as ended:
            MagCache.load(raw(tmp_path / "a.json", {**content, "policy": policy}))
        assert "\n" not in str(ended.value)
        assert len(str(ended.value)) < 1000


def test_a_file_is_attached_and_held_against_the_model(tmp_path: Path) -> None:
    pipe = tiny.wan()
    policy = MagCache((1.0, *[0.99] * 9), 0.5)
    path = written(tmp_path / "table.json", policy, made_for(pipe))
    with bwcache.attach(pipe, policy):
        expected = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, path) as session:
        assert torch.equal(tiny.WAN.run(pipe), expected)
    assert session.trace.reused > 0
    with pytest.raises(SettingError, match=r"found CogVideoX.* under a file calibrated for WanTransformer3DModel"):
        bwcache.attach(tiny.cogvideox(), path)
    smaller = made_for(pipe)
    smaller["architecture"]["num_layers"] = 40
    with pytest.raises(SettingError, match=r"another WanTransformer3DModel \(num_layers .* under a calibrated file"):
        bwcache.attach(pipe, written(tmp_path / "other.json", policy, smaller))
    strange = made_for(pipe) | {"denoiser": "x\n" * 10_000}
    with pytest.raises(SettingError) as ended:
        bwcache.attach(pipe, written(tmp_path / "other.json", policy, strange))
    assert len(str(ended.value)) < 500
    assert "\n" not in str(ended.value)
    with torch.no_grad():
        pipe.transformer.blocks[1].attn1.to_q.weight.mul_(1.01)
    with pytest.warns(bwcache.OtherWeightsWarning, match="than it was calibrated for"), bwcache.attach(pipe, path):
        pass


@each_with_table
def test_another_schedule_is_refused_where_the_table_is_of_one(kind: type[Policy[Any]], tmp_path: Path) -> None:
    pipe, policy, table = tiny.wan(), kind_in_every(kind), table_of(kind)
    assert table is not None
    made = made_for(pipe)
    made["scheduler"]["settings"] = {**made["scheduler"]["settings"], "num_train_timesteps": 7}
    other = {**made, "scheduler": {**made["scheduler"], "class": "OtherScheduler", "settings": {}}}
    for content, says in ((made, r"with num_train_timesteps \d+ under a file .* num_train_timesteps 7"),
                          (other, r"under a file calibrated for OtherScheduler")):  # fmt: skip
        path = written(tmp_path / "table.json", policy, content)
        if table.holds_for == "model":
            expect = bwcache.engine.made_for
            expect.expect_fits(pipe, read_policy_file(path))
        else:
            with pytest.raises(SettingError, match=says):
                bwcache.attach(pipe, path)


def test_ratios_of_other_steps_are_stretched_and_the_trace_says_so() -> None:
    with bwcache.attach(pipe := tiny.wan(), MagCache((1.0, *[0.99] * 4), 0.5)) as session:
        tiny.WAN.run(pipe)
    reasons = {event.reason for event in session.trace.events}
    assert "warm-up (the first 2 steps; by the ratios of 5 steps, stretched)" in reasons
    assert any(reason.endswith("<= 0.5; by the ratios of 5 steps, stretched)") for reason in reasons)
