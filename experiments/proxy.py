"""Experiments 10 and 9: does an indicator tell the damage of reusing one step, in calm and in lively videos?

The truth: for each step t, a run that computes all steps but t and replays there what step t - 1 computed; its PSNR
against the uncached video. The indicators are what a policy could know before step t: changes between the last two
computed steps, by several measures. A step is called safe if reusing it alone leaves at least 45 dB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import bwcache
from bwcache import compute, reuse, shapes
from bwcache.measure.call import call
from bwcache.study import UnderPolicy
from experiments.common import captions, load, picture, publish, recording, request, study

VIDEOS, SAFE = 14, 45.0
THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)


@dataclass(frozen=True)
class ReuseAt(bwcache.Policy[None]):
    """Computes every step but one."""

    step: int = 1

    def init(self) -> None:
        """Nothing."""

    def decide(self, observation: bwcache.Observation, state: None) -> bwcache.Decision:
        """Reuse just there."""
        return reuse("the one step") if observation.step.index == self.step else compute("every other step")


Measure = Callable[[torch.Tensor, torch.Tensor], float]
"""Old and new outputs of all blocks, `[N, B, T, C]` -> a number."""


def _l1(old: torch.Tensor, new: torch.Tensor) -> float:
    return float(((new - old).abs().flatten(1).sum(1) / old.abs().flatten(1).sum(1)).mean())


def _l2(old: torch.Tensor, new: torch.Tensor) -> float:
    return float(((new - old).flatten(1).norm(dim=1) / old.flatten(1).norm(dim=1)).mean())


def _cosine(old: torch.Tensor, new: torch.Tensor) -> float:
    return float((1 - torch.nn.functional.cosine_similarity(old.flatten(1), new.flatten(1), dim=1)).mean())


def _plain(old: torch.Tensor, new: torch.Tensor) -> float:
    return float((new[-1:] - old[-1:]).abs().mean())


MEASURES: dict[str, Measure] = {
    "L1, all blocks (the paper's)": _l1,
    "L1, last block": lambda old, new: _l1(old[-1:], new[-1:]),
    "L1, first block": lambda old, new: _l1(old[:1], new[:1]),
    "L2, all blocks": _l2,
    "1 - cosine, all blocks": _cosine,
    "absolute change, last block": _plain,
}


def main() -> None:
    """Runs and writes it."""
    pipe = load()
    steps = range(2, shapes.STEPS)  # before step 2 nothing was measured
    cells, _ = study("proxy", [UnderPolicy(ReuseAt(t), ("step",)) for t in steps], VIDEOS, pipe=pipe)
    damage = np.full((VIDEOS, len(steps)), np.nan)
    order = {caption.text: i for i, caption in enumerate(captions(VIDEOS))}
    for cell in cells:
        damage[order[cell.prompt], cell.settings["step"] - 2] = cell.quality.get("psnr", np.inf)
    values = np.array([indicators(pipe, caption.text, seed) for seed, caption in enumerate(tqdm(captions(VIDEOS)))])
    known = {name: values[:, i] for i, name in enumerate(names())}
    lively = np.array([caption.speed == "fast" for caption in captions(VIDEOS)])
    publish("proxy", report(damage, known, lively), pipe, ranking(damage, known, lively))
    publish("proxy_errors", {"safe": SAFE}, pipe, errors(damage, known["L1, all blocks (the paper's)"], lively))
    draw(damage, known, lively)


def names() -> list[str]:
    """Every indicator: each measure as it is, and times the sigma step that it would act on."""
    return [*MEASURES, *(f"{name}, x sigma step" for name in MEASURES)]


def indicators(pipe: Any, prompt: str, seed: int) -> np.ndarray:
    """What each indicator says before steps 2, 3, …: `[indicators, steps]`; branches averaged."""
    with recording(pipe) as record:
        call(pipe, request(prompt, seed=seed))
    rows = []
    for measure in MEASURES.values():
        per_branch = [
            [measure(outputs[t - 2], outputs[t - 1]) for t in range(2, len(outputs))]
            for outputs in record.outputs.values()
        ]
        rows.append(np.asarray(np.mean(per_branch, axis=0)))
    sigmas = np.array(record.sigmas)
    ahead = -np.diff(sigmas)[2 : 2 + len(rows[0])]
    return np.array([*rows, *(row * ahead for row in rows)])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation."""
    first, second = (np.argsort(np.argsort(one)) for one in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def within(known: np.ndarray, damage: np.ndarray) -> float:
    """Rank correlation over the steps of a video, averaged over the videos: 1 if more change is always more damage."""
    return float(np.mean([spearman(one, -psnr) for one, psnr in zip(known, damage, strict=True)]))


def ranking(damage: np.ndarray, known: dict[str, np.ndarray], lively: np.ndarray) -> list[list[Any]]:
    """The table: each indicator's rank correlation with the damage."""
    rows: list[list[Any]] = [
        ["indicator", "all steps of all videos", "within a video", "calm", "lively", "area under ROC"]
    ]
    for name, values in sorted(known.items(), key=lambda one: -spearman(one[1].ravel(), -damage.ravel())):
        halves = [within(values[some], damage[some]) for some in (~lively, lively)]
        pooled = spearman(values.ravel(), -damage.ravel())
        rows.append([name, pooled, within(values, damage), *halves, area(values.ravel(), damage.ravel() < SAFE)])
    return rows


def area(values: np.ndarray, unsafe: np.ndarray) -> float | None:
    """How often an unsafe step has the higher indicator than a safe one: 1 always, 1/2 by chance."""
    high, low = values[unsafe], values[~unsafe]
    if not len(high) or not len(low):
        return None
    return float((high[:, None] > low[None]).mean() + 0.5 * (high[:, None] == low[None]).mean())


def errors(damage: np.ndarray, values: np.ndarray, lively: np.ndarray) -> list[list[Any]]:
    """Per threshold: unsafe steps that would be reused, and safe ones that would be computed."""
    rows: list[list[Any]] = [["threshold", "steps reused", "of them unsafe", "calm", "lively", "safe but computed"]]
    safe = damage >= SAFE
    for threshold in THRESHOLDS:
        reused = values < threshold
        shares = [
            f"{(reused & ~safe)[some].sum() / max(reused[some].sum(), 1):.0%}"
            for some in (slice(None), ~lively, lively)
        ]
        rows.append(
            [f"{threshold:.2f}", f"{reused.mean():.0%}", *shares, f"{(~reused & safe).sum() / max(safe.sum(), 1):.0%}"]
        )
    return rows


def report(damage: np.ndarray, known: dict[str, np.ndarray], lively: np.ndarray) -> dict[str, Any]:
    """Everything as plain values."""
    finite = np.where(np.isfinite(damage), damage, 100.0)
    return {
        "videos": VIDEOS,
        "safe": SAFE,
        "lively": lively.tolist(),
        "damage": finite.tolist(),
        "indicators": {name: values.tolist() for name, values in known.items()},
    }


def draw(damage: np.ndarray, known: dict[str, np.ndarray], lively: np.ndarray) -> None:
    """Damage over the steps, and against the paper's indicator."""
    with picture("proxy", 2, (11, 4.2)) as (left, right):
        steps = np.arange(2, shapes.STEPS)
        for some, name in ((~lively, "calm"), (lively, "lively")):
            left.plot(steps, np.median(damage[some], axis=0), "o-", ms=3, label=name)
            values = known["L1, all blocks (the paper's)"][some]
            right.semilogx(values.ravel(), damage[some].ravel(), "o", ms=3, alpha=0.6, label=name)
        left.axhline(SAFE, color="#999999", lw=1, ls="--")
        right.axhline(SAFE, color="#999999", lw=1, ls="--")
        left.set_xlabel("the step that is reused")
        left.set_ylabel("PSNR of reusing this step alone (dB, median)")
        right.set_xlabel("indicator before the step (L1, all blocks)")
        right.set_ylabel("PSNR of reusing this step alone (dB)")
        left.legend(frameon=False)
        right.legend(frameon=False)


if __name__ == "__main__":
    main()
