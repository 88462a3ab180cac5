"""BAC: its programme against brute force, its union and its replay against second implementations by plain hooks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import bwcache
from bwcache import AttachError, BlockList, BlockSpec, BlockwiseAdaptiveCache, Part, SettingError, Trace
from bwcache.features import absolute, cosine_distance
from bwcache.policies.blockwise_adaptive import Sublayer, bubbled, scheduled
from tests import tiny
from tests.policies.proof import HOOKS, NONE, ONE, TWO, proves
from tests.tiny import BY_NAME, noise, seeded

STEPS = 8


class ActionDenoiser(nn.Module):
    """Diffusion Policy's transformer, tiny: noisy actions look at each other and at what the robot sees."""

    def __init__(self, actions: int = 2, seen: int = 6, width: int = 16, layers: int = 3) -> None:
        super().__init__()
        self.enter, self.time, self.see = nn.Linear(actions, width), nn.Linear(2, width), nn.Linear(seen, width)
        layer = nn.TransformerDecoderLayer(width, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, layers)
        self.leave = nn.Linear(width, actions)
        for parameter in self.decoder.parameters():  # its layers are copies of one
            parameter.data.add_(torch.randn_like(parameter) * 0.2)

    def forward(self, sample: Tensor, timestep: Tensor, cond: Tensor) -> Tensor:
        time = timestep.float().reshape(-1, 1, 1) / 30
        known = torch.cat((self.time(torch.cat((time.sin(), time.cos()), -1)), self.see(cond)), dim=1)
        hidden: Tensor = self.decoder(self.enter(sample), known)
        return self.leave(hidden)


LAYER = {
    "self": Part("self_attn", ("query", "key")),
    "cross": Part("multihead_attn", ("query", "key")),
    "ffn": Part("linear2", ("input",)),
}
ROW = BlockSpec(
    "ActionDenoiser",
    (BlockList("decoder.layers", ("tgt",), parts=LAYER),),
    read_after=("tgt",),
    measured="tgt",
    latents="sample",
    conditions=("cond",),
    guidance="none",
)


def actions(module: nn.Module, seed: int = 0, num_inference_steps: int = STEPS) -> Tensor:
    """Eight actions for what is seen, by DDPM."""
    scheduler = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(num_inference_steps)
    sample, seen = noise(1, 8, 2, seed=seed), noise(1, 2, 6, seed=seed + 50)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for time in scheduler.timesteps:
            predicted = module(sample, time[None], cond=seen)
            sample = scheduler.step(predicted, time, sample, generator=generator).prev_sample
    return sample


@dataclass(frozen=True)
class Host:
    """Where it runs.

    Attributes:
        build: what is attached to.
        run: makes something of it, from a seed.
        layers: of its layers the list's path and the names of their parts.
        branches: how many forwards a step has.
        parted: how many branches lie in the batch of a forward.
        row: given to `attach`.
    """

    build: Callable[[], Any]
    run: Callable[..., Tensor]
    layers: tuple[str, tuple[str, ...]]
    branches: int = 1
    parted: int = 1
    row: BlockSpec | None = None

    def sublayers(self, thing: Any) -> dict[str, nn.Module]:
        """By name, in call order."""
        path, names = self.layers
        module = getattr(thing, "transformer", thing)
        count = len(module.get_submodule(path))
        return {
            f"{path}.{i}.{part}": module.get_submodule(f"{path}.{i}.{part}") for i in range(count) for part in names
        }

    def attach(self, thing: Any, policy: bwcache.Policy[Any]) -> bwcache.Session:
        how: dict[str, Any] = {} if self.row is None else {"spec": self.row, "steps": STEPS}
        return bwcache.attach(thing, policy, **how)


VIDEO = ("attn1", "attn2", "ffn")
HOSTS = {
    "two forwards": Host(tiny.wan, BY_NAME["wan"].run, ("blocks", VIDEO), 2),
    "one forward": Host(tiny.ltx, BY_NAME["ltx"].run, ("transformer_blocks", ("attn1", "attn2", "ff")), 1, 2),
    "actions": Host(
        lambda: seeded(ActionDenoiser), actions, ("decoder.layers", tuple(p.path for p in LAYER.values())), row=ROW
    ),
}


def first_of(returned: Any) -> Tensor:
    found: Tensor = returned[0] if isinstance(returned, tuple) else returned
    return found


def replayed(inner: Callable[..., Any], updates: tuple[int, ...], branches: int) -> Callable[..., Any]:
    """A function in the place of a module's own: between updates it hands out what the last one returned."""
    kept: dict[int, Any] = {}
    calls = [0]

    def forward(*args: Any, **kwargs: Any) -> Any:
        step, branch = divmod(calls[0], branches)
        calls[0] += 1
        if step in updates:
            kept[branch] = inner(*args, **kwargs)
        returned = kept[branch]
        return (returned[0].clone(), None) if isinstance(returned, tuple) else returned.clone()

    return forward


def outputs(host: Host, seed: int) -> dict[tuple[str, int], list[Tensor]]:
    """What each sublayer returned in all steps of an ordinary run, by name and branch."""
    thing = host.build()
    found: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    for name, module in host.sublayers(thing).items():
        calls = [0]

        def noted(_m: Any, _a: Any, out: Any, name: str = name, calls: Any = calls) -> None:
            for part, own in enumerate(first_of(out).chunk(host.parted)):
                found[name, calls[0] % host.branches * host.parted + part].append(own.double().flatten())
            calls[0] += 1

        module.register_forward_hook(noted)
    host.run(thing, seed, num_inference_steps=STEPS)
    return found


def plainly_measured(host: Host, seeds: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, float]]:
    """S and the error of each sublayer, mean over runs and branches, in double precision."""
    tables, errors = defaultdict(list), defaultdict(list)
    for seed in seeds:
        for (name, _), some in outputs(host, seed).items():
            x = torch.stack(some)
            assert len(x) == STEPS
            tables[name].append((x @ x.T / (x.norm(dim=1)[:, None] * x.norm(dim=1))).numpy())
            errors[name].append(np.mean([float((x[i] - x[j]).abs().mean()) for i, j in combinations(range(STEPS), 2)]))
    return {name: np.mean(each, 0) for name, each in tables.items()}, {k: float(np.mean(e)) for k, e in errors.items()}


def worth(similarity: Any, updates: tuple[int, ...]) -> float:
    """Sum over all steps of how alike each is to the update that it is made of."""
    return float(sum(similarity[max(u for u in updates if u <= step), step] for step in range(len(similarity))))


def best(similarity: Any, count: int) -> tuple[int, ...]:
    """By trying all lists."""
    steps = len(similarity)
    every = [(0, *more) for more in combinations(range(1, steps), min(count, steps) - 1)]
    return max(every, key=lambda updates: worth(similarity, updates))


def united(lists: Mapping[str, tuple[int, ...]], errors: Mapping[str, float], n: int) -> dict[str, tuple[int, ...]]:
    """Rule 3 from names alone: the digits say the layer, "ff" or "linear2" an FFN."""
    if n < 2:
        return dict(lists)

    def layer(name: str) -> int:
        return int(next(part for part in name.split(".") if part.isdigit()))

    chosen = set(sorted(errors, key=lambda name: errors[name])[-n:])
    found = {}
    for name, own in lists.items():
        steps = set(own)
        for other, more in lists.items():
            is_ffn = other.rpartition(".")[2] in ("ffn", "ff", "linear2")
            if name in chosen and is_ffn and layer(other) >= layer(name):
                steps |= set(more)
        found[name] = tuple(sorted(steps))
    return found


PARTS = (("self", "attn1"), ("cross", "attn2"), ("ffn", "ffn"))


@pytest.fixture(scope="module", params=HOSTS)
def measured(request: Any) -> tuple[Host, list[Trace]]:
    host, made = HOSTS[request.param], []
    for seed in (0, 1):
        thing = host.build()
        with host.attach(thing, BlockwiseAdaptiveCache.measuring(STEPS)) as session:
            found = host.run(thing, seed, num_inference_steps=STEPS)
        assert torch.equal(found, host.run(host.build(), seed, num_inference_steps=STEPS))
        made += session.traces
    return host, made


ON = {"WanTransformer3DModel": (TWO,), "LTXVideoTransformer3DModel": (ONE,), "a denoiser of actions": (NONE,)}
"""What `HOSTS` have, and how guidance comes there."""


@pytest.mark.parametrize("steps", range(1, 11))
def test_the_programme_finds_what_trying_all_lists_finds(steps: int) -> None:
    for seed in range(3):
        similarity = np.random.default_rng(seed).uniform(-1, 1, (steps, steps))
        for count in range(1, steps + 2):
            assert scheduled(similarity, count) == best(similarity, count), (seed, count)


def test_it_weighs_every_step_that_is_held_not_neighbours() -> None:
    """Steps each like the one before, and none like the first: held long they are worth less than neighbours say."""
    turned = np.arange(9) * 0.3
    assert scheduled(np.cos(turned - turned[:, None]), 3) == (0, 3, 6)
    jumps = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2.0])
    assert scheduled(np.cos(jumps - jumps[:, None]), 3) == (0, 5, 8)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), layers=st.integers(1, 4), n=st.integers(0, 12))
def test_the_union_is_that_of_a_second_implementation(data: Any, layers: int, n: int) -> None:
    names = [(kind, layer, f"blocks.{layer}.{part}") for layer in range(layers) for kind, part in PARTS]
    some = st.sets(st.integers(1, 9), max_size=4).map(lambda steps: (0, *sorted(steps)))
    lists = {name: data.draw(some) for _, _, name in names}
    errors = data.draw(st.permutations([float(i) for i in range(len(names))]))
    sublayers = [
        Sublayer(name, kind, at, np.eye(1), error) for (kind, at, name), error in zip(names, errors, strict=True)
    ]
    by_name = {each.name: each.error for each in sublayers}
    assert bubbled(lists, sublayers, n) == united(lists, by_name, n)


def test_the_union_by_hand() -> None:
    kinds = [(kind, layer, f"blocks.{layer}.{part}") for layer in range(2) for kind, part in PARTS]
    errors = (9.0, 1.0, 2.0, 3.0, 4.0, 8.0)
    sublayers = [
        Sublayer(name, kind, at, np.eye(1), error) for (kind, at, name), error in zip(kinds, errors, strict=True)
    ]
    lists: dict[str, tuple[int, ...]] = {each.name: (0, i + 1) for i, each in enumerate(sublayers)}
    assert bubbled(lists, sublayers, 1) == bubbled(lists, sublayers, 0) == lists
    assert bubbled(lists, sublayers, 2) == {**lists, "blocks.0.attn1": (0, 1, 3, 6)}
    assert bubbled(lists, sublayers, 3) == {**lists, "blocks.0.attn1": (0, 1, 3, 6), "blocks.1.attn2": (0, 5, 6)}


@proves(
    BlockwiseAdaptiveCache,
    "a second implementation by plain hooks, lists by trying all",
    "the table that is measured, the lists and their union",
    on=ON,
)
def test_lists_are_those_of_a_second_implementation(measured: tuple[Host, list[Trace]]) -> None:
    host, traces = measured
    similarity, errors = plainly_measured(host, (0, 1))
    found = set()
    for count, union in ((2, 0), (3, 3), (4, 5), (5, 1), (STEPS, 3)):
        policy = BlockwiseAdaptiveCache.fitted(traces, count=count, union=union)
        plain = BlockwiseAdaptiveCache.fitted(traces, count=count, union=0).updates
        for name, table in similarity.items():
            assert len(plain[name]) == count
            assert worth(table, plain[name]) >= worth(table, best(table, count)) - 1e-6, name
        assert policy.updates == united(plain, errors, union)
        assert list(policy.updates) == list(host.sublayers(host.build()))
        assert policy.steps == STEPS
        assert policy.may_reuse == (count < STEPS)
        found.add(tuple(policy.updates.values()))
    assert len(found) == 5
    lists = BlockwiseAdaptiveCache.fitted(traces, count=4, union=0).updates
    assert len(set(lists.values())) > 1  # each sublayer has its own


def test_what_was_measured_survives_files_and_the_policy_its_description(
    measured: tuple[Host, list[Trace]], tmp_path: Any
) -> None:
    _, traces = measured
    for i, trace in enumerate(traces):
        trace.to_jsonl(tmp_path / f"{i}.jsonl")
    policy = BlockwiseAdaptiveCache.fitted(traces, 3)
    assert BlockwiseAdaptiveCache.fitted([Trace.from_jsonl(tmp_path / f"{i}.jsonl") for i in range(2)], 3) == policy
    again = bwcache.policy(json.loads(json.dumps(policy.describe())))
    assert again == policy
    assert hash(again) == hash(policy)


@proves(
    BlockwiseAdaptiveCache,
    HOOKS,
    on=ON,
)
def test_it_replays_each_sublayer_bit_for_bit(measured: tuple[Host, list[Trace]]) -> None:
    host, traces = measured
    policy = BlockwiseAdaptiveCache.fitted(traces, count=3, union=3)
    left_out = list(policy.updates)[1]
    for updates in (policy.updates, {k: v for k, v in policy.updates.items() if k != left_out}):
        thing = host.build()
        for name, module in host.sublayers(thing).items():
            if name in updates:
                module.forward = replayed(module.forward, updates[name], host.branches)
        by_hand = host.run(thing, 2, num_inference_steps=STEPS)
        thing = host.build()
        with host.attach(thing, BlockwiseAdaptiveCache(updates, STEPS)) as session:
            assert torch.equal(host.run(thing, 2, num_inference_steps=STEPS), by_hand)
            assert torch.equal(host.run(thing, 2, num_inference_steps=STEPS), by_hand)  # another call begins anew
        assert {event.site.rpartition("/")[2] for event in session.trace.events} == set(updates)
        for event in session.trace.events:
            assert (event.action == "compute") == (event.step in updates[event.site.rpartition("/")[2]])
        assert not torch.equal(by_hand, host.run(host.build(), 2, num_inference_steps=STEPS))


def test_the_indicators() -> None:
    new, old = noise(1, 3, 50, seed=1), noise(1, 3, 50, seed=2)
    for one in (new, new + 0.001 * old, -new):
        n, o = one.double().flatten(), new.double().flatten()
        top, below = cosine_distance(one, new)
        exact = float(1 - n @ o / (n.norm() * o.norm()))
        assert float(top / below) == pytest.approx(exact, rel=1e-4, abs=1e-12)
        top, below = absolute(one, new)
        assert float(top / below) == pytest.approx(float((n - o).abs().mean()), rel=1e-5)
    nothing = torch.zeros_like(new)
    assert float(cosine_distance(nothing, nothing)[0]) == 0
    top, below = cosine_distance(new, nothing)
    assert float(top / below) > 0.1


def test_what_does_not_fit_is_refused(measured: tuple[Host, list[Trace]]) -> None:
    host, traces = measured
    other = Trace({"policy": {"name": "NeverReuse"}}, traces[0].events)
    short = Trace(traces[0].meta, traces[0].events[:-1])
    for wrong in ([], [Trace()], [other], [short], [traces[0], short]):
        with pytest.raises(SettingError, match=r"traces of .*under BlockwiseAdaptiveCache.measuring"):
            BlockwiseAdaptiveCache.fitted(wrong)
    thing = host.build()
    with host.attach(thing, BlockwiseAdaptiveCache.measuring(STEPS - 1)) as session:
        host.run(thing, num_inference_steps=STEPS)
    with pytest.raises(SettingError, match="as many steps"):
        BlockwiseAdaptiveCache.fitted(session.traces)
    events = [replace(event, distances=(float("nan"),) * len(event.distances or ())) for event in traces[0].events]
    with pytest.raises(SettingError, match="what was measured is NaN or infinite"):  # it made lists such as (0, 0, 0)
        BlockwiseAdaptiveCache.fitted([Trace(traces[0].meta, events), *traces[1:]])
    for settings_ in ({"count": 0}, {"union": -1}, {"count": 1.5}):
        with pytest.raises(SettingError, match=next(iter(settings_))):
            BlockwiseAdaptiveCache.fitted(traces, **settings_)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"sublayer 'x' of \w+; expected some of: "):
        host.attach(host.build(), BlockwiseAdaptiveCache({"x": (0,)}))
    name = next(iter(host.sublayers(thing)))
    with pytest.raises(SettingError, match="found lists for 6 steps; expected for 8"):  # noqa: SIM117
        with host.attach(thing, BlockwiseAdaptiveCache({name: (0, 2)}, 6)):
            host.run(thing, num_inference_steps=STEPS)
    for updates in ({"a": (1, 2)}, {"a": (0, -1)}, {"a": 3}, 3):
        with pytest.raises(SettingError, match="updates"):
            BlockwiseAdaptiveCache(updates)  # type: ignore[arg-type]


def test_blocks_without_parts_are_refused() -> None:
    row = BlockSpec("ActionDenoiser", (BlockList("decoder.layers", ("tgt",)),), ("tgt",), "tgt", latents="sample")
    for policy in (BlockwiseAdaptiveCache.measuring(4), BlockwiseAdaptiveCache({"x": (0,)})):
        with pytest.raises(AttachError, match="of whose blocks no parts are known; expected a row with parts"):
            bwcache.attach(seeded(ActionDenoiser), policy, spec=row, steps=4)
