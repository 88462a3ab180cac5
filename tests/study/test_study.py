"""A study runs what is missing and nothing else, beside the uncached call, and keeps what is finished."""

import time
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import bwcache
from bwcache import shapes
from bwcache.errors import AlreadyAttachedError, SettingError
from bwcache.measure.call import Request
from bwcache.study import FewerSteps, Folder, Study, UnderPolicy, Video, results, run_study
from bwcache.study.study import count_finished, identity

REQUEST = Request("", 5, 0, 4.0, 16, 16, 5)
VIDEOS = (Video("a red circle", 0), Video("a blue square", 0))
METHODS = (UnderPolicy(bwcache.FixedInterval(2)), FewerSteps(3), UnderPolicy(bwcache.BWCache(threshold=0)))
WARM_UP = {"warm-up": 2, "warm-up under FixedInterval": 1, "warm-up under BWCache": 1}
FIELD = Study(METHODS, VIDEOS, REQUEST)


@pytest.fixture(scope="module")
def pipe():
    made = shapes.load()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def called(monkeypatch):
    """What was called, by its words after the video's."""
    import sys

    module = sys.modules["bwcache.study.study"]
    seen, call = Counter(), module.call

    def counting(pipe, request, what, *rest):
        seen[what.partition(", ")[2] or what] += 1
        return call(pipe, request, what, *rest)

    monkeypatch.setattr(module, "call", counting)
    return seen


@pytest.fixture
def folder(pipe, tmp_path):
    return Folder(tmp_path / "study", identity(pipe, REQUEST, "shapes"))


def test_runs_what_is_missing_and_nothing_twice(pipe, folder, called):
    found = []
    first = run_study(pipe, FIELD, folder, on_cell=found.append)
    assert [(cell.label, cell.prompt) for cell in first] == [
        (one.label, video.prompt) for one in METHODS for video in VIDEOS
    ]
    assert called == {**WARM_UP, "uncached": 2, **{one.label: 2 for one in METHODS}}
    assert len(found) == len(FIELD) == count_finished(FIELD, folder)
    fixed, fewer, never = (first[place] for place in (0, 2, 4))
    assert fixed.compute == pytest.approx(3 / 5)
    assert (fixed.steps, fixed.computed) == (5, 3)
    assert fewer.compute == pytest.approx(3 / 5)
    assert never.identical
    assert never.compute == 1
    assert not fixed.identical
    assert 10 < fixed.quality["psnr"] < 100
    assert all(reason.startswith(("LPIPS", "MS-SSIM", "VMAF", "XPSNR", "Motion kept")) for reason in fixed.unmeasured)
    assert all(cell.uncached_denoise_seconds > 0 and cell.denoise_seconds > 0 for cell in first)

    called.clear()
    known = []
    again = run_study(pipe, FIELD, Folder(folder.path, folder.identity), on_found=known.append)
    assert again == first == sorted(known, key=again.index)
    assert called == {}


def test_where_times_do_not_matter_a_kept_video_is_not_made_again(pipe, folder, called):
    fixed, fewer, never = METHODS
    run_study(pipe, Study((fewer,), VIDEOS, REQUEST), folder, beside=None)
    assert called["uncached"] == 2
    called.clear()
    found = run_study(pipe, Study((fixed, never), VIDEOS, REQUEST), folder, beside=None)
    assert called["uncached"] == 1  # of the first video, to count the work
    assert [cell.compute for cell in found] == pytest.approx([3 / 5, 3 / 5, 1, 1])
    assert [cell.identical for cell in found] == [False, False, True, True]
    assert [cell.uncached_seconds is None for cell in found] == [False, True, False, True]


def test_one_that_is_damaged_runs_again_alone(pipe, folder, called):
    first = run_study(pipe, FIELD, folder)
    path = next(path for path in (folder.path / "cells").iterdir() if "FixedInterval" in path.read_text())
    path.write_text(path.read_text()[:100])
    called.clear()
    later = Folder(folder.path, folder.identity)
    again = run_study(pipe, FIELD, later)
    assert called == {"warm-up": 2, "warm-up under FixedInterval": 1, "uncached": 1, METHODS[0].label: 1}
    assert later.damaged == [f"cells/{path.name}"]
    assert [replace(cell, **times(cell)) for cell in again] == [replace(cell, **times(cell)) for cell in first]


def times(cell):
    return dict.fromkeys(("seconds", "denoise_seconds", "uncached_seconds", "uncached_denoise_seconds"))


@dataclass(frozen=True)
class Breaking(FewerSteps):
    error: type[BaseException] = bwcache.SettingError

    def at_work(self, pipe):
        raise self.error("found nothing; expected something; go on")


def test_what_cannot_work_becomes_a_row_and_the_others_go_on(pipe, folder):
    cells = run_study(pipe, Study((Breaking(2), METHODS[0]), VIDEOS[:1], REQUEST), folder)
    assert cells[0].failed == "found nothing; expected something; go on"
    assert cells[0].compute is None
    assert cells[1].failed is None


def test_what_failed_is_tried_again(pipe, folder, monkeypatch):
    field = Study((Breaking(2), METHODS[0]), VIDEOS[:1], REQUEST)
    run_study(pipe, field, folder)
    assert count_finished(field, folder) == 1
    monkeypatch.setattr(Breaking, "at_work", FewerSteps.at_work)
    assert [cell.failed for cell in run_study(pipe, field, folder)] == [None, None]


@dataclass(frozen=True)
class SlowAtFirst(bwcache.FixedInterval):
    """Something is built at the first use, as kernels are."""

    def init(self):
        if not BUILT:
            BUILT.append(True)
            time.sleep(1.5)
        return super().init()


BUILT = []


def test_what_is_slow_only_once_is_no_part_of_a_time(pipe, folder):
    cells = run_study(pipe, Study((UnderPolicy(SlowAtFirst(2)),), VIDEOS[:1], REQUEST), folder)
    assert BUILT
    assert cells[0].seconds < cells[0].uncached_seconds + 1.0


@pytest.fixture
def noisy(monkeypatch):
    """A sampler whose noise comes from no seed."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    step = FlowMatchEulerDiscreteScheduler.step

    def drawing(self, output, *rest, **settings):
        return step(self, output + np.random.default_rng().normal(), *rest, **settings)

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "step", drawing)


def test_own_noise_is_seen_and_said(pipe, folder, noisy):
    field = Study((UnderPolicy(bwcache.BWCache(threshold=0)),), VIDEOS[:1], REQUEST)
    (cell,) = run_study(pipe, field, folder)
    assert any("nothing was reused, and yet the video differs" in note for note in cell.notes)
    assert results([cell])[0].own_noise
    later = Study((UnderPolicy(bwcache.FixedInterval(3)),), VIDEOS[:1], REQUEST)
    (cell,) = run_study(pipe, later, folder)
    assert any("two uncached calls from one seed are" in note for note in cell.notes)


def test_ctrl_c_loses_the_running_cell_only(pipe, folder, called):
    broken = Study((METHODS[0], Breaking(2, error=KeyboardInterrupt)), VIDEOS[:1], REQUEST)
    with pytest.raises(KeyboardInterrupt):
        run_study(pipe, broken, folder)
    assert count_finished(broken, folder) == 1
    called.clear()
    run_study(pipe, Study(METHODS[:1], VIDEOS[:1], REQUEST), folder)
    assert called == {}


def test_a_kept_cell_goes_by_its_present_label(pipe, folder, called):
    run_study(pipe, Study(METHODS[:1], VIDEOS[:1], REQUEST), folder)
    called.clear()
    other = UnderPolicy(METHODS[0].policy, ("tail",))
    (cell,) = run_study(pipe, Study((other,), VIDEOS[:1], REQUEST), folder)
    assert cell.label == "FixedInterval (tail 1)"
    assert called == {}


def test_other_seeds_settings_and_weights_are_other_studies(pipe):
    first = identity(pipe, REQUEST, "shapes")
    assert first == identity(pipe, replace(REQUEST, prompt="another"), "shapes")
    assert first != identity(pipe, replace(REQUEST, seed=1), "shapes")
    assert first != identity(pipe, replace(REQUEST, steps=6), "shapes")
    other = shapes.load()
    assert first == identity(other, REQUEST, "shapes")
    other.scheduler.set_shift(3.0)
    assert identity(other, REQUEST, "shapes")["model"]["schedule"] != first["model"]["schedule"]


def test_the_folder_of_another_model_is_refused_by_the_name_of_what_differs(pipe, folder):
    other = shapes.load()
    with torch.no_grad():
        other.vae.decoder.conv_out.weight[..., -1] *= 1.5
    with pytest.raises(SettingError, match="results of another vae in"):
        Folder(folder.path, identity(other, REQUEST, "shapes"))


def test_under_a_cache_nothing_is_uncached(pipe, folder, called):
    with bwcache.attach(pipe, "fast"), pytest.raises(AlreadyAttachedError, match="found transformer held by"):
        run_study(pipe, Study((FewerSteps(3),), VIDEOS, REQUEST), folder)
    assert not called
