"""What a policy in a file was made for, as it is held against what the file is attached to."""

from __future__ import annotations

from typing import Any

from bwcache.engine.clock.level import predicted_by
from bwcache.errors import SettingError, complaint
from bwcache.models import BlockSpec, denoisers
from bwcache.models.table import row_of
from bwcache.models.weights import architecture, weight_sample


def made_for(pipe: Any, identical: dict[str, Any], name: str, steps: int) -> dict[str, Any]:
    """Return the model, its weights, its scheduler and the request, ready for JSON.

    Args:
        pipe: with one denoiser, and its weights.
        identical: what `identity` says of it and the request.
        name: of the model, as a person gave it.
        steps: of each run.
    """
    module = next(iter(denoisers(pipe).values()))
    sample = weight_sample(module)
    return {
        "model": name,
        "pipeline": type(pipe).__name__,
        "denoiser": type(module).__name__,
        "weights": identical["weights"],
        "weight_sample": None if sample is None else sample.to_json(),
        "architecture": architecture(module),
        "scheduler": {
            "class": type(pipe.scheduler).__name__,
            "predicts": predicted_by(pipe.scheduler),
            "settings": identical["model"]["schedule"],
        },
        "request": identical["request"],
        "steps": steps,
    }


def only_denoiser(pipe: Any) -> tuple[str, BlockSpec]:
    """Return the class of a pipeline's one denoiser, and its row.

    Raises:
        SettingError: there are several, or there is no row.
    """
    modules = denoisers(pipe)
    if len(modules) != 1:
        found = f"{len(modules)} denoisers ({', '.join(modules)}) in {type(pipe).__name__}"
        raise SettingError(complaint(found, "one", "name a pipeline with a single one"))
    module = next(iter(modules.values()))
    spec = row_of(type(module))
    if spec is None:
        found = f"{type(module).__name__}, which has no row in the table of models"
        raise SettingError(complaint(found, "a model that is known", "see them: bwcache models"))
    return type(module).__name__, spec
