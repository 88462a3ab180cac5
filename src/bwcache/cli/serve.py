"""``bwcache serve``: a model behind HTTP, with a page to watch each step being computed or reused."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import Any

from bwcache.cli.choices import check_options
from bwcache.cli.loading import read
from bwcache.cli.on_ray import wants_cuda
from bwcache.cli.orders import OrderReader
from bwcache.cli.output import absolute
from bwcache.cli.progress import Bars
from bwcache.cli.settings import ServeSettings


def run_serve(settings: ServeSettings) -> None:
    """Serve until interrupted."""
    check_options(settings)
    from bwcache.measure.load import check_device
    from bwcache.report.videos import check_rate
    from bwcache.serve.address import reserve
    from bwcache.serve.app import make_app
    from bwcache.serve.desk import Desk
    from bwcache.serve.figures import Figures
    from bwcache.serve.shelf import Shelf
    from bwcache.serve.web import serve

    with reserve(settings.host, settings.port) as opened:
        reader = OrderReader(settings, "cpu" if settings.ray else check_device(settings.device, settings.offload))
        about = reader.about()
        check_rate(reader.read({"prompt": "a"}).fps)
        shelf = Shelf(None if settings.folder is None else absolute(settings.folder), settings.keep)
        with _maker(settings) as maker:
            figures = Figures()
            hands = 1 if settings.ray is None else settings.replicas
            desk = Desk(maker, shelf, figures, hands, settings.queue, settings.batch)
            app = make_app(desk, maker, shelf, figures, reader.read, about)
            where = f"http://{settings.host}:{opened.getsockname()[1]}"
            said = f"bwcache: {settings.model} at {where}"
            serve(app, desk, opened, lambda: print(said, file=sys.stderr, flush=True))


def load(settings: ServeSettings, device: str) -> Any:
    """Return the pipeline, with its weights; runs where the videos are made."""
    from rich.console import Console

    from bwcache.measure.schedulers import named_scheduler, replaced

    with Bars(Console(stderr=True, markup=False, emoji=False)) as bars:
        pipe = read(settings, device, bars)
    if settings.scheduler is not None:
        pipe.scheduler = replaced(pipe.scheduler, *named_scheduler(settings.scheduler))
    return pipe


def make_pipeline(settings: ServeSettings) -> Any:
    """Return a loaded `Pipeline`."""
    from bwcache.measure.load import check_device
    from bwcache.serve.pipeline import Pipeline

    device = check_device(settings.device, settings.offload)
    return Pipeline(load(settings, device), settings.memory, settings.max_memory)


def _maker(settings: ServeSettings) -> contextlib.AbstractContextManager[Any]:
    """Gives who makes the videos."""
    if settings.ray is None:
        return contextlib.nullcontext(make_pipeline(settings))
    from bwcache.serve.replicas import deployed

    load = functools.partial(make_pipeline, settings)
    return deployed(load, settings.ray, settings.replicas, wants_cuda(settings.device, settings.ray))
