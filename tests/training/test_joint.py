"""Joint attention: the model learns, its pipeline pads, decodes, guides and steps as it should, and caching works."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from torchmetrics.functional.image import peak_signal_noise_ratio

import bwcache
from bwcache import shapes
from bwcache.measure.call import Request, call
from training import joint
from training.data import CAPTIONS, make_videos
from training.joint import JointCaptioner, JointRecipe, ShapesJointPipeline
from training.model import encode_whole, normalise
from training.models import load_joint
from training.train import Examples, Run, flow_loss, tokenize

SMALL = JointRecipe(width=16, heads=2, layers=2, single_layers=3, axes=(2, 2, 4), batch=4)
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SCHEDULERS = {
    "euler": FlowMatchEulerDiscreteScheduler(),
    "euler-shift-5": FlowMatchEulerDiscreteScheduler(shift=5.0),
    "unipc-shift-8": UniPCMultistepScheduler(**FLOW, flow_shift=8.0),
    "dpm": DPMSolverMultistepScheduler(**FLOW, flow_shift=3.0),
}


@pytest.fixture(scope="module")
def pipeline() -> ShapesJointPipeline:
    torch.manual_seed(0)
    transformer = joint.build_transformer(SMALL)
    torch.nn.init.normal_(transformer.proj_out.weight)
    pipeline = joint.make_pipeline(transformer.eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: ShapesJointPipeline, **changes: Any) -> Any:
    options: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 8}
    options |= {"guidance_scale": 4.0, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    return pipeline(shapes.PROMPTS[0], **{**options, **changes}).frames


def test_a_step_lowers_the_loss_and_leaves_the_text_encoder_alone() -> None:
    torch.manual_seed(0)
    model = JointCaptioner(shapes.load().text_encoder, joint.build_transformer(SMALL))
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert trained.keys() == {f"transformer.{name}" for name, _ in model.transformer.named_parameters()}
    latents, ids = torch.randn(8, 8, 5, 8, 8), torch.randint(1, 40, (9, SMALL.caption_tokens))
    batch = Examples(latents, torch.arange(8), ids, torch.ones(8)).draw(SMALL, joint.STAGE, 0)
    run, optimizer = Run(SMALL, Path()), torch.optim.SGD(trained.values(), 0.01)
    before = flow_loss(run, model, *batch)
    before.backward()
    optimizer.step()
    with torch.no_grad():
        assert flow_loss(run, model, *batch) < before


def test_the_gradient_reaches_every_matrix_of_every_block_and_muon_has_them_all() -> None:
    torch.manual_seed(0)
    model = joint.build_transformer(SMALL)
    torch.nn.init.normal_(model.proj_out.weight)
    latent, embeds, mask = torch.randn(2, 8, 5, 8, 8), torch.randn(2, 6, 64), torch.ones(2, 6)
    model(latent, torch.tensor([100.0, 900.0]), embeds, mask, embeds.mean(1)).sample.square().mean().backward()
    still = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    last = len(model.single_transformer_blocks) - 1  # nobody reads the caption's stream after the last block
    assert all("norm" in name or f"single_transformer_blocks.{last}" in name for name in still), still
    chosen = {id(value) for part in joint.matrices(model) for value in part.parameters()}
    blocks = [name for name, _ in model.named_parameters() if "_blocks." in name]
    assert {name for name in blocks if id(model.get_parameter(name)) not in chosen} == {
        name for name in blocks if ".norm" in name and ".attn." not in name
    }


def test_padding_of_the_prompts_changes_nothing(pipeline: ShapesJointPipeline) -> None:
    prompts = [CAPTIONS[0].text, "a large ring", ""]
    latent, sigma = torch.randn(3, 8, 5, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    captioner = JointCaptioner(pipeline.text_encoder, pipeline.transformer)
    with torch.no_grad():
        short = captioner(latent, sigma, tokenize(pipeline.tokenizer, prompts, SMALL))
        embeds, mask, pooled = pipeline.encode_prompt(prompts, max_sequence_length=40)
        padded = pipeline.transformer(latent, 1000 * sigma, embeds, mask, pooled).sample
    assert embeds.shape == (3, 40, 64)
    torch.testing.assert_close(short, padded, atol=1e-4, rtol=1e-4)


def test_every_training_caption_fits_the_tokens_it_is_trained_with(pipeline: ShapesJointPipeline) -> None:
    ids = tokenize(pipeline.tokenizer, [caption.text for caption in CAPTIONS], JointRecipe())
    assert ids.shape == (len(CAPTIONS), JointRecipe.caption_tokens)


def test_the_pipeline_decodes_what_it_was_trained_on(pipeline: ShapesJointPipeline) -> None:
    video = make_videos(list(CAPTIONS[::500]), torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = normalise(pipeline.vae, encode_whole(pipeline.vae, 2 * video - 1)[0])
        decoded = pipeline.decode(latents, "pt").transpose(1, 2)
    assert peak_signal_noise_ratio(decoded, video, data_range=1.0) > 27


def test_guidance_is_two_forwards_of_which_one_is_without_the_caption(pipeline: ShapesJointPipeline) -> None:
    latents = torch.randn(1, 8, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"num_inference_steps": 1, "latents": latents, "output_type": "latent"}
    asked = sample(pipeline, guidance_scale=1.0, **options)
    empty = pipeline("", guidance_scale=1.0, **options).frames
    guided = sample(pipeline, guidance_scale=3.0, **options)
    torch.testing.assert_close(guided, empty + 3 * (asked - empty), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(asked, empty, atol=1e-4)


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_it_steps_as_its_scheduler_does(pipeline: ShapesJointPipeline, scheduler: SchedulerMixin) -> None:
    times: list[float] = []

    def note(pipe: Any, step: int, time: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        times.append(time.item())
        return tensors

    own, pipeline.scheduler = pipeline.scheduler, scheduler
    try:
        video = sample(pipeline, callback_on_step_end=note)
        assert times == scheduler.timesteps.tolist()
        assert video.shape == (1, 9, 3, 32, 32)
        assert video.isfinite().all()
        with bwcache.attach(pipeline, bwcache.BWCache(threshold=0)) as session:
            assert torch.equal(sample(pipeline), video)
        assert session.trace.reused == 0
        with bwcache.attach(pipeline, bwcache.BWCache(threshold=10.0, reuse_interval=2)) as session:
            assert not torch.equal(sample(pipeline), video)
        assert session.trace.reused > 0
    finally:
        pipeline.scheduler = own


def test_a_measured_call_is_the_pipelines_own(pipeline: ShapesJointPipeline) -> None:
    request = Request(shapes.PROMPTS[0], 4, guidance_scale=4.0, height=32, width=32, frames=9)
    stages: list[str] = []
    frames = call(pipeline, request, on_progress=lambda progress: stages.append(progress.stage)).frames
    assert frames.shape == (9, 32, 32, 3)
    assert stages == ["sampling"] * 5 + ["decoding"] * 2
    np.testing.assert_array_equal(frames, sample(pipeline, num_inference_steps=4, output_type="np")[0])


def test_prompts_of_a_batch_give_the_videos_that_each_gives_alone(pipeline: ShapesJointPipeline) -> None:
    options: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt"}
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = pipeline(list(shapes.PROMPTS[:2]), generator=seeds, **options).frames
    for seed, (prompt, video) in enumerate(zip(shapes.PROMPTS[:2], both, strict=True), 1):
        alone = pipeline(prompt, generator=torch.Generator().manual_seed(seed), **options).frames[0]
        torch.testing.assert_close(video, alone, atol=1e-4, rtol=1e-4)


def test_what_was_exported_is_what_is_loaded(tmp_path: Path) -> None:
    model = JointCaptioner(shapes.load().text_encoder, joint.build_transformer(SMALL))
    for value in model.transformer.parameters():
        value.data = (value + 0.1 * torch.randn_like(value)).half().float()
    torch.save({"average": model.state_dict(), "log": []}, tmp_path / "joint.pt")
    joint.export(Run(SMALL, tmp_path), tmp_path / "weights", tmp_path / "log.jsonl")
    loaded = load_joint(tmp_path / "weights").transformer.state_dict()
    for name, value in model.transformer.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value), name
