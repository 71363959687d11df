"""What a word was meant to be: the nearest of those that are known."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, or nothing."""
    near = nearest(word, known)
    return f"; did you mean '{near}'?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the nearest known word, "" where none is near."""
    import difflib  # noqa: PLC0415 - of every command, one that is mistyped needs it

    options = {option.casefold(): option for option in known}
    close = difflib.get_close_matches(word.casefold(), options, n=1, cutoff=0.6)
    return options[close[0]] if close else ""
