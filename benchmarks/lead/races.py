"""One model in one regime: what is run on which videos, kept cell by cell.

Few videos tell which settings lie near the front of their method, many others how far the front is. Nothing was chosen
on the latter, neither here nor anywhere in the project.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

import bwcache
from benchmarks import common
from benchmarks.lead import contenders
from benchmarks.lead.choice import further, leading, near
from benchmarks.lead.plans import plans
from bwcache.errors import BWCacheError
from bwcache.measure.call import Request, call
from bwcache.measure.schedulers import named_scheduler, replaced
from bwcache.study import Cell, Folder, Method, Result, Study, Video, results, run_study
from bwcache.study.peers import Guards, calibrated
from bwcache.study.peers.ladders import Terms
from bwcache.study.study import identity
from training import models


@dataclass(frozen=True)
class Regime:
    """How a model samples.

    Attributes:
        title: for people.
        scheduler: as `--scheduler` takes it.
        steps: of the uncached run.
    """

    title: str
    scheduler: str
    steps: int


REGIMES: Mapping[str, Regime] = {
    "euler-5-50": Regime("Euler, shift 5, 50 steps", "FlowMatchEulerDiscrete:shift=5", 50),
    "euler-1-30": Regime("Euler, shift 1, 30 steps", "FlowMatchEulerDiscrete:shift=1", 30),
    "unipc-8-50": Regime("UniPC, shift 8, 50 steps", "UniPCMultistep:flow_shift=8", 50),
    "euler-3-30": Regime("Euler, shift 3, 30 steps", "FlowMatchEulerDiscrete:shift=3", 30),
}
"""By the name for --regime, in the order in which they run."""


def load_joint() -> Any:
    """The joint-attention model, silent."""
    pipe: Any = models.load_joint()
    pipe.set_progress_bar_config(disable=True)
    return pipe


MODELS: Mapping[str, Callable[[], Any]] = {"shapes": common.load, "joint": load_joint}
"""By the name for --model."""

CALIBRATION, COARSE, FINAL = range(96, 97), range(88, 92), range(104, 128)
"""Places among the captions that no model was trained on. The seed of a video's noise is its caption's place."""

ROUNDS = ((1, 2.5, 0.04, 1.4), (len(COARSE), 1.0, 0.03, 1.2))
"""Of the coarse stage: so many of its videos; then what is near enough to go on (`choice.near`, `choice.leading`)."""


@dataclass(frozen=True)
class Lengths:
    """How much is run.

    Attributes:
        coarse, final: places of captions.
        rounds: as `ROUNDS`.
        steps, guards: of the uncached run, and what is tried around each method; None: the regime's.
        computed: numbers of steps that plans are made for; None: as usual for that many steps.
    """

    coarse: Sequence[int] = COARSE
    final: Sequence[int] = FINAL
    rounds: Sequence[tuple[int, float, float, float]] = ROUNDS
    steps: int | None = None
    guards: Sequence[Guards] | None = None
    computed: Sequence[int] | None = None


class Race:
    """One model in one regime.

    Args:
        model, regime: names out of `MODELS` and `REGIMES`.
        out: where the folders of all races are.
        lengths: how much is run.
    """

    def __init__(self, model: str, regime: str, out: Path, lengths: Lengths | None = None) -> None:
        self.model, self.regime = model, regime
        self.lengths = lengths or Lengths()
        self.steps = self.lengths.steps or REGIMES[regime].steps
        self.pipe = MODELS[model]()
        self.pipe.scheduler = replaced(self.pipe.scheduler, *named_scheduler(REGIMES[regime].scheduler))
        self.folder = Folder(out / model / regime, identity(self.pipe, self.request(), model))

    def request(self, place: int | None = None) -> Request:
        """A video of the caption at a place; without one, of none."""
        if place is None:
            return common.request("", self.steps)
        return common.request(common.captions(place + 1)[place], self.steps, place)

    def coarse(self, names: Sequence[str]) -> None:
        """Run whole ladders on few videos, and keep what came out.

        Settings that are far from the front of their method, and peers that are far behind others, make no more videos
        after each round.
        """
        pools = {name: self.methods(name) for name in names}
        fields = dict(pools)
        found: dict[str, dict[str, Result]] = {name: {} for name in names}
        for count, apart, slower, behind in self.lengths.rounds:
            for name, field in fields.items():
                places = self.lengths.coarse[:count]
                rows = self._run_on(field, pools[name], [*found[name].values()], places, f"{name}, {count} videos")
                found[name] |= {row.label: row for row in rows}
                chosen = [row.label for family in by_family(rows).values() for row in near(family, apart, slower)]
                fields[name] = [method for method in pools[name] if method.label in chosen]
                self._keep("coarse", name, [*found[name].values()], chosen)
            leaders = self.leaders(behind)
            fields = {name: [one for one in own if self._goes_on(name, one, leaders)] for name, own in fields.items()}

    def final(self, name: str) -> None:
        """Run what the coarse stage chose of a contender on the many videos, and keep what came out.

        Where that turns out not to reach from below the lowest level to above the highest, the next settings run too.

        Ours run with one number alone at all its values; peers that are far behind others do not run.
        """
        labels = set((self.folder.figures("coarse", name) or {}).get("chosen", ()))
        field, leaders = self.methods(name), self.leaders(self.lengths.rounds[-1][-1])
        alone = field[: self._alone(name)]
        field = [one for one in field if (one.label in labels and self._goes_on(name, one, leaders)) or one in alone]
        self._keep("final", name, self._run(field, self.lengths.final, name))

    def methods(self, name: str) -> list[Method]:
        """All settings of a contender."""
        if name == contenders.TUNED:
            return self.with_plans()
        if name not in contenders.OURS:
            return contenders.settings(name, self.terms)
        own = contenders.policies(name, self.terms)
        return [contenders.Witnessed(one, (), name, witness=self.witness(one)) for one in tqdm(own, f"{name}, witness")]

    def with_plans(self) -> list[Method]:
        """A plan for each number of computed steps, made for this model in this regime."""
        folder = Folder(self.folder.path / "tuning", self.folder.identity)
        made = plans(self.pipe, self.request, self.lengths.computed or contenders.COMPUTED[self.steps], folder)
        name = contenders.TUNED
        return [contenders.WithPlan(one.policy, (), name, "", self.witness(one.policy), one.expected) for one in made]

    @cached_property
    def terms(self) -> list[Terms]:
        """What all have in common, once for each pair of guards."""
        ratios: tuple[float, ...] = ()
        why = ""
        try:
            ratios = calibrated(self.folder.path, self.pipe, self.request(CALIBRATION[0]))
        except BWCacheError as error:
            why = str(error)
        guards = self.lengths.guards or contenders.GUARDS[self.steps]
        return [Terms(self.steps, one, self.pipe.scheduler, ratios, why) for one in guards]

    def witness(self, policy: bwcache.Policy[Any]) -> str:
        """Return a name for the video that a policy makes of the caption for calibration."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=bwcache.NeverReusedWarning)
            with bwcache.attach(self.pipe, policy):
                frames = call(self.pipe, self.request(CALIBRATION[0])).frames
        return hashlib.sha256(frames.tobytes()).hexdigest()[:16]

    def rows(self, stage: str) -> dict[str, list[dict[str, Any]]]:
        """Return what a stage found so far: contender -> its rows, as `row_of` writes them."""
        found = {name: self.folder.figures(stage, name) for name in contenders.NAMES}
        return {name: figures["rows"] for name, figures in found.items() if figures}

    def _run_on(
        self,
        field: Sequence[Method],
        pool: Sequence[Method],
        known: Sequence[Result],
        places: Sequence[int],
        title: str,
    ) -> list[Result]:
        """Run a field, then whatever of its pool a family needs to reach below and above all levels."""
        rows: list[Result] = []
        families = by_family(known)
        while field:
            rows += self._run(field, places, title)
            more = {one.label for name, own in by_family(rows).items() for one in further(own, families.get(name, ()))}
            field = [method for method in pool if method.label in more]
        return rows

    def _run(self, field: Sequence[Method], places: Sequence[int], title: str) -> list[Result]:
        if not field:
            return []
        videos = tuple(Video(self.request(place).prompt, place) for place in places)
        study = Study(tuple(field), videos, self.request())
        with tqdm(total=len(study), desc=f"{self.model}, {self.regime}: {title}", mininterval=30) as bar:
            cells = run_study(self.pipe, study, self.folder, on_cell=lambda cell: bar.update(), beside=None)
        return results(cells)

    def leaders(self, behind: float) -> set[str]:
        """Return the families of peers that are so near the fastest one, by what the coarse stage found so far."""
        rows = [result_of(row) for name, own in self.rows("coarse").items() if name in contenders.PEERS for row in own]
        return leading({name: longest(own) for name, own in by_family(rows).items()}, behind)

    def _alone(self, name: str) -> int | None:
        """So many of a contender's settings, the first ones, run on the many videos in any case; None: all."""
        if name == contenders.TUNED:
            return None
        return len(contenders.OURS[name].alone) if name in contenders.OURS else 0

    def _goes_on(self, name: str, method: Method, leaders: set[str]) -> bool:
        return name not in contenders.PEERS or method.family in leaders

    def _keep(self, stage: str, name: str, rows: Sequence[Result], chosen: Sequence[str] = ()) -> None:
        self.folder.keep_figures(stage, {"rows": [row_of(row) for row in rows], "chosen": list(chosen)}, name)


UNTOLD = ("ratios", "witness", "rows", "schedule", "model")
"""Settings that are long, and follow from the others and from the race."""


def longest(rows: Sequence[Result]) -> list[Result]:
    """Return the rows with the most videos: those that went on."""
    most = max((len(row.cells) for row in rows), default=0)
    return [row for row in rows if len(row.cells) == most]


def by_family(rows: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the rows of each family."""
    return {name: [row for row in rows if row.family == name] for name in dict.fromkeys(row.family for row in rows)}


def row_of(row: Result) -> dict[str, Any]:
    """Return a setting over its videos, ready for JSON: per video its place, share of the work, PSNR and SSIM."""
    return {
        "family": row.family,
        "label": row.label,
        "settings": {name: value for name, value in row.settings.items() if name not in UNTOLD},
        "kept_bytes": row.kept_bytes,
        "failed": row.failed,
        "videos": [
            [cell.seed, short(cell.compute, 5), short(cell.quality.get("psnr"), 3), short(cell.quality.get("ssim"), 5)]
            for cell in row.cells
        ],
    }


def short(value: float | None, digits: int) -> float | None:
    """Return a number that takes little room."""
    return None if value is None else round(value, digits)


def result_of(row: dict[str, Any]) -> Result:
    """Return the reverse of `row_of`; a video without PSNR is one without any difference."""
    whose = {name: row[name] for name in ("family", "label", "settings")}
    cells = tuple(
        Cell(
            **whose, prompt=str(place), seed=place, compute=compute, kept_bytes=row["kept_bytes"],
            quality={"psnr": psnr, "ssim": ssim}, identical=psnr is None,
        )
        for place, compute, psnr, ssim in row["videos"]
    )  # fmt: skip
    return Result(**whose, cells=cells, failed=row["failed"])
