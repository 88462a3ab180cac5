"""What the scripts share: captions, videos, and JSON that says on what it was measured."""

from __future__ import annotations

import functools
import hashlib
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import bwcache
from bwcache import shapes
from bwcache.core.files import write_text
from bwcache.measure.call import Call, Request, call
from bwcache.measure.environment import environment
from bwcache.models import denoisers
from bwcache.study.folder import Folder
from bwcache.study.study import identity
from training.data import split

RUNS = Path(__file__).resolve().parent.parent / "experiments" / "runs"
"""Where scripts keep what they have, so that they go on where they were stopped."""


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
        warnings.simplefilter("ignore", category=bwcache.NeverReusedWarning)
        with bwcache.attach(pipe, policy, timing=timing) as session:
            made = call(pipe, asked)
    return made, session.trace


@functools.cache
def code() -> str:
    """Return a name for the code that makes videos: the same as long as no byte of it changes."""
    seen = hashlib.sha256()
    root = Path(bwcache.__file__).parent
    for part in ("core", "engine", "features", "models", "policies"):
        for path in sorted((root / part).rglob("*.py")):
            seen.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return seen.hexdigest()[:16]


def commit() -> dict[str, str] | None:
    """Return the commit of the code and its date, as YYYY-MM-DD; None where it is no clone."""
    asked = ["git", "-C", str(Path(__file__).parent), "log", "-1", "--format=%h %cs"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return None
    return dict(zip(("name", "date"), told, strict=True))


class Kept:
    """What the parts of a script found, kept as long as the code and the machine that make videos are the same.

    Args:
        pipe: of which the parts are.
        name: of the script.
    """

    def __init__(self, pipe: Any, name: str) -> None:
        self._folder = Folder(RUNS / name, identity(pipe, request("")))

    def part(self, make: Callable[[], dict[str, Any]], *key: Any) -> dict[str, Any]:
        """Return what `make` returns, made once for each key, of plain values."""
        found = self._folder.figures("part", code(), *key)
        if found is None:
            found = make()
            self._folder.keep_figures("part", found, code(), *key)
        return found


@contextmanager
def laps(pipe: Any, clock: Callable[[], float] = time.perf_counter) -> Iterator[list[float]]:
    """Fills the list with the seconds of each forward, to the beginning of the next one (of the last: to its end).

    What lies between two forwards, guidance and the scheduler's step, is part of the first. By the clock of the CPU;
    by `time.process_time` what other processes do beside it does not count.
    """
    marks: list[float] = []
    seconds: list[float] = []
    denoiser = next(iter(denoisers(pipe).values()))
    with ExitStack() as undo:
        before = denoiser.register_forward_pre_hook(lambda *_: marks.append(clock()), prepend=True)
        undo.callback(before.remove)
        undo.callback(denoiser.register_forward_hook(lambda *_: ends.append(clock())).remove)
        ends: list[float] = []
        yield seconds
    seconds += [b - a for a, b in pairwise([*marks, ends[-1]])]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, median, and the ends."""
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def publish(pipe: Any, figures: dict[str, Any], out: Path | None) -> None:
    """Prints the figures with the machine and the code, and writes them to a file if one is given."""
    text = json.dumps({"environment": environment(pipe), "commit": commit(), **figures}, indent=1)
    sys.stdout.write(text + "\n")
    if out is not None:
        write_text(out, text + "\n")


def publish_part(pipe: Any, name: str, figures: dict[str, Any], out: Path | None) -> None:
    """Prints a part of what a script finds, with the machine and the code, and puts it into a file if one is given."""
    part = {"environment": environment(pipe), "commit": commit(), **figures}
    sys.stdout.write(json.dumps({name: part}, indent=1) + "\n")
    if out is not None:
        there = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        write_text(out, json.dumps({**there, name: part}, indent=1) + "\n")
