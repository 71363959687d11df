"""Inventories for tests: the lab's, in variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

DYNAMIC = ("  pools:\n", "  pools:\n    dynamic: 192.168.2.100-192.168.2.109\n")  # a pool for others than nodes
LAB = Path(__file__).parents[1] / "cluster.yaml"


def variant(
    directory: Path,
    *,
    dhcp: str = "isc-dhcp",
    tftp: str = "tftpd-hpa",
    nfs: str = "kernel",
    shared: Sequence[str] = (),
    changes: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write the lab's inventory with other servers. Returns the file.

    Nodes in `shared` have a shared root and keep /var/lib/kept. `changes` are texts and what takes their
    place.
    """
    text = LAB.read_text()
    for old, new in (
        ("dhcp: {server: isc-dhcp", f"dhcp: {{server: {dhcp}"),
        ("tftp: {server: tftpd-hpa", f"tftp: {{server: {tftp}"),
        ("nfs: {server: kernel", f"nfs: {{server: {nfs}"),
        *((f"{{name: {name}, ", f"{{name: {name}, root: shared, persist: [/var/lib/kept], ") for name in shared),
        *changes,
    ):
        assert old in text, f"cluster.yaml has no {old!r} any more"
        text = text.replace(old, new)
    path = directory / "cluster.yaml"
    path.write_text(text)
    return path
