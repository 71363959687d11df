"""Throw-away OpenPGP keys for tests."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.run import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A key and the keyrings that hold its public half."""

    home: Path
    keyring: Path  # binary
    armored: Path

    def sign(self, file: Path, signature: Path, *options: str) -> Path:
        run(["gpg", *self._options(), *options, "--yes", "--output", signature, "--detach-sign", file], env=self._env())
        return signature

    def _options(self) -> list[str]:
        return ["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]

    def _env(self) -> dict[str, str]:
        return {"GNUPGHOME": str(self.home)}


@contextlib.contextmanager
def signer(name: str, *, expires: str = "never", kind: str = "ed25519") -> Iterator[Signer]:
    """Make a key for the time of the block; its agent ends with it. The home's path is short: sockets live in it."""
    with tempfile.TemporaryDirectory(prefix="pgp-") as directory:
        home = Path(directory)
        made = Signer(home=home, keyring=home / "keyring.gpg", armored=home / "keyring.asc")
        env = {"GNUPGHOME": directory}
        try:
            address = f"{name} <{name}@example.invalid>"
            run(["gpg", *made._options(), "--quick-gen-key", address, kind, "sign", expires], env=env)
            run(["gpg", *made._options(), "--output", made.keyring, "--export"], env=env)
            run(["gpg", *made._options(), "--armor", "--output", made.armored, "--export"], env=env)
            yield made
        finally:
            run(["gpgconf", "--kill", "all"], env=env)
