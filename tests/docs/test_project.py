"""The pinned versions and the ranges of the project say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bwcache.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[2]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def project() -> dict[str, Any]:
    read = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = read["project"]
    return found


def dependencies() -> list[Requirement]:
    """What `.[dev]` installs, without the other extras that it names."""
    found = project()
    lines = [*found["dependencies"], *(line for lines in found["optional-dependencies"].values() for line in lines)]
    every = [Requirement(line) for line in lines]
    return [one for one in every if one.name not in ("bwcache", "torchvision")]


def imported_as(requirement: Requirement) -> str:
    return {"pillow": "PIL"}.get(requirement.name, requirement.name.replace("-", "_"))


def test_torch_and_numpy_alone_are_needed() -> None:
    assert [Requirement(line).name for line in project()["dependencies"]] == ["torch", "numpy"]


def test_each_extra_brings_what_the_code_asks_of_it() -> None:
    extras = project()["optional-dependencies"]
    brought = {name: tuple(imported_as(Requirement(line)) for line in extras[name]) for name in EXTRAS}
    assert brought == EXTRAS


def test_all_is_every_extra_that_a_command_needs() -> None:
    (everything,) = (Requirement(line) for line in project()["optional-dependencies"]["all"])
    assert everything.name == "bwcache"
    assert everything.extras == set(EXTRAS)


def test_every_pin_is_one_public_version() -> None:
    for pin in pins().values():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin


def test_every_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    for dependency in dependencies():
        version = str(pinned[canonicalize_name(dependency.name)].specifier).removeprefix("==")
        assert dependency.specifier.contains(version), f"{dependency} against {version}"


def test_nothing_that_brings_cuda_is_pinned() -> None:
    assert not [name for name in pins() if name.startswith(("nvidia", "triton", "cuda", "torchvision", "torchaudio"))]


def test_the_documented_torch_is_the_pinned_one() -> None:
    pinned = f"torch{pins()['torch'].specifier}"
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for named in re.findall(r"\btorch==[\w.]+", page.read_text(encoding="utf-8")):
            assert named == pinned, page.name
