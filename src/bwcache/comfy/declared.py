"""What of an input's declaration is not the same in all of ComfyUI's versions."""

from __future__ import annotations

from typing import Any


def advanced(declared: Any) -> Any:
    """Return an input that the front end shows among the advanced ones: the older ComfyUI takes no word for that."""
    declared.extra_dict = {**(getattr(declared, "extra_dict", None) or {}), "advanced": True}
    return declared
