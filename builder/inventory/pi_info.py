"""Nodes that are not in cluster.yaml yet: what a new one is, and the lab's pi_info.txt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from builder.errors import InputError, Mark, Problem
from builder.host.named_file import read_named
from builder.inventory.names import READ_MAC, READ_SERIAL, hostname, mac_of, serial_of

_COLUMNS = ("name", "MAC address", "serial number", "IP address")  # the lab's documentation, 3.4.1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewNode:
    """A node to add. `fields` are what its entry gets beyond the four, in that order: role, port, groups, and so on."""

    name: str
    serial: str
    mac: str
    address: str
    fields: Mapping[str, object]
    mark: Mark | None = None

    def entry(self) -> dict[str, object]:
        """Return the entry as it will be read back."""
        return {"name": self.name, "serial": self.serial, "mac": self.mac, "address": self.address, **self.fields}


def import_pi_info(path: Path, *, role: str = "worker") -> tuple[NewNode, ...]:
    """Read the lab's pi_info.txt: a line a node, `NAME MAC SERIAL IP`, split by blanks; `#` starts a comment.

    A line ends at a line feed alone; a mark of the byte order, as Windows' editors put it first, is passed over.

    Raises InputError with every line that is wrong.
    """
    try:
        lines = read_named(path).decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(Problem(message=f"{path}: {str(reason).lower()}")) from error
    nodes: list[NewNode] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        mark = Mark(file=path, line=number, column=1)
        if len(words) == len(_COLUMNS):
            name, mac, serial, address = words
            nodes.append(NewNode(name=name, mac=mac, serial=serial, address=address, fields={"role": role}, mark=mark))
            problems += _wrong_in(nodes[-1])
        elif words:
            message = f"{len(words)} columns; a line has {len(_COLUMNS)}: {', '.join(_COLUMNS)}"
            problems.append(Problem(message=message, mark=mark))
    if problems:
        raise InputError(*problems)
    return tuple(nodes)


def _wrong_in(node: NewNode) -> list[Problem]:
    """Return what is wrong with the form of a line's words."""
    checks: tuple[tuple[str, str, Callable[[str], object], str], ...] = (
        ("name", node.name, hostname, "letters, digits and hyphens"),
        ("mac", node.mac, mac_of, READ_MAC),
        ("serial", node.serial, serial_of, READ_SERIAL),
        ("address", node.address, IPv4Address, "like 192.168.2.20"),
    )
    problems = []
    for what, written, check, hint in checks:
        try:
            check(written)
        except ValueError as error:
            reason = "it makes no host name" if what == "name" else str(error)
            problems.append(
                Problem(message=f"node {node.name}: {what} '{written}': {reason}", mark=node.mark, hint=hint)
            )
    return problems
