"""Every field of every policy given values of every kind: a policy, or one line that says what is wrong."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import bwcache
from bwcache import SettingError

POLICIES: dict[type[bwcache.Policy], dict[str, object]] = {
    bwcache.BWCache: {},
    bwcache.Adaptive: {},
    bwcache.FixedInterval: {},
    bwcache.NeverReuse: {},
    bwcache.StepList: {"steps": (0, 1)},
    bwcache.FirstBlock: {},
    bwcache.PyramidAttentionBroadcast: {},
    bwcache.Foresight: {},
    bwcache.EasyCache: {},
    bwcache.FasterCache: {},
    bwcache.MixCache: {},
    bwcache.FlowCache: {},
    bwcache.FlashBlock: {},
    bwcache.Sortblock: {},
    bwcache.SkipDiT: {},
    bwcache.DeepCache: {},
    bwcache.DBPrune: {},
    bwcache.SpeCa: {},
    bwcache.MeanCache: {},
    bwcache.Spectrum: {},
    bwcache.TeaCache: {},
    bwcache.SenCache: {"sensitivities": ((500.0, 0.5, 0.001),)},
    bwcache.AdaCache: {},
    bwcache.HierarchicalLatentCache: {"thresholds": (0.1, 0.2)},
    bwcache.DiCache: {},
    bwcache.DBCache: {},
    bwcache.SeaCache: {},
    bwcache.MagCache: {"ratios": (1.0, 1.1)},
    bwcache.HiCache: {},
    bwcache.TaylorSeer: {},
    bwcache.Tuned: {"steps": (0, 1), "rows": ((1.0,), (1.5, -0.5)), "schedule": (1.0, 0.6, 0.3, 0.0)},
}
FIELDS = [(policy, field.name) for policy in POLICIES for field in dataclasses.fields(policy)]  # type: ignore[arg-type]
VALUES = [
    None, True, -1, 0, 1, 0.5, 10**400, -(10**400), 10**5000, 1e308, 5e-324, float("nan"), float("inf"), "steps", "",
    [], (), {}, [0, [1]], (10**400,), ((0, 1), (2,)), np.array([1.0, 2.0]), np.float64(0.1), torch.ones(3), object(),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "name"), FIELDS, ids=[f"{policy.__name__}.{name}" for policy, name in FIELDS])
def test_every_value_works_or_is_refused_in_one_line(policy, name):
    worked = 0
    for value in VALUES:
        try:
            made = policy(**{**POLICIES[policy], name: value})
            made.check(30)
        except SettingError as error:
            said = str(error)
        else:
            worked += 1
            json.dumps(made.describe(), allow_nan=False)
            continue
        assert said.startswith("found ")
        assert "\n" not in said
        assert len(said) < 400
    assert worked < len(VALUES) / 2
