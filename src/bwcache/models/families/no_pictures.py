"""What makes no pictures, or does not denoise: classes without a row, and why."""

from __future__ import annotations

_SOUND = "it makes sound and no pictures, and nothing was measured on it"

REFUSED = {
    "AceStepTransformer1DModel": _SOUND,
    "AudioLDM2UNet2DConditionModel": _SOUND,
    "LongCatAudioDiTTransformer": _SOUND,
    "MiniMaxMusic3Transformer1DModel": _SOUND,
    "StableAudioDiTModel": _SOUND,
    "StableAudio3DiTModel": _SOUND,
    "T5FilmDecoder": _SOUND,
    "MiniMaxMusic3RVQDepthDecoder": "it writes the codes of a sound one after the other and denoises nothing",
    "RFD4ProteinaTransformer": "it makes protein structures and no pictures, and nothing was measured on it",
    "PriorTransformer": "it makes the embedding of an image, a few tokens, and takes little time beside the decoder",
    "UVit2DModel": "it fills in masked tokens of an image, other ones in each step, and removes no noise",
}
