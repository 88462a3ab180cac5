"""Where the blocks of a ComfyUI model are: its row in the table, or the denoiser as a whole."""

from __future__ import annotations

import inspect
from typing import Any

from bwcache.engine.fitting import refused
from bwcache.engine.plan import Plan
from bwcache.errors import AttachError, SettingError, complaint
from bwcache.models import BlockSpec, resolve, table, uncompiled
from bwcache.policies import Policy


def row_of(module: Any) -> BlockSpec:
    """Return the row of a `diffusion_model`: that of its class, or one without blocks.

    Raises:
        AttachError: its forward does not begin with latents and time.
    """
    kind = type(uncompiled(module))
    return table.row_of(kind) or _as_a_whole(kind)


def expect_carried(policy: Policy[Any], module: Any, row: BlockSpec) -> Plan:
    """Return what a policy asks of a model that lies as a row says.

    Raises:
        BWCacheError: the policy does not fit this model.
    """
    stack = resolve("diffusion_model", module, row)
    try:
        return Plan.of(policy, stack, timing=False)
    except (AttachError, SettingError) as error:
        raise refused(error, lambda other: Plan.of(other, stack, timing=False)) from error


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
