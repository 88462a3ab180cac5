"""U-Nets: what a skipped block hands on, what is done with it outside of the blocks, and loops of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import bwcache
from bwcache.core.trace import reuse_line
from bwcache.engine.idle import Outline
from bwcache.models import resolve
from tests.conformance.test_models import STEPS, Stored, alike
from tests.tiny import Scripted
from tests.zoo import unets
from tests.zoo.kinds import Model, noise, seeded

POLICY = Scripted(frozenset({2, 3}))

each_unet = pytest.mark.parametrize("model", unets.MODELS, ids=lambda model: model.name.replace(" ", "-"))


def of(name: str) -> Model:
    return next(model for model in unets.MODELS if model.name == name)


def outline(value: Any) -> Any:
    """Shapes, dtypes and arity of anything that a block takes or returns."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.device
    if isinstance(value, (tuple, list)):
        return type(value), [outline(item) for item in value]
    if isinstance(value, dict):
        return {key: outline(item) for key, item in value.items()}
    return value


@dataclass
class Call:
    """A call of a block, as the denoiser sees it, whether the block ran or not."""

    block: str
    takes: Any
    returns: Any


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], list[Call]]:
    """Records all calls of a denoiser's blocks, from outside of everything that the session does."""

    def record(module: nn.Module) -> list[Call]:
        calls: list[Call] = []
        names = {block.module: block.name for block in resolve("model", module).blocks}
        inner = nn.Module.__call__

        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            takes = outline(args), outline(kwargs)
            returned = inner(self, *args, **kwargs)
            if self in names:
                calls.append(Call(names[self], takes, outline(returned)))
            return returned

        monkeypatch.setattr(nn.Module, "__call__", call)
        return calls

    return record


@each_unet
def test_a_reused_step_has_the_shapes_of_a_computed_one(
    model: Model, recorded: Callable[[nn.Module], list[Call]]
) -> None:
    """Also the sums with a ControlNet's residuals, and the sizes that odd latents are brought up to."""
    module = model.build()
    calls = recorded(module)
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        for i in range(STEPS):
            model.run(module, i / STEPS)
    assert reuse_line(session.trace.events) == "CCrrCC"
    blocks = len(resolve("model", module).blocks)
    steps = [calls[i * blocks : (i + 1) * blocks] for i in range(STEPS)]
    assert len(calls) == blocks * STEPS
    assert steps[2] == steps[3] == steps[1]


def test_the_record_has_what_is_special(recorded: Callable[[nn.Module], list[Call]]) -> None:
    """What the test above compares: nested residuals, and sizes of odd latents."""
    model = of("UNetSpatioTemporalConditionModel odd size")
    module = model.build()
    calls = recorded(module)
    model.run(module, 0.0)
    down, up = calls[0], calls[-3]
    assert len(down.returns[1]) == 2
    assert len(down.returns[1][1][1]) == 2
    assert up.takes[1]["upsample_size"] == outline(torch.Size([3, 3]))


@each_unet
def test_nothing_in_a_skipped_block_is_run(model: Model) -> None:
    module = model.build()
    stack = resolve("model", module)
    ran: list[nn.Module] = []
    parts = [part for block in stack.blocks for part in block.module.modules() if part is not block.module]
    for part in parts:
        part.register_forward_pre_hook(lambda part, args: ran.append(part))
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        counts = []
        for i in range(STEPS):
            model.run(module, i / STEPS)
            counts.append(len(ran))
            ran.clear()
    assert reuse_line(session.trace.events) == "CCrrCC"
    assert counts[2] == counts[3] == 0
    assert min(counts[0], counts[1], counts[4], counts[5]) > len(stack.blocks)


@contextmanager
def spoilt_memory() -> Iterator[None]:
    """New memory is full of NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@each_unet
def test_what_a_skipped_block_hands_on_is_never_read(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in the place of the zeros changes nothing."""
    module = model.build()
    with bwcache.attach(module, POLICY, steps=STEPS):
        expected = [model.run(module, i / STEPS) for i in range(4)]
    filled, handed_on = Outline.filled, []

    def poisoned(self: Outline, samples: int = 1, value: float = 0.0) -> Any:
        handed_on.append(value)
        return filled(self, samples, float("nan"))

    monkeypatch.setattr(Outline, "filled", poisoned)
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        made = [model.run(module, i / STEPS) for i in range(4)]
    assert reuse_line(session.trace.events) == "CCrr"
    assert handed_on
    assert all(alike(a, b) for a, b in zip(made, expected, strict=True))


def test_whoever_reads_what_a_skipped_block_hands_on_finds_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Always the same, whatever was in memory before."""
    model = unets.MODELS[0]
    module = model.build()
    skipped = {block.module for block in resolve("model", module).blocks[:-1]}
    inner, read = nn.Module.__call__, []

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        returned = inner(self, *args, **kwargs)
        if self in skipped:
            read.extend(leaf.abs().sum() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor))
        return returned

    with spoilt_memory(), bwcache.attach(module, POLICY, steps=STEPS):
        for i in range(2):
            model.run(module, i / STEPS)
        monkeypatch.setattr(nn.Module, "__call__", call)
        model.run(module, 2 / STEPS)
    assert len(read) >= len(skipped)
    assert all(value == 0 for value in read)


class Halving(nn.Module):
    """Writes into what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5)


def test_what_is_kept_is_not_what_the_model_writes_into() -> None:
    model = of("UNet2DConditionModel T2I adapter")  # which itself writes into what down blocks returned

    def build() -> nn.Module:
        module = model.build()
        module.conv_norm_out = Halving()
        return module

    module = build()
    brute = Stored(resolve("model", module))
    expected = []
    for i in range(STEPS):
        brute.replaying = i in (2, 3)
        expected.append(model.run(module, i / STEPS))
    module = build()
    with bwcache.attach(module, POLICY, steps=STEPS):
        made = [model.run(module, i / STEPS) for i in range(STEPS)]
    assert all(alike(a, b) for a, b in zip(made, expected, strict=True))


def test_a_control_that_changes_is_not_seen_in_a_reused_step_and_is_in_the_next() -> None:
    model = of("UNet2DConditionModel ControlNet")
    module = model.build()

    def run(i: int, strength: float) -> list[Tensor]:
        given = model.inputs(i / STEPS)
        given["mid_block_additional_residual"] = given["mid_block_additional_residual"] * strength
        with torch.no_grad():
            return [module(**given)[0]]

    plain = [run(i, strength=i) for i in range(STEPS)]
    with bwcache.attach(module, POLICY, steps=STEPS):
        made = [run(i, strength=i) for i in range(STEPS)]
    assert [alike(a, b) for a, b in zip(made, plain, strict=True)] == [True, True, False, False, True, True]
    assert alike(made[2], made[3])


def upscaler() -> UNet2DConditionModel:
    """As Stable Diffusion's latent upscaler: no block in the middle, and none at the end that a norm follows."""
    return seeded(
        lambda: UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            sample_size=8,
            block_out_channels=(32, 32, 64, 64),
            layers_per_block=1,
            down_block_types=("KDownBlock2D", *["KCrossAttnDownBlock2D"] * 3),
            mid_block_type=None,
            up_block_types=(*["KCrossAttnUpBlock2D"] * 3, "KUpBlock2D"),
            act_fn="gelu",
            attention_head_dim=8,
            cross_attention_dim=8,
            norm_num_groups=None,
            resnet_time_scale_shift="scale_shift",
            time_embedding_type="fourier",
            conv_in_kernel=1,
            conv_out_kernel=1,
            time_cond_proj_dim=4,
        )
    )


def test_a_u_net_without_a_block_in_the_middle() -> None:
    def run(module: nn.Module, i: int) -> list[Tensor]:
        with torch.no_grad():
            given = {"encoder_hidden_states": noise(2, 5, 8, seed=1), "timestep_cond": noise(2, 4, seed=2)}
            return [module(noise(2, 4, 16, 16), torch.tensor(3.0 - i), **given, return_dict=False)[0]]

    module = upscaler()
    assert [block.name.split(".")[0] for block in resolve("model", module).blocks] == ["down_blocks"] * 4 + [
        "up_blocks"
    ] * 4
    plain = [run(module, i) for i in range(STEPS)]
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        made = [run(module, i) for i in range(STEPS)]
    assert reuse_line(session.trace.events) == "CCrrCC"
    assert [alike(a, b) for a, b in zip(made, plain, strict=True)] == [True, True, False, False, True, True]
    assert alike(made[2], made[1])


# Loops of their own


def special(name: str) -> Any:
    return next(case for case in unets.PIPELINES if case.name == name)


def test_free_init_makes_a_run_of_each_of_its_loops() -> None:
    case = special("animatediff_free_init")
    pipe = case.build()
    with bwcache.attach(pipe, POLICY) as session:
        assert case.run(pipe).isfinite().all()
    assert [trace.meta["total"] for trace in session.traces] == [5, 10]
    assert [reuse_line(trace.events) for trace in session.traces] == ["CCrrC", "CCrrCCCCCC"]


def test_i2vgen_is_traced_step_by_step() -> None:
    case = special("i2vgen")
    pipe = case.build()
    with bwcache.attach(pipe, POLICY) as session:
        assert case.run(pipe).isfinite().all()
    assert reuse_line(session.trace.events) == "CCrrCCCCCC"
    assert [event.total for event in session.trace.events] == [10] * 10
