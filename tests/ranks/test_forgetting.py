"""Ranks that make one video and are told to forget: at once where all are told, and never in a hang."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import bwcache
from bwcache.core.trace import reuse_line
from bwcache.engine import reasons, together
from tests.ranks.pair import SIZE, STEPS, identical, split, two_ranks
from tests.tiny import Scripted, noise, wan_transformer

POLICY = Scripted(frozenset({2, 3, 5, 6}))
CHANGED = 3
"""The step before which the prompt is another one, in a way that torch keeps no count of."""


def switched(
    make: Callable[[], Any], told: int | None, changed: bool = True, times: int = 1, patience: float = 60.0
) -> dict[str, Any]:
    """A video whose prompt is written over; `told`: before which step this rank is told to forget."""
    module, latents, prompt, made = make(), noise(*SIZE, seed=0), noise(1, 6, 8, seed=1), []
    usual, together.PATIENCE = together.PATIENCE, patience
    with (
        warnings.catch_warnings(record=True) as caught,
        bwcache.attach(module, POLICY, steps=STEPS) as session,
        session.run(STEPS),
        torch.no_grad(),
    ):
        warnings.simplefilter("always")
        for i in range(STEPS):
            if changed and i == CHANGED:
                prompt.data.copy_(noise(1, 6, 8, seed=2))
            for _ in range(times * (i == told)):
                session.invalidate()
            output = module(
                hidden_states=latents,
                timestep=torch.tensor([1000.0 - i]),
                encoder_hidden_states=prompt,
                return_dict=False,
            )
            made.append(output[0])
            latents = latents - 0.05 * output[0]
    together.PATIENCE = usual
    events = session.trace.events
    said = [str(one.message) for one in caught if "invalidate" in str(one.message)]
    return {"made": made, "line": reuse_line(events), "reasons": [event.reason for event in events], "said": said}


def inside(rank: int) -> dict[str, Any]:
    """Each is told by a hook within the forward of a step that computes: it keeps nothing."""
    module = split()
    with bwcache.attach(module, POLICY, steps=STEPS) as session, session.run(STEPS), torch.no_grad():
        for i in range(STEPS):
            hook = module.blocks[0].register_forward_hook(lambda *_: session.invalidate()) if i == 1 else None
            module(
                hidden_states=noise(*SIZE, seed=0) * (1 - i / 40),
                timestep=torch.tensor([1000.0 - i]),
                encoder_hidden_states=noise(1, 6, 8, seed=1),
                return_dict=False,
            )
            if hook is not None:
                hook.remove()
    return {"line": reuse_line(session.trace.events)}


def cases(rank: int) -> dict[str, Callable[[], Any]]:
    return {
        "one process": partial(switched, wan_transformer, CHANGED),
        "all": partial(switched, split, CHANGED),
        "all, twice": partial(switched, split, CHANGED, times=2),
        "one": partial(switched, split, CHANGED if rank == 1 else None, changed=False, patience=0.5),
        "not before one step": partial(switched, split, CHANGED - rank, changed=False, patience=0.5),
        "all again": partial(switched, split, CHANGED),
        "inside": partial(inside, rank),
    }


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_ranks(cases, tmp_path_factory.mktemp("forgetting"))


@pytest.mark.parametrize("case", ["all", "all, twice", "all again"])
def test_all_that_are_told_forget_at_once(said: list[dict[str, Any]], case: str) -> None:
    """Before, they replayed the prompt of before until the next step that computes."""
    alone = said[0]["one process"]
    assert alone["line"] == "CCrCCrrC"
    for rank in range(2):
        found = said[rank][case]
        assert found["line"] == alone["line"]
        assert found["reasons"][CHANGED].startswith(reasons.FORGOTTEN)
        assert identical(found["made"], alone["made"])
        assert found["said"] == []


@pytest.mark.parametrize("case", ["one", "not before one step"])
def test_who_is_told_alone_hangs_nobody_and_says_so(said: list[dict[str, Any]], case: str) -> None:
    assert [said[rank][case]["line"] for rank in range(2)] == ["CCrrCCrC"] * 2
    for rank in range(2):
        told = CHANGED - rank if case != "one" else CHANGED if rank else STEPS
        found = said[rank][case]
        late = [step for step, reason in enumerate(found["reasons"]) if reason == reasons.TOLD_ALONE]
        assert late == [step for step in (2, 3) if step >= told]
        assert found["reasons"][5].startswith(reasons.FORGOTTEN)
        assert len(found["said"]) == (told < STEPS)
    (text,) = said[1][case]["said"]
    assert text.startswith("found invalidate() on some of 2 ranks that make one video; ")
    assert "steps replay what was to be forgotten" in text


def test_a_forward_in_which_all_are_told_keeps_nothing(said: list[dict[str, Any]]) -> None:
    assert [said[rank]["inside"]["line"] for rank in range(2)] == ["CCCrCrrC"] * 2
