"""Whatever happens in between, afterwards everything is as it was found."""

import copy
import functools
import gc
import pickle
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import nn

import bwcache
from bwcache import BWCache
from bwcache.engine import hooks
from bwcache.models import denoisers, resolve
from tests.tiny import WAN, Case, each_case, wan, wan_transformer

POLICY = BWCache(threshold=10.0, reuse_interval=2)


def everything_on(module: Any) -> dict[tuple[str, str], Any]:
    """All instance attributes of all submodules; of dictionaries (hooks, parameters) also what they hold."""
    found: dict[tuple[str, str], Any] = {}
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            found[name, key] = (id(value), {k: id(v) for k, v in value.items()} if isinstance(value, dict) else None)
        own = getattr(part.forward, "__self__", None) is part
        found[name, "forward"] = part.forward.__func__ if own else id(part.forward)
    return found


def snapshot(pipe: Any) -> dict[str, Any]:
    return {
        name: (everything_on(module), list(module.state_dict()), type(module), module.training)
        for name, module in denoisers(pipe).items()
    }


def blocks_of(pipe: Any) -> list[nn.Module]:
    return [block.module for name, module in denoisers(pipe).items() for block in resolve(name, module).blocks]


class RaisesAt:
    """Callback of a pipeline that raises after a step."""

    def __init__(self, step: int, error: type[BaseException]) -> None:
        self.step, self.error = step, error

    def __call__(self, pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == self.step:
            raise self.error("after a step")
        return kwargs


def raise_in_block(pipe: Any, block: int, at_call: int, error: type[BaseException]) -> Callable[[], None]:
    """Lets one block raise at its n-th call; returns what undoes it."""
    calls = iter(range(1000))

    def raising(module: nn.Module, args: Any) -> None:
        if next(calls) == at_call:
            raise error("in a block")

    return blocks_of(pipe)[block].register_forward_pre_hook(raising).remove


def abort_in_callback(case: Case, pipe: Any, step: int, error: type[BaseException], **changes: Any) -> None:
    with pytest.raises(error, match="after a step"):
        case.run(pipe, callback_on_step_end=RaisesAt(step, error), **changes)


def abort_in_block(case: Case, pipe: Any, block: int, at_call: int, error: type[BaseException], **changes: Any) -> None:
    undo = raise_in_block(pipe, block, at_call, error)
    try:
        with pytest.raises(error, match="in a block"):
            case.run(pipe, **changes)
    finally:
        undo()


ERRORS = pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])


@each_case
def test_leaving_restores_everything(case: Case) -> None:
    pipe = case.build()
    plain = case.run(pipe)
    before = snapshot(pipe)
    with bwcache.attach(pipe, POLICY):
        case.run(pipe)
        assert snapshot(pipe) != before
    assert snapshot(pipe) == before
    assert torch.equal(case.run(pipe), plain)


@each_case
@ERRORS
@pytest.mark.parametrize("block", [0, 2, 3])
def test_leaving_by_an_error_in_a_block_restores_everything(case: Case, error: type[BaseException], block: int) -> None:
    pipe = case.build()
    plain = case.run(pipe)
    before = snapshot(pipe)
    undo = raise_in_block(pipe, block, at_call=2, error=error)
    with_hook = snapshot(pipe)
    with pytest.raises(error, match="in a block"), bwcache.attach(pipe, POLICY):
        case.run(pipe)
    assert snapshot(pipe) == with_hook
    undo()
    assert snapshot(pipe) == before
    assert torch.equal(case.run(pipe), plain)


@each_case
@ERRORS
def test_leaving_by_an_error_between_steps_restores_everything(case: Case, error: type[BaseException]) -> None:
    pipe = case.build()
    plain = case.run(pipe)
    before = snapshot(pipe)
    with pytest.raises(error, match="after a step"), bwcache.attach(pipe, POLICY):
        case.run(pipe, callback_on_step_end=RaisesAt(4, error))
    assert snapshot(pipe) == before
    assert torch.equal(case.run(pipe), plain)


def another_size(case: Case) -> dict[str, Any]:
    """Changes of a call that give another number of tokens."""
    return {"num_frames": case.call["num_frames"] + {"mochi": 6, "ltx": 8}.get(case.name, 4)}


@each_case
@ERRORS
@pytest.mark.parametrize("where", ["first_block", "last_block", "first_step", "sixth_step"])
def test_after_an_aborted_run_another_size_is_made_as_in_a_clean_session(
    case: Case, error: type[BaseException], where: str
) -> None:
    pipe = case.build()
    with bwcache.attach(pipe, POLICY) as session:
        clean = case.run(pipe, **another_size(case))
        expected = session.trace
    with bwcache.attach(pipe, POLICY) as session:
        if where.endswith("block"):
            abort_in_block(case, pipe, 0 if where == "first_block" else 3, 4, error)
        else:
            abort_in_callback(case, pipe, 0 if where == "first_step" else 5, error)
        assert torch.equal(case.run(pipe, **another_size(case)), clean)
        rows = [(e.step, e.total, e.branch, e.action, e.indicator) for e in session.trace.events]
    assert rows == [(e.step, e.total, e.branch, e.action, e.indicator) for e in expected.events]


@each_case
@ERRORS
@pytest.mark.parametrize("step", [0, 3])
def test_after_an_aborted_run_the_same_size_is_made_as_in_a_clean_session(
    case: Case, error: type[BaseException], step: int
) -> None:
    pipe = case.build()
    with bwcache.attach(pipe, POLICY):
        clean = case.run(pipe, seed=1)
    with bwcache.attach(pipe, POLICY) as session:
        abort_in_callback(case, pipe, step, error, seed=0)
        assert torch.equal(case.run(pipe, seed=1), clean)
        assert session.trace.steps == 10


def tensors_alive(shape: tuple[int, ...]) -> int:
    gc.collect()
    tensors = (thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))  # asks no object anything
    return sum(tuple(tensor.shape) == shape for tensor in tensors)


@ERRORS
@pytest.mark.parametrize("where", ["block", "callback"])
def test_nothing_of_an_aborted_run_stays_alive_in_a_closed_session(error: type[BaseException], where: str) -> None:
    pipe = WAN.build()
    hidden, sampled = (1, 8, 24), (4, 1, 128)
    WAN.run(pipe)
    before = tensors_alive(hidden), tensors_alive(sampled)
    with bwcache.attach(pipe, POLICY) as session:
        if where == "block":
            abort_in_block(WAN, pipe, 2, 3, error)
        else:
            abort_in_callback(WAN, pipe, 3, error)
    assert (tensors_alive(hidden), tensors_alive(sampled)) == before
    assert session.trace.steps > 0  # the session itself is alive


@ERRORS
def test_nothing_of_an_aborted_run_stays_alive_under_a_session_that_goes_on(error: type[BaseException]) -> None:
    pipe = WAN.build()
    hidden = (1, 8, 24)
    WAN.run(pipe)
    before = tensors_alive(hidden)
    with bwcache.attach(pipe, POLICY):
        abort_in_callback(WAN, pipe, 3, error)
        assert tensors_alive(hidden) == before
        WAN.run(pipe, **another_size(WAN))
        assert tensors_alive(hidden) == before


def test_features_are_freed_before_the_video_is_decoded() -> None:
    pipe = WAN.build()
    hidden, sampled = (1, 8, 24), (4, 1, 128)
    WAN.run(pipe)
    before = tensors_alive(hidden), tensors_alive(sampled)
    seen = []
    pipe.vae.register_forward_pre_hook(lambda *_: None)  # decode() does not run it: the method itself is watched
    decode = pipe.vae.decode

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append((tensors_alive(hidden), tensors_alive(sampled)))
        return decode(*args, **kwargs)

    pipe.vae.decode = watched
    with bwcache.attach(pipe, POLICY):
        WAN.run(pipe, output_type="pt")
    assert seen == [before]


def test_a_closed_session_lets_go_of_the_pipeline_and_its_models() -> None:
    pipe = WAN.build()
    session = bwcache.attach(pipe, POLICY)
    WAN.run(pipe)
    session.close()
    block = weakref.ref(pipe.transformer.blocks[0])
    del pipe
    gc.collect()
    assert session.trace.steps == 10
    assert block() is None


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_what_is_attached_has_nothing_of_the_session(how: str) -> None:
    """Neither the module's listeners (cache contexts, other caches) nor those of the pipeline (its bar)."""
    module, pipe = wan_transformer(), wan()
    before = {id(thing): set(vars(thing)) for thing in (module, pipe)}
    with bwcache.attach(module, POLICY, steps=8), bwcache.attach(pipe, POLICY) as session:
        for thing in (module, pipe):
            if how == "pickle" and thing is pipe:
                continue
            made = COPIES[how](thing)
            assert set(vars(made)) == before[id(thing)]
            assert not [
                name for name, value in vars(made).items() if type(value).__module__.startswith("bwcache.engine")
            ]
        other = COPIES[how](module)
        with other.cache_context("cond"):
            assert session.here.clock.context is None
        other.enable_cache(FirstBlockCacheConfig())
        other.disable_cache()
        WAN.run(copy.copy(pipe))
        assert session.trace.steps == 10
        assert session.trace.reused > 0
    assert {id(thing): set(vars(thing)) for thing in (module, pipe)} == before


def test_a_copy_made_during_a_session_keeps_what_stood_on_the_object_before() -> None:
    pipe = wan()
    pipe.progress_bar = own = functools.partial(type(pipe).progress_bar, pipe)
    with bwcache.attach(pipe, POLICY), bwcache.attach(wan_transformer(), POLICY, steps=8):
        assert pipe.progress_bar is not own
        assert copy.copy(pipe).progress_bar is own
    assert pipe.progress_bar is own


def test_of_two_sessions_that_listen_to_one_pipeline_the_first_may_go() -> None:
    target = Two(first=wan_transformer(), second=wan_transformer())
    sessions = [bwcache.attach(module, POLICY, steps=8) for module in (target.first, target.second)]
    undo = [ExitStack(), ExitStack()]
    for one in undo:
        hooks.stand_before(one, target, "progress_bar", lambda inner: lambda: ("heard", inner()))
    assert target.progress_bar() == ("heard", ("heard", "bar"))
    assert copy.copy(target).progress_bar() == "bar"
    undo[1].close()
    assert copy.copy(target).progress_bar() == "bar"
    undo[0].close()
    assert set(vars(target)) == {"first", "second"}
    for session in sessions:
        session.close()


@dataclass
class Two:
    """Something that shows a bar."""

    first: nn.Module
    second: nn.Module

    def progress_bar(self) -> str:
        return "bar"


def test_what_somebody_else_has_put_over_a_listener_stays() -> None:
    module, theirs = wan_transformer(), functools.partial(print, "theirs")
    session = bwcache.attach(module, POLICY, steps=8)
    module.cache_context = theirs
    session.close()
    assert module.cache_context is theirs
