"""What is read for one node is not read again for the next; a new run reads anew."""

from __future__ import annotations

import pytest

from builder.netboot.once import Once


def test_a_function_is_called_once_for_the_same_arguments() -> None:
    asked: list[tuple[str, int]] = []

    def read(name: str, *, limit: int = 1) -> str:
        asked.append((name, limit))
        return name * limit

    once = Once()
    assert [once(read, "a"), once(read, "a"), once(read, "b"), once(read, "a", limit=2)] == ["a", "a", "b", "aa"]
    assert asked == [("a", 1), ("b", 1), ("a", 2)]
    Once()(read, "a")
    assert asked[3:] == [("a", 1)]


def test_what_fails_is_tried_again() -> None:
    failing = [OSError("not yet")]

    def read() -> str:
        if failing:
            raise failing.pop()
        return "there"

    once = Once()
    with pytest.raises(OSError, match="not yet"):
        once(read)
    assert once(read) == "there"
