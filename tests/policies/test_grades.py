"""Grades: a word in place of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bwcache
from bwcache.errors import SettingError
from bwcache.policies.grades import GRADES, graded
from tests.tiny import BY_NAME, noise, wan_transformer
from tests.zoo import PIPELINES


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


@pytest.mark.parametrize("name", ["HeliosPipeline", "AnyFlowPipeline"])
def test_where_nothing_can_be_planned_the_warning_names_what_can_be_had(name: str) -> None:
    """Schedulers whose noise levels are not known here; it said no more than where to read on."""
    case = next(each for each in PIPELINES if each.name == name)
    pipe = case.build()
    said = pytest.warns(
        bwcache.NeverReusedWarning, match="unknown .*; choose .*: `bwcache methods` says what each one reads$"
    )
    with said, bwcache.attach(pipe, "balanced"):
        case.run(pipe)
    with bwcache.attach(pipe, bwcache.Adaptive(tolerance=0.2)) as session:
        case.run(pipe)
    assert session.trace.reused > 0


def test_a_gradient_through_a_whole_run_is_said_with_what_to_do() -> None:
    module, text = wan_transformer(), noise(1, 3, 8).requires_grad_()
    said = pytest.warns(bwcache.NeverReusedWarning, match=r"a gradient .*; run it under torch\.no_grad\(\)$")
    with said, bwcache.attach(module, bwcache.FixedInterval(2), steps=4):
        for i in range(4):
            module(noise(1, 4, 2, 4, 4), torch.tensor([1000.0 - 250 * i]), text)
