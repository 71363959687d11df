"""The kernel's command line, `cmdline.txt`, edited as text: one line of words, of which some keys repeat (`console=`).

Words are those of the kernel's `next_arg` (lib/cmdline.c): parted by white space, which double quotes protect; `-` and
`_` are the same in a key; what follows the word `--` is for init.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MOST_CHARACTERS = 2047  # COMMAND_LINE_SIZE of arm64 (include/uapi/asm/setup.h) without the final NUL
_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')


@dataclass(frozen=True, slots=True, kw_only=True)
class CmdlineEdit:
    """What to change: words to take away, keys with their values (all of them), words to have."""

    remove: Sequence[str] = ()
    set: Mapping[str, Sequence[str]] = field(default_factory=dict)
    add: Sequence[str] = ()


def split(text: str) -> list[str]:
    """Return the words of a command line. A file of several lines counts as one."""
    return _WORD.findall(text)


def key_of(word: str) -> str:
    """Return the key of a word as the kernel compares it."""
    return word.partition("=")[0].replace("-", "_")


def edit(text: str, change: CmdlineEdit) -> str:
    """Return the edited text: one line with a line feed, the untouched words in their order.

    First `remove` (a bare key takes every word of that key, `key=value` that word), then `set` (in the place of the
    key's first word, else at the end, one word for each value), then `add` (at the end, unless it is there). Editing
    twice is editing once, as long as no key is both removed and set or added.
    """
    words = split(text)
    stop = words.index("--") if "--" in words else len(words)
    kernel, for_init = words[:stop], words[stop:]
    kernel = [word for word in kernel if not any(_is_meant(word, removed) for removed in change.remove)]
    for key, values in change.set.items():
        kernel = _set(kernel, key, [f"{key}={value}" for value in values])
    for word in change.add:
        if word not in kernel:
            kernel.append(word)
    return " ".join([*kernel, *for_init]) + "\n"


def _is_meant(word: str, removed: str) -> bool:
    return word == removed if "=" in removed else key_of(word) == key_of(removed)


def _set(words: list[str], key: str, wanted: list[str]) -> list[str]:
    places = [index for index, word in enumerate(words) if key_of(word) == key_of(key)]
    first = places[0] if places else len(words)
    return [*words[:first], *wanted, *(word for word in words[first:] if key_of(word) != key_of(key))]
