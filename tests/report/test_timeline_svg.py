"""Strips with one column per step: what they say of traces made by hand."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from bwcache.core.trace import Trace
from bwcache.report.timeline_svg import branches, columns, curve, heatmap, step_ticks
from tests.report.comparisons import event, trace


def kinds(cells):
    return "".join({"computed": "C", "reused": "r", "guarded": "G", "absent": "-"}[cell.kind] for cell in cells)


def test_each_branch_sample_and_expert_has_a_strip_as_wide_as_the_run():
    events = [event(0, "C"), event(1, "r"), event(2, "C", site="transformer_2/stack"), event(3, "G", sample=1)]
    found = dict(branches(Trace({}, events)))
    assert {name: kinds(cells) for name, cells in found.items()} == {
        "cond": "Cr--",
        "cond (transformer_2)": "--C-",
        "cond, sample 1": "---G",
    }
    assert found["cond"][1].why == "step 1: reused, reuse window (step 1 of 2)"
    assert found["cond"][2].why == ""


def test_sites_that_disagree_count_as_computed_and_both_say_why():
    events = [event(0, "C", site="transformer/a"), event(0, "r", site="transformer/b")]
    [(_, [cell])] = branches(Trace({}, events))
    assert cell.kind == "computed"
    assert cell.why.startswith("step 0: computed, still changing")
    assert "; reused, reuse window" in cell.why


def test_the_curve_is_drawn_to_scale():
    found = curve(trace(), 0.15)
    [(_, solid, across, points)] = found.lines  # both branches are alike
    assert found.ticks[-1] == (100, "0.32")
    assert found.threshold == pytest.approx(100 * 0.15 / 0.32)
    assert points.startswith(f"M1.5 {100 - 100 * 0.3 / 0.32:.2f}h0")
    heights = [float(number) for number in re.findall(r"\.5 ([\d.]+)", solid)]
    assert heights[:2] == pytest.approx([100 - 100 * 0.3 / 0.32, 100 - 100 * 0.15 / 0.32], abs=0.01)
    assert across.count("M") == 2  # from 2 to 5, and from 5 to 8
    assert (3, 1, "reused") in found.shaded
    assert (9, 1, "guarded") in found.shaded
    assert curve(trace(), None).threshold is None


def test_nothing_measured_is_no_curve_and_no_heatmap():
    empty = Trace({}, [event(0, "C"), event(1, "r")])
    assert curve(empty, 0.15) is None
    assert heatmap(empty) is None
    assert columns(Trace()) == 0


def test_the_heatmap_has_a_pixel_per_block_and_step():
    found = heatmap(trace())
    picture = np.asarray(Image.open(io.BytesIO(found.picture)))
    assert picture.shape == (3, 10, 4)
    assert (found.low, found.high) == pytest.approx((0.1 / 9, 0.4))
    clear = picture[0, :, 3] == 0
    assert clear.tolist() == [True, False, False, True, True, False, True, True, False, False]
    assert picture[0, 1].tolist() == [253, 231, 36, 255]  # the brightest of viridis
    assert picture[2, 9].tolist() == [68, 1, 84, 255]  # the darkest
    values = json.loads(found.values)
    assert values[1][:3] == [None, 0.2, 0.1]
    assert values[2][9] == 0.0111


def test_values_that_are_no_changes_are_left_out():
    events = [event(0, "C", distances=(float("nan"), 0.0, 0.2)), event(1, "C", distances=(0.2, 0.2, 0.2))]
    assert heatmap(Trace({}, events)).rows == ((None, 0.2), (None, 0.2), (0.2, 0.2))


@pytest.mark.parametrize(("count", "last"), [(1, 0), (10, 9), (30, 25), (50, 45), (1000, 900)])
def test_few_steps_are_named(count, last):
    ticks = step_ticks(count)
    assert ticks[0] == 0
    assert ticks[-1] == last
    assert len(ticks) <= 10
