"""The package can be run."""

import subprocess
import sys


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "bwcache", *words], capture_output=True, text=True, timeout=120)


def test_python_m_bwcache_is_the_command() -> None:
    ended = run("compare", "--help")
    assert ended.returncode == 0, ended.stderr
    assert "--prompt" in ended.stdout
    wrong = run("nothing")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
