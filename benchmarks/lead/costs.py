"""What `Planned` keeps, of a hidden state, and what a reused step of it calls of the model: seen in one short run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import bwcache
from benchmarks import common
from benchmarks.race.race import MODELS, REGIMES, named_scheduler, replaced
from bwcache.measure.call import call

REGIME, STEPS = "euler-5-50", 12


@dataclass(frozen=True)
class Costs:
    """What one run showed.

    Attributes:
        kept: bytes kept between steps per guidance branch, of those of one hidden state.
        calls: modules of the denoiser that were called in all reused steps together.
    """

    kept: float
    calls: int


def costs(model: str) -> Costs:
    """Return what `Planned` costs on a model beside what it computes."""
    pipe = MODELS[model].load()
    pipe.scheduler = replaced(pipe.scheduler, *named_scheduler(REGIMES[REGIME].scheduler))
    asked = common.request(common.captions(1)[0], STEPS, 0)
    with bwcache.attach(pipe, bwcache.NeverReuse()) as session:
        call(pipe, asked)
        hidden = session.trace.hidden_bytes
    called, reused, before = [0], 0, 0
    with ExitStack() as undo:
        session = undo.enter_context(bwcache.attach(pipe, bwcache.Planned(computed=STEPS // 2)))
        for module in list(pipe.transformer.modules())[1:]:
            undo.callback(module.register_forward_hook(lambda *_: called.append(1)).remove)
        marks: list[tuple[str, int]] = []
        undo.callback(session.on_step(lambda event: marks.append((event.action, len(called)))))
        call(pipe, asked)
        branches = len({event.branch for event in session.trace.events})
        kept = session.trace.peak_bytes / branches / hidden
    for action, now in marks:
        reused += now - before if action == "reuse" else 0
        before = now
    return Costs(kept, reused)
