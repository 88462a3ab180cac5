"""The doors of the servers are where they were: the look-alikes have them, and so have the real packages, if there."""

from __future__ import annotations

import importlib
import os
import pkgutil
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bwcache.models.families import servers
from bwcache.servers import vllm_omni
from tests.servers import look_alike
from tests.servers.look_alike import CONTRACT, FIELDS, GROUPS, RANKS, arguments


@pytest.mark.parametrize("path", CONTRACT)
def test_the_look_alikes_keep_to_the_contract(path: str) -> None:
    with look_alike.installed(look_alike.sglang, look_alike.omni):
        assert arguments(path)[: len(CONTRACT[path])] == CONTRACT[path]


def installed(path: str) -> Any:
    """What stands at a path in a package, or the test is skipped."""
    package = path.partition(".")[0]
    if not os.environ.get("BWCACHE_SERVERS") or find_spec(package) is None:
        pytest.skip(f"BWCACHE_SERVERS is not set, or {package} is not installed: see docs/servers.md")
    return pkgutil.resolve_name(path)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", CONTRACT)
def test_the_packages_keep_to_the_contract(path: str) -> None:
    installed(path)
    assert arguments(path)[: len(CONTRACT[path])] == CONTRACT[path]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", FIELDS)
def test_the_packages_have_what_is_read_of_them(path: str) -> None:
    kind = installed(path)
    fields = {*getattr(kind, "__dataclass_fields__", ()), *getattr(kind, "model_fields", ()), *dir(kind)}
    assert set(FIELDS[path]) <= fields


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", GROUPS)
def test_the_packages_look_where_our_entry_points_are(path: str) -> None:
    assert installed(path) == GROUPS[path]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", RANKS)
def test_the_packages_tell_of_their_ranks(path: str) -> None:
    module = installed(path)
    assert all(callable(getattr(module, name, None)) for name in RANKS[path])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("spec", servers.ROWS, ids=lambda spec: f"{spec.module_prefix}.{spec.model}")
def test_rows_are_of_classes_that_there_are(spec: Any) -> None:
    """By the text of the package: nothing of it is imported."""
    package, _, rest = spec.module_prefix.partition(".")
    if not os.environ.get("BWCACHE_SERVERS") or find_spec(package) is None:
        pytest.skip(f"BWCACHE_SERVERS is not set, or {package} is not installed")
    (root,) = list(find_spec(package).submodule_search_locations)  # type: ignore[union-attr,arg-type]
    folder = Path(root, *rest.split("."))
    texts = [file.read_text() for file in folder.parent.glob(f"{folder.name}*/*.py")]
    (text,) = [text for text in texts if f"class {spec.model}(" in text][:1]
    for part in spec.lists:
        assert f"self.{part.path} = " in text


def test_our_backend_keeps_to_it_too() -> None:
    for name in ("enable", "refresh", "is_enabled"):
        assert (
            arguments(f"bwcache.servers.vllm_omni.Backend.{name}")
            == CONTRACT[f"{look_alike.OMNI}cache.base.CacheBackend.{name}"]
        )
    assert {f"{module}.{path}" for module, paths in vllm_omni.EXPECTED.items() for path in paths} <= set(CONTRACT)


def test_the_servers_find_us() -> None:
    for group, module in zip(GROUPS.values(), ("sglang", "vllm_omni"), strict=True):
        ours = [entry for entry in entry_points(group=group) if entry.name == "bwcache"]
        if not ours:
            pytest.skip("bwcache is installed from before it had entry points")
        assert ours[0].load() is importlib.import_module(f"bwcache.servers.{module}").register
