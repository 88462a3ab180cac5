"""One model in one regime: what is run on which videos, kept cell by cell.

Few videos tell which settings lie near the front of their method, many others how far the front is. Nothing was chosen
on the latter, neither here nor anywhere in the project.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

import bwcache
from benchmarks import common
from benchmarks.race.choice import LEVELS, further, leading, near
from benchmarks.race.contender import Contender
from benchmarks.race.rows import by_family, longest, result_of, row_of
from bwcache import shapes
from bwcache.core import Trace
from bwcache.errors import BWCacheError
from bwcache.measure.call import Request
from bwcache.measure.schedulers import named_scheduler, replaced
from bwcache.study import Folder, Method, Result, Study, Video, results, run_study
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
    "ddim-30": Regime("DDIM, 30 steps", "DDIM", 30),
}
"""By the name for --regime, in the order in which they run."""

FLOW = ("euler-5-50", "euler-1-30", "unipc-8-50", "euler-3-30")
"""Those of models that go along straight lines from noise to data."""


@dataclass(frozen=True)
class Model:
    """One that takes part.

    Attributes:
        load: makes its pipeline.
        regimes: in which it is sampled: images at the shifts of most image models, 1 and 3.
        frames: that it is asked for.
    """

    load: Callable[[], Any]
    regimes: tuple[str, ...] = FLOW
    frames: int = shapes.FRAMES


def silent(load: Callable[[], Any]) -> Callable[[], Any]:
    """Return what loads a model that shows no progress."""

    def made() -> Any:
        pipe = load()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return made


MODELS: Mapping[str, Model] = {
    "shapes": Model(common.load),
    "joint": Model(silent(models.load_joint)),
    "image": Model(silent(models.load_image_model), ("euler-1-30", "euler-3-30"), models.IMAGE_FRAMES),
    "unet": Model(silent(models.load_unet), ("ddim-30",), models.UNET_FRAMES),
}
"""By the name for --model."""

CALIBRATION, COARSE, FINAL = range(96, 97), range(88, 92), range(104, 128)
"""Places among the captions that no model was trained on. The seed of a video's noise is its caption's place."""

ROUNDS = ((1, 2.5, 0.04, 1.4), (len(COARSE), 1.0, 0.03, 1.2))
"""Of the coarse stage: so many of its videos; then what is near enough to go on (`choice.near`, `choice.leading`)."""


@dataclass(frozen=True)
class Lengths:
    """How much is run.

    Attributes:
        coarse, final, calibration: places of captions.
        rounds: as `ROUNDS`.
        levels: mean PSNR in dB at which speeds are compared, ascending.
        steps, guards: of the uncached run, and what is tried around each method; None: the regime's.
        computed: numbers of steps that plans are made for; None: as usual for that many steps.
        rungs: at most so many settings of each contender, >= 2, spread over its ladder; None: all.
    """

    coarse: Sequence[int] = COARSE
    final: Sequence[int] = FINAL
    calibration: Sequence[int] = CALIBRATION
    rounds: Sequence[tuple[int, float, float, float]] = ROUNDS
    levels: Sequence[float] = LEVELS
    steps: int | None = None
    guards: Sequence[Guards] | None = None
    computed: Sequence[int] | None = None
    rungs: int | None = None


class Race:
    """One model in one regime.

    Args:
        model, regime: names out of `MODELS` and `REGIMES`.
        out: where the folders of all races are.
        contenders: who may take part, by name.
        guards: what is tried around each method, by the number of steps.
        lengths: how much is run.
    """

    def __init__(
        self,
        model: str,
        regime: str,
        out: Path,
        contenders: Mapping[str, Contender],
        guards: Mapping[int, Sequence[Guards]],
        lengths: Lengths | None = None,
    ) -> None:
        self.model, self.regime, self.contenders = model, regime, contenders
        self.lengths = lengths or Lengths()
        self.steps = self.lengths.steps or REGIMES[regime].steps
        self.guards = self.lengths.guards or guards[self.steps]
        self.pipe = MODELS[model].load()
        self.pipe.scheduler = replaced(self.pipe.scheduler, *named_scheduler(REGIMES[regime].scheduler))
        self.folder = Folder(out / model / regime, identity(self.pipe, self.request(), model))
        self._traces: dict[str, list[Trace]] = {}

    def request(self, place: int | None = None) -> Request:
        """A video of the caption at a place; without one, of none."""
        prompt, seed = ("", 0) if place is None else (common.captions(place + 1)[place], place)
        return dataclasses.replace(common.request(prompt, self.steps, seed), frames=MODELS[self.model].frames)

    def coarse(self, names: Sequence[str]) -> None:
        """Run whole ladders on few videos, and keep what came out.

        Settings that are far from the front of their method, and methods that are far behind others of those that may
        be, make no more videos after each round.
        """
        pools: dict[str, list[Method]] = {}
        fields: dict[str, list[Method]] = {}
        found: dict[str, dict[str, Result]] = {name: {} for name in names}
        for count, apart, slower, behind in self.lengths.rounds:
            for name in names:
                if name not in pools:
                    pools[name] = self.methods(name)
                    fields[name] = self._first_of_each(name, pools[name])
                known, places = [*found[name].values()], self.lengths.coarse[:count]
                rows = self._run_on(fields[name], pools[name], known, places, f"{name}, {count} videos")
                found[name] |= {row.label: row for row in rows}
                families = by_family(rows).values()
                chosen = {row.label for own in families for row in near(own, apart, slower, self.lengths.levels)}
                fields[name] = self._with_alike(name, pools[name], chosen, {*found[name]})
                self._keep("coarse", name, [*found[name].values()], [one for one in found[name] if one in chosen])
            leaders = self.leaders(behind)
            fields = {name: [one for one in own if self._goes_on(name, one, leaders)] for name, own in fields.items()}

    def final(self, name: str) -> None:
        """Run what the coarse stage chose of a contender on the many videos, and keep what came out.

        Those that may fall behind, and did, do not run, but for what they are to run always. Where the many videos
        are harder or easier than the few, and the chosen settings reach no level any more, the next ones run too.
        """
        labels = set((self.folder.figures("coarse", name) or {}).get("chosen", ()))
        leaders = self.leaders(self.lengths.rounds[-1][-1])
        methods = self.methods(name)
        always = {method.label for method in self.contenders[name].always(methods)}
        field = [
            one for one in methods if one.label in always or (one.label in labels and self._goes_on(name, one, leaders))
        ]
        known = [result_of(row) for row in self.rows("coarse").get(name, ())]
        self._keep("final", name, self._run_on(field, methods, known, self.lengths.final, name))

    def methods(self, name: str) -> list[Method]:
        """All settings of a contender, or as many as run."""
        return spread(list(self.contenders[name].ladder(self)), self.lengths.rungs)

    @cached_property
    def terms(self) -> list[Terms]:
        """What all have in common, once for each pair of guards."""
        ratios: tuple[float, ...] = ()
        why = ""
        try:
            ratios = calibrated(self.folder.path, self.pipe, self.request(self.lengths.calibration[0]))
        except BWCacheError as error:
            why = str(error)
        return [Terms(self.steps, one, self.pipe.scheduler, ratios, why) for one in self.guards]

    def traces(self, measuring: bwcache.Policy[Any], places: Sequence[int] = ()) -> list[Trace]:
        """Return what a policy measures in uncached runs of the captions at some places: those for calibration if none.

        Raises:
            BWCacheError: it cannot on this model.
        """
        places = places or self.lengths.calibration
        key = json.dumps([measuring.describe(), *places], sort_keys=True)
        if key not in self._traces:
            requests = [self.request(place) for place in places]
            self._traces[key] = [common.cached(self.pipe, measuring, one, timing=False)[1] for one in requests]
        return self._traces[key]

    def witness(self, policy: bwcache.Policy[Any]) -> str:
        """Return a name for the video that a policy makes of a caption for calibration; made once for each code."""
        key = (policy.describe(), common.code())
        kept = self.folder.figures("witness", *key)
        if kept is None:
            made, _ = common.cached(self.pipe, policy, self.request(self.lengths.calibration[0]), timing=False)
            kept = {"video": hashlib.sha256(made.frames.tobytes()).hexdigest()[:16]}
            self.folder.keep_figures("witness", kept, *key)
        return str(kept["video"])

    def rows(self, stage: str) -> dict[str, list[dict[str, Any]]]:
        """Return what a stage found so far: contender -> its rows, as `row_of` writes them."""
        found = {name: self.folder.figures(stage, name) for name in self.contenders}
        return {name: figures["rows"] for name, figures in found.items() if figures}

    def leaders(self, behind: float) -> set[str]:
        """Return the families that are so near the fastest one of those that may fall behind, by the coarse stage."""
        rows = [result_of(row) for name, own in self.rows("coarse").items() if self._may_fall(name) for row in own]
        return leading({name: longest(own) for name, own in by_family(rows).items()}, behind, self.lengths.levels)

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
            more = {
                one.label
                for name, own in by_family(rows).items()
                for one in further(own, families.get(name, ()), self.lengths.levels)
            }
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

    def _first_of_each(self, name: str, pool: Sequence[Method]) -> list[Method]:
        """The settings without those that differ from one before them in their guards alone."""
        likeness = self.contenders[name].likeness
        return list({likeness(method): method for method in reversed(pool)}.values())[::-1]

    def _with_alike(self, name: str, pool: Sequence[Method], chosen: set[str], done: set[str]) -> list[Method]:
        """The chosen settings, by their labels, and what differs from them in its guards alone and never ran."""
        likeness = self.contenders[name].likeness
        good = {likeness(method) for method in pool if method.label in chosen}
        return [one for one in pool if one.label in chosen or (likeness(one) in good and one.label not in done)]

    def _goes_on(self, name: str, method: Method, leaders: set[str]) -> bool:
        return not self._may_fall(name) or method.family in leaders

    def _may_fall(self, name: str) -> bool:
        return self.contenders[name].may_fall_behind

    def _keep(self, stage: str, name: str, rows: Sequence[Result], chosen: Sequence[str] = ()) -> None:
        self.folder.keep_figures(stage, {"rows": [row_of(row) for row in rows], "chosen": list(chosen)}, name)


def spread(methods: Sequence[Method], most: int | None) -> list[Method]:
    """Return at most so many of the methods, the first and the last among them; all if None."""
    if most is None or len(methods) <= most:
        return list(methods)
    return [methods[i * (len(methods) - 1) // (most - 1)] for i in range(most)]
