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
    BlockSpec("LTXVideoTransformer3DModel", (BlockList("transformer_blocks"),)),
    BlockSpec("MochiTransformer3DModel", (BlockList("transformer_blocks", _HIDDEN_TEXT),)),
    BlockSpec("AllegroTransformer3DModel", (BlockList("transformer_blocks"),)),
)

_BY_MODEL = {row.model: row for row in ROWS}


def row(model: str) -> BlockSpec | None:
    """The row of a denoiser class, by its name."""
    return _BY_MODEL.get(model)


def supported() -> tuple[str, ...]:
    """Class names of the denoisers in the table."""
    return tuple(_BY_MODEL)
