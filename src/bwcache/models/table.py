"""One row per denoiser class. To add a model, add a row: CONTRIBUTING.md shows how to fill it."""

from __future__ import annotations

from bwcache.models.spec import BlockList, BlockSpec

_HIDDEN_TEXT = ("hidden_states", "encoder_hidden_states")
_TEXT_HIDDEN = ("encoder_hidden_states", "hidden_states")
_X = ("x",)
_U_NET = (
    BlockList("down_blocks", ("hidden_states", "residuals"), outlined=True),
    BlockList("mid_block", outlined=True, optional=True),
    BlockList("up_blocks", outlined=True),
)

ROWS: tuple[BlockSpec, ...] = (
    # Wan 2.1 and 2.2: T2V, I2V, V2V, TI2V
    BlockSpec(
        "WanTransformer3DModel",
        (BlockList("blocks"),),
        pipelines=("WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline", "LucyEditPipeline"),
        idle=(
            "rope",
            "patch_embedding",
            "condition_embedder.time_proj",
            "condition_embedder.text_embedder",
            "condition_embedder.image_embedder",
        ),
    ),
    # `vace_blocks` run before and are no part of the stack: they make hints that are added between the blocks
    BlockSpec(
        "WanVACETransformer3DModel",
        (BlockList("blocks"),),
        pipelines=("WanVACEPipeline",),
        per_sample=False,
        idle=(
            "rope",
            "patch_embedding",
            "vace_patch_embedding",
            "condition_embedder.time_proj",
            "condition_embedder.text_embedder",
            "vace_blocks",
        ),
    ),
    BlockSpec(
        "WanAnimateTransformer3DModel",
        (BlockList("blocks"),),
        pipelines=("WanAnimatePipeline",),
        idle=(
            "rope",
            "patch_embedding",
            "pose_patch_embedding",
            "condition_embedder.time_proj",
            "condition_embedder.text_embedder",
            "condition_embedder.image_embedder",
            "motion_encoder",
            "face_encoder",
            "face_adapter",
        ),
    ),
    BlockSpec(
        "ChronoEditTransformer3DModel",
        (BlockList("blocks"),),
        pipelines=("ChronoEditPipeline",),
        idle=(
            "rope",
            "patch_embedding",
            "condition_embedder.time_proj",
            "condition_embedder.text_embedder",
            "condition_embedder.image_embedder",
        ),
    ),
    BlockSpec(
        "AnyFlowTransformer3DModel",
        (BlockList("blocks"),),
        guidance="batched",
        pipelines=("AnyFlowPipeline",),
        idle=("patch_embedding", "condition_embedder.time_proj", "condition_embedder.text_embedder"),
    ),
    # One forward for the segment of the driving video, and one for each chunk of a film, keeps keys and values of all
    # blocks. Without the prompt, Animate 2 leaves out block 9.
    BlockSpec(
        "WanAnimate2Transformer3DModel",
        (BlockList("blocks"),),
        aside=("kv_cache_mode=extract",),
        per_sample=False,
    ),
    BlockSpec(
        "AnyFlowFARTransformer3DModel",
        (BlockList("blocks"),),
        aside=("kv_cache_flag.is_cache_step",),
        per_sample=False,
        guidance="batched",
        pipelines=("AnyFlowFARPipeline",),
        idle=("patch_embedding", "condition_embedder.time_proj", "condition_embedder.text_embedder"),
    ),
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
        idle=(
            "rope",
            "patch_embedding",
            "condition_embedder.time_proj",
            "condition_embedder.text_embedder",
            "condition_embedder.image_embedder",
            "fps_embedding",
            "fps_projection",
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
        idle=("x_embedder", "context_embedder", "rope"),
    ),
    BlockSpec(
        "HunyuanVideoFramepackTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT), BlockList("single_transformer_blocks", _HIDDEN_TEXT)),
        pipelines=("HunyuanVideoFramepackPipeline",),
        per_sample=False,
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
        idle=("patch_embed",),
    ),
    BlockSpec(
        "ConsisIDTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=("ConsisIDPipeline",),
        idle=("patch_embed", "local_facial_extractor", "perceiver_cross_attention"),
    ),
    # Helios: the history's tokens run along in the same stream
    BlockSpec(
        "HeliosTransformer3DModel",
        (BlockList("blocks"),),
        pipelines=("HeliosPipeline", "HeliosPyramidPipeline"),
        idle=(
            "rope",
            "patch_embedding",
            "patch_short",
            "patch_mid",
            "patch_long",
            "condition_embedder.time_proj",
            "condition_embedder.text_embedder",
        ),
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
        idle=("proj_in", "time_embed.linear", "caption_projection", "rope"),
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
        idle=(
            "proj_in",
            "audio_proj_in",
            "caption_projection",
            "audio_caption_projection",
            "time_embed.linear",
            "audio_time_embed.linear",
            "av_cross_attn_video_scale_shift",
            "av_cross_attn_audio_scale_shift",
            "av_cross_attn_video_a2v_gate",
            "av_cross_attn_audio_v2a_gate",
            "rope",
            "audio_rope",
            "cross_attn_rope",
            "cross_attn_audio_rope",
            "prompt_adaln",
            "audio_prompt_adaln",
        ),
    ),
    # Mochi
    BlockSpec(
        "MochiTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=("MochiPipeline",),
        idle=("patch_embed", "time_embed.caption_proj", "rope"),
    ),
    # Latte: a spatial block, then a temporal one, in turn
    BlockSpec(
        "LatteTransformer3DModel",
        (BlockList("transformer_blocks"), BlockList("temporal_transformer_blocks")),
        zipped=True,
        guidance="batched",
        pipelines=("LattePipeline",),
        idle=("pos_embed", "adaln_single.linear", "caption_projection"),
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
        idle=("patch_embed", "rope", "learnable_pos_embed", "crossattn_proj", "img_context_proj"),
    ),
    # one packed row of tokens: text in `und_seq`, all that is generated in `gen_seq`, and only that is read
    BlockSpec(
        "Cosmos3OmniTransformer",
        (BlockList("layers", ("und_seq", "gen_seq")),),
        decoded=("gen_seq",),
        measured="gen_seq",
        timestep="vision_timesteps",
        pipelines=("Cosmos3OmniPipeline",),
        per_sample=False,
        idle=("embed_tokens", "norm", "rotary_emb", "proj_in", "time_proj", "time_embedder", "audio_proj_in"),
    ),
    # EasyAnimate
    BlockSpec(
        "EasyAnimateTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=("EasyAnimatePipeline", "EasyAnimateInpaintPipeline", "EasyAnimateControlPipeline"),
        idle=("rope_embedding", "proj", "text_proj"),
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
        per_sample=False,
        idle=(
            "text_embeddings",
            "visual_embeddings",
            "text_rope_embeddings",
            "visual_rope_embeddings",
            "text_transformer_blocks",
        ),
    ),
    BlockSpec(
        "Kandinsky6Transformer3DModel",
        (BlockList("visual_transformer_blocks", ("vis", "aud")),),
        decoded=("vis", "aud"),
        measured="vis",
        pipelines=("Kandinsky6TI2VAPipeline",),
        idle=(
            "visual_embeddings",
            "visual_rope_embeddings",
            "audio_embeddings",
            "audio_rope_embeddings",
            "video_text_embeddings",
            "video_text_rope_embeddings",
            "video_text_transformer_blocks",
            "audio_text_embeddings",
            "audio_text_rope_embeddings",
            "audio_text_transformer_blocks",
            "visual_token_type_embeddings",
        ),
    ),
    BlockSpec(
        "Kandinsky6SRTransformer3DModel",
        (BlockList("visual_transformer_blocks"),),
        guidance="none",
        pipelines=("Kandinsky6SRPipeline",),
        idle=("visual_embeddings", "visual_rope_embeddings"),
    ),
    # SANA-Video and the first stage of SANA-WM (its refiner fills a key-value cache inside the blocks: no row)
    BlockSpec(
        "SanaVideoTransformer3DModel",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=("SanaVideoPipeline", "SanaImageToVideoPipeline"),
        idle=("rope", "patch_embedding", "time_embed.linear", "caption_projection", "caption_norm"),
    ),
    BlockSpec(
        "SanaWMTransformer3DModel",
        (BlockList("blocks", ("x",)),),
        decoded=("x",),
        measured="x",
        guidance="batched",
        pipelines=("SanaWMPipeline",),
        idle=("attention_y_norm", "t_block", "x_embedder", "y_embedder", "plucker_embedder", "rope"),
    ),
    # Motif-Video: the last single-stream blocks begin anew and read the others' result in the place of the text
    BlockSpec(
        "MotifVideoTransformer3DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT), BlockList("single_transformer_blocks", _HIDDEN_TEXT)),
        pipelines=("MotifVideoPipeline", "MotifVideoImage2VideoPipeline"),
        idle=("x_embedder", "context_embedder", "rope", "image_embedder"),
    ),
    # MiniMax-H3, of modular pipelines only
    BlockSpec(
        "MiniMaxH3Transformer3DModel",
        (BlockList("transformer_blocks"),),
        guidance="none",
        per_sample=False,
        idle=("proj_in", "audio_proj_in", "context_embedder", "rope", "token_refiner"),
    ),
    # JoyImage Edit
    BlockSpec(
        "JoyImageEditTransformer3DModel",
        (BlockList("double_blocks", _HIDDEN_TEXT),),
        pipelines=("JoyImageEditPipeline",),
        idle=("img_in", "condition_embedder"),
    ),
    BlockSpec(
        "JoyImageEditPlusTransformer3DModel",
        (BlockList("double_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=("JoyImageEditPlusPipeline",),
        per_sample=False,
        idle=("img_in", "condition_embedder"),
    ),
    # Allegro
    BlockSpec(
        "AllegroTransformer3DModel",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=("AllegroPipeline",),
        per_sample=False,
        idle=("pos_embed", "adaln_single.linear", "caption_projection"),
    ),
    # U-Nets: a down block returns its residuals too, for the up blocks; what runs inside a block is no stack of its own
    # SVD's latents carry the picture, which the unconditional branch has not: the branches do not look alike
    BlockSpec(
        "UNetSpatioTemporalConditionModel",
        _U_NET,
        guidance="batched",
        per_sample=False,
        pipelines=("StableVideoDiffusionPipeline",),
        idle=("conv_in", "time_proj", "time_embedding", "add_time_proj", "add_embedding"),
    ),
    BlockSpec(
        "UNetMotionModel",
        _U_NET,
        guidance="batched",
        pipelines=(
            "AnimateDiffPipeline",
            "AnimateDiffControlNetPipeline",
            "AnimateDiffSDXLPipeline",
            "AnimateDiffSparseControlNetPipeline",
            "AnimateDiffVideoToVideoPipeline",
            "AnimateDiffVideoToVideoControlNetPipeline",
        ),
        per_sample=False,
        idle=("conv_in", "time_proj", "time_embedding"),
    ),
    BlockSpec(
        "UNet3DConditionModel",
        _U_NET,
        guidance="batched",
        pipelines=("TextToVideoSDPipeline", "VideoToVideoSDPipeline"),
        idle=("conv_in", "time_proj", "time_embedding", "transformer_in"),
    ),
    BlockSpec(
        "I2VGenXLUNet",
        _U_NET,
        guidance="batched",
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
    BlockSpec(
        "UNet2DConditionModel",
        _U_NET,
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
        idle=("conv_in", "time_proj", "time_embedding", "add_time_proj", "add_embedding"),
    ),
    # unconditional, of small pictures
    BlockSpec(
        "UNet2DModel",
        _U_NET,
        guidance="none",
        pipelines=("DDIMPipeline", "DDPMPipeline"),
        idle=("conv_in", "time_proj", "time_embedding"),
    ),
    # Kandinsky 3: what a down block returns is its skip too
    BlockSpec(
        "Kandinsky3UNet",
        (BlockList("down_blocks", _X, outlined=True), BlockList("up_blocks", _X, outlined=True)),
        decoded=_X,
        measured="x",
        guidance="batched",
        pipelines=("Kandinsky3Pipeline", "Kandinsky3Img2ImgPipeline"),
        idle=("time_proj", "time_embedding", "add_time_condition", "conv_in", "encoder_hid_proj"),
    ),
    # Flux 1: text first in what a block returns, also in the single-stream blocks
    BlockSpec(
        "FluxTransformer2DModel",
        (BlockList("transformer_blocks", _TEXT_HIDDEN), BlockList("single_transformer_blocks", _TEXT_HIDDEN)),
        pipelines=(
            "FluxPipeline",
            "FluxImg2ImgPipeline",
            "FluxInpaintPipeline",
            "FluxFillPipeline",
            "FluxControlPipeline",
            "FluxControlImg2ImgPipeline",
            "FluxControlInpaintPipeline",
            "FluxControlNetPipeline",
            "FluxControlNetImg2ImgPipeline",
            "FluxControlNetInpaintPipeline",
            "FluxKontextPipeline",
            "FluxKontextInpaintPipeline",
            "VisualClozeGenerationPipeline",
        ),
        idle=("pos_embed", "context_embedder", "x_embedder"),
    ),
    # Flux 2: text and image in one row of tokens in the single-stream blocks
    BlockSpec(
        "Flux2Transformer2DModel",
        (BlockList("transformer_blocks", _TEXT_HIDDEN), BlockList("single_transformer_blocks")),
        filling=("kv_cache_mode=extract",),
        pipelines=("Flux2Pipeline", "Flux2KleinPipeline", "Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline"),
        idle=(
            "pos_embed",
            "double_stream_modulation_img",
            "double_stream_modulation_txt",
            "single_stream_modulation",
            "x_embedder",
            "context_embedder",
        ),
    ),
    # Flux 3, of modular pipelines only: the few blocks on the text and on a reference, before, are no part of the stack
    BlockSpec(
        "Flux3Transformer2DModel",
        (BlockList("mode_blocks.image"), BlockList("single_transformer_blocks", _TEXT_HIDDEN)),
        idle=(
            "pos_embed",
            "early_stream_modulations",
            "single_stream_modulations",
            "x_embedders",
            "context_embedder",
            "txt_mode_blocks",
            "mode_blocks.image_cond",
        ),
    ),
    BlockSpec(
        "ChromaTransformer2DModel",
        (BlockList("transformer_blocks", _TEXT_HIDDEN), BlockList("single_transformer_blocks")),
        pipelines=("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline"),
        idle=("pos_embed", "context_embedder", "x_embedder"),
    ),
    BlockSpec(
        "BriaTransformer2DModel",
        (BlockList("transformer_blocks", _TEXT_HIDDEN), BlockList("single_transformer_blocks", _TEXT_HIDDEN)),
        guidance="batched",
        pipelines=("BriaPipeline",),
        idle=("pos_embed", "context_embedder", "x_embedder"),
    ),
    # half of the text's width is put in anew before every block
    BlockSpec(
        "BriaFiboTransformer2DModel",
        (BlockList("transformer_blocks", _TEXT_HIDDEN), BlockList("single_transformer_blocks")),
        guidance="batched",
        pipelines=("BriaFiboPipeline", "BriaFiboEditPipeline"),
        idle=("pos_embed", "context_embedder", "x_embedder", "caption_projection"),
    ),
    BlockSpec(
        "BriaFibo2Transformer2DModel",
        (BlockList("layers", _X),),
        decoded=_X,
        measured="x",
        pipelines=("BriaFibo2Pipeline",),
    ),
    BlockSpec(
        "LongCatImageTransformer2DModel",
        (BlockList("transformer_blocks", _TEXT_HIDDEN), BlockList("single_transformer_blocks", _TEXT_HIDDEN)),
        pipelines=("LongCatImagePipeline", "LongCatImageEditPipeline"),
        idle=("pos_embed", "context_embedder", "x_embedder"),
    ),
    BlockSpec(
        "OvisImageTransformer2DModel",
        (BlockList("transformer_blocks", _TEXT_HIDDEN), BlockList("single_transformer_blocks", _TEXT_HIDDEN)),
        pipelines=("OvisImagePipeline",),
        idle=("pos_embed", "context_embedder_norm", "context_embedder", "x_embedder"),
    ),
    # Qwen-Image
    BlockSpec(
        "QwenImageTransformer2DModel",
        (BlockList("transformer_blocks", _TEXT_HIDDEN),),
        pipelines=(
            "QwenImagePipeline",
            "QwenImageImg2ImgPipeline",
            "QwenImageInpaintPipeline",
            "QwenImageEditPipeline",
            "QwenImageEditInpaintPipeline",
            "QwenImageEditPlusPipeline",
            "QwenImageLayeredPipeline",
            "QwenImageControlNetPipeline",
            "QwenImageControlNetInpaintPipeline",
        ),
        idle=("pos_embed", "txt_norm", "img_in", "txt_in"),
    ),
    # the first step of a branch also fills a key-value cache, and has more tokens than the others
    BlockSpec(
        "QwenImage21Transformer2DModel",
        (BlockList("transformer_blocks"),),
        filling=("kv_cache_mode=extract",),
        pipelines=("QwenImage21Pipeline",),
    ),
    # Stable Diffusion 3: the last block returns no text
    BlockSpec(
        "SD3Transformer2DModel",
        (BlockList("transformer_blocks", _TEXT_HIDDEN),),
        guidance="batched",
        pipelines=(
            "StableDiffusion3Pipeline",
            "StableDiffusion3Img2ImgPipeline",
            "StableDiffusion3InpaintPipeline",
            "StableDiffusion3PAGPipeline",
            "StableDiffusion3PAGImg2ImgPipeline",
            "StableDiffusion3ControlNetPipeline",
            "StableDiffusion3ControlNetInpaintingPipeline",
        ),
        idle=("pos_embed", "context_embedder"),
    ),
    # AuraFlow
    BlockSpec(
        "AuraFlowTransformer2DModel",
        (BlockList("joint_transformer_blocks", _TEXT_HIDDEN), BlockList("single_transformer_blocks")),
        guidance="batched",
        pipelines=("AuraFlowPipeline",),
        idle=("pos_embed", "context_embedder"),
    ),
    # Sana
    BlockSpec(
        "SanaTransformer2DModel",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=(
            "SanaPipeline",
            "SanaPAGPipeline",
            "SanaControlNetPipeline",
            "SanaSprintPipeline",
            "SanaSprintImg2ImgPipeline",
        ),
        idle=("patch_embed", "time_embed.linear", "caption_projection", "caption_norm"),
    ),
    # DiT: after the blocks the first one's own `norm1.emb` is read, which is no call of the block
    BlockSpec(
        "DiTTransformer2DModel",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=("DiTPipeline",),
        idle=("pos_embed",),
    ),
    # PixArt
    BlockSpec(
        "PixArtTransformer2DModel",
        (BlockList("transformer_blocks"),),
        guidance="batched",
        pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline"),
        idle=("pos_embed", "adaln_single.linear", "caption_projection"),
    ),
    # Hunyuan-DiT: what the first half of the blocks returned is an argument (`skip`) of the second half
    BlockSpec(
        "HunyuanDiT2DModel",
        (BlockList("blocks"),),
        guidance="batched",
        pipelines=("HunyuanDiTPipeline", "HunyuanDiTPAGPipeline", "HunyuanDiTControlNetPipeline"),
        per_sample=False,
        idle=("text_embedder", "pos_embed"),
    ),
    # Lumina and what was made like it: refiners of text and image run before and are no part of the stack
    BlockSpec(
        "LuminaNextDiT2DModel",
        (BlockList("layers"),),
        guidance="batched",
        pipelines=("LuminaPipeline",),
        idle=("patch_embedder.proj",),
    ),
    BlockSpec("Lumina2Transformer2DModel", (BlockList("layers"),), pipelines=("Lumina2Pipeline",)),
    BlockSpec(
        "ZImageTransformer2DModel",
        (BlockList("layers", _X),),
        decoded=_X,
        measured="x",
        timestep="t",
        guidance="batched",
        pipelines=(
            "ZImagePipeline",
            "ZImageImg2ImgPipeline",
            "ZImageInpaintPipeline",
            "ZImageOmniPipeline",
            "ZImageControlNetPipeline",
            "ZImageControlNetInpaintPipeline",
        ),
        per_sample=False,
        idle=(
            "all_x_embedder",
            "noise_refiner",
            "context_refiner",
            "cap_embedder",
            "siglip_embedder",
            "siglip_refiner",
        ),
    ),
    # OmniGen
    BlockSpec("OmniGenTransformer2DModel", (BlockList("layers"),), guidance="batched", pipelines=("OmniGenPipeline",)),
    # CogView 3 and 4, GLM-Image
    BlockSpec(
        "CogView3PlusTransformer2DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        guidance="batched",
        pipelines=("CogView3PlusPipeline",),
        idle=("patch_embed",),
    ),
    BlockSpec(
        "CogView4Transformer2DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        pipelines=("CogView4Pipeline", "CogView4ControlPipeline"),
        idle=("rope", "patch_embed"),
    ),
    BlockSpec(
        "GlmImageTransformer2DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT),),
        pipelines=("GlmImagePipeline",),
        aside=("kv_caches.caches.0.mode=write",),
    ),
    # Hunyuan Image
    BlockSpec(
        "HunyuanImageTransformer2DModel",
        (BlockList("transformer_blocks", _HIDDEN_TEXT), BlockList("single_transformer_blocks", _HIDDEN_TEXT)),
        pipelines=("HunyuanImagePipeline", "HunyuanImageRefinerPipeline"),
    ),
    # HiDream: the language model's tokens of each layer are put in before a block and cut off after it
    BlockSpec(
        "HiDreamImageTransformer2DModel",
        (BlockList("double_stream_blocks", _HIDDEN_TEXT), BlockList("single_stream_blocks")),
        timestep="timesteps",
        guidance="batched",
        pipelines=("HiDreamImagePipeline",),
        per_sample=False,
        idle=("x_embedder", "pe_embedder", "caption_projection"),
    ),
    # PRX
    BlockSpec(
        "PRXTransformer2DModel",
        (BlockList("blocks"),),
        guidance="batched",
        pipelines=("PRXPipeline", "PRXPixelPipeline"),
        idle=("pe_embedder", "img_in", "txt_in"),
    ),
    # Ernie-Image: tokens come before the batch
    BlockSpec(
        "ErnieImageTransformer2DModel",
        (BlockList("layers", _X),),
        decoded=_X,
        measured="x",
        batch_axis=1,
        guidance="batched",
        pipelines=("ErnieImagePipeline",),
        idle=("x_embedder", "text_proj", "pos_embed", "adaLN_modulation"),
    ),
    # Krea 2
    BlockSpec(
        "Krea2Transformer2DModel",
        (BlockList("transformer_blocks"),),
        pipelines=("Krea2Pipeline",),
        idle=("img_in", "time_mod_proj", "text_fusion", "txt_in", "rotary_emb"),
    ),
    # Ideogram 4: a denoiser of its own for the unconditional branch
    BlockSpec(
        "Ideogram4Transformer2DModel",
        (BlockList("layers"),),
        pipelines=("Ideogram4Pipeline",),
        idle=("input_proj", "llm_cond_norm", "llm_cond_proj", "embed_image_indicator", "rotary_emb"),
    ),
    # Nucleus
    BlockSpec(
        "NucleusMoEImageTransformer2DModel",
        (BlockList("transformer_blocks"),),
        pipelines=("NucleusMoEImagePipeline",),
        idle=("pos_embed", "txt_norm", "img_in"),
    ),
    # native code of the papers' own repositories
    # Open-Sora doubles the latents of a batch for guidance, and neither the text's mask nor the sizes: not to be cut
    BlockSpec(
        "STDiT",
        (BlockList("blocks", _X),),
        decoded=_X,
        measured="x",
        entry="forward",
        guidance="batched",
        per_sample=False,
        home="opensora.models.stdit",
        sources="hpcaitech/Open-Sora v1.0.0",
    ),
    BlockSpec(
        "STDiT2",
        (BlockList("blocks", _X),),
        decoded=_X,
        measured="x",
        entry="forward",
        guidance="batched",
        per_sample=False,
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
        per_sample=False,
        home="opensora.models.stdit",
        sources="hpcaitech/Open-Sora v1.2.0, v1.3",
    ),
    # text and video are joined between the lists, and the single-stream blocks call both together `x`
    BlockSpec(
        "MMDiTModel",
        (BlockList("double_blocks", ("img", "txt"), measured="img"), BlockList("single_blocks", _X)),
        decoded=_X,
        measured="x",
        timestep="timesteps",
        guidance="batched",
        home="opensora.models.mmdit",
        sources="hpcaitech/Open-Sora 7ad6a96 (2.0)",
    ),
    BlockSpec(
        "HYVideoDiffusionTransformer",
        (BlockList("double_blocks", ("img", "txt"), measured="img"), BlockList("single_blocks", _X)),
        decoded=_X,
        measured="x",
        timestep="t",
        guidance="batched",
        pipelines=("HunyuanVideoPipeline",),
        home="hyvideo.modules",
        sources="Tencent/HunyuanVideo fa14b00",
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
        batch_axis=1,
    ),
    # one list of spatial and temporal blocks in turn
    BlockSpec(
        "Latte",
        (BlockList("blocks", _X),),
        decoded=_X,
        measured="x",
        timestep="t",
        entry="forward",
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
        per_sample=False,
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
        per_sample=False,
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
        per_sample=False,
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
        per_sample=False,
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
        skips="skip_layer_mask",
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
    # MAGI-1: one of the three forwards of a step fills the key-value cache; a batch is of chunks, or of nothing
    BlockSpec(
        "VideoDiTModel",
        (BlockList("videodit_blocks.layers"),),
        timestep="t",
        aside=("inference_params.update_kv_cache",),
        entry="forward",
        per_sample=False,
        batch_axis=1,
        home="inference.model.dit",
        sources="SandAI-org/MAGI-1 2d21d8d",
    ),
    # CogVideo on SwissArmyTransformer, which never calls its layers, but a hook with the number of each
    BlockSpec(
        "DiffusionTransformer",
        (BlockList("transformer.layers", hook="hooks.layer_forward", index="layer_id"),),
        timestep="timesteps",
        guidance="batched",
        home="dit_video_concat",
        sources="THUDM/CogVideo db49807 (sat)",
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
        per_sample=False,
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
