"""Our methods beside all others: the arithmetic on small numbers, a tiny run from end to end, and the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lead import __main__ as command
from benchmarks.lead import contenders, page, plans
from benchmarks.race import choice, contender, figures
from benchmarks.race import race as races
from benchmarks.race.figures import Speed
from benchmarks.race.race import MODELS, Lengths, Race
from benchmarks.race.rows import result_of, row_of
from bwcache.features import Last
from bwcache.policies import Adaptive, BWCache, Guarded, MeanCache
from bwcache.study import Result
from bwcache.study.peers import Guards
from bwcache.study.peers.ladders import Terms

OURS, OTHER, SHORT = "Adaptive", "magcache", "multistep"
FEW = Lengths(range(88, 89), range(104, 105), rounds=((1, 1.0, 0.03, 1.2),), steps=4, guards=(Guards(1, 1),))


def row(family: str, work: float, *decibels: float | None, label: str = "", first: int = 0) -> dict[str, Any]:
    """A setting that does so much work and reaches so much on each video; None: no difference."""
    return {
        "family": family,
        "label": label or f"{family} ({work:g})",
        "settings": {},
        "kept_bytes": 1024,
        "failed": None,
        "videos": [
            [place, work, value, None if value is None else value / 50] for place, value in enumerate(decibels, first)
        ],
    }


def results(family: str, *points: tuple[float, float]) -> list[Result]:
    return [result_of(row(family, work, decibels)) for work, decibels in points]


def stand(race: Any) -> list[figures.Standing]:
    return figures.standings(race, contenders.KINDS)


def labels(rows: list[Result]) -> list[float | None]:
    return [one.compute for one in rows]


def test_a_row_is_read_as_it_was_written() -> None:
    found = result_of(row("a", 0.25, 30.0, None))
    assert row_of(found) == row("a", 0.25, 30.0, None)
    assert found.compute_speedup == 4
    assert found.identical == 1
    assert figures.video_decibels(found) == [30, 100]


def test_near_the_front_is_what_is_little_below_it_or_does_little_more_work() -> None:
    rows = results("a", (0.2, 32), (0.25, 36), (0.3, 41), (0.25, 35.2), (0.25, 34.5), (0.2, 30.5), (0.26, 34.9))
    assert labels(choice.near(rows, 1.0, 0.0)) == [0.2, 0.25, 0.3, 0.25]
    assert 0.26 not in labels(choice.near(rows, 1.0, 0.04))  # at 0.25 the front has 36
    assert 0.26 in labels(choice.near(rows, 1.0, 0.12))  # at 0.232 it has 34.6


def test_far_from_the_levels_only_the_next_ones_count() -> None:
    rows = results("a", (0.1, 20), (0.15, 26), (0.2, 33), (0.3, 44), (0.5, 60))
    assert labels(choice.near(rows, 1.0, 0.04)) == [0.15, 0.2, 0.3]


def test_of_a_method_that_never_gets_so_far_its_best_counts() -> None:
    assert labels(choice.near(results("a", (0.2, 20), (0.4, 25), (0.6, 28)), 1.0, 0.04)) == [0.6]
    assert choice.near([Result("a", "a", {}, (), "it cannot")], 1.0, 0.04) == []


def test_what_reaches_no_level_any_more_on_other_videos_is_run_further() -> None:
    known = results("a", (0.1, 28), (0.2, 38), (0.3, 45), (0.4, 50), (0.5, 60), (0.35, 44))
    harder, easier = results("a", (0.2, 27), (0.3, 35)), results("a", (0.3, 33), (0.4, 44))
    assert labels(choice.further(harder, known)) == [0.4]
    assert labels(choice.further(easier, known)) == [0.2]
    assert choice.further(results("a", (0.1, 22), (0.2, 31), (0.5, 52)), known) == []
    assert labels(choice.further(results("a", (0.2, 31), (0.3, 35)), known)) == [0.4, 0.1]
    assert choice.further(results("a", (0.1, 31), (0.5, 35)), known) == []  # there is nothing further
    assert choice.further([], known) == []


def test_who_leads_at_one_level_leads() -> None:
    early, late = results("early", (0.2, 31), (0.5, 41)), results("late", (0.3, 31), (0.4, 41))
    slow = results("slow", (0.5, 31), (0.8, 41))
    families = {"early": early, "late": late, "slow": slow, "never": results("never", (0.2, 20))}
    assert choice.leading(families, 1.1) == {"early", "late"}
    assert choice.leading(families, 3.0) == {"early", "late", "slow"}
    assert choice.leading({"never": families["never"]}, 1.1) == {"never"}  # nobody is ahead of it


def test_a_factor_knows_what_is_known_of_both_sides() -> None:
    assert Speed(4.0).over(Speed(2.0)) == Speed(2.0)
    assert Speed(4.0, ">=").over(Speed(2.0)) == Speed(2.0, ">=")
    assert Speed(4.0).over(Speed(2.0, ">=")) == Speed(2.0, "<=")
    assert Speed(4.0).over(Speed(2.0, "<=")) == Speed(2.0, ">=")
    assert Speed(4.0, ">=").over(Speed(2.0, "<=")) == Speed(2.0, ">=")
    assert Speed(4.0, "<=").over(Speed(2.0)) == Speed(2.0, "<=")
    assert Speed(4.0, ">=").over(Speed(2.0, ">=")).bound == "~"
    assert Speed(4.0).over(Speed(None)) == Speed(None)


RACE = {
    "coarse": {
        OTHER: [row("MagCache", 0.1, 29.0), row("MagCache", 0.9, 50.0)],
        "seacache": [
            row("SeaCache", 0.5, 29.0, 33.0, first=10),
            row("SeaCache", 0.8, 42.0, 42.0, first=10),
            row("SeaCache", 0.1, 39.0, first=10),
        ],
    },
    "final": {
        OTHER: [row("MagCache", 0.5, 30.0, 30.0), row("MagCache", 0.8, 40.0, 40.0)],
        OURS: [row(OURS, 0.2, 25.0, 35.0), row(OURS, 0.4, 30.0, 40.0), row(OURS, 0.5, 46.0, 54.0)],
        SHORT: [
            row("fewer steps, UniPC", 0.4, 20.0, 22.0),
            row("fewer steps, UniPC", 0.5, 28.0, 32.0),
            row("fewer steps, UniPC", 0.9, 34.0, 36.0),
        ],
    },
}


def test_standings_are_those_of_the_last_stage_and_interpolated() -> None:
    field = {one.family: one for one in stand(RACE)}
    speeds = {family: [one.value for one in standing.speeds] for family, standing in field.items()}
    assert speeds["MagCache"] == pytest.approx([2.0, 1.625, 1.25])
    assert speeds["SeaCache"] == pytest.approx([2.0, 2 - 0.75 * 4 / 11, 2 - 0.75 * 9 / 11])
    assert speeds[OURS] == pytest.approx([5.0, 2.5, 2.5 - 0.5 * 5 / 15])
    least = field["fewer steps, UniPC"].speeds[2]
    assert (least.value, least.bound) == (pytest.approx(1 / 0.9), "<=")  # none is as good
    assert (field["SeaCache"].stage, field["SeaCache"].videos) == ("coarse", 2)  # what ran on one video does not count
    assert field[OURS].middle.compute == 0.4
    assert figures.behind(field[OURS].middle) == 5


def test_factors_are_over_the_fastest_at_each_level() -> None:
    field = stand(RACE)
    own = next(one for one in field if one.family == OURS)
    assert [name for name, _ in figures.best(own, field, "peer")] == ["MagCache"] * 3  # SeaCache made other videos
    over = figures.factors(own, field, "fewer steps")
    assert [one.value for one in over][:2] == pytest.approx([2.5, 2.5 / (1 / 0.9)])
    assert (over[2].value, over[2].bound) == (pytest.approx((2.5 - 0.5 * 5 / 15) * 0.9), ">=")


def test_one_number_is_judged_where_it_ran_in_all_regimes() -> None:
    def race(**means: float) -> list[figures.Standing]:
        rows = [row(OURS, 0.3, value, label=name) for name, value in means.items()]
        return stand({"final": {OURS: rows}})

    found = figures.one_number(figures.by_number([race(a=30, b=34, only=35), race(a=32, b=38)], OURS))
    assert found == ("b", [34, 38])
    assert figures.one_number(figures.by_number([race(a=30), race(b=30)], OURS)) is None


def plan(work: float, decibels: float, expected: float) -> dict[str, Any]:
    return row(contenders.TUNED, work, decibels) | {"settings": {"expected": expected}}


def test_plans_are_one_number_by_what_was_asked_for() -> None:
    rows = [plan(0.1, 28, 29), plan(0.2, 33, 36), plan(0.25, 36, 37), plan(0.3, 41, 40)]
    found = plans.wished([result_of(one) for one in rows])
    assert {name: one.compute for name, one in found.items()} == {
        "tuned for 30 dB": 0.2,
        "tuned for 35 dB": 0.2,
        "tuned for 40 dB": 0.3,
    }
    field = [stand({"final": {contenders.TUNED: some}}) for some in (rows, rows[:1] + rows[2:3])]
    assert figures.one_number(figures.by_number(field, contenders.TUNED, plans.wished)) == ("tuned for 30 dB", [33, 36])


def test_more_is_wanted_of_what_has_a_plan() -> None:
    race = {"final": {OTHER: RACE["final"][OTHER], contenders.TUNED: [plan(0.3, 30, 30), plan(0.4, 40, 40)]}}
    race["final"][OTHER] = [one | {"videos": one["videos"][:1]} for one in race["final"][OTHER]]
    lines = page.verdict({"euler-1-30": stand(race)}, contenders.TUNED)
    assert lines[0][1:3] == ("1.75x / 1.75x / 1.6x", "<=1.67x / 1.79x / 2.00x")
    assert lines[0][-1] is False


def test_the_verdict_says_what_is_not_reached() -> None:
    lines = page.verdict({"euler-1-30": stand(RACE)}, OURS)
    assert [line[-1] for line in lines] == [False, True, True]
    assert lines[1][2] == ">=2.50x / 2.25x / >=2.10x"
    assert page.verdict({"euler-1-30": stand({"coarse": RACE["final"]})}, OURS) == []
    alone = page.verdict({"euler-1-30": stand({"final": {OURS: RACE["final"][OURS]}})}, OURS)
    assert [line[-1] for line in alone] == [None, None, True]  # beside nobody
    assert not page.reaches(Speed(9.0, "<="), 1.5)
    assert page.lowest([Speed(2.0), Speed(None)]).value is None
    assert page.lowest([Speed(2.0), Speed(3.0, "<=")]) == Speed(2.0, "<=")
    assert page.lowest([Speed(2.0), Speed(3.0, ">=")]) == Speed(2.0)


def test_ladders_name_each_setting_once_and_labels_tell_them_apart() -> None:
    scheduler = MODELS["shapes"].load().scheduler
    for steps, guards in contenders.GUARDS.items():
        terms = [Terms(steps, one, scheduler, (1.0,) * steps) for one in guards]
        for name in (*contenders.PEERS, *contenders.SHORTER):
            found = [one.label for one in contenders.settings(name, terms)]
            assert len(found) == len(set(found)) > 1, name
        for name in contenders.OURS.keys() - {contenders.TUNED}:
            own = contenders.policies(name, terms)
            said = [contender.Witnessed(one, (), name).label for one in own]
            assert len(said) == len(set(said)) > 1, name


def test_runs_of_ours_are_told_apart_by_what_the_code_makes() -> None:
    one, other = (contender.Witnessed(Adaptive(), (), "Adaptive", witness=word) for word in ("a", "b"))
    assert one.settings() != other.settings()
    assert one.label == other.label
    assert contender.words(Guarded(BWCache(0.15, predictor=Last()), 2).describe())[0] == "threshold 0.15"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("lead")
    few = contenders.Ours(
        [Adaptive(0.5), Adaptive(9.0)], lambda terms: [Adaptive(9.0, terms.guards.warmup / terms.steps)]
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(contenders.OURS, OURS, few)
        patched.setattr(contenders, "CONTENDERS", {name: contenders.contender(name) for name in ("fewer-steps", OURS)})
        race = tiny_race(out)
        race.coarse(["fewer-steps", OURS])
        for name in ("fewer-steps", OURS):
            race.final(name)
        yield out


def tiny_race(out: Path, lengths: Lengths = FEW) -> Race:
    return Race("shapes", "euler-3-30", out, contenders.CONTENDERS, contenders.GUARDS, lengths)


def test_a_tiny_race_from_end_to_end(folder: Path) -> None:
    race = tiny_race(folder)
    assert race.pipe.scheduler.config.shift == 3
    found = race.rows("final")
    assert {place for name in found for one in found[name] for place, *_ in one["videos"]} == {104}
    assert {one["settings"]["warmup"] for one in found[OURS]} >= {0.1}
    assert len(found[OURS]) >= 2
    for one in found["fewer-steps"]:
        assert one["videos"][0][1] == pytest.approx(one["settings"]["steps"] / 4)
    command.write(folder, folder / "lead.json", FEW)
    field = page.fields(page.read(folder / "lead.json"))["shapes"]["euler-3-30"]
    assert {one.family for one in field} == {OURS, "fewer steps"}


def some_rows(field: Any, share: float) -> list[dict[str, Any]]:
    return [row("fewer steps", one.steps / 4, share * one.steps, label=one.label) for one in field]


def counted(race: Race, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of running settings: their labels, in order; each step is worth 10 dB."""
    ran: list[str] = []

    def run(field: Any, places: Any, title: str) -> list[Result]:
        ran.extend(method.label for method in field)
        return [result_of(one) for one in some_rows(field, 10.0)]

    monkeypatch.setattr(race, "_run", run)
    return ran


def test_a_ladder_goes_on_until_it_reaches_all_levels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    race = tiny_race(folder)
    pool = race.methods("fewer-steps")
    ran = counted(race, monkeypatch)
    race._run_on(pool[:1], pool, [result_of(one) for one in some_rows(pool, 20.0)], FEW.final, "some")
    assert ran == [one.label for one in pool] == ["fewer steps (1)", "fewer steps (2)", "fewer steps (3)"]


def test_on_the_many_videos_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The few were easier: what reached all levels there reaches none of them here."""
    race = tiny_race(folder)
    pool = race.methods("fewer-steps")
    ran = counted(race, monkeypatch)
    monkeypatch.setattr(race, "rows", lambda stage: {"fewer-steps": some_rows(pool, 40.0)})
    monkeypatch.setattr(race, "_goes_on", lambda *_: True)
    monkeypatch.setattr(race, "_keep", lambda *_: None)
    monkeypatch.setattr(race.folder, "figures", lambda *_: {"chosen": [pool[0].label]})
    race.final("fewer-steps")
    assert ran == [one.label for one in pool]


def test_plans_are_made_of_other_videos_and_run_on_the_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MADE_OF", range(64, 66))
    tuned = {contenders.TUNED: contenders.contender(contenders.TUNED)}
    monkeypatch.setattr(contenders, "CONTENDERS", tuned)
    few = Lengths((), range(104, 105), rounds=FEW.rounds, steps=5, guards=(Guards(1, 1),), computed=(2, 3))
    race = tiny_race(tmp_path, few)
    race.final(contenders.TUNED)
    found = race.rows("final")[contenders.TUNED]
    assert [len(one["settings"]["steps"]) for one in found] == [2, 3]
    assert [one["label"] for one in found] == ["Tuned (2 of 5 steps)", "Tuned (3 of 5 steps)"]
    assert [one["videos"][0][:2] for one in found] == [[104, 0.4], [104, 0.6]]
    assert all(one["settings"]["expected"] > 10 for one in found)
    tuning = race.folder.path / "tuning"
    assert len([*tuning.glob("references/*")]) == 2
    kept = {path: path.stat().st_mtime_ns for path in tuning.rglob("*.npz")}
    again = tiny_race(tmp_path, few).methods(contenders.TUNED)
    assert [one.label for one in again] == [one["label"] for one in found]
    assert {path: path.stat().st_mtime_ns for path in tuning.rglob("*.npz")} == kept


def test_the_lists_of_a_peer_are_made_of_the_same_videos_as_our_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "MADE_OF", range(64, 66))
    monkeypatch.setattr(contenders, "CONTENDERS", {contenders.FITTED: contenders.contender(contenders.FITTED)})
    few = Lengths((), range(104, 105), rounds=FEW.rounds, steps=5, guards=(Guards(1, 1),), computed=(2, 3))
    race = tiny_race(tmp_path, few)
    asked: list[str] = []
    request = race.request
    monkeypatch.setattr(race, "request", lambda place=None: asked.append(str(place)) or request(place))  # type: ignore[func-returns-value]
    methods = race.methods(contenders.FITTED)
    assert set(asked) == {"64", "65", "96"}  # 96: the witness
    assert [one.label for one in methods] == ["MeanCache (2 of 5 steps)", "MeanCache (3 of 5 steps)"]
    traces = race.traces(MeanCache.measuring(5), range(64, 66))
    assert [one.policy for one in methods] == [MeanCache.fitted(traces, count) for count in (2, 3)]  # type: ignore[attr-defined]
    race.final(contenders.FITTED)
    assert [one["videos"][0][:2] for one in race.rows("final")[contenders.FITTED]] == [[104, 0.4], [104, 0.6]]
    assert contenders.KINDS[contenders.FITTED] == "peer"


def test_results_of_others_stay(folder: Path) -> None:
    target = folder / "merged.json"
    other = {"final": {OTHER: [row("MagCache", 0.5, 30.0)], OURS: ["old"]}}
    target.write_text(json.dumps({"races": {"joint": {"euler-1-30": other}, "shapes": {"euler-3-30": other}}}))
    command.write(folder, target, FEW)
    found = page.read(target)["races"]
    assert found["joint"] == {"euler-1-30": other}
    assert found["shapes"]["euler-3-30"]["final"][OTHER] == other["final"][OTHER]
    assert found["shapes"]["euler-3-30"]["final"][OURS] != ["old"]


def test_what_is_there_is_not_run_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    race = tiny_race(folder)
    monkeypatch.setattr("bwcache.study.study.call", lambda *_, **__: pytest.fail("a finished run is made again"))
    before = race.rows("coarse")
    race.coarse(["fewer-steps", OURS])
    assert race.rows("coarse") == before


def test_the_page_is_what_the_results_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    published = (page.DOCS / "lead.md").read_text(encoding="utf-8")
    monkeypatch.setattr(page, "DOCS", tmp_path)
    monkeypatch.setattr(page, "draw", lambda *_: None)
    page.main()
    assert (tmp_path / "lead.md").read_text(encoding="utf-8") == published, "run python -m benchmarks.lead.page"


def test_the_results_hold_no_video_of_the_first_stage_among_those_of_the_last() -> None:
    found = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    for regimes in found["races"].values():
        for stages in regimes.values():
            seen = {
                stage: {video[0] for rows in names.values() for one in rows for video in one["videos"]}
                for stage, names in stages.items()
            }
            assert seen["coarse"] <= set(races.COARSE)
            assert seen["final"] <= set(races.FINAL)


def test_the_page_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "OURS", [OURS, "BWCache as published"])
    monkeypatch.setattr(
        page, "KINDS", {name: contenders.KINDS[name] for name in (OTHER, "seacache", "easycache", SHORT, OURS)}
    )
    alone = RACE | {"coarse": {"seacache": RACE["coarse"]["seacache"]}}
    for race, few in (RACE, []), (alone, ["SeaCache on few videos alone, though near the front of the peers there"]):
        lines = page.missing({"races": {"shapes": {"euler-1-30": race}}}, {"shapes": {"euler-1-30": stand(race)}})
        own = [line.partition(": ")[2] for line in lines if line.startswith("shapes, Euler, shift 1")]
        assert own == ["not BWCache as published", "not easycache", *few]
        assert "joint, Euler, shift 1, 30 steps: nothing" in lines


def test_no_video_of_the_first_stage_is_among_those_of_the_last() -> None:
    assert not {*races.COARSE, *races.CALIBRATION, *plans.MADE_OF, *plans.UNUSED} & {*races.FINAL}
    assert len(races.FINAL) >= 24
