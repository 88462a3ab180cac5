"""Values from words and from JSON, as annotations want them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch

import bwcache
from bwcache import SettingError
from bwcache.core.words import called, fit, read, shown, split, writable


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3),
        ("3.0", int, 3),
        ("3", float, 3),
        (" .5 ", float, 0.5),
        ("1e-3", float, 0.001),
        ("true", bool, True),
        ("No", bool, False),
        ("None", float | None, None),
        ("3", str, "3"),
        ("true", str, "true"),
        ("none", str | None, None),
        ("a cat, walking", str | list[str], "a cat, walking"),
        ("['a', 'b']", str | list[str], ["a", "b"]),
        ("default", float | Literal["default"] | None, "default"),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ("0,4", tuple[int, ...], (0, 4)),
        ("0+4+-1", tuple[int, ...] | None, (0, 4, -1)),
        ("7", tuple[int, ...], (7,)),
        ("[[0, 1], [2]]", tuple[int, ...] | tuple[tuple[int, ...], ...], ((0, 1), (2,))),
        ("[1, 0.5]", Sequence[float], [1, 0.5]),
        ("{'scale': 0.5}", Mapping[str, Any], {"scale": 0.5}),
        ("{'scale': 0.5}", dict[str, Any] | None, {"scale": 0.5}),
        ("0.5", Any, 0.5),
        ("nan", Any, "nan"),
        ("yes", Any, "yes"),
        ("[1, 2", Any, "[1, 2"),
        ("linear", bwcache.Predictor, bwcache.Linear()),
        ("Taylor:2", bwcache.Predictor, bwcache.Taylor(2)),
        ("taylor:order=2", bwcache.Predictor, bwcache.Taylor(2)),
        ("Taylor(order=2)", bwcache.Predictor, bwcache.Taylor(2)),
        ("Last()", bwcache.Predictor, bwcache.Last()),
    ],
)
def test_a_text_is_read(text: str, kind: Any, value: Any) -> None:
    found = read(text, kind, "x")
    assert found == value
    assert type(found) is type(value)


ODD = ["²", "٣²", "9" * 5000, "1e999", "(" * 300 + ")" * 300, "1_", "\udcff", "", "@", "{1: 2}", "b'x'", "1j", "[nan]"]


@pytest.mark.parametrize("kind", [int, float, bool, tuple[int, ...], Literal["a"], bwcache.Predictor, dict[str, int]])
@pytest.mark.parametrize("text", [*ODD, "taylor:²", "taylor:1:2", "taylor:size=1", "linear:2", "taylor:", "(1)"])
def test_an_odd_text_is_one_line(text: str, kind: Any) -> None:
    if kind is float and text == "9" * 5000:
        kind = int
    if text == "(1)" and kind in (int, float, tuple[int, ...]):
        return
    with pytest.raises(SettingError) as error:
        read(text, kind, "--set x")
    line = str(error.value)
    assert line.startswith("found --set x ")
    assert len(line) < 400
    assert line.count(";") >= 2


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), True, "1", [1], torch.ones(3), None, object()])
def test_what_is_no_number_does_not_fit(value: Any) -> None:
    with pytest.raises(SettingError, match="found threshold "):
        fit(value, float, "threshold")


def test_a_value_from_json_becomes_what_the_annotation_says() -> None:
    assert fit([0, 4], tuple[int, ...], "blocks") == (0, 4)
    assert fit("Taylor(order=3)", bwcache.Predictor, "predictor") == bwcache.Taylor(3)
    assert fit({"name": "taylor", "order": 3}, bwcache.Predictor, "predictor") == bwcache.Taylor(3)
    assert fit(bwcache.Linear(), bwcache.Predictor, "predictor") == bwcache.Linear()
    with pytest.raises(SettingError):
        fit({"name": "taylor", "order": "many"}, bwcache.Predictor, "predictor")


def test_a_constructor_says_itself_what_it_does_not_like() -> None:
    with pytest.raises(SettingError, match="found order -1"):
        read("taylor:-1", bwcache.Predictor, "predictor")


def test_parts() -> None:
    assert split("a, [1, 2], 'x, y', f(1, 2)") == ["a", "[1, 2]", "'x, y'", "f(1, 2)"]
    assert called("UniPC:solver_order=3,kind='a,b'") == ("UniPC", (), {"solver_order": "3", "kind": "'a,b'"})
    assert called("ddim") == ("ddim", (), {})
    assert called("Taylor(2)") == ("Taylor", ("2",), {})
    assert called("a b") is None
    assert called("a:x=1,2") is None


def test_what_can_be_written() -> None:
    assert writable(str | list[str] | None)
    assert writable(bwcache.Predictor)
    assert not writable(torch.Tensor | None)
    assert not writable(list[torch.Tensor])
    assert not writable(Callable[[int], None])


def test_complaints_do_not_repeat_novels() -> None:
    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError

    assert len(shown("x" * 10_000)) <= 60
    assert shown(Mute()) == "a Mute"
