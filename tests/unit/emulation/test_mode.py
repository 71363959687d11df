"""The line for binfmt_misc, and what a root is shown of the emulator."""

from __future__ import annotations

import platform
import re
import struct
from pathlib import Path

import pytest

from builder.emulation import mode as emulation
from builder.emulation.mode import NONE, Emulation, full_emulation, kernel_version
from builder.errors import HostError

QEMU = Path("/usr/bin/qemu-aarch64-static")
FULL = Emulation(mode="full", qemu=QEMU)
NATIVE = Emulation(mode="native-tools", qemu=QEMU, launcher=Path("/c/launcher"), tools=Path("/c/tools/k"))


def _octets(text: str) -> bytes:
    r"""Return the bytes of what the kernel reads as \xNN escapes and plain characters (fs/binfmt_misc.c)."""
    pairs = re.findall(r"\\x([0-9a-f]{2})|(.)", text)
    return bytes(int(code, 16) if code else ord(plain) for code, plain in pairs)


def _matches(line: str, header: bytes) -> bool:
    _, _, kind, offset, magic, mask, *_ = line.split(":")
    assert (kind, offset) == ("M", "")
    wanted, masked = _octets(magic), _octets(mask)
    assert len(wanted) == len(masked) <= 128
    return all(head & bits == want & bits for head, want, bits in zip(header, wanted, masked, strict=False))


def _elf(*, bits: int = 2, order: int = 1, kind: int = 3, machine: int = 0xB7, abi: int = 0) -> bytes:
    """Return the beginning of an ELF file (elf(5)): class, byte order, ABI, e_type, e_machine."""
    return b"\x7fELF" + bytes([bits, order, 1, abi]) + bytes(8) + struct.pack("<HH", kind, machine)


@pytest.mark.parametrize("header", [_elf(kind=2), _elf(kind=3)], ids=["executable", "position independent"])
def test_arm64_programs_are_taken(header: bytes) -> None:
    assert _matches(FULL.registration(), header)


@pytest.mark.parametrize(
    "header",
    [_elf(machine=62), _elf(machine=40), _elf(bits=1), _elf(order=2), _elf(kind=1), b"#!/bin/sh".ljust(20, b"\0")],
    ids=["x86-64", "arm", "32 bit", "big endian", "object file", "script"],
)
def test_other_files_are_left_alone(header: bytes) -> None:
    assert not _matches(FULL.registration(), header)


def test_the_line_has_the_kernel_s_fields_and_no_more_than_it_takes() -> None:
    line = NATIVE.registration()
    fields = line.split(":")
    assert len(fields) == 8
    assert fields[:2] == ["", "pibuild"]
    assert fields[6:] == ["/run/pibuild/launcher", "POCF"]
    assert len(line) < 1920  # MAX_REGISTER_LENGTH
    assert len(fields[6]) < 256  # BINPRM_BUF_SIZE


def test_without_emulation_nothing_is_registered_bound_or_mounted() -> None:
    assert (NONE.registration(), NONE.binds(), NONE.lowers(full_perl=True)) == ("", (), ())
    assert FULL.registration().endswith(":/run/pibuild/qemu:POCF")
    assert (FULL.binds(), FULL.lowers(full_perl=True)) == (((QEMU, "/run/pibuild/qemu"),), ())


def test_stand_ins_bring_their_libraries_below_the_root() -> None:
    assert NATIVE.lowers(full_perl=False) == (Path("/c/tools/k/lower"),)
    assert NATIVE.lowers(full_perl=True) == (Path("/c/tools/k/lower"), Path("/c/tools/k/perl"))


def test_an_arm64_host_needs_no_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert full_emulation() is NONE


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.0", (6, 18)),
        ("6.7", (6, 7)),
        ("6.1.0-18-amd64", (6, 1)),
        ("5.15.167.4-WSL2", (5, 15)),
        ("6.6-rc7", (6, 6)),
        ("odd", (0, 0)),
    ],
)
def test_the_kernel_s_version(release: str, version: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    assert kernel_version() == version


def test_an_old_kernel_without_the_host_s_handler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "release", lambda: "6.1.0")
    monkeypatch.setattr(emulation, "find_tool", lambda _name, **_: QEMU)
    monkeypatch.setattr(emulation, "Path", lambda _: Path("/nonexistent/qemu-aarch64"))
    with pytest.raises(HostError, match="no private binfmt handlers") as caught:
        full_emulation()
    assert "qemu-user-static" in caught.value.hint
