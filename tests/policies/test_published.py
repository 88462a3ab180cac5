"""What was published for a checkpoint: it is there with its source, can be made, and is refused where nothing is."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache import Policy, SettingError
from bwcache.policies import known
from bwcache.policies.known import shorts
from bwcache.policies.published import published_of
from bwcache.study.calibration import settings_for

ROWS = [(kind, name) for kind in known().values() for name in published_of(kind)]
MISSING = {
    "DBPrune": "cache-dit has one default for all models",
    "DeepCache": "its package has one default for all models",
    "Foresight": "the paper has one setting for all models",
    "HiCache": "the paper has one sigma for all models",
    "HierarchicalLatentCache": "its thresholds are in a supplement that could not be read",
    "MixCache": "its numbers are not known",
    "SenCache": "its epsilon is scaled by the size of the video",
}
"""Methods of others of which nothing is known for single models, and why."""

each_row = pytest.mark.parametrize(("kind", "name"), ROWS, ids=[f"{kind.__name__} {name}" for kind, name in ROWS])


@each_row
def test_what_is_published_fits_and_says_where_it_stands(kind: type[Policy[Any]], name: str) -> None:
    one = published_of(kind)[name]
    assert one.source
    if one.calibrates:
        assert {*one.settings} <= {*settings_for(kind)}
        return
    assert {*one.settings} <= {field.name for field in fields(kind)}
    needed = {"ratios": (1.0, 1.1)} if kind is bwcache.MagCache and "ratios" not in one.settings else {}
    policy = kind.published(name, **needed)
    assert policy.may_reuse or kind is bwcache.FlashBlock  # which reuses inside of attention
    assert all(getattr(policy, field) == value for field, value in one.settings.items())


def test_every_method_of_others_has_some_or_a_reason() -> None:
    own = {"the plain baseline", "this project"}
    others = {name for name, kind in known().items() if kind.entry and kind.entry.origin not in own}
    named = {name for name, kind in known().items() if published_of(kind)} | {"BWCache"}  # policies/presets.py
    assert others - named == {*MISSING}


@pytest.mark.parametrize("name", ["hunyuanvideo", "Hunyuan Video", "HunyuanVideo"])
def test_names_are_found_in_capitals_or_not(name: str) -> None:
    policy = bwcache.DiCache.published(name, probe=2)
    assert (policy.threshold, policy.most, policy.probe) == (0.1, 1.5, 2)


def test_what_is_not_there_is_refused_with_what_is_near() -> None:
    with pytest.raises(SettingError, match=r"nothing published of EasyCache for 'Wan2\.2'.*did you mean Wan2\.1\?"):
        bwcache.EasyCache.published("Wan2.2")
    with pytest.raises(SettingError, match=r"expected one of 30 steps fast, .*; name one of them"):
        bwcache.AdaCache.published("Mochi")
    with pytest.raises(SettingError, match=r"nothing published of MixCache for 'Wan'.*say its settings themselves"):
        bwcache.MixCache.published("Wan")
    with pytest.raises(SettingError, match=r"bwcache calibrate BlockCaching --set threshold=0\.5"):
        bwcache.BlockCaching.published("LDM-512")
    with pytest.raises(SettingError, match=r"of which ratios must be said.*bwcache calibrate MagCache.*table=FILE"):
        bwcache.MagCache.published("HunyuanVideo")


def test_a_subclass_has_none_of_the_method_that_it_derives_from() -> None:
    assert published_of(bwcache.TaylorSeer)
    assert not published_of(bwcache.HiCache)


def test_a_description_may_name_a_checkpoint_and_a_table(tmp_path: Path) -> None:
    (tmp_path / "ratios.json").write_text("[1.0, 1.1, 0.9]")
    described = {"name": "MagCache", "longest": 3, "published": "Wan2.1-T2V-14B", "table": tmp_path / "ratios.json"}
    assert bwcache.policy(described) == bwcache.MagCache((1.0, 1.1, 0.9), 0.24, 3, 0.2)
    with pytest.raises(SettingError, match="published with policy MixCache"):
        bwcache.policy({"name": "MixCache", "published": "Wan"})


def test_which_policies_have_short_ways() -> None:
    assert shorts(bwcache.MagCache) == ("table", "published")
    assert shorts(bwcache.EasyCache) == ("published",)
    assert shorts(bwcache.SenCache) == ("table",)
    assert shorts(bwcache.Adaptive) == ()
    assert "published" not in inspect.signature(bwcache.EasyCache).parameters
