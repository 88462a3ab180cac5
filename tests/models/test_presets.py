"""Published settings: they fit their policy and their model, and what a person gives wins."""

from dataclasses import fields, replace
from types import SimpleNamespace

import diffusers
import pytest
import torch

import bwcache
from bwcache import policies
from bwcache.models.table import ROWS, row, row_of
from bwcache.policies.presets import PRESETS, preset, preset_of, published, source
from tests.tiny import wan_transformer


@pytest.mark.parametrize("one", PRESETS, ids=lambda one: f"{one.module_prefix}{one.model} {one.method}")
def test_a_preset_names_fields_of_its_policy_and_its_source(one) -> None:  # type: ignore[no-untyped-def]
    policy = getattr(policies, one.method)
    assert set(one.settings) <= {field.name for field in fields(policy)}
    assert policy(**one.settings)  # in range
    assert one.source


@pytest.mark.parametrize("one", PRESETS, ids=lambda one: f"{one.module_prefix}{one.model} {one.method}")
def test_a_preset_is_of_a_row(one) -> None:  # type: ignore[no-untyped-def]
    found = [spec for spec in ROWS if (spec.model, spec.module_prefix) == (one.model, one.module_prefix)]
    assert len(found) == 1
    assert all(preset_of(spec, one.method) is one for spec in found)


def test_each_model_and_method_has_one_preset() -> None:
    assert len({(one.module_prefix, one.model, one.method) for one in PRESETS}) == len(PRESETS)


def test_the_papers_five_models_have_its_default_mode() -> None:
    for model in ("STDiT3", "LatteTransformer3DModel", "WanTransformer3DModel", "HunyuanVideoTransformer3DModel"):
        settings = preset_of(row(model)).settings  # type: ignore[union-attr]
        assert (settings["threshold"], settings["reuse_interval"], settings["tail_guard"]) == (0.15, 0.10, 0.5)


def test_a_class_of_the_same_name_from_another_repository_has_none() -> None:
    assert preset_of(row("WanModel", "wan.modules.model"))
    assert preset_of(row("WanModel", "skyreels_v2_infer.modules.transformer")) is None


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A model whose published settings are none of the defaults."""
    from bwcache.policies import presets

    one = preset_of(row("WanTransformer3DModel"))
    assert one is not None
    settings = {"threshold": 0.07, "reuse_interval": 3, "blocks": (0, 2)}
    key = (one.module_prefix, one.model, one.method)
    monkeypatch.setitem(presets._BY_CLASS, key, replace(one, settings=settings))
    return wan_transformer()


def test_a_policy_is_made_of_what_was_published(known: torch.nn.Module) -> None:
    assert preset(known) == bwcache.BWCache(threshold=0.07, reuse_interval=3, blocks=(0, 2))
    pipe = SimpleNamespace(components={"vae": torch.nn.Linear(1, 1), "transformer": known})
    assert preset(pipe) == preset(known)
    assert bwcache.preset is preset


def test_what_a_person_gives_wins(known: torch.nn.Module) -> None:
    given = preset(known, threshold=0.2, sample=0.5)
    assert given == bwcache.BWCache(threshold=0.2, reuse_interval=3, blocks=(0, 2), sample=0.5)
    with pytest.raises(bwcache.SettingError, match="threshold"):
        preset(known, threshold=-1)


def test_the_source_is_named_while_the_settings_are_the_published_ones(known: torch.nn.Module) -> None:
    assert source(known, preset(known)) == published(known).source  # type: ignore[union-attr]
    assert source(known, preset(known, sample=0.5)), "nothing was published about the sample"
    assert source(known, preset(known, threshold=0.2)) is None
    assert source(known, bwcache.NeverReuse()) is None


def test_without_a_preset_the_defaults_are_taken() -> None:
    stranger = torch.nn.Linear(1, 1)
    assert row_of(type(stranger)) is None
    assert preset(stranger) == bwcache.BWCache()
    assert source(stranger, bwcache.BWCache()) is None
    assert preset_of(row_of(diffusers.MochiTransformer3DModel)) is None


def test_a_class_that_derives_from_a_known_one_has_its_preset() -> None:
    kind = type("Mine", (diffusers.WanTransformer3DModel,), {"__module__": "__main__"})
    assert preset_of(row_of(kind)) is preset_of(row("WanTransformer3DModel"))
