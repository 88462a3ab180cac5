"""`python -m benchmarks.native FOLDER NAME`: tries our row on the real code, and prints what held.

FOLDER is a checkout of the repository (none is fetched here), NAME one of the cases. Each runs in a process of its own:
the repositories have packages of the same names. Where the checkout or a package that it needs is not there, the
outcome is "skipped", with the reason.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.native import (
    cogvideo_sat,
    hunyuan,
    latte,
    ltx,
    mochi,
    open_sora,
    open_sora_plan,
    skyreels,
    videosys,
    wan,
)
from benchmarks.native.case import Case
from benchmarks.native.checks import check
from bwcache.measure.environment import environment

CASES = {
    case.name: case
    for module in (cogvideo_sat, hunyuan, latte, ltx, mochi, open_sora, open_sora_plan, skyreels, videosys, wan)
    for case in module.CASES
}


def commit(folder: Path) -> str | None:
    """The commit that is checked out there."""
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def outcome(case: Case, folder: Path) -> dict[str, Any]:
    """What the checks said, or why there were none."""
    told: dict[str, Any] = {"name": case.name, "repository": case.repository, "commit": commit(folder),
                            "denoiser": case.denoiser, "sampler": case.sampler, "stubbed": case.stubbed}  # fmt: skip
    if not folder.is_dir():
        return told | {"skipped": "no checkout there"}
    sys.path.insert(0, str(folder))
    try:
        sampler = case.open(folder)
    except ImportError as error:
        return told | {"skipped": f"not importable here: {error}"}
    try:
        report = check(sampler)
    except Exception:
        return told | {"failed": traceback.format_exc(limit=-6)}
    told["environment"] = environment(sampler.target)
    return told | {"checks": report.passed, "seen": report.seen, "held": all(report.passed.values())}


def main(folder: Path, name: Annotated[str, typer.Argument(help=f"one of: {', '.join(CASES)}")]) -> None:
    """Tries our row on the real code of a repository."""
    with contextlib.redirect_stdout(sys.stderr):  # some of the code prints
        told = outcome(CASES[name], folder)
    sys.stdout.write(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
