"""What must hold of every scenario, judged without the engine."""

from __future__ import annotations

import functools
import re
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.utils import logging

import bwcache
from bwcache import Event, Trace
from tests.fuzz.left import bytes_held, differences, features_held, of_bwcache
from tests.fuzz.play import Actor, Halt, Outcome, Part, Stage, near
from tests.fuzz.policies import Chosen
from tests.fuzz.replay import BruteForce
from tests.fuzz.scenario import Call, Cast, Copy, Enter, Hook, Scenario


@dataclass(frozen=True)
class Finding:
    """A law that a scenario breaks, and how."""

    law: str
    text: str

    @property
    def signature(self) -> str:
        """What findings of one fault have in common."""
        return f"{self.law}: {re.sub(r'[0-9.]+', '#', self.text)[:160]}"


class Attached(Part):
    """Plays a scenario with its sessions.

    Attributes:
        sessions, policies: those that are there, and the policy of each, by actor.
        rows, runs, used: of each call: its rows, its traces, and the policies that were in force in it.
        findings: the laws that were broken meanwhile.
    """

    def __init__(self, scenario: Scenario, reads: bool = True) -> None:
        self.scenario, self.reads = scenario, reads
        self.sessions: dict[str, bwcache.Session] = {}
        self.policies: dict[str, Chosen] = {}
        self.rows: dict[str, list[Event]] = {}
        self.runs: dict[str, int] = {}
        self.used: dict[str, list[Chosen]] = {}
        self.findings: list[Finding] = []
        self._entered = Enter()
        self._ended: dict[str, list[Trace]] = {}
        self._told: dict[str, list[Event]] = {}
        self._stop_telling: list[Callable[[], None]] = []

    @property
    def _shares(self) -> bool:
        """Whether another pipeline has forwards in the same session."""
        return any("shared" in call.beside for call in self.scenario.calls)

    def enter(self, stage: Stage, action: Enter) -> None:
        self._entered = action
        for actor in stage.actors:
            if actor.name != "shared":
                self._begin(actor, action)

    def _begin(self, actor: Actor, action: Enter) -> None:
        scenario, steps = self.scenario, {call.steps for call in self.scenario.calls}
        told = scenario.told and scenario.target == "module" and len(steps) == 1
        policy = action.policy or scenario.policy
        ended: list[Trace] = []
        begin = bwcache.enable if action.how == "enable" else bwcache.attach
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = begin(
                actor.target,
                policy.policy,
                steps=steps.pop() if told else None,
                timing=scenario.timing,
                per_sample=scenario.per_sample,
                memory=scenario.memory,
                max_memory=action.max_memory,
                keep_traces=action.keep_traces,
                on_trace=ended.append,
                replace=action.how == "replace",
            )
        self.sessions[actor.name], self.policies[actor.name], self._ended[actor.name] = session, policy, ended
        self._told[actor.name] = []
        if any(call.has("row") for call in scenario.calls):
            self._stop_telling.append(session.on_step(functools.partial(self._tell, actor)))

    def _tell(self, actor: Actor, event: Event) -> None:
        self._told[actor.name].append(event)
        if actor.running is not None:
            actor.running.noted()

    def again(self, stage: Stage, action: Enter) -> None:
        if action.how == "replace":
            before = dict(self.sessions)
            self.enter(stage, action)
            for name, session in before.items():
                self._over(name, session, stage)
            return
        try:
            self._begin(stage.main, replace(action, how="attach"))
        except bwcache.AlreadyAttachedError:
            return
        self.findings.append(Finding("one session at a time", "a second one began"))

    def leave(self, stage: Stage) -> None:
        for actor in stage.actors:
            session = self.sessions.pop(actor.name, None)
            if session is None:
                continue
            for stop in self._stop_telling:
                stop()
            self._stop_telling.clear()
            if self._entered.how == "enable":
                bwcache.disable(actor.target)
            else:
                session.close()
            self._over(actor.name, session, stage)
            for module in actor.modules.values():
                for where in of_bwcache(module):
                    self.findings.append(Finding("leaving restores everything", f"{where} is still there"))

    def _over(self, name: str, session: bwcache.Session, stage: Stage) -> None:
        modules = next(actor for actor in stage.actors if actor.name == name).modules.values()
        held = features_held(session, modules)
        if held:
            self.findings.append(Finding("nothing is kept after leaving", f"{held} tensors"))

    def use(self, actor: Actor, policy: Chosen) -> None:
        session = self.sessions.get(actor.name)
        if session is None:
            return
        try:
            session.use(policy.policy)
        except (bwcache.AttachError, bwcache.SettingError):  # it does not fit the model
            return
        self.policies[actor.name] = policy

    def stop(self, actor: Actor) -> None:
        if actor.name in self.sessions:
            self.sessions[actor.name].stop()
        else:
            super().stop(actor)

    def invalidate(self, actor: Actor) -> None:
        if actor.name in self.sessions:
            self.sessions[actor.name].invalidate()

    def clear(self, actor: Actor) -> None:
        if actor.name in self.sessions:
            self.sessions[actor.name].clear_traces()

    def says(self, actor: Actor, said: dict[str, Any]) -> Any:
        session = self.sessions.get(actor.name)
        return super().says(actor, said) if session is None else session.step(**said)

    def stepped(self, actor: Actor) -> None:
        """What is held is what the trace says, and no more than is allowed."""
        session, most = self.sessions.get(actor.name), self._entered.max_memory
        if session is None or most is None or self.scenario.memory != "device" or self._shares:
            return
        for held, said in bytes_held(session, actor.modules.values()):
            if held > min(most, said):
                text = f"{held} bytes are held, {said} in the trace, {most} allowed"
                self.findings.append(Finding("memory is what it is said to be", text))

    @contextmanager
    def during(self, actor: Actor, call: Call, outcome: Outcome) -> Iterator[None]:
        session = self.sessions.get(actor.name)
        if session is None:
            yield
            return
        ended, policy, told = self._ended[actor.name], self.policies[actor.name], len(self._told[actor.name])
        before = [*ended, *session.traces]
        yield
        if outcome.error is not None and not _breaks_unseen(self.scenario, call):
            alone = _is_alone(session)
            held = features_held(session, actor.modules.values())
            if held and alone and _is_alone(session):
                law = "nothing is kept after a call that broke off"
                how = f"{call.breaks.where} {call.breaks.error}" if call.breaks else repr(outcome.error)
                self.findings.append(Finding(law, f"{how}: {held} tensors"))
        new = [trace for trace in _distinct([*ended, *session.traces]) if not any(trace is old for old in before)]
        self.rows[outcome.name] = [event for trace in new for event in trace.events]
        self.runs[outcome.name] = len(new)
        self.used[outcome.name] = list(dict.fromkeys([policy, self.policies.get(actor.name, policy)]))
        self._judge_traces(session, actor, policy, new, self._told[actor.name][told:])

    def _judge_traces(
        self, session: bwcache.Session, actor: Actor, policy: Chosen, new: list[Trace], told: list[Event]
    ) -> None:
        ended, keep, most = self._ended[actor.name], self._entered.keep_traces, self._entered.max_memory
        if len(_distinct(ended)) != len(ended):
            self.findings.append(Finding("each trace is handed out once", f"{len(ended)}"))
        over = [trace for trace in session.traces if any(trace is one for one in ended)]
        expected = ended if keep is None else ended[len(ended) - min(keep, len(ended)) :]
        if not _cleared(self.scenario) and [id(one) for one in over] != [id(one) for one in expected]:
            self.findings.append(Finding("the last traces are held", f"{len(over)} of {len(ended)}, to keep: {keep}"))
        rows = [_row(event) for trace in new for event in trace.events]
        heard = rows if actor.name in self.sessions else rows[: len(told)]  # until it was left
        if told and not self._shares and list(map(_row, told)) != heard:
            self.findings.append(Finding("each row is told as it is noted", f"{len(told)} told"))
        if new and new[0].meta["policy"] != policy.policy.describe():
            self.findings.append(Finding("the policy in use is that of the trace", str(new[0].meta["policy"])))
        for trace in new:
            if most is not None and max(trace.peak_bytes, trace.planned_bytes) > most:
                text = f"{trace.peak_bytes} bytes held, {trace.planned_bytes} planned, {most} allowed"
                self.findings.append(Finding("memory is what it is said to be", text))

    def marked(self, actor: Actor, steps: int) -> Any:
        session = self.sessions.get(actor.name)
        return super().marked(actor, steps) if session is None else session.run(steps)

    def read(self, actor: Actor) -> None:
        session = self.sessions.get(actor.name)
        if session is not None and self.reads and session.traces:
            str(session.trace.summary())
            len(session.trace.events)

    def copied(self, stage: Stage, action: Copy, made: Any) -> None:
        for where in of_bwcache(made):
            self.findings.append(Finding("a copy knows no session", f"{action.how}: {where}"))


def _is_alone(session: bwcache.Session) -> bool:
    """Whether no other thread is in the middle of a run, which keeps what it needs."""
    return all(run.thread is threading.current_thread() for run in list(session._runs))


def _distinct(traces: list[Trace]) -> list[Trace]:
    return list({id(trace): trace for trace in traces}.values())


def _cleared(scenario: Scenario) -> bool:
    return any(do.what == "clear" for call in scenario.calls for do in call.does)


def _breaks_unseen(scenario: Scenario, call: Call) -> bool:
    """Whether a session cannot see that a call broke off: one of a bare module sees nothing between two forwards."""
    return scenario.target == "module" and call.has("callback")


def check(scenario: Scenario) -> list[Finding]:
    """Every law that the scenario breaks; empty where all is well."""
    plain = _played(scenario, Part())
    unfit = [o for o in (*plain.outcomes, *plain.copies) if o.error is not None and not isinstance(o.error, _MINE)]
    if unfit:
        return [Finding("the scenario runs without a session", _said(unfit[0].error))]
    part = Attached(scenario)
    try:
        attached = _played(scenario, part, plain)
    except (bwcache.SettingError, bwcache.AttachError):  # a policy that cannot work on this model
        return []
    except Exception as error:
        return [Finding("no internal exception", _said(error))]
    return [*part.findings, *_judged(scenario, plain, attached, part)]


@contextmanager
def quietly() -> Iterator[None]:
    """One thread, and nothing that diffusers says of odd casts."""
    threads, level = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        logging.set_verbosity(level)


_MINE = (Halt, KeyboardInterrupt)


def _same_denoisers(scenario: Scenario) -> bool:
    """Whether a scenario can be played again on the denoisers on which it was played: nothing changes them for good."""
    return scenario.kind != "sd3 perturbed" and not any(
        isinstance(a, Cast) or (isinstance(a, Hook) and a.kind in ("patch", "registry")) for a in scenario.script
    )


def _played(scenario: Scenario, part: Part, before: Stage | None = None) -> Stage:
    """The scenario played to its end, on the denoisers of an earlier time if that is the same."""
    stage = Stage(scenario, part, before if _same_denoisers(scenario) else None)
    stage.play()
    return stage


def _judged(scenario: Scenario, plain: Stage, attached: Stage, part: Attached) -> Iterator[Finding]:
    yield from _errors(scenario, attached)
    for mine, other in zip(plain.copies, attached.copies, strict=False):
        if not mine.same(other):
            yield Finding("a copy is as one that saw no session", f"{other.name}: {mine.deviates_at(other)}")
    if any(not isinstance(outcome.error, (*_MINE, type(None))) for outcome in attached.outcomes):
        return
    if _same_denoisers(scenario):
        for text in differences(plain.left, attached.left, modules=True):
            yield Finding("leaving restores everything", text)
    yield from _videos(scenario, plain, attached, part)
    if any("shared" in call.beside for call in scenario.calls):
        yield from _shared(scenario, attached)
    else:
        yield from _brute_force(scenario, attached, part)
    if any(_reads(call) for call in scenario.calls) and not any("shared" in call.beside for call in scenario.calls):
        yield from _unread(scenario, attached, part)


def _pairs(stage: Stage, attached: Stage) -> Iterator[tuple[Outcome, Outcome]]:
    """The same calls in both: one that breaks off in a block that was skipped goes on, and calls others."""
    named = {outcome.name: outcome for outcome in stage.outcomes}
    return ((named[other.name], other) for other in attached.outcomes if other.name in named)


def _errors(scenario: Scenario, attached: Stage) -> Iterator[Finding]:
    shared = any("shared" in call.beside for call in scenario.calls)
    for outcome in (*attached.outcomes, *attached.copies):
        error = outcome.error
        if error is None or isinstance(error, (*_MINE, bwcache.SettingError)):
            continue
        if isinstance(error, bwcache.OverBudgetError) and any(
            isinstance(action, Enter) and action.max_memory is not None for action in scenario.script
        ):
            if outcome.steps and not shared and not _doubtful(scenario):  # a call within it may have ended its run
                yield Finding("a run is refused before it begins", f"in step {len(outcome.steps)}: {_said(error)}")
        elif isinstance(error, bwcache.BWCacheError):
            if not shared:
                yield Finding("legal use is not refused", _said(error))
        else:
            yield Finding("no internal exception", _said(error))


def _doubtful(scenario: Scenario) -> bool:
    """Whether a call may be taken for several runs."""
    return any(call.may_look_like_several(scenario.bare) for call in scenario.calls)


def _breaks_elsewhere(call: Call) -> bool:
    """Whether a call breaks off at another place without a session: there are no rows, and no forwards on samples."""
    return call.has("row") or (call.batch > 1 and call.has("denoiser", "after", "block"))


def _videos(scenario: Scenario, plain: Stage, attached: Stage, part: Attached) -> Iterator[Finding]:
    """Where nothing was reused, the video is the uncached one."""
    for mine, other in _pairs(plain, attached):
        rows = part.rows.get(other.name, [])
        if any(row.action == "reuse" for row in rows) or other.name.startswith("shared"):
            continue
        if not mine.same(other) and not any(_breaks_elsewhere(call) for call in scenario.calls):
            yield Finding("computing always changes nothing", f"{other.name}: {mine.deviates_at(other)}")
    for name, rows in part.rows.items():
        if all(policy.never_reuses for policy in part.used[name]) and any(row.action == "reuse" for row in rows):
            yield Finding("settings that never reuse do not", repr(part.used[name][0].policy))
    for name, runs in part.runs.items():
        expected = 1 if part.rows[name] else runs
        if runs != expected and not any("shared" in call.beside for call in scenario.calls) | _doubtful(scenario):
            yield Finding("a call is one run", f"{name}: {runs} runs")


def _brute_force(scenario: Scenario, attached: Stage, part: Attached) -> Iterator[Finding]:
    """Replaying by the rows makes the same video, and each forward has its rows."""
    said = {outcome.name: outcome.said for outcome in attached.outcomes}
    made = {outcome.name: outcome for outcome in attached.outcomes}
    brute = BruteForce(part.rows, said, part.used, made)
    try:
        replayed = _played(scenario, brute, attached)
    except Exception as error:
        yield Finding("brute force can follow the trace", _said(error))
        return
    for complaint in dict.fromkeys(brute.complaints):
        yield Finding("the trace says what happened", complaint)
    if brute.complaints:
        return
    # what happens as a row is noted happens elsewhere where branches of one forward run apart: other things are left
    if not (brute.elsewhere and any(call.has("row") for call in scenario.calls)):
        for text in differences(replayed.left, attached.left):
            yield Finding("leaving restores everything", text)
    for mine, other in _pairs(replayed, attached):
        used = part.used.get(other.name, ())
        if other.name in brute.elsewhere:
            continue
        if other.name in brute.clean:
            if all(policy.foretells for policy in used) and not mine.is_near(other):
                yield Finding("clean latents equal brute force", f"{other.name}: {mine.deviates_at(other, near)}")
            continue
        if not all(policy.replays for policy in used):
            continue
        if not mine.same(other):
            yield Finding("replaying equals brute force", f"{other.name}: {mine.deviates_at(other)}")


def _shared(scenario: Scenario, attached: Stage) -> Iterator[Finding]:
    """One denoiser in two pipelines: each video is the one made alone, cached or not.

    A whole call in the middle of another one may end what that one reuses; until then they are the same.
    """
    alone = replace(
        scenario,
        script=tuple(replace(a, beside="") if isinstance(a, Call) else a for a in scenario.script),
    )
    plain, cached = _played(alone, Part()), _played(alone, Attached(alone))
    calls = {f"main {i}": call for i, call in enumerate(scenario.calls)}
    for outcome in attached.outcomes:
        call = calls.get(outcome.name)
        if call is None:
            continue
        like = [made for stage in (plain, cached) for made in stage.outcomes if made.name == outcome.name]
        if "nested" in call.beside:
            begun = [replace(one, steps=one.steps[:2], latents=None, error=None) for one in (outcome, *like)]
            fine = any(begun[0].same(one) for one in begun[1:])
        else:
            fine = any(outcome.same(one) for one in like)
        if not fine:
            yield Finding("one denoiser in two pipelines", f"{outcome.name} is another video")


def _reads(call: Call) -> bool:
    return bool(call.reads) or any(do.what == "read" for do in call.does)


def _unread(scenario: Scenario, attached: Stage, part: Attached) -> Iterator[Finding]:
    """Looking at the trace changes nothing."""
    other = Attached(scenario, reads=False)
    unread = _played(scenario, other, attached)
    for mine, theirs in _pairs(unread, attached):
        if not mine.same(theirs):
            yield Finding("reading changes nothing", f"{theirs.name}: {mine.deviates_at(theirs)}")
    if {name: list(map(_row, rows)) for name, rows in other.rows.items()} != {
        name: list(map(_row, rows)) for name, rows in part.rows.items()
    }:
        yield Finding("reading changes nothing", "other rows")


def _row(event: Event) -> tuple[Any, ...]:
    return (event.run, event.step, event.branch, event.sample, event.site, event.action)


def _said(error: BaseException | None) -> str:
    """An error in one line, with the place it came from."""
    assert error is not None
    frames = list(traceback.extract_tb(error.__traceback__))
    frames = [frame for frame in frames if "/bwcache/" in frame.filename] or frames
    where = f" at {frames[-1].filename.rsplit('/', 1)[-1]} in {frames[-1].name}" if frames else ""
    return f"{type(error).__name__}{where}: {str(error).splitlines()[0][:200] if str(error) else ''}"
