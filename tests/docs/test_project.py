"""The pinned versions and the ranges of the project say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def dependencies() -> list[Requirement]:
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]


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
