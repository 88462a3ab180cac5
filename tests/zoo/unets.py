"""U-Nets: SVD, AnimateDiff, Stable Diffusion, ModelScope's text-to-video and I2VGen-XL."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffVideoToVideoPipeline,
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    ControlNetModel,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    I2VGenXLPipeline,
    I2VGenXLUNet,
    Kandinsky3Img2ImgPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    MotionAdapter,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    UNet3DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
    VQModel,
)
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.newer import (
    DreamLiteUNetModel,
)
from tests.zoo.kinds import Model, Pipeline, noise, seeded, without_zeros

_WIDTHS = (8, 8, 8)

_SMALL: dict[str, Any] = {"block_out_channels": _WIDTHS, "layers_per_block": 1, "sample_size": 8}


def _blocks(kind: str) -> dict[str, tuple[str, ...]]:
    """Three down and three up, one of them without attention, of one family of blocks."""
    return {
        "down_block_types": (f"CrossAttnDownBlock{kind}", f"CrossAttnDownBlock{kind}", f"DownBlock{kind}"),
        "up_block_types": (f"UpBlock{kind}", f"CrossAttnUpBlock{kind}", f"CrossAttnUpBlock{kind}"),
    }


def svd_unet() -> UNetSpatioTemporalConditionModel:
    return seeded(
        lambda: UNetSpatioTemporalConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=4,
            block_out_channels=(64, 64, 64),  # norms of 32 groups: of one channel each they would take the time out
            layers_per_block=1,
            num_attention_heads=(2, 2, 2),
            cross_attention_dim=8,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
            **_blocks("SpatioTemporal"),
        )
    )


def motion_unet(**config: Any) -> UNetMotionModel:
    return seeded(
        lambda: UNetMotionModel(
            in_channels=4,
            out_channels=4,
            cross_attention_dim=8,
            num_attention_heads=2,
            motion_num_attention_heads=2,
            motion_max_seq_length=32,
            norm_num_groups=2,
            **{**_SMALL, **_blocks("Motion"), **config},
        )
    )


def sd_unet(**config: Any) -> UNet2DConditionModel:
    return seeded(
        lambda: UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=2,
            **{**_SMALL, **_blocks("2D"), **config},
        )
    )


def sdxl_unet() -> UNet2DConditionModel:
    return sd_unet(
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2, 2),
        projection_class_embeddings_input_dim=56,
    )


def dreamlite_unet() -> DreamLiteUNetModel:
    """A UNet2DConditionModel with blocks of its own."""
    return seeded(
        lambda: DreamLiteUNetModel(
            cross_attention_dim=8, attention_head_dim=2, norm_num_groups=2, transformer_layers_per_block=1, **_SMALL
        )
    )


def text_to_video_unet() -> UNet3DConditionModel:
    return seeded(
        lambda: UNet3DConditionModel(
            in_channels=4, out_channels=4, cross_attention_dim=8, attention_head_dim=4, norm_num_groups=2,
            **{**_SMALL, **_blocks("3D")}
        )
    )  # fmt: skip


def i2vgen_unet() -> I2VGenXLUNet:
    return seeded(
        lambda: I2VGenXLUNet(
            in_channels=4, out_channels=4, cross_attention_dim=8, num_attention_heads=2, attention_head_dim=4,
            norm_num_groups=2, **{**_SMALL, **_blocks("3D")}
        )
    )  # fmt: skip


def small_unet() -> UNet2DModel:
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return seeded(
        lambda: UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=2,
            attention_head_dim=4,
            **blocks,
        )
    )


def kandinsky3_unet() -> Kandinsky3UNet:
    return without_zeros(
        lambda: Kandinsky3UNet(
            time_embedding_dim=16,
            groups=2,
            attention_head_dim=4,
            layers_per_block=2,
            block_out_channels=(8, 16, 32, 64),
            cross_attention_dim=8,
            encoder_hid_dim=8,
        ),
        std=0.3,
    )


# Bare denoisers, as the pipelines call them: the time is a scalar tensor, and guidance one batch of two.


def _time(share: float) -> torch.Tensor:
    return torch.tensor(int(1000 * (1 - share)))


def _text(batch: int = 2) -> torch.Tensor:
    return noise(batch, 5, 8, seed=1)


def _svd(share: float, side: int = 8) -> dict[str, Any]:
    """The time is a quarter of the logarithm of sigma: 1.6 down to -1.6."""
    return {
        "sample": noise(2, 3, 8, side, side),
        "timestep": torch.tensor(1.6 - 3.2 * share),
        "encoder_hidden_states": noise(2, 1, 8, seed=1),
        "added_time_ids": torch.tensor([[5.0, 127.0, 0.02]] * 2),
        "return_dict": False,
    }


def _residuals(shapes: tuple[tuple[int, ...], ...]) -> tuple[torch.Tensor, ...]:
    return tuple(noise(*shape, seed=10 + i) for i, shape in enumerate(shapes))


def _skips(batch: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of what the down blocks of these U-Nets hand to the up blocks, on 8 by 8 latents."""
    return tuple((batch, 8, side, side) for side in (8, 8, 4, 4, 2, 2))


def _motion(share: float, controlled: bool = False) -> dict[str, Any]:
    given = {
        "down_block_additional_residuals": _residuals(_skips(6)),
        "mid_block_additional_residual": noise(6, 8, 2, 2, seed=9),
    }
    return {
        "sample": noise(2, 4, 3, 8, 8),
        "timestep": _time(share),
        "encoder_hidden_states": _text().repeat_interleave(3, 0),
        **(given if controlled else {}),
    }


def _sd(share: float, **more: Any) -> dict[str, Any]:
    return {
        "sample": noise(2, 4, 8, 8),
        "timestep": _time(share),
        "encoder_hidden_states": _text(),
        "return_dict": False,
        **more,
    }


def _controlled(share: float) -> dict[str, Any]:
    return _sd(
        share,
        down_block_additional_residuals=_residuals(_skips(2)),
        mid_block_additional_residual=noise(2, 8, 2, 2, seed=9),
    )


def _adapted(share: float) -> dict[str, Any]:
    """A T2I adapter: added in each down block, in place after the one without attention; the list is used up."""
    return _sd(share, down_intrablock_additional_residuals=list(_residuals(((2, 8, 8, 8), (2, 8, 4, 4), (2, 8, 2, 2)))))


def _sdxl(share: float) -> dict[str, Any]:
    size = {"text_embeds": noise(2, 8, seed=2), "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2)}
    return _sd(share, added_cond_kwargs=size)


def _dreamlite(share: float) -> dict[str, Any]:
    """Three branches in one batch, the time as one for each."""
    return {
        **_sd(share),
        "sample": noise(3, 4, 8, 8),
        "timestep": _time(share).expand(3).float(),
        "encoder_hidden_states": _text(3),
    }


def _text_to_video(share: float) -> dict[str, Any]:
    return {**_sd(share), "sample": noise(2, 4, 3, 8, 8)}


def _i2vgen(share: float) -> dict[str, Any]:
    return {
        **_text_to_video(share),
        "fps": torch.tensor([16, 16]),
        "image_latents": noise(2, 4, 3, 8, 8, seed=3),
        "image_embeddings": noise(2, 8, seed=4),
    }


def _kandinsky3(share: float) -> dict[str, Any]:
    return {**_sd(share), "sample": noise(2, 4, 16, 16), "encoder_attention_mask": torch.ones(2, 5)}


def _freeu() -> UNet2DConditionModel:
    unet = sd_unet(block_out_channels=(8, 8, 16))
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return unet


MODELS = (
    Model("UNetSpatioTemporalConditionModel", svd_unet, _svd, "batched"),
    Model("UNetSpatioTemporalConditionModel odd size", svd_unet, lambda share: _svd(share, side=6), "batched"),
    Model("UNetMotionModel", motion_unet, _motion, "batched"),
    Model("UNetMotionModel ControlNet", motion_unet, lambda share: _motion(share, controlled=True), "batched"),
    Model("UNet2DConditionModel", sd_unet, _sd, "batched"),
    Model("UNet2DConditionModel ControlNet", sd_unet, _controlled, "batched"),
    Model("UNet2DConditionModel T2I adapter", sd_unet, _adapted, "batched"),
    Model("UNet2DConditionModel FreeU", _freeu, _sd, "batched"),
    Model("UNet2DConditionModel SDXL", sdxl_unet, _sdxl, "batched"),
    Model("DreamLiteUNetModel", dreamlite_unet, _dreamlite, "batched"),
    Model("UNet3DConditionModel", text_to_video_unet, _text_to_video, "batched"),
    Model("I2VGenXLUNet", i2vgen_unet, _i2vgen, "batched"),
    Model("UNet2DModel", small_unet, lambda share: {"sample": noise(1, 3, 8, 8), "timestep": _time(share)}),
    Model("Kandinsky3UNet", kandinsky3_unet, _kandinsky3, "batched"),
)


# Whole pipelines


def image_vae() -> AutoencoderKL:
    return seeded(
        lambda: AutoencoderKL(
            block_out_channels=(4, 4),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=2,
        )
    )


def image_encoder() -> CLIPVisionModelWithProjection:
    config = {"hidden_size": 8, "projection_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return seeded(
        lambda: CLIPVisionModelWithProjection(
            CLIPVisionConfig(**config, image_size=224, patch_size=112, intermediate_size=8)
        )
    )


def svd() -> StableVideoDiffusionPipeline:
    vae = seeded(
        lambda: AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
        )
    )
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    extractor = CLIPImageProcessor(crop_size=224, size=224)
    return StableVideoDiffusionPipeline(vae, image_encoder(), svd_unet(), scheduler, extractor)


def motion_adapter() -> MotionAdapter:
    return seeded(
        lambda: MotionAdapter(
            block_out_channels=_WIDTHS,
            motion_layers_per_block=1,
            motion_norm_num_groups=2,
            motion_num_attention_heads=2,
        )
    )


NO_TEXT_ENCODER: dict[str, None] = {"text_encoder": None, "tokenizer": None}


def animated() -> dict[str, Any]:
    """U-Net, adapter and the rest; the pipeline itself makes a UNetMotionModel of the first two."""
    return {
        "vae": image_vae(),
        "unet": seeded(lambda: UNetMotionModel.from_unet2d(sd_unet(), motion_adapter())),
        "motion_adapter": motion_adapter(),
        "scheduler": DDIMScheduler(beta_schedule="linear", clip_sample=False),
        **NO_TEXT_ENCODER,
    }


def animatediff() -> AnimateDiffPipeline:
    return AnimateDiffPipeline(**animated())


def animatediff_free_init() -> AnimateDiffPipeline:
    pipe = animatediff()
    pipe.enable_free_init(num_iters=2, use_fast_sampling=True)
    return pipe


def animatediff_free_noise() -> AnimateDiffPipeline:
    pipe = animatediff()
    pipe.enable_free_noise(context_length=2, context_stride=1)
    pipe.encode_prompt = lambda prompt, **_: (
        noise(len(prompt), 5, 8, seed=1),
        noise(len(prompt), 5, 8, seed=2),
    )
    return pipe


def controlnet() -> ControlNetModel:
    """With random weights where a new one has zeros, so that it says something."""

    def build() -> ControlNetModel:
        made = ControlNetModel.from_unet(sd_unet(), conditioning_embedding_out_channels=(4, 8))
        for part in (*made.controlnet_down_blocks, made.controlnet_mid_block):
            part.weight.data.normal_(std=0.3)
        return made

    return seeded(build)


def animatediff_controlnet() -> AnimateDiffControlNetPipeline:
    return AnimateDiffControlNetPipeline(**animated(), controlnet=controlnet())


def animatediff_video_to_video() -> AnimateDiffVideoToVideoPipeline:
    return AnimateDiffVideoToVideoPipeline(**animated())


def still() -> dict[str, Any]:
    return {
        "vae": image_vae(),
        "unet": sd_unet(),
        "scheduler": PNDMScheduler(skip_prk_steps=True),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
        **NO_TEXT_ENCODER,
    }


def stable_diffusion(scheduler: Any = None) -> StableDiffusionPipeline:
    parts = still()
    return StableDiffusionPipeline(**{**parts, "scheduler": scheduler or parts["scheduler"]})


def stable_diffusion_controlnet() -> StableDiffusionControlNetPipeline:
    return StableDiffusionControlNetPipeline(**{**still(), "scheduler": DDIMScheduler()}, controlnet=controlnet())


def large() -> dict[str, Any]:
    return {
        "vae": image_vae(),
        "unet": sdxl_unet(),
        "scheduler": EulerDiscreteScheduler(),
        "text_encoder_2": None,
        "tokenizer_2": None,
        **NO_TEXT_ENCODER,
    }


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(**large(), add_watermarker=False)


def animatediff_xl() -> AnimateDiffSDXLPipeline:
    extra = {"motion_adapter": motion_adapter(), "image_encoder": None, "feature_extractor": None}
    unet = seeded(lambda: UNetMotionModel.from_unet2d(sdxl_unet(), motion_adapter()))
    return AnimateDiffSDXLPipeline(**{**large(), **extra, "unet": unet, "scheduler": DDIMScheduler()})


def text_to_video() -> TextToVideoSDPipeline:
    return TextToVideoSDPipeline(
        vae=image_vae(), unet=text_to_video_unet(), scheduler=DDIMScheduler(), **NO_TEXT_ENCODER
    )


def i2vgen() -> I2VGenXLPipeline:
    return I2VGenXLPipeline(
        vae=image_vae(),
        unet=i2vgen_unet(),
        scheduler=DDIMScheduler(),
        image_encoder=image_encoder(),
        feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
        **NO_TEXT_ENCODER,
    )


def kandinsky3(kind: type) -> Any:
    """What its text encoder says is made up; its autoencoder leaves an eighth, as it counts on."""
    pipe = kind(tokenizer=None, text_encoder=None, unet=kandinsky3_unet(), scheduler=DDPMScheduler(), movq=_movq())

    def encode_prompt(*given: Any, **named: Any) -> tuple[torch.Tensor, ...]:
        return noise(1, 5, 8, seed=1), noise(1, 5, 8, seed=2), torch.ones(1, 5), torch.ones(1, 5)

    pipe.encode_prompt = encode_prompt
    return pipe


def _movq() -> VQModel:
    return seeded(
        lambda: VQModel(
            block_out_channels=(4,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=2,
            num_vq_embeddings=8,
        )
    )


PICTURE = noise(1, 3, 16, 16, seed=5).sigmoid()
IMAGE = Image.fromarray((PICTURE[0] * 255).byte().permute(1, 2, 0).numpy())
EMBEDS = {"prompt_embeds": noise(1, 5, 8, seed=1), "negative_prompt_embeds": noise(1, 5, 8, seed=2)}
SIZE = {"height": 16, "width": 16}
GUIDED = {**SIZE, **EMBEDS, "guidance_scale": 5.0}
VIDEO = {**GUIDED, "num_frames": 3}
POOLED = {"pooled_prompt_embeds": noise(1, 8, seed=3), "negative_pooled_prompt_embeds": noise(1, 8, seed=4)}

PIPELINES = (
    Pipeline("svd", svd, {**SIZE, "image": IMAGE, "num_frames": 3}, ("call0",)),
    Pipeline("animatediff", animatediff, VIDEO, ("call0",)),
    Pipeline("animatediff_free_noise", animatediff_free_noise, {**SIZE, "prompt": "", "num_frames": 4}, ("call0",)),
    Pipeline(
        "animatediff_controlnet",
        animatediff_controlnet,
        {**VIDEO, "conditioning_frames": [IMAGE] * 3},
        ("call0",),
    ),
    Pipeline(
        "animatediff_video_to_video",
        animatediff_video_to_video,
        {**GUIDED, "video": [IMAGE] * 3, "strength": 0.8},
        ("call0",),
    ),
    Pipeline("stable_diffusion", lambda: stable_diffusion(DDIMScheduler()), GUIDED, ("call0",)),
    # the second timestep comes twice, in forwards of their own
    Pipeline("stable_diffusion_pndm", stable_diffusion, GUIDED, ("call0",)),
    Pipeline("stable_diffusion_controlnet", stable_diffusion_controlnet, {**GUIDED, "image": PICTURE}, ("call0",)),
    Pipeline("stable_diffusion_xl", stable_diffusion_xl, {**GUIDED, **POOLED}, ("call0",)),
    Pipeline("animatediff_xl", animatediff_xl, {**VIDEO, **POOLED}, ("call0",)),
    Pipeline("text_to_video", text_to_video, VIDEO, ("call0",)),
    # draws the image's latents from torch's global generator
    Pipeline("i2vgen", i2vgen, {**VIDEO, "image": IMAGE}, ("call0",)),
    # two sampling loops in one call, of 5 and of 10 steps, with timesteps set anew between them
    Pipeline("animatediff_free_init", animatediff_free_init, VIDEO, ("call0",), loops=2),
    # pixels, of any number
    Pipeline("DDIMPipeline", lambda: DDIMPipeline(small_unet(), DDIMScheduler()), {"output_type": "np"}, ("call0",)),
    Pipeline("DDPMPipeline", lambda: DDPMPipeline(small_unet(), DDPMScheduler()), {"output_type": "np"}, ("call0",)),
    Pipeline(
        "Kandinsky3Pipeline",
        lambda: kandinsky3(Kandinsky3Pipeline),
        {"prompt": "a", "height": 128, "width": 128, "guidance_scale": 3.0},
        ("call0",),
    ),
    Pipeline(
        "Kandinsky3Img2ImgPipeline",
        lambda: kandinsky3(Kandinsky3Img2ImgPipeline),
        {"prompt": "a", "image": IMAGE.resize((128, 128)), "strength": 0.8, "guidance_scale": 3.0},
        ("call0",),
    ),
)
