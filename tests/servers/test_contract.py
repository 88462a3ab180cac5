"""The doors of the servers are where they were: the look-alikes have them, and so have the real packages, if there."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import entry_points
from importlib.util import find_spec

import pytest

from bwcache.servers import vllm_omni
from tests.servers import look_alike
from tests.servers.look_alike import CONTRACT, arguments


@pytest.mark.parametrize("path", CONTRACT)
def test_the_look_alikes_keep_to_the_contract(path: str) -> None:
    with look_alike.installed(look_alike.sglang, look_alike.omni):
        assert arguments(path)[: len(CONTRACT[path])] == CONTRACT[path]


@pytest.mark.skipif(not os.environ.get("BWCACHE_SERVERS"), reason="BWCACHE_SERVERS is not set: see docs/servers.md")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", CONTRACT)
def test_the_packages_keep_to_the_contract(path: str) -> None:
    package = path.partition(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert arguments(path)[: len(CONTRACT[path])] == CONTRACT[path]


def test_our_backend_keeps_to_it_too() -> None:
    for name in ("enable", "refresh", "is_enabled"):
        assert (
            arguments(f"bwcache.servers.vllm_omni.Backend.{name}")
            == CONTRACT[f"{look_alike.OMNI}cache.base.CacheBackend.{name}"]
        )
    assert {f"{module}.{path}" for module, paths in vllm_omni.EXPECTED.items() for path in paths} <= set(CONTRACT)


def test_the_servers_find_us() -> None:
    for group, module in (("sglang.multimodal_gen.plugins", "sglang"), ("vllm_omni.general_plugins", "vllm_omni")):
        ours = [entry for entry in entry_points(group=group) if entry.name == "bwcache"]
        if not ours:
            pytest.skip("bwcache is installed from before it had entry points")
        assert ours[0].load() is importlib.import_module(f"bwcache.servers.{module}").register
