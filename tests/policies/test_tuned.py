"""Tuned: its list, its sums on the engine against a loop by hand, other schedules, and the file it comes in."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import bwcache
from bwcache import SettingError, Step, Tuned
from bwcache.core.trace import reuse_line
from bwcache.engine.made_for import file_policy
from bwcache.models.weights import architecture, weight_sample
from bwcache.policies.base import Observation
from bwcache.policies.tuned import carried_over
from bwcache.policies.tuned_file import TunedFile, read_tuned
from tests import tiny
from tests.policies.proof import proves

STEPS = (0, 1, 3, 6)
ROWS = ((1.0,), (1.25, -0.25), (1.5, -0.75, 0.25), (1.2, -0.2))


def shares(pipe: Any, steps: int) -> tuple[float, ...]:
    pipe.scheduler.set_timesteps(steps)
    return tuple(float(sigma) for sigma in pipe.scheduler.sigmas)


def by_hand(pipe: Any, steps: int) -> torch.Tensor:
    """The same run with the sums in place of skipped forwards, at the denoiser's own forward."""
    module = pipe.transformer
    own, seen = module.forward, {"calls": 0}
    kept: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    sigmas = shares(pipe, steps)

    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        step, branch = divmod(seen["calls"], 2)
        seen["calls"] += 1
        sigma = sigmas[step]
        if step in STEPS:
            found = own(hidden_states, *args, **kwargs)
            kept[branch].insert(0, hidden_states - sigma * found[0])
            return found
        row = ROWS[max(place for place, listed in enumerate(STEPS) if listed < step)]
        clean = sum(weight * one for weight, one in zip(row, kept[branch], strict=False))
        return ((hidden_states - clean) / sigma,)

    module.forward = forward
    try:
        return tiny.WAN.run(pipe, num_inference_steps=steps)
    finally:
        del module.forward


@proves(Tuned, "a loop by hand", "latents up to rounding", on=("wan",))
def test_skipped_steps_are_the_sums_of_clean_latents() -> None:
    pipe = tiny.wan()
    expected = by_hand(pipe, 8)
    with bwcache.attach(pipe, Tuned(STEPS, ROWS, shares(pipe, 8))) as session:
        found = tiny.WAN.run(pipe, num_inference_steps=8)
    assert reuse_line(session.trace.events) == "CCrCrrCr"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def seen(index: int, total: int, noise: float | None, following: float | None) -> Observation:
    return Observation(Step(0, index, total, None, noise, "cond", None, noise, following), "root")


def test_decides_by_the_list_on_its_own_schedule_alone() -> None:
    levels = (1.0, 0.75, 0.5, 0.25, 0.0)
    policy = Tuned((0, 2), ((1.0,), (1.0,)), levels)
    assert [policy.decide(seen(i, 4, levels[i], levels[i + 1]), None).reuses for i in range(4)] == [
        False, True, False, True,
    ]  # fmt: skip
    for observation in (seen(1, 5, 0.75, 0.5), seen(1, 4, 0.7, 0.5), seen(1, 4, None, None)):
        decision = policy.decide(observation, None)
        assert not decision.reuses
        assert decision.reason == "tuned for another schedule (and this one is not known)"


def test_carried_over_by_log_snr() -> None:
    ten, twenty = (tuple(1 - i / n for i in range(n + 1)) for n in (10, 20))
    assert carried_over((0, 1, 4, 9), ten, ten) == (0, 1, 4, 9)
    assert carried_over((0, 1, 4, 9), ten, twenty) == (0, 2, 8, 18)
    assert carried_over((0, 8, 9), ten, (1.0, 0.9, 0.8, 0.0)) == (0, 2)
    shifted = tuple(5 * s / (1 + 4 * s) for s in twenty)
    wanted = [min(range(20), key=lambda k: abs(shifted[k] - ten[i])) for i in (1, 4, 9)]
    assert carried_over((1, 4, 9), ten, shifted) == (0, *sorted(set(wanted)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("steps", steps) for steps in ((), (1, 2), (0, 2, 2), (0, 4), (0, 1.5), "abc", 3)),
        *(("rows", rows) for rows in ((), ((1.0,),), ((1.0,), ()), ((1.0,), ("a",)), ((1.0,), (float("nan"),)))),
        ("rows", ((1.0,), (1e300, -1e300))),
        *(("schedule", levels) for levels in ((), (1.0,), (1.0, 1.0, 0.5, 0.2, 0.0), (1.5, 1.0, 0.5, 0.2, 0.0))),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(field: str, value: Any) -> None:
    good: dict[str, Any] = {"steps": (0, 2), "rows": ((1.0,), (1.0,)), "schedule": (1.0, 0.75, 0.5, 0.25, 0.0)}
    with pytest.raises(SettingError, match=f"found {field} .*; expected .*; try "):
        Tuned(**{**good, field: value})


def written(path: Path, policy: Tuned, **changed: Any) -> Path:
    made_for = {"scheduler": {"class": "UniPCMultistepScheduler", "predicts": "flow"}}
    content = TunedFile(policy, made_for, {"psnr": 35.2}, {"expected": 3.0}).to_json()
    path.write_text(json.dumps({**content, **changed}))
    return path


def policy_for(pipe: Any) -> Tuned:
    return Tuned(STEPS, ROWS, shares(pipe, 8), type(pipe.transformer).__name__)


def test_a_file_is_attached_by_its_path(tmp_path: Path) -> None:
    pipe = tiny.wan()
    policy = policy_for(pipe)
    path = written(tmp_path / "tuned.json", policy)
    assert read_tuned(path).policy == policy
    for given in (path, str(path)):
        with bwcache.attach(pipe, given) as session:
            tiny.WAN.run(pipe, num_inference_steps=8)
        assert reuse_line(session.trace.events) == "CCrCrrCr"


def test_files_for_something_else_are_refused(tmp_path: Path) -> None:
    pipe = tiny.wan()
    policy = policy_for(pipe)
    path = written(tmp_path / "tuned.json", Tuned(STEPS, ROWS, policy.schedule, "FluxTransformer2DModel"))
    with pytest.raises(SettingError, match=r"found WanTransformer3DModel .*FluxTransformer2DModel; .* tune this model"):
        bwcache.attach(pipe, path)
    with pytest.raises(SettingError, match=r"found WanTransformer3DModel under a plan for FluxTransformer2DModel"):
        bwcache.attach(pipe.transformer, read_tuned(path).policy)
    other = tiny.cogvideox()
    path = written(tmp_path / "other.json", Tuned(STEPS, ROWS, policy.schedule, type(other.transformer).__name__))
    with pytest.raises(SettingError, match=r"expected one that predicts flow"):
        file_policy(other, path)


def made_for(pipe: Any) -> dict[str, Any]:
    sample = weight_sample(pipe.transformer)
    assert sample is not None
    return {"weight_sample": sample.to_json(), "architecture": architecture(pipe.transformer), "model": "tiny"}


def test_other_weights_are_said(tmp_path: Path) -> None:
    pipe = tiny.wan()
    path = written(tmp_path / "tuned.json", policy_for(pipe), made_for=made_for(pipe))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file_policy(pipe, path)
        file_policy(pipe.transformer, path)
        pipe.transformer.to(torch.bfloat16)
        file_policy(pipe, path)
        pipe.transformer.to(torch.float16)  # what that leaves of single precision cannot be told
        file_policy(pipe, path)
        file_policy(pipe, written(tmp_path / "old.json", policy_for(pipe)))
    other = tiny.wan()
    with torch.no_grad():
        other.transformer.blocks[1].attn1.to_q.weight.mul_(1.01)
    says = r"'tuned.json': found other weights of WanTransformer3DModel .*; expected those of 'tiny'; look whether"
    with pytest.warns(bwcache.OtherWeightsWarning, match=says), bwcache.attach(other, path):
        pass
    with bwcache.attach(other, "near") as session, pytest.warns(bwcache.OtherWeightsWarning, match=says):
        session.use(path)


def test_another_architecture_of_the_class_is_refused(tmp_path: Path) -> None:
    pipe = tiny.wan()
    settings = made_for(pipe)
    settings["architecture"]["num_layers"] = 40
    path = written(tmp_path / "tuned.json", policy_for(pipe), made_for=settings)
    says = r"found another WanTransformer3DModel \(num_layers \d+\) .*; expected the one .* \(40\); tune this model too"
    with pytest.raises(SettingError, match=says):
        bwcache.attach(pipe, path)


def test_a_file_is_used_from_the_next_run_on(tmp_path: Path) -> None:
    pipe = tiny.wan()
    path = written(tmp_path / "tuned.json", policy_for(pipe))
    with bwcache.attach(pipe, "near") as session:
        session.use(path)
        tiny.WAN.run(pipe, num_inference_steps=8)
    assert reuse_line(session.trace.events) == "CCrCrrCr"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "that is damaged"),
        ("[]", "found format list"),
        ("{}", "found format None"),
        (json.dumps({"format": TunedFile.format()}), "found parts that are missing"),
        (
            json.dumps(
                {
                    "format": TunedFile.format(),
                    "made_for": {},
                    "quality": {},
                    "speed": {},
                    "policy": {"name": "BWCache"},
                }
            ),
            "found policy BWCache",
        ),
        (
            json.dumps(
                {"format": TunedFile.format(), "made_for": {}, "quality": {}, "speed": {}, "policy": {"name": "Tuned"}}
            ),
            "of which steps and rows and schedule must be said",
        ),
    ],
)
def test_broken_and_foreign_files(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(text)
    with pytest.raises(SettingError, match=said) as caught:
        bwcache.attach(tiny.wan(), path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SettingError, match=r"cannot be read \(No such file or directory\)"):
        bwcache.attach(tiny.wan(), "not-there.json")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("architecture", "x"),
        ("scheduler", [1]),
        ("scheduler", {"predicts": []}),
        ("weight_sample", "x"),
        ("weight_sample", {"digest": 5, "dtypes": []}),
        ("weight_sample", {"digest": "00", "dtypes": None}),
    ],
)
def test_what_is_compared_must_be_readable(tmp_path: Path, part: str, value: Any) -> None:
    pipe = tiny.wan()
    path = written(tmp_path / "tuned.json", policy_for(pipe), made_for={**made_for(pipe), part: value})
    with pytest.raises(SettingError, match=r"found \w+ .* in made_for of '.*; expected "):
        read_tuned(path)
