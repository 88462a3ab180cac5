import signal

import pytest


class Ended:
    """How a call of the command ended: exit code, lines on standard output and on standard error."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self):
        return self.err.splitlines()


@pytest.fixture
def bwcache_command(tmp_path, monkeypatch, capfd):
    """Calls the command in this process, in an empty folder of its own."""
    from bwcache.cli import main

    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ended(ended.value.code, out, err)

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def written(tmp_path):
    """Everything under the test's folder, hidden or not."""
    return lambda: sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
