"""Where packages come from: an archive, what is wanted of it, and who signs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One deb822 source: an archive, the suites and components wanted, and the keyring that signs it."""

    uris: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    keyring: Path

    def deb822(self, architecture: str) -> str:
        """Return the stanza for a .sources file."""
        return (
            f"Types: deb\nURIs: {self.uris}\nSuites: {' '.join(self.suites)}\nComponents: {' '.join(self.components)}\n"
            f"Architectures: {architecture}\nSigned-By: {self.keyring}\n"
        )


def list_name(uri: str, suite: str) -> str:
    """Return how apt begins the names of the lists of a suite: the address without its scheme, `/` as `_`."""
    place = uri.partition(":")[2].removeprefix("//").rstrip("/")
    path = f"{place}/{suite.strip('/')}/" if suite.endswith("/") else f"{place}/dists/{suite}/"
    return path.replace("_", "%5f").replace("/", "_")
