"""A tuning of a tiny pipeline: what it may take, what decides, what is kept; its videos and its speeds."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache import AlreadyAttachedError, SettingError, Tuned
from bwcache.measure.call import Request
from bwcache.models.table import row_of
from bwcache.study.folder import Folder
from bwcache.study.study import Video
from bwcache.study.tuning import Closeness, Runs, Tuner, Videos, Wish, climb
from bwcache.study.tuning.fitting import Rows, as_planned, fitted
from bwcache.study.tuning.ladder import evenly, spread
from bwcache.study.tuning.recording import Recording
from bwcache.study.tuning.tuning import RECORDED
from tests.cli.saved import text_to_video

STEPS = 6
REQUEST = Request("", STEPS, height=32, width=32, frames=5)
IDENTITY = {"model": "tiny"}
Made = tuple[Recording, Closeness]


def videos(calibrate: str = "ab", verify: str = "cd", spare: str = "") -> Videos:
    places = [tuple(Video(name, ord(name)) for name in names) for names in (calibrate, verify, spare)]
    return Videos(*places)


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = text_to_video()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def uncached(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uncached runs of all videos."""
    path: Path = tmp_path_factory.mktemp("uncached") / "parts"
    spec = row_of(type(pipe.transformer))
    assert spec is not None
    runs = Runs(pipe, spec, REQUEST, Folder(path, IDENTITY), 100.0)
    for name in "abcdefg":
        runs.uncached(Video(name, ord(name)), "")
    return path


@pytest.fixture
def tuner(pipe: Any, uncached: Path, tmp_path: Path) -> Callable[..., Tuner]:
    shutil.copytree(uncached, tmp_path / "parts")

    def make(chosen: Videos | None = None, budget: float = 100.0) -> Tuner:
        folder = Folder(tmp_path / "parts", IDENTITY)
        return Tuner(pipe, REQUEST, chosen or videos(), folder, budget, say=lambda line: None)

    return make


def closeness(monkeypatch: pytest.MonkeyPatch, cached: Any = None, shown: Any = None) -> list[tuple[Video, Tuned]]:
    """Put other decibels in place of those that are measured; returns what is run under a policy."""
    ran: list[tuple[Video, Tuned]] = []
    own_cached, own_shown = Runs.cached, Runs.shown

    def cached_run(runs: Runs, video: Video, policy: Tuned, what: str) -> Made:
        ran.append((video, policy))
        recording, close = own_cached(runs, video, policy, what)
        return recording, close if cached is None else Closeness(cached(len(ran), policy), 0.9)

    def shown_run(runs: Runs, video: Video, policy: Tuned, what: str) -> Closeness:
        close = own_shown(runs, video, policy, what)
        return close if shown is None else Closeness(shown(video), 0.9)

    monkeypatch.setattr(Runs, "cached", cached_run)
    monkeypatch.setattr(Runs, "shown", shown_run)
    return ran


@pytest.mark.parametrize("budget", [5.4, 6.5, 9.0])
def test_no_more_is_computed_than_allowed_page_included(tuner: Any, pipe: Any, budget: float) -> None:
    forwards = 0

    def counted(*_: Any) -> None:
        nonlocal forwards
        forwards += 1

    tuning = tuner(budget=budget)
    listening = pipe.transformer.register_forward_hook(counted)
    try:
        found = tuning.run(Wish(speed=3))
        ladder = climb(tuning, found)
    finally:
        listening.remove()
    assert forwards == 2 * (tuning.runs.used - 4 * STEPS)  # two branches of guidance; the uncached runs were kept
    assert tuning.runs.used <= tuning.runs.allowed == int(budget * STEPS)
    assert found.policy in [rung.policy for rung in ladder.rungs]


def test_a_budget_that_cannot_do_is_refused(tuner: Any) -> None:
    with pytest.raises(SettingError, match=r"found --budget 5 for 4 videos, .*; expected at least 5\.4; give more"):
        tuner(budget=5.0)
    with pytest.raises(SettingError, match=r"found --budget 5\.4, .* are used; expected 6 to try 3 of 6; give more"):
        tuner(budget=5.4).run(Wish(speed=2))


def test_the_videos_that_prove_decide_nothing(tuner: Any) -> None:
    one, other = (tuner(videos(verify=names)).run(Wish(psnr=45)) for names in ("cd", "ef"))
    assert one.policy == other.policy
    assert one.expected == other.expected
    assert one.proof != other.proof


def test_the_first_pass_knows_no_video_and_in_the_next_each_has_weights_fitted_on_the_others(
    tuner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = closeness(monkeypatch)
    tuning = tuner(videos("abc", "de"))
    found = tuning.run(Wish(speed=2))
    steps, made_of = found.policy.steps, tuning.videos.calibrate
    first, second = ran[:3], ran[3:6]
    assert [video for video, _ in first] == [video for video, _ in second] == list(made_of)
    rows = as_planned(steps, found.policy.schedule)
    assert any(len(row) > 1 for row in rows)
    assert {policy.rows for _, policy in first} == {rounded(rows)}
    full = {video: tuning.runs.uncached(video, "") for video in made_of}
    cached = {video: tuning.runs.cached(video, policy, "")[0] for video, policy in first}
    for video, policy in second:
        others = [one for one in made_of if one != video]
        own = fitted(steps, [full[one] for one in others], [cached[one] for one in others], rows)
        assert policy.rows == rounded(own)
    assert len({policy.rows for _, policy in second}) == 3


def rounded(rows: Rows) -> Rows:
    return tuple(tuple(round(weight, 5) for weight in row) for row in rows)


def test_the_best_pass_is_kept(tuner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for best in (1, 2, 3):
        with monkeypatch.context() as patched:
            closeness(patched, cached=lambda run, policy, best=best: 40.0 - 3 * abs((run + 1) // 2 - best))
            found = tuner().run(Wish(speed=2))
        assert found.expected == {3: 40.0}
        rows.append(found.policy.rows)
    assert len(set(rows)) == 3


def test_as_few_steps_as_keep_the_wish(tuner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    closeness(monkeypatch, cached=lambda run, policy: 10.0 * len(policy.steps), shown=lambda video: 50.0)
    found = tuner().run(Wish(psnr=25))
    assert len(found.policy.steps) == 3
    assert found.kept
    with pytest.raises(SettingError, match=r"found 45 dB, which no plan reaches here; expected less \(4 of 6 steps"):
        tuner().run(Wish(psnr=45))


def test_what_is_tried_leaves_enough_for_the_proof(tuner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps keep the wish, three do not: with whatever budget the proof of four is paid, or it is said before."""
    closeness(monkeypatch, cached=lambda run, policy: 30.0 * (len(policy.steps) > 3), shown=lambda video: 50.0)
    for steps in (36, 38):
        with pytest.raises(SettingError, match=r"are used; .*expected .* to try 4 of 6"):
            tuner(budget=steps / STEPS).run(Wish(psnr=25))
    for steps in range(52, 80, 2):
        assert len(tuner(budget=steps / STEPS).run(Wish(psnr=25)).policy.steps) == 4


def test_what_falls_short_is_made_again_and_proved_on_further_prompts(
    tuner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closeness(monkeypatch, cached=lambda run, policy: 40.0, shown=lambda video: 20.0 if video.prompt in "cd" else 50.0)
    found = tuner(videos(spare="efg")).run(Wish(psnr=30))
    assert found.kept
    assert found.calibrated == 4
    assert [video.prompt for video in found.proved] == ["e", "f"]
    assert [decibels for _, decibels in found.short] == [20.0]
    found = tuner().run(Wish(psnr=30))  # there are no further ones
    assert not found.kept
    assert found.proof.mean == 20.0


def test_a_run_that_is_damaged_is_made_again(tuner: Any, tmp_path: Path) -> None:
    before = tuner().run(Wish(speed=2))
    for path in (tmp_path / "parts").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    after = tuner().run(Wish(speed=2))
    assert after == before


def test_videos_of_prompts() -> None:
    found = Videos.of(list("abcdefgh"), 3, 4, 5)
    assert found == Videos(
        tuple(Video(name, 5 + i) for i, name in enumerate("abc")),
        tuple(Video(name, 8 + i) for i, name in enumerate("defg")),
        (Video("h", 12),),
    )
    assert found.after_a_shortfall() is None
    few = Videos.of(["a", "b"], 3, 4, 0)
    assert {one.prompt for one in few.calibrate} == {"a"}
    assert {one.prompt for one in few.verify} == {"b"}
    assert len({one.seed for one in (*few.calibrate, *few.verify)}) == 7
    after = videos(spare="efg").after_a_shortfall()
    assert after == videos("abcd", "ef", "g")


def test_videos_of_one_prompt_differ_by_their_seeds() -> None:
    found = Videos.of_one("a", 2, 3, 7)
    assert found == Videos((Video("a", 7), Video("a", 8)), (Video("a", 9), Video("a", 10), Video("a", 11)))
    assert found.after_a_shortfall() is None


def test_videos_that_cannot_be() -> None:
    with pytest.raises(SettingError, match="found 1 prompt, so that none is left to verify on"):
        Videos.of(["a", "a"], 3, 4, 0)
    with pytest.raises(SettingError, match="found 'b' to calibrate and to verify on"):
        videos("ab", "bc")
    with pytest.raises(SettingError, match="found 'c' to calibrate and to verify on"):
        videos("ab", "cd", "c")
    with pytest.raises(SettingError, match="found 'seed 7' to calibrate and to verify on; expected other seeds"):
        Videos((Video("a", 6), Video("a", 7)), (Video("a", 7), Video("a", 8)))
    with pytest.raises(SettingError, match="found 2 videos to calibrate on and 1 to verify on"):
        dataclasses.replace(videos(), verify=(Video("c", 0),))


@pytest.mark.parametrize("chosen", [2, 5, 8, 13, 24])
@pytest.mark.parametrize("steps", [0, 7, 40, 80, 1000])
def test_a_ladder_stays_within_what_is_left(chosen: int, steps: int) -> None:
    counts = list(range(2, 25))
    found = spread(counts, chosen, steps)
    assert chosen in found
    assert found == sorted(set(found))
    assert sum(found) - chosen <= steps
    assert len(found) <= 8
    if steps == 1000:
        assert len(found) == 8
        assert found[0] <= max(2, chosen / 2 + 1)
        assert found[-1] == min(24, max(2 * chosen, 9)) or found[-1] >= 2 * chosen - 1


def test_a_short_ladder_stays_near_what_was_chosen() -> None:
    found = spread(range(2, 41), 10, 30)
    assert 4 <= len(found) < 8
    assert min(found) >= 5
    assert max(found) > 10


def test_numbers_are_spread_evenly_by_their_logarithm() -> None:
    assert evenly(range(4, 9), 6, 8) == [4, 5, 6, 7, 8]
    found = evenly(range(4, 17), 8, 8)
    assert found[0] == 4
    assert found[-1] == 16
    assert 8 in found
    assert len(found) == 8


def test_a_model_whose_clean_latents_are_nothing_is_tuned_all_the_same(pipe: Any, tmp_path: Path) -> None:
    def all_noise(module: Any, given: Any, named: dict[str, Any], out: Any) -> Any:
        return (named["hidden_states"].clone(),)  # a flow x - 0, of latents that are all noise

    hooked = pipe.transformer.register_forward_hook(all_noise, with_kwargs=True)
    try:
        folder = Folder(tmp_path / "parts", IDENTITY)
        found = Tuner(pipe, REQUEST, videos(), folder, 100.0, say=lambda line: None).run(Wish(psnr=35))
    finally:
        hooked.remove()
    assert found.kept


def test_a_pipeline_under_a_cache_makes_no_uncached_videos(pipe: Any, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "parts", IDENTITY)
    with bwcache.attach(pipe, "fast"), pytest.raises(AlreadyAttachedError, match="found transformer held by"):
        Tuner(pipe, REQUEST, videos(), folder)
    assert not list((tmp_path / "parts" / "references").iterdir())
    Tuner(pipe, REQUEST, videos(), folder)


def test_no_more_recordings_are_held_than_said(tuner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where plans fall short, twice here, so that the videos of the proofs join those that a plan is made of."""
    alive = weakref.WeakSet[Recording]()
    most, own = 0, Runs.cached

    def cached(runs: Runs, video: Video, policy: Tuned, what: str) -> Made:
        nonlocal most
        recording, _ = own(runs, video, policy, what)
        alive.add(recording)
        gc.collect()
        most = max(most, len(alive) + len(tuning._full))
        return recording, Closeness(20.0 + most, 0.9)

    monkeypatch.setattr(Runs, "cached", cached)
    monkeypatch.setattr(Runs, "shown", lambda *_: Closeness(10.0, 0.9))
    tuning = tuner(videos(spare="efg"))
    found = tuning.run(Wish(psnr=20))
    assert found.calibrated == 4
    assert videos(spare="efg").most_calibrated(tuning.runs.budget) == 4
    assert 2 * 4 < most <= RECORDED * 4


def test_how_many_videos_a_plan_can_be_made_of() -> None:
    chosen = videos("abc", "defg", "hijklmno")
    assert [chosen.most_calibrated(uncached) for uncached in (7, 10.9, 11, 14.9, 15, 100)] == [3, 3, 7, 7, 11, 11]
    assert videos().most_calibrated(100) == 2


def test_what_is_said_of_the_proof_is_what_the_file_says(tuner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    closeness(monkeypatch, shown=lambda video: 52.8497)
    tuning, said = tuner(), list[str]()
    tuning.say = said.append
    quality = tuning.run(Wish(speed=2)).quality("2x")
    assert said[-1].endswith(f"{quality['psnr']:.1f} dB on 2 videos not used, the worst {quality['worst']:.1f}")
