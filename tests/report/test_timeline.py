from bwcache.core.trace import Event, Trace
from bwcache.report.timeline import legend, reasons, spans, timeline


def trace(*rows):
    """A trace of (step, branch, action, reason, indicator) rows."""
    return Trace({}, [Event(0, step, 9, None, None, branch, "stack", *rest) for step, branch, *rest in rows])


def test_spans():
    assert spans([]) == ""
    assert spans([4]) == "4"
    assert spans([9, 0, 1, 2, 3, 7, 10]) == "0-3, 7, 9-10"
    assert spans([0, 1]) == "0-1"


def test_each_step_has_a_letter_and_each_reason_a_line():
    rows = trace(
        (0, "cond", "compute", "first step", None),
        (0, "uncond", "compute", "first step", None),
        (1, "cond", "compute", "still changing (indicator 0.3 >= 0.15)", 0.3),
        (1, "uncond", "compute", "still changing (indicator 0.2 >= 0.15)", 0.2),
        (2, "cond", "reuse", "opens a window (indicator 0.1 < 0.15)", 0.1),
        (2, "uncond", "compute", "still changing (indicator 0.16 >= 0.15)", 0.16),
        (3, "cond", "reuse", "reuse window (step 2 of 2)", None),
        (3, "uncond", "reuse", "reuse window (step 2 of 2)", None),
    )
    assert timeline(rows) == "CCmr"
    assert legend(["CCC", "CrC"]) == "C computed, r reused"
    assert "m computed in one branch" in legend([timeline(rows)])
    assert reasons(rows) == [
        "computed: first step, step 0",
        "computed: still changing, steps 1-2",
        "reused: opens a window, step 2",
        "reused: reuse window, step 3",
    ]
