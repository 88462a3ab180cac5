"""The model in the package: it loads without network, is small, and gives the same video for the same seed."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, WanPipeline
from transformers import AutoTokenizer, UMT5EncoderModel

from bwcache import shapes

BYTES = 24 * 1024 * 1024


@pytest.fixture(scope="module")
def pipeline() -> WanPipeline:
    pipeline = shapes.load()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: WanPipeline, prompts: list[str], seed: int) -> np.ndarray:
    return pipeline(
        prompts,
        height=shapes.HEIGHT,
        width=shapes.WIDTH,
        num_frames=shapes.FRAMES,
        num_inference_steps=3,
        guidance_scale=shapes.GUIDANCE_SCALE,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).frames


def test_the_tokenizer_says_nothing_that_older_transformers_read_otherwise() -> None:
    """Version 4 takes `extra_special_tokens` for a mapping, 5 writes a list; an empty one need not be said."""
    said = json.loads((shapes.PATH / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "extra_special_tokens" not in said


def test_is_a_plain_wan_pipeline(pipeline: WanPipeline) -> None:
    assert type(pipeline) is WanPipeline
    assert isinstance(pipeline.vae, AutoencoderKLWan)
    assert isinstance(pipeline.text_encoder, UMT5EncoderModel)
    assert isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
    assert len(pipeline.transformer.blocks) == 12
    assert pipeline.transformer.dtype == torch.float32


def test_loads_by_its_index_and_its_tokenizer_by_itself() -> None:
    assert isinstance(DiffusionPipeline.from_pretrained(shapes.PATH, local_files_only=True), WanPipeline)
    tokenizer = AutoTokenizer.from_pretrained(shapes.PATH / "tokenizer", local_files_only=True)
    ids = tokenizer(shapes.PROMPTS[0]).input_ids
    assert len(ids) == len(shapes.PROMPTS[0].split()) + 1
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids


def test_loads_in_another_precision() -> None:
    assert shapes.load(dtype=torch.bfloat16).transformer.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16


def test_is_small() -> None:
    assert sum(path.stat().st_size for path in shapes.PATH.rglob("*") if path.is_file()) <= BYTES


def test_latents_are_normalised() -> None:
    config = json.loads((shapes.PATH / "vae" / "config.json").read_text())
    assert len(config["latents_mean"]) == len(config["latents_std"]) == config["z_dim"]
    assert config["latents_std"] != [1.0] * config["z_dim"]
    assert (config["scale_factor_spatial"], config["scale_factor_temporal"]) == (4, 2)


def test_same_seed_same_video(pipeline: WanPipeline) -> None:
    first, second = (generate(pipeline, list(shapes.PROMPTS), seed=0) for _ in range(2))
    assert first.shape == (len(shapes.PROMPTS), shapes.FRAMES, shapes.HEIGHT, shapes.WIDTH, 3)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, generate(pipeline, list(shapes.PROMPTS), seed=1))
