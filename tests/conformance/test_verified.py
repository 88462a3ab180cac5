"""What is said to be verified is what the zoo holds."""

from __future__ import annotations

from types import SimpleNamespace

from bwcache.models.table import ROWS, row
from bwcache.models.verified import facts, key, verified
from tests.conformance.record import Recorder, updated
from tests.tiny import CASES, wan, wan_transformer
from tests.zoo import MODELS, PIPELINES

AGAIN = "run python -m tests.conformance.record"


def test_every_case_of_the_zoo_is_recorded_and_nothing_else() -> None:
    models = {case for fact in facts().values() for case in fact["model"]}
    pipelines = {case for fact in facts().values() for cases in fact["pipelines"].values() for case in cases}
    assert models == {model.name for model in MODELS}, AGAIN
    assert pipelines == {case.name for case in (*CASES, *PIPELINES)}, AGAIN


def test_facts_are_of_rows_and_of_their_pipelines() -> None:
    rows = {key(each): each for each in ROWS}
    assert len(rows) == len(ROWS)
    assert set(facts()) <= set(rows), AGAIN
    for name, fact in facts().items():
        assert set(fact["pipelines"]) <= set(rows[name].pipelines), name


def test_every_pipeline_of_diffusers_was_run() -> None:
    """So that a row names none on trust. Those of native code need a GPU, their packages and their weights."""
    own = [each for each in ROWS if each.module_prefix == "diffusers."]
    assert {each.model: set(each.pipelines) - set(verified(each).pipelines) for each in own} == {
        each.model: set() for each in own
    }


def test_what_a_row_can_say() -> None:
    known = row("WanTransformer3DModel")
    assert known is not None
    assert verified(known).model
    assert "WanPipeline" in verified(known).pipelines
    assert set(verified(known).pipelines) <= set(known.pipelines)
    stranger = SimpleNamespace(module_prefix="somewhere.else", model="Stranger")
    assert verified(stranger) == type(verified(known))()  # type: ignore[arg-type]


def case(name: str, build: object) -> SimpleNamespace:
    return SimpleNamespace(name=name, build=build)


def test_a_run_replaces_what_it_ran_and_keeps_the_rest() -> None:
    recorder = Recorder()
    made = (case("pipe", wan), case("bare", wan_transformer), case("broken", wan))
    recorder.cases = {each.name: each for each in made}
    recorder.failed = {"broken"}
    old = {
        "diffusers.WanTransformer3DModel": {"model": ["bare", "gone"], "pipelines": {"WanPipeline": ["broken"]}},
        "diffusers.MochiTransformer3DModel": {"model": ["mochi"], "pipelines": {"MochiPipeline": ["gone"]}},
    }
    assert updated(old, recorder, ["pipe", "bare", "broken", "mochi"]) == {
        "diffusers.MochiTransformer3DModel": {"model": ["mochi"], "pipelines": {}},
        "diffusers.WanTransformer3DModel": {"model": ["bare"], "pipelines": {"WanPipeline": ["pipe"]}},
    }
