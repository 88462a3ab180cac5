"""Prompts of any language in pictures: by a font that has the letters, or what can be drawn; never a warning."""

import warnings

import pytest

from bwcache.report import letters
from bwcache.report.letters import FAMILIES, USUAL, drawable, glyphs
from bwcache.report.pictures import save_storyboard
from bwcache.report.plots import plot_similarity
from tests.report.comparisons import moving, trace

CAT = "一只猫"


@pytest.fixture
def no_more_fonts(monkeypatch):
    """As on a machine with nothing but what matplotlib brings."""
    usual = glyphs(USUAL)
    monkeypatch.setattr(letters, "glyphs", lambda family: usual if family == USUAL else frozenset())


def test_letters_that_the_usual_font_has_are_left_as_they_are():
    for text in ("a red ball", "größer, Ærø, naïve", "Кошка, γάτα, قطة", "costs $5 and $10_"):
        assert drawable(text) == (text, USUAL)
    assert drawable(" two\nlines\tand  spaces ") == ("two lines and spaces", USUAL)


def test_what_no_font_has_is_written_out(no_more_fonts):
    assert drawable(f"{CAT} runs") == (r"\u4e00\u53ea\u732b runs", USUAL)
    assert drawable("ｃａｔ ㎏") == ("cat kg", USUAL)
    assert drawable("\U0001fae0 caf\udce9") == (r"\U0001fae0 caf\udce9", USUAL)


def test_a_font_that_has_them_is_chosen(monkeypatch):
    usual = glyphs(USUAL)
    other = FAMILIES[3]
    monkeypatch.setattr(letters, "glyphs", lambda name: usual | set(map(ord, CAT)) if name == other else usual)
    assert drawable(CAT) == (CAT, other)
    assert drawable("a cat") == ("a cat", USUAL)


@pytest.mark.parametrize(
    "prompt", [CAT, "a 🐈 and $a_{", r"$\frac{", "caf\udce9", "\x00\x1b[0m", "[/x]", "x" * 5000, " "]
)
def test_any_prompt_is_a_title_without_a_warning(tmp_path, prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_similarity(trace(), tmp_path / "similarity.png", 0.15, prompt)
        save_storyboard(moving(), moving(1), tmp_path / "storyboard.png", prompt, "figures")
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2
