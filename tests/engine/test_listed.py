"""Latents that come as a list, such as picture and sound: as if they were one tensor, each part at its own place."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache.engine.listed import apart, joined
from bwcache.models import BlockList, BlockSpec

SHAPES = [(3, 2, 4), (5, 3)]
"""Of picture and sound, without the batch."""
STEPS = 8
SHARES = tuple(1 - step / STEPS for step in range(STEPS + 1))


class Block(nn.Module):
    """Takes a pair as one argument, writes into it, and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: tuple[Tensor, Tensor], text: Tensor | None = None) -> tuple[Tensor, Tensor]:
        picture, sound = x
        picture.add_(torch.tanh(self.linear(picture) + sound.mean(1, keepdim=True)))
        sound.add_(torch.tanh(self.linear(sound) + picture.mean(1, keepdim=True) + text))
        return picture, sound


class Pair(nn.Module):
    """A denoiser of picture and sound."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(1, 6), nn.Linear(6, 1)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: list[Tensor], timestep: Any, context: Tensor | None = None) -> list[Tensor]:
        time = timestep[0] if isinstance(timestep, tuple) else timestep
        pair = tuple(self.enter(part.flatten(1).unsqueeze(-1)) for part in x)
        for block in self.blocks:
            pair = block(pair, text=context)
        return [self.out(own, time).view_as(part) for own, part in zip(pair, x, strict=True)]

    def out(self, hidden: Tensor, time: Tensor) -> Tensor:
        made: Tensor = self.leave(hidden * (1 + time.view(-1, 1, 1))).squeeze(-1)
        return made


class Single(nn.Module):
    """The same with latents in one tensor, `[B, 1, N]`."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, x: Tensor, timestep: Any, context: Tensor | None = None) -> Tensor:
        return joined(self.pair(apart(x, SHAPES), timestep, context))


ROW = BlockSpec(
    "Pair",
    (BlockList("blocks", ("x[0]", "x[1]")),),
    read_after=("x[0]", "x[1]"),
    measured="x[0]",
    also_measured=("x[1]",),
    latents="x",
    latents_listed=True,
    module_prefix=__name__,
)
WHOLE = BlockSpec("Single", (), latents="x", module_prefix=__name__)


@torch.no_grad()
def sampled(session: bwcache.Session, denoise: Any, listed: bool, times: int = 1) -> Tensor:
    """Euler with two prompts, together in each third step, else apart."""
    x = joined([torch.randn(1, *shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES])
    texts = {name: torch.full((1, 1, 6), value) for name, value in (("cond", 0.4), ("uncond", -0.3))}
    for step, (share, after) in enumerate(pairwise(SHARES)):
        made: dict[str, Tensor] = {}
        for names in [("cond", "uncond")] if step % 3 == 0 else [("cond",), ("uncond",)]:
            count = len(names)
            rows: Any = x.expand(count, -1, -1).contiguous()
            time: Any = torch.full((count,), share)
            said: dict[str, Any] = {"index": step, "total": STEPS, "sigma": share, "schedule": SHARES}
            with session.step(**said, prediction="flow", branch=names, time_of=float):
                out = denoise(
                    apart(rows, SHAPES) if listed else rows,
                    (time,) * times if times > 1 else time,
                    context=torch.cat([texts[name] for name in names]),
                )
            made |= dict(zip(names, (joined(out) if listed else out).split(1), strict=True))
        x = x + (after - share) * (made["uncond"] + 2 * (made["cond"] - made["uncond"]))
    return x


def ran(
    policy: Any, listed: bool, times: int = 1, spec: BlockSpec | None = None
) -> tuple[Tensor, list[tuple[int, str, str]]]:
    pair = Pair()
    module: nn.Module = pair if listed else Single(pair)
    row = spec or (ROW if listed else WHOLE)
    with bwcache.attach(module, policy, spec=row, per_sample=False) as session:
        made = sampled(session, module, listed, times)
    return made, [(event.step, event.branch, event.action) for event in session.trace.events]


@pytest.mark.parametrize("times", [1, 2], ids=["one time", "a time for each"])
@pytest.mark.parametrize("policy", [bwcache.Planned(0), bwcache.Planned(0.2), bwcache.Planned(0.2, ahead=0.5)], ids=str)
def test_it_is_as_if_the_latents_were_one_tensor(policy: Any, times: int) -> None:
    made, events = ran(policy, listed=True, times=times)
    wanted, same = ran(policy, listed=False, times=times)
    assert torch.equal(made, wanted)
    assert events == same
    reused = sum(action == "reuse" for _, _, action in events)
    assert bool(reused) == (policy.tolerance > 0)


def test_a_row_without_blocks_takes_a_list_too() -> None:
    whole = BlockSpec("Pair", (), latents="x", latents_listed=True, module_prefix=__name__)
    made, events = ran(bwcache.Planned(0.2), listed=True, spec=whole)
    wanted, same = ran(bwcache.Planned(0.2), listed=False)
    assert torch.equal(made, wanted)
    assert events == same


class Told(nn.Module):
    """Returns its list in a tuple, with two other things."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: Any, timestep: Any, context: Tensor | None = None) -> Any:
        return list(self.pair(x, timestep, context)), None, 7


@torch.no_grad()
def test_a_list_within_a_tuple_is_what_is_predicted() -> None:
    module, plain = Told(), Pair()
    plain.load_state_dict(module.pair.state_dict())
    row = BlockSpec("Told", (), latents="x", latents_listed=True, module_prefix=__name__)

    def denoise(*args: Any, **kwargs: Any) -> Any:
        made, nothing, number = module(*args, **kwargs)
        assert (type(made), nothing, number) == (list, None, 7)
        return made

    with bwcache.attach(module, bwcache.Planned(0.2), spec=row, per_sample=False) as session:
        made = sampled(session, denoise, listed=True)
    whole = BlockSpec("Pair", (), latents="x", latents_listed=True, module_prefix=__name__)
    with bwcache.attach(plain, bwcache.Planned(0.2), spec=whole, per_sample=False) as session:
        assert torch.equal(made, sampled(session, plain, listed=True))
    assert session.trace.reuse_rate > 0


class Alone(nn.Module):
    """Takes a list of one, and returns it in some form."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.linear = form, nn.Linear(4, 4)

    def forward(self, x: list[Tensor], timestep: Tensor) -> Any:
        return self.form(torch.tanh(self.linear(x[0])) * timestep.view(-1, 1, 1))


FORMS = {
    "tensor": lambda made: made,
    "list": lambda made: [made],
    "tuple": lambda made: (made,),
    "list in a tuple": lambda made: ([made], None),
}


@torch.no_grad()
@pytest.mark.parametrize("tolerance", [0, 0.2])
@pytest.mark.parametrize("form", FORMS)
def test_a_list_of_one_leaves_in_the_form_in_which_the_denoiser_returns_it(form: str, tolerance: float) -> None:
    module = Alone(FORMS[form])
    row = BlockSpec("Alone", (), latents="x", latents_listed=True, module_prefix=__name__)
    x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    with bwcache.attach(module, bwcache.Planned(tolerance), spec=row, per_sample=False) as session:
        for step, share in enumerate(SHARES[:-1]):
            with session.step(index=step, total=STEPS, sigma=share, schedule=SHARES, prediction="flow"):
                made = module([x], torch.full((1,), share))
            plain = module.form(torch.tanh(module.linear(x)) * share)
            assert formed(made) == formed(plain)
            if session.trace.events[-1].action == "compute":
                assert torch.equal(leaf(made), leaf(plain))
    assert (session.trace.reuse_rate > 0) == (tolerance > 0)


def formed(made: Any) -> Any:
    """What something is made of, without the numbers in its tensors."""
    if isinstance(made, (list, tuple)):
        return type(made), [formed(one) for one in made]
    return made.shape if isinstance(made, Tensor) else made


def leaf(made: Any) -> Tensor:
    """The first tensor in it."""
    return made if isinstance(made, Tensor) else leaf(made[0])


@torch.no_grad()
def test_blocks_that_take_a_pair_are_kept_as_two_streams() -> None:
    """Against the same by hand: the blocks run in each third step, and what they returned is used until then."""
    policy = bwcache.FixedInterval(interval=3, warmup=1, tail=0)
    made, events = ran(policy, listed=True)
    computed = sorted({step for step, _, action in events if action == "compute"})
    assert computed == [0, 3, 6]
    pair, x = Pair(), joined([torch.randn(1, *shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES])
    kept: dict[float, Any] = {}
    for step, (share, after) in enumerate(pairwise(SHARES)):
        out = {}
        for text in (0.4, -0.3):
            if step in computed:
                own = tuple(pair.enter(part.flatten(1).unsqueeze(-1)) for part in apart(x, SHAPES))
                for block in pair.blocks:
                    own = block(own, text=torch.full((1, 1, 6), text))
                kept[text] = own
            time = torch.full((1,), share)
            out[text] = torch.cat([pair.out(part, time)[:, None] for part in kept[text]], 2)
        x = x + (after - share) * (out[-0.3] + 2 * (out[0.4] - out[-0.3]))
    torch.testing.assert_close(made, x, atol=1e-5, rtol=1e-5)


def test_apart_is_the_reverse_of_joined() -> None:
    parts = [torch.randn(2, *shape) for shape in SHAPES]
    whole = joined(parts)
    assert whole.shape == (2, 1, 3 * 2 * 4 + 5 * 3)
    assert all(torch.equal(one, other) for one, other in zip(parts, apart(whole, SHAPES), strict=True))
    (alone,) = apart(joined(parts[:1]), SHAPES[:1])
    assert alone is parts[0]
