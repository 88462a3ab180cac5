"""Policies by name, and from what they say of themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache import Decision, Observation, Policy, SettingError, compute, policies
from bwcache.policies import known, named

EVERY: list[Policy[Any]] = [
    bwcache.BWCache(),
    bwcache.BWCache(0.2, 3, 0, sample=1, blocks=(0, -1), decision="per_branch", predictor=bwcache.Taylor(2)),
    bwcache.BWCache(interval_unit="progress", predictor=bwcache.Linear()),
    bwcache.Adaptive(),
    bwcache.Adaptive(0.1, 0.3, bwcache.Last()),
    bwcache.FixedInterval(3, 2, 0, bwcache.Damped()),
    bwcache.NeverReuse(),
    bwcache.NeverReuse(measures="default"),
    bwcache.NeverReuse(measures=0.5),
    bwcache.StepList((0, 1, 5)),
    bwcache.StepList(((0, 1), (0, 2)), bwcache.Linear()),
    bwcache.FirstBlock(0.1),
    bwcache.PyramidAttentionBroadcast(3, 2, 1, cross_window=(0, 900.5)),
    bwcache.Foresight(2, 3, 0.2),
    bwcache.EasyCache(0.1, 5),
    bwcache.MagCache((1.0, 1.2, 0.9), 0.12, 4),
    bwcache.SeaCache(0.3, 0, None, 2, 0, 2.0),
    bwcache.DiCache(0.4, 2, 2.0, 0.1),
    bwcache.DBCache(0.12, 4, 2, 4, 3, 20),
    bwcache.AdaCache((0.1, 0.2), (4, 2, 1), moreg=True),
    bwcache.HierarchicalLatentCache((0.1, 0.2), (5, 2, 1), 3),
    bwcache.BWCache(0.15, retrigger=False),
    bwcache.SenCache(((900.0, 0.5, 0.001), (100.0, 0.9, 0.002)), 0.1, 0.01, 2),
    bwcache.TeaCache(0.2, (1.0, -0.5, 0.1), "time", 5, 0),
    bwcache.Planned(0.02),
    bwcache.Planned(computed=9, predictor=bwcache.Bounded(0.5, 1.0)),
    bwcache.Tuned((0, 1), ((1.0,), (1.5, -0.5)), (1.0, 0.6, 0.3, 0.0), "WanTransformer3DModel"),
    bwcache.SmoothCache({"attn1": (0, 2, 5), "ffn": (0, 1)}, 8),
    bwcache.TaylorSeer(6, 2, 2, lite=True),
    bwcache.Spectrum(2, 3, degree=3, share=0.5),
    bwcache.MeanCache((0, 1, 5), (1, 2, 3), 8),
    bwcache.SpeCa(1.0, 0.1, 0.1, 4, 12, 1, lite=True),
    bwcache.DBPrune(0.1, 1, 1, 4, dynamic=True),
    bwcache.DeepCache(5, 4),
    bwcache.BlockCaching({"mid_block.attentions.0": (0, 2, 5)}, 8),
    bwcache.BlockwiseAdaptiveCache({"blocks.0.attn1": (0, 2, 5), "blocks.0.ffn": (0,)}, 8),
    bwcache.SkipDiT(3, 900, 100),
    bwcache.Sortblock(4, 0.2, 900, 20, (0.001, 0.2)),
    bwcache.FasterCache(3, weight=0.3, guidance=6, low_window=(0, 900.5)),
    bwcache.FlashBlock(3, 100, 0.1),
    bwcache.FlowCache(0.02, 4, 0, "modulated", (1.5, 0.1)),
    bwcache.MixCache(2, 4, 6, impact=(1.0, 0.5, 2.0), penalty=3.0),
    bwcache.HiCache(5, 3, sigma=0.4),
    bwcache.Guarded(bwcache.BWCache(0.2, predictor=bwcache.Linear()), 3, 2, 4),
    bwcache.Guarded(bwcache.Guarded(bwcache.FirstBlock())),
    bwcache.PerDenoiser(
        {"transformer": bwcache.FixedInterval(3), "transformer_2": bwcache.Guarded(bwcache.EasyCache())}
    ),
]


@dataclass(frozen=True)
class Wrapped(Policy[None]):
    """A policy of a test: it holds another one, and one for each expert."""

    inner: Policy[Any] = field(default_factory=bwcache.BWCache)
    experts: dict[str, Policy[Any]] = field(default_factory=dict)
    stages: tuple[Policy[Any], ...] = ()
    share: float = 0.5

    def init(self) -> None:
        return None

    def decide(self, observation: Observation, state: None) -> Decision:
        return compute("always")


NESTED = Wrapped(
    bwcache.Adaptive(predictor=bwcache.Taylor(2)),
    {"transformer": bwcache.FixedInterval(3)},
    (bwcache.BWCache(blocks=(0, 1)), Wrapped()),
)


@pytest.mark.parametrize("one", [*EVERY, NESTED], ids=repr)
def test_a_description_makes_the_policy_again(one: Policy[Any]) -> None:
    described = one.describe()
    assert bwcache.policy(described) == one
    written = json.loads(json.dumps(described))
    again = bwcache.policy(written)
    assert again == one
    assert json.loads(json.dumps(again.describe())) == written


def test_every_policy_of_the_package_is_among_them() -> None:
    assert {type(one) for one in EVERY} == set(known().values())


def test_a_description_may_leave_fields_out_and_write_words() -> None:
    made = bwcache.policy({"name": "fixed-interval", "interval": 4, "predictor": "taylor:2"})
    assert made == bwcache.FixedInterval(4, predictor=bwcache.Taylor(2))


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({}, "found {} without the name of a policy; expected 'name': one of AdaCache or Adaptive or "),
        ([], "found [], which describes no policy; expected a dictionary of a policy's name and fields; write {'name'"),
        ({"name": 3}, "found {'name': 3} without the name of a policy"),
        ({"threshold": 0.1}, "say which policy has these fields"),
        ("EasyCache", "write {'name': 'EasyCache'}, or what a policy's describe() returned"),
        (bwcache.BWCache(), "it is a policy already: attach it as it is"),
        (bwcache.BWCache, "make one of it: BWCache(…)"),
        ({"name": "Adaptive", 3: 4}, "which describes no policy"),
        ({"name": "BWCash"}, "did you mean BWCache?"),
        ({"name": "BWCache", "thresold": 1}, "did you mean threshold?"),
        ({"name": "BWCache", "threshold": "much"}, "threshold 'much'; expected a number"),
        ({"name": "BWCache", "threshold": True}, "threshold True"),
        ({"name": "BWCache", "threshold": 10**400}, "threshold 1000"),
        ({"name": "BWCache", "threshold": -1}, "threshold -1"),
        ({"name": "BWCache", "predictor": "Cubic()"}, "predictor 'Cubic()'"),
        ({"name": "BWCache", "blocks": [0.5]}, "blocks [0.5]"),
        ({"name": "StepList"}, "of which steps must be said"),
        ({"name": "Guarded"}, "of which policy must be said"),
        ({"name": "Guarded", "policy": "BWCash"}, "policy 'BWCash'; expected "),
        ({"name": "Guarded", "policy": "bwcache", "tail": -1}, "tail -1"),
        ({"name": "PerDenoiser", "policies": {}}, "policies {}"),
        ({"name": "PerDenoiser", "policies": {"transformer": 3}}, "3}; expected a dictionary, each value "),
        ({"name": "no.such.module:Policy"}, "cannot be imported"),
        ({"name": "bwcache.errors:SettingError"}, "which is no policy"),
    ],
)
def test_what_is_no_description_is_refused(described: Any, said: str) -> None:
    with pytest.raises(SettingError) as error:
        bwcache.policy(described)
    assert said in str(error.value)


def test_what_may_stand_inside_is_what_may_stand_alone() -> None:
    with pytest.raises(SettingError) as error:
        bwcache.policy({"name": "Guarded", "policy": "BWCash"})
    offered = str(error.value).partition("expected ")[2].partition(";")[0].split(" or ")
    assert {name.lower() for name in known()} <= set(offered)
    assert not [name for name in offered if name.startswith("measuring")]


def test_names() -> None:
    for name in ("FixedInterval", "fixed-interval", "fixed_interval", "fixedinterval", "FIXEDINTERVAL"):
        assert named(name) is bwcache.FixedInterval
    assert named("wrapped") is Wrapped
    assert named(f"{__name__}:Wrapped") is Wrapped
    assert "Wrapped" not in known()


def test_what_the_package_exports_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "Wrapped", Wrapped, raising=False)
    monkeypatch.setattr(policies, "__all__", [*policies.__all__, "Wrapped"])
    assert known()["Wrapped"] is Wrapped


def test_inside_of_another_policy_a_table_may_be_a_file_and_settings_those_of_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "ratios.json"
    file.write_text("[1.0, 1.1, 0.9]")
    expected = bwcache.Guarded(bwcache.MagCache((1.0, 1.1, 0.9), threshold=0.24, longest=6, retention=0.2), tail=2)
    said = {"name": "MagCache", "table": str(file), "published": "Wan2.1-T2V-14B"}
    assert bwcache.policy({"name": "Guarded", "policy": said, "tail": 2}) == expected
    words = f"MagCache(table={file}, published=Wan2.1-T2V-14B)", f"magcache:ratios='{file}',published=HunyuanVideo"
    for written in words:
        assert bwcache.policy({"name": "Guarded", "policy": written, "tail": 2}) == expected
    assert bwcache.policy({"name": "Guarded", "policy": "DiCache(published=HunyuanVideo, probe=2)"}) == bwcache.Guarded(
        bwcache.DiCache.published("HunyuanVideo", probe=2)
    )


@pytest.mark.parametrize("said", ["MagCache", "MagCache(threshold=0.1)", {"name": "MagCache", "threshold": 0.1}])
def test_inside_of_another_policy_a_table_that_is_missing_is_named(said: Any) -> None:
    with pytest.raises(SettingError, match=r"MagCache, of which ratios must be said.*bwcache calibrate MagCache"):
        bwcache.policy({"name": "Guarded", "policy": said})
