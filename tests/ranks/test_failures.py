"""A rank that raises, or is killed: the others raise within their groups' time-out, and can go on alone."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

import bwcache
from bwcache.core.trace import reuse_line
from tests.fleet.forked import FORK, ended, rank, start
from tests.ranks.pair import STEPS, cached, split, video
from tests.tiny import Scripted, wan_transformer

SECONDS = 4
POLICY = Scripted(frozenset({1, 3}))


class Broken(Exception):
    pass


def fails(kind: str, event: Any) -> None:
    if event.step == 2:
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise Broken


def work(kind: str, folder: str, over: Any) -> None:
    """The second rank fails in its third step, whose forward all have made."""
    own, module = dist.get_rank(), split()
    config = module._parallel_config.context_parallel_config
    for mesh in (config._flattened_mesh, config._ulysses_mesh, config._ring_mesh):
        _set_pg_timeout(timedelta(seconds=SECONDS), mesh.get_group())
    session = bwcache.attach(module, POLICY, steps=STEPS)
    if own == 1:
        session.on_step(lambda event: fails(kind, event))
    try:
        with session, session.run(STEPS):
            video(module)
        raised = "nothing"
    except Broken:
        raised = "Broken"
    except RuntimeError:
        raised = "RuntimeError"
    held = [run for run in session._runs if run.lanes]
    line = reuse_line(session.trace.events)
    later = cached(wan_transformer(), POLICY, ranks=None)["line"]
    torch.save((raised, line, len(held), later), Path(folder) / f"{own}.pt")
    if own == 1:
        over.wait(120)  # it lives on, and says nothing
    os._exit(0)  # what is left of the group would be waited for


@pytest.mark.parametrize("kind", ["raised", "killed"])
def test_the_others_raise_within_their_time_out(kind: str, tmp_path: Path) -> None:
    over = FORK.Event()
    processes = [start(rank, i, 2, tmp_path / "meet", 60.0, work, kind, str(tmp_path), over) for i in range(2)]
    assert ended(processes[0], 300) == 0
    over.set()
    assert ended(processes[1], 300) == (-signal.SIGKILL if kind == "killed" else 0)
    raised, line, held, later = torch.load(tmp_path / "0.pt")
    assert raised == "RuntimeError"
    assert line == "CrC"  # the reused fourth step waits for nobody, and the gather after it does
    assert held == 0
    assert later == "CrCrCCCC"
    if kind == "raised":
        assert torch.load(tmp_path / "1.pt")[0] == "Broken"
