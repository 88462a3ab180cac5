"""Cosmos 1, Predict 2, Predict 2.5 and Cosmos 3."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCosmos,
    Cosmos2TextToImagePipeline,
    Cosmos2VideoToWorldPipeline,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    CosmosVideoToWorldPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

from tests import newer
from tests.newer import (
    Cosmos2_5_PredictBasePipeline,
    Cosmos2_5_TransferPipeline,
    Cosmos3OmniPipeline,
    Cosmos3OmniTransformer,
)
from tests.tiny import wan_vae
from tests.zoo.kinds import Model, Pipeline, noise, seeded


def cosmos_transformer(channels: int = 4, **changes: Any) -> Any:
    config = {
        "in_channels": channels,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 4,
        "mlp_ratio": 2,
        "text_embed_dim": 16,
        "adaln_lora_dim": 4,
        "max_size": (4, 32, 32),
        "patch_size": (1, 2, 2),
        "rope_scale": (2.0, 1.0, 1.0),
        "concat_padding_mask": False,  # it would need torchvision, which the tests do without
        "extra_pos_embed_type": "learnable",
    }
    return seeded(lambda: newer.made(CosmosTransformer3DModel, **{**config, **changes}))


def _inputs(timestep: Tensor) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 4, 2, 4, 4),
        "timestep": timestep,
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "fps": 30,
        "padding_mask": torch.zeros(1, 1, 32, 32),
    }


def _mask() -> Tensor:
    """Which frames are given, [1, 1, frames, 1, 1]: the first."""
    return torch.tensor([1.0, 0.0]).view(1, 1, 2, 1, 1)


def _with_mask(share: float) -> dict[str, Any]:
    """Predict 2 and 2.5: sigma / (sigma + 1) per frame, and next to nothing for the given one."""
    time = torch.full((1, 1, 2, 1, 1), 1 - share)
    return {
        **_inputs(_mask() * 1e-4 + (1 - _mask()) * time),
        "condition_mask": _mask().expand(1, 1, 2, 4, 4),
    }


def cosmos3_transformer(**changes: Any) -> Any:
    config = {
        "head_dim": 12,
        "hidden_size": 24,
        "intermediate_size": 32,
        "latent_channel": 4,
        "latent_patch_size": 2,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "patch_latent_dim": 16,
        "rope_axes_dim": (2, 2, 2),
        "vocab_size": 32,
    }
    return seeded(lambda: Cosmos3OmniTransformer(**{**config, **changes}))


_TEXT, _TOKENS = 5, 8  # text tokens, then two frames of 2 x 2 patches


def _packed(share: float) -> dict[str, Any]:
    return {
        "input_ids": torch.arange(_TEXT),
        "text_indexes": torch.arange(_TEXT),
        "position_ids": torch.arange(_TEXT + _TOKENS).float().expand(3, -1),
        "und_len": _TEXT,
        "sequence_length": _TEXT + _TOKENS,
        "vision_tokens": [noise(1, 4, 2, 4, 4)],
        "vision_token_shapes": [(2, 2, 2)],
        "vision_sequence_indexes": torch.arange(_TEXT, _TEXT + _TOKENS),
        "vision_mse_loss_indexes": torch.arange(_TEXT, _TEXT + _TOKENS),
        "vision_timesteps": torch.full((_TOKENS,), 1000 * (1 - share)),
        "vision_noisy_frame_indexes": [torch.arange(2)],
    }


def _packed_after_an_image(share: float) -> dict[str, Any]:
    """The first frame is given: only the tokens of the second have a time and are read."""
    return {
        **_packed(share),
        "vision_mse_loss_indexes": torch.arange(_TEXT + 4, _TEXT + _TOKENS),
        "vision_timesteps": torch.full((4,), 1000 * (1 - share)),
        "vision_noisy_frame_indexes": [torch.tensor([1])],
    }


def _packed_with_sound(share: float) -> dict[str, Any]:
    end = _TEXT + _TOKENS
    return {
        **_packed(share),
        "position_ids": torch.arange(end + 3).float().expand(3, -1),
        "sequence_length": end + 3,
        "sound_tokens": [noise(6, 3, seed=2)],
        "sound_token_shapes": [(3, 1, 1)],
        "sound_sequence_indexes": torch.arange(end, end + 3),
        "sound_mse_loss_indexes": torch.arange(end, end + 3),
        "sound_timesteps": torch.full((3,), 1000 * (1 - share)),
        "sound_noisy_frame_indexes": [torch.arange(3)],
    }


MODELS = (
    # Cosmos 1 names the time by its logarithm: a quarter of ln sigma, here from 80 to 0.002
    Model(
        "CosmosTransformer3DModel 1",
        cosmos_transformer,
        lambda share: _inputs(0.25 * torch.tensor([(1 - share) * math.log(80) + share * math.log(0.002)])),
        guidance="separate",
    ),
    Model(
        "CosmosTransformer3DModel 2 T2I",
        lambda: cosmos_transformer(extra_pos_embed_type=None),
        lambda share: {**_inputs(torch.tensor([1 - share])), "hidden_states": noise(1, 4, 1, 4, 4), "fps": None},
        guidance="separate",
    ),
    Model("CosmosTransformer3DModel 2 V2W", lambda: cosmos_transformer(5), _with_mask, guidance="separate"),
    Model(
        "CosmosTransformer3DModel 2.5",
        lambda: cosmos_transformer(
            5,
            extra_pos_embed_type=None,
            use_crossattn_projection=True,
            crossattn_proj_in_channels=24,
            encoder_hidden_states_channels=16,
        ),
        lambda share: {**_with_mask(share), "encoder_hidden_states": noise(1, 6, 24, seed=1), "fps": None},
        guidance="separate",
    ),
    # text and image context as a pair, and a ControlNet's residuals into every second block
    Model(
        "CosmosTransformer3DModel 2.5 transfer",
        lambda: cosmos_transformer(
            5, img_context_dim_in=8, img_context_num_tokens=3, img_context_dim_out=32, controlnet_block_every_n=2
        ),
        lambda share: {
            **_with_mask(share),
            "encoder_hidden_states": (noise(1, 6, 16, seed=1), noise(1, 3, 8, seed=2)),
            "block_controlnet_hidden_states": [noise(1, 8, 32, seed=3), noise(1, 8, 32, seed=4)],
        },
        guidance="separate",
    ),
    Model("Cosmos3OmniTransformer", cosmos3_transformer, _packed, guidance="separate"),
    Model("Cosmos3OmniTransformer I2V", cosmos3_transformer, _packed_after_an_image, guidance="separate"),
    Model(
        "Cosmos3OmniTransformer sound",
        lambda: cosmos3_transformer(sound_gen=True, sound_dim=6),
        _packed_with_sound,
        guidance="separate",
    ),
)


class Harmless(nn.Module):
    """In the place of Cosmos' guardrail, which is large: finds nothing wrong."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, text: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def cosmos1(pipeline: type, channels: int) -> Any:
    """Cosmos 1: an EDM scheduler, whose `step` the pipeline calls twice per step."""
    vae = seeded(
        lambda: AutoencoderKLCosmos(
            latent_channels=4,
            encoder_block_out_channels=(8, 8, 8, 8),
            decode_block_out_channels=(8, 8, 8, 8),
            attention_resolutions=(8,),
            resolution=64,
            num_layers=1,
            patch_size=4,
            spatial_compression_ratio=4,
            temporal_compression_ratio=4,
            latents_mean=None,
            latents_std=None,
        )
    )
    scheduler = EDMEulerScheduler(
        sigma_min=0.002,
        sigma_max=80,
        sigma_data=0.5,
        sigma_schedule="karras",
        prediction_type="epsilon",
        final_sigmas_type="sigma_min",
    )
    return pipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=cosmos_transformer(channels),
        vae=vae,
        scheduler=scheduler,
        safety_checker=Harmless(),
    )


def cosmos2(pipeline: type, channels: int, scheduler: Any = None) -> Any:
    return pipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=cosmos_transformer(channels, extra_pos_embed_type=None),
        vae=wan_vae(),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=Harmless(),
    )


class Control(nn.Module):
    """In the place of Cosmos' ControlNet, which would need torchvision: residuals for two blocks."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, latents: Tensor, **given: Any) -> tuple[list[Tensor]]:
        frames, height, width = latents.shape[2:]
        tokens = frames * height * width // 4
        mean = given["encoder_hidden_states"].mean()
        return ([mean * noise(1, tokens, 32, seed=8), mean * noise(1, tokens, 32, seed=9)],)


def transfer() -> Cosmos2_5_TransferPipeline:
    return Cosmos2_5_TransferPipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=cosmos_transformer(5, controlnet_block_every_n=2, max_size=(16, 32, 32)),
        vae=wan_vae(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        controlnet=Control(),
        safety_checker=Harmless(),
    )


class Letters:
    """In the place of a tokenizer: a token for each letter."""

    eos_token_id = 30

    def convert_tokens_to_ids(self, token: str) -> int:
        return 31

    def apply_chat_template(self, conversations: list[dict[str, str]], **how: Any) -> Any:
        return SimpleNamespace(input_ids=[ord(letter) % 30 for letter in conversations[-1]["content"]])


def cosmos3() -> Cosmos3OmniPipeline:
    return Cosmos3OmniPipeline(
        transformer=cosmos3_transformer(),
        text_tokenizer=Letters(),
        vae=wan_vae(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        enable_safety_checker=False,
    )


_CALL = {
    "height": 32,
    "width": 32,
    "guidance_scale": 7.0,
    "prompt_embeds": noise(1, 6, 16, seed=1),
    "negative_prompt_embeds": noise(1, 6, 16, seed=2),
}
_FILM = {**_CALL, "num_frames": 9}
_PICTURE = noise(1, 3, 32, 32, seed=5).clamp(-1, 1)
_TWICE = ("call0", "call1")

PIPELINES = (
    Pipeline("CosmosTextToWorldPipeline", lambda: cosmos1(CosmosTextToWorldPipeline, 4), _FILM, _TWICE),
    Pipeline(
        "CosmosVideoToWorldPipeline",
        lambda: cosmos1(CosmosVideoToWorldPipeline, 5),
        {**_FILM, "image": _PICTURE},
        _TWICE,
    ),
    Pipeline("Cosmos2TextToImagePipeline", lambda: cosmos2(Cosmos2TextToImagePipeline, 4), _CALL, _TWICE),
    Pipeline(
        "Cosmos2VideoToWorldPipeline",
        lambda: cosmos2(Cosmos2VideoToWorldPipeline, 5),
        {**_FILM, "image": _PICTURE},
        _TWICE,
    ),
    Pipeline(
        "Cosmos2_5_PredictBasePipeline",
        lambda: cosmos2(
            Cosmos2_5_PredictBasePipeline,
            5,
            UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, use_karras_sigmas=False
            ),
        ),
        _FILM,
        _TWICE,
    ),
    # from a video: its frames have the time 0.1, above that of the others in the last steps
    Pipeline(
        "Cosmos2_5_PredictBasePipeline V2W",
        lambda: cosmos2(
            Cosmos2_5_PredictBasePipeline,
            5,
            UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0),
        ),
        {
            **_FILM,
            "video": noise(5, 3, 32, 32, seed=5).sigmoid(),
            "num_latent_conditional_frames": 1,
            "conditional_frame_timestep": 0.1,
            "num_inference_steps": 30,
        },
        _TWICE,
    ),
    # chunk after chunk, each with the end of the one before: a run for each
    Pipeline(
        "Cosmos2_5_TransferPipeline",
        transfer,
        {
            "controls": [noise(17, 3, 32, 32, seed=5).sigmoid()],
            "height": 32,
            "width": 32,
            "num_frames_per_chunk": 9,
            "guidance_scale": 3.0,
            "prompt_embeds": noise(1, 6, 16, seed=1),
            "negative_prompt_embeds": noise(1, 6, 16, seed=2),
        },
        _TWICE,
        loops=2,
    ),
    # the prompts differ in length, so both branches are packed to other shapes
    Pipeline(
        "Cosmos3OmniPipeline",
        cosmos3,
        {
            "height": 32,
            "width": 32,
            "num_frames": 5,
            "guidance_scale": 6.0,
            "prompt": "red",
            "negative_prompt": "green",
            "use_system_prompt": False,
            "add_resolution_template": False,
            "add_duration_template": False,
        },
    ),
)
