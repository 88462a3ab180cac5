"""Settings that were published for a model and are taken where nobody says others; with their source.

A row names a class as the model table does; a class with no row here has none. These are those of BWCache. What is
published of other methods stands beside their rule, in the policy's own file (`policies/published.py`).

The paper publishes one setting, its default mode, for all of its five models. For Wan 2.1 and HunyuanVideo, whose
attention is over space and time at once, it measures the indicator at a selection of the blocks, to keep it cheap, and
does not say which. Here all blocks are measured there too: a sample of each costs less than whole outputs of a few, and
the mean stays that of Eq. 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bwcache.models import denoisers
from bwcache.models.spec import BlockSpec
from bwcache.models.table import row_of
from bwcache.policies.base import Policy
from bwcache.policies.bwcache import BWCache

_PAPER = "arXiv 2509.13789 v3, default mode"
_DEFAULT_MODE = {"threshold": 0.15, "reuse_interval": 0.10, "tail_guard": 0.5}
_FULL_ATTENTION = {**_DEFAULT_MODE, "blocks": None}


@dataclass(frozen=True)
class Preset:
    """What was published for one model and one method.

    Attributes:
        model: class name of the denoiser.
        method: class name of the policy.
        settings: values by the names of the policy's fields; what is not named was not published.
        source: where they stand, and for which checkpoint, length and size of the video.
        module_prefix: as in the model's row.
    """

    model: str
    method: str
    settings: Mapping[str, Any] = field(hash=False)
    source: str
    module_prefix: str = "diffusers."


def _bwcache(source: str, settings: Mapping[str, Any], *classes: tuple[str, str]) -> tuple[Preset, ...]:
    """The rows of one of the paper's models, one for each class that runs it."""
    return tuple(
        Preset(model, "BWCache", settings, f"{_PAPER}: {source}", module_prefix) for model, module_prefix in classes
    )


PRESETS: tuple[Preset, ...] = (
    *_bwcache(
        "Open-Sora 1.2, 51 frames, 480p",
        _DEFAULT_MODE,
        ("STDiT3", "opensora.models.stdit"),
        ("STDiT3", "videosys.models"),
    ),
    *_bwcache(
        "Open-Sora-Plan, 65 frames, 512 x 512",
        _DEFAULT_MODE,
        ("LatteT2V", "opensora.models.diffusion.latte"),
    ),
    # VideoSys runs Latte and Open-Sora-Plan 1.1 by one class
    *_bwcache(
        "Latte, 16 frames, 512 x 512",
        _DEFAULT_MODE,
        ("LatteTransformer3DModel", "diffusers."),
        ("LatteT2V", "models.latte_t2v"),
        ("LatteT2V", "videosys.models"),
    ),
    *_bwcache(
        "Wan 2.1, 81 frames, 480p",
        _FULL_ATTENTION,
        ("WanTransformer3DModel", "diffusers."),
        ("WanModel", "wan.modules"),
    ),
    *_bwcache(
        "HunyuanVideo, 129 frames, 544p",
        _FULL_ATTENTION,
        ("HunyuanVideoTransformer3DModel", "diffusers."),
        ("HYVideoDiffusionTransformer", "hyvideo.modules"),
    ),
)

_BY_CLASS = {(preset.module_prefix, preset.model, preset.method): preset for preset in PRESETS}


def preset_of(row: BlockSpec | None, method: str = "BWCache") -> Preset | None:
    """The published settings for a row of the model table, if there are any."""
    return None if row is None else _BY_CLASS.get((row.module_prefix, row.model, method))


def preset(target: Any, **settings: Any) -> BWCache:
    """BWCache with the settings published for the target's model, and with its defaults where none are.

    Args:
        target: a diffusers pipeline, or the denoiser alone.
        settings: fields of `BWCache`; what is given here wins over what was published.

    Raises:
        NoBlocksFoundError: none of the pipeline's components is in the table.
        AttachError: the target is neither a pipeline nor a module.
        SettingError: a value outside its range.
    """
    found = published(target)
    return BWCache(**{**(found.settings if found else {}), **settings})


def published(target: Any, method: str = "BWCache") -> Preset | None:
    """What was published for the target's model: of the first of its denoisers for which anything was."""
    found = (preset_of(row_of(type(module)), method) for module in denoisers(target).values())
    return next((one for one in found if one), None)


def source(target: Any, policy: Policy[Any]) -> str | None:
    """Where the policy's settings are published for this model; None where they are not, or where they were changed."""
    found = published(target, type(policy).__name__)
    if found is None or any(getattr(policy, name) != value for name, value in found.settings.items()):
        return None
    return found.source
