"""Writes goldens: one line of JSON for each case, after a first line that says of which code and machine they are."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import bwcache
from benchmarks.goldens.runs import Case, Subject, digest, subjects

SEED = 0


def head(quick: bool) -> dict[str, Any]:
    """Of which code, torch and machine goldens are."""
    package = Path(str(bwcache.__file__)).parent
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return {
        "code": code.hexdigest()[:16],
        "torch": torch.__version__,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "quick": quick,
    }


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The head of a file, and its cases by name; a line that was cut off is none.

    Raises:
        ValueError: it holds no goldens.
    """
    cases: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "head" in row:
            found = row["head"]
        elif "case" in row:
            cases[row["case"]] = row
    if not found:
        raise ValueError(f"found no goldens in {path}; expected a file that `record` wrote; record one")
    return found, cases


def record(path: Path, quick: bool = False, part: tuple[int, int] = (1, 1), only: str = "") -> int:
    """Adds to a file what is not in it yet, and returns how many cases that were.

    Args:
        path: the file; begun where there is none. Processes may write to one file side by side, each its part.
        quick: a few subjects that stand for all.
        part: which of how many parts of the subjects.
        only: subjects whose name this regular expression finds.

    Raises:
        ValueError: the file is of another code, torch or machine, or of no goldens at all.
    """
    expected = head(quick)
    if not path.exists():
        _append(path, [{"head": expected}], unless_begun=True)
    found, done = read(path)
    if found != expected:
        raise ValueError(f"found goldens of {found} in {path}; expected {expected}; name a new file")
    known = {name.rpartition("/")[0].rpartition("/")[0] for name, row in done.items() if row.get("last")}
    asked = [subject for subject in subjects(quick) if re.search(only, subject.name)][part[0] - 1 :: part[1]]
    count = 0
    with _still():
        for subject in tqdm([subject for subject in asked if subject.name not in known], "goldens"):
            rows = recorded(subject)
            _append(path, rows)
            count += len(rows)
    return count


def recorded(subject: Subject) -> list[dict[str, Any]]:
    """The rows of all cases of one subject; the last one says that it is."""
    with _attention_as_before():
        rows = [_row(case) for case in subject.cases()]
    return [*rows[:-1], {**rows[-1], "last": True}]


def _row(case: Case) -> dict[str, Any]:
    torch.manual_seed(SEED)
    try:
        made, traces = case.run()
    except Exception as error:
        return {"case": case.name, "raised": f"{type(error).__name__}: {error}"}
    return {
        "case": case.name,
        "outputs": [digest(tensors) for tensors in made],
        "traces": [[event_row(event) for event in trace.events] for trace in traces],
    }


def event_row(event: Any) -> dict[str, Any]:
    """What was decided and measured, floats exactly; what is not there is left out."""
    row = {name: getattr(event, name) for name in ("step", "branch", "sample", "site", "action", "reason")}
    row |= {name: _exact(getattr(event, name)) for name in ("indicator", "distances", "error")}
    return {name: value for name, value in row.items() if value is not None}


def _exact(value: Any) -> Any:
    if value is None:
        return None
    return float(value).hex() if isinstance(value, (int, float)) else [float(each).hex() for each in value]


def _append(path: Path, rows: list[dict[str, Any]], unless_begun: bool = False) -> None:
    """All rows or none, and never into another process's."""
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if unless_begun and end:
            return
        file.seek(max(end - 1, 0))
        cut_off = end > 0 and file.read(1) != b"\n"
        text = "".join(json.dumps(row) + "\n" for row in rows)
        file.write(("\n" if cut_off else "").encode() + text.encode())


@contextmanager
def _still() -> Iterator[None]:
    """One thread, deterministic kernels, and no word of diffusers."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    logging.disable()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        logging.disable(logging.NOTSET)


@contextmanager
def _attention_as_before() -> Iterator[None]:
    """A model may set diffusers' process-wide attention; the next one is to find it as it was."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before = registry._active_backend
    try:
        yield
    finally:
        registry._active_backend = before
