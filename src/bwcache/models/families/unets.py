"""U-Nets: a down block returns its residuals too, for the up blocks; the blocks inside a block are no stack."""

from __future__ import annotations

from dataclasses import replace

from bwcache.models.families.layouts import X
from bwcache.models.spec import BlockList, BlockSpec, Part

_RESNET = Part("resnets", outlined=True)
_PLAIN: dict[str, str | Part] = {"resnet": _RESNET, "transformer": "attentions"}
_MOTION: dict[str, str | Part] = {**_PLAIN, "temporal": "motion_modules"}
_VIDEO: dict[str, str | Part] = {
    "resnet": _RESNET,
    "temporal_resnet": Part("temp_convs", outlined=True),
    "transformer": "attentions",
    "temporal": "temp_attentions",
}
_TIME = {"time": "time_embedding"}
_EMBEDDINGS = ("conv_in", "time_proj", "time_embedding")
_ADDED = ("add_time_proj", "add_embedding")


def _lists(parts: dict[str, str | Part]) -> tuple[BlockList, ...]:
    return (
        BlockList("down_blocks", ("hidden_states", "residuals"), outlined=True, parts=parts),
        BlockList("mid_block", outlined=True, optional=True, parts=parts),
        BlockList("up_blocks", outlined=True, parts=parts),
    )


IMAGE = BlockSpec(
    "UNet2DConditionModel",
    _lists(_PLAIN),
    latents="sample",
    named=_TIME,
    guidance="batched",
    pipelines=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionAdapterPipeline",
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLAdapterPipeline",
    ),
    idle=(*_EMBEDDINGS, *_ADDED),
)

ROWS = (
    # SVD's latents carry the picture, which the unconditional branch has not: the branches do not look alike
    replace(
        IMAGE,
        model="UNetSpatioTemporalConditionModel",
        per_sample=False,
        pipelines=("StableVideoDiffusionPipeline",),
    ),
    replace(
        IMAGE,
        model="UNetMotionModel",
        lists=_lists(_MOTION),
        pipelines=(
            "AnimateDiffPipeline",
            "AnimateDiffControlNetPipeline",
            "AnimateDiffSDXLPipeline",
            "AnimateDiffSparseControlNetPipeline",
            "AnimateDiffVideoToVideoPipeline",
            "AnimateDiffVideoToVideoControlNetPipeline",
        ),
        per_sample=False,
        idle=_EMBEDDINGS,
    ),
    replace(
        IMAGE,
        model="UNet3DConditionModel",
        lists=_lists(_VIDEO),
        pipelines=("TextToVideoSDPipeline", "VideoToVideoSDPipeline"),
        idle=(*_EMBEDDINGS, "transformer_in"),
    ),
    replace(
        IMAGE,
        model="I2VGenXLUNet",
        lists=_lists(_VIDEO),
        pipelines=("I2VGenXLPipeline",),
        idle=(
            "conv_in",
            "transformer_in",
            "image_latents_proj_in",
            "image_latents_temporal_encoder",
            "image_latents_context_embedding",
            "time_proj",
            "time_embedding",
            "context_embedding",
            "fps_embedding",
        ),
    ),
    IMAGE,
    # derives from it, and embeds the text by itself
    replace(IMAGE, model="DreamLiteUNetModel", prediction="unknown", pipelines=(), idle=_EMBEDDINGS),
    # unconditional, of small pictures
    replace(
        IMAGE,
        model="UNet2DModel",
        guidance="none",
        pipelines=("DDIMPipeline", "DDPMPipeline"),
        idle=_EMBEDDINGS,
    ),
    # Kandinsky 3: what a down block returns is its skip too
    replace(
        IMAGE,
        model="Kandinsky3UNet",
        lists=tuple(
            BlockList(
                path, X, outlined=True, parts_missing="some of its attentions stand in a block and are never called"
            )
            for path in ("down_blocks", "up_blocks")
        ),
        read_after=X,
        measured="x",
        pipelines=("Kandinsky3Pipeline", "Kandinsky3Img2ImgPipeline"),
        idle=("time_proj", "time_embedding", "add_time_condition", "conv_in", "encoder_hid_proj"),
    ),
)

_PART = "it is a part of a block of a U-Net and no denoiser"

REFUSED = {
    "DualTransformer2DModel": _PART,
    "Transformer2DModel": "it is a part of a block of a U-Net; transformers that denoise have classes of their own",
    "TransformerTemporalModel": _PART,
    "DreamLiteTransformer2DModel": _PART,
    "MotionAdapter": "it holds weights that AnimateDiff puts into its U-Net, and is never run",
    "UNetControlNetXSModel": "its blocks are a U-Net's and a ControlNet's in one and hand on the streams of both",
    "StableCascadeUNet": "its stages are lists of blocks of three kinds that run several times each, by a map",
    "UNet1DModel": "it makes sequences, such as sound or the plans of a robot, and nothing was measured on it",
}
