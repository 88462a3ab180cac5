"""Where the blocks of a ComfyUI model are: its row in the table, or the denoiser as a whole."""

from __future__ import annotations

import inspect
from typing import Any

from bwcache.errors import AttachError, complaint
from bwcache.models import BlockSpec, table, uncompiled


def row_of(module: Any) -> BlockSpec:
    """Return the row of a `diffusion_model`: that of its class, or one without blocks.

    Raises:
        AttachError: its forward does not begin with latents and time.
    """
    kind = type(uncompiled(module))
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
        kind.__name__,
        (),
        latents=names[0],
        latents_listed=True,
        timestep=names[1],
        guidance="either",
        module_prefix=kind.__module__,
    )
