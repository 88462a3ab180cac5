"""SortBlock: lists and forecasts against a second implementation in numpy, on the forwards of the blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import bwcache
from bwcache import AttachError, SettingError, Sortblock
from bwcache.features import ChannelShare, ForecastCosine
from tests import tiny
from tests.policies.proof import NUMPY, ROUNDED, proves
from tests.steps import at
from tests.tiny import BY_NAME, noise
from tests.zoo.unets import svd_unet

STEPS = 14
CLOSE = 2e-5
LISTS = ("blocks", "transformer_blocks", "single_transformer_blocks")


class Plain:
    """The method as its text has it: forecasts are made and compared in the step after a full one."""

    def __init__(self, policy: Sortblock, times: list[float], branches: int) -> None:
        self.policy, self.times, self.branches, self.forwards = policy, times, branches, -1
        self.past: dict[tuple[int, str], list[tuple[int, list[np.ndarray]]]] = {}
        self.listed: dict[int, set[str]] = {}
        self.line: list[str] = []

    def place(self, step: int) -> int | None:
        said = self.policy
        inside = [i for i, time in enumerate(self.times) if said.stop <= time <= said.start]
        return (step - inside[0]) % said.interval if step in inside else None

    def forecast(self, branch: int, name: str, step: int) -> list[np.ndarray]:
        (now, new), *before = self.past[branch, name][::-1][:2]
        if not before:
            return new
        return [a + (step - now) * (a - b) / (now - before[0][0]) for a, b in zip(new, before[0][1], strict=True)]

    def begin(self) -> None:
        """Before a step the list that the step after the last full one asked for."""
        self.forwards += 1
        step, branch = divmod(self.forwards, self.branches)
        if step and self.place(step - 1) == 1:
            self.listed[branch] = self.sort(branch, step - 1)

    def sort(self, branch: int, asked: int) -> set[str]:
        found: set[str] = set()
        rho = self.policy.beta * float(np.polyval(self.policy.coefficients, self.times[asked]))
        names = [name for own, name in self.past if own == branch]
        for group in dict.fromkeys(name.rpartition(".")[0] for name in names):
            alike = {}
            for name in (name for name in names if name.startswith(f"{group}.")):
                full = [(i, value) for i, value in self.past[branch, name] if i < asked]
                if len(full) < 2:  # the run began in the window
                    alike[name] = -1.0
                    continue
                (now, new), before = full[-1], full[-2]
                r = new[0][..., : max(new[0].shape[-1] // 8, 1)]
                forecast = r + (r - before[1][0][..., : r.shape[-1]]) / (now - before[0])
                norms = np.linalg.norm(r, axis=-1) * np.linalg.norm(forecast, axis=-1)
                alike[name] = float(((r * forecast).sum(-1) / norms).mean())
            most = sorted(alike.values())[int(len(alike) * rho)]
            found |= {name for name, value in alike.items() if value <= most}
        return found

    def around(self, name: str, inner: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            step, branch = divmod(self.forwards, self.branches)
            given = [args[0] if args else kwargs["hidden_states"]]
            others = [kwargs["encoder_hidden_states"]] if "encoder_hidden_states" in kwargs else list(args[1:2])
            computes = self.place(step) in (None, 0) or name in self.listed.get(branch, ())
            self.line.append("compute" if computes else "reuse")
            if computes or (branch, name) not in self.past:
                real = inner(*args, **kwargs)
                values = real if isinstance(real, tuple) else (real,)
                entered = [*given, *others][: len(values)]
                added = [(a - b).numpy().astype(np.float64) for a, b in zip(values, entered, strict=True)]
                self.past.setdefault((branch, name), []).append((step, added))
                return real
            added = self.forecast(branch, name, step)
            entered = [*given, *others][: len(added)]
            made = tuple((b.double() + torch.from_numpy(a)).to(b.dtype) for a, b in zip(added, entered, strict=True))
            return made if len(made) > 1 else made[0]

        return forward


POLICY = Sortblock(4, 1.0, 900, 60, (0.0004, 0.1))
"""Between a tenth of the blocks and half of them, the more the earlier."""


@proves(Sortblock, NUMPY, ROUNDED)
@pytest.mark.parametrize(
    "policy", [POLICY, Sortblock(3, 0.5, 1000, 0, (1.0,)), Sortblock(2, 0.3, 1000, 100, (1.0,))], ids=str
)
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "ltx", "hunyuan"])
def test_it_is_a_second_implementation(name: str, policy: Sortblock) -> None:
    case = BY_NAME[name]
    pipe = case.build()
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    events = session.trace.events
    pipe = case.build()
    times = [float(time) for time in dict.fromkeys(event.timestep for event in events)]
    other = Plain(policy, times, len(case.branches))
    pipe.transformer.register_forward_pre_hook(lambda *_: other.begin())
    for name_ in [f"{part}.{i}" for part in LISTS for i in range(len(getattr(pipe.transformer, part, ())))]:
        block = pipe.transformer.get_submodule(name_)
        block.forward = other.around(name_, block.forward)
    expected = case.run(pipe, num_inference_steps=STEPS)
    assert [event.action for event in events] == other.line
    assert 0 < other.line.count("reuse") < len(other.line)
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()
    assert any(event.reason == "among the least alike blocks" for event in events)


def test_the_cosine() -> None:
    new, old = noise(1, 5, 4, seed=1), noise(1, 5, 4, seed=2)
    total, count = ForecastCosine(2)(new[None], old[None]).flatten().tolist()
    a, b = new[0].double().numpy(), old[0].double().numpy()
    c = a + (a - b) / 2
    expected = [float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for x, y in zip(a, c, strict=True)]
    assert count == 5
    assert total == pytest.approx(sum(expected), rel=1e-5)


def test_a_share_of_the_channels() -> None:
    feature = noise(2, 3, 20)
    assert torch.equal(ChannelShare(1 / 8).take(feature, at(0.5)), feature[..., :2])
    assert torch.equal(ChannelShare(0.01).take(feature, at(0.5)), feature[..., :1])
    assert ChannelShare(1 / 8).planned_bytes(feature) == 2 * 3 * 2 * 4


def test_models_that_it_does_not_fit() -> None:
    with pytest.raises(AttachError, match="others return what they do not take in"):
        bwcache.attach(svd_unet(), Sortblock())


def test_the_published_settings() -> None:
    assert Sortblock.published("HunyuanVideo") == Sortblock()
    assert Sortblock.published("Wan2.1").coefficients[-1] == 0.4971


@pytest.mark.parametrize(
    "bad", [{"interval": 0}, {"beta": -1}, {"start": None}, {"stop": 965}, {"coefficients": ("a",)}], ids=str
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        Sortblock(**bad)


def test_an_interval_of_1_never_reuses() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, Sortblock(1)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0
