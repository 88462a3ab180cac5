"""Training: padded attention equals the pipeline's padding, whole-video coding equals chunks, runs resume exactly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from training.model import PROMPT_TOKENS, Recipe, build_vae, decode_whole, encode_whole
from training.train import Run, load, make_captioner, make_tokenizer, rate_at, tokenize, train

TINY = Recipe(
    held_out=4000,
    text_width=16,
    text_layers=1,
    text_heads=2,
    latent_channels=4,
    vae_width=4,
    vae_steps=4,
    vae_batch=2,
    latent_videos=8,
    width=24,
    heads=2,
    layers=2,
    ffn_width=32,
    time_width=16,
    steps=6,
    batch=4,
    save_every=2,
    log_every=2,
)


def test_one_padded_token_equals_the_pipelines_padding() -> None:
    tokenizer = make_tokenizer(TINY)
    captioner = make_captioner(TINY, tokenizer)
    torch.nn.init.normal_(captioner.transformer.proj_out.weight)
    for parameter in captioner.transformer.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    prompts = ["a small red circle moving left slowly over a striped background", "a large ring", ""]
    latent, sigma = torch.randn(3, 4, 5, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    short = captioner(latent, sigma, tokenize(tokenizer, prompts, TINY))

    captioner.transformer.set_attn_processor(WanAttnProcessor())
    pipeline = WanPipeline(tokenizer, captioner.text_encoder, None, None, captioner.transformer)
    embeds, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=PROMPT_TOKENS)
    full = captioner.transformer(latent, 1000 * sigma, embeds, return_dict=False)[0]
    assert embeds.shape[1] == PROMPT_TOKENS
    torch.testing.assert_close(short, full, atol=1e-5, rtol=1e-5)


def test_coding_whole_videos_equals_coding_chunks() -> None:
    torch.manual_seed(0)
    vae = build_vae(TINY).eval()
    video = torch.rand(2, 3, 9, 32, 32) * 2 - 1
    with torch.no_grad():
        mean, _ = encode_whole(vae, video)
        torch.testing.assert_close(mean, vae.encode(video).latent_dist.mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decode_whole(vae, mean).clamp(-1, 1), vae.decode(mean).sample, atol=1e-5, rtol=1e-5)


def test_rate_warms_up_and_decays_to_zero() -> None:
    rates = [rate_at(step, 100, 0.1) for step in range(101)]
    assert rates[0] < rates[5] < rates[10] > rates[50] > rates[100]
    assert rates[100] == pytest.approx(0, abs=1e-9)


class Interrupted(Exception):
    """Raised in the middle of a run."""


def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Run(TINY, tmp_path / "whole")
    train(whole, tmp_path / "weights", tmp_path / "log.jsonl")
    pipeline = WanPipeline.from_pretrained(tmp_path / "weights", local_files_only=True)
    assert pipeline.vae.config.latents_std != [1.0] * 4
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1 + 2 + 3

    def interrupt(step: int, *arguments: Any) -> float:
        if step == 5:
            raise Interrupted
        return rate_at(step, *arguments)

    parts = replace(whole, folder=tmp_path / "parts")
    monkeypatch.setattr("training.train.rate_at", interrupt)
    with pytest.raises(Interrupted):
        train(parts, tmp_path / "again", tmp_path / "again.jsonl")
    monkeypatch.undo()
    train(parts, tmp_path / "again", tmp_path / "again.jsonl")
    for stage in ("autoencoder.pt", "transformer.pt"):
        first, second = load(whole.folder / stage), load(parts.folder / stage)
        for name, value in first["model"].items():
            assert torch.equal(value, second["model"][name]), name
