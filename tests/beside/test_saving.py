"""Saving while attached: pipelines and models are written as they are without a session.

Deep copies, pickles and `torch.save`: `engine/test_session.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXPipeline, LTXPipeline, WanPipeline

import bwcache
from tests.beside.attached import CAREFREE, LINE, lines, same
from tests.tiny import BY_NAME, Case

CLASSES = {"wan_two_experts": WanPipeline, "cogvideox": CogVideoXPipeline, "ltx": LTXPipeline}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", [BY_NAME[name] for name in CLASSES], ids=lambda case: case.name)
def test_a_pipeline_saved_while_attached_is_the_pipeline(case: Case, tmp_path: Path) -> None:
    pipe = case.build()
    plain = case.run(pipe)
    pipe.save_pretrained(tmp_path / "before")
    config = dict(pipe.config)
    with bwcache.attach(pipe, CAREFREE):
        case.run(pipe)
        pipe.save_pretrained(tmp_path / "attached")
        assert dict(pipe.config) == config
    assert files(tmp_path / "attached") == files(tmp_path / "before")
    assert dict(pipe.config) == config

    missing = {name: None for name, part in pipe.components.items() if part is None}

    def load(name: str) -> Any:
        return CLASSES[case.name].from_pretrained(tmp_path / name, **missing)

    loaded = load("attached")
    made = case.run(loaded)
    same(made, case.run(load("before")))
    torch.testing.assert_close(made, plain, rtol=1e-4, atol=1e-5)
    with bwcache.attach(loaded, CAREFREE) as session:
        assert not torch.equal(case.run(loaded), made)
    assert session.trace.reused > 0


def test_a_state_dict_can_be_loaded_while_attached() -> None:
    case = BY_NAME["wan"]
    pipe, other = case.build(), case.build()
    with torch.no_grad():
        for weight in other.transformer.parameters():
            weight.mul_(1.1)
    plain = case.run(other)
    with bwcache.attach(other, CAREFREE):
        wanted = case.run(other)
    with bwcache.attach(pipe, CAREFREE) as session:
        case.run(pipe)
        pipe.transformer.load_state_dict(other.transformer.state_dict())
        same(case.run(pipe), wanted)
    assert lines(session) == [LINE, LINE]
    same(case.run(pipe), plain)
