"""The trace: there and back through a file, and the numbers drawn from it."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwcache import Decision, Event, Step, Trace, TraceError, compute, reuse
from bwcache.core.trace import MOST_STEPS, reuse_line

number = st.floats(allow_nan=True, allow_infinity=True)
maybe_number = st.none() | number
count = st.integers(0, 10**12)
words = st.text(max_size=12) | st.sampled_from(["nan", "inf", "-inf", "a\u2028b", "tab\there", "\x85", "null"])

events = st.builds(
    Event,
    run=count,
    step=st.integers(0, MOST_STEPS - 1),
    total=st.none() | st.integers(0, MOST_STEPS),
    timestep=maybe_number,
    sigma=maybe_number,
    branch=words,
    site=words,
    action=st.sampled_from(["compute", "reuse"]),
    reason=words,
    indicator=maybe_number,
    distances=st.none() | st.lists(number, max_size=4).map(tuple),
    seconds=maybe_number,
    indicator_seconds=maybe_number,
    sample=st.none() | count,
    error=maybe_number,
    value=maybe_number,
)
traces = st.builds(
    Trace,
    meta=st.dictionaries(words, st.none() | count | words, max_size=3),
    events=st.lists(events, max_size=5),
    peak_bytes=count,
    hidden_bytes=count,
    planned_bytes=count,
    host_bytes=count,
    planned_host_bytes=count,
)


def same(a: Any, b: Any) -> bool:
    """Equality by which NaN is itself and 1 is not True."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


@given(traces)
def test_a_trace_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    trace.to_jsonl(path)
    back = Trace.from_jsonl(path)
    assert same(asdict(back), asdict(trace))
    assert all(isinstance(event, Event) for event in back.events)
    assert all(event.distances is None or isinstance(event.distances, tuple) for event in back.events)
    assert [file.name for file in path.parent.iterdir()] == ["trace.jsonl"]


def test_meta_that_is_not_finite_comes_back_too(tmp_path: Path) -> None:
    Trace(meta={"threshold": math.inf, "note": "nan", "nested": {"x": [1.0, None]}}).to_jsonl(tmp_path / "t.jsonl")
    meta = Trace.from_jsonl(tmp_path / "t.jsonl").meta
    assert meta["note"] == "nan"
    assert meta["nested"] == {"x": [1.0, None]}


def test_the_lines_are_plain_json_without_nan(tmp_path: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    trace = Trace(events=[event_of(0, "compute", indicator=math.nan, distances=(math.inf, -math.inf, 0.5))])
    trace.to_jsonl(tmp_path / "t.jsonl")
    for line in (tmp_path / "t.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def event_of(step: int, action: str, branch: str = "cond", reason: str = "because", **more: Any) -> Event:
    return Event(0, step, 10, None, None, branch, "transformer/stack", action, reason, **more)  # type: ignore[arg-type]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(TypeError):
        Trace(meta={"x": object()}).to_jsonl(path)
    assert list(tmp_path.iterdir()) == []
    Trace(events=[event_of(0, "compute")]).to_jsonl(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        Trace(meta={"x": object()}).to_jsonl(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_written_over_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for count in (3, 1):
        Trace(events=[event_of(step, "compute") for step in range(count)]).to_jsonl(path)
    assert len(Trace.from_jsonl(str(path)).events) == 1


HEAD = '{"format": "bwcache-trace-1", "meta": {}, "peak_bytes": 0, "hidden_bytes": 0}\n'
ROW = (
    '{"run": 0, "step": 0, "total": 1, "timestep": null, "sigma": null, "branch": "cond", "site": "s", '
    '"action": "compute", "reason": "r"}\n'
)
BAD_FILES = {
    "empty": "",
    "not_json": "hello\n",
    "cut_in_a_line": HEAD + ROW[:40],
    "a_list": "[1, 2]\n",
    "a_number": "1\n",
    "no_format": '{"meta": {}}\n',
    "another_format": HEAD.replace("trace-1", "trace-99"),
    "no_bytes": '{"format": "bwcache-trace-1", "meta": {}}\n',
    "a_field_missing": HEAD + ROW.replace('"reason": "r"', '"indicator": 1.0'),
    "a_field_too_much": HEAD + ROW.replace('"run"', '"walk": 1, "run"'),
    "another_action": HEAD + ROW.replace('"compute"', '"guess"'),
    "a_row_that_is_a_list": HEAD + "[0, 1]\n",
    "a_row_that_is_null": HEAD + "null\n",
    "distances_that_are_a_number": HEAD + ROW.replace('"reason"', '"distances": 3, "reason"'),
    "a_row_that_is_an_empty_list": HEAD + "[]\n",
    "a_row_that_is_empty_text": HEAD + '""\n',
    "a_row_of_names": HEAD + '["run"]\n',
    "a_row_nested_deeply": HEAD + "[" * 100_000 + "\n",
    "a_field_nested_deeply": HEAD + ROW.replace('"cond"', "[" * 500 + "]" * 500),
    "a_step_that_never_comes": HEAD + ROW.replace('"step": 0', '"step": 1000000000'),
    "a_step_that_is_true": HEAD + ROW.replace('"step": 0', '"step": true'),
    "a_number_that_no_float_holds": HEAD + ROW.replace('"sigma": null', f'"sigma": {10**400}'),
    "text_for_a_number": HEAD + ROW.replace('"reason"', '"indicator": "much", "reason"'),
    "a_number_that_json_lacks": HEAD + ROW.replace('"sigma": null', '"sigma": NaN'),
    "meta_that_is_a_list": HEAD.replace("{}", "[]"),
    "bytes_below_none": HEAD.replace('"peak_bytes": 0', '"peak_bytes": -1'),
    "not_text": b"\xff\xfe\x00bwcache",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_is_no_trace_is_refused_by_name(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TraceError, match=r"some\.jsonl") as caught:
        Trace.from_jsonl(path)
    assert "expected" in str(caught.value)


def test_the_good_file_that_the_bad_ones_are_made_of_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(HEAD + ROW)
    assert Trace.from_jsonl(tmp_path / "t.jsonl").events[0].branch == "cond"


WRONG = [None, [], "", {}, -1, 10**9, 10**400, "nan", 0.5, True, [None], {"x": []}, "compute"]


@pytest.mark.parametrize("name", [*asdict(Event(0, 0, 1, None, None, "", "", "compute", "")), "peak_bytes", "meta"])
def test_every_field_is_read_as_it_should_be_or_refused(tmp_path: Path, name: str) -> None:
    head, row = json.loads(HEAD), json.loads(ROW) | {"distances": [0.5], "indicator": 0.5}
    for wrong in WRONG:
        changed = [{**line, name: wrong} if (line is head) == (name in head) else line for line in (head, row, row)]
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
        try:
            trace = Trace.from_jsonl(tmp_path / "t.jsonl")
        except TraceError:
            continue
        assert str(trace.summary())
        assert trace.row()
        assert reuse_line(trace.events)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises((FileNotFoundError, TraceError)):
        Trace.from_jsonl(tmp_path / "none.jsonl")


def both(step: int, cond: str, uncond: str) -> list[Event]:
    return [event_of(step, cond, "cond"), event_of(step, uncond, "uncond")]


MIXED = [
    *both(0, "compute", "compute"),
    *both(1, "compute", "reuse"),
    *both(2, "reuse", "reuse"),
    *both(3, "reuse", "reuse"),
    *both(4, "compute", "compute"),
]


def test_the_numbers_of_a_run() -> None:
    trace = Trace(events=MIXED)
    assert (trace.steps, trace.computed, trace.reused) == (5, 3, 2)
    assert trace.reuse_rate == 5 / 10
    assert trace.first_trigger == 2
    assert reuse_line(trace.events) == "CmrrC"


def test_single_blocks_that_are_reused_make_no_reused_step() -> None:
    """Two sites that are computed in turn: half of the work is done, and in no step is nothing done."""
    actions = [("compute", "compute"), *[("compute", "reuse"), ("reuse", "compute")] * 2]
    rows = [
        Event(0, step, 5, None, None, "cond", f"transformer/blocks.{i}", action, "r")  # type: ignore[arg-type]
        for step, both_blocks in enumerate(actions)
        for i, action in enumerate(both_blocks)
    ]
    trace = Trace(events=rows)
    assert (trace.steps, trace.computed, trace.reused, trace.mixed) == (5, 5, 0, 4)
    assert trace.reuse_rate == 4 / 10
    assert trace.first_trigger is None
    assert trace.summary().sites == {"transformer/blocks.0": 2 / 5, "transformer/blocks.1": 2 / 5}
    first, second, *_ = str(trace.summary()).splitlines()
    assert first == "5 steps: 5 computed (4 of them in part), 0 reused at all sites; 40.0% of the rows."
    assert second == ("Reused: 40.0% of transformer/blocks.* (2 sites). What is no site was computed in every step.")


def test_a_step_that_is_reused_at_its_sites_is_not_said_to_be_reused_as_a_whole() -> None:
    """Attention is taken again, and the rest of each block runs in every step."""
    kinds = {"attn1": (1, 3), "attn2": (1, 2, 3)}
    rows = [
        Event(0, step, 4, None, None, "cond", f"t/blocks.{i}.{kind}", "reuse" if step in steps else "compute", "r")
        for step in range(4)
        for i in (0, 11)
        for kind, steps in kinds.items()
    ]
    first, second, *_ = str(Trace(events=rows).summary()).splitlines()
    assert first == "4 steps: 2 computed (1 of them in part), 2 reused at all sites; 62.5% of the rows."
    assert second.startswith("Reused: 50.0% of t/blocks.*.attn1 (2 sites), 75.0% of t/blocks.*.attn2 (2 sites). ")
    probed = [replace(row, site="t/blocks.1-blocks.11") for row in rows if row.site == "t/blocks.0.attn1"]
    first, second, *_ = str(Trace(events=probed).summary()).splitlines()
    assert first == "4 steps: 2 computed, 2 reused at its site (50.0%)."
    assert second.startswith("Reused: 50.0% of t/blocks.1-blocks.11. What is no site")
    uneven = [row for row in rows if row.site != "t/blocks.11.attn1" or row.step < 2]
    assert "50.0% of t/blocks.*.attn1 (2 sites)" in str(Trace(events=uneven).summary())
    uneven = [row for row in rows if row.site != "t/blocks.11.attn1" or row.step > 0]
    assert "50.0% to 66.7% of t/blocks.*.attn1" in str(Trace(events=uneven).summary())


def test_a_run_as_a_row_of_a_table() -> None:
    policy = {"name": "BWCache", "threshold": 0.15, "predictor": "Last()"}
    events = [event_of(0, "compute", seconds=1.0, indicator_seconds=0.25), event_of(1, "reuse", seconds=0.5)]
    events.append(event_of(2, "compute", indicator=0.125, seconds=1.0))
    meta = {"model": "wan", "policy": policy, "total": 3, "aside": {"cond": 2}}
    assert Trace(meta, events, peak_bytes=250, hidden_bytes=200).row() == {
        "model": "wan", "policy": "BWCache", "policy.threshold": 0.15, "policy.predictor": "Last()", "total": 3,
        "aside.cond": 2, "steps": 3, "computed": 2, "mixed": 0, "reused": 1, "reuse_rate": 1 / 3, "first_trigger": 1,
        "indicator_min": 0.125, "indicator_max": 0.125, "peak_bytes": 250, "hidden_bytes": 200, "planned_bytes": 0,
        "host_bytes": 0, "planned_host_bytes": 0, "seconds": 2.5, "indicator_seconds": 0.25,
    }  # fmt: skip
    empty = Trace().row()
    assert (empty["steps"], empty["seconds"], empty["first_trigger"]) == (0, None, None)


def test_older_rows_have_no_value(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(HEAD + ROW)
    assert Trace.from_jsonl(tmp_path / "t.jsonl").events[0].value is None
    Trace(events=[event_of(0, "compute", value=0.25)]).to_jsonl(tmp_path / "t.jsonl")
    assert Trace.from_jsonl(tmp_path / "t.jsonl").events[0].value == 0.25


def test_the_numbers_of_no_run() -> None:
    trace = Trace()
    assert (trace.steps, trace.computed, trace.reused, trace.reuse_rate, trace.first_trigger) == (0, 0, 0, 0.0, None)
    assert reuse_line([]) == ""
    assert "0 steps" in str(trace.summary())


@given(st.lists(st.lists(st.sampled_from(["compute", "reuse"]), min_size=1, max_size=3), max_size=20), st.randoms())
def test_the_line_says_each_step_once_in_order(rows: list[list[str]], random: Any) -> None:
    shuffled = [
        event_of(step, action, f"call{i}") for step, actions in enumerate(rows) for i, action in enumerate(actions)
    ]
    random.shuffle(shuffled)
    line = reuse_line(shuffled)
    assert len(line) == len(rows)
    for letter, actions in zip(line, rows, strict=True):
        assert letter == ("m" if len(set(actions)) == 2 else {"compute": "C", "reuse": "r"}[actions[0]])
    trace = Trace(events=shuffled)
    assert trace.reused == line.count("r")
    assert trace.computed == len(line) - line.count("r")


def test_the_summary_counts_reasons_by_their_kind() -> None:
    trace = Trace(
        events=[
            event_of(0, "compute", reason="first step"),
            event_of(1, "compute", reason="still changing (indicator 0.2 >= 0.15)", indicator=0.2),
            event_of(2, "compute", reason="still changing (indicator 0.3 >= 0.15)", indicator=0.3),
            event_of(3, "compute", reason="still changing (indicator nan)", indicator=math.nan),
            event_of(4, "reuse", reason="opens a window (indicator 0.1 < 0.15)"),
        ],
        peak_bytes=250,
        hidden_bytes=200,
    )
    summary = trace.summary()
    assert summary.reasons == {"compute: still changing": 3, "compute: first step": 1, "reuse: opens a window": 1}
    assert (summary.indicator_min, summary.indicator_max) == (0.2, 0.3)
    assert (summary.steps, summary.computed, summary.reused, summary.first_trigger) == (5, 4, 1, 4)
    text = str(summary)
    for part in ("5 steps: 4 computed, 1 reused (20.0%)", "step 4", "0.2000 to 0.3000", "1.25 hidden states", "3 x"):
        assert part in text


@pytest.mark.parametrize(
    ("sites", "unit"),
    [
        (("transformer/root", "transformer_2/root"), "tensors of the latents' shape"),
        (("transformer/root", "transformer_2/stack"), "hidden states"),
        (("transformer/blocks.1.root",), "hidden states"),
        ((), "hidden states"),
    ],
)
def test_what_is_kept_of_a_denoiser_itself_is_no_hidden_state(sites: tuple[str, ...], unit: str) -> None:
    events = [replace(event_of(0, "compute"), site=site) for site in sites]
    trace = Trace(events=events, peak_bytes=400, hidden_bytes=200)
    assert trace.kept_in == unit
    assert f"Kept between steps: 400 bytes, 2.00 {unit}." in str(trace.summary())


def test_a_step_is_written_into_its_event() -> None:
    step = Step(run=2, index=3, total=9, timestep=700.0, sigma=0.7, branch="uncond")
    event = Event.at(step, site="s", action="compute", reason="r")
    assert (event.run, event.step, event.total) == (2, 3, 9)
    assert (event.timestep, event.sigma, event.branch) == (700.0, 0.7, "uncond")


@pytest.mark.parametrize(
    ("timestep", "sigma", "coordinate"), [(700.0, 0.7, 0.7), (700.0, None, 700.0), (None, None, 3.0), (0.0, 0.0, 0.0)]
)
def test_features_are_extrapolated_along_sigma_else_time_else_the_index(
    timestep: float | None, sigma: float | None, coordinate: float
) -> None:
    assert Step(0, 3, 9, timestep, sigma, "cond").coordinate == coordinate


def test_decisions() -> None:
    assert reuse("r", 0.1) == Decision("reuse", "r", 0.1)
    assert reuse("r").reuses
    assert not compute("c").reuses
    with pytest.raises(AttributeError):
        compute("c").reason = "d"  # type: ignore[misc]


def test_a_check_and_where_a_denoiser_was_evaluated_can_be_read_back(tmp_path: Path) -> None:
    trace = Trace(events=[event_of(0, "compute", evaluated_at=0.25), event_of(1, "check")])
    trace.to_jsonl(tmp_path / "t.jsonl")
    assert Trace.from_jsonl(tmp_path / "t.jsonl") == trace
