"""One of several ranks within a server, on a CPU. Run as a program, it prints what it decided, as JSON:
python -m tests.servers.rank sglang tp 0 MEETING
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from bwcache.core.trace import reuse_line
from tests.servers.degrees import DEGREES, Degrees
from tests.servers.look_alike import Asking

SAID = ("fast", {"name": "EasyCache", "threshold": 5.0})


def in_sglang() -> list[dict[str, Any]]:
    """What a rank of sglang decided for each request."""
    plugin: Any = importlib.import_module("bwcache.servers.sglang")
    host = importlib.import_module("tests.servers.in_sglang")
    registry = host.part("runtime.platforms.plugins").HookRegistry
    plugin.register()
    registry.apply_hooks()
    ranks: list[str] = []
    begun = plugin.begun

    def watched(*args: Any) -> Any:
        sampling = begun(*args)
        ranks.append(sampling.session.ranks)
        return sampling

    plugin.begun = watched
    stage = host.stage()
    found = []
    for said in SAID:
        made, request = host.Sample(stage, said=said).run()
        found.append({"ranks": ranks[-1], "made": float(made.double().sum()), **request.usage["bwcache"][-1]})
    return found


def in_vllm_omni() -> list[dict[str, Any]]:
    """What a rank of vllm-omni decided for each request."""
    plugin = importlib.import_module("bwcache.servers.vllm_omni")
    host = importlib.import_module("tests.servers.in_vllm_omni")
    pipe = host.looped(host.KINDS["Wan"])
    backend = plugin.Backend({"policy": "off"})
    backend.enable(pipe)
    found = []
    for said in SAID:
        made = host.sampled(pipe, Asking("1", said))
        trace = backend.traces[-1]
        line = reuse_line(trace.events)
        found.append({"ranks": trace.meta.get("ranks"), "made": float(made.double().sum()), "line": line})
    return found


if __name__ == "__main__":
    package, way, rank, meeting = sys.argv[1:]
    DEGREES[:] = [Degrees(**{way: 2}, rank=int(rank), meeting=meeting)]
    print(json.dumps({"sglang": in_sglang, "vllm_omni": in_vllm_omni}[package]()), flush=True)
    os._exit(0)  # whoever is left would wait for the other one
