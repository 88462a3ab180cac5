"""Denoiser and other classes of diffusers that have no row, and why."""

from __future__ import annotations

_SOUND = "it makes sound and no pictures, and nothing was measured on it"

REFUSED: dict[str, str] = {
    "AceStepTransformer1DModel": _SOUND,
    "AudioLDM2UNet2DConditionModel": _SOUND,
    "LongCatAudioDiTTransformer": _SOUND,
    "MiniMaxMusic3Transformer1DModel": _SOUND,
    "StableAudioDiTModel": _SOUND,
    "StableAudio3DiTModel": _SOUND,
    "T5FilmDecoder": _SOUND,
    "MiniMaxMusic3RVQDepthDecoder": "it writes the codes of a sound one after the other and denoises nothing",
    "RFD4ProteinaTransformer": "it makes protein structures and no pictures, and nothing was measured on it",
    "UNet1DModel": "it makes sequences, such as sound or the plans of a robot, and nothing was measured on it",
    "PriorTransformer": "it makes the embedding of an image, a few tokens, and takes little time beside the decoder",
    "UVit2DModel": "it fills in masked tokens of an image, other ones in each step, and removes no noise",
    "SanaWMLTX2RefinerTransformer3DModel": (
        "it refines in three steps, by a model distilled for that, so that no step is like the one before it"
    ),
    "DualTransformer2DModel": "it is a part of a block of a U-Net and no denoiser",
    "Transformer2DModel": "it is a part of a block of a U-Net; transformers that denoise have classes of their own",
    "TransformerTemporalModel": "it is a part of a block of a U-Net and no denoiser",
    "DreamLiteTransformer2DModel": "it is a part of a block of a U-Net and no denoiser",
    "MotionAdapter": "it holds weights that AnimateDiff puts into its U-Net, and is never run",
    "UNetControlNetXSModel": "its blocks are a U-Net's and a ControlNet's in one and hand on the streams of both",
    "StableCascadeUNet": "its stages are lists of blocks of three kinds that run several times each, by a map",
}
"""Class name to the reason, one sentence, that goes on where "it has no row:" stops."""


def reason_of(kind: type) -> str | None:
    """Why a class, or one that it derives from, has no row; None where nothing was decided."""
    names = (base.__name__ for base in kind.__mro__ if base.__module__.startswith("diffusers."))
    return next((REFUSED[name] for name in names if name in REFUSED), None)
