"""A long run of the fuzzer: `python -m tests.fuzz --n 10000 --seed 0 --jobs 2`.

Every seed done is written down, so that the same command goes on where it was cut off. At the end each distinct finding
is reduced and printed as a test.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.fuzz.seeds import all_played, played

CHUNK = 10


def main() -> int:
    """Runs the fuzzer; returns 1 where anything was found."""
    options = _options()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = {line["seed"]: line for line in _lines(options.out)}
    wanted = range(options.seed, options.seed + options.n)
    chunks = [[s for s in wanted[i : i + CHUNK] if s not in done] for i in range(0, len(wanted), CHUNK)]
    begun = time.monotonic()
    with options.out.open("a", encoding="utf-8") as file:
        for line in _played([chunk for chunk in chunks if chunk], options.jobs, options.all):
            done[line["seed"]] = line
            file.write(json.dumps(line) + "\n")
            file.flush()
            if line["found"]:
                print(f"seed {line['seed']}: {'; '.join(found['text'] for found in line['found'])[:300]}", flush=True)
    mine = [done[seed] for seed in wanted if seed in done]
    distinct = _distinct(mine)
    seconds = sum(line.get("cpu", line["seconds"]) for line in mine)
    print(
        f"{len(mine)} scenarios, {seconds / 3600:.2f} h of CPU ({time.monotonic() - begun:.0f} s now), "
        f"{sum(bool(line['found']) for line in mine)} with findings, {len(distinct)} distinct"
    )
    for signature, seeds in sorted(distinct.items(), key=lambda item: -len(item[1])):
        print(f"\n{len(seeds)} x {signature}\n  seeds {', '.join(map(str, seeds[:8]))}")
        if options.reduce:
            print(_reduced(seeds[0], signature, options.all))
    return 1 if distinct else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000, help="how many scenarios")
    parser.add_argument("--seed", type=int, default=0, help="the first one's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz.jsonl"), help="where each seed is written down")
    parser.add_argument("--all", action="store_true", help="also in the dimensions that are known to fail")
    parser.add_argument("--no-reduce", dest="reduce", action="store_false", help="print the seeds alone")
    return parser.parse_args()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:  # cut off while it was written
            continue


def _played(chunks: list[list[int]], jobs: int, everything: bool) -> Iterator[dict[str, Any]]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if jobs == 1:
        for chunk in chunks:
            for seed in chunk:
                yield played(seed, everything)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(all_played, chunk, everything) for chunk in chunks]):
            yield from future.result()


def _distinct(lines: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Signature -> the seeds that show it."""
    distinct: dict[str, list[int]] = {}
    for line in lines:
        for signature in dict.fromkeys(found["signature"] for found in line["found"]):
            distinct.setdefault(signature, []).append(line["seed"])
    return distinct


def _reduced(seed: int, signature: str, everything: bool) -> str:
    from tests.fuzz.oracle import check, quietly
    from tests.fuzz.reduce import as_test, reduced
    from tests.fuzz.scenario import draw

    scenario = draw(seed, frozenset() if everything else None)
    with quietly():
        smallest = reduced(scenario, lambda one: any(found.signature == signature for found in check(one)))
    return as_test(smallest, f"seed_{seed}")


if __name__ == "__main__":
    sys.exit(main())
