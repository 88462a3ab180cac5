"""Grades: a word in place of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache.errors import SettingError
from bwcache.policies.grades import GRADES, graded
from tests.tiny import BY_NAME


def test_a_closer_grade_computes_more() -> None:
    tolerances = [grade.policy.tolerance for grade in GRADES.values()]
    assert [grade.psnr for grade in GRADES.values()] == [40, 35, 30]
    assert list(GRADES) == ["near", "balanced", "fast"]
    assert tolerances == sorted(tolerances)
    assert graded("Near") is GRADES["near"]


def test_a_pipeline_takes_the_word_and_another_one_later() -> None:
    case = BY_NAME["wan"]
    pipe: Any = case.build()
    attach: Any = bwcache.attach
    counts = []
    with attach(pipe, "near") as session:
        for grade in ("near", "fast"):
            session.use(grade)
            case.run(pipe, num_inference_steps=20)
            assert session.trace.meta["policy"]["name"] == "Planned"
            counts.append(session.trace.reused)
    assert 0 < counts[0] < counts[1]


def test_a_file_without_its_suffix_is_pointed_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned.json").write_text("{}")
    attach: Any = bwcache.attach
    with pytest.raises(SettingError, match=r"tuned\.json is there: name it so"):
        attach(BY_NAME["wan"].build(), "tuned")


@pytest.mark.parametrize(
    ("word", "says"), [("nera", "did you mean near?"), ("35dB", "or name a policy"), ("", "or name")]
)
def test_another_word_is_refused_in_one_line(word: str, says: str) -> None:
    case = BY_NAME["wan"]
    attach: Any = bwcache.attach
    with pytest.raises(SettingError, match="near or balanced or fast") as error:
        attach(case.build(), word)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
