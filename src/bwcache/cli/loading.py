"""A loaded pipeline that is known to fit the options."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from bwcache.cli.choices import Choices
from bwcache.cli.progress import Bars, quiet_libraries
from bwcache.cli.settings import Asked
from bwcache.errors import NeverReused, SettingError, complaint


def load(settings: Asked, choices: Choices, bars: Bars) -> tuple[Any, Choices]:
    """Read the model and check that it can do what is asked; with the choices as they are for this model.

    Raises:
        SettingError: it cannot be read, takes no prompt, or cannot make these sizes.
        AttachError: it has no blocks that could be reused.
    """
    from bwcache.engine import attach
    from bwcache.measure.call import Request, pipeline_arguments
    from bwcache.measure.load import load_pipeline
    from bwcache.measure.sizes import check_sizes

    with bars.loading(settings.model), quiet_libraries():
        pipe = load_pipeline(settings.model, choices.device, settings.dtype, settings.offload)
    choices = choices.of(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeverReused)
        with attach(pipe, choices.policy):
            pass
    if "prompt" not in inspect.signature(type(pipe).__call__).parameters:
        found = f"{type(pipe).__name__}, which takes no prompt"
        raise SettingError(complaint(found, "a pipeline that makes videos from text", "name another --model"))
    check_sizes(pipe, choices.height, choices.width, choices.frames)
    pipeline_arguments(pipe, requests(settings, choices, Request)[0])
    pipe.set_progress_bar_config(disable=True)
    return pipe, choices


def requests(settings: Asked, choices: Choices, make: Any) -> list[Any]:
    """One request per prompt."""
    sizes = (choices.guidance_scale, choices.height, choices.width, choices.frames)
    return [make(prompt, choices.steps, settings.seed, *sizes) for prompt in choices.prompts]
