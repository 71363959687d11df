"""How a run ends early, and what it says."""

from __future__ import annotations


class FailedError(Exception):
    """What ends a run for one model; a later run may succeed."""


class InterruptedTransferError(Exception):
    """A turn of the retry loop. `wait` is the seconds the server asked for; `restart` that it cannot go on."""

    def __init__(self, why: str, *, wait: float = 0.0, restart: bool = False) -> None:
        super().__init__(why)
        self.wait = wait
        self.restart = restart


def say(text: str) -> None:
    """Print a line, for the journal."""
    print(text, flush=True)
