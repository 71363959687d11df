"""Read dpkg's database of installed packages, /var/lib/dpkg/status (deb-control(5), dpkg-query(1))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

STATUS = "/var/lib/dpkg/status"
_SIZE = re.compile(r"[0-9]{1,12}")  # KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An installed package. `size` is its own estimate of what it takes, in bytes; `source` the source package's name.

    `state` is the third word of its Status, `installed` when all is well.
    """

    name: str
    version: str
    architecture: str
    size: int
    source: str
    source_version: str
    state: str = "installed"


def parse_status(text: str) -> tuple[Package, ...]:
    """Return the packages of a status file by name and architecture.

    Those of which only the configuration is left, or nothing, are none; half-installed ones are, with their state.
    """
    packages = []
    for fields in paragraphs(text):
        state = fields.get("status", "").split()[-1:]
        if "package" not in fields or not state or state[0] in ("config-files", "not-installed"):
            continue
        name, version = fields["package"], fields.get("version", "")
        source = re.fullmatch(r"(\S+)(?: \((\S+)\))?", fields.get("source", name))
        packages.append(
            Package(
                name=name,
                version=version,
                architecture=fields.get("architecture", ""),
                size=int(fields["installed-size"]) * 1024 if _SIZE.fullmatch(fields.get("installed-size", "")) else 0,
                source=source[1] if source else name,
                source_version=(source[2] if source else None) or version,
                state=state[0],
            )
        )
    return tuple(sorted(packages, key=lambda package: (package.name, package.architecture)))


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Yield the paragraphs of a deb822 text: field names in lower case, the first line of each value."""
    for paragraph in re.split(r"\n[ \t]*\n", text):
        fields = {}
        for line in paragraph.splitlines():
            name, colon, value = line.partition(":")
            if colon and name and not line[0].isspace():
                fields[name.lower()] = value.strip()
        if fields:
            yield fields
