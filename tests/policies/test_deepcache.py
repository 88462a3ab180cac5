"""DeepCache: bit for bit what the authors' package does, on branches between blocks and inside of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

import bwcache
from bwcache import AttachError, DeepCache, SettingError
from bwcache.models.table import row_of
from tests import tiny
from tests.policies import unets_in_two
from tests.policies.proof import NONE, ONE, TWO, proves
from tests.policies.unets_in_two import TwoForwards
from tests.zoo import unets
from tests.zoo.unets import PIPELINES

STEPS = 8
BUILDS = {
    "stable_diffusion": lambda: unets.stable_diffusion(DDIMScheduler()),
    "stable_diffusion_xl": lambda: replaced(unets.stable_diffusion_xl(), EulerDiscreteScheduler()),
    "text_to_video": unets.text_to_video,
}


def replaced(pipe: Any, scheduler: Any) -> Any:
    pipe.scheduler = scheduler
    return pipe


def case_of(name: str) -> tiny.Case:
    return next(case for case in PIPELINES if case.name == name)


@contextmanager
def package(pipe: Any, interval: int, branch: int) -> Iterator[None]:
    helper = pytest.importorskip("DeepCache.extension.deepcache").DeepCacheSDHelper(
        SimpleNamespace(unet=pipe.unet, scheduler=pipe.scheduler)
    )
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()


@proves(DeepCache, "the authors' package", on=dict.fromkeys(unets_in_two.BUILDS, (ONE, NONE)))
@pytest.mark.parametrize(("interval", "branch"), [(3, 0), (2, 1), (3, 2), (2, 3), (4, 5), (2, 6)])
@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
def test_it_is_the_package_bit_for_bit(name: str, interval: int, branch: int, guided: bool) -> None:
    case, build = case_of(name), BUILDS[name]
    changes: dict[str, Any] = {"num_inference_steps": STEPS} | ({} if guided else {"guidance_scale": 1.0})
    pipe = build()
    with package(pipe, interval, branch):
        expected = case.run(pipe, **changes)
    pipe = build()
    plain = case.run(pipe, **changes)
    with bwcache.attach(pipe, DeepCache(interval, branch)) as session:
        made = case.run(pipe, **changes)
    assert torch.equal(made, expected)
    assert not torch.equal(made, plain)
    computed = {event.step for event in session.trace.events if event.action == "compute"}
    assert computed == set(range(0, STEPS, interval))


@proves(DeepCache, "the authors' package, with a state for each branch", on=dict.fromkeys(unets_in_two.BUILDS, (TWO,)))
@pytest.mark.parametrize(("interval", "branch"), [(3, 0), (2, 2), (3, 4)])
@pytest.mark.parametrize("name", unets_in_two.BUILDS)
def test_guided_in_two_forwards_it_is_the_package_with_a_state_for_each_branch(
    name: str, interval: int, branch: int
) -> None:
    """The package has one state, which two forwards would share."""
    loop = TwoForwards(name, STEPS)
    helper = pytest.importorskip("DeepCache.extension.deepcache").DeepCacheSDHelper(loop)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    states: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
    taking_turns = loop.unet.register_forward_pre_hook(lambda *_: setattr(helper, "cached_output", states[loop.branch]))
    expected = loop.run()
    taking_turns.remove()
    helper.disable()
    plain = loop.run()
    with bwcache.attach(loop.unet, DeepCache(interval, branch)) as session:
        made = loop.run(session)
    assert torch.equal(made, expected)
    assert not torch.equal(made, plain)
    assert {(event.step, event.branch) for event in session.trace.events if event.action == "compute"} == {
        (step, name) for step in range(0, STEPS, interval) for name in unets_in_two.BRANCHES
    }


def test_what_lies_below_each_branch() -> None:
    """Three blocks down and three up, with one layer down and two up in each."""

    def sites(branch: int) -> list[str]:
        pipe = BUILDS["stable_diffusion"]()
        with bwcache.attach(pipe, DeepCache(2, branch)) as session:
            case_of("stable_diffusion").run(pipe, num_inference_steps=2)
        return list(dict.fromkeys(event.site.partition("/")[2] for event in session.trace.events))

    assert sites(0) == [
        "down_blocks.0.resnets.0",
        "down_blocks.0.attentions.0",
        "down_blocks.1-up_blocks.1",
        "up_blocks.2.resnets.0",
        "up_blocks.2.attentions.0",
    ]
    assert sites(1) == sites(2) == ["down_blocks.1-up_blocks.1"]
    assert sites(5) == ["down_blocks.2-up_blocks.0"]
    assert sites(6) == ["down_blocks.2.resnets.0", "mid_block", "up_blocks.0.resnets.0"]
    assert sites(8) == ["mid_block"]


def test_models_that_it_does_not_fit() -> None:
    with pytest.raises(AttachError, match="WanTransformer3DModel, which is no U-Net"):
        bwcache.attach(tiny.wan_transformer(), DeepCache())
    with pytest.raises(AttachError, match=r"branch 9 of UNet2DConditionModel; expected 0 to 8"):
        bwcache.attach(unets.sd_unet(), DeepCache(branch=9))
    row = row_of(type(unets.sd_unet()))
    bare = replace(row, lists=tuple(replace(part, parts={}) for part in row.lists))
    with pytest.raises(AttachError, match=r"whose row names no layers of its blocks; .* take branch 5"):
        bwcache.attach(unets.sd_unet(), DeepCache(branch=3), spec=bare)
    with bwcache.attach(unets.sd_unet(), DeepCache(branch=5), steps=4, spec=bare):
        pass


@pytest.mark.parametrize("bad", [{"interval": 0}, {"branch": -1}, {"branch": 0.5}], ids=str)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        DeepCache(**bad)
