"""A policy at work in ComfyUI: put around one sampling after the other, by ComfyUI's own wrapper points.

Nothing of the model is replaced and nothing stays on it: a session is attached as the first forward of a sampling comes
and closed as the sampling ends, however that is. What the session must know (which evaluation, of how many, at which
noise level, which rows are of which prompt) is said by the host and never guessed.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import bwcache
from bwcache.comfy.lanes import Lanes, Options
from bwcache.comfy.noise_levels import NoiseLevels
from bwcache.comfy.plans import KeptPlan
from bwcache.comfy.rehearsal import adds_noise, evaluations
from bwcache.comfy.rows import expect_carried, row_of
from bwcache.comfy.runs import Runs
from bwcache.core.trace import Trace
from bwcache.engine.clock.host import goes_one_way
from bwcache.errors import AlreadyAttachedError, AttachError, complaint
from bwcache.models import BlockSpec, uncompiled
from bwcache.policies import Guarded, Policy

KEY = "bwcache"
POINTS = ("outer_sample", "sampler_sample", "predict_noise", "apply_model")
"""ComfyUI's names of the places where others may stand around its functions, from the outside in."""
FEW = 8
"""Steps of models and LoRAs that were made for few."""
NEAR = 1e-4
LOG = logging.getLogger("bwcache")


@dataclass(frozen=True)
class Settings:
    """What a person set at the node.

    Attributes:
        policy: when to compute and when to reuse.
        memory: "device" or "offload": where what is kept waits.
        start, end: share of the run before and after which every step is computed, 0..1.
        plan: that the policy is of, if it is of one.
        remark: what a person should know of it.
    """

    policy: Policy[Any]
    memory: str = "device"
    start: float = 0.0
    end: float = 1.0
    plan: KeptPlan | None = None
    remark: str = ""

    def of_run(self, total: int | None) -> Policy[Any]:
        """Return the policy of a run of so many evaluations."""
        if total is None or (self.start <= 0 and self.end >= 1):
            return self.policy
        return Guarded(self.policy, warmup=round(self.start * total), tail=round((1 - self.end) * total))


def cached(model: Any, settings: Settings) -> tuple[Any, Runs]:
    """Return a clone of a model patcher whose samplings reuse, and what will be told of them.

    Args:
        model: ComfyUI's `ModelPatcher`. It is left as it is.
        settings: of the node.

    Raises:
        BWCacheError: the policy does not fit this model.
    """
    expect_host(model)
    expect_fits(model, settings.policy)
    runs, clone = Runs(), model.clone()
    around = Around(settings, runs)
    for point in POINTS:
        clone.remove_wrappers_with_key(point, KEY)
        clone.add_wrapper_with_key(point, KEY, getattr(around, point))
    return clone, runs


def host_version() -> str:
    """Return ComfyUI and its version, as far as it says that."""
    version = getattr(sys.modules.get("comfyui_version"), "__version__", None)
    return f"ComfyUI {version}" if version else "this ComfyUI"


def expect_host(model: Any) -> None:
    """Raises `AttachError` where ComfyUI lacks a place to stand at: it is too old, or too new for this pack."""
    points: Any = getattr(sys.modules.get("comfy.patcher_extension"), "WrappersMP", None)
    known = set(POINTS) if points is None else set(map(str, vars(points).values()))
    missing = [point for point in POINTS if point not in known]
    if missing or not hasattr(model, "add_wrapper_with_key"):
        found = f"{host_version()} without {missing[0] if missing else 'wrappers'} (comfy.patcher_extension.WrappersMP)"
        expected = "ComfyUI 0.3.64 or newer, whose samplings others may stand around"
        raise AttachError(complaint(found, expected, "update ComfyUI; if it is newer than this pack, update the pack"))


def expect_fits(model: Any, policy: Policy[Any]) -> BlockSpec:
    """Return the row of a model; what is wrong with it is said at the node, not in the middle of a sampling.

    Raises:
        BWCacheError: the policy does not fit this model.
    """
    module = model.get_model_object("diffusion_model")
    row = row_of(module)
    plan = expect_carried(policy, module, row)
    levels = NoiseLevels(model.get_model_object("model_sampling"))
    if plan.clean and levels.prediction is None:
        kind = type(model.get_model_object("model_sampling")).__mro__
        raise AttachError(
            complaint(
                f"{type(uncompiled(module)).__name__} with {', '.join(base.__name__ for base in kind[1:3])}, "
                "whose prediction nobody here knows how to read",
                "one of flow, epsilon or v",
                "choose a method that keeps blocks, such as BWCache",
            )
        )
    return row


class Around:
    """What stands at the wrapper points of one node's model.

    Args:
        settings: of the node.
        runs: what is told of each sampling.
    """

    def __init__(self, settings: Settings, runs: Runs) -> None:
        self._settings, self._runs = settings, runs
        self._samplings: list[Sampling] = []
        self._begun = 0

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Keep ComfyUI's compiler of whole forwards away: what it plans memory for must not be kept across forwards."""
        before = self._begun
        with _no_planned_memory():
            made = executor(*args, **kwargs)
        if self._begun == before:
            self._runs.add((), f"{host_version()} did not say when its sampler began: everything was computed")
            LOG.warning("bwcache: %s", self._runs.notes[-1])
        self._runs.ended_with(made)
        return made

    def sampler_sample(
        self, executor: Any, model_wrap: Any, sigmas: Any, extra_args: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """One sampling, from the first evaluation to the last."""
        self._begun += 1
        options = extra_args.get("model_options", {})
        if options.get("multigpu_clones"):
            self._runs.add((), "several GPUs share this sampling: everything was computed")
            LOG.warning("bwcache: several GPUs share this sampling: everything is computed")
            return executor(model_wrap, sigmas, extra_args, *args, **kwargs)
        _stand_inside(options)
        noise = args[1] if len(args) > 1 else kwargs.get("noise")
        axes = getattr(noise, "ndim", 4)
        levels = NoiseLevels(model_wrap.inner_model.model_sampling)
        if self._settings.plan is not None:
            self._settings.plan.expect_sampling(executor.class_obj, sigmas, levels)
        called_at = evaluations(executor.class_obj, model_wrap, sigmas, axes, extra_args.get("seed"))
        sampling = Sampling(self._settings, levels, called_at, float(sigmas[-1]), len(sigmas) - 1)
        if self._settings.policy.looks_ahead and levels.prediction == "flow":
            sampling.goes_on = not adds_noise(executor.class_obj, model_wrap, sigmas, axes)
        self._samplings.append(sampling)
        try:
            return executor(model_wrap, sigmas, extra_args, *args, **kwargs)
        finally:
            self._samplings.remove(sampling)
            sampling.end(self._runs)

    def predict_noise(self, executor: Any, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        """One evaluation: of the model by the sampler, with all its branches."""
        if self._samplings:
            self._samplings[-1].go_on(float(timestep.flatten()[0]))
        return executor(x, timestep, *args, **kwargs)

    def apply_model(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One forward: of some of the branches, in one batch."""
        if not self._samplings:
            return executor(*args, **kwargs)
        base, place = executor.class_obj, 5  # of (x, t, c_concat, c_crossattn, control, transformer_options)
        control = args[place - 1] if len(args) >= place else kwargs.get("control")
        found = args[place] if len(args) > place else kwargs.get("transformer_options")
        options = Options(found or {})
        if len(args) > place:
            args = (*args[:place], options, *args[place + 1 :])
        else:
            kwargs = {**kwargs, "transformer_options": options}
        with self._samplings[-1].forward(base, options, control):
            return executor(*args, **kwargs)


class Sampling:
    """One sampling: which evaluation it is at, and the session of its model.

    Args:
        settings: of the node.
        levels: read sigmas.
        called_at: the sigmas of all evaluations to come; none: they could not be told.
        last: the sigma at which it ends.
        steps: of the sampler.

    Attributes:
        goes_on: whether latents go on as they came, so that a policy may look ahead.
    """

    goes_on = False

    def __init__(
        self, settings: Settings, levels: NoiseLevels, called_at: list[float], last: float, steps: int
    ) -> None:
        self._settings, self._levels, self._steps = settings, levels, steps
        self._called_at: list[float] | None = called_at or None
        shares = tuple(levels.share(sigma) for sigma in (*called_at, last))
        self._shares = shares
        self._goes_one_way = goes_one_way(shares)
        self._index, self._sigma = -1, 0.0
        self._lanes = Lanes()
        self._traces: list[Trace] = []
        self._session: bwcache.Session | None = None
        self._is_of: Any = None
        self.note = "" if called_at else "its evaluations could not be told beforehand: everything was computed"

    @property
    def total(self) -> int | None:
        """The number of evaluations."""
        return None if self._called_at is None else len(self._called_at)

    def go_on(self, sigma: float) -> None:
        """The next evaluation begins."""
        self._index, self._sigma = self._index + 1, sigma
        listed = self._called_at
        if listed is None or (self._index < len(listed) and abs(listed[self._index] - sigma) <= NEAR * max(1.0, sigma)):
            return
        self.note = f"evaluation {self._index} came at sigma {sigma:.4g}, which the sampler had not made known"
        self._called_at = None
        if self._session is not None:
            self._session.end_run()

    @contextmanager
    def forward(self, base: Any, options: Options, control: Any) -> Iterator[None]:
        """Around one forward of the model."""
        session = self._attached(base)
        names = self._lanes.of(options, control, getattr(base, "current_patcher", None))
        if self._index < 0 or not names:
            self.note = f"{host_version()} did not say {'of which prompts' if not names else 'in which evaluation'} a "
            self.note += "forward was: it was computed"
        if session is None:
            yield
        elif self._index < 0 or not names:
            with session.aside():
                yield
        else:
            with session.step(**self._said(), branch=names):
                yield

    def _said(self) -> dict[str, Any]:
        said: dict[str, Any] = {"index": self._index, "sigma": self._levels.told(self._sigma)}
        if self._levels.prediction is not None:
            said["prediction"] = self._levels.prediction
        if self.goes_on:
            said["time_of"] = self._levels.time_of
        if self._called_at is None:
            return {**said, "noise": self._levels.share(self._sigma)}
        said["total"] = self.total
        if self._goes_one_way:
            return {**said, "schedule": self._shares}
        return {**said, "noise": (self._shares[self._index], self._shares[self._index + 1])}

    def _attached(self, base: Any) -> bwcache.Session | None:
        """The session of the module that ComfyUI calls now; made as the first forward comes.

        A sampling within this one may have taken its place in the meantime: then this one begins anew.
        """
        module = base.diffusion_model
        if self._is_of is module and (self._session is None or self._session.denoisers):
            return self._session
        self._let_go()
        self._is_of = module
        try:
            self._session = bwcache.attach(
                module,
                self._settings.of_run(self.total),
                spec=row_of(module),
                per_sample=False,
                memory=self._settings.memory,
                replace=_holds_ours(module),
            )
        except AlreadyAttachedError:
            self.note = "another session holds this model: nothing was done here"
            LOG.warning("bwcache: %s", self.note)
        else:
            _OURS.add(self._session)
        return self._session

    def _let_go(self) -> None:
        session, self._session, self._is_of = self._session, None, None
        if session is not None:
            session.close()
            self._traces += session.traces

    def end(self, runs: Runs) -> None:
        """The sampling is over, or broken off: let go of the model, and say what it came to."""
        self._let_go()
        for trace in self._traces:
            trace.meta["sampler_steps"] = self._steps
            note = "; ".join(filter(None, (self.note, self._settings.remark)))
            if note:
                trace.meta["note"] = note
            LOG.info("bwcache: %s; %s", line(trace), cost(trace))
        runs.add(self._traces, self.note)


_OURS: WeakSet[bwcache.Session] = WeakSet()
"""The sessions that samplings here have attached."""


def _holds_ours(module: Any) -> bool:
    """Whether a sampling that has not ended yet holds a model."""
    return any(session.is_of(module) for session in _OURS)


def counted(trace: Trace) -> str:
    """Return how many steps and evaluations a run had, how many were computed, the speedup of the model's work."""
    kinds: dict[int, set[str]] = {}
    for event in trace.events:
        kinds.setdefault(event.step, set()).add(event.action)
    computed = sum(actions != {"reuse"} for actions in kinds.values())
    share = len(kinds) / computed if computed else 1.0
    steps = _many(trace.meta.get("sampler_steps"), "step")
    return f"{steps}, {_many(len(kinds), 'evaluation')}, {computed} computed: {share:.2f}x in the model's work"


def _many(number: Any, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def line(trace: Trace) -> str:
    """Return a run in one line: `counted`, and the `remark`."""
    note = remark(trace)
    return counted(trace) + (f" ({note})" if note else "")


def remark(trace: Trace) -> str:
    """Return what there is to know of a run beside, of one without reuse why, or ""."""
    return str(trace.meta.get("note") or ("" if trace.reuse_rate > 0 else _why_all(trace)))


def cost(trace: Trace) -> str:
    """Return what a run held between its steps, in words."""
    held = {"": trace.peak_bytes, " in main memory": trace.host_bytes}
    told = [f"{count / 1e6:.3g} MB{where}" for where, count in held.items() if count]
    return f"it kept {' and '.join(told) or 'nothing'} between steps"


def _why_all(trace: Trace) -> str:
    """Why nothing was reused."""
    if trace.steps <= FEW:
        return "so few steps leave little to reuse"
    reasons = Counter(event.reason.split(" (")[0] for event in trace.events if event.step > 0)
    return f"nothing was reused: {reasons.most_common(1)[0][0]}"


def _stand_inside(options: Any) -> None:
    """Stand inside of other packs' wrappers of the forward, such as that which swaps in a compiled model."""
    wrappers = options.get("transformer_options", {}).get("wrappers", {}).get("apply_model", {})
    if KEY in wrappers:
        wrappers[KEY] = wrappers.pop(KEY)


@contextmanager
def _no_planned_memory() -> Iterator[None]:
    """Switch ComfyUI's allocation of whole forwards off, where it has that: it gives out again what is kept."""
    arguments: Any = getattr(sys.modules.get("comfy.cli_args"), "args", None)  # ComfyUI's command line
    before = getattr(arguments, "disable_comfy_compiler", None)
    if before is None:
        yield
        return
    arguments.disable_comfy_compiler = True
    try:
        yield
    finally:
        arguments.disable_comfy_compiler = before
