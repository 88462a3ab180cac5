"""Counts for how many models of the zoo `discover` finds the row by itself: `python -m tests.conformance.discovered`.

Printed with the reason or the difference for each of the others; the totals stand in docs/unknown.md.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bwcache import NotProvenError, discover
from bwcache.models import resolve

SAME = "the same blocks"


def verdict(model: Any) -> str:
    """`SAME`, another stack with the numbers of blocks, or why the model was refused."""
    module = model.build()
    try:
        row = discover(module, model.inputs(0.0))
    except NotProvenError as error:
        return f"refused: {error}"
    known, found = (resolve("model", module, spec).blocks for spec in (None, row))
    if [block.module for block in known] == [block.module for block in found]:
        return SAME
    return f"{len(found)} blocks in place of {len(known)}"


@contextmanager
def attention_as_before() -> Iterator[None]:
    """A model may set diffusers' process-wide attention backend; the next one is to find it as it was."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before = registry._active_backend
    try:
        yield
    finally:
        registry._active_backend = before


def main() -> None:
    from tests.zoo import MODELS

    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    found = {}
    for model in MODELS:
        with attention_as_before():
            found[model.name] = verdict(model)
        if found[model.name] != SAME:
            print(f"{model.name}: {found[model.name].partition('; guessed ')[0]}", flush=True)
    refused = sum(text.startswith("refused") for text in found.values())
    same = sum(text == SAME for text in found.values())
    print(f"{len(found)} models: the same blocks in {same}, another stack in {len(found) - same - refused}, ", end="")
    print(f"refused {refused}")


if __name__ == "__main__":
    main()
