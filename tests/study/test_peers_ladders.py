"""The field of a bench: every method there, settings from careful to bold, nothing twice."""

from __future__ import annotations

import dataclasses
import json

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from bwcache import SettingError
from bwcache.study.peers import Guards, Peer
from bwcache.study.peers.ladders import METHODS, Terms, chosen, ladders

TERMS = Terms(30, Guards(3, 2), FlowMatchEulerDiscreteScheduler(), (1.0,) * 30)


def test_all_methods_are_there_with_ladders() -> None:
    everyone = ladders(chosen(None), [TERMS])
    families: dict[str, int] = {}
    for one in everyone:
        families[one.family] = families.get(one.family, 0) + 1
    assert set(families) == {
        "BWCache as published", "BWCache, linear", "Adaptive", "fixed interval", "fixed interval, linear",
        "fewer steps", "fewer steps, UniPC", "fewer steps, DPM++ 2M", "First-Block Cache", "MagCache", "TaylorSeer",
        "TaylorSeer lite", "SeaCache", "PAB", "FasterCache", "DBCache", "DBCache + TaylorSeer",
    }  # fmt: skip
    assert all(5 <= count <= 8 for count in families.values())
    assert len({one.label for one in everyone}) == len(everyone)
    keys = {json.dumps([one.family, one.settings()], allow_nan=False) for one in everyone}
    assert len(keys) == len(everyone)


def test_the_guards_reach_every_method_that_has_them() -> None:
    for one in ladders(chosen(None), [TERMS]):
        settings = one.settings()
        if isinstance(one, Peer):
            assert settings["guards"] == {"warmup": 3, "tail": 2}
        elif one.family.startswith("fixed"):
            assert (settings["warmup"], settings["tail"]) == (3, 2)


def test_quick_is_two_settings_of_each() -> None:
    families = [one.family for one in ladders(chosen(None), [TERMS], quick=True)]
    assert {families.count(family) for family in families} == {2}
    assert len(set(families)) == 17


def test_several_guards_are_all_tried_where_a_method_has_them() -> None:
    both = [TERMS, dataclasses.replace(TERMS, guards=Guards(6, 2))]
    one, two = ladders(chosen(None), [TERMS]), ladders(chosen(None), both)
    assert len({method.label for method in two}) == len(two)
    once = [method for method in one if method.family.startswith(("BWCache", "fewer steps"))]
    assert len(two) == 2 * len(one) - len(once)
    assert [method for method in two if method.family.startswith(("BWCache", "fewer steps"))] == once
    assert {method.label for method in one} < {method.label for method in two}
    quick = [method.label for method in ladders(("pab",), both, quick=True)]
    assert quick == ["PAB (every 2, cross 6, warmup 3)", "PAB (every 4, cross 8, warmup 6)"]


def test_a_choice_is_kept_in_order_and_a_wrong_name_shows_all() -> None:
    assert chosen(" seacache,bwcache, seacache") == ("seacache", "bwcache")
    assert [one.family for one in ladders(("pab",), [TERMS])] == ["PAB"] * 6
    with pytest.raises(SettingError) as error:
        chosen("seacache,teacache")
    assert str(error.value).startswith("found method 'teacache'; expected some of bwcache, bwcache-linear, ")
    assert all(name in str(error.value) for name in METHODS)
