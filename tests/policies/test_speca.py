"""SpeCa: drafts, checks and refusals against a second implementation in numpy, on the forwards of the layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import bwcache
from bwcache import AttachError, Observation, PredictionError, SettingError, SpeCa, Step
from tests import tiny
from tests.parts import with_parts
from tests.policies.proof import NUMPY, ROUNDED, proves
from tests.tiny import BY_NAME

STEPS = 14
CLOSE = 2e-5
LISTS = ("blocks", "transformer_blocks", "single_transformer_blocks")


class Plain:
    """The method as a counter of drafts that the last block moves on, with what each layer keeps."""

    def __init__(self, branches: int, policy: SpeCa) -> None:
        self.branches, self.policy = branches, policy
        self.forwards = -1
        self.kind: dict[int, str] = {}
        self.drafts: dict[int, int] = {}
        self.error: dict[int, float | None] = {}
        self.checks = False
        self.line: list[str] = []
        self.kept: dict[tuple[int, int], dict[int, list[Any]]] = {}

    def begin(self) -> None:
        """What kind of step this is: after a full one always a draft."""
        self.forwards += 1
        step, branch = divmod(self.forwards, self.branches)
        said = self.policy
        self.checks = False
        if self.kind.get(branch) == "full":
            self.kind[branch], self.drafts[branch], self.error[branch] = "draft", 1, None
        elif step < said.warmup or step == 0 or self.drafts[branch] >= said.longest or self._off(step, branch):
            self.kind[branch], self.drafts[branch] = "full", 0
        else:
            self.checks = self.drafts[branch] >= said.unchecked
            self.drafts[branch] += 1
        self.line.append("check" if self.checks else {"full": "compute", "draft": "reuse"}[self.kind[branch]])

    def _off(self, step: int, branch: int) -> bool:
        error, said = self.error[branch], self.policy
        limit = max(said.threshold * said.decay ** ((step + 1) / STEPS), said.floor)
        return error is not None and self.drafts[branch] >= said.unchecked and error > limit

    def around(self, number: int, inner: Callable[..., Any], last: bool) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            step, branch = divmod(self.forwards, self.branches)
            own = self.kept.setdefault((number, branch), {})
            real = inner(*args, **kwargs)
            values = real if isinstance(real, tuple) else (real,)
            if self.kind[branch] == "full":
                before = max(own, default=None)
                orders = [[value.numpy().astype(np.float64) for value in values]]
                for older in own[before][: self.policy.order] if before is not None else ():
                    orders.append([(a - b) / (step - before) for a, b in zip(orders[-1], older, strict=True)])
                own[step] = orders
                return real
            k, newest, factor = step - max(own), own[max(own)], 1.0
            found = [np.zeros(1)] * len(values)
            for i, order in enumerate(newest):
                factor = factor * k / i if i else 1.0
                found = [value + factor * more for value, more in zip(found, order, strict=True)]
            if last and self.checks:
                true = values[0].double().numpy()
                self.error[branch] = float(np.abs(found[0] - true).sum() / np.abs(true).sum())
                return real
            drafts = tuple(torch.from_numpy(value).to(values[0].dtype) for value in found)
            return drafts if isinstance(real, tuple) else drafts[0]

        return forward

    def run(self, case: tiny.Case, layers: list[str]) -> torch.Tensor:
        """With these modules as layers; the last one is checked."""
        pipe = case.build()
        pipe.transformer.register_forward_pre_hook(lambda *_: self.begin())
        for number, name in enumerate(layers):
            module = pipe.transformer.get_submodule(name)
            module.forward = self.around(number, module.forward, name == layers[-1])
        return case.run(pipe, num_inference_steps=STEPS)


def blocks_of(pipe: Any) -> list[str]:
    return [f"{name}.{i}" for name in LISTS for i in range(len(getattr(pipe.transformer, name, ())))]


SETTINGS = [
    SpeCa(0.3, 0.5, 0.01, 1, 4, 1, 2, lite=True),
    SpeCa(0.05, 0.1, 0.0, 0, 6, 2, 0, lite=True),
    SpeCa(lite=True),
    SpeCa(0.1, 0.5, 0.01, 1, 4, 1, 3),
]


@proves(SpeCa, NUMPY, ROUNDED)
@pytest.mark.parametrize("policy", SETTINGS, ids=str)
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "ltx", "hunyuan"])
def test_it_is_a_second_implementation(name: str, policy: SpeCa) -> None:
    case = BY_NAME[name]
    pipe = case.build()
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    events = session.trace.events
    blocks = blocks_of(pipe)
    sites = list(dict.fromkeys(event.site.partition("/")[2] for event in events))
    layers = [blocks[-2], blocks[-1]] if policy.lite else [*sites[:-1], blocks[-1]]
    other = Plain(len(case.branches), policy)
    expected = other.run(case, layers)
    assert [event.action for event in events if event.site == events[-1].site] == other.line
    rest = [event.action for event in events if event.site == events[0].site]
    assert rest == ["reuse" if action == "check" else action for action in other.line]
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()


def test_drafts_are_checked_and_refused() -> None:
    """The settings above do all that there is to do."""
    reasons: set[str] = set()
    for policy in SETTINGS:
        pipe = tiny.wan()
        with bwcache.attach(pipe, policy) as session:
            tiny.WAN.run(pipe, num_inference_steps=STEPS)
        reasons |= {event.reason.split(" (")[0] for event in session.trace.events}
    assert reasons == {"first step", "warm-up", "draft", "draft is checked", "draft was off", "interval over"}


def seen(index: int, error: float | None = None) -> Observation:
    found = None if error is None else PredictionError(error, 1.0, 0.0, 0.0)
    return Observation(Step(0, index, 20, None, None, "cond"), "blocks.3", error=found)


def test_a_worked_window() -> None:
    """Full at 4. Two drafts go unchecked; the third may be off by .5 * .25 ** (9 / 20) = .268 as of the next step."""
    for error, expected in ((0.26, "check"), (0.29, "compute")):
        policy = SpeCa(0.5, 0.25, 0.01, 2, 5, 1, 3)
        state = policy.init()
        policy.refresh(seen(4), state)
        assert [policy.decide(seen(i), state).action for i in (5, 6, 7)] == ["reuse", "reuse", "check"]
        policy.refresh(seen(7, error), state)
        assert policy.decide(seen(8), state).action == expected
    assert policy.decide(seen(8), state).reason == "draft was off (0.2900 > 0.2679)"
    policy.refresh(seen(8), state)
    assert [policy.decide(seen(i), state).action for i in (9, 10, 11, 12, 13)] == ["reuse", "reuse", *["check"] * 3]
    assert policy.decide(seen(14), state).reason == "interval over (after 5 reused steps)"
    policy.refresh(seen(11, float("nan")), state)
    assert policy.decide(seen(12), state).reason == "prediction error is not finite"


def test_models_that_it_does_not_fit() -> None:
    with pytest.raises(AttachError, match="one block in WanTransformer3DModel"):
        bwcache.attach(tiny.wan_transformer(layers=1), SpeCa(lite=True))
    with pytest.raises(AttachError, match=r"say SpeCa\(lite=True\)"):
        bwcache.attach(tiny.wan_transformer(), SpeCa(), spec=with_parts(type(tiny.wan_transformer())))


@pytest.mark.parametrize(
    "bad",
    [
        {"threshold": -1},
        {"decay": 0},
        {"floor": "0"},
        {"unchecked": -1},
        {"longest": 0},
        {"order": 10},
        {"warmup": 1.5},
        {"lite": None},
    ],
    ids=str,
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        SpeCa(**bad)
