"""Modular pipelines: assembled from blocks of their own, with a guider, and no cache contexts."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import ClassifierFreeGuidance, FlowMatchEulerDiscreteScheduler, SkipLayerGuidance
from diffusers.hooks import LayerSkipConfig
from torch import Tensor

import bwcache
from bwcache import BWCache, Session
from bwcache.models import denoisers
from tests.beside.attached import CAREFREE, LINE, lines, same
from tests.newer import (
    WanBlocks,
)
from tests.tiny import CASES, WAN, Case, wan, wan_transformer, wan_vae


def modular(**parts: Any) -> Any:
    """A modular Wan pipeline that begins after its text encoder."""
    blocks = WanBlocks()
    blocks.sub_blocks.pop("text_encoder")
    pipe = blocks.init_pipeline()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    pipe.update_components(transformer=wan_transformer(), vae=wan_vae(), scheduler=scheduler, **parts)
    return pipe


MODULAR = Case(
    "wan_modular",
    lambda: modular(guider=ClassifierFreeGuidance(guidance_scale=4.0)),
    {key: value for key, value in WAN.call.items() if key != "guidance_scale"},
    ("call0", "call1"),
)


def run(pipe: Any, seed: int = 0) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    return pipe(generator=generator, num_inference_steps=10, output="latents", **MODULAR.call)


def branches(session: Session) -> list[str]:
    """In the order of their first forward."""
    return list(dict.fromkeys(event.branch for event in session.trace.events))


def test_its_transformer_is_found() -> None:
    pipe = MODULAR.build()
    assert denoisers(pipe) == {"transformer": pipe.transformer}


def test_it_makes_what_the_usual_pipeline_makes() -> None:
    usual, pipe = wan(), MODULAR.build()
    same(run(pipe), WAN.run(usual))
    with bwcache.attach(usual, CAREFREE):
        wanted = WAN.run(usual)
    with bwcache.attach(pipe, CAREFREE) as session:
        same(run(pipe), wanted)
        same(run(pipe), wanted)
    assert lines(session) == [LINE, LINE]
    assert branches(session) == ["call0", "call1"]
    assert {event.total for event in session.trace.events} == {10}


def test_always_computing_changes_nothing() -> None:
    pipe = MODULAR.build()
    plain = run(pipe)
    with bwcache.attach(pipe, BWCache(threshold=0)) as session:
        same(run(pipe), plain)
    assert lines(session) == ["C" * 10]
    same(run(pipe), plain)


def test_a_guider_that_hooks_blocks_around_each_forward() -> None:
    """Skip-layer guidance: in a third pass, in some steps, one block is hooked to do nothing, and freed again."""
    guider = SkipLayerGuidance(
        guidance_scale=4.0,
        skip_layer_config=LayerSkipConfig(indices=[1], fqn="blocks"),
        skip_layer_guidance_start=0.2,
        skip_layer_guidance_stop=0.7,
    )
    pipe = modular(guider=guider)
    plain = run(pipe)
    assert not torch.equal(plain, run(MODULAR.build())), "no layer was skipped: the test shows nothing"
    with bwcache.attach(pipe, BWCache(threshold=0)) as session:
        same(run(pipe), plain)
    assert branches(session) == ["call0", "call1", "call2"]
    with bwcache.attach(pipe, CAREFREE) as session:
        made = run(pipe)
        same(run(pipe), made)
    reused = {
        branch: [event.step for event in session.traces[0].events if event.branch == branch and event.action == "reuse"]
        for branch in branches(session)
    }
    always = [i for i, letter in enumerate(LINE) if letter == "r"]
    assert reused == {"call0": always, "call1": always, "call2": [5, 6]}  # steps 3 and 4 are the first of the third
    assert not torch.equal(made, plain)
    same(run(pipe), plain)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_signatures_are_what_they_were(case: Case) -> None:
    """Pipelines read them to know which arguments a denoiser takes."""
    pipe = case.build()

    def signatures() -> list[inspect.Signature]:
        parts = [part for module in denoisers(pipe).values() for part in module.modules()]
        return [inspect.signature(part.forward) for part in parts] + [inspect.signature(type(part)) for part in parts]

    def wrapped() -> list[object]:
        return [getattr(module.forward, "__wrapped__", None) for module in denoisers(pipe).values()]

    before = signatures(), wrapped()
    with bwcache.attach(pipe, CAREFREE):
        assert (signatures(), wrapped()) == before
        case.run(pipe)
        assert (signatures(), wrapped()) == before
    assert (signatures(), wrapped()) == before
