"""A profile of tiny pipelines: against brute force, resumed, and leaving them as they were."""

import dataclasses
import json
import time

import numpy as np
import pytest
import torch

from bwcache.errors import SettingError
from bwcache.measure.call import Request, call
from bwcache.models import denoisers, resolve
from bwcache.study.folder import Folder
from bwcache.study.profile import profile, profile_identity
from bwcache.study.profile_results import UNCACHED_PARTS, Profile, TimeSplit
from bwcache.study.profile_times import Stopwatch
from bwcache.study.study import Video
from tests import tiny

REQUEST = Request("", 5, 0, 3.0, 16, 16, 5)
VIDEOS = [Video("a cat", 0), Video("a cat", 1)]


def pipeline(experts=1):
    """A tiny Wan that takes prompts: each becomes numbers of its own."""
    pipe = tiny.wan(experts=experts)
    texts = {"": 0}

    def encode(prompt, negative_prompt=None, do_classifier_free_guidance=True, **_):
        number = texts.setdefault(prompt, len(texts))
        drawn = torch.Generator().manual_seed(number)
        some = torch.randn(2, 1, 4, 8, generator=drawn)
        return some[0], some[1]

    pipe.encode_prompt = encode
    pipe.check_inputs = lambda *_, **__: None
    return pipe


def made(pipe, path, request=REQUEST, videos=VIDEOS, **settings):
    folder = Folder(path, profile_identity(pipe, request, "tiny"))
    return profile(pipe, videos, request, folder, **{"shares_on": 1, "repeats": 1, "name": "tiny", **settings}), folder


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


@pytest.fixture(scope="module")
def found(pipe, tmp_path_factory):
    return made(pipe, tmp_path_factory.mktemp("profile") / "out", threshold=0.15)[0]


def forwards(pipe):
    """Counts the forwards of the denoisers from now on."""
    count = []
    for module in denoisers(pipe).values():
        module.register_forward_hook(lambda *_: count.append(1))
    return count


def brute_force(pipe, video):
    """The changes `[S, N]`: every block's output of every forward is kept, and compared by numpy."""
    stacks = [resolve(name, module) for name, module in denoisers(pipe).items()]
    outputs = {(stack.name, i): [] for stack in stacks for i in range(len(stack.blocks))}
    hooks, order = [], []
    for stack in stacks:
        hooks.append(stack.module.register_forward_pre_hook(lambda *_, name=stack.name: order.append(name)))
        for i, block in enumerate(stack.blocks):
            keep = outputs[stack.name, i]
            hooks.append(
                block.module.register_forward_hook(lambda m, a, out, keep=keep: keep.append(out.numpy().copy()))
            )
    with torch.no_grad():
        call(pipe, Request(video.prompt, REQUEST.steps, video.seed, 3.0, 16, 16, 5))
    for hook in hooks:
        hook.remove()
    owners = order[::2]  # a step has two forwards: guidance
    table = np.full((len(owners), len(outputs)), np.nan)
    for column, ((name, _), kept) in enumerate(outputs.items()):
        own = [step for step, owner in enumerate(owners) if owner == name]
        for place in range(1, len(own)):
            pairs = [(kept[2 * place + branch], kept[2 * place - 2 + branch]) for branch in (0, 1)]
            above = sum(np.abs(new - old).sum() for new, old in pairs)
            table[own[place], column] = above / sum(np.abs(old).sum() for _, old in pairs)
    return table


@pytest.mark.parametrize("experts", [1, 2])
def test_changes_are_those_of_brute_force(experts, tmp_path):
    pipe = pipeline(experts)
    found, _ = made(pipe, tmp_path / "out", shares_on=0)
    for changes, video in zip(found.changes, VIDEOS, strict=True):
        expected = brute_force(pipe, video)
        assert np.isfinite(expected).any()
        np.testing.assert_allclose(changes, expected, rtol=1e-4)
    assert np.isfinite(found.changes[:, 0]).sum() == 0
    assert len(found.blocks) == 4 * experts
    assert not np.array_equal(found.changes[0], found.changes[1], equal_nan=True)


def test_steps_are_those_of_the_schedule(pipe, found):
    pipe.scheduler.set_timesteps(REQUEST.steps)
    assert [step[0] for step in found.steps] == pytest.approx(pipe.scheduler.timesteps.tolist())
    assert [step[1] for step in found.steps] == pytest.approx(pipe.scheduler.sigmas[:-1].tolist())


def test_the_parts_of_the_time_add_up(found):
    split = found.time
    parts = [getattr(split, part) for part in UNCACHED_PARTS]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(split.seconds)
    assert split.forwards == 2 * REQUEST.steps
    assert 0 < split.block_share < 1
    assert all(0 < block.share < split.block_share * 1.5 for block in found.blocks)
    assert split.indicator > 0
    assert split.exact_indicator > 0


def test_a_slow_block_and_a_slow_scheduler_are_found(tmp_path):
    pipe = pipeline()
    slow, step = pipe.transformer.blocks[2].attn1, pipe.scheduler.step
    own = slow.forward
    slow.forward = lambda *args, **kwargs: (time.sleep(0.03), own(*args, **kwargs))[1]
    pipe.scheduler.step = lambda *args, **kwargs: (time.sleep(0.05), step(*args, **kwargs))[1]
    found, _ = made(pipe, tmp_path / "out", videos=VIDEOS[:1], shares_on=0)
    seconds = [block.seconds for block in found.blocks]
    assert seconds[2] >= 0.03
    assert max(seconds) == seconds[2]
    assert found.time.blocks >= 2 * REQUEST.steps * 0.03
    assert found.time.between >= (REQUEST.steps - 1) * 0.05


def test_where_blocks_are_not_called_one_by_one_the_engine_says_what_they_took(pipe):
    stacks = [resolve(name, module) for name, module in denoisers(pipe).items()]
    with Stopwatch(pipe, stacks) as watch:
        made = call(pipe, dataclasses.replace(REQUEST, prompt="a cat"))
    known, told = watch.split(made.seconds), watch.split(made.seconds, known_blocks := 1e-6)
    assert told["blocks"] == known_blocks < known["blocks"]
    assert told["blocks"] + told["rest"] == pytest.approx(known["blocks"] + known["rest"])


def test_operations_are_those_of_torch(pipe, found):
    from torch.utils.flop_counter import FlopCounterMode

    mode = FlopCounterMode(display=False)
    before = pipe.transformer.blocks[0].register_forward_pre_hook(lambda *_: mode.__enter__() and None)
    after = pipe.transformer.blocks[0].register_forward_hook(lambda *_: mode.__exit__(None, None, None))
    with torch.no_grad():
        call(pipe, Request("a cat", 1, 0, 1.0, 16, 16, 5))
    before.remove()
    after.remove()
    assert 0 < mode.get_total_flops() <= found.blocks[0].flops  # torch itself leaves out attention on CPUs
    assert len({block.flops for block in found.blocks}) == 1


def test_shares_come_close_to_all_entries(pipe, tmp_path):
    larger = Request("", 4, 0, 3.0, 64, 64, 5)  # 768 entries in a block's output, of which at least 128 are looked at
    found, _ = made(pipe, tmp_path / "out", larger)
    by_name = {one.what: one for one in found.fewer_entries}
    assert set(by_name) == {"sample=0.5", "sample=0.1", "sample=0.01", "default sample"}
    assert all(one.videos == 1 and 0 < one.memory <= 0.5 for one in by_name.values())
    assert all(0 < one.error < 0.25 and 0.8 < one.ratio < 1.25 for one in by_name.values())
    assert all(one.videos == 2 for one in found.fewer_blocks)


def test_json_and_back(found):
    text = json.dumps(found.to_json(), allow_nan=False)
    again = Profile.from_json(json.loads(text))
    assert again == found
    assert again.to_json() == found.to_json()
    for broken in ({}, {"format": "other"}, {**json.loads(text), "videos": [{}]}):
        with pytest.raises(SettingError, match="bwcache profile"):
            Profile.from_json(broken)


def test_rows_have_every_change(found):
    head, *rows = found.rows()
    assert len(rows) == len(VIDEOS) * REQUEST.steps
    assert head[:6] == ["prompt", "seed", "step", "timestep", "sigma", "indicator"]
    assert all(len(row) == len(head) for row in rows)
    assert rows[1][5] == pytest.approx(np.mean(rows[1][6:]))


def test_what_is_kept_is_not_made_again(tmp_path):
    pipe = pipeline()
    first, folder = made(pipe, tmp_path / "out")
    count, seen = forwards(pipe), []
    again, _ = made(pipe, tmp_path / "out", on_kept=lambda *told: seen.append(told))
    assert not count
    assert again.to_json() == first.to_json()
    assert seen[-1][:2] == (8, 8)
    assert len({what for _, _, what in seen}) == 8

    damaged = next((folder.path / "profile").glob("*.json"))
    damaged.write_text(damaged.read_text()[:-20])
    made(pipe, tmp_path / "out")
    assert count
    assert Folder(tmp_path / "out", folder.identity).figures("profile", "flops") is not None

    count.clear()
    more, _ = made(pipe, tmp_path / "out", videos=[*VIDEOS, Video("a dog", 0)])
    assert 0 < len(count) <= 2 * (REQUEST.steps + 4)
    assert more.videos[:2] == first.videos


def test_a_folder_of_another_run_is_refused(tmp_path):
    pipe = pipeline()
    Folder(tmp_path / "out", profile_identity(pipe, REQUEST, "tiny"))
    other = Request("", 6, 0, 3.0, 16, 16, 5)
    with pytest.raises(SettingError, match=r"steps.*\(5\).*\(6\)"):
        made(pipe, tmp_path / "out", other)


def test_an_interrupted_profile_goes_on(tmp_path, monkeypatch):
    pipe = pipeline()
    calls = []

    def interrupted(progress):
        calls.append(progress.what)
        if progress.what.startswith("video 2/2") and progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(pipe, tmp_path / "out", on_progress=interrupted)
    calls.clear()
    found, folder = made(pipe, tmp_path / "out", on_progress=lambda progress: calls.append(progress.what))
    assert "video 1/2, all entries" not in calls
    assert "video 2/2, all entries" in calls
    assert folder.damaged == []
    assert len(found.videos) == 2


def test_the_pipeline_is_left_as_it_was(pipe, found):
    modules = list(pipe.transformer.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert not any("forward" in vars(module) for module in modules)
    assert all(module._compiled_call_impl is None for module in modules)


@pytest.mark.parametrize("settings", [{"videos": []}, {"repeats": 0}, {"shares_on": -1}])
def test_settings_that_cannot_work(pipe, tmp_path, settings):
    with pytest.raises(SettingError, match="expected at least"):
        made(pipe, tmp_path / "out", **settings)


def test_what_reuse_can_save():
    split = TimeSplit(1.0, 6.0, 1.5, 0.5, 1.0, 0.2, None, 10.0, 100, 3)
    assert (split.seconds, split.denoising, split.block_share) == (10, 8, 0.75)
    assert split.saved(1) == (0.75, 0.6)
    assert split.saved(0) == pytest.approx((-0.025, -0.02))
    words = split.explain(23, 50)
    assert "23 of 50 steps reused (46 %)" in words
    assert "save at most 33 % of the denoising time and 27 % of the whole call" in words
    assert "the blocks are 60 % of the call" in words
