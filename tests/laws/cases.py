"""What the laws are held against: policies x models x predictors x ways to run, each pair of two of them at least once.

Every policy stands here twice: so bold that it reuses on a tiny model, and with settings that never reuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

import bwcache
from bwcache import BlockSpec, Bounded, Damped, Last, Linear, Part, Policy, Predictor, Taylor
from bwcache.models.resolution import resolve
from bwcache.models.table import row_of
from tests.parts import with_parts
from tests.tiny import BY_NAME, Case, noise
from tests.zoo.unets import PIPELINES as UNETS

STEPS = 8
WIDE = (0.0, 1001.0)


@dataclass(frozen=True)
class Bold:
    """A policy that reuses, made with a predictor or with its own for a model; and one that never does.

    Attributes:
        on_tokens: whether on latents that are a row of tokens.
        crosses: whether cross attention is among its parts.
        replays: whether its own predictor, if it takes no other, replays: then brute force can judge it.
        all_of_it: whether steps are reused as a whole; else the outermost site is computed in one of the branches.
        cuts: whether one branch is made of another: then they are told apart where they come in one forward.
        sites: how many it has, where it is not `on_parts`; None: one for each block.
    """

    make: Callable[[Predictor, str], Policy[Any]]
    never: Callable[[str], Policy[Any]]
    predicts: bool = True
    on_unets: bool = True
    on_transformers: bool = True
    long_skips: bool = False
    crosses: bool = True
    on_parts: bool = False
    on_tokens: bool = True
    clean: bool = False
    replays: bool = True
    all_of_it: bool = True
    cuts: bool = False
    sites: int | None = 1


def _window(predictor: Predictor) -> Policy[Any]:
    return bwcache.BWCache(10.0, 2, predictor=predictor)


def _layers(model: str, *steps: tuple[int, ...]) -> Policy[Any]:
    """The first kind of attention of a model is computed at the first of these steps, the second at others."""
    kinds = dict.fromkeys(part if isinstance(part, str) else part.path for part in _PARTS[model].values())
    return bwcache.SmoothCache(dict(zip(kinds, steps, strict=False)), STEPS)


def _sublayers(model: str, *lists: tuple[int, ...]) -> Policy[Any]:
    """The parts of a model are computed at the steps of these lists, one after the other."""
    module = pipeline(model).transformer
    parts = resolve("transformer", module, with_parts(type(module), **_PARTS[model])).parts()
    return bwcache.BlockwiseAdaptiveCache({part.name: lists[i % len(lists)] for i, part in enumerate(parts)}, STEPS)


EVERY = tuple(range(STEPS))
LEVELS = (*torch.linspace(1, 0.001, STEPS).tolist(), 0.0)
"""Shares of noise of an even schedule, as `wan` and `ltx` have it."""
POLICIES: dict[str, Bold] = {
    "BWCache": Bold(lambda p, _: _window(p), lambda _: bwcache.BWCache(threshold=0)),
    "Adaptive": Bold(lambda p, _: bwcache.Adaptive(1.0, 0.0, p), lambda _: bwcache.Adaptive(tolerance=0)),
    "FixedInterval": Bold(lambda p, _: bwcache.FixedInterval(3, predictor=p), lambda _: bwcache.FixedInterval(1)),
    "StepList": Bold(lambda p, _: bwcache.StepList((0, 1, 4, 7), p), lambda _: bwcache.StepList(EVERY)),
    "Tuned": Bold(
        lambda p, _: bwcache.Tuned((0, 1, 4, 7), ((1.0,), (1.5, -0.5), (1.2, 0.1, -0.3), (1.0,)), LEVELS),
        lambda _: bwcache.Tuned(EVERY, ((1.0,),) * STEPS, LEVELS),
        predicts=False,
        clean=True,
    ),
    "Guarded": Bold(
        lambda p, _: bwcache.Guarded(bwcache.StepList((0, 7), p), warmup=2, tail=2, longest=2),
        lambda _: bwcache.Guarded(bwcache.StepList((0,)), warmup=STEPS),
    ),
    "PerDenoiser": Bold(
        lambda p, model: bwcache.PerDenoiser({_denoiser(model): _window(p)}),
        lambda model: bwcache.PerDenoiser({_denoiser(model): bwcache.BWCache(threshold=0)}),
    ),
    "NeverReuse": Bold(lambda p, _: bwcache.NeverReuse(), lambda _: bwcache.NeverReuse(measures=1), False),
    "FirstBlock": Bold(lambda p, _: bwcache.FirstBlock(1.0), lambda _: bwcache.FirstBlock(0), False, False),
    "PyramidAttentionBroadcast": Bold(
        lambda p, _: bwcache.PyramidAttentionBroadcast(2, 2, 3, WIDE, WIDE, WIDE),
        lambda _: bwcache.PyramidAttentionBroadcast(1, 1, 1),
        predicts=False,
        on_unets=False,
        on_parts=True,
    ),
    "SmoothCache": Bold(
        lambda p, model: _layers(model, (0, 1, 4, 7), (0, 3, 5)),
        lambda model: _layers(model, EVERY, EVERY),
        predicts=False,
        on_unets=False,
        on_parts=True,
    ),
    "BlockwiseAdaptiveCache": Bold(
        lambda p, model: _sublayers(model, (0, 1, 4, 7), (0, 3, 5), (0, 2)),
        lambda model: _sublayers(model, EVERY),
        predicts=False,
        on_unets=False,
        on_parts=True,
    ),
    "Foresight": Bold(
        lambda p, _: bwcache.Foresight(50.0, 1, 0.3), lambda _: bwcache.Foresight(0), False, False, sites=None
    ),
    "TaylorSeer": Bold(
        lambda p, _: bwcache.TaylorSeer(3, 1, 2),
        lambda _: bwcache.TaylorSeer(1),
        predicts=False,
        on_unets=False,
        on_parts=True,
        replays=False,
    ),
    "HiCache": Bold(
        lambda p, _: bwcache.HiCache(3, 2, 2, lite=True),
        lambda _: bwcache.HiCache(1, lite=True),
        predicts=False,
        replays=False,
    ),
    "Spectrum": Bold(
        lambda p, _: bwcache.Spectrum(2, 0.75, 2, share=0.5),
        lambda _: bwcache.Spectrum(1, 0),
        predicts=False,
        replays=False,
    ),
    "MeanCache": Bold(
        lambda p, _: bwcache.MeanCache((0, 1, 4, 7), (1, 2, 3, 1), STEPS),
        lambda _: bwcache.MeanCache(EVERY, (1,) * STEPS, STEPS),
        predicts=False,
        replays=False,
    ),
    "SpeCa": Bold(
        lambda p, _: bwcache.SpeCa(0.5, 0.5, 0.01, 1, 3, 1, 1, lite=True),
        lambda _: bwcache.Guarded(bwcache.SpeCa(lite=True), warmup=STEPS),
        predicts=False,
        on_unets=False,
        replays=False,
        sites=2,
    ),
    "DBPrune": Bold(
        lambda p, _: bwcache.DBPrune(1.0, 0, 0, 1),
        lambda _: bwcache.DBPrune(0, 0),
        predicts=False,
        on_unets=False,
        replays=False,
        sites=None,
    ),
    "DeepCache": Bold(
        lambda p, _: bwcache.DeepCache(3, 2),
        lambda _: bwcache.DeepCache(1),
        predicts=False,
        on_transformers=False,
        replays=False,
    ),
    "BlockCaching": Bold(
        lambda p, _: bwcache.BlockCaching(
            {"mid_block.attentions.0": (0, 3), "up_blocks.1.attentions.0": (0, 1, 4)}, STEPS
        ),
        lambda _: bwcache.BlockCaching({"mid_block.attentions.0": EVERY}, STEPS),
        predicts=False,
        on_transformers=False,
        replays=False,
        sites=2,
    ),
    "SkipDiT": Bold(
        lambda p, _: bwcache.SkipDiT(3, 1001, 0),
        lambda _: bwcache.SkipDiT(1),
        predicts=False,
        on_unets=False,
        long_skips=True,
        replays=False,
    ),
    "Sortblock": Bold(
        lambda p, _: bwcache.Sortblock(3, 0.3, 1001, 0, (1.0,)),
        lambda _: bwcache.Sortblock(1),
        predicts=False,
        on_unets=False,
        replays=False,
        sites=None,
    ),
    "Planned": Bold(lambda p, _: bwcache.Planned(computed=4, predictor=p), lambda _: bwcache.Planned(0), clean=True),
    "TeaCache": Bold(
        lambda p, _: bwcache.TeaCache(2.0, (1.0, 0.0)), lambda _: bwcache.TeaCache(0), predicts=False, on_unets=False
    ),
    "MagCache": Bold(
        lambda p, _: bwcache.MagCache((1.0,), 1.0, 2, 0.0),
        lambda _: bwcache.MagCache((1.0,), longest=0),
        predicts=False,
        on_unets=False,
    ),
    "SeaCache": Bold(
        lambda p, _: bwcache.SeaCache(9.0, 0, 2),
        lambda _: bwcache.SeaCache(0),
        predicts=False,
        on_unets=False,
        on_tokens=False,
    ),
    "DiCache": Bold(
        lambda p, _: bwcache.DiCache(2.0, 1, 1.5, 0.0),
        lambda _: bwcache.DiCache(0),
        predicts=False,
        on_unets=False,
        replays=False,
    ),
    "DBCache": Bold(
        lambda p, _: bwcache.DBCache(2.0, 1, 1, 0), lambda _: bwcache.DBCache(0, 1), predicts=False, on_unets=False
    ),
    "AdaCache": Bold(
        lambda p, _: bwcache.AdaCache((9.0,), (3, 1)),
        lambda _: bwcache.AdaCache((9.0,), (1, 1)),
        predicts=False,
        on_unets=False,
    ),
    "HierarchicalLatentCache": Bold(
        lambda p, _: bwcache.HierarchicalLatentCache((9.0, 9.0), (3, 1, 1)),
        lambda _: bwcache.HierarchicalLatentCache((9.0, 9.0), (1, 1, 1)),
        predicts=False,
        on_unets=False,
        on_tokens=False,
    ),
    "SenCache": Bold(
        lambda p, _: bwcache.SenCache(((500.0, 0.1, 0.0),), 9.0, 9.0, 2),
        lambda _: bwcache.SenCache(((500.0, 0.1, 0.0),), 0, 0),
        predicts=False,
        on_unets=False,
    ),
    "FasterCache": Bold(
        lambda p, _: bwcache.FasterCache(2, WIDE, guidance=1),
        lambda _: bwcache.FasterCache(1, guidance=1),
        predicts=False,
        on_unets=False,
        on_parts=True,
        crosses=False,
        replays=False,
    ),
    "FlowCache": Bold(
        lambda p, _: bwcache.FlowCache(2.0, 1, 0), lambda _: bwcache.FlowCache(0), predicts=False, on_unets=False
    ),
    "MixCache": Bold(
        lambda p, _: bwcache.MixCache(1, 3, 3),
        lambda _: bwcache.MixCache(interval=1, longest=1),
        predicts=False,
        on_unets=False,
        replays=False,
        all_of_it=False,
        cuts=True,
        sites=3,
    ),
    "EasyCache": Bold(lambda p, _: bwcache.EasyCache(2.0, 2), lambda _: bwcache.EasyCache(0), False),
}

PREDICTORS: dict[str, Predictor] = {
    "Last": Last(),
    "Linear": Linear(),
    "Taylor2": Taylor(2),
    "Damped": Damped(),
    "Bounded": Bounded(),
}

_ONE = {"guidance_scale": 1.0}
_TRUE = {
    "true_cfg_scale": 3.0,
    "negative_prompt_embeds": noise(1, 8, 16, seed=5),
    "negative_pooled_prompt_embeds": noise(1, 8, seed=6),
    "negative_prompt_attention_mask": torch.ones(1, 8),
}
MODELS: dict[str, tuple[Case, dict[str, Any], dict[str, Any]]] = {
    "wan": (BY_NAME["wan"], {}, _ONE),
    "cogvideox": (BY_NAME["cogvideox"], {}, _ONE),
    "hunyuan": (BY_NAME["hunyuan"], _TRUE, {}),
    "ltx": (BY_NAME["ltx"], {}, _ONE),
    "unet": (next(case for case in UNETS if case.name == "stable_diffusion"), {}, _ONE),
}
"""Each with what is changed to guide it, and to not guide it: in two forwards, in one, by itself."""

_BOTH = ("hidden_states", "encoder_hidden_states")
_PARTS: dict[str, dict[str, str | Part]] = {
    "wan": {"self": "attn1", "cross": "attn2"},
    "cogvideox": {"joint": Part("attn1", _BOTH)},
    "hunyuan": {"joint": Part("attn", _BOTH)},
    "ltx": {"self": "attn1", "cross": "attn2"},
}

WAYS = ("guided", "unguided", "batch", "bfloat16")


@dataclass(frozen=True)
class One:
    """A case of the table."""

    policy: str
    model: str
    predictor: str
    way: str

    def __str__(self) -> str:
        return "-".join((self.policy, self.model, self.predictor, self.way))

    @property
    def bold(self) -> Policy[Any]:
        return POLICIES[self.policy].make(PREDICTORS[self.predictor], self.model)

    @property
    def never(self) -> Policy[Any]:
        return POLICIES[self.policy].never(self.model)

    @property
    def spec(self) -> BlockSpec | None:
        """A row with parts, or with long skips, for the policies that need them."""
        parts, bold = _PARTS.get(self.model), POLICIES[self.policy]
        if bold.long_skips:  # what it does is the same without them, and of no use
            return replace(row_of(type(pipeline(self.model, self.dtype).transformer)), long_skips=True)
        if not bold.on_parts or parts is None:
            return None
        return with_parts(type(pipeline(self.model, self.dtype).transformer), **parts)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.way == "bfloat16" else torch.float32

    @property
    def case(self) -> Case:
        """The pipeline's call: a batch is of two prompts of their own."""
        case, guided, unguided = MODELS[self.model]
        call = {**case.call, **(unguided if self.way == "unguided" else guided), "num_inference_steps": STEPS}
        if self.way == "batch":
            call = {name: _doubled(name, value) for name, value in call.items()}
        if self.way == "bfloat16":
            call = {name: _cast(value) for name, value in call.items()}
        return replace(case, call=call)


@cache
def pipeline(model: str, dtype: torch.dtype = torch.float32) -> Any:
    """One pipeline for all cases of a model: that a session leaves nothing behind is one of the laws."""
    pipe = MODELS[model][0].build().to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _denoiser(model: str) -> str:
    return "unet" if model == "unet" else "transformer"


def chosen() -> list[One]:
    """A selection in which each two values of different axes that go together meet."""
    every = [One(*row) for row in product(POLICIES, MODELS, PREDICTORS, WAYS) if _goes(*row)]
    missing = {pair for one in every for pair in _pairs(one)}
    found = []
    while missing:
        best = max(every, key=lambda one: len(missing.intersection(_pairs(one))))
        found.append(best)
        missing.difference_update(_pairs(best))
    return found


def _goes(policy: str, model: str, predictor: str, way: str) -> bool:
    bold = POLICIES[policy]
    there = bold.on_unets if model == "unet" else bold.on_transformers
    fits = there and (model != "ltx" or bold.on_tokens)
    return fits and (predictor == "Last" or bold.predicts)


def _pairs(one: One) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    return combinations(enumerate((one.policy, one.model, one.predictor, one.way)), 2)


def _doubled(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.cat([value, value if "mask" in name else value * 3.0])


def _cast(value: Any) -> Any:
    return value.to(torch.bfloat16) if isinstance(value, Tensor) and value.is_floating_point() else value
