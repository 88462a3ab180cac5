"""What blocks of several families have in common: the streams that they return, the parts that they call."""

from __future__ import annotations

from bwcache.models.spec import BlockList, Part

Parts = dict[str, str | Part]

X = ("x",)
HIDDEN_TEXT = ("hidden_states", "encoder_hidden_states")
TEXT_HIDDEN = ("encoder_hidden_states", "hidden_states")

OUT = Part("proj_out", ("output",), outlined=True)
"""The projection that takes what attention and feed-forward net made side by side."""

SELF_CROSS: Parts = {"self": "attn1", "cross": "attn2", "ffn": "ff"}
DUAL: Parts = {"joint": Part("attn", HIDDEN_TEXT), "ffn": "ff", "text_ffn": "ff_context"}
DUAL_X: Parts = {"joint": Part("attn", HIDDEN_TEXT), "ffn": Part("ff", X), "text_ffn": Part("ff_context", X)}
SINGLE: Parts = {"joint": "attn", "out": OUT}
SINGLE_TEXT: Parts = {"joint": Part("attn", HIDDEN_TEXT), "out": OUT}

SIDE_BY_SIDE = "in single-stream blocks the feed-forward net is no module: its layers run beside the attention"
IN_ONE = "in single-stream blocks attention and feed-forward net are one module"
NATIVE = "native code was run as look-alikes only, whose blocks have parts of their own"


def after_norm(path: str, name: str = "norm1") -> str:
    """Return the path of what a block's first norm makes of the picture, scaled and shifted by the time."""
    return f"{path}.0.{name}[0]"


def blocks(path: str = "blocks", *returns: str) -> BlockList:
    """Return a list of blocks of native code; no name: they return `x`."""
    return BlockList(path, returns or X, parts_missing=NATIVE)
