"""What `ranks=` takes, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

import bwcache
from bwcache import SettingError
from tests.ranks.pair import POLICY
from tests.tiny import wan_transformer


@pytest.mark.parametrize("ranks", ["all", 3, [0, 1], object, {"parts": None}])
def test_what_is_no_group_is_one_line(ranks: Any) -> None:
    with pytest.raises(SettingError, match=r"as ranks=; expected .*bwcache\.Ranks") as caught:
        bwcache.attach(wan_transformer(), ranks=ranks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["parts", "lockstep"])
def test_what_is_no_group_among_ranks(name: str) -> None:
    with pytest.raises(SettingError, match=rf"found 3 as Ranks\({name}=\); expected"):
        bwcache.Ranks(**{name: 3})


@pytest.mark.parametrize("ranks", ["auto", None, bwcache.Ranks()])
def test_one_process_is_alone(ranks: Any) -> None:
    with bwcache.attach(wan_transformer(), POLICY, ranks=ranks) as session:
        assert session.ranks == "alone (one process)"


def test_both_names_are_one_too_many() -> None:
    with pytest.raises(TypeError, match="attach got group and ranks, which are one"):
        bwcache.attach(wan_transformer(), group=None, ranks=None)  # type: ignore[call-arg]
