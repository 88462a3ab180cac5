"""What must hold of every scenario, judged without the engine."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.utils import logging

import bwcache
from bwcache import Event
from tests.fuzz.left import differences, features_held, of_bwcache
from tests.fuzz.play import Actor, Halt, Outcome, Part, Stage
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
    """Plays a scenario with its sessions."""

    def __init__(self, scenario: Scenario, reads: bool = True) -> None:
        self.scenario, self.reads = scenario, reads
        self.sessions: dict[str, bwcache.Session] = {}
        self.rows: dict[str, list[Event]] = {}
        self.runs: dict[str, int] = {}
        self.findings: list[Finding] = []
        self.enabled = False

    def enter(self, stage: Stage, action: Enter) -> None:
        scenario = self.scenario
        begin = bwcache.attach if action.how == "attach" else bwcache.enable
        self.enabled = action.how == "enable"
        for actor in stage.actors:
            if actor.name == "shared":
                continue
            steps = {call.steps for call in scenario.calls}
            told = scenario.told and scenario.target == "module" and len(steps) == 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.sessions[actor.name] = begin(
                    actor.target,
                    scenario.policy.policy,
                    steps=steps.pop() if told else None,
                    timing=scenario.timing,
                    per_sample=scenario.per_sample,
                    memory=scenario.memory,
                )

    def leave(self, stage: Stage) -> None:
        for actor in stage.actors:
            session = self.sessions.pop(actor.name, None)
            if session is None:
                continue
            if self.enabled:
                bwcache.disable(actor.target)
            else:
                session.close()
            held = features_held(session, actor.modules.values())
            if held:
                self.findings.append(Finding("nothing is kept after leaving", f"{held} tensors"))
            for module in actor.modules.values():
                for where in of_bwcache(module):
                    self.findings.append(Finding("leaving restores everything", f"{where} is still there"))

    @contextmanager
    def during(self, actor: Actor, call: Call, outcome: Outcome) -> Iterator[None]:
        session = self.sessions.get(actor.name)
        if session is None:
            yield
            return
        before = len(session.traces)
        yield
        if outcome.error is not None:
            held = features_held(session, actor.modules.values())
            if held:
                law = "nothing is kept after a call that broke off"
                how = f"{call.breaks.where} {call.breaks.error}" if call.breaks else repr(outcome.error)
                self.findings.append(Finding(law, f"{how}: {held} tensors"))
        new = session.traces[before:]
        self.rows[outcome.name] = [event for trace in new for event in trace.events]
        self.runs[outcome.name] = len(new)

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
    if any(call.reads for call in scenario.calls) and not any("shared" in call.beside for call in scenario.calls):
        yield from _unread(scenario, attached, part)


def _errors(scenario: Scenario, attached: Stage) -> Iterator[Finding]:
    shared = any("shared" in call.beside for call in scenario.calls)
    for outcome in (*attached.outcomes, *attached.copies):
        error = outcome.error
        if error is None or isinstance(error, (*_MINE, bwcache.SettingError)):
            continue
        if isinstance(error, bwcache.BWCacheError):
            if not shared:
                yield Finding("legal use is not refused", _said(error))
        else:
            yield Finding("no internal exception", _said(error))


def _videos(scenario: Scenario, plain: Stage, attached: Stage, part: Attached) -> Iterator[Finding]:
    """Where nothing was reused, the video is the uncached one."""
    for mine, other in zip(plain.outcomes, attached.outcomes, strict=False):
        rows = part.rows.get(other.name, [])
        if any(row.action == "reuse" for row in rows) or other.name.startswith("shared"):
            continue
        if not mine.same(other):
            yield Finding("computing always changes nothing", f"{other.name}: {mine.deviates_at(other)}")
    if scenario.policy.never_reuses and any(row.action == "reuse" for rows in part.rows.values() for row in rows):
        yield Finding("settings that never reuse do not", repr(scenario.policy.policy))
    for name, runs in part.runs.items():
        expected = 1 if part.rows[name] else runs
        if runs != expected and not any("shared" in call.beside for call in scenario.calls):
            yield Finding("a call is one run", f"{name}: {runs} runs")


def _brute_force(scenario: Scenario, attached: Stage, part: Attached) -> Iterator[Finding]:
    """Replaying by the rows makes the same video, and each forward has its rows."""
    brute = BruteForce(part.rows)
    try:
        replayed = _played(scenario, brute, attached)
    except Exception as error:
        yield Finding("brute force can follow the trace", _said(error))
        return
    for complaint in dict.fromkeys(brute.complaints):
        yield Finding("the trace says what happened", complaint)
    if brute.complaints:
        return
    for text in differences(replayed.left, attached.left):
        yield Finding("leaving restores everything", text)
    if not all(scenario.policy.replays(module) for module in attached.main.modules.values()):
        return
    for mine, other in zip(replayed.outcomes, attached.outcomes, strict=False):
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


def _unread(scenario: Scenario, attached: Stage, part: Attached) -> Iterator[Finding]:
    """Looking at the trace changes nothing."""
    other = Attached(scenario, reads=False)
    unread = _played(scenario, other, attached)
    for mine, theirs in zip(unread.outcomes, attached.outcomes, strict=False):
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
