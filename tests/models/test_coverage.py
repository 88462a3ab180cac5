"""Every denoiser class of diffusers is in the table or refused with a reason: a new release shows what is missing."""

import inspect
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models import transformers, unets

from bwcache.models.refused import REFUSED, reason_of
from bwcache.models.table import ROWS, row_of

PACKAGES = ("diffusers.models.transformers.", "diffusers.models.unets.")


def _named() -> Iterator[Any]:
    """Public names of diffusers that may be denoisers, without importing the pipelines."""
    for name in dir(diffusers):
        in_name = ("Transformer" in name or "UNet" in name) and not name.endswith(("Pipeline", "Mixin"))
        if in_name or diffusers._class_to_module.get(name) == "models":
            yield getattr(diffusers, name)
    for package in (transformers, unets):
        yield from vars(package).values()


def _denoiser(thing: object) -> bool:
    if not inspect.isclass(thing) or not issubclass(thing, torch.nn.Module):
        return False
    return "Transformer" in thing.__name__ or "UNet" in thing.__name__ or thing.__module__.startswith(PACKAGES)


CLASSES = sorted({thing for thing in _named() if _denoiser(thing)}, key=lambda kind: kind.__name__)


def test_the_list_is_diffusers_own() -> None:
    names = {kind.__name__ for kind in CLASSES}
    assert len(names) >= 80
    assert {"WanTransformer3DModel", "UNetMotionModel", "AudioLDM2UNet2DConditionModel", "HunyuanDiT2DModel"} <= names


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_class_has_a_row_or_a_reason(kind: type) -> None:
    row, reason = row_of(kind), reason_of(kind)
    assert row or reason, f"{kind.__name__}: add a row to its family in models/families, or a reason to its REFUSED"
    assert not (row and reason), f"{kind.__name__} has the row of {row.model} and is refused: {reason}"


def test_what_is_refused_is_still_there() -> None:
    assert set(REFUSED) <= {kind.__name__ for kind in CLASSES}
    assert not set(REFUSED) & {row.model for row in ROWS}


@pytest.mark.parametrize("name", REFUSED)
def test_a_reason_is_a_sentence_that_goes_on(name: str) -> None:
    reason = REFUSED[name]
    assert reason[0].islower()
    assert not reason.endswith(".")
    assert len(reason.split()) >= 6


def test_a_class_that_derives_from_a_refused_one_is_refused() -> None:
    assert reason_of(type("Mine", (diffusers.PriorTransformer,), {})) == REFUSED["PriorTransformer"]
    stranger = type("PriorTransformer", (torch.nn.Module,), {"__module__": "somewhere.else"})
    assert reason_of(stranger) is None
