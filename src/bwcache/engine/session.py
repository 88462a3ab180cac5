"""The one driver: attaches a policy to live models, follows their runs, and leaves them as they were."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn

from bwcache.core import Event, Step, Trace
from bwcache.core.words import shown
from bwcache.engine import bars, hooks, interrupts
from bwcache.engine.clock import Clock, HostStep
from bwcache.engine.denoiser import Denoiser
from bwcache.engine.forward import Forward
from bwcache.engine.free import expect_free
from bwcache.engine.made_for import file_policy
from bwcache.engine.memory import DEFAULT, Memory
from bwcache.engine.ranks import ONE_PROCESS, Ranks, Related
from bwcache.engine.reasons import REMEDIES
from bwcache.engine.run import Run
from bwcache.engine.spread import related
from bwcache.errors import (
    AttachError,
    BWCacheError,
    NeverReusedWarning,
    SettingError,
    complaint,
    warn,
)
from bwcache.models import BlockSpec, denoisers, resolve, uncompiled
from bwcache.models.provenance import expect_still_free
from bwcache.policies import PerDenoiser, Policy
from bwcache.policies.grades import graded
from bwcache.policies.policy_file import names_file
from bwcache.policies.presets import source

KEEP_TRACES = 1000
"""So many finished traces a session holds, if it is not told otherwise."""

HELD = "close that session first (bwcache.disable), or say replace=True"
"""What to do about another session, where one is to be attached."""

AGAIN = 3
"""So many runs on end that begin since a name came again are worth a warning."""


def policy_of(policy: object, target: Any = None) -> Policy[Any]:
    """Return the policy that is meant: itself, one for each denoiser by its name, of a grade, or of a file.

    Args:
        policy: any of these; a file by its path.
        target: the pipeline or module that it is for.

    Raises:
        SettingError: it is none of these.
    """
    if names_file(policy):
        return file_policy(target, policy)
    if isinstance(policy, str):
        return graded(policy).policy
    if isinstance(policy, Mapping):
        policy = PerDenoiser(policy)
    if not isinstance(policy, Policy):
        expected = "a policy such as bwcache.BWCache()"
        raise SettingError(complaint(f"{shown(policy)} as a policy", expected, "pass one, or bwcache.policy({...})"))
    return policy


class Sampling(threading.local):
    """What goes on in one thread: two that sample at the same time, with one model, know nothing of each other.

    Attributes:
        clock: counts its steps.
        run: the run in progress, or None.
        forward: the forward that is open, or None.
        plain: whether a forward is open that is no step.
        cache_fills: the forwards of this run that were no step, by their sign.
        bars: a token for the bar that each pipeline, by its id, shows at present.
    """

    def __init__(self, new_clock: Callable[[], Clock]) -> None:
        self.clock = new_clock()
        self.run: Run | None = None
        self.run_index = -1
        self.forward: Forward | None = None
        self.plain = False
        self.cache_fills: Counter[str] = Counter()
        self.bars: dict[int, object] = {}

    def exchange(self, other: dict[str, Any]) -> dict[str, Any]:
        """Put something else in the place of what goes on in this thread; return what went on."""
        mine: dict[str, Any] = vars(self)
        before = dict(mine)
        mine.clear()
        mine.update(other)
        return before


class Session:
    """A policy at work on the denoisers of one pipeline or on one bare module. Made by `attach`."""

    def __init__(
        self,
        target: Any,
        policy: Policy[Any],
        *,
        steps: int | None = None,
        timing: bool = False,
        spec: BlockSpec | None = None,
        ranks: Ranks | None = None,
        per_sample: bool = True,
        memory: Memory = DEFAULT,
        keep_traces: int | None = KEEP_TRACES,
        on_trace: Callable[[Trace], None] | None = None,
    ) -> None:
        self.name = type(uncompiled(target)).__name__
        self.timing, self.per_sample = timing, per_sample
        self._ranks = ranks
        self.related = Related()
        self._target: Any = target
        self._steps = steps
        self.here = Sampling(self._new_clock)
        self._requests: dict[Hashable, dict[str, Any]] = {}
        self._told_alone = False
        self._policy, self._next = policy, policy
        self._memory = memory
        self._bare = spec is not None
        self._runs: list[Run] = []
        self.turns = threading.RLock()  # of threads that begin runs or change what stands at the places of a denoiser
        self._finished: deque[Trace] = deque(maxlen=keep_traces)
        self._on_trace = on_trace
        self._on_step: list[Callable[[Event], object]] = []
        self._undo = ExitStack()
        with ExitStack() as undo:
            self.denoisers: dict[str, Denoiser] = {}
            modules = denoisers(target, spec)
            _expect_named(policy, modules)
            self.related = related(ranks, modules)
            for name, module in modules.items():
                expect_free(name, module, HELD)
                stack = resolve(name, module, spec)
                self.denoisers[name] = Denoiser(undo, self, stack, _in_use(target, name))
                hooks.forbid(undo, module, "enable_cache", _no_other_cache(name))
            bars.follow(undo, target, self)
            self._undo = undo.pop_all()

    def __repr__(self) -> str:
        return f"<bwcache.Session of {self.name}, {shown(self.policy)}>"

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise BWCacheError(
            complaint("a session to be pickled", "its traces", "attach in the worker, and send session.trace")
        )

    def is_of(self, target: Any) -> bool:
        """Return whether it was attached to this pipeline or module."""
        return self._target is target

    @property
    def policy(self) -> Policy[Any]:
        """The policy of the run in progress, or of the next one; `use` sets another."""
        return self._next

    @property
    def trace(self) -> Trace:
        """The trace of the last run, or of the one in progress as far as it is. Reading it changes nothing.

        Raises:
            BWCacheError: there was no run yet.
        """
        traces = self.traces
        if not traces:
            raise BWCacheError(complaint("no run in this session", "at least one", "call the pipeline first"))
        return traces[-1]

    @property
    def traces(self) -> list[Trace]:
        """The traces of all runs that are held, in order, those in progress last."""
        return [*self._finished, *(run.as_it_stands() for run in list(self._runs))]

    @property
    def ranks(self) -> str:
        """Who decides together with this rank, how they were found and where, in words."""
        return str(self.related)

    def clear_traces(self) -> None:
        """Let go of the traces of the runs that are over."""
        self._finished.clear()

    @contextmanager
    def run(self, steps: int | None = None) -> Iterator[None]:
        """Mark one run of a bare module, and how many steps it has, where no pipeline says so."""
        self.end_run()
        self.here.clock.announce(steps)
        try:
            yield
        finally:
            self.end_run()

    @contextmanager
    def step(
        self,
        index: int | None = None,
        total: int | None = None,
        branch: str | tuple[str, ...] | None = None,
        sigma: float | None = None,
        noise: float | tuple[float, float] | None = None,
        prediction: str | None = None,
        schedule: Sequence[float] | None = None,
        time_of: Callable[[float], float] | None = None,
    ) -> Iterator[None]:
        """Say where the forwards within stand: for programs that sample by themselves. What is None is found out.

        Args:
            index: ordinal of the step in its run, from 0. A lower one than before begins a new run, and so does the
                same branch once more at the same index: count evaluations of the model, not steps of the sampler.
            total: number of steps of the run.
            branch: name of the guidance branch, or one name for each equal part of the batch, in order: what is kept is
                kept by these names, whether branches come in one forward or in forwards of their own.
            sigma: noise level, as the scheduler names it.
            noise: share of noise in the latents before and after the step, 1..0 (sigma in flow matching, sigma /
                (1 + sigma) elsewhere); one number: before it.
            prediction: what the denoiser returns: "flow", "epsilon", "v" or "sample", at latents that enter it with
                unit size where it is no flow. With it sigma is the share of noise in a flow, and else noise over data.
            schedule: share of noise at each step of the run and after the last one, 1..0: what a plan is made of.
            time_of: returns the denoiser's time argument at a share of noise. With it, policies that evaluate elsewhere
                than they are called do so. Leave it out where the sampler adds new noise.

        Raises:
            SettingError: a value that cannot be meant.
        """
        clock = self.here.clock
        listed = tuple(schedule) if isinstance(schedule, Iterable) else schedule
        before, clock.host = clock.host, HostStep(index, total, branch, sigma, noise, prediction, listed, time_of)
        try:
            yield
        finally:
            clock.host = before

    def use(self, policy: Policy[Any] | Mapping[str, Policy[Any]] | str | Path) -> None:
        """Use another policy from the next run on, or where threads sample together from the first that begins alone.

        Raises:
            SettingError: it is no policy.
            AttachError: it does not fit the model; then the present one stays.
        """
        policy = policy_of(policy, self._target)
        _expect_named(policy, self.denoisers)
        for denoiser in self.denoisers.values():
            denoiser.checked_plan(policy)
        self._next = policy

    @contextmanager
    def request(self, name: Hashable, policy: Policy[Any] | str | None = None) -> Iterator[None]:
        """What lies within belongs to one of several requests that take turns: each has a clock and a run of its own.

        So a server makes one step of this video and then one of that. What a request keeps stays until `drop`, and it
        may come back in another thread.

        Args:
            name: of the request.
            policy: of its runs, the same each time that it comes; by default the session's.

        Raises:
            SettingError: it is no policy.
            AttachError: it does not fit the model.
        """
        before = self._policy, self._next
        self._take_up(*before if policy is None else 2 * (policy_of(policy, self._target),))
        others = self.here.exchange(self._requests.pop(name, {}) or vars(Sampling(self._new_clock)).copy())
        if self.here.run is not None:
            self.here.run.thread = threading.current_thread()
        try:
            yield
        finally:
            mine = self.here.exchange(others)
            if self._target is not None:  # else the session was closed within
                self._requests[name] = mine
                self._take_up(*before)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Forwards within are none of a run: everything runs, and nothing is taken note of."""
        here = self.here
        before, here.plain = here.plain, True
        try:
            yield
        finally:
            here.plain = before

    def drop(self, name: Hashable) -> None:
        """A request is over, or given up: its trace is handed on, and what it kept is freed. Another name: nothing."""
        if name not in self._requests:
            return
        try:
            with self.request(name):
                self.end_run()
        finally:
            self._requests.pop(name, None)

    def _take_up(self, policy: Policy[Any], later: Policy[Any]) -> None:
        """Use a policy for the forwards that come now, and another one from the next run on."""
        with self.turns:
            if policy is not self._policy:
                for denoiser in self.denoisers.values():
                    denoiser.checked_plan(policy)
                for denoiser in self.denoisers.values():
                    denoiser.plan_for(policy)
            self._policy, self._next = policy, later

    def invalidate(self) -> None:
        """Forget all that is kept: call it where a callback changes prompts or weights in the middle of a run.

        A forward that is under way keeps nothing. Of ranks that have parts of one video all are to be told, before the
        same step. Where some are not, none may forget alone: those that were told wait for the others for some seconds,
        warn, and then all of them forget after the next step that computes.
        """
        at_once = [run.tell_to_forget() for run in list(self._runs)]
        if not all(at_once) and not self._told_alone:
            self._told_alone = True
            count = self.related.parts.count if self.related.parts is not None else 1
            found = f"invalidate() on some of {count} ranks that make one video"
            expected = "it on all of them, before the same step and in the threads that sample"
            action = "call it so: until the next step that computes, steps replay what was to be forgotten"
            warn(complaint(found, expected, action), RuntimeWarning)

    def stop(self) -> None:
        """Stop the run in progress: a pipeline that can be interrupted ends its loop, else the next forward raises.

        The next run is not affected. Of ranks that decide together it is enough to tell one: all of them stop, after
        the next step that computes.
        """
        if self.related.alone:
            self.stop_now()
        for run in list(self._runs):
            run.tell_to_stop()

    def stop_now(self) -> None:
        """Stop this rank's run."""
        if hasattr(self._target, "_interrupt"):
            self._target._interrupt = True
            return
        for run in list(self._runs):
            run.stopped = True

    def hear_interrupt(self, pipeline: Any) -> None:
        """Take an interrupt of this rank's pipeline back until all know of it that decide together: then all stop."""
        run = self.here.run
        if run is None or self.related.alone or run.is_told_to_stop or not getattr(pipeline, "_interrupt", False):
            return
        pipeline._interrupt = False
        run.tell_to_stop()

    def on_step(self, call: Callable[[Event], object]) -> Callable[[], None]:
        """Call `call(event)` at each row of the trace, as soon as it stands; return what ends that.

        What is measured comes into the same row later, when the next decision needs it.

        What `call` raises ends the run, nothing of which is kept, and reaches whoever called the pipeline. The rows so
        far stay in the trace, and the next run is not affected.
        """
        self._on_step.append(call)

        def end() -> None:
            if call in self._on_step:
                self._on_step.remove(call)

        return end

    def close(self) -> None:
        """Detach: every module is again as it was found. Traces stay."""
        self._undo.close()
        fills = dict(self.here.cache_fills)
        self._requests.clear()
        with ExitStack() as last:
            last.callback(self._let_go)
            for run in list(self._runs):
                last.callback(self._finish, run)
            self.end_run()
        if fills and not self._finished and self.policy.may_reuse:
            self.warn(f"nothing can be reused: each forward of {self.name} fills a cache ({', '.join(fills)})")

    def _let_go(self) -> None:
        self.here = Sampling(lambda: Clock(lambda: None))  # the old one may know a scheduler
        self._target, self.denoisers = None, {}

    def _new_clock(self) -> Clock:
        return Clock(lambda: getattr(self._target, "scheduler", None), self._steps, self.agree)

    def begin_run(self, step: Step, module: nn.Module) -> Run:
        """Return the run that a forward of one of the denoisers begins."""
        self._end_run_of_this_thread()
        for other in list(self._runs):
            if not other.thread.is_alive():
                self._finish(other)
        with self.turns:
            return self._begin(step, module)

    def _begin(self, step: Step, module: nn.Module) -> Run:
        here = self.here
        if self._next is not self._policy and not self._runs:
            self._policy = self._next
            for denoiser in self.denoisers.values():
                denoiser.plan_for(self._policy)
        bars.follow_caller(self, module)
        self._look_for_ranks()
        if not self.related.alone:
            interrupts.follow(self._undo, self, module)
        for denoiser in self.denoisers.values():
            expect_still_free(denoiser.stack, own_forward=not self._bare)
        if step.total is not None:
            self._policy.check(step.total)
        meta: dict[str, Any] = {
            "model": self.name,
            "policy": self._policy.describe(),
            "total": step.total,
            "source": here.clock.source,
            "noise": None if step.schedule is None else list(step.schedule),
            "preset": None if self._bare else source(self._target, self._policy),
            "memory": "offload" if self._memory.offload else "device",
            "max_memory": self._memory.limit,
        }
        if self.related.why != ONE_PROCESS:
            meta["ranks"] = self.ranks
        if here.clock.repeats == AGAIN:
            self._warn_of_one_name(step.branch)
        run = Run(self._policy, meta, self.related, self._memory, self._guides(module), self._on_step)
        here.run_index, here.run = step.run, run
        self._runs.append(run)
        return run

    def _guides(self, module: nn.Module) -> bool:
        """Return whether the pipeline that is calling says that it guides."""
        return bool(self.here.clock.caller.says(module, "do_classifier_free_guidance"))

    def _look_for_ranks(self) -> None:
        """A model may have been spread over ranks since the session was attached."""
        found = related(self._ranks, {name: denoiser.stack.module for name, denoiser in self.denoisers.items()})
        if found != self.related:
            self.related = found
            for denoiser in self.denoisers.values():
                denoiser.plan_for(self._policy)

    def agree(self, here: bool) -> bool:
        """Return whether something that each rank sees of its own holds on any that has a part of this video."""
        return here if self.related.parts is None else self.related.parts.any(here)

    def end_run(self) -> None:
        """The run of this thread is over: the next forward begins another."""
        self.here.clock.end()
        self._end_run_of_this_thread()

    def _end_run_of_this_thread(self) -> None:
        here = self.here
        run, here.run = here.run, None
        if run is None:
            return
        if here.cache_fills:
            run.trace.meta["cache_fills"] = dict(here.cache_fills)
            here.cache_fills.clear()
        self._finish(run)

    def _finish(self, run: Run) -> None:
        with self.turns:
            if run not in self._runs:
                return
            self._runs.remove(run)
        run.close()
        self._finished.append(run.trace)
        self._warn_if_never_reused(run)
        if self._on_trace is not None:
            self._on_trace(run.trace)

    def _warn_of_one_name(self, branch: str) -> None:
        """Each forward of one name in one step is taken for a run of its own: safe, and little is ever reused."""
        self.warn(
            f"a forward of {branch!r} came again in the same step, {AGAIN} runs on end: where a step has several "
            "forwards of one name, name them apart by session.step(index=, branch=)"
        )

    def _warn_if_never_reused(self, run: Run) -> None:
        trace = run.trace
        complete = bool(trace.events) and trace.steps == (trace.events[-1].total or trace.steps)
        if not run.policy.may_reuse or not complete or trace.steps < 2 or trace.reuse_rate > 0:
            return
        later = [event for event in trace.events if event.step > 0]
        reason, count = Counter(event.reason.split(" (")[0] for event in later).most_common(1)[0]
        lowest = trace.summary().indicator_min
        measured = "nothing measured" if lowest is None else f"lowest indicator {lowest:.4f}"
        self.warn(
            f"nothing was reused in {trace.steps} steps: {reason} "
            f"({count} of {len(later)} rows after the first step, {measured}); "
            f"{REMEDIES.get(reason, 'see session.trace.summary()')}"
        )

    def warn(self, text: str) -> None:
        """Warn that nothing, or not all that could be, is reused."""
        warn(text, NeverReusedWarning)


def _in_use(target: Any, name: str) -> Callable[[], Any]:
    """What finds what a pipeline calls as this denoiser: the module, or what `torch.compile` made of it."""
    return partial({name: target}.get, name) if isinstance(target, nn.Module) else partial(getattr, target, name, None)


def _no_other_cache(name: str) -> Callable[..., None]:
    def enabled(config: Any = None, *args: Any, **kwargs: Any) -> None:
        raise AttachError(
            complaint(
                f"{type(config).__name__} to be enabled on {name} while a session is attached",
                "one cache at a time",
                "leave the session first, or choose another policy in it",
            )
        )

    return enabled


def _expect_named(policy: Policy[Any], there: Collection[str]) -> None:
    for name in policy.denoisers:
        if name not in there:
            raise AttachError(
                complaint(f"a policy for {name!r}", f"one of its denoisers: {', '.join(there)}", "name one of these")
            )
