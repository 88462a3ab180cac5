"""The one driver: attaches a policy to live models, follows their runs, and leaves them as they were."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any

from torch import nn

from bwcache.core import Step, Trace
from bwcache.engine import hooks, samples
from bwcache.engine.clock import Context, StepClock
from bwcache.engine.compiled import Whole, is_within
from bwcache.engine.forward import Forward
from bwcache.engine.groups import grouped
from bwcache.engine.idle import Doubt, Idle, Spared, inputs
from bwcache.engine.memory import DEFAULT, Memory
from bwcache.engine.plan import Plan
from bwcache.engine.run import RunState
from bwcache.engine.samples import Rows
from bwcache.engine.schedule import Loop
from bwcache.errors import AlreadyAttached, AttachError, BWCacheError, NeverReused, complaint
from bwcache.models import BlockSpec, BlockStack, denoisers, resolve, uncompiled
from bwcache.policies import Policy
from bwcache.policies.presets import source


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
        group: Any = None,
        per_sample: bool = True,
        memory: Memory = DEFAULT,
    ) -> None:
        self.policy = policy
        self._memory = memory
        self._guided: Callable[[], bool] = partial(_guides, target)
        self._name = type(uncompiled(target)).__name__
        self._preset = None if spec else source(target, policy)
        self._timing = timing
        self._group = group
        self._clock = StepClock(lambda: getattr(target, "scheduler", None), steps)
        self._run: RunState | None = None
        self._run_index = -1
        self._per_sample = per_sample
        self._forward: Forward | None = None
        self._given: Forward | None = None
        self._aside: Plan | None = None
        self._asides: Counter[str] = Counter()
        self._finished: list[Trace] = []
        self._warned = False
        self._undo = ExitStack()
        with ExitStack() as undo:
            for name, module in denoisers(target, spec).items():
                _refuse_unless_free(name, module)
                self._install(undo, resolve(name, module, spec), partial(_in_use, target, name))
            for part in hooks.shows_bars(target):
                hooks.stand_before(undo, part, "progress_bar", self._at_bar(target))
            self._undo = undo.pop_all()

    def __repr__(self) -> str:
        return f"<bwcache.Session of {self._name}, {self.policy}>"

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def trace(self) -> Trace:
        """The trace of the last run, or of the one in progress.

        Raises:
            BWCacheError: there was no run yet.
        """
        traces = self.traces
        if not traces:
            raise BWCacheError(complaint("no run in this session", "at least one", "call the pipeline first"))
        return traces[-1]

    @property
    def traces(self) -> list[Trace]:
        """The traces of all runs, in order."""
        if self._run is None:
            return list(self._finished)
        self._run.resolve()
        return [*self._finished, self._run.trace]

    @contextmanager
    def run(self, steps: int | None = None) -> Iterator[None]:
        """Marks one run of a bare module, and how many steps it has, where no pipeline says so."""
        self._end_run()
        self._clock.announce(steps)
        try:
            yield
        finally:
            self._end_run()

    def close(self) -> None:
        """Detaches: every module is again as it was found. Traces stay."""
        self._undo.close()
        self._end_run()
        if self._asides and not self._finished and self.policy.may_reuse:
            self._warn(f"nothing can be reused: each forward of {self._name} fills a cache ({', '.join(self._asides)})")
        self._forward = None
        self._clock, self._guided = StepClock(lambda: None), bool  # the old ones know the pipeline

    def _install(self, undo: ExitStack, stack: BlockStack, look: Callable[[], Any]) -> None:
        plan = Plan.of(self.policy, stack, self._timing)
        whole = Whole(undo, stack, look)
        blocks, arounds = zip(*((stack.blocks[i], self._at_block(plan, i)) for i in plan.watched), strict=True)
        shadows = hooks.intercept_blocks(undo, stack.module, blocks, arounds)
        idle = self._idle(plan)
        everywhere = [*shadows, *hooks.intercept_all(undo, idle.modules, partial(self._at_idle, plan))]
        if len(plan.leaving) == 1 and (self._per_sample or idle.modules):
            undo.callback(hooks.intercept(stack.module, self._at_batch(plan, idle)).restore)
        hooks.watch(undo, self, stack.module, self._before(plan, everywhere), self._after, stack.spec.entry)
        hooks.listen(undo, stack.module, self._told, self._end_run)
        whole.watch(undo, shadows)
        hooks.forbid(undo, stack.module, "enable_cache", _no_other_cache(stack.name))

    def _at_block(self, plan: Plan, i: int) -> hooks.Interceptor:
        def around(inner: Callable[..., Any]) -> Callable[..., Any]:
            def intercepted(*args: Any, **kwargs: Any) -> Any:
                forward = self._forward
                if forward is None or forward.plan is not plan:
                    if self._aside is not plan:
                        self._warn(
                            f"{plan.stack.blocks[i].name} was called outside of {self._name}'s forward: computed"
                        )
                    return inner(*args, **kwargs)
                return forward.block(i, inner, args, kwargs)

            return intercepted

        return around

    def _idle(self, plan: Plan) -> Idle:
        """The modules that can be skipped in a replay of this plan."""
        stack = plan.stack
        surprising = plan.alone is None or stack.spec.entry != "call" or self._group is not None
        if surprising or not self.policy.may_reuse:
            return Idle({})
        return Idle({path: part for path, part in stack.idle.items() if not is_within(stack.module, path)})

    def _at_idle(self, plan: Plan, path: str) -> hooks.Interceptor:
        def around(inner: Callable[..., Any]) -> Callable[..., Any]:
            def intercepted(*args: Any, **kwargs: Any) -> Any:
                forward = self._forward
                if forward is None or forward.spared is None or forward.plan is not plan:
                    return inner(*args, **kwargs)
                return forward.spared.call(path, inner, args, kwargs)

            return intercepted

        return around

    def _at_batch(self, plan: Plan, idle: Idle) -> hooks.Interceptor:
        """Runs a batch whose samples decide differently in two forwards, one for each decision."""

        def around(inner: Callable[..., Any]) -> Callable[..., Any]:
            def intercepted(*args: Any, **kwargs: Any) -> Any:
                self._end_what_broke_off()
                if plan.stack.aside(args, kwargs):
                    return inner(*args, **kwargs)
                run, step = self._arrive(plan, args, kwargs)
                rows = run.rows(plan.stack, step.branch, args, kwargs) if self._per_sample else Rows()
                groups = grouped(run, plan, step, rows)
                outputs = []
                for group in groups:
                    own = Rows(len(group.steps), rows.branches, rows.axis)
                    forward = Forward(plan, run, group.steps, own, self._timing, group.decided)
                    some = (args, kwargs) if len(groups) == 1 else _on(group.samples, rows, plan.stack, args, kwargs)
                    outputs.append(self._ran(forward, idle, inner, *some))
                if len(groups) == 1:
                    return outputs[0]
                return samples.merged(outputs, [group.samples for group in groups], rows)

            return intercepted

        return around

    def _ran(
        self, forward: Forward, idle: Idle, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """One forward; again, with all its modules, where it turned out that it needed one that it skipped."""
        self._given = forward
        if not idle.modules or idle.read:
            return inner(*args, **kwargs)
        forward.spared = Spared(idle)
        with suppress(Doubt):
            returned = inner(*args, **kwargs)
        if not forward.spared.broken:
            return returned
        if idle.read:
            warnings.warn(
                f"{self._name} reads {', '.join(idle.modules)} after its blocks: computed in every step. Is the row "
                f"of {forward.plan.stack.spec.model} right?",
                stacklevel=2,
            )
        self._given = forward.again()
        return inner(*args, **kwargs)

    def _before(self, plan: Plan, shadows: list[hooks.Shadow]) -> Callable[..., None]:
        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for shadow in shadows:
                if not shadow.intact:
                    shadow.renew()
            if self._given is None:
                self._end_what_broke_off()
            said = plan.stack.aside(args, kwargs)
            if said is not None:
                self._aside = plan
                self._asides[said] += 1
                return
            if self._given is None:
                run, step = self._arrive(plan, args, kwargs)
                run.visit(step)
                self._given = Forward(plan, run, (step,), Rows(), self._timing)
            self._forward, self._given = self._given, None
            self._forward.filling = plan.stack.filling(args, kwargs)
            if self._forward.spared is not None:
                self._forward.foresee(inputs(plan.stack, args, kwargs))

        return before

    def _arrive(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[RunState, Step]:
        """The run and step of a forward that begins now."""
        step = self._clock.tick(plan.stack.timestep.read(args, kwargs), args, kwargs)
        if step.run != self._run_index or self._run is None:
            self._begin_run(step.run, step.total)
        assert self._run is not None
        self._run.pass_over(step.branch, plan.stack.skipped(args, kwargs))
        return self._run, step

    def _after(self, output: Any) -> None:
        forward, self._forward, self._aside, self._given = self._forward, None, None, None
        spared = None if forward is None else forward.spared
        if forward is not None and spared is not None and spared.needs_again(output, blocks=bool(forward.route)):
            return
        if output is None:
            self._end_run()
        elif forward is not None and forward.route:
            try:
                forward.finish()
            except BWCacheError:
                self._end_run()
                raise
        elif forward is not None:
            self._warn(f"{self._name} ran and called none of its blocks: was it compiled as a whole? nothing is reused")

    def _end_what_broke_off(self) -> None:
        """A forward that began and never ended was broken off by Ctrl-C, of which torch tells no hook."""
        if self._forward is not None or self._aside is not None:
            self._after(None)

    def _told(self, context: Context | None) -> None:
        self._clock.context = context

    def _at_bar(self, pipeline: Any) -> hooks.Interceptor:
        """Notes what a pipeline says of its loop as it shows a bar over it."""

        def noting(inner: Callable[..., Any]) -> Callable[..., Any]:
            def progress_bar(*args: Any, **kwargs: Any) -> Any:
                given = dict(zip(("iterable", "total"), args, strict=False)) | kwargs
                self._clock.loop = Loop.shown(pipeline, given.get("iterable"), given.get("total"))
                return inner(*args, **kwargs)

            return progress_bar

        return noting

    def _begin_run(self, index: int, total: int | None) -> None:
        self._end_run(tell_clock=False)
        if total is not None:
            self.policy.check(total)
        meta: dict[str, Any] = {
            "model": self._name,
            "policy": self.policy.describe(),
            "total": total,
            "source": self._clock.source,
            "preset": self._preset,
            "memory": "offload" if self._memory.offload else "device",
            "max_memory": self._memory.limit,
        }
        run = RunState(self.policy, meta, self._group, self._memory, self._guided())
        self._run_index, self._run = index, run

    def _end_run(self, tell_clock: bool = True) -> None:
        if tell_clock:
            self._clock.end()
        run, self._run = self._run, None
        if run is None:
            return
        run.close()
        if self._asides:
            run.trace.meta["aside"] = dict(self._asides)
            self._asides.clear()
        self._finished.append(run.trace)
        self._warn_if_never_reused(run.trace)

    def _warn_if_never_reused(self, trace: Trace) -> None:
        complete = bool(trace.events) and trace.steps == (trace.events[-1].total or trace.steps)
        if not self.policy.may_reuse or not complete or trace.steps < 2 or trace.reuse_rate > 0:
            return
        reason, count = Counter(event.reason.split(" (")[0] for event in trace.events).most_common(1)[0]
        lowest = trace.summary().indicator_min
        measured = "nothing measured" if lowest is None else f"lowest indicator {lowest:.4f}"
        self._warn(
            f"nothing was reused in {trace.steps} steps: {reason} "
            f"({count} of {len(trace.events)} forwards, {measured}); see session.trace.summary()"
        )

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(text, NeverReused, stacklevel=2)


def _guides(target: Any) -> bool:
    """Whether a pipeline that is being called says that it guides."""
    try:
        return bool(getattr(target, "do_classifier_free_guidance", False))
    except Exception:  # a property of somebody else's: whatever is wrong with it, a run must not fail for it
        return False


def _on(some: Sequence[int], rows: Rows, stack: BlockStack, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A forward's arguments with the rows of some samples only."""
    skipped = stack.skipped(args, kwargs)
    chosen = samples.chosen((args, kwargs), some, rows)
    if skipped is None or stack.skips is None:
        return chosen
    return stack.skips.replaced(samples.chosen(skipped.T, some, rows).T, *chosen)


def _in_use(target: Any, name: str) -> Any:
    """What a pipeline calls as this denoiser at present: the module, or what `torch.compile` made of it."""
    return target if isinstance(target, nn.Module) else getattr(target, name, None)


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


def _refuse_unless_free(name: str, module: nn.Module) -> None:
    session = hooks.watcher(module)
    if session is not None:
        raise AlreadyAttached(
            complaint(f"{name} held by {session!r}", "a free one", "close that session first (bwcache.disable)")
        )
    config = getattr(module, "_cache_config", None)
    if config is not None:
        raise AttachError(
            complaint(
                f"{type(config).__name__} enabled on {name}",
                "no other cache",
                f"call pipe.{name}.disable_cache() first",
            )
        )
