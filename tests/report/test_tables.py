import io
import json
import math

import pytest
from rich.console import Console

from bwcache.core.trace import Event, Trace
from bwcache.measure.results import Comparison, Run
from bwcache.report.files import run_folder, write_summary
from bwcache.report.tables import comparison_table, decibels, headline, percent, times


def run(prompt="a red circle", **values):
    return Run(
        **(
            {
                "prompt": prompt, "seed": 0, "steps": 30, "computed": 14, "reused": 16, "first_trigger": 6,
                "reuse_rate": 16 / 30, "uncached_seconds": 10.0, "cached_seconds": 6.0, "uncached_denoise_seconds": 9.0,
                "cached_denoise_seconds": 5.0, "ideal_denoise_speedup": 2.0, "psnr": 31.25, "ssim": 0.95,
                "indicator_share": 0.0123, "extra_memory_bytes": 96 * 1024, "hidden_bytes": 40960, "notes": (),
                "trace": Trace(),
            }
            | values
        )
    )  # fmt: skip


def comparison(*runs):
    return Comparison({"name": "shapes"}, {"name": "BWCache"}, {"cores": 2}, 0.9, runs)


def printed(table):
    written = io.StringIO()
    Console(file=written, width=120).print(table)
    return written.getvalue()


def test_figures_of_two_runs_are_put_together():
    total = comparison(run(), run(psnr=21.25, ssim=0.85, uncached_seconds=20.0, cached_seconds=9.0)).total
    assert total.speedup == pytest.approx(30 / 15)
    assert total.denoise_speedup == pytest.approx(18 / 10)
    assert total.ideal_denoise_speedup == pytest.approx(2.0)
    assert total.realised_share_of_ideal == pytest.approx(0.9)
    assert (total.psnr, total.worst_psnr) == pytest.approx((26.25, 21.25))
    assert (total.ssim, total.worst_ssim) == pytest.approx((0.9, 0.85))


def test_identical_runs_are_left_out_of_the_mean_and_named():
    some = comparison(run(), run(psnr=math.inf, ssim=1.0))
    assert some.total.psnr == pytest.approx(31.25)
    assert some.total.identical_runs == 1
    every = comparison(run(psnr=math.inf, ssim=1.0))
    assert every.total.psnr is None
    assert "identical" in printed(comparison_table(every))
    assert "identical" in headline(every)


def test_what_is_not_known_is_null_and_a_dash():
    unknown = dict.fromkeys(
        ("uncached_denoise_seconds", "cached_denoise_seconds", "ideal_denoise_speedup", "indicator_share"), None
    )
    some = comparison(run(first_trigger=None, **unknown))
    total = json.loads(json.dumps(some.to_json(), allow_nan=False))["total"]
    assert total["denoise_speedup"] is None
    assert total["ideal_denoise_speedup"] is None
    assert total["indicator_share"] is None
    assert " - " in printed(comparison_table(some))


def test_the_table_has_every_figure():
    text = printed(comparison_table(comparison(run(), run(first_trigger=8, computed=20, reused=10))))
    for part in (
        "steps", "30", "14-20", "10-16", "6-8", "53.3 %", "9.00 s", "5.00 s", "10.00 s", "6.00 s", "1.67x", "1.80x",
        "2.00x", "31.2 dB", "0.9500", "1.23 %", "96.0 KiB", "prompt 2",
    ):  # fmt: skip
        assert part in text, part


def rows(text):
    """Name and cells of each row; rows of the same name, as "worst", in their order."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    return [(line[0], line[1:]) for line in lines]


def test_lpips_and_ms_ssim_have_no_row_where_they_were_not_measured():
    text = printed(comparison_table(comparison(run(), run())))
    assert "LPIPS" not in text
    assert "MS-SSIM" not in text


def test_lpips_and_ms_ssim_have_a_mean_and_the_worst_where_they_were_measured():
    first, second = {"ms_ssim": 0.93, "lpips": 0.042}, {"ms_ssim": 0.83, "lpips": 0.062}
    some = comparison(run(**first, lpips_backbone="vgg"), run(**second, lpips_backbone="vgg"))
    found = rows(printed(comparison_table(some)))
    at = [name for name, _ in found].index("MS-SSIM")
    assert found[at : at + 4] == [
        ("MS-SSIM", ["0.9300", "0.8300", "0.8800"]),
        ("worst", ["", "", "0.8300"]),
        ("LPIPS (vgg)", ["0.0420", "0.0620", "0.0520"]),
        ("worst", ["", "", "0.0620"]),
    ]


def test_vmaf_and_xpsnr_have_rows_where_they_were_measured():
    some = comparison(run(vmaf=91.04, xpsnr=33.0), run(vmaf=85.0, xpsnr=31.0))
    found = rows(printed(comparison_table(some)))
    at = [name for name, _ in found].index("VMAF")
    assert found[at : at + 4] == [
        ("VMAF", ["91.0", "85.0", "88.0"]),
        ("worst", ["", "", "85.0"]),
        ("XPSNR", ["33.0 dB", "31.0 dB", "32.0 dB"]),
        ("worst", ["", "", "31.0 dB"]),
    ]


def test_the_worst_of_motion_is_the_farthest_from_as_much():
    some = comparison(run(motion_kept=0.95), run(motion_kept=1.2))
    found = rows(printed(comparison_table(some)))
    at = [name for name, _ in found].index("motion kept")
    assert found[at : at + 2] == [("motion kept", ["95.0 %", "120.0 %", "107.5 %"]), ("worst", ["", "", "120.0 %"])]


def test_one_run_without_lpips_leaves_no_mean():
    some = comparison(run(lpips=0.042, lpips_backbone="alex"), run())
    assert ("LPIPS (alex)", ["0.0420", "-", "-"]) in rows(printed(comparison_table(some)))


def test_many_prompts_go_into_several_tables():
    many = comparison(*[run() for _ in range(6)])
    assert "prompt 4" in printed(comparison_table(many, 0))
    assert "prompt 5" not in printed(comparison_table(many, 0))
    assert "prompt 5" in printed(comparison_table(many, 4))


def test_a_summary_is_strict_json(tmp_path):
    write_summary(tmp_path, comparison(run("ein Kreis, größer", psnr=math.inf)))
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert set(found) == {"model", "policy", "environment", "runs", "total"}
    assert found["runs"][0]["prompt"] == "ein Kreis, größer"


def test_words_for_figures():
    assert (percent(0.5), percent(None)) == ("50.0 %", "-")
    assert (times(1.534), times(None)) == ("1.53x", "-")
    assert (decibels(30.21), decibels(None)) == ("30.2 dB", "identical")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red circle!", "03-a-red-circle"),
        ("../../etc/passwd", "03-etc-passwd"),
        ("日本", "03-video"),
        (
            "a large red triangle orbiting fast over a striped background",
            "03-a-large-red-triangle-orbiting-fast-over-a",
        ),
        ("x" * 400, "03-" + "x" * 48),
    ],
)
def test_folders_are_named_after_prompts(prompt, name):
    assert run_folder(2, prompt) == name


def test_predictions_that_are_kept_are_not_called_hidden_states():
    event = Event(0, 0, 30, None, None, "cond", "transformer/root", "compute", "planned")
    text = printed(comparison_table(comparison(run(trace=Trace(events=[event])))))
    assert "tensors of the latents' shape per branch" in text
    assert "hidden states" not in text
