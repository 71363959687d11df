"""The simulated bootloader against real TFTP servers: each must serve, and refuse, what the directory is judged by."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from builder.firmware.boot_files import DirectoryTree, ServerTree
from builder.firmware.simulate import BootReport, Eeprom, simulate
from builder.host import tftp_client as tftp
from builder.run import find_tool, spawn

pytestmark = pytest.mark.waits

SERIAL = "c0a3cab4"
PORT = 69


def _plant(root: Path) -> None:
    root.chmod(0o755)
    directory = root / "nodes" / "yellow3"
    (directory / "overlays").mkdir(parents=True)
    (root / SERIAL).symlink_to("nodes/yellow3")  # as the lab does, but inside the root
    config = "kernel=vmlinuz\ninitramfs initrd.img followkernel\ndtoverlay=a\ndtoverlay=none\n"
    texts = {"config.txt": config, "cmdline.txt": "root=/dev/nfs ip=dhcp\n", "overlays/a.dtbo": "overlay"}
    texts |= {name: name for name in ("start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb")}
    for name, text in texts.items():
        (directory / name).write_text(text)
    (directory / "vmlinuz").write_bytes(bytes(range(256)) * 20_000)
    (directory / "initrd.img").write_bytes(b"i" * (1468 * 100))  # a whole number of blocks: the last one is empty


@contextmanager
def _server(kind: str, root: Path) -> Iterator[ServerTree]:
    address = {"dnsmasq": "127.0.0.69", "tftpd-hpa": "127.0.0.70"}[kind]
    if kind == "dnsmasq":
        tool = find_tool("dnsmasq", package="dnsmasq-base")
        options = ["--no-daemon", "--conf-file=/dev/null", "--port=0", "--enable-tftp", f"--tftp-root={root}"]
        argv: list[str | Path] = [
            tool,
            *options,
            f"--listen-address={address}",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
        ]
    else:
        tool = find_tool("in.tftpd", package="tftpd-hpa")
        argv = [tool, "--foreground", "--listen", "--address", f"{address}:{PORT}", "--secure", str(root)]
    with ExitStack() as stack:
        stack.enter_context(spawn(argv))
        tree = ServerTree(host=address, timeout=2)
        until = time.monotonic() + 10
        while tree.probe("up").outcome == "failed":
            assert time.monotonic() < until, f"{kind} does not answer"
        yield tree


def _chain(report: BootReport) -> list[tuple[str, str]]:
    return [(asked.name, asked.outcome) for asked in report.requests]


@pytest.mark.root
@pytest.mark.parametrize("kind", ["dnsmasq", "tftpd-hpa"])
@pytest.mark.parametrize("block_size", [1024, 1468])
def test_a_board_boots_from_a_real_server_as_from_the_directory(tmp_path: Path, kind: str, block_size: int) -> None:
    _plant(tmp_path)
    eeprom = Eeprom(block_size=block_size)
    local = simulate(DirectoryTree(root=tmp_path), "pi4", SERIAL, eeprom=eeprom)
    with _server(kind, tmp_path) as tree:
        served = simulate(ServerTree(host=tree.host, block_size=block_size, timeout=2), "pi4", SERIAL, eeprom=eeprom)
    assert served.stop is None
    assert served.kernel == f"{SERIAL}/vmlinuz"
    assert served.contents == local.contents
    assert _chain(served) == _chain(local)


@pytest.mark.root
def test_a_kernel_of_mode_600_is_refused_as_the_directory_says(tmp_path: Path) -> None:
    _plant(tmp_path)
    (tmp_path / SERIAL / "vmlinuz").chmod(0o600)
    local = simulate(DirectoryTree(root=tmp_path), "pi4", SERIAL)
    with _server("tftpd-hpa", tmp_path) as tree:
        served = simulate(tree, "pi4", SERIAL)
    assert _chain(served) == _chain(local)
    for report in (served, local):
        assert report.stop is not None
        assert f"{SERIAL}/vmlinuz is there, but the server refuses it" in report.stop.said


@pytest.mark.root
def test_a_link_out_of_the_root_is_not_followed_by_tftpd(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    tmp_path.chmod(0o755)
    _plant(root)
    (tmp_path / "secret").write_text("no")
    (root / SERIAL / "vmlinuz").unlink()
    (root / SERIAL / "vmlinuz").symlink_to(tmp_path / "secret")
    with _server("tftpd-hpa", root) as tree:
        assert tree.probe(f"{SERIAL}/vmlinuz").outcome in {"missing", "denied"}
        assert simulate(tree, "pi4", SERIAL).stop is not None
    assert simulate(DirectoryTree(root=root), "pi4", SERIAL).stop is not None


@pytest.mark.root
@pytest.mark.parametrize("kind", ["dnsmasq", "tftpd-hpa"])
def test_a_doubled_slash_is_served(tmp_path: Path, kind: str) -> None:
    _plant(tmp_path)
    with _server(kind, tmp_path) as tree:
        got = tftp.get(tftp.Server(host=tree.host), f"{SERIAL}//config.txt")
    assert got.data == (tmp_path / SERIAL / "config.txt").read_bytes()
