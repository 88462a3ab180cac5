"""The laws of all policies, in one table: whatever the policy, the model, the predictor and the way to run."""

from __future__ import annotations

import gc
import math
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import Event, Policy, Trace
from bwcache.engine.lane import Lane
from bwcache.features.weighted import Weighted
from bwcache.models import denoisers, resolve
from bwcache.policies import known
from tests.fuzz.play import near
from tests.laws.brute import Brute, Foretold, blocks_of, several
from tests.laws.cases import POLICIES, STEPS, One, chosen, pipeline
from tests.laws.left import found_on

CASES = chosen()

pytestmark = [
    pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
each = pytest.mark.parametrize("one", CASES, ids=str)
each_batch = pytest.mark.parametrize(
    "one", [one for one in CASES if one.way == "batch" and not one.bold.probes], ids=str
)

ROUNDING = STEPS * 2 * torch.finfo(torch.float32).eps
"""Relative, by which a sample of a batch lies from what it is alone without a session: two roundings in each step."""
STEEPEST = 7
"""What a predictor makes of a rounding, at most: `Taylor(2)` across one step weighs its past by 3, -3 and 1."""

FORETOLD = (bwcache.Last, bwcache.Bounded, Weighted)
"""Predictors of clean latents that brute force has too."""

_PLAIN: dict[tuple[str, str], Tensor] = {}
_FORWARDS: dict[tuple[str, str], int] = {}


class Halt(Exception):
    """What a user's code raises in the middle."""


def denoiser_of(one: One) -> Any:
    return next(iter(denoisers(pipeline(one.model, one.dtype)).values()))


def made(one: One, **changes: Any) -> Tensor:
    latents: Tensor = one.case.run(pipeline(one.model, one.dtype), **changes)
    return latents


def plain(one: One) -> Tensor:
    """What it makes without a session, made once for all cases of the model and the way."""
    key = (one.model, one.way)
    if key not in _PLAIN:
        _PLAIN[key] = made(one)
    return _PLAIN[key]


def forwards_of(one: One) -> int:
    """How many forwards of the denoiser it takes without a session."""
    key = (one.model, one.way)
    if key not in _FORWARDS:
        seen: list[None] = []
        hook = denoiser_of(one).register_forward_pre_hook(lambda *_: seen.append(None))
        made(one)
        hook.remove()
        _FORWARDS[key] = len(seen)
    return _FORWARDS[key]


def attention_of(one: One) -> dict[str, torch.nn.Module]:
    """Every attention of every block by its path, of which the policy makes a site."""
    kinds = ("attn", "attn1", "attn2") if POLICIES[one.policy].crosses else ("attn", "attn1")
    names = [f"{block}.{part}" for block in blocks_of(denoiser_of(one)) for part in kinds]
    modules = dict(denoiser_of(one).named_modules())
    return {name: modules[name] for name in names if name in modules}


def finiteness(undo: ExitStack, module: torch.nn.Module) -> list[bool]:
    """For each time that a module really runs, whether all that it returns is finite."""
    found: list[bool] = []

    def note(_module: torch.nn.Module, _args: Any, returned: Any) -> None:
        found.append(all(bool(part.isfinite().all()) for part in several(returned)))

    undo.callback(module.register_forward_hook(note).remove)
    return found


def attached(one: One, policy: Policy[Any]) -> bwcache.Session:
    return bwcache.attach(pipeline(one.model, one.dtype), policy, spec=one.spec)


def sites_of(one: One) -> int:
    """How many sites its policy has, counted on the model itself."""
    bold = POLICIES[one.policy]
    return len(attention_of(one)) if bold.on_parts else bold.sites or len(blocks_of(denoiser_of(one)))


def residuals_of(one: One) -> dict[str, str]:
    """The block from whose input on a residual is taken, by site."""
    name, module = next(iter(denoisers(pipeline(one.model, one.dtype)).items()))
    sites = one.bold.sites(resolve(name, module, one.spec))
    return {
        site.name: (site.since or site.first).name
        for site in sites
        if site.keeps == "residual" and site.first.kind == "block"
    }


def shape(trace: Trace) -> list[tuple[Any, ...]]:
    return [(event.step, event.branch, event.sample, event.site, event.action) for event in trace.events]


def by_forward(events: list[Event]) -> list[tuple[str, dict[str, str]]] | None:
    """For each forward its branch and its actions; None where the samples of a batch differ in them."""
    found: dict[tuple[int, str], dict[str, str]] = {}
    for event in events:
        actions = found.setdefault((event.step, event.branch), {})
        if actions.setdefault(event.site.partition("/")[2], event.action) != event.action:
            return None
    return [(branch, actions) for (_, branch), actions in found.items()]


def test_every_policy_is_held_against_the_laws() -> None:
    """But for one that acts inside of attention on chunks of a video, which none of these models has."""
    assert set(known()) - set(POLICIES) == {"FlashBlock"}


@each
def test_settings_that_never_reuse_change_no_bit(one: One) -> None:
    expected, before = plain(one), found_on(denoiser_of(one))
    with attached(one, one.never) as session:
        assert torch.equal(made(one), expected)
    assert session.trace.reused == 0
    assert found_on(denoiser_of(one)) == before


@each
def test_rows_replays_and_what_is_left(one: One) -> None:
    """Two runs are equal; rows = forwards x lanes x sites; replays are brute force; nothing stays behind."""
    module = denoiser_of(one)
    expected, forwards, before = plain(one), forwards_of(one), found_on(module)
    steps: list[Tensor] = []
    with attached(one, one.bold) as session:
        cached = made(one, callback_on_step_end=lambda pipe, index, time, given: steps.append(given["latents"]) or {})
        assert torch.equal(made(one), cached)
    first, second = session.traces
    assert shape(first) == shape(second)
    assert found_on(module) == before
    assert torch.equal(made(one), expected)

    samples = {event.sample for event in first.events}
    assert samples in ({None}, {0, 1} if one.way == "batch" else {None})
    apart = len({event.branch for event in first.events}) * STEPS // forwards  # branches that are cut out of a batch
    assert apart == 1 or POLICIES[one.policy].cuts
    assert len(first.events) == forwards * apart * len(samples) * sites_of(one)
    assert {event.step for event in first.events} == set(range(STEPS))
    some = first.reused if POLICIES[one.policy].all_of_it else first.mixed
    assert (some > 0) == (one.policy != "NeverReuse")

    rows = by_forward(first.events)
    if rows is not None and POLICIES[one.policy].clean:
        if type(one.bold.feature_predictor) in FORETOLD:
            expect_foretold(one, first, rows, steps)
    elif rows is not None and one.predictor == "Last" and POLICIES[one.policy].replays:
        brute = Brute(rows, since=residuals_of(one))
        with ExitStack() as undo:
            brute.attach(undo, module)
            again = made(one)
        assert brute.forward == len(rows) - 1
        assert torch.equal(again, cached)  # also of a batch: samples that decide alike run in one forward


def expect_foretold(one: One, trace: Trace, rows: list[tuple[str, dict[str, str]]], steps: list[Tensor]) -> None:
    """Each step of a run that keeps clean latents is that of brute force from the latents before it, up to rounding."""
    forwards = {(event.step, event.branch): event for event in trace.events}
    told = [(event.step, event.reason) for event in forwards.values()]
    scheduler = pipeline(one.model, one.dtype).scheduler
    brute = Brute(rows, Foretold(one.bold, scheduler, [step for step, _ in told], [reason for _, reason in told]))

    def led(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        assert near(kwargs["latents"], steps[index]), index
        return {"latents": steps[index]}

    with ExitStack() as undo:
        brute.attach(undo, denoiser_of(one))
        made(one, callback_on_step_end=led)
    assert brute.forward == len(rows) - 1


@each
def test_a_run_that_breaks_off_leaves_nothing(one: One) -> None:
    def halting(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == 4:
            raise Halt
        return kwargs

    with attached(one, one.bold) as session:
        clean = made(one)
        with pytest.raises(Halt):
            made(one, callback_on_step_end=halting)
        session.end_run()
        gc.collect()
        assert not [lane for lane in gc.get_objects() if type(lane) is Lane and lane.slots]
        assert torch.equal(made(one), clean)
    assert shape(session.traces[0]) == shape(session.traces[-1])
    assert all(event.action == "compute" for event in session.traces[-1].events if event.step == 0)


@each
def test_after_nan_comes_a_computed_step(one: One) -> None:
    def spoiling(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"latents": kwargs["latents"] * math.nan} if index == 2 else {}

    attention, undo = attention_of(one) if POLICIES[one.policy].on_parts else {}, ExitStack()
    with attached(one, one.bold) as session, undo:
        finite = {name: finiteness(undo, module) for name, module in attention.items()}
        made(one, callback_on_step_end=spoiling, callback_on_step_end_tensor_inputs=["latents"])
    spoilt: dict[tuple[Any, ...], bool] = {}
    for event in session.trace.events:
        site = event.site.partition("/")[2]
        lane = (event.branch, event.sample, site)
        assert not spoilt.get(lane) or event.action == "compute", event
        spoilt[lane] = event.step > 2 and event.action == "compute"
        if site in finite and event.action == "compute" and not event.sample:
            # attention of nothing but NaN is finite by some kernels: then there is something to reuse
            spoilt[lane] = spoilt[lane] and not finite[site].pop(0)
        elif site in finite and event.sample:
            spoilt[lane] = spoilt[event.branch, 0, site]
    assert any(spoilt.values())


@each_batch
def test_a_sample_of_a_batch_is_what_it_is_alone(one: One) -> None:
    """Up to rounding: products of matrices of other sizes add up in another order, with a session or without."""
    assert max(differences(*batch_and_alone(one))) <= ROUNDING
    with attached(one, one.bold) as session:
        together, *alone = batch_and_alone(one)
    assert max(differences(together, *alone)) <= STEEPEST * ROUNDING
    batch, *own = session.traces
    for i, trace in enumerate(own):
        assert [event.action for event in trace.events] == [e.action for e in batch.events if e.sample == i]


def batch_and_alone(one: One) -> list[Tensor]:
    """Two samples in one batch, and each by itself."""
    pipe, call = pipeline(one.model, one.dtype), {**one.case.call, "output_type": "latent", "return_dict": False}
    made: list[Tensor] = [pipe(generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)], **call)[0]]
    for i in (0, 1):
        own = {name: value[i : i + 1] if isinstance(value, Tensor) else value for name, value in call.items()}
        made.append(pipe(generator=torch.Generator().manual_seed(5 + i), **own)[0])
    return made


def differences(together: Tensor, *alone: Tensor) -> list[float]:
    """For each sample, how far it lies from what it is alone, relative to its size."""
    return [float((part - own).norm() / own.norm()) for part, own in zip(together.split(1), alone, strict=True)]
