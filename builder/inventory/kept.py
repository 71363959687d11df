"""A cache of checked inventories, valid until the file changes: commands start three times faster.

What is kept counts for the very text of the file, under the very path, and for the modules that read it: the times of
their files are noted beside it. It lies in a directory that nobody else can write in, else it does not count; nothing
in it is ever run. A few files are all there will be: inventories share them by their paths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import MappingProxyType
from typing import Any

from builder import __version__
from builder.errors import InputError, Mark
from builder.host.named_file import read_named
from builder.inventory import choices
from builder.inventory.names import AddressRange
from builder.inventory.nodes import Inventory, Node
from builder.inventory.settled import Settled

_FILES = 64
_LARGEST = 64 << 20  # bytes
_ELSE_S = 0o022  # writable for others
_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_TUPLES = ("aliases", "groups", "persist", "cmdline")
_MAPPINGS = ("labels", "models")
_SETTLED = ""  # the one key of a mapping that stands for settings


def text_of(path: Path) -> str:
    """Return the text of an inventory, "" where a full reading has something to say of it."""
    with contextlib.suppress(OSError, InputError, UnicodeDecodeError):
        return read_named(path).decode()
    return ""


def find(path: Path, text: str) -> Inventory | None:
    """Return what is kept of an inventory with this text, None where nothing is or nothing that counts."""
    if not text:
        return None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        kept = json.loads(_read(path), object_hook=_settings)
        if kept["of"] == _question(path, text) and all(_stamp(file) == seen for file, seen in kept["code"].items()):
            return _inventory(path, kept["inventory"])
    return None


def keep(path: Path, text: str, inventory: Inventory) -> None:
    """Keep an inventory, as far as there is a place for it; the next command does without where there is none."""
    modules = (getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("builder"))
    code = {file: _stamp(file) for file in modules if file}
    kept = {"of": _question(path, text), "code": code, "inventory": _told(inventory)}
    content = json.dumps(kept, default=_plain, separators=(",", ":")).encode()
    with contextlib.suppress(OSError), _directory(make=True) as directory:
        new = f"{_name(path)}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.rename(new, _name(path), src_dir_fd=directory, dst_dir_fd=directory)


# ------------------------------------------------------------------------------------------------------------ the place


def _place() -> Path:
    """Return the directory: below $PIBUILD_CACHE, else root's cache, else the user's own."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - there may be no home
    cache = "/var/cache/pibuild" if os.geteuid() == 0 else f"{home}/pibuild"
    return Path(os.environ.get("PIBUILD_CACHE", cache)).absolute() / "inventories"


@contextlib.contextmanager
def _directory(*, make: bool = False) -> Iterator[int]:
    """Hold the directory open. Raises OSError where there is none, or others could have written what lies there."""
    place = _place()
    if make:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | _OPEN)
    try:
        _require_own(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _require_own(descriptor: int) -> None:
    facts = os.fstat(descriptor)
    if facts.st_uid != os.geteuid() or facts.st_mode & _ELSE_S:
        raise PermissionError


def _name(path: Path) -> str:
    return f"{zlib.crc32(os.fsencode(path.absolute())) % _FILES:02}.json"


def _read(path: Path) -> bytes:
    with _directory() as directory:
        descriptor = os.open(_name(path), os.O_RDONLY | _OPEN, dir_fd=directory)
        with os.fdopen(descriptor, "rb") as file:
            _require_own(descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PermissionError
            return file.read(_LARGEST)


def _stamp(file: str) -> list[int]:
    facts = os.stat(file)  # noqa: PTH116 - some dozens in each start
    return [facts.st_mtime_ns, facts.st_size]


def _question(path: Path, text: str) -> list[str]:
    servers = [name for kind in choices.FOLDERS for name in choices.servers(kind)]
    return [__version__, sys.version, str(path), str(path.absolute()), text, *servers]


# ------------------------------------------------------------------------------------------------- as JSON, and back


def _told(inventory: Inventory) -> dict[str, object]:
    fields = {field.name: getattr(inventory, field.name) for field in dataclasses.fields(inventory)}
    nodes = [{field.name: getattr(node, field.name) for field in dataclasses.fields(node)} for node in inventory.nodes]
    return {**fields, "nodes": nodes}


def _plain(value: Any) -> object:
    if isinstance(value, Settled):
        return {_SETTLED: vars(value)}
    if isinstance(value, Mark):
        return [value.line, value.column]
    return dict(value) if isinstance(value, MappingProxyType) else str(value)


def _settings(mapping: dict[str, Any]) -> Any:
    inner = mapping.get(_SETTLED)
    return Settled(**inner) if isinstance(inner, dict) and len(mapping) == 1 else mapping


def _inventory(path: Path, told: dict[str, Any]) -> Inventory:
    ranges = {name: [IPv4Address(end) for end in text.split("-")] for name, text in told["pools"].items()}
    line, column = told["subnet_mark"]
    return Inventory(
        path=path,
        cluster=told["cluster"],
        subnet=IPv4Network(told["subnet"]),
        gateway=IPv4Address(told["gateway"]),
        dns=tuple(map(IPv4Address, told["dns"])),
        pools=MappingProxyType({name: AddressRange(first=ends[0], last=ends[-1]) for name, ends in ranges.items()}),
        groups=tuple(told["groups"]),
        subnet_mark=Mark(file=path, line=line, column=column),
        nodes=tuple(_node(path, fields) for fields in told["nodes"]),
    )


def _node(path: Path, fields: dict[str, Any]) -> Node:
    line, column = fields["mark"]
    changes: dict[str, Any] = {name: tuple(fields[name]) for name in _TUPLES}
    changes |= {name: MappingProxyType(fields[name]) for name in _MAPPINGS}
    changes |= {"address": IPv4Address(fields["address"]), "mark": Mark(file=path, line=line, column=column)}
    return Node(**{**fields, **changes})
