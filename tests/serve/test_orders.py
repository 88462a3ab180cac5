"""What a request may ask for: no file, no code, no endless work; each refusal is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bwcache import BWCacheError, NeverReuse, Planned
from bwcache.cli.orders import OrderReader
from bwcache.cli.settings import ServeSettings


@pytest.fixture(scope="module")
def reader() -> OrderReader:
    return OrderReader(ServeSettings(max_steps=60, max_pixels=40_000), "cpu")


def test_what_is_left_open_is_the_servers(reader: OrderReader) -> None:
    order = reader.read({"prompt": "a ball"})
    assert (order.request.steps, order.request.seed, order.request.frames) == (30, 0, 9)
    assert (order.grade, order.fps, order.unsettled) == (None, 8, None)


def test_grades_and_policies_by_request(reader: OrderReader) -> None:
    assert reader.read({"prompt": "a", "grade": "Fast"}).policy == Planned(0.04)
    assert reader.read({"prompt": "a", "grade": "near"}).grade == "near"
    assert reader.read({"prompt": "a", "policy": "never-reuse"}).policy == NeverReuse()
    described = {"name": "Planned", "tolerance": 0.05}
    assert reader.read({"prompt": "a", "policy": described}).policy == Planned(0.05)
    of_server = OrderReader(ServeSettings(grade="near"), "cpu")
    assert of_server.read({"prompt": "a"}).grade == "near"
    assert of_server.read({"prompt": "a", "policy": "NeverReuse"}).policy == NeverReuse()


def test_a_request_is_not_told_which_files_are_there(
    reader: OrderReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned.json").write_text("{}")
    with pytest.raises(BWCacheError) as refused:
        reader.read({"prompt": "a", "grade": "tuned"})
    assert "json" not in str(refused.value)


def test_two_requests_fit_together_or_not(reader: OrderReader) -> None:
    def order(**more: Any) -> Any:
        return reader.read({"prompt": "a", "grade": "fast", **more})

    assert order(seed=3, prompt="b").fits(order())
    assert order(negative_prompt="x").fits(order(negative_prompt="y"))
    for other in ({"steps": 8}, {"frames": 5}, {"guidance_scale": 2}, {"grade": "near"}, {"negative_prompt": "x"}):
        assert not order(**other).fits(order())
    looking = {"prompt": "a", "policy": "EasyCache"}
    assert not reader.read(looking).fits(reader.read(looking))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "found no prompt; expected a text in the column prompt; describe the video"),
        ({"prompt": ""}, "found no prompt;"),
        ({"prompt": 3}, "found prompt 3; expected a text;"),
        ({"prompt": "a\x07"}, "found the control character"),
        ({"prompt": "a" * 4001}, "found a prompt of 4001 letters; expected at most 4000; say it shorter"),
        ({"prompt": "a", "grade": "best"}, "expected near or balanced or fast; ask for one of them, or for a policy"),
        ({"prompt": "a", "grade": 3}, "found grade 3; expected near or balanced or fast;"),
        ({"prompt": "a", "grade": "near", "policy": "bwcache"}, "expected one of them; leave one out"),
        ({"prompt": "a", "policy": "nothing"}, "found policy 'nothing'; expected one of AdaCache, "),
        ({"prompt": "a", "policy": {"tolerance": 1}}, "found policy {'tolerance': 1}; expected one of "),
        ({"prompt": "a", "policy": {"name": "Planned", "speed": 1}}, "speed"),
        ({"prompt": "a", "seed": -1}, "found seed -1; expected at least 0;"),
        ({"prompt": "a", "seed": "x"}, "found seed 'x'; expected a whole number;"),
        ({"prompt": "a", "steps": 61}, "found steps 61; expected at most 60 on this server; ask for fewer"),
        ({"prompt": "a", "steps": 1.5}, "found steps 1.5; expected a whole number;"),
        ({"prompt": "a", "height": 30}, "found height 30; expected a multiple of"),
        ({"prompt": "a", "frames": 4}, "found frames 4; expected a multiple of"),
        ({"prompt": "a", "height": 512, "width": 512}, "2,359,296 pixels; expected at most 40,000 on this server;"),
        ({"prompt": "a", "image": "/etc/passwd"}, "found field 'image'; expected only prompt, "),
        ({"prompt": "a", "max_sequence_length": 8}, "found field 'max_sequence_length'; expected only "),
        ({"prompt": "a", "policy": "os:getcwd"}, "found policy 'os:getcwd'; expected one of "),
        ({"prompt": "a", "policy": "/etc/tuned.json"}, "found policy '/etc/tuned.json'; expected one of "),
        ({"prompt": "a", "policy": {"name": "MagCache", "ratios": "/x.json"}}, "found 'ratios' of a policy, '/x.json'"),
        ({"prompt": "a", "policy": {"name": "MagCache", "ratios": "x.npz"}}, "found 'ratios' of a policy, 'x.npz'"),
        ({"prompt": "a", "policy": {"name": "Planned", "tolerance": "@x"}}, "found 'tolerance' of a policy, '@x'"),
        ({"prompt": "a", "policy": ["Planned"]}, "found policy ['Planned']; expected one of "),
    ],
)
def test_what_cannot_be_asked(reader: OrderReader, values: dict[str, Any], said: str) -> None:
    with pytest.raises(BWCacheError) as refused:
        reader.read(values)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_a_page_is_told(reader: OrderReader) -> None:
    about = reader.about()
    assert about["grades"] == {"near": 40.0, "balanced": 35.0, "fast": 30.0}
    assert about["default"]["steps"] == 30
    assert about["most"] == {"steps": 60, "pixels": 40_000, "letters": 4000}
    assert len(about["examples"]) == 4
