"""A software bill of materials in SPDX 2.3 JSON, from the package database of a tree."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from builder import __version__
from builder.host.named_file import text_in
from builder.packages.dpkg_status import STATUS, Package, parse_status

_NONE = "NOASSERTION"

Checksums = Mapping[tuple[str, str, str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the bill is of: the image's name, the SHA-256 that names this version of it, its time.

    `checksums` has the SHA-256 of package files by (name, version, architecture) as far as the lock knows them.
    """

    name: str
    digest: str
    epoch: int
    checksums: Checksums = field(default_factory=dict)


def make_sbom(tree: Path, subject: Subject) -> str:
    """Return the bill of what dpkg says is installed in a tree. A tree without dpkg has an empty bill."""
    installed = parse_status(text_in(tree, STATUS))
    release = _os_release(tree)
    packages = [_package(package, subject.checksums, release) for package in installed]
    names = [str(package["SPDXID"]) for package in packages]
    listed = hashlib.sha256(json.dumps(packages, sort_keys=True).encode()).hexdigest()
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{quote(subject.name)}-{subject.digest[:16]}-{listed[:16]}",
        "creationInfo": {
            "created": datetime.fromtimestamp(subject.epoch, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: pibuild-{__version__}"],
        },
        "packages": [_image(subject), *packages],
        "relationships": [
            _relationship("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image"),
            *(_relationship("SPDXRef-Image", "CONTAINS", name) for name in names),
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _image(subject: Subject) -> dict[str, object]:
    return {
        "SPDXID": "SPDXRef-Image",
        "name": subject.name,
        "versionInfo": subject.digest[:12],
        "packageFileName": f"{subject.name}.img",
        "primaryPackagePurpose": "OPERATING_SYSTEM",
        "checksums": [{"algorithm": "SHA256", "checksumValue": subject.digest}],
        **_unsaid(),
    }


def _package(package: Package, checksums: Checksums, release: Mapping[str, str]) -> dict[str, object]:
    known = checksums.get((package.name, package.version, package.architecture))
    return {
        "SPDXID": f"SPDXRef-Package-{_identifier(f'{package.name}-{package.version}-{package.architecture}')}",
        "name": package.name,
        "versionInfo": package.version,
        "sourceInfo": f"built from: {package.source} {package.source_version}",
        **({"checksums": [{"algorithm": "SHA256", "checksumValue": known}]} if known else {}),
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl(package, release),
            }
        ],
        **_unsaid(),
    }


def _unsaid() -> dict[str, object]:
    return {
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "licenseConcluded": _NONE,
        "licenseDeclared": _NONE,
        "copyrightText": _NONE,
    }


def purl(package: Package, release: Mapping[str, str]) -> str:
    """Return the package URL, `pkg:deb/debian/bash@5.2-1?arch=arm64&distro=debian-13` (purl-spec, type deb)."""
    vendor = release.get("ID", "debian")
    distribution = f"&distro={vendor}-{release['VERSION_ID']}" if "VERSION_ID" in release else ""
    version = quote(package.version, safe=":~")
    return f"pkg:deb/{vendor}/{quote(package.name, safe='')}@{version}?arch={package.architecture}{distribution}"


def _os_release(tree: Path) -> dict[str, str]:
    """Return the fields of os-release(5)."""
    found = re.findall(r"^([A-Z_]+)=[\"']?(.*?)[\"']?$", text_in(tree, "/etc/os-release"), re.MULTILINE)
    return dict(found)


def _identifier(text: str) -> str:
    """Return letters, digits, dots and dashes alone, different for different texts (SPDX 2.3, clause 7.2)."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda found: f"-{ord(found[0]):x}-", text)


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
