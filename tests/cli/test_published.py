"""The command takes the settings that were published for a model, where the options leave them open."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import bwcache
from bwcache.cli.choices import choose
from bwcache.cli.settings import CompareSettings
from bwcache.models import published
from bwcache.models.table import row
from tests.tiny import wan_transformer


@pytest.fixture
def pipe(monkeypatch):
    """A Wan whose published settings are none of the defaults."""
    one = published.preset_of(row("WanTransformer3DModel"))
    changed = replace(one, settings={"threshold": 0.07, "reuse_interval": 3})
    monkeypatch.setitem(published._BY_CLASS, (one.module_prefix, one.model, one.method), changed)
    return SimpleNamespace(components={"transformer": wan_transformer()})


def test_published_settings_are_the_commands_defaults(pipe):
    assert choose(CompareSettings()).of(pipe).policy == bwcache.BWCache(threshold=0.07, reuse_interval=3)


def test_options_win_over_them(pipe):
    settings = CompareSettings(threshold=0.2, tail_guard=0.25, predictor="linear")  # type: ignore[arg-type]
    expected = bwcache.BWCache(threshold=0.2, reuse_interval=3, tail_guard=0.25, predictor=bwcache.Linear())
    assert choose(settings).of(pipe).policy == expected


def test_published_settings_must_fit_the_run(pipe):
    with pytest.raises(bwcache.SettingError, match="reuse_interval 3"):
        choose(CompareSettings(steps=2)).of(pipe)
