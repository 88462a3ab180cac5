"""Any policy and any of its fields from the command line, also one that the command has never heard of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache import Decision, Observation, Policy, Predictor, compute, policies, reuse
from bwcache.cli.choices import choose
from bwcache.cli.settings import CompareSettings, GenerateSettings, SweepSettings
from bwcache.cli.sweep import plan
from bwcache.engine.session import policy_of
from bwcache.policies.tuned_file import TunedFile


@dataclass(frozen=True)
class EveryNth(Policy[None]):
    """A policy of a test.

    Args:
        spacing: of the computed steps.
        always: steps that are computed too.
        how: the predictor.
    """

    spacing: int
    always: frozenset[int] = frozenset()
    how: Predictor = field(default_factory=bwcache.Last)

    @property
    def feature_predictor(self) -> Predictor:
        return self.how

    def init(self) -> None:
        return None

    def decide(self, observation: Observation, state: None) -> Decision:
        index = observation.step.index
        return compute("due") if index % self.spacing == 0 or index in self.always else reuse("between")


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were a file of the package, with a line in its `__init__`."""
    monkeypatch.setattr(policies, "EveryNth", EveryNth, raising=False)
    monkeypatch.setattr(policies, "__all__", [*policies.__all__, "EveryNth"])


@pytest.mark.usefixtures("exported")
def test_a_new_policy_needs_no_change_of_the_command(bwcache_command: Any, tmp_path: Path) -> None:
    ended = bwcache_command(
        "generate", "--steps", "6", "--frames", "5", "--prompt", "a red circle",
        "--policy", "every-nth", "--set", "spacing=3", "--set", "always=4+5", "--set", "how=taylor:2",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    summary = json.loads((tmp_path / "bwcache-out" / "summary.json").read_text())
    assert bwcache.policy(summary["policy"]) == EveryNth(3, frozenset({4, 5}), bwcache.Taylor(2))
    assert summary["runs"][0]["computed"] == 4


@pytest.mark.usefixtures("exported")
def test_it_is_swept_likewise() -> None:
    settings = SweepSettings(policy="everynth", sets=["how=linear"], grid=["spacing=2,3"], steps=6)
    choices = choose(settings.__class__(**{**vars(settings), "sets": ["how=linear", "spacing=2"], "grid": []}))
    assert choices.policy == EveryNth(2, how=bwcache.Linear())
    planned = plan(settings.__class__(**{**vars(settings), "grid": ["always=1,2+3"]}), choices)
    assert [one.always for one in planned.settings()] == [frozenset({1}), frozenset({2, 3})]


def test_one_of_ones_own_is_named_by_its_module() -> None:
    found = choose(CompareSettings(policy=f"{__name__}:EveryNth", sets=["spacing=2"])).policy
    assert found == EveryNth(2)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"threshold": "0.2", "predictor": "linear"}, bwcache.BWCache(0.2, predictor=bwcache.Linear())),
        ({"sets": ["threshold=0.2", "predictor=linear"]}, bwcache.BWCache(0.2, predictor=bwcache.Linear())),
        (
            {"sets": ["blocks=0+-1", "policy.interval_unit=progress"]},
            bwcache.BWCache(blocks=(0, -1), interval_unit="progress"),
        ),
        ({"policy": "fixed-interval", "sets": ["interval=3", "tail=0"]}, bwcache.FixedInterval(3, tail=0)),
        ({"policy": "step-list", "sets": ["steps=[0, 3]"]}, bwcache.StepList((0, 3))),
        ({"policy": "adaptive", "tolerance": "0.1", "sets": ["warmup=.2"]}, bwcache.Adaptive(0.1, 0.2)),
        ({"policy": "never-reuse", "sets": ["measures=default"]}, bwcache.NeverReuse("default")),
    ],
)
def test_shorthands_and_fields_are_read_alike(settings: dict[str, Any], expected: Policy[Any]) -> None:
    found = choose(CompareSettings(**settings)).policy
    assert found == expected


@dataclass(frozen=True)
class Long(Policy[None]):
    """A policy of a test that has a field of the same name as an argument of the pipeline."""

    max_sequence_length: int = 3

    def init(self) -> None:
        return None

    def decide(self, observation: Observation, state: None) -> Decision:
        return compute("always")


def test_a_name_of_both_needs_a_prefix() -> None:
    with pytest.raises(
        bwcache.SettingError, match=r"a field of Long and an argument of WanPipeline; .* write policy\."
    ):
        choose(CompareSettings(policy="long", sets=["max_sequence_length=5"]))
    choices = choose(
        CompareSettings(policy="long", sets=["policy.max_sequence_length=5", "call.max_sequence_length=9"])
    )
    assert choices.policy == Long(5)
    assert choices.arguments == {"max_sequence_length": 9}


@pytest.mark.parametrize("word", ["near", "balanced", "Fast"])
def test_a_grade_is_the_policy_that_attach_takes_by_this_word(word: str) -> None:
    for settings in (CompareSettings(grade=word), GenerateSettings(grade=word), SweepSettings(grade=word)):
        assert choose(settings).policy == policy_of(word)


def test_a_grade_is_one_row_of_a_sweep() -> None:
    settings = SweepSettings(grade="fast", steps=6)
    assert plan(settings, choose(settings)).settings() == [policy_of("fast")]


def test_a_tuned_file_is_one_row_of_a_sweep(tmp_path: Path) -> None:
    tuned = bwcache.Tuned((0, 2), ((1.0,), (1.1, -0.1)), (1.0, 0.8, 0.6, 0.0), "WanTransformer3DModel")
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps(TunedFile(tuned, {}, {}, {}).to_json()))
    settings = SweepSettings(policy=str(file), steps=6)
    assert plan(settings, choose(settings)).settings() == [tuned]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--grade", "fast", "--policy", "bwcache"), "found --policy 'bwcache' beside --grade 'fast'; expected one"),
        (("--grade", "fast", "--policy", "tuned.json"), "beside --grade 'fast'; expected one of them; leave one out"),
        (("--grade", "fast", "--tolerance", "0.1"), "found tolerance of the policy beside --grade fast; expected one"),
        (("--grade", "fast", "--set", "computed=3"), "found computed of the policy beside --grade fast"),
        (("--grade", "fats"), "found grade 'fats'; expected near or balanced or fast; did you mean fast?"),
        (("--grade", "35dB"), "expected near or balanced or fast; or name a policy, or a file of bwcache tune"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "generate", "sweep"])
def test_a_grade_stands_alone(bwcache_command: Any, written: Any, command: str, options: Any, says: str) -> None:
    ended = bwcache_command(command, *options)
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert says in ended.lines[0]
    assert written() == []


def test_a_grid_stands_alone_too(bwcache_command: Any) -> None:
    ended = bwcache_command("sweep", "--grade", "fast", "--grid", "tolerance=0.1,0.2")
    assert ended.code == 2
    assert "found --grid tolerance=0.1,0.2 beside --grade fast; expected one of them" in ended.lines[0]
