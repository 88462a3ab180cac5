"""`bwcache models`: everything that is known, and what of it a name picks."""

import json

import pytest

from bwcache.cli.models import KNOWN, VERIFIED, WIDTH, described
from bwcache.models import verified
from bwcache.models.refused import REFUSED
from bwcache.models.table import ROWS, row


def words(text):
    return set(text.split())


def test_the_table_has_every_row_and_every_refusal(bwcache_command):
    ended = bwcache_command("models")
    assert (ended.code, ended.err) == (0, "")
    seen = words(ended.out)
    for spec in ROWS:
        assert {spec.model, *spec.pipelines} <= seen
        for part in spec.lists:
            assert {part.path, *part.returns} <= seen
    assert set(REFUSED) <= seen
    assert f"{len(ROWS)} models, {len(REFUSED)} refused." in ended.out


def test_the_table_fits_a_hundred_columns_and_cuts_nothing(bwcache_command):
    out = bwcache_command("models").out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= WIDTH
    assert "…" not in out


def test_a_name_picks_denoisers_pipelines_modules_and_refusals(bwcache_command):
    by_class = bwcache_command("models", "wanvace").out
    assert "WanVACETransformer3DModel" in by_class
    assert "CogVideoX" not in by_class
    assert "CosmosTransformer3DModel" in bwcache_command("models", "Cosmos2VideoToWorldPipeline").out
    by_module = bwcache_command("models", "skyreels_v2_infer").out
    assert "WanModel" in by_module
    assert "of wan.modules" not in by_module
    refused = bwcache_command("models", "StableAudioDiT").out
    assert "0 models, 1 refused." in refused
    assert "makes sound" in refused


def test_an_unknown_name_is_one_line(bwcache_command):
    for more in ([], ["--json"]):
        ended = bwcache_command("models", "teapot", *more)
        assert (ended.code, ended.out, len(ended.lines)) == (2, "", 1)
        assert "'teapot'" in ended.err
        assert "bwcache models" in ended.err


def test_json_says_all_that_is_known(bwcache_command):
    everything = json.loads(bwcache_command("models", "--json").out)
    assert [model["model"] for model in everything["models"]] == [spec.model for spec in ROWS]
    assert everything["refused"] == REFUSED
    wan = next(model for model in everything["models"] if model["model"] == "WanTransformer3DModel")
    assert wan["blocks"] == [{"path": "blocks", "returns": ["hidden_states"]}]
    assert wan["preset"]["settings"]["threshold"] == 0.15
    assert "2509.13789" in wan["preset"]["source"]
    assert json.loads(bwcache_command("models", "--json", "Mochi").out)["models"][0]["preset"] is None


def test_lists_in_turn_and_one_after_the_other_are_told_apart(bwcache_command):
    assert "& temporal_transformer_blocks" in " ".join(bwcache_command("models", "LatteTransformer3DModel").out.split())
    assert "+ single_transformer_blocks" in bwcache_command("models", "HunyuanVideoPipeline").out


@pytest.fixture
def half_verified(monkeypatch):
    fact = {"model": ["one"], "pipelines": {"WanPipeline": ["two"]}}
    monkeypatch.setattr(verified, "facts", lambda: {"diffusers.WanTransformer3DModel": fact})


def test_what_was_verified_has_a_mark(bwcache_command, half_verified):
    out = bwcache_command("models", "Wan").out
    assert f"{VERIFIED} WanTransformer3DModel" in out
    assert f"{VERIFIED} WanPipeline" in out
    assert f"{KNOWN} WanVideoToVideoPipeline" in out
    assert f"{KNOWN} WanVACETransformer3DModel" in out
    assert described(row("WanTransformer3DModel"))["verified"] == {"model": True, "pipelines": ["WanPipeline"]}
