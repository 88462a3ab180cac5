"""A loaded pipeline that is known to fit the options."""

from __future__ import annotations

from typing import Any

from bwcache.cli.choices import Choices, check_fits
from bwcache.cli.progress import Bars, quiet_libraries
from bwcache.cli.settings import Asked


def load(settings: Asked, choices: Choices, bars: Bars) -> tuple[Any, Choices]:
    """Read the weights, and check once more what was checked without them; with the choices as they are for this model.

    Raises:
        SettingError: it cannot be read, or cannot do what is asked.
        AttachError: it has no blocks that could be reused.
    """
    from bwcache.engine.made_for import other_weights
    from bwcache.measure.call import pipeline_arguments

    pipe = read(settings, choices.device, bars)
    with bars.loading(settings.model), quiet_libraries():
        choices = check_fits(pipe, choices)
        other = None if choices.file is None else other_weights(pipe, choices.file)
    if other is not None:
        bars.say(other)
    pipeline_arguments(pipe, choices.requests()[0])
    return pipe, choices


def read(settings: Asked, device: str, bars: Bars) -> Any:
    """Return the pipeline that is named, with its weights, silent.

    Raises:
        SettingError: it cannot be read.
    """
    from bwcache.measure.load import load_pipeline

    with bars.loading(settings.model), quiet_libraries():
        pipe = load_pipeline(settings.model, device, settings.dtype, settings.offload)
    pipe.set_progress_bar_config(disable=True)
    return pipe
