"""The models beside the built-in one: training lowers the loss, runs resume exactly, weights load as trained."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

import bwcache
from bwcache import shapes
from bwcache.shapes import FRAMES
from training import image, joint, unet
from training.check import generate, score
from training.data import CAPTIONS, make_videos, split
from training.model import Recipe, encode_whole, normalise
from training.models import IMAGE_FRAMES, UNET_FRAMES, load_image_model, load_joint, load_unet
from training.train import Examples, Run, flow_loss, load, rate_at

BUDGET: dict[str, Any] = {"held_out": 4224, "latent_videos": 8, "steps": 6, "batch": 4, "save_every": 2, "log_every": 2}
UNET = unet.UNetRecipe(widths=(8, 8), groups=4, heads=2, still_steps=4, still_batch=4, **BUDGET)
IMAGE = image.ImageRecipe(rank=2, **BUDGET)
JOINT = joint.JointRecipe(width=16, heads=2, layers=1, single_layers=2, axes=(2, 2, 4), **BUDGET)
MODULES = [(joint, JOINT), (unet, UNET), (image, IMAGE)]
KINDS = pytest.mark.parametrize(("module", "recipe"), MODULES, ids=["joint", "unet", "image"])


def examples(frames: int, texts: torch.Tensor) -> Examples:
    """Eight examples of noise, so that a loss can be lowered without the autoencoder."""
    latents = torch.randn(8, 8, frames, 8, 8, generator=torch.Generator().manual_seed(0))
    return Examples(latents, torch.arange(8), texts, torch.ones(8))


@pytest.mark.parametrize("still", [True, False], ids=["frames", "videos"])
def test_a_step_lowers_the_loss_of_the_unet(still: bool) -> None:
    torch.manual_seed(0)
    model = unet.build_still(UNET) if still else unet.build_unet(UNET)
    batch = examples(UNET_FRAMES, torch.randn(9, 20, 64)).draw(UNET, unet.MOVING, 0)
    batch = unet.one_frame(batch) if still else batch
    run, scheduler, optimizer = Run(UNET, Path()), unet.build_scheduler(), torch.optim.SGD(model.parameters(), 0.01)
    before = unet.velocity_loss(run, model, scheduler, batch)
    before.backward()
    optimizer.step()
    with torch.no_grad():
        assert unet.velocity_loss(run, model, scheduler, batch) < before


def test_motion_modules_begin_by_adding_nothing() -> None:
    still = unet.build_still(UNET)
    moving = unet.build_unet(UNET, still)
    latents, time, embeds = torch.randn(2, 8, UNET_FRAMES, 8, 8), torch.tensor([100, 900]), torch.randn(2, 20, 64)
    with torch.no_grad():
        video = moving(latents, time, embeds.repeat_interleave(UNET_FRAMES, 0)).sample
        frames = torch.stack([still(frame, time, embeds).sample for frame in latents.unbind(2)], 2)
    torch.testing.assert_close(video, frames, atol=1e-5, rtol=1e-5)


def test_a_step_lowers_the_loss_of_the_image_model_and_moves_the_update_alone() -> None:
    model = image.make_model(IMAGE, shapes.load())
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    ids = torch.randint(1, 40, (9, 20), generator=torch.Generator().manual_seed(0))
    batch = examples(IMAGE_FRAMES, ids).draw(IMAGE, image.STAGE, 0)
    run, optimizer = Run(IMAGE, Path()), torch.optim.SGD(trained.values(), 0.01)
    before = flow_loss(run, model, *batch)
    before.backward()
    optimizer.step()
    with torch.no_grad():
        assert flow_loss(run, model, *batch) < before


class Interrupted(Exception):
    """Raised in the middle of a run."""


@KINDS
def test_an_interrupted_run_ends_like_one_that_was_not(
    module: ModuleType, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run(recipe, tmp_path / "whole")
    module.train(whole, tmp_path / "weights", tmp_path / "log.jsonl")
    stages = {joint: ["joint"], unet: ["unet-still", "unet"], image: ["image"]}[module]
    logged = {json.loads(line).get("stage") for line in (tmp_path / "log.jsonl").read_text().splitlines()}
    assert logged == {None, *stages}

    def interrupt(step: int, *arguments: Any) -> float:
        if step == 5:  # of the last stage: the one before it has fewer
            raise Interrupted
        return rate_at(step, *arguments)

    parts = replace(whole, folder=tmp_path / "parts")
    monkeypatch.setattr("training.train.rate_at", interrupt)
    with pytest.raises(Interrupted):
        module.train(parts, tmp_path / "again", tmp_path / "again.jsonl")
    monkeypatch.undo()
    module.train(parts, tmp_path / "again", tmp_path / "again.jsonl")
    for stage in stages:
        first, second = load(whole.folder / f"{stage}.pt"), load(parts.folder / f"{stage}.pt")
        for kind in ("model", "average"):
            for name, value in first[kind].items():
                assert torch.equal(value, second[kind][name]), name


def test_the_unets_pipeline_decodes_what_it_was_trained_on() -> None:
    pipeline = unet.make_pipeline(unet.build_unet(UNET))
    video = make_videos(list(CAPTIONS[::500]), torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = normalise(pipeline.vae, encode_whole(pipeline.vae, 2 * video - 1)[0])
        decoded = pipeline.decode_latents(latents, decode_chunk_size=4) / 2 + 0.5
    assert latents.shape[2] == UNET_FRAMES
    assert peak_signal_noise_ratio(decoded, video, data_range=1.0) > 27


def test_the_merged_update_is_the_one_that_was_trained(tmp_path: Path) -> None:
    run = Run(IMAGE, tmp_path)
    model = image.make_model(IMAGE, shapes.load())
    for name, value in model.named_parameters():
        if "lora" in name:
            value.data = (0.1 * torch.randn_like(value)).bfloat16().float()
    torch.save({"average": model.state_dict(), "log": []}, tmp_path / "image.pt")
    image.export(run, tmp_path / "weights", tmp_path / "log.jsonl")

    pipeline = load_image_model(tmp_path / "weights")
    merged = image.Captioner(pipeline.text_encoder, pipeline.transformer, IMAGE.caption_tokens)
    latent, sigma = torch.randn(2, 8, IMAGE_FRAMES, 8, 8), torch.tensor([0.2, 0.8])
    ids = torch.randint(1, 40, (2, IMAGE.caption_tokens))
    plain = image.Captioner((untouched := shapes.load()).text_encoder, untouched.transformer, IMAGE.caption_tokens)
    with torch.no_grad():
        expected = model(latent, sigma, ids)
        torch.testing.assert_close(merged(latent, sigma, ids), expected, atol=1e-4, rtol=1e-4)
        assert (plain(latent, sigma, ids) - expected).abs().mean() > 0.01


def test_a_session_on_the_unet_reuses_and_changes_nothing_when_it_never_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet.build_unet(UNET).save_pretrained(tmp_path)
    pipeline = load_unet(tmp_path)
    pipeline.set_progress_bar_config(disable=True)

    def sample() -> torch.Tensor:
        options = {"height": 32, "width": 32, "num_frames": UNET_FRAMES, "num_inference_steps": 8}
        prompt, generator = shapes.PROMPTS[0], torch.Generator().manual_seed(0)
        return pipeline(prompt, **options, guidance_scale=4.0, generator=generator, output_type="pt").frames

    plain = sample()
    assert plain.shape == (1, 9, 3, 32, 32)
    with bwcache.attach(pipeline, bwcache.BWCache(threshold=0)):
        assert torch.equal(sample(), plain)
    with bwcache.attach(pipeline, bwcache.BWCache(threshold=10.0, reuse_interval=2)) as session:
        assert not torch.equal(sample(), plain)
    assert session.trace.reused > 0


@pytest.mark.parametrize(("open_model", "module"), [(load_joint, joint), (load_unet, unet), (load_image_model, image)])
def test_without_weights_the_command_that_trains_them_is_named(
    open_model: Callable[[Path], object], module: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=f"python -m {module.__name__}"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("open_model", "frames"), [(load_joint, FRAMES), (load_unet, UNET_FRAMES), (load_image_model, IMAGE_FRAMES)]
)
def test_the_committed_weights_show_the_color_that_was_asked(open_model: Callable[[], object], frames: int) -> None:
    captions = list(split()[1][:8])
    videos = generate(open_model(), captions, shapes.GUIDANCE_SCALE, 12, frames, batch=8)
    assert videos.shape == (8, 3, IMAGE_FRAMES if frames == IMAGE_FRAMES else FRAMES, 32, 32)
    assert score(captions, videos, ["color"])["color"] >= 0.75  # one of seven by chance


def test_all_committed_weights_together_are_small() -> None:
    folders = (shapes.PATH, joint.WEIGHTS, unet.WEIGHTS, image.WEIGHTS)
    files = [path for folder in folders for path in folder.rglob("*.safetensors")]
    assert len(files) >= 6
    assert sum(path.stat().st_size for path in files) <= 28 * 1024**2
