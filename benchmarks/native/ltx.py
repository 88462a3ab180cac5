"""LTX-Video: its pipeline, with features for the prompt and spatio-temporal guidance."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.native.case import Case
from benchmarks.native.checks import Sampler, lively
from benchmarks.native.stubs import stub_absent

STEPS = 8
WORDS, WIDTH = 6, 12


def opened(folder: Path, count: int, anew: int = 0, **call: Any) -> Sampler:
    """Imports what is needed from the checkout, with stubs for the rest; `anew` as in `Sampler`."""
    stub_absent("torchvision", "imageio", "av", "sentencepiece", "cv2")
    found = importlib.import_module("ltx_video.pipelines.pipeline_ltx_video")
    schedulers = importlib.import_module("ltx_video.schedulers.rf")
    patchifiers = importlib.import_module("ltx_video.models.transformers.symmetric_patchifier")
    transformer = found.Transformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=4,
        cross_attention_dim=24, caption_channels=WIDTH, attention_bias=True, activation_fn="gelu-approximate",
        adaptive_norm="single_scale_shift", standardization_norm="rms_norm", norm_elementwise_affine=False,
        qk_norm="rms_norm", positional_embedding_type="rope", positional_embedding_theta=10000.0,
        positional_embedding_max_pos=[20, 2048, 2048], timestep_scale_multiplier=1000,
    )  # fmt: skip
    lively(transformer)
    vae = found.CausalVideoAutoencoder.__new__(found.CausalVideoAutoencoder)
    nn.Module.__init__(vae)
    pipe = found.LTXVideoPipeline.__new__(found.LTXVideoPipeline)
    found.DiffusionPipeline.__init__(pipe)
    scheduler = schedulers.RectifiedFlowScheduler(shifting=None)
    patchifier = patchifiers.SymmetricPatchifier(patch_size=1)
    parts = {"transformer": transformer, "scheduler": scheduler}
    type(pipe).components = property(lambda self: parts)
    type(pipe)._execution_device = torch.device("cpu")
    pipe.register_modules(transformer=transformer, scheduler=scheduler)
    pipe.vae, pipe.patchifier, pipe.text_encoder, pipe.tokenizer = vae, patchifier, None, None
    pipe.allowed_inference_steps, pipe.video_scale_factor, pipe.vae_scale_factor = None, 8, 32
    pipe.set_progress_bar_config(disable=True)

    def conditioning(**given: Any) -> Any:
        latents, coords = patchifier.patchify(latents=given["init_latents"])
        return latents, coords.float(), None, 0

    pipe.prepare_conditioning = conditioning

    def noise(shape: Any) -> Tensor:
        return torch.stack(
            [torch.randn(shape[1:], generator=torch.Generator().manual_seed(i)) for i in range(shape[0])]
        )

    def sample(which: list[int]) -> Any:
        embeds = torch.stack([torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(9 + i)) for i in which])
        mask = torch.ones(len(which), WORDS)
        pipe.prepare_latents = lambda **given: noise((2, *given["latent_shape"][1:]))[which]
        return pipe(
            height=64, width=64, num_frames=17, frame_rate=24.0, num_inference_steps=STEPS,
            **{"guidance_scale": 3.0} | call, prompt_embeds=embeds, negative_prompt=None,
            negative_prompt_embeds=0 * embeds, prompt_attention_mask=mask,
            negative_prompt_attention_mask=mask, output_type="latent", is_video=True, return_dict=False,
            generator=torch.Generator().manual_seed(0),
        )[0]  # fmt: skip

    alone = tuple(Sampler(pipe, partial(sample, [i]), STEPS, ("call0",), anew=anew, told=False) for i in range(count))
    if count == 1:
        return alone[0]
    return Sampler(pipe, lambda: sample([0, 1]), STEPS, ("call0",) * count, told=False, alone=alone)


STG: dict[str, Any] = {"stg_scale": 1.0, "rescaling_scale": 0.7, "skip_block_list": [2]}
CHANGING: dict[str, Any] = {
    "guidance_timesteps": [1.0, 0.6], "stg_scale": [1.0, 1.0], "skip_block_list": [[1, 2], [2]],
    "rescaling_scale": [0.7, 0.7], "guidance_scale": [3.0, 3.0],
}  # fmt: skip
REPOSITORY, DENOISER = "Lightricks/LTX-Video", "ltx_video.models.transformers.transformer3d.Transformer3DModel"
STUBBED = "text encoder, VAE, initial latents"
NO_STG: dict[str, Any] = {"stg_scale": 0.0}
CASES = (
    Case("ltx", REPOSITORY, DENOISER, "LTXVideoPipeline, guidance",
         lambda folder: opened(folder, 1, **NO_STG), STUBBED),
    Case("ltx-stg", REPOSITORY, DENOISER, "LTXVideoPipeline, three branches",
         lambda folder: opened(folder, 1, **STG), STUBBED),
    Case("ltx-batch", REPOSITORY, DENOISER, "LTXVideoPipeline, two prompts",
         lambda folder: opened(folder, 2, **NO_STG), STUBBED),
    Case("ltx-stg-changing", REPOSITORY, DENOISER, "LTXVideoPipeline, three branches, other blocks skipped in time",
         lambda folder: opened(folder, 1, anew=1, **CHANGING), STUBBED),
    Case("ltx-stg-batch", REPOSITORY, DENOISER, "LTXVideoPipeline, three branches, two prompts",
         lambda folder: opened(folder, 2, **STG), STUBBED),
)  # fmt: skip
