"""Where the blocks of a ComfyUI model are: its row in the table, or the denoiser as a whole."""

from __future__ import annotations

import inspect
from typing import Any

from bwcache.errors import AttachError, complaint
from bwcache.models import BlockSpec, table, uncompiled

PAIRS = ("LTXAVModel",)
"""Classes whose latents are a list of picture and sound: no tensor that could be kept."""


def row_of(module: Any) -> BlockSpec:
    """Return the row of a `diffusion_model`: that of its class, or one without blocks.

    Raises:
        AttachError: its latents are no tensor, or its forward does not begin with latents and time.
    """
    kind = type(uncompiled(module))
    if any(base.__name__ in PAIRS for base in kind.__mro__):
        raise AttachError(
            complaint(
                f"a {kind.__name__}, whose latents are picture and sound in one list",
                "a model of one tensor of latents",
                "use the model without this node",
            )
        )
    return table.row_of(kind) or _as_a_whole(kind)


def _as_a_whole(kind: type) -> BlockSpec:
    names = [name for name in inspect.signature(kind.forward).parameters if name != "self"]  # type: ignore[attr-defined]
    if len(names) < 2 or not names[1].startswith(("t", "sigma")):
        raise AttachError(
            complaint(
                f"a {kind.__name__} of {kind.__module__}, whose forward takes {', '.join(names) or 'nothing'}",
                "latents and then the time, as ComfyUI calls every diffusion model",
                "use the model without this node",
            )
        )
    return BlockSpec(
        kind.__name__, (), latents=names[0], timestep=names[1], guidance="either", module_prefix=kind.__module__
    )
