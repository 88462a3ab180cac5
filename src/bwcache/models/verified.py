"""What the conformance suite has shown, for each row of the model table.

The facts are in `verified.json`, which `python -m tests.conformance.record` writes after running the suite.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bwcache.models.spec import BlockSpec

PATH = Path(__file__).with_name("verified.json")


@dataclass(frozen=True)
class Verified:
    """What passed every law of the suite.

    Attributes:
        model: whether the denoiser did, bare, with a tiny config and random weights.
        pipelines: class names of the pipelines that did, with tiny components.
    """

    model: bool = False
    pipelines: tuple[str, ...] = ()


def key(row: BlockSpec) -> str:
    """A name for a row that no other has: where its class comes from, and the class."""
    return f"{row.module_prefix.rstrip('.')}.{row.model}"


def verified(row: BlockSpec) -> Verified:
    """What was shown for a row; nothing, where the suite does not know it."""
    found = facts().get(key(row), {})
    return Verified(bool(found.get("model")), tuple(found.get("pipelines", ())))


@cache
def facts() -> dict[str, dict[str, Any]]:
    """By `key`: "model", the names of the suite's cases, and "pipelines", those of each pipeline class."""
    loaded: dict[str, dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))
    return loaded
