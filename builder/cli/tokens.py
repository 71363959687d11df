"""What the commands that print a node's token share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.options import tell

if TYPE_CHECKING:
    from builder.netboot.layout import Netboot


@contextlib.contextmanager
def held_netboot(dest: Path | None, configured: str) -> Iterator[Netboot]:
    """Hold the directory that nodes boot from; one that the inventory names is begun.

    Raises InputError for a `--dest` that is none: what is made there, a token for one, would open nothing elsewhere.
    """
    from builder.netboot.layout import Netboot

    netboot = Netboot((dest or Path(configured)).absolute())
    with netboot.locked(begin=dest is None):
        yield netboot


def seen_netboot(dest: Path | None, configured: str) -> Netboot:
    """Return the directory that nodes boot from, for a dry run. Raises InputError as `held_netboot` does."""
    from builder.netboot.layout import Netboot

    netboot = Netboot((dest or Path(configured)).absolute())
    if dest is not None:
        netboot.require()
    return netboot


def tell_of_token(node: str, file: Path, *, as_json: bool) -> None:
    """Say whether a token is there or would be made; not the token."""
    there = file.is_file()
    facts = {"node": node, "file": file, "there": there, "dry_run": True}
    tell(facts, f"{file} {'is there' if there else 'would be made'}", as_json=as_json)
