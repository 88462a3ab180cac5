"""FasterCache: guidance as diffusers' hook has it, and all of it against a second implementation in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import bwcache
from bwcache import FasterCache, SettingError
from bwcache.features.bands import Bands
from tests import tiny
from tests.parts import with_parts
from tests.policies.halves import halves
from tests.policies.oracle import cfg_cache
from tests.policies.proof import NUMPY, ROUNDED, proves
from tests.steps import at
from tests.tiny import BY_NAME, noise

STEPS = 12
CLOSE = 2e-5
WIDE = (-1, 1001)


@proves(FasterCache, "diffusers' hook, guidance alone", ROUNDED)
@pytest.mark.parametrize(("guidance", "window"), [(2, (-1, 800)), (4, (100, 1001))])
@pytest.mark.parametrize(("name", "layout"), [("cogvideox", "BFCHW"), ("mochi", "BCFHW")])
def test_guidance_in_one_forward_is_diffusers_hook(name: str, layout: str, guidance: int, window: Any) -> None:
    case = BY_NAME[name]
    changes: dict[str, Any] = {"num_inference_steps": STEPS, "height": 64, "width": 80}
    pipe = case.build()
    settings = {"unconditional_batch_skip_range": guidance, "unconditional_batch_timestep_skip_range": window}
    low, high = (300, 900), (-1, 500)
    weights = {"low_frequency_weight_update_timestep_range": low, "alpha_low_frequency": 1.2}
    with cfg_cache(pipe, layout, high_frequency_weight_update_timestep_range=high, **settings, **weights) as said:
        expected = case.run(pipe, **changes)
    policy = FasterCache(1, guidance=guidance, guidance_window=window, low=1.2, low_window=low, high_window=high)
    pipe = case.build()
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, **changes)
    events = session.trace.events
    assert [event.action for event in events if event.branch == "uncond"] == said
    assert {event.action for event in events if event.branch == "cond"} == {"compute"}
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()
    assert said.count("reuse") >= 2
    flat = FasterCache(1, guidance=guidance, guidance_window=window, low=1, high=1)
    pipe = case.build()
    with bwcache.attach(pipe, flat):
        assert (case.run(pipe, **changes) - made).abs().max() > 10 * CLOSE * expected.abs().max()


class Plain:
    """The method on the forwards of a denoiser and of its self-attention: the conditional branch comes first."""

    def __init__(self, policy: FasterCache, times: list[float], guided: bool) -> None:
        self.policy, self.times, self.guided, self.forwards = policy, times, guided, -1
        self.kept: dict[tuple[str, int], list[list[np.ndarray]]] = {}
        self.difference = self.cond = np.zeros(1)
        self.scales = [1.0, 1.0]
        self.said: dict[tuple[int, str, str], str] = {}

    def says(self, site: str, reuses: Any) -> None:
        step, branch = divmod(self.forwards, 1 + self.guided)
        self.said[step, ("cond", "uncond")[branch], site] = "reuse" if reuses else "compute"

    def within(self, window: tuple[float, float], step: int) -> bool:
        return window[0] < self.times[step] < window[1]

    def skips(self, step: int) -> bool:
        return self.guided and step % self.policy.guidance > 0 and self.within(self.policy.guidance_window, step)

    def denoiser(self, inner: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.forwards += 1
            step, branch = divmod(self.forwards, 1 + self.guided)
            if branch == 0:
                out = inner(*args, **kwargs)[0]
                self.cond = out.double().numpy()
                return (out,)
            if self.policy.guidance > 1:
                self.says("root", self.skips(step))
            if not self.skips(step):
                out = inner(*args, **kwargs)[0]
                self.difference, self.scales = out.double().numpy() - self.cond, [1.0, 1.0]
                return (out,)
            said = self.policy
            self.scales[0] *= said.low if self.within(said.low_window, step) else 1
            self.scales[1] *= said.high if self.within(said.high_window, step) else 1
            if self.difference.ndim == 3:  # tokens, without a picture's frequencies
                return (torch.from_numpy(self.difference + self.cond).to(kwargs["hidden_states"].dtype),)
            spectrum = np.fft.fftshift(np.fft.fft2(self.difference), axes=(-2, -1))
            height, width = spectrum.shape[-2:]
            y, x = np.ogrid[:height, :width]
            low = (y - height // 2) ** 2 + (x - width // 2) ** 2 <= (min(height, width) // 5) ** 2
            spectrum = spectrum * np.where(low, *self.scales)
            made = np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(-2, -1))).real + self.cond
            return (torch.from_numpy(made).to(kwargs["hidden_states"].dtype),)

        return forward

    def attention(self, name: str, inner: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            step, branch = divmod(self.forwards, 1 + self.guided)
            own = self.kept.setdefault((name, branch), [])
            free = self.skips(step) or not self.guided or self.policy.guidance == 1
            reuses = step % self.policy.attention and self.within(self.policy.attention_window, step) and free
            self.says(name, reuses)
            if not reuses:
                out = inner(*args, **kwargs)
                own.append([each.double().numpy() for each in (out if isinstance(out, tuple) else (out,))])
                return out
            last, before = own[-1], own[-2] if len(own) > 1 else own[-1]
            made = [
                torch.from_numpy(new + self.policy.weight * (new - old)).float()
                for new, old in zip(last, before, strict=True)
            ]
            return made[0] if len(made) == 1 else tuple(made)

        return forward


SETTINGS = [
    FasterCache(2, (-1, 900), 0.5, 3, (-1, 900), 1.2, (300, 1001), 1.1, (-1, 400)),
    FasterCache(3, WIDE, 0.3, 4, WIDE, 1.1, WIDE, 1.3, WIDE),
    FasterCache(2, WIDE, 0.4, 1),
]


ATTENTION = {"wan": "attn1", "wan_unguided": "attn1", "cogvideox": "attn1", "mochi": "attn1", "ltx": "attn1"}
"""Self-attention in a block, or attention to picture and text at once."""


@proves(FasterCache, NUMPY, ROUNDED)
@pytest.mark.parametrize("policy", SETTINGS, ids=str)
@pytest.mark.parametrize("name", ATTENTION)
def test_it_is_a_second_implementation(name: str, policy: FasterCache) -> None:
    """Guided in two forwards, in none and in one, which the other one takes apart."""
    case, parted = BY_NAME[name], BY_NAME[name].branches == ("cond_uncond",)
    side = 64 if parted else 96
    changes = {"num_inference_steps": STEPS, "height": side, "width": side}
    pipe = case.build()
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, **changes)
    events = session.trace.events
    times = [float(time or 0) for time in dict.fromkeys(event.timestep for event in events)]
    times = [1000 - time for time in times] if times[0] < times[-1] else times
    pipe = case.build()
    other = Plain(policy, times, parted or len(case.branches) > 1)
    plain = other.denoiser(pipe.transformer.forward)
    pipe.transformer.forward = halves(plain) if parted else plain
    for name_, module in pipe.transformer.named_modules():
        if "blocks." in name_ and name_.count(".") == 2 and name_.endswith(ATTENTION[name]):
            module.forward = other.attention(name_, module.forward)
    expected = case.run(pipe, **changes)
    asked = {
        (event.step, branch, event.site.partition("/")[2]): event.action
        for event in events
        for branch in event.branch.split("_")
        if event.reason != "lies in a reused site" and not (event.site.endswith("/root") and branch == "cond")
    }
    assert asked == other.said
    assert "reuse" in other.said.values()
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()


def test_bands() -> None:
    """A wave of 2 periods is low in 16 x 16, one of 6 is high; a mean is low."""
    x = torch.arange(16.0)
    low, high = torch.cos(2 * torch.pi * 2 * x / 16).expand(16, 16), torch.cos(2 * torch.pi * 6 * x / 16).expand(16, 16)
    feature = (low + 3 * high + 5)[None, None]
    found = Bands(2.0, 0.5).predict([(at(0.5), feature)], at(0.4))
    torch.testing.assert_close(found[0, 0], 2 * low + 1.5 * high + 10, rtol=1e-5, atol=1e-5)
    tokens = noise(1, 6, 8)
    assert torch.equal(Bands(2.0, 0.5).predict([(at(0.5), tokens)], at(0.4)), tokens)


def test_a_model_without_attention_in_its_row() -> None:
    spec = with_parts(type(tiny.wan_transformer()))
    with pytest.raises(SettingError, match="parts of kind 'self' of WanTransformer3DModel"):
        bwcache.attach(tiny.wan_transformer(), FasterCache(), spec=spec)
    with bwcache.attach(tiny.wan_transformer(), FasterCache(attention=1), steps=4, spec=spec):
        pass


@pytest.mark.parametrize(
    "bad",
    [
        {"attention": 0},
        {"guidance": 0},
        {"weight": 2},
        {"low": 0},
        {"high": 3},
        {"low_window": (5, 1)},
        {"high_window": 3},
    ],
    ids=str,
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        FasterCache(**bad)
