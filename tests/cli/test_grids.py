"""Grids from words: values by the field's type, all combinations, and one line for what cannot be."""

import pytest

import bwcache
from bwcache import policies
from bwcache.cli.grids import combinations, default_grid, read_grid
from bwcache.core.words import field_types, read


def test_values_have_the_types_of_the_fields():
    grid = read_grid(
        bwcache.BWCache,
        [
            "threshold=0.1, .2,1e-1",
            "reuse-interval=0.1,3",
            "decision=shared,per_branch",
            "predictor=last,Linear,taylor,taylor:2",
            "blocks=none,0+4+-1",
            "sample=none,1",
        ],
    )
    assert grid == {
        "threshold": (0.1, 0.2),
        "reuse_interval": (0.1, 3.0),
        "decision": ("shared", "per_branch"),
        "predictor": (bwcache.Last(), bwcache.Linear(), bwcache.Taylor(), bwcache.Taylor(2)),
        "blocks": (None, (0, 4, -1)),
        "sample": (None, 1.0),
    }
    made = combinations(grid)
    assert len(made) == 2 * 2 * 2 * 4 * 2 * 2
    assert len({str(one) for one in made}) == len(made)
    assert all(bwcache.BWCache(**one) for one in made)


def test_other_kinds():
    assert read("3", int, "x") == 3
    assert read("yes", bool, "x") is True
    assert read("word", str, "x") == "word"
    assert read_grid(bwcache.NeverReuse, ["measures=none,0.5,default"]) == {"measures": (None, 0.5, "default")}
    assert combinations({}) == [{}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("threshold", "expected FIELD=V1,V2"),
        ("threshold=", "expected FIELD=V1,V2"),
        ("shrink=1", "field 'shrink'; expected a field of BWCache (threshold, reuse_interval"),
        ("threshold=much", "--grid threshold 'much'; expected a number"),
        ("threshold=nan", "expected a number"),
        ("predictor=cubic", "expected last or taylor or linear or damped"),
        ("predictor=linear:2", "expected last or taylor"),
        ("predictor=taylor:x", "expected last or taylor"),
        ("blocks=0+x", "expected numbers such as 0+4+8 or none"),
        ("decision=alone", "expected shared or per_branch"),
    ],
)
def test_what_cannot_be_read(text, said):
    with pytest.raises(bwcache.SettingError) as error:
        read_grid(bwcache.BWCache, [text])
    assert said in str(error.value)
    assert str(error.value).count(";") == 2


def test_whole_numbers_are_whole():
    with pytest.raises(bwcache.SettingError, match="a whole number"):
        read_grid(bwcache.FixedInterval, ["interval=2.5"])
    with pytest.raises(bwcache.SettingError, match="threshold twice"):
        read_grid(bwcache.BWCache, ["threshold=1", "threshold=2"])


def test_the_default_grid_is_of_the_fields_that_are_left():
    assert set(default_grid(bwcache.BWCache)) == {"threshold", "predictor"}
    assert set(default_grid(bwcache.BWCache, {"threshold": 1})) == {"predictor"}
    assert set(default_grid(bwcache.FixedInterval)) == {"interval", "predictor"}
    assert default_grid(bwcache.NeverReuse) == {}
    assert set(default_grid(bwcache.Adaptive)) == {"tolerance"}


def test_every_policy_is_known_by_name_and_every_field_can_be_read():
    known = policies.known()
    assert {"Adaptive", "BWCache", "NeverReuse", "FixedInterval", "StepList"} <= set(known)
    assert "Policy" not in known
    for name, policy in known.items():
        assert policies.named(name.lower()) is policy
        for field, kind in field_types(policy).items():
            if kind is str:  # any text is one
                assert read("no:such;thing", kind, field) == "no:such;thing"
                continue
            with pytest.raises(bwcache.SettingError, match=f"{field} '.*'"):
                read("no:such;thing", kind, field)
    with pytest.raises(bwcache.SettingError, match="policy 'anycache'; expected AdaCache or Adaptive or "):
        policies.named("anycache")
