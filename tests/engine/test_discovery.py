"""A denoiser that nobody has written down: its row is found and proven, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache import BWCache, NotProvenError
from bwcache.core.trace import reuse_line
from bwcache.models import resolve
from tests.tiny import WAN, noise, seeded
from tests.zoo import MODELS

FOUND = (
    "WanTransformer3DModel",
    "CogVideoXTransformer3DModel",
    "LTXVideoTransformer3DModel",
    "MochiTransformer3DModel",
    "HunyuanVideoTransformer3DModel",
    "LatteTransformer3DModel",
    "FluxTransformer2DModel",
    "SD3Transformer2DModel",
    "QwenImageTransformer2DModel",
    "PixArtTransformer2DModel",
    "Open-Sora STDiT3",
)


@pytest.mark.parametrize("name", FOUND)
def test_known_models_are_found_without_their_rows(name: str) -> None:
    model = next(model for model in MODELS if model.name == name)
    module = model.build()
    before = dict(vars(module))
    found = bwcache.discover(module, model.inputs(0.0))
    assert vars(module).keys() == before.keys()
    known, seen = resolve("model", module), resolve("model", module, found)
    assert [block.module for block in seen.blocks] == [block.module for block in known.blocks]
    assert (found.timestep, found.latents) == (known.spec.timestep, known.spec.latents)
    assert set(known.spec.read_after) <= set(found.read_after)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, hidden: Tensor, temb: Tensor) -> Tensor:
        return hidden + torch.tanh(self.mix(hidden)) * temb


class Unknown(nn.Module):
    """A plain stack, and ways to spoil it."""

    def __init__(self, after: Callable[..., Tensor] = lambda hidden, inner: hidden) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(8, 8)
        self.after = after

    def forward(self, latents: Tensor, timestep: Tensor) -> Tensor:
        temb = 1 + timestep.view(-1, 1, 1) / 1000
        inner = []
        hidden = latents
        for layer in self.layers:
            hidden = layer(hidden, temb)
            inner.append(hidden)
        return self.head(self.after(hidden, inner))


def inputs(share: float = 0.0) -> dict[str, Any]:
    return {"latents": noise(1, 6, 8), "timestep": torch.tensor([1000 * (1 - share)])}


def test_an_unknown_model_is_attached_with_what_was_found() -> None:
    module = seeded(Unknown)
    spec = bwcache.discover(module, inputs())
    assert spec.lists == (bwcache.BlockList("layers", ("hidden",)),)
    assert (spec.timestep, spec.latents) == ("timestep", "latents")
    policy = BWCache(threshold=10, reuse_interval=2, tail_guard=0)
    with bwcache.attach(module, policy, spec=spec, steps=6) as session, torch.no_grad():
        for i in range(6):
            module(**inputs(i / 6))
    assert reuse_line(session.trace.events) == "CCrrCr"


def test_blocks_in_a_dictionary_are_found() -> None:
    module = seeded(Unknown)
    layers = {f"layer{i}": layer for i, layer in enumerate(module.layers)}
    module.layers = Values(layers)
    spec = bwcache.discover(module, inputs())
    assert spec.lists == (bwcache.BlockList("layers", ("hidden",)),)
    assert [block.name for block in resolve("model", module, spec).blocks] == [f"layers.{name}" for name in layers]


class Values(nn.ModuleDict):
    """Yields its modules, as the forwards that have one take them."""

    def __iter__(self) -> Any:
        return iter(self.values())


def test_a_call_that_runs_the_model_will_do() -> None:
    pipe = WAN.build()
    spec = bwcache.discover(pipe.transformer, lambda: WAN.run(pipe, num_inference_steps=1))
    assert spec.lists[0].path == "blocks"


def _inner(hidden: Tensor, inner: list[Tensor]) -> Tensor:
    return hidden + inner[1]


def _mean(hidden: Tensor, inner: list[Tensor]) -> Tensor:
    return torch.stack(inner).mean(0)


@pytest.mark.parametrize("after", [_inner, _mean])
def test_a_model_that_reads_inner_blocks_is_refused(after: Callable[..., Tensor]) -> None:
    with pytest.raises(NotProvenError, match=r"reads more than the last block's output.*BlockSpec\(.*layers"):
        bwcache.discover(seeded(lambda: Unknown(after)), inputs())


def test_a_model_that_draws_numbers_is_refused() -> None:
    module = seeded(lambda: Unknown(lambda hidden, inner: hidden + torch.rand(())))
    with pytest.raises(NotProvenError, match="another result each time"):
        bwcache.discover(module, inputs())


class Keeping(Block):
    """Keeps what it computed, as a cache of keys and values does."""

    def forward(self, hidden: Tensor, temb: Tensor) -> Tensor:
        self.cache = super().forward(hidden, temb)
        return self.cache


def test_blocks_that_keep_something_are_refused() -> None:
    def build() -> nn.Module:
        module = Unknown()
        module.layers = nn.ModuleList(Keeping() for _ in range(4))
        return module

    with pytest.raises(NotProvenError, match="keep something between forwards"):
        bwcache.discover(seeded(build), inputs())


def test_a_model_without_lists_or_time_is_refused() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return x * timestep

    class Timeless(Unknown):
        def forward(self, latents: Tensor, when: Tensor) -> Tensor:
            return super().forward(latents, when)

    with pytest.raises(NotProvenError, match="no list of blocks"):
        bwcache.discover(Flat(), {"x": noise(1, 4, 8), "timestep": torch.ones(1)})
    module, given = seeded(Timeless), {"latents": noise(1, 6, 8), "when": torch.ones(1)}
    with pytest.raises(NotProvenError, match="name it: timestep="):
        bwcache.discover(module, given)
    assert bwcache.discover(module, given, timestep="when").timestep == "when"


def test_a_call_that_does_not_run_the_model_is_refused() -> None:
    with pytest.raises(NotProvenError, match="Unknown not called"):
        bwcache.discover(seeded(Unknown), lambda: None)


class Picky(Unknown):
    """Its forward takes one time alone."""

    def forward(self, latents: Tensor, timestep: Tensor) -> Tensor:
        if float(timestep) != 1000.0:
            raise ValueError("another time")
        return super().forward(latents, timestep)


def broken() -> None:
    raise RuntimeError("no prompt")


BAD_INPUTS = {
    "a pipeline": (WAN, inputs(), "expected a torch module"),
    "a class": (Unknown, inputs(), "found <class .*Unknown.* as the denoiser; expected a torch module"),
    "a tuple": (Unknown(), (1, 2), r"found \(1, 2\) as inputs; expected the keyword arguments of Unknown's forward"),
    "nothing": (Unknown(), None, "found None as inputs"),
    "numbers for names": (Unknown(), {1: 2}, "as inputs; expected the keyword arguments"),
    "an argument missing": (Unknown(), {"latents": noise(1, 6, 8)}, r"found Unknown\(latents\) that raised TypeError"),
    "an argument too much": (
        Unknown(),
        {**inputs(), "more": 1},
        r"Unknown\(latents, timestep, more\) that raised",
    ),
    "another size": (
        Unknown(),
        {**inputs(), "latents": noise(1, 6, 7)},
        "that raised RuntimeError .*cannot be multiplied",
    ),
    "a call that fails": (Unknown(), broken, r"found inputs\(\) that raised RuntimeError \('no prompt'\)"),
    "one time alone": (
        Picky(),
        inputs(),
        r"found a forward that raises ValueError \('another time'\) on other numbers",
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_inputs_with_which_nothing_can_be_found_are_one_line(bad: str) -> None:
    module, given, said = BAD_INPUTS[bad]
    before = set(vars(module))
    with pytest.raises(bwcache.BWCacheError, match=f"{said}.*; ") as caught:
        bwcache.discover(module, given)  # type: ignore[arg-type]
    assert "; expected " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(vars(module)) == before


def test_a_time_that_the_forward_was_not_given_is_refused() -> None:
    with pytest.raises(
        bwcache.SettingError, match=r"found timestep='when'; expected .* one of latents, timestep; name"
    ):
        bwcache.discover(seeded(Unknown), inputs(), timestep="when")


def test_a_module_that_a_session_holds_is_refused() -> None:
    module = seeded(Unknown)
    row = bwcache.discover(module, inputs())
    with bwcache.attach(module, BWCache(), spec=row):
        held = pytest.raises(bwcache.AlreadyAttachedError, match=r"found Unknown held by .*; close that session first")
        with held:
            bwcache.discover(module, inputs())


def test_a_row_is_printed_as_it_is_written() -> None:
    row = bwcache.discover(seeded(Unknown), inputs())
    assert "lists=(BlockList(path='layers', returns=('hidden',)),)" in repr(row)
    assert "sources='discovered'" in repr(row)
    assert "interleaved" not in repr(row)
    names = {"BlockSpec": bwcache.BlockSpec, "BlockList": bwcache.BlockList}
    assert eval(repr(row), names) == row
