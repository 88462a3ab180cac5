"""ComfyUI's own classes: the rows fit them, and those without blocks in a row are known as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import bwcache
from bwcache.comfy.rows import row_of
from bwcache.comfy.sampling import Settings, cached
from bwcache.errors import BWCacheError
from tests.comfy.comfyui import Sample, made, needs_comfyui, text, wan, witnessed

pytestmark = [needs_comfyui, pytest.mark.filterwarnings("ignore::UserWarning:comfy")]

BLOCKS, CLEAN = bwcache.FixedInterval(interval=3, warmup=1, tail=1), bwcache.Planned(0.1)


@dataclass
class Tiny:
    """A model: how it is made, the latents, and what its prompts are.

    Attributes:
        kind: a class of `comfy.supported_models`; empty: Wan, by detection.
        blocks: the path of its blocks.
        named: whether its blocks have a row.
        clean: whether its prediction is one that is known.
    """

    kind: str
    config: dict[str, Any]
    shape: tuple[int, ...]
    width: int
    blocks: str
    named: bool = True
    clean: bool = True
    prompt: dict[str, Any] = field(default_factory=dict)
    needs: str = ""

    def model(self) -> Any:
        return made(self.kind, dict(self.config)) if self.kind else wan()

    def sample(self) -> Sample:
        more = {name: value() if callable(value) else value for name, value in self.prompt.items()}
        positive, negative = (text(seed, width=self.width, **more) for seed in (1, 2))
        return Sample(positive=positive, negative=negative, shape=self.shape)


DUAL = {"mlp_ratio": 2.0, "num_heads": 1, "hidden_size": 128, "depth": 2, "depth_single_blocks": 2, "qkv_bias": True}
HUNYUAN = {
    **DUAL,
    **{"image_model": "hunyuan_video", "in_channels": 16, "patch_size": [1, 2, 2], "out_channels": 16, "theta": 256},
    **{"vec_in_dim": 768, "axes_dim": [16, 56, 56], "context_in_dim": 64, "guidance_embed": False},
    **{
        "meanflow": False,
        "byt5": False,
        "use_cond_type_embedding": False,
        "vision_in_dim": None,
        "meanflow_sum": False,
    },
}
FLUX = {
    **DUAL,
    **{"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 768},
    **{"context_in_dim": 64, "axes_dim": [16, 56, 56], "theta": 10000, "guidance_embed": False, "txt_ids_dims": []},
}
LTXV = {"image_model": "ltxv", "num_layers": 3, "cross_attention_dim": 128, "caption_channels": 64}
LTXV |= {"num_attention_heads": 2, "attention_head_dim": 64, "in_channels": 16}
MOCHI = {
    **{"image_model": "mochi_preview", "depth": 3, "patch_size": 2, "num_heads": 1, "hidden_size_x": 128},
    **{"hidden_size_y": 64, "mlp_ratio_x": 96.0, "mlp_ratio_y": 4.0, "learn_sigma": False, "in_channels": 12},
    **{"qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "patch_embed_bias": True},
    **{"posenc_preserve_area": True, "timestep_mlp_bias": True, "attend_to_padding": False, "timestep_scale": 1000.0},
    **{"use_t5": True, "t5_feat_dim": 64, "t5_token_length": 12, "rope_theta": 10000.0},
}
ROPE = {"rope_h_extrapolation_ratio": 1.0, "rope_w_extrapolation_ratio": 1.0, "rope_t_extrapolation_ratio": 1.0}
COSMOS = {
    **{"max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16},
    **{"patch_spatial": 2, "patch_temporal": 1, "model_channels": 128, "concat_padding_mask": True},
    **{"pos_emb_cls": "rope3d", "pos_emb_learnable": False, "pos_emb_interpolation": "crop", "num_blocks": 3},
    **{"num_heads": 1, "use_adaln_lora": True, "adaln_lora_dim": 16, "crossattn_emb_channels": 64},
    **{"extra_per_block_abs_pos_emb": False, **ROPE},
}
COSMOS_1 = {"image_model": "cosmos", "block_config": "FA-CA-MLP", "block_x_format": "THWBD", "affline_emb_norm": True}
COSMOS_1 |= {"extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable"}
COSMOS_2 = {"image_model": "cosmos_predict2", "min_fps": 1, "max_fps": 30}
KANDINSKY = {
    **{"image_model": "kandinsky5", "model_dim": 64, "axes_dims": (16, 24, 24), "time_dim": 64, "ff_dim": 128},
    **{"visual_embed_dim": 132, "num_text_blocks": 1, "num_visual_blocks": 3, "in_text_dim": 64, "in_text_dim2": 768},
}
QWEN = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 3, "num_attention_heads": 1}
LUMINA = {
    **{"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 96, "cap_feat_dim": 64, "n_layers": 3},
    **{"qk_norm": True, "n_heads": 1, "n_kv_heads": 1, "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512]},
    **{"rope_theta": 10000.0, "ffn_dim_multiplier": 1.0},
}
SD3 = {"in_channels": 16, "patch_size": 2, "depth": 2, "adm_in_channels": 64, "context_embedder_config": None}
SD3 |= {
    "pos_embed_max_size": 16,
    "pos_embed_scaling_factor": None,
    "qk_norm": None,
    "input_size": None,
    "num_patches": 256,
}
UNET = {
    **{"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1]},
    **{"channel_mult": [1, 2], "num_head_channels": 32, "use_spatial_transformer": True, "context_dim": 768},
    **{"transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1},
    **{"use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False, "legacy": False},
}


def pooled(size: int) -> Any:
    return lambda: {"pooled_output": torch.randn(1, size, generator=torch.Generator().manual_seed(9))}["pooled_output"]


MASK = {"attention_mask": lambda: torch.ones(1, 12, dtype=torch.long)}
FRAMES, STILL = (1, 16, 2, 8, 8), (1, 16, 8, 8)
TINY = {
    "Wan": Tiny("", {}, FRAMES, 4096, "blocks"),
    "HunyuanVideo": Tiny("HunyuanVideo", HUNYUAN, FRAMES, 64, "single_blocks", prompt={"pooled_output": pooled(768)}),
    "Flux": Tiny("Flux", FLUX, STILL, 64, "single_blocks", prompt={"pooled_output": pooled(768)}),
    "LTXV": Tiny("LTXV", LTXV, FRAMES, 64, "transformer_blocks", prompt={"frame_rate": 25, **MASK}),
    "Mochi": Tiny("GenmoMochi", MOCHI, (1, 12, 2, 8, 8), 64, "blocks", prompt={**MASK, "num_tokens": 12}),
    "Cosmos 1": Tiny("CosmosT2V", {**COSMOS, **COSMOS_1}, FRAMES, 64, "blocks", clean=False),
    "Cosmos Predict 2": Tiny("CosmosT2IPredict2", {**COSMOS, **COSMOS_2}, FRAMES, 64, "blocks"),
    "Kandinsky 5": Tiny(
        "Kandinsky5", KANDINSKY, FRAMES, 64, "visual_transformer_blocks", prompt={"pooled_output": pooled(768)},
        needs="kandinsky5",
    ),
    "Qwen-Image": Tiny("QwenImage", QWEN, (1, 16, 1, 8, 8), 3584, "transformer_blocks"),
    "Lumina 2": Tiny("Lumina2", LUMINA, STILL, 64, "layers", prompt={"num_tokens": 12, **MASK}),
    "Stable Diffusion 3": Tiny(
        "SD3", SD3, STILL, 128, "joint_blocks", named=False, prompt={"pooled_output": pooled(64)}
    ),
    "Stable Diffusion 1.5": Tiny("SD15", UNET, (1, 4, 8, 8), 768, "out", named=False),
}  # fmt: skip


def last_block(tiny: Tiny) -> Any:
    def find(module: Any) -> torch.nn.Module:
        blocks = list(getattr(module, tiny.blocks).children())
        found: torch.nn.Module = blocks[-1]
        return found

    return find


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("policy", [BLOCKS, CLEAN], ids=["blocks", "clean"])
def test_a_model_is_reused_and_nothing_of_it_is_stale(name: str, policy: Any) -> None:
    tiny = TINY[name]
    if tiny.needs:
        pytest.importorskip(f"comfy.ldm.{tiny.needs}.model", reason="this ComfyUI does not have it yet")
    model, sample = tiny.model(), tiny.sample()
    plain = sample.of(model)
    fits = tiny.clean if policy is CLEAN else tiny.named
    if not fits:
        with pytest.raises(BWCacheError, match="expected"):
            cached(model, Settings(policy))
        return
    with witnessed(model, last_block(tiny)) as (seen, witness):
        never, _ = cached(seen, Settings(bwcache.NeverReuse() if tiny.named else bwcache.Planned(0)))
        assert torch.equal(sample.of(never), plain)
        witness.forwards.clear()
        clone, runs = cached(seen, Settings(policy))
        out = sample.of(clone)
    trace = runs.traces[-1]
    assert torch.isfinite(out).all()
    assert not runs.notes[-1]
    assert not witness.stale()
    computed = {event.step for event in trace.events if event.action == "compute"}
    assert len(set(witness.computed)) == len(computed) < trace.steps == 8
    assert torch.equal(sample.of(model), plain)


def test_picture_and_sound_in_one_list_are_refused() -> None:
    class LTXAVModel(torch.nn.Module):
        def forward(self, x: Any, timestep: Any) -> Any:
            return x

    with pytest.raises(BWCacheError, match="LTXAVModel, whose latents are picture and sound in one list"):
        row_of(LTXAVModel())
