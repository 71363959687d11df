"""Where a distribution's packages come from: this machine's own apt configuration, else the bootstrap tool's default.

pibuild names no archive itself. What a published image asks for updates is always the bootstrap tool's default, so that
an image does not depend on the machine that built it.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from builder.errors import HostError
from builder.host.cache import Cache
from builder.host.scratch import temporary
from builder.packages.machine import asked
from builder.packages.source import Source
from builder.run import find_tool, run

_KEYRINGS = {
    "debian": (Path("/usr/share/keyrings/debian-archive-keyring.gpg"), "debian-archive-keyring"),
    "ubuntu": (Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"), "ubuntu-keyring"),
}
_OWN = {  # components
    "debian": ("main", "contrib", "non-free", "non-free-firmware"),
    "ubuntu": ("main", "restricted", "universe", "multiverse"),
}
_ONE_LINE = re.compile(r"^deb (?:\[[^]]*\] )?(?P<uri>\S+) (?P<suite>\S+) ", re.MULTILINE)
_SHOW_SOURCES = 'cat "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*.list 2>/dev/null; exit 1'


def find_keyring(distribution: str) -> Path:
    """Return the host's keyring for a distribution's archive. Raises HostError naming the package that has it."""
    keyring, package = _KEYRINGS[distribution]
    if not keyring.exists():
        raise HostError(
            f"{keyring} is missing: packages of {distribution} cannot be verified",
            hint=f"sudo apt-get install {package}, or name a keyring in the recipe's bootstrap",
        )
    return keyring


def candidate_sources(
    distribution: str, suite: str, components: Sequence[str], *, mirror: str, keyring: Path, cache: Cache
) -> Iterator[tuple[Source, ...]]:
    """Yield the sets of sources to try in turn for a suite. An explicit mirror is the only one there is.

    The bootstrap tool is asked for its default only where the machine's own sources have been of no use.
    """
    if mirror != "auto":
        yield (Source(uris=mirror, suites=(suite,), components=tuple(components), keyring=keyring),)
        return
    if own := _machine_pairs(distribution, suite, cache):
        yield _sources(own, components, keyring)
    if default := default_pairs(suite):
        yield _sources(default, components, keyring)


def _sources(pairs: Sequence[tuple[str, str]], components: Sequence[str], keyring: Path) -> tuple[Source, ...]:
    suites: dict[str, list[str]] = {}
    for uri, suite in pairs:
        suites.setdefault(uri, []).append(suite)
    return tuple(
        Source(uris=uri, suites=tuple(dict.fromkeys(names)), components=tuple(components), keyring=keyring)
        for uri, names in suites.items()
    )


def _machine_pairs(distribution: str, suite: str, cache: Cache) -> list[tuple[str, str]]:
    """Return (URI, suite) for a suite where the machine's own sources serve its distribution, else nothing.

    Ubuntu keeps arm64 in another archive than amd64, so there only an arm64 machine's sources count.
    """
    release = dict(
        re.findall(r'^(ID|VERSION_CODENAME)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.MULTILINE)
    )
    own = release.get("VERSION_CODENAME", "")
    if release.get("ID") != distribution or not own or (distribution == "ubuntu" and platform.machine() != "aarch64"):
        return []
    fields = "$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(ORIGIN)"
    listed = asked(cache, "apt-get", ["indextargets", "--format", fields, "Identifier: Packages"])
    mirrors = own_mirrors(listed, distribution, own)
    return [(uri, name.replace(own, suite, 1)) for uri, name in mirrors]


def own_mirrors(listed: str, distribution: str, release: str) -> list[tuple[str, str]]:
    """Return (URI, suite) of the sources that are mirrors of the distribution itself, of those that apt lists.

    A line has URI, suite, component and origin, parted by tabs. Anybody may call a suite as the release is called
    (Docker does): a mirror has the distribution's components, and its origin where the release file is here to say.
    """
    found = []
    for line in listed.splitlines():
        uri, suite, component, origin = line.split("\t")
        known = origin.lower() == distribution or origin in ("", "$(ORIGIN)")
        if known and component in _OWN[distribution] and re.fullmatch(rf"{release}(-updates|-security)?", suite):
            found.append((uri.rstrip("/"), suite))
    return list(dict.fromkeys(found))


def default_pairs(suite: str) -> list[tuple[str, str]]:
    """Return (URI, suite) pairs as mmdebstrap would write them for an arm64 suite. Raises HostError without it."""
    tool = find_tool("mmdebstrap", package="mmdebstrap")
    with temporary("mirrors") as directory:
        said = run(
            [
                tool,
                "--mode=chrootless",
                "--variant=extract",
                "--arch=arm64",
                f"--setup-hook={_SHOW_SOURCES}",
                suite,
                f"{directory}/root",
            ],
            check=False,
            merge=True,  # a hook's standard output is where the tool's own messages go
        ).stdout
    return [(match["uri"], match["suite"]) for match in _ONE_LINE.finditer(said)]


def image_sources(distribution: str, suite: str, components: Sequence[str], *, more: Sequence[str] = ()) -> str:
    """Return the deb822 text for an image's own /etc/apt/sources.list.d: the defaults, whatever mirror built it.

    `more` are further suites of the archive that has the first.
    """
    keyring = _KEYRINGS[distribution][0]
    pairs = default_pairs(suite)
    archives = [uri for uri, name in pairs if name == suite]
    stanzas = _sources([*pairs, *((uri, name) for uri in archives for name in more)], components, keyring)
    return "\n".join(
        f"Types: deb\nURIs: {source.uris}\nSuites: {' '.join(source.suites)}\n"
        f"Components: {' '.join(source.components)}\nSigned-By: {source.keyring}\n"
        for source in stanzas
    )
