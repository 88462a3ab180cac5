"""Models whose callers call `forward` and not the module, and forwards that fill a cache in the midst of a step."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache.core.trace import reuse_line
from bwcache.errors import NeverReusedWarning
from bwcache.models import BlockList, BlockSpec, resolve
from tests.conformance.test_models import Stored
from tests.engine.test_restore import everything_on
from tests.tiny import Scripted
from tests.zoo import native
from tests.zoo.kinds import noise, seeded

STEPS = 6
POLICY = Scripted(frozenset({2, 3}))


def time(i: int) -> Tensor:
    return torch.full((2,), 1000 - 100 * i)


def guided(module: Any, i: int) -> Tensor:
    """Latte's sampler: one batch, through `forward`."""
    latents = noise(1, native.FRAMES, native.C, native.HEIGHT, native.HEIGHT).repeat(2, 1, 1, 1, 1)
    with torch.no_grad():
        return module.forward_with_cfg(latents, time(i), y=torch.tensor([3, 9]))


def latte() -> nn.Module:
    return seeded(native.Latte)


def brute_force(module: nn.Module) -> list[Tensor]:
    brute = Stored(resolve("model", module))
    made = []
    for i in range(STEPS):
        brute.replaying = i in (2, 3)
        made.append(guided(module, i))
    return made


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def test_a_model_whose_forward_is_called_is_followed() -> None:
    module, expected = latte(), brute_force(latte())
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        made = [guided(module, i) for i in range(STEPS)]
    assert reuse_line(session.trace.events) == "CCrrCC"
    assert equal(made, expected)
    assert not torch.equal(made[2], guided(module, 2))


def test_calls_of_the_module_and_of_its_forward_are_one_run() -> None:
    module, expected = latte(), [guided(latte(), i) for i in range(STEPS)]
    x = noise(1, native.FRAMES, native.C, native.HEIGHT, native.HEIGHT)
    with bwcache.attach(module, bwcache.BWCache(threshold=0), steps=STEPS) as session, torch.no_grad():
        for i in range(STEPS):
            made = (module if i % 2 else module.forward)(x, time(i)[:1], y=torch.tensor([3]))
            torch.testing.assert_close(made, module_alone(i, x))
    assert reuse_line(session.trace.events) == "C" * STEPS
    assert equal([guided(module, i) for i in range(STEPS)], expected)


def module_alone(i: int, x: Tensor) -> Tensor:
    return latte()(x, time(i)[:1], y=torch.tensor([3]))


def test_a_forward_that_raises_ends_the_run_and_the_next_one_is_clean() -> None:
    module, expected = latte(), [guided(latte(), i) for i in range(STEPS)]
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        guided(module, 0)
        with pytest.raises(Exception, match="not enough values"):
            module.forward(torch.zeros(1), time(0))
        made = [guided(module, i) for i in range(2)]
    assert equal(made, expected[:2])
    assert [reuse_line(trace.events) for trace in session.traces] == ["C", "CC"]


def test_the_signature_stays_and_leaving_restores_everything() -> None:
    module = latte()
    before, signature = everything_on(module), inspect.signature(module.forward)
    with bwcache.attach(module, POLICY, steps=STEPS):
        guided(module, 0)
        assert "forward" in vars(module)
        assert inspect.signature(module.forward) == signature
    assert everything_on(module) == before
    assert "forward" not in vars(module)


class Block(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Plain(nn.Module):
    """A model of this file, that pickle can find again."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(4, 4) for _ in range(3))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = x * t
        for block in self.blocks:
            x = block(x)
        return x


ROW = BlockSpec(
    "Plain",
    (BlockList("blocks", ("x",)),),
    read_after=("x",),
    measured="x",
    timestep="t",
    entry="forward",
    module_prefix="",
)


def through_pickle(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


def through_torch(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_torch])
def test_a_copy_is_free_of_the_session(copied: Any) -> None:
    module, x = seeded(Plain), noise(1, 3, 4)
    expected = [module.forward(x, torch.tensor(10.0 - i)) for i in range(STEPS)]
    with bwcache.attach(module, POLICY, steps=STEPS, spec=ROW) as session:
        twin = copied(module)
        assert twin.forward.__self__ is twin
        module.forward(x, torch.tensor(10.0))
        made = [twin.forward(x, torch.tensor(10.0 - i)) for i in range(STEPS)]
        twin.blocks[0].weight.data.zero_()
        assert torch.equal(module.forward(x, torch.tensor(9.0)), expected[1])
    assert equal(made, expected)
    assert len(session.trace.events) == 2


# MAGI-1: a step is three forwards, and one of them fills the cache


def magi_step(module: Any, i: int) -> Tensor:
    given = native._magi(i / STEPS)
    with torch.no_grad():
        return module.forward_dispatcher(
            given["x"], given["t"], given["y"], None, None, SimpleNamespace(update_kv_cache=None)
        )


def test_a_forward_that_fills_the_cache_always_runs_and_the_others_of_its_step_are_reused() -> None:
    module = seeded(native.VideoDiTModel)
    blocks = [block.module for block in resolve("model", module).blocks]
    filled: list[int] = []

    def fill(index: int) -> Any:
        def before(block: nn.Module, args: Any, kwargs: Any) -> None:
            given = kwargs["inference_params"]
            filled.append(-1 if given is None else index if given.update_kv_cache else -2)

        return before

    for i, block in enumerate(blocks):
        block.register_forward_pre_hook(fill(i), with_kwargs=True)
    expected = [magi_step(module, i) for i in range(STEPS)]
    filled.clear()
    made = []
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        for i in range(STEPS):
            made.append(magi_step(module, i))
            seen, filled[:] = list(filled), []
            assert [index for index in seen if index >= 0] == list(range(len(blocks)))
            assert len(seen) == len(blocks) * (1 if i in (2, 3) else 3)
    events = session.trace.events
    assert {event.branch for event in events} == {"call0", "call1"}
    assert [event.step for event in events] == [i for i in range(STEPS) for _ in range(2)]
    assert session.trace.meta["cache_fills"] == {"inference_params.update_kv_cache": STEPS}
    same = [torch.equal(a, b) for a, b in zip(made, expected, strict=True)]
    assert same == [True, True, False, False, True, True]


def test_a_model_each_of_whose_forwards_fills_the_cache_is_never_reused_and_says_so() -> None:
    """MAGI-1 distilled, without guidance."""
    module = seeded(native.VideoDiTModel)
    given = native._magi(0.0)
    session = bwcache.attach(module, POLICY, steps=STEPS)
    with torch.no_grad():
        for i in range(STEPS):
            module.forward(
                given["x"], given["t"] + i / 12, given["y"], inference_params=SimpleNamespace(update_kv_cache=True)
            )
    with pytest.warns(NeverReusedWarning, match=r"fills a cache \(inference_params\.update_kv_cache\)"):
        session.close()
    assert not session.traces
