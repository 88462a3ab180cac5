"""The model of many GPUs: by hand, at its limits, beside a published series; and its page is what it prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.scaling import GPUS, HUNYUAN, SERIES, WAN, Setting, of_series
from tests.report.comparisons import comparison_folder, run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "many-gpus.md"


def test_by_hand() -> None:
    """100 forwards of .732 s over 8 GPUs at .85: 10.765 s; 25 of them and 75 of 2.3 ms: 2.865 s; and 6 s beside."""
    denoising, whole = WAN.speedups(8)
    assert denoising == pytest.approx(10.7647 / 2.8643, rel=1e-3)
    assert whole == pytest.approx(16.7647 / 8.8643, rel=1e-3)


@pytest.mark.parametrize("gpus", GPUS)
def test_a_reused_step_that_is_free_gives_what_the_rate_allows(gpus: int) -> None:
    free = Setting("free", 2.0, 0.0, 0.0, rate=0.75, agreement=0.0)
    assert free.speedups(gpus) == (pytest.approx(4.0), pytest.approx(4.0))


@pytest.mark.parametrize("setting", [WAN, HUNYUAN], ids=lambda setting: setting.name)
def test_more_gpus_never_gain_more_by_caching(setting: Setting) -> None:
    for which in (0, 1):
        found = [setting.speedups(n)[which] for n in GPUS]
        assert found == sorted(found, reverse=True)
        assert found[0] < 4.0
    for n in GPUS:
        split, denoising = replace(setting, splits_rest=True).speedups(n)[1], setting.speedups(n)[0]
        assert setting.speedups(n)[1] <= split + 1e-9 <= denoising
        assert setting.seconds(n)[0] / setting.seconds(n)[1] == pytest.approx(setting.speedups(n)[1])


@pytest.mark.parametrize("one", SERIES, ids=lambda one: str(one.gpus))
def test_the_published_series(one: scaling.Published) -> None:
    denoising, whole = of_series(one)
    assert (round(denoising, 2), round(whole, 2)) == (one.denoising, one.end_to_end)


def test_the_page_has_what_it_prints() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for table in scaling.page().split("\n\n"):
        assert table in text


def test_figures_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(["--computed", "2", "--reused", "0.01", "--rest", "4", "--rate", "0.5"])
    printed = capsys.readouterr().out
    assert printed.startswith("| yours | 1 | 2 |")
    assert "| denoising | 1.99x |" in printed


def test_what_a_comparison_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """10 s a call, 8.4 of them denoising in 10 steps, of which 4 are reused: a reused step takes .165 s."""
    folder = comparison_folder(tmp_path / "out", run("a"))
    found = scaling.measured(folder)
    assert (found.steps, found.rate, found.rest) == (10, 0.4, pytest.approx(1.6))
    assert (found.computed, found.reused) == (pytest.approx(0.84), pytest.approx((5.7 - 6 * 0.84) / 4))
    assert found.speedups(1) == (pytest.approx(8.4 / 5.7), pytest.approx(10 / 7.3))
    scaling.main(["--measured", str(folder)])
    printed = capsys.readouterr().out
    assert printed.startswith(
        "1.6 s of text encoding and decoding, 40.0% of 10 steps reused, a reused step takes 0.165 s"
    )
    assert "| end to end | 1.37x |" in printed
    with pytest.raises(SystemExit, match="found no comparison in "):
        scaling.main(["--measured", str(tmp_path)])
    nothing = comparison_folder(tmp_path / "nothing", run("a", reuse_rate=0.0))
    with pytest.raises(SystemExit, match="found no reused step or no times in "):
        scaling.main(["--measured", str(nothing)])
