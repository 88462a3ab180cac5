"""The one driver: attaches a policy to live models, follows their runs, and leaves them as they were."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from bwcache.core import Trace
from bwcache.engine import hooks
from bwcache.engine.clock import Context, StepClock
from bwcache.engine.forward import Forward, Plan
from bwcache.engine.run import RunState
from bwcache.errors import AlreadyAttached, AttachError, BWCacheError, NeverReused, complaint
from bwcache.models import BlockSpec, BlockStack, denoisers, resolve
from bwcache.policies import BWCache, Policy


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
    ) -> None:
        self.policy = policy
        self._name = type(target).__name__
        self._timing = timing
        self._group = group
        self._clock = StepClock(lambda: getattr(target, "scheduler", None), steps)
        self._run: RunState | None = None
        self._run_index = -1
        self._forward: Forward | None = None
        self._finished: list[Trace] = []
        self._warned = False
        self._undo = ExitStack()
        with ExitStack() as undo:
            for name, module in denoisers(target).items():
                self._install(undo, resolve(name, module, spec))
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
        self._forward = None
        self._clock = StepClock(lambda: None)  # the old one knows the pipeline

    def _install(self, undo: ExitStack, stack: BlockStack) -> None:
        _refuse_other_caches(stack)
        plan = Plan.of(self.policy, stack)
        shadows = []
        for i, block in enumerate(stack.blocks):
            shadow = hooks.intercept(block.module, self._at_block(plan, i))
            undo.callback(shadow.restore)
            shadows.append(shadow)
        hooks.watch(undo, self, stack.module, self._before(plan, shadows), self._after)
        hooks.listen(undo, stack.module, self._told, self._end_run)

    def _at_block(self, plan: Plan, i: int) -> hooks.Interceptor:
        def around(inner: Callable[..., Any]) -> Callable[..., Any]:
            def intercepted(*args: Any, **kwargs: Any) -> Any:
                forward = self._forward
                if forward is None or forward.plan is not plan:
                    self._warn(f"{plan.stack.blocks[i].name} was called outside of {self._name}'s forward: computed")
                    return inner(*args, **kwargs)
                return forward.block(i, inner, args, kwargs)

            return intercepted

        return around

    def _before(self, plan: Plan, shadows: list[hooks.Shadow]) -> Callable[..., None]:
        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for shadow in shadows:
                if not shadow.intact:
                    shadow.renew()
            stream = plan.stack.timestep
            given = stream.name in kwargs or stream.position < len(args)
            step = self._clock.tick(stream.read(args, kwargs) if given else None)
            if step.run != self._run_index or self._run is None:
                self._begin_run(step.run, step.total)
            assert self._run is not None
            self._run.visit(step)
            self._forward = Forward(plan, self._run, step, self._timing)

        return before

    def _after(self, returned: bool) -> None:
        forward, self._forward = self._forward, None
        if forward is not None:
            forward.finish()
        if not returned:
            self._end_run()

    def _told(self, context: Context | None) -> None:
        self._clock.context = context

    def _begin_run(self, index: int, total: int | None) -> None:
        self._end_run(tell_clock=False)
        if total is not None:
            self.policy.check(total)
        meta = {"model": self._name, "policy": self.policy.describe(), "total": total, "source": self._clock.source}
        self._run_index, self._run = index, RunState(self.policy, meta, self._group)

    def _end_run(self, tell_clock: bool = True) -> None:
        if tell_clock:
            self._clock.end()
        run, self._run = self._run, None
        if run is None:
            return
        run.close()
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


def attach(
    target: Any,
    policy: Policy[Any] | None = None,
    *,
    steps: int | None = None,
    timing: bool = False,
    spec: BlockSpec | None = None,
    group: Any = None,
) -> Session:
    """Attaches a policy to a pipeline or a module, until the session is left or closed.

    Args:
        target: a diffusers pipeline, or the denoiser alone.
        policy: what to reuse and when; `BWCache()`, the paper's defaults, if none is given.
        steps: number of steps of each run of a bare module, where no pipeline announces it.
        timing: whether the trace carries the seconds of blocks and indicator.
        spec: the row of a model that is not in the table.
        group: process group of the ranks that work on one video together.

    Raises:
        NoBlocksFound: nothing in the target is known.
        SpecMismatch: the module is not as its row says.
        AlreadyAttached: another session holds it.
    """
    return Session(target, policy or BWCache(), steps=steps, timing=timing, spec=spec, group=group)


def enable(target: Any, policy: Policy[Any] | None = None, **settings: Any) -> Session:
    """As `attach`, for a long-lived pipeline without `with`; undone by `disable`."""
    return attach(target, policy, **settings)


def disable(target: Any) -> None:
    """Ends the session that holds this pipeline or module.

    Raises:
        AttachError: none does.
    """
    for module in denoisers(target).values():
        session = hooks.watcher(module)
        if session is not None:
            session.close()
            return
    raise AttachError(complaint(f"no session at this {type(target).__name__}", "one", "call bwcache.enable first"))


def _refuse_other_caches(stack: BlockStack) -> None:
    session = hooks.watcher(stack.module)
    if session is not None:
        raise AlreadyAttached(
            complaint(f"{stack.name} held by {session!r}", "a free one", "close that session first (bwcache.disable)")
        )
    config = getattr(stack.module, "_cache_config", None)
    if config is not None:
        raise AttachError(
            complaint(
                f"{type(config).__name__} enabled on {stack.name}",
                "no other cache",
                f"call pipe.{stack.name}.disable_cache() first",
            )
        )
