"""Experiment 7: beside its peers: `bwcache bench` on the built-in prompts, and its table for the page.

`python -m experiments.peers 8` adds eight captions that the model was not trained on; what is there is not run again.
"""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from bwcache import shapes
from bwcache.cli import main as command
from experiments.common import IMAGES, RESULTS, RUNS, captions, table

LEVELS = (25, 30, 35, 40)


def main(more: int = 0) -> None:
    """Runs what is missing on the four videos and so many more, and writes the table."""
    texts = RUNS / "bench-prompts.txt"
    texts.parent.mkdir(exist_ok=True)
    prompts = [*shapes.PROMPTS, *(caption.text for caption in captions(more))]
    texts.write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    try:
        command(["bench", "--prompts", str(texts), "--out", str(RUNS / "bench")])
    except SystemExit as end:
        if end.code:
            raise
    found = json.loads((RUNS / "bench" / "results.json").read_text(encoding="utf-8"))
    rows: list[list[Any]] = [["method", *(f"{level} dB" for level in LEVELS), "kept at 35 dB"]]
    for family in dict.fromkeys(row["family"] for row in found["rows"]):
        speeds = {
            round(one["psnr"]): one
            for one in found["speedup_at"]
            if one["family"] == family and one["axis"] == "compute"
        }
        rows.append([family, *(reached(speeds[level]) for level in LEVELS), kept(found["rows"], family)])
    order = {"BWCache as published": 0, "BWCache, linear": 1}
    body = sorted(rows[1:], key=lambda row: (order.get(row[0], 2), row[0].startswith("fewer")))
    slim = {name: value for name, value in found.items() if name != "runs"}
    (RESULTS / "peers.json").write_text(json.dumps(slim, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "peers.md").write_text(table([rows[0], *body]), encoding="utf-8")
    shutil.copyfile(RUNS / "bench" / "bench.png", IMAGES / "peers.png")


def reached(one: dict[str, Any]) -> str:
    """The speedup by the blocks' work, with its interval."""
    if one["speedup"] is None:
        return "–"
    between = one["interval"]
    return f"{one['bound']}{one['speedup']:.2f}x" + (f" ({between[0]:.2f}–{between[1]:.2f})" if between else "")


def kept(rows: list[dict[str, Any]], family: str) -> str:
    """What the family's fastest setting of at least 35 dB keeps between steps."""
    good = [row for row in rows if row["family"] == family and (row.get("psnr") or 0) >= 35]
    best = max(good, key=lambda row: row["compute_speedup"], default=None)
    held = best["kept_bytes"] if best else None
    return "–" if held is None else f"{held / 2**20:.1f} MiB" if held >= 2**20 else f"{held / 2**10:.0f} KiB"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
