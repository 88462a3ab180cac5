"""Roots that keep the clean latents: against the same by plain patches of the denoiser's forward, on real pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

import bwcache
from bwcache import AttachError, Linear, Policy
from bwcache.core.trace import reuse_line
from bwcache.models import denoisers
from tests import tiny
from tests.engine.test_sites import Placed
from tests.tiny import BY_NAME, Case
from tests.zoo import PIPELINES

STEPS = 8
REUSED = (2, 3, 5)
ZOO = {case.name: case for case in PIPELINES}

Formulas = tuple[Callable[..., Tensor], Callable[..., Tensor]]

FLOW: Formulas = (lambda x, v, a, s: x - s * v, lambda x, z, a, s: (x - z) / s)
NEGATIVE: Formulas = (lambda x, v, a, s: x + s * v, lambda x, z, a, s: (z - x) / s)
EPSILON: Formulas = (lambda x, e, a, s: (x - s * e) / a, lambda x, z, a, s: (x - a * z) / s)
V: Formulas = (lambda x, v, a, s: a * x - s * v, lambda x, z, a, s: (a * x - z) / s)
SAMPLE: Formulas = (lambda x, z, a, s: z, lambda x, z, a, s: z)


def by_sigma(scheduler: Any, _: Any) -> tuple[float, float]:
    s = float(scheduler.sigmas[scheduler.step_index or 0])
    return 1 - s, s


def rising(scheduler: Any, _: Any) -> tuple[float, float]:
    s = float(scheduler.sigmas[scheduler.step_index or 0])
    return s, 1 - s


def over_data(scheduler: Any, _: Any) -> tuple[float, float]:
    s = float(scheduler.sigmas[scheduler.step_index or 0])
    return 1 / (1 + s * s) ** 0.5, s / (1 + s * s) ** 0.5


def by_time(scheduler: Any, time: Tensor) -> tuple[float, float]:
    a = float(scheduler.alphas_cumprod[int(time.flatten()[0])])
    return a**0.5, (1 - a) ** 0.5


def with_scheduler(name: str, make: Callable[[], Any]) -> Case:
    """A case with another scheduler."""
    case = ZOO.get(name) or BY_NAME[name]

    def build() -> Any:
        pipe = case.build()
        pipe.scheduler = make()
        return pipe

    return replace(case, build=build)


KINDS: dict[str, tuple[Case, Callable[..., tuple[float, float]], Formulas, int]] = {
    "flow": (BY_NAME["wan"], by_sigma, FLOW, 1),
    "flow in one forward": (BY_NAME["ltx"], by_sigma, FLOW, 2),
    "flow, shifted": (BY_NAME["hunyuan"], by_sigma, FLOW, 1),
    "flow, UniPC": (
        with_scheduler(
            "wan",
            lambda: UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        ),
        by_sigma,
        FLOW,
        1,
    ),
    "flow, sigmas that rise": (BY_NAME["mochi"], rising, NEGATIVE, 1),
    "flow, the negative": (ZOO["HiDreamImagePipeline"], by_sigma, NEGATIVE, 1),
    "epsilon": (BY_NAME["cogvideox"], by_time, EPSILON, 2),
    "epsilon, a picture beside the latents": (ZOO["CogVideoXImageToVideoPipeline"], by_time, EPSILON, 2),
    "epsilon, a variance beside it": (ZOO["LattePipeline"], by_time, EPSILON, 1),
    "epsilon, scaled": (with_scheduler("stable_diffusion", EulerDiscreteScheduler), over_data, EPSILON, 1),
    "v": (with_scheduler("stable_diffusion", lambda: DDIMScheduler(prediction_type="v_prediction")), by_time, V, 1),
    "v, scaled": (
        with_scheduler("stable_diffusion", lambda: EulerDiscreteScheduler(prediction_type="v_prediction")),
        over_data,
        V,
        1,
    ),
    "sample": (with_scheduler("stable_diffusion", lambda: DDIMScheduler(prediction_type="sample")), by_time, SAMPLE, 1),
}


class Plain:
    """The denoiser's forward, which in some steps makes its prediction of the clean latents of its branch.

    Args:
        axis: along which latents and prediction may differ; as far as they lie alike they begin alike.
    """

    def __init__(self, pipe: Any, case: Case, level: Any, formulas: Formulas, axis: int) -> None:
        self.pipe, self.case, self.level, self.axis = pipe, case, level, axis
        self.clean, self.predicted = formulas
        self.kept: dict[int, Tensor] = {}
        self.calls = self.ran = 0
        self.module = next(iter(denoisers(pipe).values()))
        self.inner = self.module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        names = ("hidden_states", "sample")
        x = args[0] if args else next(kwargs[name] for name in names if name in kwargs)
        time = kwargs.get("timestep", kwargs.get("timesteps", args[1] if len(args) > 1 else None))
        a, s = self.level(self.pipe.scheduler, time)
        step, branch = divmod(self.calls, len(self.case.branches))
        self.calls += 1
        if step not in REUSED:
            self.ran += 1
            out = self.inner(*args, **{**kwargs, "return_dict": False})[0]
            x, shared = self.alike(x, out)
            self.kept[branch] = torch.cat([self.clean(x, shared, a, s), self.rest(out, x)], self.axis)
            return (out,)
        kept = self.kept[branch]
        x, shared = self.alike(x, kept)
        return (torch.cat([self.predicted(x, shared, a, s), self.rest(kept, x)], self.axis),)

    def alike(self, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        size = min(x.shape[self.axis], out.shape[self.axis])
        return x.narrow(self.axis, 0, size), out.narrow(self.axis, 0, size)

    def rest(self, out: Tensor, x: Tensor) -> Tensor:
        size = x.shape[self.axis]
        return out.narrow(self.axis, size, out.shape[self.axis] - size)


def policy(**changes: Any) -> Policy[Any]:
    written: Callable[[str, int], bool] = lambda site, step: step in REUSED  # noqa: E731
    return Placed(lambda stack: (stack.site(stack.root, keeps="clean"),), written, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_second_implementation(kind: str) -> None:
    case, level, formulas, axis = KINDS[kind]
    pipe = case.build()
    plain = Plain(pipe, case, level, formulas, axis)
    plain.module.forward = plain
    try:
        expected = case.run(pipe, num_inference_steps=STEPS)
    finally:
        del plain.module.forward
    untouched = case.run(pipe, num_inference_steps=STEPS)
    ran: list[None] = []
    plain.module.register_forward_hook(lambda *_: ran.append(None))
    with bwcache.attach(pipe, policy()) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    line = reuse_line(session.trace.events)
    assert [i for i, letter in enumerate(line) if letter == "r"] == list(REUSED), session.trace.summary()
    assert len(ran) == plain.ran
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(made, untouched, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["flow", "epsilon", "v", "sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_at_the_level_at_which_it_was_computed_it_is_replay(kind: str, dtype: torch.dtype) -> None:
    module, latents = tiny.wan_transformer().to(dtype), tiny.noise(1, 4, 2, 4, 4).to(dtype)
    with bwcache.attach(module, policy()) as session:
        embeds = torch.ones(1, 6, 8, dtype=dtype)
        found = []
        for index in range(4):
            with session.step(index, STEPS, "cond", sigma=0.7, prediction=kind), torch.no_grad():
                found.append(module(latents, torch.tensor([700.0]), embeds, return_dict=False)[0])
    assert reuse_line(session.trace.events) == "CCrr"
    assert found[2].dtype == dtype
    for again in found[2:]:
        torch.testing.assert_close(again, found[1])


def test_a_flow_that_goes_straight_on_is_replay() -> None:
    """Euler's steps along a velocity lead to latents of which the clean ones tell that same velocity."""
    module, latents = tiny.wan_transformer(), tiny.noise(1, 4, 2, 4, 4)
    found = []
    with bwcache.attach(module, policy()) as session:
        for index, sigma in enumerate((0.9, 0.8, 0.7, 0.6)):
            with session.step(index, STEPS, "cond", sigma=sigma, prediction="flow"), torch.no_grad():
                time = torch.tensor([1000 * sigma])
                found.append(module(latents, time, torch.ones(1, 6, 8), return_dict=False)[0])
            latents = latents - 0.1 * found[-1]
    torch.testing.assert_close(found[2], found[1])
    torch.testing.assert_close(found[3], found[1])
    assert not torch.allclose(found[1], found[0])


def test_clean_latents_can_be_foretold() -> None:
    made = []
    for predictor in (bwcache.Last(), Linear()):
        pipe = tiny.wan()
        with bwcache.attach(pipe, Foretelling(policy().where, predictor=predictor)) as session:  # type: ignore[attr-defined]
            made.append(tiny.WAN.run(pipe, num_inference_steps=STEPS))
        assert session.trace.reused == len(REUSED)
    assert not torch.equal(*made)


class Foretelling(Placed):
    """With a predictor of its own."""

    def __init__(self, where: Any, predictor: Any) -> None:
        super().__init__(where, lambda site, step: step in REUSED)
        object.__setattr__(self, "predictor", predictor)

    @property
    def feature_predictor(self) -> Any:
        return self.predictor  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_an_unknown_scheduler_is_computed_and_says_so() -> None:
    class Own(FlowMatchEulerDiscreteScheduler):
        """Whatever it does."""

    pipe = tiny.wan(Own(shift=1.0))
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, policy()) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert {event.reason for event in session.trace.events} == {"noise level or kind of prediction unknown"}
    assert session.trace.peak_bytes == 0


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_a_bare_module_of_which_nobody_says_the_level_is_computed() -> None:
    module = tiny.wan_transformer()
    with bwcache.attach(module, policy(), steps=3) as session, torch.no_grad():
        for i in range(3):
            module(tiny.noise(1, 4, 2, 4, 4) + i * 0.01, torch.tensor([900.0 - i]), torch.ones(1, 6, 8))
    assert reuse_line(session.trace.events) == "CCC"


def test_only_the_root_keeps_clean_latents() -> None:
    with pytest.raises(AttachError, match=r"found a site 'blocks\.0' that keeps 'clean'; expected the root"):
        bwcache.attach(tiny.wan(), Placed(lambda stack: (stack.site(stack.blocks[0], keeps="clean"),)))


def test_a_row_that_does_not_say_what_is_predicted_is_refused() -> None:
    pipe = ZOO["Cosmos2TextToImagePipeline"].build()
    assert isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler | EDMEulerScheduler)
    with pytest.raises(AttachError, match="clean latents to be kept of CosmosTransformer3DModel"):
        bwcache.attach(pipe, policy())
