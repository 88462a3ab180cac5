"""Each module imports only from the layers below its own; core knows no torch; diffusers stays out of the import."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bwcache.policies import known

ROOT = Path(__file__).resolve().parents[1] / "src" / "bwcache"
LAYERS = (
    "core",
    "features",
    "models",
    "policies",
    "engine",
    "measure",
    "study",
    "fleet",
    "report",
    "comfy",
    "serve",
    "servers",
    "cli",
)
"""From the lowest up."""
ANYWHERE = ("errors", "extras", "former_names")
"""Of the standard library alone, and used from any layer."""
KNOW_DIFFUSERS = {"measure", "study", "cli", "shapes"}
MODULES = {
    ".".join(("bwcache", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def layer(module: str) -> str:
    """The part of the package: "core", …; "" for the package itself."""
    part = ([*module.split("."), ""])[1]
    return "cli" if part == "__main__" else part


def _names(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, *([node.module] if node.module else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(source: str, package: str, everywhere: bool) -> Iterator[str]:
    """Full names of what a module imports: as it is loaded, or also inside of functions."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        yield from _names(node, package)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if everywhere or not (inside or _for_types_only(node)):
            waiting += ast.iter_child_nodes(node)


def imported_by(module: str, everywhere: bool = True) -> set[str]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return set(imports(path.read_text(encoding="utf-8"), package, everywhere))


def wrong_directions(module: str, imported: set[str]) -> list[str]:
    """Imports of a module that point upwards."""
    own, below = layer(module), LAYERS
    if own in LAYERS:
        allowed = {*below[: LAYERS.index(own) + 1]}
        if own in KNOW_DIFFUSERS:
            allowed.add("shapes")
    elif own == "shapes":
        allowed = {"shapes"}
    elif own in ANYWHERE:
        allowed = set()
    elif module == "bwcache":
        return []
    else:
        return [f"{module} is in no layer"]
    ours = sorted(name for name in imported if name == "bwcache" or name.startswith("bwcache."))
    named = [name for name in ours if "." in name]
    bare = [name for name in ours if name == "bwcache" and own in (*ANYWHERE, "shapes", *LAYERS[:5])]
    return bare + [name for name in named if layer(name) in {*LAYERS, "shapes"} and layer(name) not in allowed]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_upwards(module: str) -> None:
    assert wrong_directions(module, imported_by(module)) == []


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) in ("core", *ANYWHERE)])
def test_core_needs_the_standard_library_only(module: str) -> None:
    foreign = {name.split(".")[0] for name in imported_by(module)} - set(sys.stdlib_module_names) - {"bwcache"}
    assert foreign == set()


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) == "features"])
def test_features_need_torch_only(module: str) -> None:
    """The kernel needs Triton, which comes with torch where there is CUDA; nothing imports the kernel with itself."""
    foreign = {name.split(".")[0] for name in imported_by(module)} - set(sys.stdlib_module_names)
    assert foreign <= {"bwcache", "torch"} | ({"triton"} if module == "bwcache.features.kernel" else set())


@pytest.mark.parametrize("module", [name for name in MODULES if name != "bwcache.features.kernel"])
def test_nothing_imports_triton_with_itself(module: str) -> None:
    loaded = imported_by(module, everywhere=False)
    assert not any(name.split(".")[0] == "triton" or name.startswith("bwcache.features.kernel") for name in loaded)


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) not in KNOW_DIFFUSERS])
def test_diffusers_is_not_imported_with_the_module(module: str) -> None:
    loaded = {name.split(".")[0] for name in imported_by(module, everywhere=False)}
    assert loaded.isdisjoint({"diffusers", "transformers", "accelerate"})


def test_import_bwcache_loads_no_diffusers_and_changes_nothing() -> None:
    code = "import torch, sys; before = vars(torch.nn.Module).copy(); import bwcache; "
    code += "assert vars(torch.nn.Module) == before; "
    code += "print([name for name in ('diffusers', 'transformers', 'accelerate', 'typer') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("bwcache.core.step", "from bwcache.features import Last", True),
        ("bwcache.core.step", "def f():\n    import bwcache.engine.clock", True),
        ("bwcache.core.step", "from ..policies import base", True),
        ("bwcache.core.step", "from bwcache.errors import TraceError", False),
        ("bwcache.policies.base", "import bwcache", True),
        ("bwcache.policies.base", "from bwcache import attach", True),
        ("bwcache.policies.base", "from bwcache.models import Site", False),
        ("bwcache.engine.run", "from bwcache.cli import main", True),
        ("bwcache.engine.run", "from bwcache import policies", True),
        ("bwcache.shapes", "from bwcache.core import Step", True),
        ("bwcache.measure.load", "from bwcache import shapes", False),
        ("bwcache.elsewhere.x", "import os", True),
    ],
)
def test_the_rule_itself_sees_a_wrong_import(module: str, source: str, wrong: bool) -> None:
    found = wrong_directions(module, set(imports(source, module.rpartition(".")[0], everywhere=True)))
    # `from bwcache import policies` names the package itself, which a lower layer must not
    assert bool(found) is wrong


NO_METHODS = {
    "BWCache": "what the package is named for, and what `attach` takes where no policy is named",
    "PerDenoiser": "what a mapping of policies becomes",
}
"""Policies that may be named below the policies, and why."""
NAMES_OF_OTHERS = {"bwcache.models.provenance": {"DeepCache"}}  # a package that may hold a model, by its import name


def named_below(source: str) -> set[str]:
    """Names of methods in a text."""
    return {name for name in {*known()} - {*NO_METHODS} if re.search(rf"\b{name}\b", source)}


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) in ("features", "models", "engine")])
def test_no_method_is_named_below_the_policies(module: str) -> None:
    """What a method needs is a place, a tap, a predictor: not a line that knows it."""
    found = named_below(MODULES[module].read_text(encoding="utf-8"))
    assert found - NAMES_OF_OTHERS.get(module, set()) == set()


def test_the_rule_sees_a_method_that_is_named() -> None:
    assert named_below("if type(policy).__name__ == 'TeaCache': ...") == {"TeaCache"}
    assert named_below("from bwcache.policies import BWCache") == set()
    assert named_below("TeaCaches") == set()


def test_a_type_checking_import_is_not_one_at_run_time() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import diffusers\ndef f():\n    import diffusers"
    assert "diffusers" not in set(imports(source, "bwcache", everywhere=False))
    assert "diffusers" in set(imports("try:\n    import diffusers\nexcept ImportError: ...", "bwcache", False))
