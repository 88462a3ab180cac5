"""The rows of the model table, one file per family.

To add a model, add its row to the file of its family, or a file to the list below: `ROWS` are the classes that it has,
`REFUSED` the classes that will have none, with the reason, one sentence that goes on where "it has no row:" stops.
CONTRIBUTING.md shows how to fill a row.
"""

from __future__ import annotations

from bwcache.models.families import (
    cog,
    comfyui,
    cosmos,
    flux,
    hunyuan,
    kandinsky,
    ltx,
    lumina,
    mochi,
    no_pictures,
    open_sora,
    others,
    pixart,
    qwen,
    sana,
    sd3,
    servers,
    unets,
    wan,
)
from bwcache.models.spec import BlockSpec

ROWS: tuple[BlockSpec, ...] = tuple(
    row
    for family in (
        wan,
        hunyuan,
        cog,
        ltx,
        mochi,
        cosmos,
        kandinsky,
        sana,
        open_sora,
        pixart,
        unets,
        flux,
        qwen,
        sd3,
        lumina,
        others,
        comfyui,
        servers,
    )
    for row in family.ROWS
)

REFUSED: dict[str, str] = {**no_pictures.REFUSED, **sana.REFUSED, **unets.REFUSED}
