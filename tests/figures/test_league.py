"""All methods against each other: ladders, what results say in words, a tiny league from end to end, and the page."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import bwcache.policies
from benchmarks.league import __main__ as command
from benchmarks.league import contenders, page, summary, times, words
from benchmarks.league.facts import facts, lines_of_code, reads
from benchmarks.league.ladders import LADDERS, LEFT_OUT, Ladder, each
from benchmarks.league.taken_over import taken_over
from benchmarks.race import figures
from benchmarks.race.contender import Contender
from benchmarks.race.figures import Speed
from benchmarks.race.race import Lengths, Race
from benchmarks.race.rows import result_of, row_of
from bwcache.errors import AttachError
from bwcache.policies import BWCache, FirstBlock, FixedInterval, MagCache, Policy, SpeCa
from bwcache.study import Cell, Result
from bwcache.study.methods import FewerSteps, UnderPolicy
from bwcache.study.peers import Guards

FEW = Lengths(
    range(88, 89), range(104, 105), range(96, 97), ((1, 2.0, 0.02, 9.0),), (0.0, 1.0), 4, (Guards(1, 1), Guards(2, 1))
)
"""Four steps, a video for each stage, and levels that anything reaches."""

LADDER = Ladder("fixed interval", FixedInterval, each(lambda n: FixedInterval(n, 1, 0), 2, 3), "a test")
SMALL = {
    "fixed interval": replace(contenders.NATIVE["fixed interval"], ladder=partial(contenders.native, LADDER)),
    "DeepCache": contenders.NATIVE["DeepCache"],
    "first-block by diffusers": Contender("library", lambda race: contenders.peer("first-block", race)[:1]),
}


def row(family: str, *points: tuple[float, float]) -> list[dict[str, Any]]:
    """Settings of a family, each by its share of the work and its PSNR on two videos that are 4 dB apart."""
    return [
        {"family": family, "label": f"{family} ({work})", "settings": {}, "kept_bytes": 1024, "failed": None,
         "videos": [[place, work, decibels + side, 0.9, 90.0] for place, side in ((104, 2), (105, -2))]}
        for work, decibels in points
    ]  # fmt: skip


def stand(**families: list[tuple[float, float]]) -> list[figures.Standing]:
    names = {name.replace("_", " "): points for name, points in families.items()}
    race = {"final": {name: row(name, *points) for name, points in names.items()}}
    return figures.standings(race, dict.fromkeys(names, "native"), contenders.LEVELS)


FAST, SLOW = [(0.2, 24.0), (0.25, 31.0), (0.4, 41.0)], [(0.4, 24.0), (0.5, 31.0), (0.8, 41.0)]


def test_every_policy_has_a_ladder_or_a_reason() -> None:
    made = {name for name, one in vars(bwcache.policies).items() if inspect.isclass(one) and issubclass(one, Policy)}
    on_ladders = {one.kind.__name__ for one in LADDERS}
    assert not on_ladders & set(LEFT_OUT)
    assert on_ladders | set(LEFT_OUT) == made - {"Policy"}
    assert all(one.source for one in LADDERS)
    assert len({one.family for one in LADDERS}) == len(LADDERS)


@pytest.mark.parametrize("steps", [30, 50])
def test_settings_of_a_ladder_have_names_of_their_own(steps: int) -> None:
    class NoRuns:
        guards = contenders.GUARDS[steps]

        def __init__(self) -> None:
            self.steps = steps

        def __getattr__(self, name: str) -> Any:
            raise AttachError(f"no {name} here")

        def witness(self, policy: Policy[Any]) -> str:
            return "w"

    race: Any = NoRuns()
    for ladder in LADDERS:
        made = contenders.native(ladder, race)
        if isinstance(made[0], contenders.Unable):  # it needs the runs
            continue
        assert {one.family for one in made} == {ladder.family}
        labels, settings = [one.label for one in made], [str(one.settings()) for one in made]
        assert len(set(labels)) == len(set(settings)) == len(made) >= 4, ladder.family
        assert all(isinstance(one, contenders.Rung) and isinstance(one.policy, Policy) for one in made)
        alike = {contenders.but_for_guards(one) for one in made}
        assert len(made) == len(alike) * (2 if ladder.guarded else 1)


def test_ours_and_theirs_have_different_names() -> None:
    assert set(words.SAME) <= {one.family for one in LADDERS}
    assert not set(words.SAME) & set(words.SAME.values())
    theirs = contenders.From(FewerSteps(3), "diffusers")
    assert (theirs.family, theirs.label) == ("fewer steps (diffusers)", "fewer steps (3), diffusers")
    assert {*contenders.KINDS.values()} == {"native", "library", "fewer steps"}


def test_what_is_told_of_a_method() -> None:
    text = '"""Doc."""\n\nimport a  # said\n\n\ndef f():\n    """More.\n\n    Text.\n    """\n'
    text += "    # a word\n    return (\n        1\n    )\n"
    assert lines_of_code(text) == 5
    assert [reads(kind) for kind in (FixedInterval, BWCache, SpeCa)] == ["never", "computed steps", "checked steps"]
    assert reads(bwcache.policies.TeaCache) == "each forward"
    assert facts()["HiCache"]["lines"] < facts()["BWCache"]["lines"]


def test_two_methods_are_compared_on_the_same_videos_alone() -> None:
    field = stand(fast=FAST, slow=SLOW)
    found = words.beside("fast", "slow", field)
    assert found is not None
    assert [one.value for one in found.speeds] == pytest.approx([2.0] * 4)
    assert found.videos == 2
    assert words.beside("slow", "nobody", field) is None
    assert words.verdict(found.speeds) == "faster"
    back = words.beside("slow", "fast", field)
    assert back is not None
    assert words.verdict(back.speeds) == "slower"
    elsewhere = {"final": {"slow": [one | {"videos": one["videos"][:1]} for one in row("slow", *SLOW)]}}
    others = [*field[:1], *figures.standings(elsewhere, {"slow": "native"}, contenders.LEVELS)]
    assert words.beside("fast", "slow", others) is None
    assert words.beside("fast", "slow", others, field) == found  # on the few videos, then


def test_a_verdict_says_no_more_than_is_known() -> None:
    assert words.verdict([Speed(1.01), Speed(0.99)]) == "level"
    assert words.verdict([Speed(1.5), Speed(0.8)]) == "mixed"
    assert words.verdict([Speed(1.5), Speed(1.0)]) == "faster"
    assert words.verdict([Speed(1.5, "<="), Speed(None), Speed(0.5, ">="), Speed(2.0, "~")]) == "open"
    assert words.verdict([Speed(1.5, ">="), Speed(1.0, "<=")]) == "faster"
    assert words.verdict([]) == "open"


def test_a_method_that_another_library_ran_stands_for_ours_until_ours_ran() -> None:
    theirs = [one | {"family": "MagCache (diffusers)"} for one in row("MagCache", *FAST)]
    race = {"final": {"theirs": theirs, "fixed": row("fixed interval", *SLOW)}}
    field = figures.standings(race, {"theirs": "library", "fixed": "native"}, contenders.LEVELS)
    assert words.ran("MagCache", field) == "MagCache (diffusers)"
    assert words.beside("MagCache", "fixed interval", field) is None
    found = words.compared("MagCache", "fixed interval", field)
    assert found is not None
    assert (found.one, found.other) == ("MagCache (diffusers)", "fixed interval")
    assert [one.value for one in found.speeds] == pytest.approx([2.0] * 4)
    assert words.ran("TeaCache", field) == ""


def test_who_went_no_further_is_compared_on_the_few_videos() -> None:
    few = {"fast": row("fast", *FAST), "slow": row("slow", *SLOW), "other": row("other", *SLOW)}
    race: Any = {"coarse": few, "final": {"slow": [], "fast": row("fast", *SLOW)}}
    field = figures.standings(race, dict.fromkeys(few, "native"), contenders.LEVELS)
    assert page.dropped(race, field) == ["slow"]  # nobody knows yet what becomes of the other one
    many, _ = page.sides({"coarse": {}}, field)
    assert [one.family for one in many] == ["fast"]
    assert words.compared("fast", "slow", many) is None
    found = words.compared("fast", "slow", many, stand(fast=FAST, slow=SLOW))
    assert found is not None
    assert [one.value for one in found.speeds] == pytest.approx([2.0] * 4)


def test_each_other_librarys_method_is_one_of_those_that_run() -> None:
    assert set(words.SAME) <= {one.family for one in LADDERS}
    coarse = page.read()["races"]["shapes"]["euler-1-30"]["coarse"]
    theirs = {row["family"] for name in contenders.BY_OTHERS for row in coarse[name]}
    assert set(words.SAME.values()) <= theirs


def test_a_published_order_holds_or_not() -> None:
    for field, told in (
        (stand(fast=FAST, slow=SLOW), "holds"),
        (stand(fast=SLOW, slow=FAST), "does not hold"),
    ):
        found = words.compared("fast", "slow", field)
        assert found is not None
        assert words.stands(found) == told
    families = {one.family for one in LADDERS}
    assert {name for one in words.CLAIMS for name in (one.ahead, one.behind)} <= families
    exchanged = {name for pairs in words.EXCHANGES.values() for one in pairs for name in (one.one, one.other)}
    assert exchanged <= families


def told(field: list[figures.Standing], **more: Any) -> summary.Told:
    return summary.Told("shapes", "euler-1-30", "a race", field, field, (), more.pop("times", {}), **more)


def test_who_leads_by_the_mean_and_by_the_worst_video() -> None:
    field = stand(fast=FAST, slow=SLOW, fixed_interval=SLOW)
    said = summary.race_in_words(told(field))
    assert said.startswith("**a race** (3 caches on 2 videos): at 35 dB fast 3.40x, ")  # of 4x at 31 dB, 2.5x at 41
    assert "where the worst video shall have as much, fast 3.10x" in said  # which is 2 dB below the mean
    assert "1 of 2 are clearly faster than fixed interval" in said
    high = stand(fast=FAST[:2], slow=SLOW)
    assert "at 35 dB slow " in summary.race_in_words(told(high))  # the other one never gets there
    assert summary.race_in_words(told([])) == ""


def test_what_follows_is_told_with_its_figures() -> None:
    ahead, behind = stand(BWCache=FAST, TeaCache=SLOW, FasterCache=FAST), stand(BWCache=SLOW, TeaCache=FAST)
    assert summary.published([told(ahead)]) == (
        "**Published orders** that hold here at 35 dB: 1 in every race (BWCache ahead of TeaCache 2.00x); "
        "1 level in all (BWCache ahead of FasterCache 1.00x)."
    )
    both = [told(ahead), told(behind)]
    assert "1 in some (BWCache ahead of TeaCache 0.50 to 2.00x)" in summary.published(both)
    pair = words.Exchange("BWCache", "TeaCache", "a thing")
    assert summary.idea("An idea", [pair], both) == (
        "**An idea**, times faster at 35 dB (below 1: slower), over TeaCache: BWCache 0.50 to 2.00x."
    )
    assert summary.idea("An idea", [words.Exchange("MagCache", "TeaCache", "")], both) == ""
    assert summary.reach([Speed(2.0, ">="), Speed(1.5, "~")]) == ">=2.00x"
    assert summary.reach([Speed(2.0, ">="), Speed(1.5), Speed(1.2, ">=")]) == "1.50x and >=2.00x"
    assert summary.reach([Speed(0.5, "<="), Speed(1.5), Speed(0.9), Speed(1.0, "<=")]) == "<=0.50x and 0.90 to 1.50x"
    assert summary.reach([Speed(None), Speed(1.0, "~")]) == ""
    theirs = {"SeaCache": FAST, "SeaCache (diffusers)": SLOW}
    race = {"final": {name: row(name, *points) for name, points in theirs.items()}}
    field = figures.standings(race, dict.fromkeys(theirs, "native"), contenders.LEVELS)
    assert "level in 0 of 1 comparisons at all four levels; at 35 dB else SeaCache 2.00x" in summary.others(
        [told(field)]
    )
    assert summary.others([told(field, over=["SeaCache (diffusers)"])]) == ""  # along another page's ladder


def test_time_is_that_of_the_setting_which_the_table_has() -> None:
    (fast,) = stand(fast=FAST)
    measured = {"label": fast.middle.label, "speedup": 3.2, "reads_per_step": 2.0}
    assert told([fast], times={"fast": measured}).by_time(fast) == 3.2
    assert told([fast], times={"fast": measured | {"label": "another"}}).by_time(fast) is None
    assert told([fast]).reads(fast) is None


def test_the_worst_video_has_speeds_of_its_own() -> None:
    rows = [result_of(one) for one in row("fast", (0.25, 32.0), (0.5, 42.0))]
    assert [one.value for one in figures.worst_speeds(rows, (30.0, 40.0))] == pytest.approx([4.0, 2.0])


def test_rows_keep_vmaf_and_read_what_was_written_before() -> None:
    cells = tuple(
        Cell(
            "a", "a (1)", {"witness": "w", "x": 1}, "p", place, compute=0.5, quality={"psnr": 30.0, "ssim": 0.9} | more
        )
        for place, more in ((104, {"vmaf": 91.25}), (105, {}))
    )
    written = row_of(Result("a", "a (1)", {"witness": "w", "x": 1}, cells))
    assert written["videos"] == [[104, 0.5, 30.0, 0.9, 91.25], [105, 0.5, 30.0, 0.9]]
    assert written["settings"] == {"x": 1}
    assert result_of(written).mean("vmaf") == 91.25
    assert result_of(written).mean("xpsnr") is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("league")
    race = tiny(out)
    race.coarse([*SMALL])
    for name in SMALL:
        race.final(name)
    return out


def tiny(out: Path) -> Race:
    return Race("shapes", "euler-3-30", out, SMALL, contenders.GUARDS, FEW)


def test_a_tiny_league_from_end_to_end(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = tiny(folder).rows("final")
    assert {one["family"] for one in found["fixed interval"]} == {"fixed interval"}
    assert {video[0] for own in found.values() for one in own for video in one["videos"]} == {104}
    measured = found["fixed interval"][0]["videos"][0]
    assert len(measured) == 5  # with VMAF; XPSNR is not measured on frames of 32 x 32
    assert 0 < measured[4] <= 100
    monkeypatch.setattr(command, "CONTENDERS", SMALL)
    command.write(folder, tmp_path / "league.json", FEW)
    results = page.read(tmp_path / "league.json")
    every = page.fields(results)
    field = {one.family: one for one in every["shapes"]["euler-3-30"]}
    assert "fixed interval" in field
    assert any("diffusers" in family for family in field)
    lines = {re.split("[,:]", line)[0]: line for line in command.told(tiny(folder))}
    assert lines["DeepCache"] == "DeepCache: found WanTransformer3DModel, which is no U-Net"
    assert re.fullmatch(
        r"fixed interval, \d settings on 1 video: \d\.\d\d to \d\.\d\dx less work, .* dB", lines["fixed interval"]
    )
    why = page.unable(results, "shapes", "euler-3-30")
    assert list(why) == ["DeepCache"]
    left = page.unrun(results["races"]["shapes"]["euler-3-30"], every["shapes"]["euler-3-30"], why)
    assert "MagCache" in left
    assert not {"fixed interval", "DeepCache"} & set(left)
    monkeypatch.setattr(figures, "DRAWS", 20)
    monkeypatch.setattr(page, "taken_over", lambda *_: {})
    monkeypatch.setattr(page, "read", lambda *_: results)
    monkeypatch.setattr(page, "DOCS", tmp_path)
    page.main()
    text = (tmp_path / "league.md").read_text(encoding="utf-8")
    assert "| **fixed interval** |" in text
    assert "Not on this model: DeepCache (WanTransformer3DModel, which is no U-Net)." in text
    assert "Not run yet: " in text
    assert (tmp_path / "images" / "league-shapes-euler-3-30.png").stat().st_size > 10_000


def test_time_and_reads_are_measured_of_one_setting(folder: Path) -> None:
    race = tiny(folder)
    fixed = next(one for one in race.methods("fixed interval") if "(3, warm-up 1" in one.label)
    plain = times.counted(race)
    found = times.row(race, fixed, plain)
    assert found["label"] == fixed.label
    assert found["reads_per_step"] * race.steps <= 8  # as the run begins, and never again
    probing = times.row(race, UnderPolicy(FirstBlock(0.5)), plain)
    assert probing["reads_per_step"] * race.steps >= found["reads_per_step"] * race.steps + 3  # all steps but the first
    assert 1.0 < found["speedup"] < 4.0  # two of four steps are computed
    assert len(found["seconds"]) == times.ROUNDS
    with times.Reads() as reads:
        assert bool(torch.ones(1))
        assert torch.ones(1).item() == 1
        assert torch.ones(2).tolist() == [1, 1]
    assert reads.count == 3


def test_tables_are_measured_once_and_on_other_videos(folder: Path) -> None:
    race = tiny(folder)
    traces = race.traces(MagCache.measuring())
    assert traces is race.traces(MagCache.measuring())
    assert len(traces) == len(FEW.calibration)
    lengths = contenders.SETTINGS.lengths
    places = [set(some) for some in (lengths.calibration, lengths.coarse, lengths.final)]
    assert len(set.union(*places)) == sum(map(len, places))
    assert len(lengths.final) >= 16


def test_the_long_warm_up_is_tried_where_the_short_one_was_good(folder: Path) -> None:
    race = tiny(folder)
    pool = race.methods("fixed interval")
    first = race._first_of_each("fixed interval", pool)
    assert [one.label for one in first] == [one.label for one in pool[: len(pool) // 2]]
    chosen, done = {first[1].label}, {one.label for one in first}
    assert [one.label for one in race._with_alike("fixed interval", pool, chosen, done)] == [
        "fixed interval (3, warm-up 1, tail 1)",
        "fixed interval (3, warm-up 2, tail 1)",
    ]


def test_runs_count_as_long_as_the_video_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    race = tiny(folder)
    monkeypatch.setattr("bwcache.study.study.call", lambda *_, **__: pytest.fail("a finished run is made again"))
    before = race.rows("coarse")
    race.coarse(["fixed interval"])
    assert race.rows("coarse")["fixed interval"] == before["fixed interval"]
    monkeypatch.setattr("benchmarks.common.code", lambda: "other code")
    assert race.witness(FixedInterval(2)) == tiny(folder).witness(FixedInterval(2))
    assert race.witness(FixedInterval(2)) != race.witness(FixedInterval(3))


def test_what_the_other_page_has_of_the_same_videos_is_taken_over() -> None:
    made = row("MagCache", *FAST)
    more = [one | {"videos": [*one["videos"], [127, 0.1, 99.0, 0.9]]} for one in made]
    other = {"magcache": more, "fixed": row("fixed interval", *SLOW)}
    lead: Any = {"races": {"shapes": {"euler-1-30": {"final": other}}}}
    found: Any = {"races": {"shapes": {"euler-1-30": {"coarse": {}, "final": {"fixed interval": made}}}}}
    assert taken_over(found, lead, (104, 105)) == {"shapes/euler-1-30": ["MagCache (diffusers)"]}
    final = found["races"]["shapes"]["euler-1-30"]["final"]
    assert final["fixed interval"] == made  # it ran here
    assert final["magcache by diffusers"] == [one | {"family": "MagCache (diffusers)"} for one in made]
    assert taken_over(found, lead, (104, 105, 106)) == {}


def test_who_is_asked_for_must_be_there() -> None:
    from benchmarks.race.command import chosen

    assert chosen("method", ["MagCache"], contenders.CONTENDERS) == ["MagCache"]
    with pytest.raises(Exception, match="expected one of"):
        chosen("method", ["Magic"], contenders.CONTENDERS)
    assert isinstance(contenders.CONTENDERS["MagCache"], Contender)


def test_the_page_is_what_the_results_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    published = (page.DOCS / "league.md").read_text(encoding="utf-8")
    monkeypatch.setattr(page, "DOCS", tmp_path)
    monkeypatch.setattr(page, "draw", lambda *_: None)
    page.main()
    assert (tmp_path / "league.md").read_text(encoding="utf-8") == published, "run python -m benchmarks.league.page"
