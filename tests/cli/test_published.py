"""The command takes the settings that were published for a model, where the options leave them open."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

import bwcache
from bwcache.cli.choices import choose
from bwcache.cli.settings import CompareSettings
from bwcache.models.table import row
from bwcache.policies import presets
from tests.tiny import wan_transformer


@pytest.fixture
def pipe(monkeypatch):
    """A Wan whose published settings are none of the defaults."""
    one = presets.preset_of(row("WanTransformer3DModel"))
    changed = replace(one, settings={"threshold": 0.07, "reuse_interval": 3})
    monkeypatch.setitem(presets._BY_CLASS, (one.module_prefix, one.model, one.method), changed)
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


def test_a_checkpoint_stands_for_all_that_was_published_for_it(pipe):
    settings = CompareSettings(policy="dicache", sets=["published=HunyuanVideo", "probe=2"], threshold="0.3")  # type: ignore[arg-type]
    assert choose(settings).policy == bwcache.DiCache(0.3, 2, 1.5)
    settings = CompareSettings(policy="magcache", sets=["published=Wan2.1-T2V-14B", "ratios=1+1.1+0.9"])
    assert choose(settings).policy == bwcache.MagCache((1.0, 1.1, 0.9), 0.24, 6, 0.2)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("dicache", "nothing published of DiCache for 'Sora'; expected one of Wan2.1, HunyuanVideo, FLUX.1-dev"),
        ("mixcache", "--set 'published'"),
        ("adaptive", "--set 'published'"),
    ],
)
def test_a_checkpoint_of_which_nothing_is_known_is_refused(policy, said):
    with pytest.raises(bwcache.SettingError, match=re.escape(said)):
        choose(CompareSettings(policy=policy, sets=["published=Sora"]))
