"""HiCache: what the package hicache-pp decides and forecasts, called layer by layer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch

import bwcache
from bwcache import AttachError, HiCache, SettingError, Step
from bwcache.features.differences import Differences
from tests import tiny
from tests.parts import with_parts
from tests.policies.proof import ROUNDED, proves
from tests.tiny import BY_NAME, noise

hermite = pytest.importorskip("hicache_pp").hermite

STEPS = 12
CLOSE = 2e-5
"""Relative: sums in another order, over all steps of a run."""


class Layers:
    """The package's functions around the forward of each layer, a state for each branch."""

    def __init__(self, branches: int, **settings: Any) -> None:
        self.branches, self.settings = branches, settings
        self.said: list[str] = []

    def attach(self, undo: ExitStack, module: Any) -> None:
        inner, calls = module.forward, [0]
        states = [hermite.hicache_init(STEPS, **self.settings) for _ in range(self.branches)]

        def forward(*args: Any, **kwargs: Any) -> Any:
            step, branch = divmod(calls[0], self.branches)
            calls[0] += 1
            state = states[branch]
            state["step"] = step
            decided = hermite.hicache_decide(state)
            self.said.append("compute" if decided == "full" else "reuse")
            if decided == "full":
                returned = inner(*args, **kwargs)
                values = returned if isinstance(returned, tuple) else (returned,)
                state["shapes"] = [value.shape for value in values]
                hermite.hicache_update_derivatives(state, torch.cat([value.flatten() for value in values]))
                return returned
            flat = hermite.hicache_forecast(state).split([shape.numel() for shape in state["shapes"]])
            values = tuple(part.view(shape) for part, shape in zip(flat, state["shapes"], strict=True))
            return values if len(values) > 1 else values[0]

        module.forward = forward
        undo.callback(delattr, module, "forward")


@proves(HiCache, "the package hicache-pp, layer by layer", ROUNDED)
@pytest.mark.parametrize(("interval", "order", "warmup", "sigma"), [(3, 1, 2, 0.5), (4, 2, 3, 0.5), (5, 3, 3, 0.8)])
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "ltx", "hunyuan"])
def test_it_is_the_package_layer_by_layer(name: str, interval: int, order: int, warmup: int, sigma: float) -> None:
    case = BY_NAME[name]
    pipe = case.build()
    with bwcache.attach(pipe, HiCache(interval, order, warmup, sigma=sigma)) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    sites = list(dict.fromkeys(event.site.partition("/")[2] for event in session.trace.events))
    settings = {"interval": interval, "max_order": order, "first_enhance": warmup, "sigma": sigma}
    other = Layers(len(case.branches), **settings)
    with ExitStack() as undo:
        for site in sites:
            other.attach(undo, pipe.transformer.get_submodule(site))
        expected = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in session.trace.events] == other.said
    assert other.said.count("reuse") > 0
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()
    with bwcache.attach(pipe, bwcache.TaylorSeer(interval, order, warmup)):
        monomials = case.run(pipe, num_inference_steps=STEPS)
    assert (made - monomials).abs().max() > 10 * CLOSE * expected.abs().max()


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("computed", [(0, 1, 2, 7), (0, 3, 4, 9), (0, 5), (0,)])
def test_the_forecast_is_the_packages_to_the_last_digits(computed: tuple[int, ...], order: int) -> None:
    """In float64, over gaps of any size."""
    state = hermite.hicache_init(20, max_order=order, sigma=0.6)
    past: list[tuple[Step, torch.Tensor]] = []
    for index in computed:
        feature = noise(5, seed=index).double()
        state["step"] = index
        state["activated_steps"].append(index)
        hermite.hicache_update_derivatives(state, feature)
        past.insert(0, (Step(0, index, 20, None, None, "cond"), feature))
    for ahead in (1, 2, 5):
        state["step"] = computed[-1] + ahead
        found = Differences(order, 0.6).predict(past, Step(0, computed[-1] + ahead, 20, None, None, "cond"))
        torch.testing.assert_close(found, hermite.hicache_forecast(state), rtol=1e-13, atol=1e-13)


def test_a_model_without_parts() -> None:
    with pytest.raises(AttachError, match=r"say HiCache\(lite=True\)"):
        bwcache.attach(tiny.wan_transformer(), HiCache(), spec=with_parts(type(tiny.wan_transformer())))


@pytest.mark.parametrize("bad", [{"sigma": 0}, {"sigma": 1.5}, {"interval": 0}, {"order": "1"}], ids=str)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        HiCache(**bad)
