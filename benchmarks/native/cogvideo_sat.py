"""CogVideoX on SAT: its transformer under its own denoiser, guider and DPM++ sampler."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.native.case import Case
from benchmarks.native.checks import Sampler, lively
from benchmarks.native.stubs import stub, stub_absent

STEPS = 8
WORDS, WIDTH, TEXT = 6, 32, 12
PARTS = "sgm.modules.diffusionmodules"


def part(name: str, **params: Any) -> dict[str, Any]:
    """An entry of a configuration file: what is made there, and of what."""
    return {"target": name, "params": params}


NETWORK = part(
    "dit_video_concat.DiffusionTransformer",
    time_embed_dim=16, elementwise_affine=True, num_frames=5, time_compressed_rate=4, latent_width=4, latent_height=4,
    num_layers=4, patch_size=[1, 2, 2], in_channels=4, out_channels=4, hidden_size=WIDTH, num_attention_heads=2,
    adm_in_channels=16,
    modules={
        "pos_embed_config": part("dit_video_concat.Basic3DPositionEmbeddingMixin", text_length=WORDS),
        "patch_embed_config": part("dit_video_concat.ImagePatchEmbeddingMixin", text_hidden_size=TEXT),
        "adaln_layer_config": part("dit_video_concat.AdaLNMixin", qk_ln=True),
        "final_layer_config": part("dit_video_concat.FinalLayerMixin"),
    },
)  # fmt: skip
STEPPED = part(f"{PARTS}.discretizer.ZeroSNRDDPMDiscretization", shift_scale=3.0)
DENOISER = part(
    f"{PARTS}.denoiser.DiscreteDenoiser", num_idx=1000, quantize_c_noise=False, discretization_config=STEPPED,
    weighting_config=part(f"{PARTS}.denoiser_weighting.EpsWeighting"),
    scaling_config=part(f"{PARTS}.denoiser_scaling.VideoScaling"),
)  # fmt: skip
SAMPLER = part(
    f"{PARTS}.sampling.VPSDEDPMPP2MSampler", num_steps=STEPS, verbose=False, device="cpu",
    discretization_config=STEPPED,
    guider_config=part(f"{PARTS}.guiders.DynamicCFG", scale=6, exp=5, num_steps=STEPS),
)  # fmt: skip


def opened(folder: Path, count: int = 1) -> Sampler:
    """Imports what is needed from the checkout, with stubs for the rest."""
    sys.path.insert(0, str(folder / "sat"))
    stub_absent("deepspeed", "fsspec", "kornia", "torchvision", "pytorch_lightning", "decord", "imageio", "wandb",
                "beartype", "boto3", "triton", "tensorboardX", "datasets", "webdataset", "scipy",
                "bitsandbytes")  # fmt: skip
    stub("sat.data_utils")
    make = importlib.import_module("sgm.util").instantiate_from_config
    importlib.import_module(f"{PARTS}.sampling")
    args = SimpleNamespace(
        vocab_size=1, max_sequence_length=64, layernorm_order="pre", skip_init=False, model_parallel_size=1,
        is_decoder=False, checkpoint_activations=False, mode="inference", num_layers=4, hidden_size=WIDTH,
        num_attention_heads=2, inner_hidden_size=None, hidden_size_per_attention_head=None,
        cross_num_multi_query_heads=0, num_multi_query_heads=0,
        use_bias=True, use_qkv_bias=False, hidden_dropout=0.0, attention_dropout=0.0,
        drop_path=0.0, bf16=False, fp16=False, is_gated_mlp=False, is_rotary_emb=False, num_experts=1,
        checkpoint_num_layers=1, cross_attn_hidden_size=None, use_final_layernorm=True, layernorm_epsilon=1e-6,
        activation_func="gelu", row_parallel_linear_final_bias=True, parallel_output=True, pp_size=1,
    )  # fmt: skip
    model = make({**NETWORK, "params": {**NETWORK["params"], "transformer_args": args}})
    lively(model)
    wrapper = importlib.import_module(f"{PARTS}.wrappers").OpenAIWrapper(model, compile_model=False)
    denoiser, loop = make(DENOISER), make(SAMPLER)

    def given(which: list[int], *shape: int, seed: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in which])

    def sample(which: list[int]) -> Tensor:
        torch.manual_seed(0)
        texts = [{"crossattn": given(which, WORDS, TEXT, seed=seed)} for seed in (10, 20)]

        def denoise(latents: Tensor, sigma: Tensor, cond: Any, **more: Any) -> Tensor:
            made: Tensor = denoiser(wrapper, latents, sigma, cond, concat_images=None, **more)
            return made

        with torch.no_grad():
            made: Tensor = loop(denoise, given(which, 2, 4, 4, 4, seed=0), texts[0], uc=texts[1], scale=None)
        return made

    alone = tuple(Sampler(model, partial(sample, [i]), STEPS, ("call0",)) for i in range(count))
    return alone[0] if count == 1 else Sampler(model, lambda: sample([0, 1]), STEPS, ("call0",) * count, alone=alone)


CASES = (
    Case("cogvideo-sat", "THUDM/CogVideo", "dit_video_concat.DiffusionTransformer", "VPSDEDPMPP2MSampler", opened,
         "deepspeed, text encoder, VAE"),
)  # fmt: skip
