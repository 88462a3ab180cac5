"""Kills workers at random moments: nothing is lost, nothing is made twice, nothing half is left.

python -m tests.fleet.kill --kills 50                    videos of the model in the box, by the command itself
python -m tests.fleet.kill --kills 50 --quick            files in the place of videos
python -m tests.fleet.kill --kills 50 --quick --blind    workers that see each other's deaths by their leases alone
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bwcache.core.files import PART
from bwcache.fleet import leases
from bwcache.fleet.folder import VideoFolder
from bwcache.fleet.worker import Made, Row, Worker
from tests.fleet.forked import command, ended, killed, start

PARTS = 4
"""Files of a quick video: so many moments at which it is half."""


@dataclass
class Found:
    """What was seen while workers were killed.

    Attributes:
        kills: workers that were killed at work.
        cells: of each video that was there at some time, when it was written, in nanoseconds.
        faults: what must not be.
    """

    kills: int = 0
    cells: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def look(self, out: Path) -> None:
        """Take note of what is there now, and of what has changed or vanished since."""
        now = {}
        for place in out.glob("videos/*/*"):
            with contextlib.suppress(FileNotFoundError):
                now[place.name] = (place / "video.json").stat().st_mtime_ns
                continue
            self.faults.append(f"{place.name} is there without its figures")
        self.faults += [f"{name} vanished" for name in self.cells.keys() - now.keys()]
        self.faults += [f"{name} was made twice" for name, when in self.cells.items() if now.get(name, when) != when]
        self.cells = now


def play(begin: Callable[[], Any], out: Path, kills: int, workers: int, seed: int, longest: float) -> Found:
    """Keep some workers on a folder, kill them at random moments, and let the last ones finish.

    Args:
        begin: starts a worker.
        out: the folder of the videos.
        kills: how many of them are killed.
        workers: at work at the same time.
        seed: of the moments.
        longest: seconds between two of them, at most.
    """
    drawn, found = random.Random(seed), Found()
    alive = [begin() for _ in range(workers)]
    while found.kills < kills and any(process.exitcode != 0 for process in alive):
        time.sleep(drawn.uniform(0, longest))
        place = drawn.randrange(workers)
        found.kills += alive[place].exitcode is None
        killed(alive[place])
        found.look(out)
        alive[place] = begin()
    for process in alive:
        ended(process)
    if ended(begin()) != 0:  # rows that were given up, of those over which too many workers died, are tried again
        found.faults.append("the last worker did not finish")
    found.look(out)
    return found


def rest(out: Path) -> list[str]:
    """What is left in a folder that should not be; half files of the dead go when they are older than a lease."""
    left = [path for name in ("leases", "failed") for path in (out / name).iterdir()]
    return [str(path.relative_to(out)) for path in left if not path.name.startswith(PART)]


def quick(folder: Path, rows: int, blind: bool, seconds: float) -> None:
    """A worker whose videos are files, made in no time."""
    if blind:
        leases._machine = lambda: None
    where = VideoFolder(folder / "out", {"model": "quick"}, seconds)

    def make(row: Row) -> Made:
        time.sleep(0.01)

        def write(part: Path) -> None:
            part.mkdir()
            for number in range(PARTS):
                (part / f"{number}").write_text(row.name)
                time.sleep(0.002)

        return Made({"line": row.number}, write)

    Worker(where, lambda: [Row(number, where.name(number)) for number in range(rows)], make).run()
    where.tidy()


def quick_faults(out: Path, rows: int) -> list[str]:
    """What is wrong with the files of quick workers."""
    cells = [*out.glob("videos/*/*")]
    lines = sorted(json.loads((cell / "video.json").read_text())["line"] for cell in cells)
    faults = [] if lines == [*range(rows)] else [f"{len(lines)} videos for {rows} rows"]
    whole = [all((cell / f"{number}").read_text() == cell.name for number in range(PARTS)) for cell in cells]
    return faults + ["a half video"] * whole.count(False)


def videos(folder: Path, rows: int) -> list[str]:
    """Write a prompt file of tiny videos; the options that make them."""
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "seed", "steps"])
        table.writerows(["a red circle", seed, 2 + seed % 3] for seed in range(rows))
    return ["generate", "--prompts", "rows.csv", "--frames", "5", "--out", "out"]


def video_faults(out: Path, rows: int) -> list[str]:
    """What is wrong with the videos of the command."""
    from bwcache import Trace
    from bwcache.report.videos import count_frames

    with (out / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    faults = [f"line {line['line']} is {line['state']}" for line in lines if line["state"] != "made"]
    faults += [] if len({line["folder"] for line in lines}) == rows else [f"{len(lines)} lines for {rows} rows"]
    for line in lines:
        cell = out / line["folder"]
        if count_frames(cell / "video.mp4") != 5 or Trace.from_jsonl(cell / "trace.jsonl").steps != int(line["steps"]):
            faults.append(f"{cell.name} is not whole")
    return faults


def play_quick(folder: Path, kills: int, blind: bool, seed: int, rows: int = 60) -> Found:
    """Kill quick workers."""
    seconds = 1.0 if blind else 1e6  # then no lease is ever over
    begin = lambda: start(quick, folder, rows, blind, seconds)  # noqa: E731
    found = play(begin, folder / "out", kills, 3, seed, 0.15)
    found.faults += quick_faults(folder / "out", rows) + rest(folder / "out")
    return found


def play_videos(folder: Path, kills: int, seed: int, rows: int, longest: float = 6.0) -> Found:
    """Kill workers of the command."""
    options = videos(folder, rows)
    found = play(lambda: start(command, folder, *options), folder / "out", kills, 2, seed, longest)
    found.faults += video_faults(folder / "out", rows) + rest(folder / "out")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds between two kills of real videos, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--blind", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if asked.quick:
            outcome = play_quick(Path(name), asked.kills, asked.blind, asked.seed)
        else:
            outcome = play_videos(Path(name), asked.kills, asked.seed, asked.rows, asked.longest)
    print(f"{outcome.kills} killed, {len(outcome.cells)} videos", *outcome.faults or ["no fault"], sep="\n")
    raise SystemExit(bool(outcome.faults))
