"""Other people's hooks and patches around ours, put on before and after, taken off in any order."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.hooks import HookRegistry
from diffusers.hooks import ModelHook as DiffusersHook
from torch import nn

import bwcache
from bwcache import BWCache
from bwcache.core.trace import reuse_line
from tests.engine.test_restore import everything_on
from tests.tiny import WAN, wan

CAREFREE = BWCache(threshold=10.0, reuse_interval=2)
LINE = "CCrrCrrCrC"


class Counting(ModelHook):
    """accelerate: counts the forwards of a module."""

    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


class Passing(DiffusersHook):
    """diffusers: counts the forwards of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


def by_accelerate(module: nn.Module) -> tuple[Any, Callable[[], Any]]:
    hook = Counting()
    add_hook_to_module(module, hook)
    return hook, lambda: remove_hook_from_module(module)


def by_diffusers(module: nn.Module) -> tuple[Any, Callable[[], Any]]:
    hook = Passing()
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(hook, "passing")
    return hook, lambda: registry.remove_hook("passing")


def by_torch(module: nn.Module) -> tuple[Any, Callable[[], Any]]:
    hook = Counting()
    return hook, module.register_forward_pre_hook(lambda m, args: hook.pre_forward(m) and None).remove


def by_patch(module: nn.Module) -> tuple[Any, Callable[[], Any]]:
    hook, inner = Counting(), module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        hook.calls += 1
        return inner(*args, **kwargs)

    forward.__wrapped__ = inner  # type: ignore[attr-defined]
    module.forward = forward
    return hook, lambda: delattr(module, "forward")


WAYS = pytest.mark.parametrize("put_on", [by_accelerate, by_diffusers, by_torch, by_patch])
WHERE = pytest.mark.parametrize(
    "part", [lambda pipe: pipe.transformer.blocks[1], lambda pipe: pipe.transformer], ids=["block", "denoiser"]
)


def expected() -> torch.Tensor:
    pipe = wan()
    with bwcache.attach(pipe, CAREFREE):
        return WAN.run(pipe)


def calls_of(part: nn.Module) -> int:
    """Forwards of a block, or of the denoiser, in one run of the line above with two branches."""
    return 2 * LINE.count("C") if type(part).__name__ == "WanTransformerBlock" else 2 * len(LINE)


@WAYS
@WHERE
def test_a_hook_that_was_there_before(put_on: Any, part: Any) -> None:
    pipe = wan()
    hook, take_off = put_on(part(pipe))
    with bwcache.attach(pipe, CAREFREE) as session:
        assert torch.equal(WAN.run(pipe), expected())
    assert reuse_line(session.trace.events) == LINE
    assert hook.calls == calls_of(part(pipe))
    take_off()
    before = hook.calls
    WAN.run(pipe)
    assert hook.calls == before


@WAYS
@WHERE
def test_a_hook_that_came_while_attached_and_goes_after(put_on: Any, part: Any) -> None:
    pipe = wan()
    plain = WAN.run(pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        hook, take_off = put_on(part(pipe))
        assert torch.equal(WAN.run(pipe), expected())
        assert hook.calls == calls_of(part(pipe))
    assert reuse_line(session.trace.events) == LINE
    assert torch.equal(WAN.run(pipe), plain)
    assert hook.calls == calls_of(part(pipe)) + (2 * 10)
    take_off()
    assert torch.equal(WAN.run(pipe), plain)


@WAYS
@WHERE
def test_a_hook_that_comes_and_goes_while_attached(put_on: Any, part: Any) -> None:
    pipe = wan()
    WAN.run(pipe)
    put_on(part(pipe))[1]()
    before = everything_on(pipe.transformer)
    with bwcache.attach(pipe, CAREFREE) as session:
        hook, take_off = put_on(part(pipe))
        WAN.run(pipe)
        take_off()
        assert torch.equal(WAN.run(pipe), expected())
        assert hook.calls == calls_of(part(pipe))
    assert [reuse_line(trace.events) for trace in session.traces] == [LINE, LINE]
    assert everything_on(pipe.transformer).keys() == before.keys()


@WAYS
@WHERE
def test_a_hook_that_was_there_before_and_goes_while_attached(put_on: Any, part: Any) -> None:
    pipe = wan()
    plain = WAN.run(pipe)
    _, take_off = put_on(part(pipe))
    with bwcache.attach(pipe, CAREFREE) as session:
        WAN.run(pipe)
        take_off()
        assert torch.equal(WAN.run(pipe), expected())
    assert [reuse_line(trace.events) for trace in session.traces] == [LINE, LINE]
    assert torch.equal(WAN.run(pipe), plain)
