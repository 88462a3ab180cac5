"""MagCache's calibration: against the definition, kept in the folder, made again where the file is no good."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bwcache import shapes
from bwcache.measure.call import Request, call
from bwcache.study.peers import Guards, MagCache, calibrate, calibrated
from bwcache.study.peers.magcache import FILE
from tests import tiny

REQUEST = Request("a large red circle", 5, 3, shapes.GUIDANCE_SCALE, 32, 32, 5)


@pytest.fixture(scope="module")
def pipe() -> Any:
    loaded = shapes.load()
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def ratios(pipe: Any) -> tuple[float, ...]:
    return calibrate(pipe, REQUEST)


def residuals(pipe: Any) -> list[torch.Tensor]:
    """What the whole stack adds in each forward."""
    entered: list[torch.Tensor] = []
    added: list[torch.Tensor] = []
    blocks = pipe.transformer.blocks
    with contextlib.ExitStack() as hooks:
        hooks.callback(blocks[0].register_forward_pre_hook(lambda _, args: entered.append(args[0].clone())).remove)
        hooks.callback(blocks[-1].register_forward_hook(lambda _, __, out: added.append(out - entered[-1])).remove)
        call(pipe, REQUEST)
    return added


def test_ratios_are_those_of_the_paper(pipe: Any, ratios: tuple[float, ...], capsys: pytest.CaptureFixture) -> None:
    added = residuals(pipe)
    expected = [1.0]
    for step in range(1, REQUEST.steps):
        pairs = [(added[2 * step + branch], added[2 * step - 2 + branch]) for branch in (0, 1)]
        own = [(new.norm(dim=-1) / old.norm(dim=-1)).mean().item() for new, old in pairs]
        expected.append(sum(own) / 2)
    assert ratios == pytest.approx(expected, rel=1e-3)
    assert capsys.readouterr().out == ""  # diffusers prints them


def test_they_are_kept_and_made_again_where_the_file_is_no_good(
    pipe: Any, ratios: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text('{"ratios": [1.0, 0.9')
    assert calibrated(tmp_path, pipe, REQUEST) == ratios
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept == {"prompt": REQUEST.prompt, "seed": 3, "ratios": list(ratios)}
    with monkeypatch.context() as patch:
        patch.setattr("bwcache.study.peers.magcache.calibrate", pytest.fail)
        assert calibrated(tmp_path, pipe, REQUEST) == ratios
    (tmp_path / FILE).write_text(json.dumps(kept | {"ratios": [1.0, 0.5]}))  # of another number of steps
    assert calibrated(tmp_path, pipe, REQUEST) == ratios
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_calibration_leaves_the_model_as_it_was(pipe: Any) -> None:
    plain = call(pipe, REQUEST).frames
    calibrate(pipe, REQUEST)
    assert (call(pipe, REQUEST).frames == plain).all()
    assert not pipe.transformer.is_cache_enabled


def test_two_denoisers_are_calibrated_in_the_order_of_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    case = tiny.BY_NAME["wan_two_experts"]
    pipe = case.build()
    monkeypatch.setattr("bwcache.study.peers.magcache.call", lambda pipe, *_: case.run(pipe))  # it takes no prompts
    added: list[torch.Tensor] = []
    firsts: list[int] = []
    with contextlib.ExitStack() as hooks:
        for module in (pipe.transformer, pipe.transformer_2):
            entered: list[torch.Tensor] = []
            blocks = module.blocks

            def enter(_: Any, args: Any, entered: list[torch.Tensor] = entered) -> None:
                if not entered:
                    firsts.append(len(added) // 2)
                entered.append(args[0].clone())

            def leave(_: Any, __: Any, out: torch.Tensor, entered: list[torch.Tensor] = entered) -> None:
                added.append(out - entered[-1])

            hooks.callback(blocks[0].register_forward_pre_hook(enter).remove)
            hooks.callback(blocks[-1].register_forward_hook(leave).remove)
        steps = 10
        found = calibrate(pipe, dataclasses.replace(REQUEST, steps=steps))
    assert len(added) == 2 * steps
    expected = [1.0] * steps
    for step in set(range(steps)) - set(firsts):
        pairs = [(added[2 * step + branch], added[2 * step - 2 + branch]) for branch in (0, 1)]
        expected[step] = sum((new.norm(dim=-1) / old.norm(dim=-1)).mean().item() for new, old in pairs) / 2
    assert len(firsts) == 2
    assert found == pytest.approx(expected, rel=1e-3)
    assert not pipe.transformer_2.is_cache_enabled


def test_real_ratios_skip_and_bolder_settings_skip_more(pipe: Any) -> None:
    request = Request("a large red circle", 12, 3, shapes.GUIDANCE_SCALE, 32, 32, 5)
    own = calibrate(pipe, request)
    forwards = []
    for threshold in (0.0, 0.12, 9.0):
        ran: list[int] = []
        with MagCache(12, Guards(2, 2), threshold, 3, own).at_work(pipe), contextlib.ExitStack() as hooks:
            layer = pipe.transformer.blocks[5].ffn
            hooks.callback(layer.register_forward_hook(lambda *_, ran=ran: ran.append(1)).remove)
            call(pipe, request)
        forwards.append(len(ran))
    assert forwards[0] == 24
    assert forwards[0] > forwards[1] > forwards[2]
