"""Kills workers at random moments: nothing is lost, nothing is made twice, nothing half is left.

python -m tests.fleet.kill --rounds 50 --log kills.jsonl   folders of videos by the command itself; goes on where it was
python -m tests.fleet.kill --quick                         one folder, files in the place of videos
python -m tests.fleet.kill --quick --blind                 workers that see each other's deaths by their leases alone
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bwcache.core.files import CLAIM, PART
from bwcache.fleet import leases
from bwcache.fleet.folder import VideoFolder
from bwcache.fleet.worker import Made, Row, Worker
from tests.fleet.forked import command, ended, killed, start

PARTS = 4
"""Files of a quick video: so many moments at which it is half."""
DEATHS = "deaths"
"""The file, beside the folder, with a byte for each worker that was killed."""
AHEAD = 30
"""Quick videos that are made before the first kill, at most."""
FRAMES = 5

MAKING, WRITING, TABLE, OTHER = "making a video", "writing a video", "writing the table", "anything else"
"""What a worker was doing when it was killed."""


@dataclass
class Found:
    """What was seen while workers were killed.

    Attributes:
        kills: workers that were killed at work, by what they were doing.
        cells: of each video that was there at some time, when it was written, in nanoseconds.
        faults: what must not be.
    """

    kills: Counter[str] = field(default_factory=Counter)
    cells: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    _halves: set[str] = field(default_factory=set)

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

    def kill(self, process: Any, out: Path) -> None:
        """Kill a worker, and take note of what it was doing: by what it left."""
        if process.exitcode is not None:
            return
        killed(process)
        halves = {path.name for path in out.glob("unfinished/*")}
        tables = {path.name for path in out.glob(f"{PART}*")}
        fresh, self._halves = (halves | tables) - self._halves, self._halves | halves | tables
        row = next((name for name, holder in holders(out) if holder == process.pid), None)
        if row is not None:
            self.kills[WRITING if any(half.startswith(row) for half in fresh) else MAKING] += 1
        else:
            self.kills[TABLE if fresh & tables and (out / "videos.json").exists() else OTHER] += 1


def holders(out: Path) -> Iterator[tuple[str, int]]:
    """The rows that are held, and by which process."""
    last: dict[str, int] = {}
    for path in out.glob("leases/*.[0-9]*"):
        last[path.stem] = max(last.get(path.stem, 0), int(path.suffix[1:]))
    for name, number in last.items():
        with contextlib.suppress(OSError, ValueError):
            yield name, json.loads((out / "leases" / f"{name}.{number}").read_text())["process"]


def moment(kind: str, alive: Sequence[Any], out: Path, drawn: random.Random, longest: float) -> list[int]:
    """Wait for a moment, or for as long as is drawn; return the places of the workers to be killed.

    Args:
        kind: at any time, while a row is held, while a video or the table is being written.
        alive: the workers.
        out: their folder.
        drawn: draws.
        longest: seconds at most.
    """
    over = time.monotonic() + (drawn.uniform(0, longest) if kind == OTHER else 3 * longest)
    while time.monotonic() < over and any(process.exitcode is None for process in alive):
        if kind == TABLE and any(out.glob(f"{PART}*")) and any(out.glob("videos/*/*")):
            return [*range(len(alive))]
        if kind in (MAKING, WRITING):
            written = {path.name.partition("-")[0] for path in out.glob("unfinished/*")}
            rows = {process: name for name, process in holders(out) if kind == MAKING or name in written}
            held = [place for place, process in enumerate(alive) if process.exitcode is None and process.pid in rows]
            if held:
                time.sleep(drawn.uniform(0, 0.3 if kind == MAKING else 0.05))
                return held[:1]
        time.sleep(0.002 if kind != OTHER else 0.02)
    return [drawn.randrange(len(alive))]


def play(
    begin: Callable[[], Any], out: Path, kills: int, workers: int, seed: int, longest: float, kinds: Sequence[str]
) -> Found:
    """Keep some workers on a folder, kill them at random moments, and let the last ones finish.

    Args:
        begin: starts a worker.
        out: the folder of the videos.
        kills: how many of them are killed.
        workers: at work at the same time.
        seed: of the moments.
        longest: seconds between two of them, at most.
        kinds: of moments, of which each kill draws one; while the table is being written, all of them are killed last.
    """
    drawn, found = random.Random(seed), Found()
    alive = [begin() for _ in range(workers)]
    while found.kills.total() < kills and any(process.exitcode != 0 for process in alive):
        for place in moment(drawn.choice([kind for kind in kinds if kind != TABLE]), alive, out, drawn, longest):
            found.kill(alive[place], out)
            alive[place] = begin()
        (out.parent / DEATHS).write_bytes(bytes(found.kills.total()))
        found.look(out)
    if TABLE in kinds:
        for place in moment(TABLE, alive, out, drawn, 100 * longest):
            found.kill(alive[place], out)
            found.look(out)
    for process in alive:
        process.join()
    _as_if_a_lease_had_passed(out)
    if ended(begin()) != 0:  # rows that were given up, of those over which too many workers died, are tried again
        found.faults.append("the last worker did not finish")
    found.look(out)
    return found


def _as_if_a_lease_had_passed(out: Path) -> None:
    """What the dead left unfinished goes when it is older than a lease."""
    for path in (*out.glob("unfinished/**/*"), *out.glob("unfinished/*"), *out.glob(f"**/{PART}*")):
        os.utime(path, (1, 1))


def rest(out: Path) -> list[str]:
    """What is left in a folder that should not be."""
    left = [path for name in ("leases", "failed", "unfinished") for path in (out / name).iterdir()]
    return [str(path.relative_to(out)) for path in (*left, *out.glob(f"{PART}*"))]


def quick(folder: Path, rows: int, kills: int, blind: bool, seconds: float) -> None:
    """A worker whose videos are files, made in no time, but so that some are left for the last of so many kills."""
    if blind:
        leases._machine = lambda: None
    where = VideoFolder(folder / "out", {"model": "quick"}, seconds)

    def make(row: Row) -> Made:
        time.sleep(0.01)
        while row.number > AHEAD + rows * deaths(folder) / kills:
            time.sleep(0.005)

        def write(part: Path) -> None:
            part.mkdir()
            for number in range(PARTS):
                (part / f"{number}").write_text(row.name)
                time.sleep(0.002)

        return Made({"line": row.number}, write)

    Worker(where, lambda: [Row(number, where.name(number)) for number in range(rows)], make).run()
    where.tidy()


def deaths(folder: Path) -> int:
    """How many workers were killed so far."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / DEATHS).stat().st_size
    return 0


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
    return ["generate", "--prompts", "rows.csv", "--frames", f"{FRAMES}", "--out", "out"]


def video_faults(out: Path, rows: int) -> list[str]:
    """What is wrong with the videos of the command."""
    with (out / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    faults = [f"line {line['line']} is {line['state']}" for line in lines if line["state"] != "made"]
    faults += [] if len({line["folder"] for line in lines}) == rows else [f"{len(lines)} lines for {rows} rows"]
    return faults + [f"{line['folder']} is not whole" for line in lines if not whole(out / line["folder"])]


def whole(cell: Path) -> bool:
    """Whether a video, its trace and its picture are there from beginning to end."""
    from PIL import Image

    from bwcache import Trace
    from bwcache.report.videos import count_frames

    with Image.open(cell / "similarity.png") as picture:
        picture.load()
    return count_frames(cell / "video.mp4") == FRAMES and Trace.from_jsonl(cell / "trace.jsonl").steps > 1


def play_quick(folder: Path, kills: int, blind: bool, seed: int, rows: int = 60) -> Found:
    """Kill quick workers."""
    seconds = 1.0 if blind else 1e6  # then no lease is ever over
    begin = partial(start, quick, folder, rows, kills, blind, seconds)
    found = play(begin, folder / "out", kills, 3, seed, 0.15, (OTHER,))
    found.faults += quick_faults(folder / "out", rows)
    found.faults += rest(folder / "out")
    return found


def play_videos(folder: Path, kills: int, seed: int, rows: int, longest: float = 6.0) -> Found:
    """Kill workers of `generate --prompts`."""
    options = videos(folder, rows)
    kinds = (OTHER, MAKING, WRITING, WRITING, TABLE)
    found = play(lambda: start(command, folder, *options), folder / "out", kills, 2, seed, longest, kinds)
    found.faults += video_faults(folder / "out", rows) + rest(folder / "out")
    return found


def play_single(folder: Path, kills: int, seed: int, longest: float = 3.0) -> Found:
    """Kill `generate` with two prompts: what is there is whole each time, and the same line works the next time."""
    drawn, found = random.Random(seed), Found()
    out = folder / "single"
    words = ["generate", "--prompt", "a red circle", "--prompt", "a blue square", "--steps", "3"]
    words += ["--frames", f"{FRAMES}", "--out", "single", "--overwrite"]
    while found.kills.total() < kills:
        process = start(command, folder, *words)
        over, halfway = time.monotonic() + drawn.uniform(0, longest), drawn.random() < 0.7
        while process.exitcode is None and (halfway or time.monotonic() < over):
            if halfway and any(out.glob(f"{CLAIM}/unfinished/*")):
                time.sleep(drawn.uniform(0, 0.1))
                break
            time.sleep(0.002)
        if process.exitcode is None:
            killed(process)
            found.kills[WRITING if any(out.glob(f"{CLAIM}/unfinished/*")) else OTHER] += 1
        elif process.exitcode != 0:
            found.faults.append(f"the command ended with {process.exitcode}")
            break
        found.faults += [f"{cell.name} is not whole" for cell in _shown(out) if not whole(cell)]
    if ended(start(command, folder, *words)) != 0:
        found.faults.append("the last command did not finish")
    names = sorted(path.name for path in out.iterdir())
    if len(_shown(out)) != 2 or len(names) != 3:
        found.faults.append(f"{names} in the folder")
    found.cells = {cell.name: 0 for cell in _shown(out) if whole(cell)}
    return found


def _shown(out: Path) -> list[Path]:
    """The videos that are to be seen in a folder of `generate`."""
    return [path for path in out.glob("*") if path.is_dir() and path.name != CLAIM]


def rounds(count: int, log: Path, kills: int, rows: int) -> list[dict[str, Any]]:
    """Play rounds, each in a folder of its own, but for those that are in the log; return what was seen in each."""
    there = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for seed in range(len(there), count):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            many = play_videos(Path(name), kills, seed, rows)
            single = play_single(Path(name), 1, seed)
        seen = {
            "round": seed,
            "killed": dict(many.kills),
            "videos": len(many.cells),
            "killed without --prompts": dict(single.kills),
            "faults": many.faults + single.faults,
            "seconds": round(time.monotonic() - began),
        }
        there.append(seen)
        with log.open("a") as file:
            file.write(json.dumps(seen) + "\n")
        print(json.dumps(seen), flush=True)
    return there[:count]


def main() -> int:
    """Play as the words say; return 1 where there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--log", type=Path, default=Path("kills.jsonl"))
    parser.add_argument("--kills", type=int, default=4, help="workers that are killed in each round, at least")
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--blind", action="store_true")
    asked = parser.parse_args()
    if asked.quick:
        with tempfile.TemporaryDirectory() as name:
            outcome = play_quick(Path(name), 50, asked.blind, 0)
        print(f"{outcome.kills.total()} killed, {len(outcome.cells)} videos", *outcome.faults or ["no fault"], sep="\n")
        return bool(outcome.faults)
    seen = rounds(asked.rounds, asked.log, asked.kills, asked.rows)
    faults = [f"round {one['round']}: {fault}" for one in seen for fault in one["faults"]]
    for what in ("killed", "killed without --prompts"):
        counts = sum((Counter(one[what]) for one in seen), Counter())
        print(f"{what}: {counts.total()} ({', '.join(f'{n} {doing}' for doing, n in counts.most_common())})")
    print(f"{len(seen)} rounds, {sum(one['videos'] for one in seen)} videos", *faults or ["no fault"], sep="\n")
    return bool(faults)


if __name__ == "__main__":
    raise SystemExit(main())
