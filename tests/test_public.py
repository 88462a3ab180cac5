"""What the package exports is there, documented, and all of it."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bwcache
from bwcache import errors


def test_all_is_what_is_there() -> None:
    tree = ast.parse(Path(bwcache.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named = {alias.name for node in imports for alias in node.names if node.module.startswith("bwcache.")}
    assert set(bwcache.__all__) == named
    assert set(bwcache.__all__) <= set(dir(bwcache))
    assert list(bwcache.__all__) == sorted(bwcache.__all__)
    assert all(hasattr(bwcache, name) for name in bwcache.__all__)


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, bwcache; assert 'torch' not in sys.modules; bwcache.BWCache; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", bwcache.__all__)
def test_every_public_object_is_documented(name: str) -> None:
    thing = getattr(bwcache, name)
    assert inspect.getdoc(thing)
    assert vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, (property, classmethod))):
                assert inspect.getdoc(getattr(thing, member)), f"{name}.{member}"


def test_every_error_is_public_and_in_the_tree_that_its_module_draws() -> None:
    mine = {n: e for n, e in vars(errors).items() if inspect.isclass(e) and issubclass(e, Exception)}
    assert set(mine) <= set(bwcache.__all__)
    for name, error in mine.items():
        assert name in errors.__doc__
        assert issubclass(error, (bwcache.BWCacheError, UserWarning))


def test_the_documented_signatures_hold() -> None:
    assert list(inspect.signature(bwcache.attach).parameters)[:2] == ["target", "policy"]
    assert "steps" in inspect.signature(bwcache.attach).parameters
    assert list(inspect.signature(bwcache.BWCache).parameters)[:3] == ["threshold", "reuse_interval", "tail_guard"]
    for name in ("trace", "traces"):
        assert isinstance(getattr(bwcache.Session, name), property)
    for name in ("reuse_rate", "summary", "to_jsonl", "from_jsonl"):
        assert hasattr(bwcache.Trace, name)


def test_the_version_is_the_distributions() -> None:
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{bwcache.__version__}"' in text
