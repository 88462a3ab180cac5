"""One denoiser under a session: the one wrapper of its call, and the interceptors at its places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from bwcache.core import Step
from bwcache.engine import hooks
from bwcache.engine.batch import WHOLE, BatchLayout
from bwcache.engine.clock import Call
from bwcache.engine.compiled import CompiledDenoiser, is_within
from bwcache.engine.decide import Group, decide
from bwcache.engine.elsewhere import Elsewhere
from bwcache.engine.fitting import refused
from bwcache.engine.forward import Forward, RunAgain
from bwcache.engine.guidance import expect_parts
from bwcache.engine.idle import IdleCalls, IdleModules
from bwcache.engine.listed import AsOne
from bwcache.engine.plan import Plan, Spot
from bwcache.engine.run import Run
from bwcache.engine.swapped import Swapped
from bwcache.errors import AttachError, RunStoppedError, SettingError, SpecMismatchError, complaint, warn
from bwcache.models import BlockStack, uncompiled
from bwcache.policies import Policy

if TYPE_CHECKING:
    from bwcache.engine.session import Session


class Denoiser:
    """A denoiser that a session holds.

    Args:
        undo: what undoes it.
        session: whose it is.
        stack: where its blocks are.
        look: finds what callers call in its place now.
    """

    def __init__(self, undo: ExitStack, session: Session, stack: BlockStack, look: Callable[[], Any]) -> None:
        self.stack = stack
        self._session, self._look, self._own = session, look, vars(stack.module)
        self._compiled = CompiledDenoiser(undo, stack, look)
        self._at_places = ExitStack()
        undo.callback(lambda: self._at_places.close())
        self.plan_for(session.policy)
        if stack.spec.entry == "forward":
            hooks.stand_before(undo, stack.module, "forward", self._wrapped)
        else:
            undo.callback(hooks.intercept(stack.module, self._wrapped).restore)
        self._compiled.watch(undo)
        hooks.hold(undo, stack.module, session)
        hooks.listen(undo, stack.module, session.here, session.end_run)

    @property
    def is_in_use(self) -> bool:
        """Whether the pipeline still calls it."""
        used = self._look()
        return used is None or uncompiled(used) is self.stack.module

    def checked_plan(self, policy: Policy[Any]) -> Plan:
        """Return the plan of a policy.

        Raises:
            AttachError: it does not fit the denoiser, or it acts within what is compiled as one; who would is said.
            SettingError: the denoiser lacks what it names; who needs nothing of it is said.
        """
        try:
            return self._plan(policy)
        except (AttachError, SettingError) as error:
            if isinstance(error, SpecMismatchError):  # of the row, not of the policy
                raise
            raise refused(error, self._plan) from error

    def _plan(self, policy: Policy[Any]) -> Plan:
        plan = Plan.of(policy.of_denoiser(self.stack.name), self.stack, self._session.timing)
        parts = (spot.place for spot in plan.spots if spot.place.kind not in ("block", "named"))
        hidden = next((part for part in parts if is_within(self.stack.module, part.name)), None)
        if hidden is not None:
            raise AttachError(
                complaint(
                    f"{hidden.name} within a compiled block of {self.stack.name}",
                    "parts that are called one by one: in a compiled block nothing can be decided",
                    "attach before anything is compiled, and compile the parts alone; or take a policy on whole blocks",
                )
            )
        return plan

    def plan_for(self, policy: Policy[Any]) -> None:
        """Make a plan for a policy, and intercept the places at which there is anything to do."""
        self._at_places.close()
        self.plan = plan = self.checked_plan(policy)
        undo = self._at_places = ExitStack()
        places = [spot.place for spot in plan.spots]
        overrides = hooks.intercept_places(
            undo, self.stack.module, places, [self._at(plan, spot) for spot in plan.spots]
        )
        self._idle = self._idle_modules(plan)
        undo.enter_context(policy.of_denoiser(self.stack.name).at_work(self.stack))
        self._overrides = [*overrides, *hooks.intercept_all(undo, self._idle.modules, self._at_idle)]
        self._compiled.interceptors = overrides

    def _idle_modules(self, plan: Plan) -> IdleModules:
        """The modules that can be skipped in a replay of this plan."""
        stack = self.stack
        surprising = plan.alone is None or stack.spec.entry != "call" or self._session.related.lockstep is not None
        if surprising or not plan.keeps:
            return IdleModules({})
        return IdleModules({path: part for path, part in stack.idle.items() if not is_within(stack.module, path)})

    def _at(self, plan: Plan, spot: Spot) -> hooks.Interceptor:
        here, tell = self._session.here, self._warn_of_calls_outside

        def around(inner: Callable[..., Any]) -> Callable[..., Any]:
            def intercepted(*args: Any, **kwargs: Any) -> Any:
                forward = here.forward
                if forward is None or forward.plan is not plan:
                    tell(spot)
                    return inner(*args, **kwargs)
                return forward(spot, inner, args, kwargs)

            return intercepted

        return around

    def _at_idle(self, path: str) -> hooks.Interceptor:
        here = self._session.here

        def around(inner: Callable[..., Any]) -> Callable[..., Any]:
            def intercepted(*args: Any, **kwargs: Any) -> Any:
                forward = here.forward
                if forward is None or forward.idle is None or forward.plan is not self.plan:
                    return inner(*args, **kwargs)
                return forward.idle.call(path, inner, args, kwargs)

            return intercepted

        return around

    def _wrapped(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """The denoiser's call; no compiler traces it, so that it runs block by block whatever is compiled around it."""

        made = AsOne(self.stack.root.streams[0], self.call) if self.stack.spec.latents_listed else self.call

        def called(*args: Any, **kwargs: Any) -> Any:
            return made(inner, args, kwargs)

        hidden: Callable[..., Any] = torch.compiler.disable(called)
        return hidden

    def call(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one forward: which step is it, what is decided for whom, do it, and take note."""
        session, here, stack, compiled = self._session, self._session.here, self.stack, self._compiled
        if (
            compiled.look() is not compiled.outer
            or self._own.get("forward") is not compiled.forward
            or (compiled.is_around())
        ):
            with session.turns:
                compiled.check()
        for override in self._overrides:
            if override.holder.get(override.name) is not override.value:
                self._renew()
        if here.plain or here.forward is not None:
            return self._plainly(inner, args, kwargs)
        try:
            sign = stack.fills_cache(args, kwargs) if stack.cache_fill_flags else None
            if sign is not None:
                here.cache_fills[sign] += 1
                return self._plainly(inner, args, kwargs)
            call = Call(stack, args, kwargs)
            step, run = here.clock.tick(call), here.run
            if run is None or step.run != here.run_index:
                run = session.begin_run(step, stack.module)
            elif run.stopped:
                raise RunStoppedError(
                    complaint("a run to be stopped", "nothing", "call the pipeline again for another")
                )
            if stack.skips is not None:
                run.pass_over(step.branch, stack.skipped(args, kwargs))
            rows = WHOLE if call.is_one_row and call.host is None else self._layout(run, step.branch, call)
            if self.plan.never is not None and run.alone and run.trace.hidden_bytes and not session.timing:
                return self._go_by(run, step, rows, call, inner)
            if self.plan.clean:
                call.level = here.clock.level(call, step)
            if run.together is not None:
                run.together.begin(call)
            groups = decide(run, self.plan, step, rows, call)
            if not run.alone and run.is_told_to_stop:
                session.stop_now()
            if len(groups) == 1:
                return self._run(run, groups[0], rows, call, inner)
            return self._run_apart(run, groups, rows, call, inner)
        except BaseException:
            session.end_run()
            raise

    def _go_by(self, run: Run, step: Step, rows: BatchLayout, call: Call, inner: Callable[..., Any]) -> Any:
        """A forward of a plan that neither keeps nor looks at anything, once the size of its features is known."""
        returned = self._plainly(inner, call.args, call.kwargs)
        for own in (step,) if rows.is_whole else rows.steps(step):
            run.lane(own, self.stack.name)
            for site, decided in (self.plan.never or {}).items():
                run.note(own, self.plan.where[site], "compute", decided.reason)
        return returned

    def _renew(self) -> None:
        """Set over again what somebody has put something over; another thread may be changing all of it."""
        with self._session.turns:
            for override in self._overrides:
                if override.holder.get(override.name) is not override.value:
                    override.renew()

    def _layout(self, run: Run, branch: str, call: Call) -> BatchLayout:
        """How the lanes lie in the batch: samples that decide for themselves, branches that the host names.

        Raises:
            SettingError: the batch cannot be cut into as many parts as the host names.
        """
        expect_parts(call)
        if self.plan.probes:
            return WHOLE
        as_one = not self._session.per_sample
        layout = run.layouts.of(call, branch, self._session.here.clock, self.plan.beside, as_one)
        if run.layouts.notes:
            run.trace.meta["samples"] = "; ".join(run.layouts.notes)
        return layout

    def _run_apart(
        self, run: Run, groups: Sequence[Group], rows: BatchLayout, call: Call, inner: Callable[..., Any]
    ) -> Any:
        """One forward for each group, on its rows of the batch alone."""
        outputs = []
        for group in groups:
            own = call.with_arguments(*_on(group.ordinals, rows, self.stack, call.args, call.kwargs))
            outputs.append(self._run(run, group, rows.only(group.ordinals), own, inner))
        return rows.merge(outputs, [group.ordinals for group in groups])

    def _run(self, run: Run, group: Group, rows: BatchLayout, call: Call, inner: Callable[..., Any]) -> Any:
        """One forward of some samples; again, with all modules, where it turned out that it needed one it skipped."""
        plan, here, session = self.plan, self._session.here, self._session
        if self._replays_all(group):
            call = without_blocks(call)
        first = self._idle_calls(run, group, call) if self._idle.modules else None
        for idle in (first, None):
            forward = here.forward = Forward(plan, run, group, rows, call, self._session.timing, idle)
            try:
                if plan.root is None:
                    returned = inner(*call.args, **call.kwargs)
                else:
                    returned = forward(plan.root, self._root(forward, inner), call.args, call.kwargs)
                if idle is None or not idle.skipped or (forward.calls and not idle.was_read(returned, session.agree)):
                    break
            except RunAgain:
                pass
            finally:
                here.forward = None
            self._warn_if_idle_modules_are_read()
        if not forward.calls and plan.sites:
            self._session.warn(
                f"{self._session.name} ran and called none of its blocks: was it compiled as a whole? nothing is reused"
            )
            return returned
        forward.finish()
        if idle is not None and idle.known is None and forward.computed:
            run.idle.setdefault(idle.inputs, idle.outlines)
        return returned

    def _replays_all(self, group: Group) -> bool:
        """Whether it is decided that no block will run, though the denoiser will."""
        whole = self.plan.whole
        if whole is None or group.decided is None or self.plan.root is not None:
            return False
        for decided in group.decided:  # noqa: SIM110 (a generator is two frames more in every forward)
            if decided[whole.name].action != "reuse":
                return False
        return True

    def _root(self, forward: Forward, inner: Callable[..., Any]) -> Callable[..., Any]:
        """What is called as the denoiser: itself, at another noise level, or also with only half of it moved on."""
        if self.plan.clean:
            return Elsewhere(forward, self._session.here.clock, inner)
        return Swapped(forward, inner, partial(self._plainly, inner)) if self.plan.swaps else inner

    def _plainly(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A forward that is no step: everything runs, nothing is taken note of."""
        here = self._session.here
        forward, plain = here.forward, here.plain
        here.forward, here.plain = None, True
        try:
            return inner(*args, **kwargs)
        finally:
            here.forward, here.plain = forward, plain

    def _idle_calls(self, run: Run, group: Group, call: Call) -> IdleCalls | None:
        """What there is to do at the idle modules: see what they return, or skip them, in a sure replay."""
        given = None if self._idle.read else call.note_inputs()
        if given is None:
            return None
        known = run.idle.get(given)
        if known is None:
            return IdleCalls(self._idle, given, None)
        if group.decided is None or torch.is_grad_enabled():
            return None
        for lane, decided in zip(group.lanes, group.decided, strict=True):
            for decision in decided.values():
                if decision.action != "reuse" or lane.inputs != given:
                    return None
        return None if self._idle.is_watched else IdleCalls(self._idle, given, known)

    def _warn_if_idle_modules_are_read(self) -> None:
        if self._idle.read:
            warn(
                f"{self._session.name} reads {', '.join(self._idle.modules)} after its blocks: computed in every step. "
                f"Is the row of {self.stack.spec.model} right?"
            )

    def _warn_of_calls_outside(self, spot: Spot) -> None:
        if not self._session.here.plain:
            self._session.warn(f"{spot.place.name} was called outside of {self._session.name}'s forward: computed")


def _on(
    lanes: Sequence[int], rows: BatchLayout, stack: BlockStack, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A forward's arguments with the rows of some lanes only."""
    skipped = stack.skipped(args, kwargs)
    chosen = rows.take((args, kwargs), lanes)
    if skipped is None or stack.skips is None:
        return chosen
    return stack.skips.replaced(rows.take(skipped.T, lanes).T, *chosen)


def without_blocks(call: Call) -> Call:
    """Return a forward's call where no block will run: arguments that have a method `without_blocks()` give others."""
    for value in (*call.args, *call.kwargs.values()):
        if hasattr(value, "without_blocks"):
            break
    else:
        return call

    def own(value: Any) -> Any:
        return value.without_blocks() if hasattr(value, "without_blocks") else value

    return call.with_arguments(tuple(map(own, call.args)), {name: own(value) for name, value in call.kwargs.items()})
