"""What the scripts share: captions, videos, and JSON that says on what it was measured."""

from __future__ import annotations

import json
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bwcache
from bwcache import shapes
from bwcache.measure.call import Call, Request, call
from bwcache.measure.environment import environment
from training.data import split


def captions(count: int) -> list[str]:
    """Captions that the shapes model was not trained on, always the same ones."""
    return [caption.text for caption in split()[1][:count]]


def request(prompt: str, steps: int = shapes.STEPS, seed: int = 0) -> Request:
    """A video of the shapes model at its own size and guidance."""
    return Request(prompt, steps, seed, shapes.GUIDANCE_SCALE, shapes.HEIGHT, shapes.WIDTH, shapes.FRAMES)


def load() -> Any:
    """The shapes model, silent."""
    pipe: Any = shapes.load()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def cached(pipe: Any, policy: bwcache.Policy[Any], asked: Request, timing: bool = True) -> tuple[Call, bwcache.Trace]:
    """One call under a policy, and its trace."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=bwcache.NeverReused)
        with bwcache.attach(pipe, policy, timing=timing) as session:
            made = call(pipe, asked)
    return made, session.trace


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, median, and the ends."""
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def publish(pipe: Any, figures: dict[str, Any], out: Path | None) -> None:
    """Prints the figures with the machine, and writes them to a file if one is given."""
    text = json.dumps({"environment": environment(pipe), **figures}, indent=1)
    sys.stdout.write(text + "\n")
    if out is not None:
        partial = out.with_name(f".{out.name}.tmp")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(out)
