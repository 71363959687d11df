"""Check with one request a release file whether an archive still serves the package lists that are here.

`apt-get update` does the same and a second's work around it. What is here was verified by apt: as long as the archive
serves the very release files that apt verified, with the same keys, and they have not expired, there is nothing to do.
Whatever else it says, or where it is asked another way (a proxy, a scheme other than HTTP), apt is run.
"""

from __future__ import annotations

import email.utils
import http.client
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from builder.errors import PibuildError
from builder.host.cache import read_json, write_json
from builder.host.hashing import file_digest
from builder.packages.source import Source, list_name

_PATIENCE = 5.0  # seconds; whoever does not answer by then is asked by apt, which says so
_VALID_UNTIL = re.compile(rb"^Valid-Until: (.*)$", re.MULTILINE)
_NOTE = "current.json"


def note_current(directory: Path, sources: Sequence[Source]) -> None:
    """Note that the lists in apt's directory have just been brought up to date."""
    write_json(directory / _NOTE, _seen(directory, sources))


def is_current(directory: Path, sources: Sequence[Source]) -> bool:
    """Return whether the lists are as apt left them, have not expired, and are what the archive serves."""
    try:
        if read_json(directory / _NOTE) != _seen(directory, sources):
            return False
        return all(_is_served(url, path) for url, path in list(_release_files(directory, sources)))
    except (OSError, http.client.HTTPException, PibuildError, LookupError, ValueError, TypeError):
        return False


def _seen(directory: Path, sources: Sequence[Source]) -> Mapping[str, object]:
    """Return what apt had before it and what it left: its configuration, the keys, and the lists."""
    left = sorted(path for path in (directory / "lists").iterdir() if path.is_file() and path.name != "lock")
    return {
        "configuration": file_digest(directory / "apt.conf"),
        "keys": [_stamp(source.keyring) for source in sources],
        "lists": [_stamp(path) for path in left],
    }


def _stamp(path: Path) -> list[object]:
    facts = path.stat()
    return [str(path), facts.st_ino, facts.st_mtime_ns, facts.st_size]


def _release_files(directory: Path, sources: Sequence[Source]) -> Iterator[tuple[str, Path]]:
    """Yield the address and the place of every release file. Raises LookupError for one that apt asks otherwise."""
    if re.search(r"^Acquire::(http|https|ftp)::", (directory / "apt.conf").read_text(), re.MULTILINE):
        raise LookupError
    for source in sources:
        for uri in source.uris.split():
            for suite in source.suites:
                if urlsplit(uri).scheme not in ("http", "https") or urlsplit(uri).query:
                    raise LookupError
                yield (
                    f"{uri.rstrip('/')}/{suite if suite.endswith('/') else f'dists/{suite}/'}InRelease",
                    directory / "lists" / f"{list_name(uri, suite)}InRelease",
                )


def _is_served(url: str, path: Path) -> bool:
    content = path.read_bytes()
    until = _VALID_UNTIL.search(content)
    if until and email.utils.parsedate_to_datetime(until[1].decode()).timestamp() <= time.time():
        return False
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=_PATIENCE)
    try:
        since = email.utils.formatdate(os.stat(path).st_mtime, usegmt=True)  # noqa: PTH116 - apt gives it the server's
        connection.request("GET", address.path, headers={"If-Modified-Since": since, "Cache-Control": "max-age=0"})
        answer = connection.getresponse()
        if answer.status == http.client.NOT_MODIFIED:
            return True
        return answer.status == http.client.OK and answer.read(len(content) + 1) == content
    finally:
        connection.close()
