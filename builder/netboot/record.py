"""The records of nodes' roots: how each was made, and what its node booted before.

    state/.roots/NODE/NAME.json   about a root; the file's time is when the root was left
    held/NODE                     the name of the root that a node went back to and is to stay with

Neither is exported: a node writes in its roots as it likes, and what is read here decides what its board boots. Earlier
versions kept records beside the roots, where a node writes; `bring_over` takes from there, once, what can be
checked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from builder.errors import HostError
from builder.host.confine import is_directory, is_there, read_in

Way = Literal["copy", "reflink", "snapshot", "shared"]
_NAME = re.compile(r"(?P<generation>[0-9a-f]{12})-[0-9a-f]{4,64}")
_NODE = re.compile(r"[a-z0-9]([a-z0-9-]{0,62})")
_LARGEST = 1 << 16  # bytes of a record; one has a few hundred
_LATEST = 1 << 40  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """About a root: the generation that it is made of, how, and when (seconds); what the node booted before it.

    `former` is what the node was called before it was renamed. "" stands for what there is not.
    """

    generation: str
    way: Way
    made: int = 0
    previous: str = ""
    former: str = ""


def is_root_name(name: str) -> bool:
    """Return whether a root can have that name: DIGEST-KEY, both hex digits."""
    return _NAME.fullmatch(name) is not None


def read_record(records: Path, node: str, name: str) -> Record | None:
    """Return what is on record about a root, None where nothing is. Raises HostError for what is no record."""
    if not is_root_name(name):
        return None
    path = records / node / f"{name}.json"
    text = read_in(path.parent, path.name, limit=_LARGEST)
    if text is None and not is_there(path):
        return None
    record = _parsed(name, text or b"")
    if record is None:
        raise HostError(f"{path} is no record of a root", hint=f"sudo rm {path}; sudo pibuild explode --node {node}")
    return record


def record_text(record: Record) -> bytes:
    """Return a record as it is written."""
    return json.dumps(asdict(record), indent=1).encode() + b"\n"


def bring_over(roots: Path, into: Path) -> Iterator[Path]:
    """Write below `into` what earlier versions' records beside the roots say; yield those that were taken.

    A node could write there. What a record says of its own root is taken where it fits the root's name, `previous`
    where it is a root of the same node. What a node was called before it was renamed is not: that decides whose kept
    data it gets.
    """
    for home in sorted(path for path in roots.iterdir() if is_directory(path)):
        if not _NODE.fullmatch(home.name):
            continue
        for path in sorted(home.glob("*.json")):
            name = path.name.removesuffix(".json")
            text = read_in(home, path.name, limit=_LARGEST) if is_root_name(name) else None
            record = _parsed(name, text) if text is not None else None
            if record is None:
                continue
            there = is_root_name(record.previous) and is_directory(home / record.previous)
            kept = into / home.name / path.name
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(record_text(replace(record, former="", previous=record.previous if there else "")))
            left = path.lstat().st_mtime
            os.utime(kept, (left, left))
            yield path


def _parsed(name: str, text: bytes) -> Record | None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not said.keys() <= {field.name for field in fields(Record)}:
        return None
    generation, way, made = said.get("generation"), said.get("way"), said.get("made", 0)
    previous, former = said.get("previous", ""), said.get("former", "")
    fits = (
        generation == name.partition("-")[0]
        and way in get_args(Way)
        and type(made) is int
        and 0 <= made < _LATEST
        and isinstance(previous, str)
        and (previous == "" or is_root_name(previous))
        and isinstance(former, str)
        and (former == "" or _NODE.fullmatch(former))
    )
    return Record(**said) if fits else None
