"""``bwcache report`` and ``compare --report``: where the page goes, and what is refused."""

import json
import shutil

import pytest

SMALL = ["--steps", "6", "--frames", "5", "--prompt", "a red circle"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the real command leaves, with its page."""
    from bwcache.cli import main

    folder = tmp_path_factory.mktemp("made") / "out"
    with pytest.raises(SystemExit) as ended:
        main(["compare", *SMALL, "--threshold", "9", "--report", "--out", str(folder)])
    assert ended.value.code == 0
    return folder


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out")


def check(ended, said):
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.lines) == 1, ended.err
    assert ended.lines[0].startswith("bwcache: found ")
    assert said in ended.lines[0]
    assert "; expected " in ended.lines[0]


def test_compare_writes_the_page_too(made):
    assert sorted(path.name for path in made.iterdir()) == ["01-a-red-circle", "report.html", "summary.json"]
    page = (made / "report.html").read_text(encoding="utf-8")
    command = json.loads((made / "summary.json").read_text())["command"]
    assert command.startswith("bwcache compare --steps 6 --frames 5 --prompt 'a red circle' --threshold 9 --report")
    assert "--prompt &#39;a red circle&#39; --threshold 9" in page
    assert page.count("<video") == 3
    assert "Where the time went" in page


def test_the_page_goes_into_the_folder_or_where_it_is_named(bwcache_command, out, tmp_path):
    (out / "report.html").unlink()
    ended = bwcache_command("report", "out")
    assert ended.code == 0, ended.err
    assert "as fast" in ended.out
    assert "report.html" in ended.out
    page = (out / "report.html").read_bytes()
    assert page.endswith(b"</html>\n") or page.endswith(b"</html>")
    check(bwcache_command("report", "out"), "an earlier report at")
    assert bwcache_command("report", "out", "--out", "elsewhere.html", "--videos", "0").code == 0
    assert (tmp_path / "elsewhere.html").stat().st_size < len(page)
    assert bwcache_command("report", "out", "--overwrite", "--videos", "0").code == 0
    assert (out / "report.html").stat().st_size < len(page)


def test_a_page_in_the_folder_is_no_stranger_but_another_file_is(bwcache_command, out):
    again = ["compare", *SMALL, "--out", "out"]
    check(bwcache_command(*again), "earlier results")
    assert bwcache_command(*again, "--overwrite").code == 0
    assert sorted(path.name for path in out.iterdir()) == ["01-a-red-circle", "summary.json"]
    (out / "report.html").write_text("<h1>my own</h1>")
    check(bwcache_command(*again, "--overwrite"), "'report.html' in --out")
    check(bwcache_command("report", "out", "--overwrite"), "that is no report")
    assert (out / "report.html").read_text() == "<h1>my own</h1>"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "nowhere"], "no folder 'nowhere'"),
        (["report", "empty"], "no summary.json in 'empty'"),
        (["report"], "DIR"),
        (["report", "out", "--videos", "-1"], "--videos -1"),
        (["report", "out", "--videos", "all"], "--videos 'all'"),
        (["report", "out", "--out", "empty"], "a folder at --out"),
        (["report", "out", "--out", "no/such/page.html"], "no folder for --out"),
        (["report", "out", "--out", "out/summary.json", "--overwrite"], "that is no report"),
        (["report", "out", "--out", "page.html", "--sweep", "nowhere"], "no folder 'nowhere'"),
        (["report", "out", "--out", "page.html", "--bench", "empty"], "no results.json in 'empty'"),
        (["report", "out", "--out", "page.html", "--profile", "empty"], "no profile.json in 'empty'"),
    ],
)
def test_bad_input(bwcache_command, out, tmp_path, written, arguments, said):
    (tmp_path / "empty").mkdir()
    before = written()
    check(bwcache_command(*arguments), said)
    assert written() == before
    json.loads((out / "summary.json").read_text())


def test_what_generate_wrote_is_no_comparison(bwcache_command, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "summary.json").write_text(
        json.dumps({"model": {}, "policy": {}, "environment": {}, "runs": [{"prompt": "a", "folder": "01-a"}]})
    )
    ended = bwcache_command("report", "made")
    check(ended, "videos of 'bwcache generate' in 'made', made once each")
    assert "run 'bwcache compare'" in ended.lines[0]


@pytest.mark.parametrize(
    ("file", "command", "option"),
    [
        ("profile.json", "profile", "--profile made"),
        ("results.json", "sweep or bench", "--sweep made or --bench made"),
        ("plan.json", "vbench", "scored"),
    ],
)
def test_what_another_command_wrote_is_called_what_it_is(bwcache_command, tmp_path, file, command, option):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / file).write_text("{}")
    ended = bwcache_command("report", "made")
    check(ended, f"what 'bwcache {command}' wrote in 'made'")
    assert option in ended.lines[0]


def test_studies_that_lie_in_the_folder_are_shown(bwcache_command, out, tmp_path):
    (out / "sweep").mkdir()
    check(bwcache_command("report", "out", "--overwrite"), "no results.json in 'out/sweep'")
