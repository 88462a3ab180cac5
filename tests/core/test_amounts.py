"""Amounts of memory, read and written."""

import pytest

from bwcache import SettingError
from bwcache.core.amounts import in_bytes, size


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (1, 1),
        (2**40, 2**40),
        ("4096", 4096),
        ("10 B", 10),
        ("2GiB", 2 * 2**30),
        ("2 gib", 2 * 2**30),
        ("1.5GB", 1_500_000_000),
        (" 512 MiB ", 512 * 2**20),
        ("0.5TiB", 2**39),
        ("3kb", 3000),
        ("3KiB", 3072),
    ],
)
def test_an_amount_is_read(amount: int | str, expected: int) -> None:
    assert in_bytes(amount) == expected


NO_AMOUNTS = (0, -1, True, 0.5, float("nan"), None, "", "0", "0.4 B", "-2GiB", "2 GiBs", "lots", "2G", "1e9")


@pytest.mark.parametrize("amount", NO_AMOUNTS)
def test_what_is_no_amount_is_refused(amount: object) -> None:
    expected = r"found .* amount of memory; expected a whole number of bytes, or text such as '2GiB'.*; try '2GiB'"
    with pytest.raises(SettingError, match=expected):
        in_bytes(amount)  # type: ignore[arg-type]


@pytest.mark.parametrize(("amount", "instead"), [(1e6, "1000000"), (1.5, "1"), (2.0**40, str(2**40))])
def test_what_is_no_whole_number_is_refused_with_the_one_to_write(amount: float, instead: str) -> None:
    with pytest.raises(
        SettingError, match=rf"found {amount!r} as .*expected a whole number of bytes.*write {instead}$"
    ):
        in_bytes(amount)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 1023, 1024, 10**9, 2**30, 5 * 2**40])
def test_what_is_written_can_be_read(count: int) -> None:
    assert in_bytes(size(count)) == pytest.approx(count, rel=0.05)


def test_amounts_in_words() -> None:
    assert (size(0), size(1536), size(5 * 2**30), size(250 * 2**20)) == ("0 B", "1.5 KiB", "5.0 GiB", "250 MiB")
