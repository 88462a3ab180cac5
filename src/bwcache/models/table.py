"""One row per denoiser class. To add a model, add a row: CONTRIBUTING.md shows how to fill it."""

from __future__ import annotations

from bwcache.models.spec import BlockList, BlockSpec

_HIDDEN_TEXT = ("hidden_states", "encoder_hidden_states")
_X = ("x",)

ROWS: tuple[BlockSpec, ...] = (
    # Wan 2.1 and 2.2: T2V, I2V, V2V, TI2V
    BlockSpec(
        "WanTransformer3DModel",
        (BlockList("blocks"),),
        pipelines=("WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline", "LucyEditPipeline"),
    ),
    # `vace_blocks` run before and are no part of the stack: they make hints that are added between the blocks
    BlockSpec("WanVACETransformer3DModel", (BlockList("blocks"),), pipelines=("WanVACEPipeline",)),
    BlockSpec("WanAnimateTransformer3DModel", (BlockList("blocks"),), pipelines=("WanAnimatePipeline",)),
    BlockSpec("ChronoEditTransformer3DModel", (BlockList("blocks"),), pipelines=("ChronoEditPipeline",)),
    BlockSpec("AnyFlowTransformer3DModel", (BlockList("blocks"),), guidance="batched", pipelines=("AnyFlowPipeline",)),
    # SkyReels-V2
    BlockSpec(
        "SkyReelsV2Transformer3DModel",
        (BlockList("blocks"),),
        pipelines=(
            "SkyReelsV2Pipeline",
            "SkyReelsV2ImageToVideoPipeline",
            "SkyReelsV2DiffusionForcingPipeline",
            "SkyReelsV2DiffusionForcingImageToVideoPipeline",
            "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        ),
    ),
    # Hunyuan Video: dual-stream blocks, then single-stream ones that still carry both streams apart
    BlockSpec(
        "HunyuanVideoTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT), BlockList("single_transformer_blocks", _HIDDEN_TEXT)),
        pipelines=(
            "HunyuanVideoPipeline",
            "HunyuanVideoImageToVideoPipeline",
            "HunyuanSkyreelsImageToVideoPipeline",
        ),
    ),
    BlockSpec(
        "HunyuanVideoFramepackTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT), BlockList("single_transformer_blocks", _HIDDEN_TEXT)),
        pipelines=("HunyuanVideoFramepackPipeline",),
    ),
    BlockSpec(
        "HunyuanVideo15Transformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        pipelines=("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"),
    ),
    # CogVideoX
    BlockSpec(
        "CogVideoXTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=(
            "CogVideoXPipeline",
            "CogVideoXImageToVideoPipeline",
            "CogVideoXVideoToVideoPipeline",
            "CogVideoXFunControlPipeline",
        ),
    ),
    BlockSpec(
        "ConsisIDTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=("ConsisIDPipeline",),
    ),
    # Helios: the history's tokens run along in the same stream
    BlockSpec(
        "HeliosTransformer3DModel", (BlockList("blocks"),), pipelines=("HeliosPipeline", "HeliosPyramidPipeline")
    ),
    # LTX-Video and LTX-2
    BlockSpec(
        "LTXVideoTransformer3DModel",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=(
            "LTXPipeline",
            "LTXImageToVideoPipeline",
            "LTXConditionPipeline",
            "LTXI2VLongMultiPromptPipeline",
        ),
    ),
    # video and audio: both are read after the last block
    BlockSpec(
        "LTX2VideoTransformer3DModel",
        (BlockList("transformer_blocks", ("hidden_states", "audio_hidden_states")),),
        decoded=("hidden_states", "audio_hidden_states"),
        guidance="batched",
        pipelines=(
            "LTX2Pipeline",
            "LTX2ImageToVideoPipeline",
            "LTX2ConditionPipeline",
            "LTX2InContextPipeline",
            "LTX2HDRPipeline",
            "LTX2DFRPipeline",
            "LTX2DFRTemporalRefinePipeline",
        ),
    ),
    # Mochi
    BlockSpec(
        "MochiTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=("MochiPipeline",),
    ),
    # Latte: a spatial block, then a temporal one, in turn
    BlockSpec(
        "LatteTransformer3DModel",
        (BlockList("transformer_blocks"), BlockList("temporal_transformer_blocks")),
        zipped=True,
        guidance="batched",
        pipelines=("LattePipeline",),
    ),
    # Cosmos: all of 1, Predict 2 and Predict 2.5
    BlockSpec(
        "CosmosTransformer3DModel",
        (BlockList("transformer_blocks"),),
        pipelines=(
            "CosmosTextToWorldPipeline",
            "CosmosVideoToWorldPipeline",
            "Cosmos2TextToImagePipeline",
            "Cosmos2VideoToWorldPipeline",
            "Cosmos2_5_PredictBasePipeline",
            "Cosmos2_5_TransferPipeline",
        ),
    ),
    # one packed row of tokens: text in `und_seq`, all that is generated in `gen_seq`, and only that is read
    BlockSpec(
        "Cosmos3OmniTransformer",
        (BlockList("layers", ("und_seq", "gen_seq")),),
        decoded=("gen_seq",),
        measured="gen_seq",
        timestep="vision_timesteps",
        pipelines=("Cosmos3OmniPipeline",),
    ),
    # EasyAnimate
    BlockSpec(
        "EasyAnimateTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=("EasyAnimatePipeline", "EasyAnimateInpaintPipeline", "EasyAnimateControlPipeline"),
    ),
    # Kandinsky: the few text blocks before are no part of the stack, they run in every step
    BlockSpec(
        "Kandinsky5Transformer3DModel",
        (BlockList("visual_transformer_blocks", ("visual_embed",)),),
        decoded=("visual_embed",),
        measured="visual_embed",
        pipelines=(
            "Kandinsky5T2VPipeline",
            "Kandinsky5I2VPipeline",
            "Kandinsky5T2IPipeline",
            "Kandinsky5I2IPipeline",
        ),
    ),
    BlockSpec(
        "Kandinsky6Transformer3DModel",
        (BlockList("visual_transformer_blocks", ("vis", "aud")),),
        decoded=("vis", "aud"),
        measured="vis",
        pipelines=("Kandinsky6TI2VAPipeline",),
    ),
    BlockSpec(
        "Kandinsky6SRTransformer3DModel",
        (BlockList("visual_transformer_blocks"),),
        guidance="none",
        pipelines=("Kandinsky6SRPipeline",),
    ),
    # SANA-Video and the first stage of SANA-WM (its refiner fills a key-value cache inside the blocks: no row)
    BlockSpec(
        "SanaVideoTransformer3DModel",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=("SanaVideoPipeline", "SanaImageToVideoPipeline"),
    ),
    BlockSpec(
        "SanaWMTransformer3DModel",
        (BlockList("blocks", ("x",)),),
        decoded=("x",),
        measured="x",
        guidance="batched",
        pipelines=("SanaWMPipeline",),
    ),
    # Motif-Video: the last single-stream blocks begin anew and read the others' result in the place of the text
    BlockSpec(
        "MotifVideoTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT), BlockList("single_transformer_blocks", _HIDDEN_TEXT)),
        pipelines=("MotifVideoPipeline", "MotifVideoImage2VideoPipeline"),
    ),
    # MiniMax-H3, of modular pipelines only
    BlockSpec("MiniMaxH3Transformer3DModel", (BlockList("transformer_blocks"),), guidance="none"),
    # JoyImage Edit
    BlockSpec(
        "JoyImageEditTransformer3DModel",
        (BlockList("double_blocks", _HIDDEN_TEXT),),
        pipelines=("JoyImageEditPipeline",),
    ),
    BlockSpec(
        "JoyImageEditPlusTransformer3DModel",
        (BlockList("double_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=("JoyImageEditPlusPipeline",),
    ),
    # Allegro
    BlockSpec(
        "AllegroTransformer3DModel",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=("AllegroPipeline",),
    ),
    # native code of the papers' own repositories
    BlockSpec(
        "STDiT",
        (BlockList("blocks", _X),),
        decoded=_X,
        measured="x",
        guidance="batched",
        home="opensora.models.stdit",
        sources="hpcaitech/Open-Sora v1.0.0",
    ),
    BlockSpec(
        "STDiT2",
        (BlockList("blocks", _X),),
        decoded=_X,
        measured="x",
        guidance="batched",
        home="opensora.models.stdit",
        sources="hpcaitech/Open-Sora v1.1.0",
    ),
    BlockSpec(
        "STDiT3",
        (BlockList("spatial_blocks", _X), BlockList("temporal_blocks", _X)),
        decoded=_X,
        measured="x",
        zipped=True,
        guidance="batched",
        home="opensora.models.stdit",
        sources="hpcaitech/Open-Sora v1.2.0, v1.3",
    ),
    BlockSpec(
        "LatteT2V",
        (BlockList("transformer_blocks"), BlockList("temporal_transformer_blocks")),
        zipped=True,
        guidance="batched",
        pipelines=("VideoGenPipeline",),
        home="opensora.models.diffusion.latte",
        sources="PKU-YuanGroup/Open-Sora-Plan v1.1.0",
    ),
    BlockSpec(
        "OpenSoraT2V",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=("OpenSoraPipeline",),
        home="opensora.models.diffusion.opensora.",
        sources="PKU-YuanGroup/Open-Sora-Plan v1.2.0",
    ),
    BlockSpec(
        "OpenSoraT2V_v1_3",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=("OpenSoraPipeline",),
        home="opensora.models.diffusion.opensora_v1_3",
        sources="PKU-YuanGroup/Open-Sora-Plan v1.3.0",
    ),
    # one list of spatial and temporal blocks in turn
    BlockSpec(
        "Latte",
        (BlockList("blocks", _X),),
        decoded=_X,
        measured="x",
        timestep="t",
        guidance="batched",
        home="models.latte",
        sources="Vchitect/Latte b27c24a",
    ),
    BlockSpec(
        "LatteT2V",
        (BlockList("transformer_blocks"), BlockList("temporal_transformer_blocks")),
        zipped=True,
        guidance="batched",
        pipelines=("LattePipeline",),
        home="models.latte_t2v",
        sources="Vchitect/Latte b27c24a",
    ),
    BlockSpec(
        "WanModel",
        (BlockList("blocks", _X),),
        decoded=_X,
        measured="x",
        timestep="t",
        pipelines=("WanT2V", "WanI2V", "WanFLF2V", "WanTI2V"),
        home="wan.modules",
        sources="Wan-Video/Wan2.1 9737cba, Wan-Video/Wan2.2 42bf4cf",
    ),
    # a VACE block takes the video as `x` too, and its hint has that shape; hints are added inside of `blocks`
    BlockSpec(
        "VaceWanModel",
        (BlockList("vace_blocks", ("c", "x"), measured="c"), BlockList("blocks", _X)),
        decoded=_X,
        measured="x",
        timestep="t",
        pipelines=("WanVace",),
        home="wan.modules",
        sources="Wan-Video/Wan2.1 9737cba",
    ),
    BlockSpec(
        "WanModel_S2V",
        (BlockList("blocks", _X),),
        decoded=_X,
        measured="x",
        timestep="t",
        pipelines=("WanS2V",),
        home="wan.modules",
        sources="Wan-Video/Wan2.2 42bf4cf",
    ),
    BlockSpec(
        "WanAnimateModel",
        (BlockList("blocks", _X),),
        decoded=_X,
        measured="x",
        timestep="t",
        pipelines=("WanAnimate",),
        home="wan.modules",
        sources="Wan-Video/Wan2.2 42bf4cf",
    ),
    BlockSpec(
        "WanModel",
        (BlockList("blocks", _X),),
        decoded=_X,
        measured="x",
        timestep="t",
        pipelines=("Text2VideoPipeline", "Image2VideoPipeline", "DiffusionForcingPipeline"),
        home="skyreels_v2_infer.modules",
        sources="SkyworkAI/SkyReels-V2 abed76f",
    ),
    BlockSpec(
        "Transformer3DModel",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=("LTXVideoPipeline", "LTXMultiScalePipeline"),
        home="ltx_video.models",
        sources="Lightricks/LTX-Video 5260738",
    ),
    BlockSpec(
        "AsymmDiTJoint",
        (BlockList("blocks", ("x", "y")),),
        decoded=_X,
        measured="x",
        timestep="sigma",
        guidance="either",
        pipelines=("MochiSingleGPUPipeline", "MochiMultiGPUPipeline"),
        home="genmo.mochi_preview",
        sources="genmoai/mochi 0c86aeb",
    ),
    # VideoSys: classes of its own, of the same names
    BlockSpec(
        "STDiT3",
        (BlockList("spatial_blocks", _X), BlockList("temporal_blocks", _X)),
        decoded=_X,
        measured="x",
        zipped=True,
        guidance="batched",
        pipelines=("OpenSoraPipeline",),
        home="videosys.models",
        sources="NUS-HPC-AI-Lab/VideoSys 4cce477",
    ),
    BlockSpec(
        "LatteT2V",
        (BlockList("transformer_blocks"), BlockList("temporal_transformer_blocks")),
        zipped=True,
        guidance="batched",
        pipelines=("LattePipeline", "OpenSoraPlanPipeline"),
        home="videosys.models",
        sources="NUS-HPC-AI-Lab/VideoSys 4cce477",
    ),
    BlockSpec(
        "OpenSoraT2V",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=("OpenSoraPlanPipeline",),
        home="videosys.models",
        sources="NUS-HPC-AI-Lab/VideoSys 4cce477",
    ),
    BlockSpec(
        "CogVideoXTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=("CogVideoXPipeline",),
        home="videosys.models",
        sources="NUS-HPC-AI-Lab/VideoSys 4cce477",
    ),
    BlockSpec(
        "VchitectXLTransformerModel",
        (BlockList("transformer_blocks", ("encoder_hidden_states", "hidden_states")),),
        pipelines=("VchitectXLPipeline",),
        home="videosys.models",
        sources="NUS-HPC-AI-Lab/VideoSys 4cce477",
    ),
)

_BY_MODEL: dict[str, list[BlockSpec]] = {}
for _row in ROWS:
    _BY_MODEL.setdefault(_row.model, []).append(_row)


def row(model: str, home: str = "") -> BlockSpec | None:
    """The row of a denoiser class: by its name and the module that defines it, or by its name alone."""
    return next((row for row in _BY_MODEL.get(model, ()) if not home or home.startswith(row.home)), None)


def row_of(kind: type) -> BlockSpec | None:
    """The row of a class, or of the nearest of those that it derives from."""
    rows = (row(base.__name__, base.__module__) for base in kind.__mro__)
    return next((found for found in rows if found), None)


def supported() -> tuple[str, ...]:
    """Class names of the denoisers in the table."""
    return tuple(_BY_MODEL)
