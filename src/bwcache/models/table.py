"""One row per denoiser class. To add a model, add a row: CONTRIBUTING.md shows how to fill it."""

from __future__ import annotations

from bwcache.models.spec import BlockList, BlockSpec

_HIDDEN_TEXT = ("hidden_states", "encoder_hidden_states")

ROWS: tuple[BlockSpec, ...] = (
    # Wan 2.1 and 2.2: T2V, I2V, V2V, TI2V
    BlockSpec("WanTransformer3DModel", (BlockList("blocks"),)),
    BlockSpec("SkyReelsV2Transformer3DModel", (BlockList("blocks"),)),
    # dual-stream blocks, then single-stream ones that still carry both streams apart
    BlockSpec(
        "HunyuanVideoTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT), BlockList("single_transformer_blocks", _HIDDEN_TEXT)),
    ),
    BlockSpec("CogVideoXTransformer3DModel", (BlockList("transformer_blocks", _HIDDEN_TEXT),)),
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
    BlockSpec("AllegroTransformer3DModel", (BlockList("transformer_blocks"),)),
)

_BY_MODEL = {row.model: row for row in ROWS}


def row(model: str) -> BlockSpec | None:
    """The row of a denoiser class, by its name."""
    return _BY_MODEL.get(model)


def supported() -> tuple[str, ...]:
    """Class names of the denoisers in the table."""
    return tuple(_BY_MODEL)
