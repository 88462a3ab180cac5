"""The one driver: attaches a policy to live models, follows their runs, and leaves them as they were."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

from torch import nn

from bwcache.core import Decision, Step, Trace
from bwcache.core.decision import compute
from bwcache.engine import hooks, samples
from bwcache.engine.clock import Context, StepClock
from bwcache.engine.forward import Forward, Plan
from bwcache.engine.run import RunState
from bwcache.engine.samples import Rows
from bwcache.errors import AlreadyAttached, AttachError, BWCacheError, NeverReused, complaint
from bwcache.models import BlockSpec, BlockStack, denoisers, resolve
from bwcache.policies import BWCache, Observation, Policy
from bwcache.policies.presets import preset, source


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
    ) -> None:
        self.policy = policy
        self._name = type(target).__name__
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
        plan = Plan.of(self.policy, stack)
        shadows = []
        for i, block in enumerate(stack.blocks):
            shadow = hooks.intercept(block.module, self._at_block(plan, i))
            undo.callback(shadow.restore)
            shadows.append(shadow)
        if self._per_sample and len(plan.leaving) == 1:
            undo.callback(hooks.intercept(stack.module, self._at_batch(plan)).restore)
        hooks.watch(undo, self, stack.module, self._before(plan, shadows), self._after, stack.spec.entry)
        hooks.listen(undo, stack.module, self._told, self._end_run)

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

    def _at_batch(self, plan: Plan) -> hooks.Interceptor:
        """Runs a batch whose samples decide differently in two forwards, one for each decision."""

        def around(inner: Callable[..., Any]) -> Callable[..., Any]:
            def intercepted(*args: Any, **kwargs: Any) -> Any:
                if plan.stack.aside(args, kwargs):
                    return inner(*args, **kwargs)
                run, step = self._arrive(plan, args, kwargs)
                rows = run.rows(plan.stack, step.branch, args, kwargs)
                groups = grouped(run, plan, step, rows)
                outputs = []
                for steps, decided in groups:
                    chosen_args, chosen_kwargs = args, kwargs
                    if len(groups) > 1:
                        some = [step.sample or 0 for step in steps]
                        chosen_args, chosen_kwargs = samples.chosen((args, kwargs), some, rows)
                    own = Rows(len(steps), rows.branches, rows.axis)
                    self._given = Forward(plan, run, steps, own, self._timing, decided)
                    outputs.append(inner(*chosen_args, **chosen_kwargs))
                order = [[step.sample or 0 for step in steps] for steps, _ in groups]
                return outputs[0] if len(groups) == 1 else samples.merged(outputs, order, rows)

            return intercepted

        return around

    def _before(self, plan: Plan, shadows: list[hooks.Shadow]) -> Callable[..., None]:
        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for shadow in shadows:
                if not shadow.intact:
                    shadow.renew()
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

        return before

    def _arrive(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[RunState, Step]:
        """The run and step of a forward that begins now."""
        step = self._clock.tick(plan.stack.timestep.read(args, kwargs))
        if step.run != self._run_index or self._run is None:
            self._begin_run(step.run, step.total)
        assert self._run is not None
        return self._run, step

    def _after(self, returned: bool) -> None:
        forward, self._forward, self._aside, self._given = self._forward, None, None, None
        if not returned:
            self._end_run()
        elif forward is not None:
            forward.finish()

    def _told(self, context: Context | None) -> None:
        self._clock.context = context

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
        }
        self._run_index, self._run = index, RunState(self.policy, meta, self._group)

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


def attach(
    target: Any,
    policy: Policy[Any] | None = None,
    *,
    steps: int | None = None,
    timing: bool = False,
    spec: BlockSpec | None = None,
    group: Any = None,
    per_sample: bool = True,
) -> Session:
    """Attaches a policy to a pipeline or a module, until the session is left or closed.

    Args:
        target: a diffusers pipeline, or the denoiser alone.
        policy: what to reuse and when; if none is given, BWCache with the settings published for the model, or else
            with the paper's defaults.
        steps: number of steps of each run of a bare module, where no pipeline announces it.
        timing: whether the trace carries the seconds of blocks and indicator.
        spec: the row of a model that is not in the table.
        group: process group of the ranks that work on one video together.
        per_sample: whether each sample of a batch decides for itself, so that its video is what it is when made alone:
            where they differ, the denoiser runs twice, on those that compute and on those that reuse. Without effect on
            policies with more sites than one and on models whose row says so.

    Raises:
        NoBlocksFound: nothing in the target is known.
        SpecMismatch: the module is not as its row says.
        AlreadyAttached: another session holds it.
    """
    if policy is None:
        policy = BWCache() if spec else preset(target)
    return Session(target, policy, steps=steps, timing=timing, spec=spec, group=group, per_sample=per_sample)


def enable(target: Any, policy: Policy[Any] | None = None, **settings: Any) -> Session:
    """As `attach`, for a long-lived pipeline without `with`; undone by `disable`."""
    return attach(target, policy, **settings)


def disable(target: Any) -> None:
    """Ends the session that holds this pipeline or module.

    Raises:
        AttachError: none does.
    """
    parts = [target] if isinstance(target, nn.Module) else getattr(target, "components", {}).values()
    for module in parts:
        session = hooks.watcher(module) if isinstance(module, nn.Module) else None
        if session is not None:
            session.close()
            return
    raise AttachError(complaint(f"no session at this {type(target).__name__}", "one", "call bwcache.enable first"))


def grouped(
    run: RunState, plan: Plan, step: Step, rows: Rows
) -> list[tuple[tuple[Step, ...], tuple[Decision, ...] | None]]:
    """The samples of a batch by what they decide, those that compute first; all as one where there is only one."""
    if rows.samples == 1:
        run.visit(step)
        return [((step,), None)]
    site = next(place.site for place in plan.places if place.site is not None)
    run.resolve_before(step)
    groups: dict[str, list[tuple[Step, Decision]]] = {"compute": [], "reuse": []}
    for sample in range(rows.samples):
        own = replace(step, sample=sample)
        run.visit(own)
        doubt = run.nothing_kept(own, (own.lane, f"{plan.stack.name}/{site.name}"))
        decision = compute(doubt) if doubt else run.policy.decide(Observation(own, site.name), run.state)
        groups[decision.action].append((own, decision))
    return [(tuple(s for s, _ in group), tuple(d for _, d in group)) for group in groups.values() if group]


def _refuse_unless_free(name: str, module: nn.Module) -> None:
    session = hooks.watcher(module)
    if session is not None:
        raise AlreadyAttached(
            complaint(f"{name} held by {session!r}", "a free one", "close that session first (bwcache.disable)")
        )
    if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
        raise AttachError(
            complaint(
                f"{name} compiled as a whole",
                "blocks that stay callable one by one",
                "use transformer.compile_repeated_blocks() and not torch.compile(transformer)",
            )
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
