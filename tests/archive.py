"""A package archive in a directory, signed, for what apt is told and what it answers. Package files are never there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from builder.packages.source import Source
from tests.signing import Signer

_DATE = "%a, %d %b %Y %H:%M:%S UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Suites below a directory, served as `file:`."""

    root: Path
    key: Signer

    def source(self, *suites: str) -> Source:
        return Source(uris=f"file:{self.root}", suites=suites, components=("main",), keyring=self.key.keyring)

    def write(
        self,
        suite: str,
        packages: Mapping[str, tuple[str, str]],
        *,
        backports: bool = False,
        made: timedelta = timedelta(hours=-1),
        valid: timedelta = timedelta(days=1),
        signed: bool = True,
    ) -> None:
        """Write a suite with packages: name to (version, what it depends on). Times count from now."""
        here = self.root / "dists" / suite
        index = here / "main/binary-arm64/Packages"
        index.parent.mkdir(parents=True)
        index.write_text("\n".join(_stanza(name, *said) for name, said in packages.items()))
        digest, now = hashlib.sha256(index.read_bytes()).hexdigest(), datetime.now(UTC)
        lines = [
            "Origin: Debian",
            f"Suite: {'stable-backports' if backports else 'stable'}",
            f"Codename: {suite}",
            f"Date: {(now + made).strftime(_DATE)}",
            f"Valid-Until: {(now + valid).strftime(_DATE)}",
            *(["NotAutomatic: yes", "ButAutomaticUpgrades: yes"] if backports else []),
            "Architectures: arm64 amd64",
            "Components: main",
            f"SHA256:\n {digest} {index.stat().st_size} main/binary-arm64/Packages",
        ]
        (here / "Release").write_text("".join(f"{line}\n" for line in lines))
        if signed:
            self.key.sign(here / "Release", here / "Release.gpg", "--armor")  # apt takes no other


def _stanza(name: str, version: str, depends: str) -> str:
    digest = hashlib.sha256(f"{name}{version}".encode()).hexdigest()
    need = f"Depends: {depends}\n" if depends else ""
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: arm64\nMaintainer: Nobody <nobody@example.org>\n{need}"
        f"Filename: pool/{name}_{version}.deb\nSize: 1000\nSHA256: {digest}\n"
    )
