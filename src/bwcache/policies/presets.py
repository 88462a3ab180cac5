"""Policies with the settings that were published for a model."""

from __future__ import annotations

from typing import Any

from bwcache.models import denoisers
from bwcache.models.published import Preset, preset_of
from bwcache.models.table import row_of
from bwcache.policies.base import Policy
from bwcache.policies.bwcache import BWCache


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
