"""ComfyUI's own classes: the rows fit them, and those without blocks in a row are known as a whole."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bwcache
from bwcache.comfy.plans import digest
from bwcache.comfy.recorder import Recorder
from bwcache.comfy.rows import row_of
from bwcache.comfy.sampling import Settings, cached
from bwcache.errors import BWCacheError
from tests.comfy.comfyui import Sample, comfy, made, needs_comfyui, text, wan, witnessed

pytestmark = [needs_comfyui, pytest.mark.filterwarnings("ignore::UserWarning:comfy")]

BLOCKS, CLEAN = bwcache.FixedInterval(interval=3, warmup=1, tail=1), bwcache.Planned(0.1)


@dataclass
class Tiny:
    """A model: how it is made, the latents, and what its prompts are.

    Attributes:
        kind: a class of `comfy.supported_models`; empty: Wan, by detection.
        sound: the latents of its sound, if it makes that.
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
    sound: tuple[int, ...] | None = None

    def model(self) -> Any:
        comfy()
        if self.kind and not hasattr(importlib.import_module("comfy.supported_models"), self.kind):
            pytest.skip(f"this ComfyUI does not have {self.kind} yet")
        return made(self.kind, dict(self.config)) if self.kind else wan()

    def sample(self) -> Sample:
        more = {name: value() if callable(value) else value for name, value in self.prompt.items()}
        positive, negative = (text(seed, width=self.width, **more) for seed in (1, 2))
        return Sample(positive=positive, negative=negative, shape=self.shape, sound=self.sound)


FRAMES, STILL = (1, 16, 2, 8, 8), (1, 16, 8, 8)
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
LTX_2 = {
    **LTXV,
    **{"image_model": "ltxav", "audio_num_attention_heads": 2, "audio_attention_head_dim": 16},
    **{"audio_cross_attention_dim": 32, "connector_num_layers": 1, "connector_num_attention_heads": 1},
    **{"connector_attention_head_dim": 32, "audio_connector_num_attention_heads": 1},
}
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


WAN = {"image_model": "wan2.1", "dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 3, "text_dim": 64}
WAN |= {"freq_dim": 256, "in_dim": 16, "out_dim": 16}
HUNYUAN_15 = {**HUNYUAN, "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None}
HUNYUAN_15 |= {"use_cond_type_embedding": True, "vision_in_dim": 64, "depth_single_blocks": 0}
CHROMA = {name: value for name, value in FLUX.items() if name != "guidance_embed"}
CHROMA |= {"image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 128}
CHROMA |= {"hidden_dim": 64, "n_layers": 2, "vec_in_dim": None}
FLUX_2 = {**FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1, "vec_in_dim": None}
FLUX_2 |= {"axes_dim": [32, 32, 32, 32], "txt_ids_dims": [3], "global_modulation": True, "mlp_silu_act": True}
FLUX_2 |= {"qkv_bias": False, "ops_bias": False, "mlp_ratio": 3.0, "theta": 2000}
Z_IMAGE = {**LUMINA, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32, "dim": 256}
Z_IMAGE |= {"n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48]}


def pooled(size: int) -> Any:
    return lambda: {"pooled_output": torch.randn(1, size, generator=torch.Generator().manual_seed(9))}["pooled_output"]


def drawn(*shape: int) -> Any:
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def wan_of(kind: str, model_type: str, config: dict[str, Any], **prompt: Any) -> Tiny:
    """One of the models that derive from Wan."""
    return Tiny(kind, {**WAN, "model_type": model_type, **config}, FRAMES, 64, "blocks", prompt=prompt)


MASK = {"attention_mask": lambda: torch.ones(1, 12, dtype=torch.long)}
TINY = {
    "Wan": Tiny("", {}, FRAMES, 4096, "blocks"),
    "Wan 2.2 5B": Tiny(
        "WAN22_T2V", {**WAN, "model_type": "t2v", "in_dim": 48, "out_dim": 48}, (1, 48, 2, 8, 8), 64, "blocks"
    ),
    "Wan from a picture": wan_of("WAN21_I2V", "i2v", {"in_dim": 36}, concat_latent_image=drawn(*FRAMES)),
    "Wan Camera": wan_of("WAN21_Camera", "camera", {}, camera_conditions=drawn(1, 24, 2, 64, 64)),
    "Wan S2V": wan_of(
        "WAN22_S2V", "s2v", {"num_layers": 5, "audio_dim": 32, "audio_inject_layers": [0, 4]},
        audio_embed=drawn(1, 25, 32, 8),
    ),
    "Wan HuMo": wan_of("WAN21_HuMo", "humo", {"in_dim": 36}, audio_embed=drawn(1, 2, 8, 5, 1280)),
    "Wan SCAIL": wan_of("WAN21_SCAIL", "scail", {"in_dim": 20}, pose_video_latent=drawn(1, 16, 2, 4, 4)),
    "Wan Animate": wan_of(
        "WAN22_Animate", "animate", {"in_dim": 36, "num_layers": 5}, pose_video_latent=drawn(*FRAMES)
    ),
    "HunyuanVideo": Tiny("HunyuanVideo", HUNYUAN, FRAMES, 64, "single_blocks", prompt={"pooled_output": pooled(768)}),
    "HunyuanVideo 1.5": Tiny(
        "HunyuanVideo15", HUNYUAN_15, (1, 32, 2, 8, 8), 64, "double_blocks", prompt={"pooled_output": pooled(768)}
    ),
    "Chroma": Tiny("Chroma", CHROMA, STILL, 64, "single_blocks", prompt={"pooled_output": pooled(768)}),
    "Flux 2": Tiny("Flux2", FLUX_2, (1, 128, 8, 8), 64, "single_blocks", prompt={"pooled_output": pooled(768)}),
    "Flux": Tiny("Flux", FLUX, STILL, 64, "single_blocks", prompt={"pooled_output": pooled(768)}),
    "LTXV": Tiny("LTXV", LTXV, FRAMES, 64, "transformer_blocks", prompt={"frame_rate": 25, **MASK}),
    "LTX-2": Tiny(
        "LTXAV", LTX_2, FRAMES, 128, "transformer_blocks", prompt={"frame_rate": 25},
        sound=(1, 8, 4, 16),
    ),
    "Mochi": Tiny("GenmoMochi", MOCHI, (1, 12, 2, 8, 8), 64, "blocks", prompt={**MASK, "num_tokens": 12}),
    "Cosmos 1": Tiny("CosmosT2V", {**COSMOS, **COSMOS_1}, FRAMES, 64, "blocks", clean=False),
    "Cosmos Predict 2": Tiny("CosmosT2IPredict2", {**COSMOS, **COSMOS_2}, FRAMES, 64, "blocks"),
    "Kandinsky 5": Tiny(
        "Kandinsky5", KANDINSKY, FRAMES, 64, "visual_transformer_blocks", prompt={"pooled_output": pooled(768)},
    ),
    "Qwen-Image": Tiny("QwenImage", QWEN, (1, 16, 1, 8, 8), 3584, "transformer_blocks"),
    "Lumina 2": Tiny("Lumina2", LUMINA, STILL, 64, "layers", prompt={"num_tokens": 12, **MASK}),
    "Z-Image": Tiny("ZImage", Z_IMAGE, STILL, 64, "layers", prompt={"num_tokens": 12, **MASK}),
    "Anima": Tiny("Anima", {**COSMOS, **COSMOS_2, "image_model": "anima"}, FRAMES, 64, "blocks"),
    "Stable Diffusion 3": Tiny(
        "SD3", SD3, STILL, 128, "joint_blocks", named=False, prompt={"pooled_output": pooled(64)}
    ),
    "Stable Diffusion 1.5": Tiny("SD15", UNET, (1, 4, 8, 8), 768, "out", named=False),
}  # fmt: skip


@dataclass(frozen=True)
class Parts(bwcache.FixedInterval):
    """Replays each part of the blocks by itself."""

    def sites(self, stack: bwcache.BlockStack) -> tuple[bwcache.Site, ...]:
        return tuple(stack.site(part) for part in stack.parts())


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


@pytest.mark.parametrize("name", [name for name, tiny in TINY.items() if tiny.named])
def test_what_is_kept_of_the_blocks_is_all_that_the_rest_reads(name: str) -> None:
    """A forward that replays the blocks of the same forward returns the same, bit for bit."""
    tiny = TINY[name]
    model = tiny.model()
    module = model.model.diffusion_model
    forwards: list[Any] = []
    hook = module.register_forward_pre_hook(lambda _, *given: forwards.append(given), with_kwargs=True)
    replace(tiny.sample(), steps=2, cfg=1.0).of(model)
    hook.remove()
    ran: list[Any] = []
    last_block(tiny)(module).register_forward_pre_hook(lambda *given: ran.append(given))
    args, kwargs = forwards[0]
    for policy in (bwcache.FixedInterval(interval=3, warmup=1, tail=1), Parts(interval=3, warmup=1, tail=1)):
        if isinstance(policy, Parts) and not any(part.parts for part in row_of(module).lists):
            continue
        ran.clear()
        with bwcache.attach(module, policy, spec=row_of(module), per_sample=False) as session, torch.inference_mode():
            made = []
            for index in range(3):
                with session.step(index=index, total=8, branch="cond"):
                    made.append(module(*args, **kwargs))
        assert session.trace.reuse_rate > 0.6
        assert len(ran) == (3 if isinstance(policy, Parts) else 1)
        for other in made[1:]:
            pairs = zip(made[0], other, strict=True) if isinstance(other, list) else [(made[0], other)]
            assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", [name for name in TINY if name.startswith("Wan")])
@pytest.mark.parametrize("method", [bwcache.PyramidAttentionBroadcast, bwcache.TaylorSeer, bwcache.FasterCache])
def test_methods_on_parts_of_blocks(name: str, method: Any) -> None:
    tiny = TINY[name]
    model, sample = tiny.model(), replace(tiny.sample(), steps=12)
    plain = sample.of(model)
    clone, runs = cached(model, Settings(method()))
    assert torch.isfinite(sample.of(clone)).all()
    assert not runs.notes[-1]
    assert runs.traces[-1].reuse_rate > 0
    assert {event.branch for event in runs.traces[-1].events} == {"cond", "uncond"}
    assert torch.equal(sample.of(model), plain)


@pytest.mark.parametrize("how", ["alone", "in a batch", "with a mask"])
def test_picture_and_sound_are_reused_and_looked_ahead_together(how: str) -> None:
    tiny = TINY["LTX-2"]
    model, sample = tiny.model(), replace(tiny.sample(), steps=16)
    nested = importlib.import_module("comfy.nested_tensor").NestedTensor
    more: dict[str, Any] = {}
    if how == "in a batch":
        assert sample.sound is not None
        sample = replace(sample, shape=(2, *sample.shape[1:]), sound=(2, *sample.sound[1:]))
    if how == "with a mask":
        first_frame = torch.ones(1, 1, 2, 8, 8)
        first_frame[:, :, 0] = 0
        more["noise_mask"] = nested([first_frame, torch.ones(1, 1, 4, 16)])
    plain = sample.of(model, **more)
    with witnessed(model, last_block(tiny)) as (seen, witness):
        assert torch.equal(sample.of(cached(seen, Settings(bwcache.Planned(0)))[0], **more), plain)
        for policy in (BLOCKS, bwcache.Planned(0.02, ahead=0.5)):
            witness.forwards.clear()
            clone, runs = cached(seen, Settings(policy))
            assert torch.isfinite(sample.of(clone, **more)).all()
            assert not witness.stale()
            assert 0 < len(set(witness.computed)) < 16
    ahead = [event for event in runs.traces[-1].events if event.evaluated_at is not None]
    in_place = [
        event for event in runs.traces[-1].events if "denoise_mask belongs to the latents of now" in event.reason
    ]
    assert bool(ahead) != bool(in_place)
    assert bool(in_place) == (how == "with a mask")  # whose masked tokens have a time of their own


def test_a_plan_of_picture_and_sound_is_recorded_and_proved_by_the_picture() -> None:
    tiny = TINY["LTX-2"]
    model, recorder = tiny.model(), Recorder()
    tiny.sample().of(recorder.on(model))
    found = recorder.found()
    assert len(found.shares) == 9
    host = importlib.import_module("bwcache.comfy.host")
    nested = importlib.import_module("comfy.nested_tensor").NestedTensor
    picture, sound = torch.rand(1, 3, 4, 8, 8), torch.rand(1, 8, 4, 16)
    vae = SimpleNamespace(decode=lambda latents: latents.permute(0, 2, 3, 4, 1))
    assert torch.equal(torch.as_tensor(host.decoded(vae, nested([picture, sound]))), picture[0].permute(1, 2, 3, 0))
    sums = {digest(nested([picture, sound])), digest(nested([picture, sound + 1])), digest(nested([picture]))}
    assert len(sums) == 3
