"""Block Caching: its table, its lists and its replay, each against a second implementation by plain hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

import bwcache
from bwcache import AttachError, BlockCaching, SettingError, Trace
from tests import tiny
from tests.policies import unets_in_two
from tests.policies.proof import HOOKS, NONE, ONE, TWO, proves
from tests.policies.unets_in_two import TwoForwards
from tests.zoo import unets
from tests.zoo.unets import PIPELINES

STEPS = 8
BUILDS = {
    "stable_diffusion": lambda: unets.stable_diffusion(DDIMScheduler()),
    "text_to_video": unets.text_to_video,
    "animatediff": unets.animatediff,
}


UNETS = ("UNet2DConditionModel", "UNetMotionModel", "UNet3DConditionModel")
"""Of `BUILDS`."""


def case_of(name: str) -> tiny.Case:
    return next(case for case in PIPELINES if case.name == name)


def transformers_of(unet: Any) -> dict[str, Any]:
    """By name, in the order in which the U-Net calls them."""
    blocks = {f"down_blocks.{i}": block for i, block in enumerate(unet.down_blocks)}
    blocks |= {"mid_block": unet.mid_block}
    blocks |= {f"up_blocks.{i}": block for i, block in enumerate(unet.up_blocks)}
    return {
        f"{name}.attentions.{i}": module
        for name, block in blocks.items()
        for i, module in enumerate(getattr(block, "attentions", None) or ())
    }


def added(name: str, seed: int) -> dict[str, list[Tensor]]:
    """What each transformer adds, in all steps of an ordinary run."""
    pipe = BUILDS[name]()
    found: dict[str, list[Tensor]] = {}
    for path, module in transformers_of(pipe.unet).items():
        own = found.setdefault(path, [])
        module.register_forward_hook(
            lambda _m, args, kw, out, own=own: own.append(out[0] - (args[0] if args else kw["hidden_states"])),
            with_kwargs=True,
        )
    case_of(name).run(pipe, seed, num_inference_steps=STEPS)
    return found


def lists(changes: list[float], threshold: float) -> tuple[int, ...]:
    """`changes[t - 1]`: from t - 1 to t. What was computed at a holds to b while the sum from a to b is allowed."""
    computed = [0]
    for step in range(1, STEPS):
        if sum(changes[computed[-1] : step]) > threshold:
            computed.append(step)
    return tuple(computed)


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    made, case = [], case_of("stable_diffusion")
    for seed in (0, 1):
        pipe = BUILDS["stable_diffusion"]()
        with bwcache.attach(pipe, BlockCaching.measuring()) as session:
            measured = case.run(pipe, seed, num_inference_steps=STEPS)
        plain = case.run(BUILDS["stable_diffusion"](), seed, num_inference_steps=STEPS)
        assert torch.equal(measured, plain)
        made.append(session.trace)
    return made


@proves(BlockCaching, HOOKS, "the table that is measured, and the lists", on={"UNet2DConditionModel": (ONE,)})
def test_the_lists_are_those_of_a_second_implementation(traces: list[Trace]) -> None:
    changes: dict[str, list[float]] = {}
    runs = [added("stable_diffusion", seed) for seed in (0, 1)]
    for path in runs[0]:
        for step in range(1, STEPS):
            pairs = [(run[path][step].double(), run[path][step - 1].double()) for run in runs]
            some = [float((new - old).abs().sum() / new.abs().sum()) for new, old in pairs]
            changes.setdefault(path, []).append(sum(some) / len(some))
    every = sorted(change for own in changes.values() for change in own)
    found = set()
    for threshold in (0.0, every[len(every) // 2] * 1.001, every[-1] * 1.5001, 99.0):
        policy = BlockCaching.fitted(traces, threshold=threshold)
        expected = {path: lists(own, threshold) for path, own in changes.items()}
        assert policy.computed == expected, threshold
        assert policy.steps == STEPS
        found.add(tuple(policy.computed.values()))
    assert len(found) == 4
    assert BlockCaching.fitted(traces, threshold=99.0).computed["mid_block.attentions.0"] == (0,)
    assert not BlockCaching.fitted(traces, threshold=0).may_reuse


def test_a_change_that_is_not_finite_is_computed(traces: list[Trace]) -> None:
    """After one such step nothing was computed any more."""
    events = [
        replace(event, distances=(float("nan"),) * len(event.distances or ())) if event.step == 3 else event
        for event in traces[0].events
    ]
    odd = BlockCaching.fitted([Trace(traces[0].meta, events), traces[1]], threshold=0.0)
    assert all(row == tuple(range(STEPS)) for row in odd.computed.values())
    alone = BlockCaching.fitted([Trace(traces[0].meta, events)], threshold=99.0)
    assert all(3 in row for row in alone.computed.values())


def by_hand(unet: Any, chosen: Mapping[str, tuple[int, ...]], branches: int) -> None:
    """In steps that are not on its list, each transformer adds what it added last in the same branch."""
    for path, module in transformers_of(unet).items():
        if path in chosen:
            module.forward = replaying(module.forward, chosen[path], branches)


def replaying(inner: Any, computed: tuple[int, ...], branches: int) -> Any:
    kept: dict[int, Tensor] = {}
    calls = [0]

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        step, branch = divmod(calls[0], branches)
        calls[0] += 1
        if step in computed:
            out = inner(hidden_states, *args, **kwargs)
            kept[branch] = out[0] - hidden_states
            return out
        return (kept[branch] + hidden_states,)

    return forward


@proves(
    BlockCaching,
    HOOKS,
    on=dict.fromkeys(UNETS, (ONE, NONE)),
)
@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("name", BUILDS)
def test_it_adds_again_what_each_one_added_bit_for_bit(name: str, guided: bool) -> None:
    case, build = case_of(name), BUILDS[name]
    changes: dict[str, Any] = {"num_inference_steps": STEPS} | ({} if guided else {"guidance_scale": 1.0})
    pipe = build()
    chosen = {path: (0, 2 + i % 3, 6) for i, path in enumerate(transformers_of(pipe.unet)) if i != 1}
    by_hand(pipe.unet, chosen, 1)
    expected = case.run(pipe, **changes)
    pipe = build()
    with bwcache.attach(pipe, BlockCaching(chosen, STEPS)) as session:
        assert torch.equal(case.run(pipe, **changes), expected)
    assert {event.site.rpartition("/")[2] for event in session.trace.events} == set(chosen)
    assert session.trace.reused > 0


@proves(BlockCaching, HOOKS, on=dict.fromkeys(unets_in_two.BUILDS, (TWO,)))
@pytest.mark.parametrize("name", unets_in_two.BUILDS)
def test_guided_in_two_forwards_each_branch_adds_what_it_added_itself(name: str) -> None:
    loop = TwoForwards(name, STEPS)
    chosen = {path: (0, 2 + i % 3, 6) for i, path in enumerate(transformers_of(loop.unet))}
    by_hand(loop.unet, chosen, 2)
    expected = loop.run()
    loop = TwoForwards(name, STEPS)
    plain = loop.run()
    with bwcache.attach(loop.unet, BlockCaching(chosen, STEPS)) as session:
        made = loop.run(session)
    assert torch.equal(made, expected)
    assert not torch.equal(made, plain)
    assert {event.branch for event in session.trace.events if event.action == "reuse"} == {*unets_in_two.BRANCHES}


def test_what_does_not_fit_is_refused(traces: list[Trace]) -> None:
    with pytest.raises(AttachError, match=r"WanTransformer3DModel, in whose blocks stand no spatial .* fit as"):
        bwcache.attach(tiny.wan_transformer(), BlockCaching({"x": (0,)}))
    with pytest.raises(AttachError, match="no spatial transformers"):
        bwcache.attach(tiny.wan_transformer(), BlockCaching.measuring())
    with pytest.raises(SettingError, match=r"transformer 'x' of UNet2DConditionModel; expected some of: down_blocks.0"):
        bwcache.attach(unets.sd_unet(), BlockCaching({"x": (0,)}))
    pipe = BUILDS["stable_diffusion"]()
    policy = BlockCaching({"mid_block.attentions.0": (0, 3)}, 8)
    with bwcache.attach(pipe, policy), pytest.raises(SettingError, match="found lists for 8 steps; expected for 6"):
        case_of("stable_diffusion").run(pipe, num_inference_steps=6)
    for wrong in ([], [Trace()], [Trace({"policy": {"name": "NeverReuse"}}, traces[0].events)]):
        with pytest.raises(SettingError, match=r"under BlockCaching.measuring"):
            BlockCaching.fitted(wrong)
    for computed in ({"a": (1, 2)}, {"a": (0, -1)}, {"a": 3}, 3):
        with pytest.raises(SettingError, match="computed"):
            BlockCaching(computed)  # type: ignore[arg-type]
