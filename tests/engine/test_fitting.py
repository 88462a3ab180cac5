"""A policy that a denoiser has no places for is refused with the reason and all those that fit; real tiny models."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import bwcache
from bwcache import AttachError, Policy, SettingError
from bwcache.policies import known
from tests.zoo import MODELS

BY_NAME = {model.name: model for model in MODELS}
CHOSEN = (
    "WanTransformer3DModel",
    "FluxTransformer2DModel",
    "LatteTransformer3DModel",
    "UNetSpatioTemporalConditionModel",
    "UNet2DModel",
    "HeliosTransformer3DModel",
)
SAYS = "; these fit as they are: "


def named(error: BaseException) -> set[str]:
    """The policies that a refusal names."""
    text = str(error)
    assert "\n" not in text
    assert SAYS in text, text
    return set(text.partition(SAYS)[2].split(", "))


def tried(module: Any, policy: Policy[Any]) -> BaseException | None:
    """Attaches and leaves; what was raised."""
    try:
        bwcache.attach(module, policy, steps=30).close()
    except (AttachError, SettingError) as error:
        return error
    return None


def by_default() -> dict[str, Policy[Any]]:
    """Every policy that can be made without settings, and reuses."""
    free = [
        kind
        for kind in known().values()
        if all(
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            for field in dataclasses.fields(kind)
            if field.init
        )
    ]
    return {kind.__name__: kind() for kind in free if kind().may_reuse}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_refusal_names_those_that_fit_and_no_other(name: str) -> None:
    module = BY_NAME[name].build()
    found = {policy: tried(module, made) for policy, made in by_default().items()}
    works = {policy for policy, error in found.items() if error is None}
    refusals = [error for error in found.values() if error is not None]
    assert works
    assert refusals, "nothing is refused here: the test shows nothing"
    for error in refusals:
        assert str(error).startswith("found ")
        assert named(error) == works


WANTS = [
    ("UNet2DModel", bwcache.FasterCache(attention=1), "one guidance branch of UNet2DModel"),
    ("UNet2DModel", bwcache.PyramidAttentionBroadcast(), "no parts of kind|parts of kind"),
    ("WanTransformer3DModel", bwcache.DeepCache(), "which is no U-Net"),
    ("HeliosTransformer3DModel", bwcache.TeaCache(), "'modulated' of HeliosTransformer3DModel"),
    ("FluxTransformer2DModel", bwcache.SeaCache(), "latents of FluxTransformer2DModel that lie as"),
    ("UNetSpatioTemporalConditionModel", bwcache.Sortblock(), "others return what they do not take in"),
    ("WanTransformer3DModel", bwcache.Guarded(bwcache.DeepCache()), "which is no U-Net"),
]


@pytest.mark.parametrize(("name", "policy", "reason"), WANTS, ids=lambda value: str(value)[:40])
def test_the_reason_comes_first(name: str, policy: Policy[Any], reason: str) -> None:
    module = BY_NAME[name].build()
    with pytest.raises((AttachError, SettingError), match=reason) as refused:
        bwcache.attach(module, policy, steps=30)
    assert "EasyCache" in named(refused.value)
    bwcache.attach(module, bwcache.EasyCache(), steps=30).close()


def test_another_policy_in_a_living_session() -> None:
    module = BY_NAME["WanTransformer3DModel"].build()
    with bwcache.attach(module, bwcache.FixedInterval(), steps=30) as session:
        with pytest.raises(AttachError) as refused:
            session.use(bwcache.DeepCache())
        assert "TeaCache" in named(refused.value)
        assert "DeepCache" not in named(refused.value)
        assert session.policy == bwcache.FixedInterval()


def test_a_row_that_does_not_describe_the_module_is_no_matter_of_the_policy() -> None:
    module = BY_NAME["WanTransformer3DModel"].build()
    row = dataclasses.replace(bwcache.models.table.row_of(type(module)), latents="pictures")
    with pytest.raises(bwcache.SpecMismatchError) as refused:
        bwcache.attach(module, bwcache.EasyCache(), steps=30, spec=row)
    assert SAYS not in str(refused.value)
