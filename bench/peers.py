"""Other builders on the same task, as far as they are installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.builds import Result
from bench.measure import measure
from builder import console
from builder.run import find_tool

SUITE = "trixie"
PACKAGES = (
    "linux-image-arm64",
    "openssh-server",
    "prometheus-node-exporter",
    "raspi-firmware",
    "restic",
    "systemd-sysv",
)


def bootstrap_by_hand(directory: Path) -> Result:
    """Run mmdebstrap and mke2fs in a row: the least that a script without cache, lock or fixed result needs.

    The host's own archive serves; the programs of the image run under the host's registered qemu-user handler.
    """
    directory.mkdir(parents=True, exist_ok=True)
    archive, image = directory / "root.tar", directory / "root.ext4"
    argv: list[str | Path] = [
        find_tool("mmdebstrap", package="mmdebstrap"),
        "--architectures=arm64",
        "--components=main,non-free-firmware",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        archive,
    ]
    made = measure(argv)
    root = directory / "root"
    root.mkdir()
    unpacked = measure(["tar", "-C", root, "-xf", archive, "--numeric-owner"])
    written = measure([find_tool("mke2fs", package="e2fsprogs"), "-q", "-t", "ext4", "-d", root, image, "4G"])
    return Result(
        name="mmdebstrap and mke2fs",
        seconds=made.seconds + unpacked.seconds + written.seconds,
        memory=max(made.memory, unpacked.memory, written.memory),
        note=f"{SUITE} with {len(PACKAGES)} packages, no layers, not reproducible",
    )


def results(directory: Path) -> Iterator[Result]:
    """Measure every peer."""
    with console.progress("mmdebstrap and mke2fs"):
        result = bootstrap_by_hand(directory)
    yield result
