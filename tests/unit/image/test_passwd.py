"""Numbers of users, as images have them."""

from __future__ import annotations

import pytest

from builder.image.passwd import parse_id


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0", 0),
        ("1000", 1000),
        ("4294967294", 4294967294),
        ("4294967295", None),  # (uid_t)-1
        ("9" * 5000, None),
        ("", None),
        ("-1", None),
        ("²", None),
        ("１", None),  # noqa: RUF001 - a digit to str.isdigit, and to int
        ("0x10", None),
        (" 1", None),
    ],
)
def test_what_is_a_number_of_a_user(written: str, number: int | None) -> None:
    assert parse_id(written) == number
