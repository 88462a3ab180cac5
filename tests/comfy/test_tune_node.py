"""The Tune node, by a look-alike of ComfyUI's sampling: the plan it makes, what it takes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bwcache.comfy.recorder import Recorder
from bwcache.errors import SettingError
from bwcache.policies.tuned_file import read_tuned
from bwcache.study.tuning.tables import window_weights
from tests.comfy import fake_api, look_alike
from tests.comfy.fake_api import comfy_api

STEPS = 8


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Any]:
    with comfy_api(tmp_path / "output") as loaded:
        yield loaded


class Decoder:
    """Makes pictures of latents `[B, 1, T, 4, 4]`."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Frames `[B, T, 16, 16, 3]`."""
        frames = latents[:, 0, ..., None].expand(*latents.shape[:1], *latents.shape[2:], 3)
        return (frames / 4 + 0.5).clamp(0, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)


def text(seed: int) -> list[Any]:
    return [[look_alike.prompt(seed).embedding, {}]]


def asked(patcher: Any, **changed: Any) -> dict[str, Any]:
    """What is put into the node."""
    return {
        **{"model": patcher, "positive": text(1), "negative": text(2), "vae": Decoder(), "name": "mine"},
        **{"latent_image": {"samples": torch.zeros(1, 1, 2, 4, 4)}, "grade": "fast", "steps": STEPS, "cfg": 3.0},
        **{"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "first_seed": 0, "calibrate": 2},
        **{"verify": 2, "budget": 12.0, "again": False},
        **changed,
    }


def tuned(nodes: Any, patcher: Any, **changed: Any) -> Any:
    return nodes.BWCacheTune.execute(**asked(patcher, **changed)).args


def cached(nodes: Any, patcher: Any, **more: Any) -> Any:
    return nodes.BWCache.execute(model=patcher, grade="near", memory="device", start=0.0, end=1.0, **more).args


def sampled(model: Any, sampler: str = "euler", scheduler: str = "simple", steps: int = STEPS, **more: Any) -> Any:
    noise = torch.randn(1, 1, 2, 4, 4, generator=torch.Generator().manual_seed(50))
    said = {"callback": lambda *_: None, "disable_pbar": True, "seed": 50, "denoise": 1.0, **more}
    return fake_api.sample(model, noise, steps, 3.0, sampler, scheduler, text(1), text(2), torch.zeros(1), **said)


def forwards(patcher: Any) -> list[int]:
    """Counts the forwards of the last block in its one number."""
    count = [0]
    blocks: Any = patcher.model.diffusion_model.blocks
    blocks[-1].register_forward_pre_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    return count


def test_a_plan_is_made_proved_kept_and_sampled_with(nodes: Any, tmp_path: Path) -> None:
    patcher = look_alike.model()
    plan, said = tuned(nodes, patcher)
    folder = tmp_path / "models" / "bwcache"
    assert [path.name for path in folder.iterdir()] == ["mine.json"]
    file = read_tuned(folder / "mine.json")
    assert file.policy == plan.policy
    assert 2 <= len(file.policy.steps) < STEPS
    assert file.quality["videos"] == file.quality["calibrated_on"] == 2
    assert file.made_for["request"]["sampler"] == file.made_for["sampler"] == "euler"
    assert f"{len(file.policy.steps)} of {STEPS} steps" in said
    assert "2 videos of other seeds of this prompt" in said
    assert nodes.BWCache.define_schema().inputs[-1].said["options"] == ["none", "mine"]
    for more in ({"plan": "mine"}, {"method": plan}):
        clone, run = cached(nodes, patcher, **more)
        made = sampled(clone)
        trace = run.traces[-1]
        assert {one.step for one in trace.events if one.action == "compute"} == set(file.policy.steps)
        assert not run.notes[-1]
        assert torch.isfinite(made).all()


def test_it_is_proved_on_other_prompts_where_there_are_several(nodes: Any) -> None:
    _, said = tuned(nodes, look_alike.model(), positive_2=text(5), positive_4=text(6))
    assert "2 videos of other prompts than it was made of" in said


def test_what_it_recorded_is_what_the_sampler_did() -> None:
    """The weights of a window lead from the latents at its begin to those at its end, in the noise shares recorded."""
    recorder = Recorder()
    last = sampled(recorder.on(look_alike.model()))
    found = recorder.found()
    assert found.latents.shape[0] == len(found.shares) == STEPS + 1
    weights, left = window_weights(found.shares, 2, 6)
    led = left * found.latents[2] + weights @ found.clean
    torch.testing.assert_close(torch.tensor(led), torch.tensor(found.latents[6]).double(), atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.tensor(found.latents[-1]).sort().values, last.flatten().sort().values)


def test_one_that_is_there_is_handed_on_and_nothing_is_sampled(nodes: Any, tmp_path: Path) -> None:
    patcher = look_alike.model()
    plan, _ = tuned(nodes, patcher)
    count = forwards(patcher)
    same, _ = tuned(nodes, patcher)
    assert (same.policy, count[0]) == (plan.policy, 0)
    before = (tmp_path / "models" / "bwcache" / "mine.json").read_bytes()
    for other in ({"cfg": 4.0}, {"positive": text(9)}, {"grade": "near"}, {"steps": 9}):
        with pytest.raises(SettingError, match="a plan mine that was made for something else"):
            tuned(nodes, patcher, **other)
    assert (tmp_path / "models" / "bwcache" / "mine.json").read_bytes() == before
    assert count[0] == 0
    tuned(nodes, patcher, again=True)
    assert count[0] > 0


def test_it_says_what_it_takes_and_takes_no_more(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    done: list[int] = []
    monkeypatch.setattr(nodes.host.Progress, "say", lambda self, line: lines.append(line))
    monkeypatch.setattr(nodes.host.Progress, "at", lambda self, steps: done.append(steps))
    patcher = look_alike.model()
    count = forwards(patcher)
    tuned(nodes, patcher, budget=8.0)
    assert "at most 64 evaluations, the work of 8 uncached samplings" in lines[0]
    assert "at most" in lines[2]
    assert lines[2].endswith("more")
    assert done == sorted(done)
    assert count[0] == done[-1] <= 64


def test_cancelled_it_leaves_no_plan_and_goes_on_where_it_was(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cancelled(Exception):
        pass

    def cancel(self: Any, done: int) -> None:
        if done == 2 * STEPS + 3:
            raise Cancelled

    patcher = look_alike.model()
    undisturbed, _ = tuned(nodes, patcher, name="other")
    with monkeypatch.context() as patched:
        patched.setattr(nodes.host.Progress, "at", cancel)
        with pytest.raises(Cancelled):
            tuned(nodes, patcher)
    folder = tmp_path / "models" / "bwcache"
    assert sorted(path.name for path in folder.iterdir()) == ["mine-parts", "other.json"]
    assert nodes.BWCache.define_schema().inputs[-1].said["options"] == ["none", "other"]
    count = forwards(patcher)
    plan, _ = tuned(nodes, patcher)
    assert plan.policy == undisturbed.policy
    again = count[0]
    tuned(nodes, patcher, name="third")
    assert again == count[0] - again - 2 * STEPS
    assert sorted(path.name for path in folder.iterdir()) == ["mine.json", "other.json", "third.json"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"sampler_name": "heun"},
            "found heun, which evaluates the model 15 times in 8 steps; expected a sampler that",
        ),
        ({"sampler_name": "ancestral"}, "found ancestral, which adds noise in its steps; expected a sampler that"),
        ({"sampler_name": "unforeseen"}, "found unforeseen, which evaluates the model"),
        ({"steps": 2}, "found 2 steps; expected at least 3"),
        ({"budget": 4.0}, "found budget 4 for 4 videos"),
        ({"name": "../mine"}, "expected the name of a plan"),
        ({"name": "none"}, "expected the name of a plan"),
        ({"latent_image": {"samples": torch.zeros(1), "noise_mask": torch.zeros(1)}}, "found latents with a mask"),
    ],
)
def test_what_no_plan_can_be_made_of_is_said_before_anything_is_computed(
    nodes: Any, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    patcher = look_alike.model()
    count = forwards(patcher)
    with pytest.raises(SettingError, match=message):
        tuned(nodes, patcher, **changed)
    assert count[0] == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or "mine" in path.name]


def test_a_plan_for_another_model_is_said_at_the_node(nodes: Any, tmp_path: Path) -> None:
    patcher = look_alike.model()
    tuned(nodes, patcher)
    with pytest.raises(SettingError, match="found Flux under the plan mine; expected WanModel; tune this model"):
        cached(nodes, look_alike.model("comfy.ldm.flux.Flux"), plan="mine")
    path = tmp_path / "models" / "bwcache" / "mine.json"
    content = json.loads(path.read_text())
    content["made_for"]["architecture"] = {"dim": 5120}
    path.write_text(json.dumps(content))
    patcher.model.model_config = type("Config", (), {"unet_config": {"dim": 1536}})  # type: ignore[attr-defined]
    with pytest.raises(
        SettingError, match=r"found another WanModel \(dim 1536\) under the plan mine; expected dim 5120"
    ):
        cached(nodes, patcher, plan="mine")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampler": "heun"}, r"found sampler heun under the plan mine; expected euler \(8 steps, euler, simple\)"),
        ({"steps": 9}, r"found 9 steps under the plan mine; expected 8 \(8 steps, euler, simple\); sample as it was"),
        ({"scheduler": "beta"}, r"found another scheduler, shift or denoise under the plan mine"),
        ({"denoise": 0.9}, r"found another scheduler, shift or denoise under the plan mine"),
    ],
)
def test_another_sampling_than_a_plan_was_made_for_stops_before_it_begins(
    nodes: Any, changed: dict[str, Any], message: str
) -> None:
    patcher = look_alike.model()
    tuned(nodes, patcher)
    clone, run = cached(nodes, patcher, plan="mine")
    count = forwards(patcher)
    with pytest.raises(SettingError, match=message):
        sampled(clone, **changed)
    assert count[0] == 0
    assert sampled(clone).shape == (1, 1, 2, 4, 4)
    assert run.traces


def test_other_weights_and_loras_are_taken_and_said(nodes: Any) -> None:
    patcher = look_alike.model()
    tuned(nodes, patcher)
    other = look_alike.model()
    with torch.no_grad():
        for weight in other.model.diffusion_model.parameters():
            weight.mul_(1.5)
    with_lora: Any = patcher.clone()
    with_lora.patches = {"diffusion_model.enter.weight": [(1.0, ("diff", (torch.ones(2),)), 1.0, None, None)]}
    for changed in (other, with_lora):
        clone, run = cached(nodes, changed, plan="mine")
        sampled(clone)
        assert "was made for other weights or LoRAs of WanModel" in run.traces[-1].meta["note"]
    patched: Any = patcher.clone()  # ComfyUI adds LoRAs in place, and keeps what was there
    weight = dict(patcher.model.diffusion_model.named_parameters())["enter.weight"]
    patched.backup = {"diffusion_model.enter.weight": weight.detach().clone()}
    with torch.no_grad():
        weight.mul_(2)
    clone, run = cached(nodes, patched, plan="mine")
    sampled(clone)
    assert "note" not in run.traces[-1].meta


def test_a_plan_beside_a_method_and_plans_from_elsewhere(nodes: Any, tmp_path: Path) -> None:
    patcher = look_alike.model()
    plan, _ = tuned(nodes, patcher)
    with pytest.raises(SettingError, match="found a method, and the plan mine; expected one of both"):
        cached(nodes, patcher, plan="mine", method=plan)
    path = tmp_path / "models" / "bwcache" / "mine.json"
    assert nodes.BWCache.fingerprint_inputs(plan="mine", model=None) == path.stat().st_mtime
    assert nodes.BWCache.fingerprint_inputs(model=None) == 0.0
    content = json.loads(path.read_text())
    del content["made_for"]["host"]
    path.write_text(json.dumps(content))
    with pytest.raises(SettingError, match="a plan mine that was not made in ComfyUI"):
        cached(nodes, patcher, plan="mine")
    with pytest.raises(SettingError, match="found no plan yours; expected mine; choose another"):
        cached(nodes, patcher, plan="yours")
    path.write_text("{")
    with pytest.raises(SettingError, match="that is damaged"):
        cached(nodes, patcher, plan="mine")
