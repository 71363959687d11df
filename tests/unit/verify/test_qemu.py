from __future__ import annotations

import base64
import itertools
import os
import re
from pathlib import Path

import pytest

from builder.errors import HostError, VerdictError
from builder.verify.qemu import (
    BOARD_MODELS,
    BootFiles,
    BootOptions,
    Drives,
    MachineName,
    Ports,
    authorize,
    board_argv,
    kernel_cmdline,
    power_of_two,
    require_machine,
    virt_argv,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOP6ITZpyYJTVHCBzSUTP9DGlWr3rSAFBcQKKWqD4Kv1 test\n"
OWN = "console=serial0,115200 console=tty1 root=PARTUUID=0a1b2c3d-02 rw rootwait quiet splash net.ifnames=0"
FILES = BootFiles(kernel=Path("/s/kernel"), initrd=Path("/s/initrd"), dtb=None, cmdline="root=LABEL=x rw")


def credential(parameter: str) -> str:
    found = re.fullmatch(r"systemd\.set_credential_binary=tmpfiles\.extra:(\S+)", parameter)
    assert found
    return base64.b64decode(found.group(1), validate=True).decode()


def value(argv: tuple[str, ...], option: str) -> list[str]:
    return [after for word, after in itertools.pairwise(argv) if word == option]


def test_credential_makes_the_directory_before_the_keys_and_appends() -> None:
    lines = credential(authorize("ubuntu", KEY)).splitlines()
    assert lines[0] == "d /home/ubuntu/.ssh 0700 ubuntu ubuntu"
    assert lines[1] == "f /home/ubuntu/.ssh/authorized_keys 0600 ubuntu ubuntu"
    kind, path, *unset, argument = lines[2].split()
    assert (kind, path, unset) == ("w+~", "/home/ubuntu/.ssh/authorized_keys", ["-", "-", "-", "-"])
    assert base64.b64decode(argument).decode() == KEY


def test_cmdline_keeps_the_images_own_words_but_for_consoles_and_silence() -> None:
    assert kernel_cmdline(OWN, console="ttyAMA0", extra=["a=b"]) == (
        "console=ttyAMA0 root=PARTUUID=0a1b2c3d-02 rw rootwait net.ifnames=0 a=b"
    )


def test_cmdline_with_the_credential_fits_into_what_arm64_reads() -> None:
    assert len(kernel_cmdline(OWN, console="ttyAMA0", extra=[authorize("ubuntu", KEY)])) < 2048


def test_cmdline_beyond_what_arm64_reads_is_refused() -> None:
    with pytest.raises(VerdictError, match="2047"):
        kernel_cmdline("x" * 2100, console="ttyAMA0")


@pytest.mark.parametrize(("here", "cpus"), [(1, "1"), (2, "1"), (4, "2"), (64, "2")])
def test_virt_machine(here: int, cpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(here)))
    drives = Drives(disk=Path("/s/a.qcow2"), serials=(Path("/l/a.log"),))
    argv = virt_argv(FILES, drives, Ports(ssh=2201, metrics=2202), BootOptions())
    assert argv == (
        *("qemu-system-aarch64", "-M", "virt,dtb-randomness=off"),
        *("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "cortex-a72"),
        *("-smp", cpus, "-m", "2048", "-device", "virtio-rng-pci"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"),
        *("-kernel", "/s/kernel", "-initrd", "/s/initrd", "-append", "root=LABEL=x rw"),
        *("-drive", "if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file=/s/a.qcow2"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:2201-:22,hostfwd=tcp:127.0.0.1:2202-:9100"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
        *("-serial", "file:/l/a.log"),
    )


def test_virt_machine_without_initramfs() -> None:
    bare = BootFiles(kernel=Path("/s/kernel"), initrd=None, dtb=None, cmdline="")
    drives = Drives(disk=Path("/s/a.qcow2"), serials=(Path("/l/a.log"),))
    assert "-initrd" not in virt_argv(bare, drives, Ports(ssh=1, metrics=2), BootOptions())


def test_a_comma_in_a_path_is_no_end_of_an_option() -> None:
    drives = Drives(disk=Path("/s/a,b.qcow2"), serials=())
    argv = virt_argv(FILES, drives, Ports(ssh=1, metrics=2), BootOptions())
    assert value(argv, "-drive")[0].endswith("file=/s/a,,b.qcow2")


@pytest.mark.parametrize(("machine", "memory"), [("raspi3b", "1024"), ("raspi4b", "2048")])
def test_board_machine_has_device_tree_card_and_both_serial_ports(machine: str, memory: str) -> None:
    files = BootFiles(kernel=Path("/s/kernel"), initrd=Path("/s/initrd"), dtb=Path("/s/dtb"), cmdline="root=x")
    drives = Drives(disk=Path("/s/card.qcow2"), serials=(Path("/l/0.log"), Path("/l/1.log")))
    argv = board_argv(machine, files, drives)
    assert value(argv, "-M") == [machine]
    assert value(argv, "-m") == [memory]
    assert value(argv, "-dtb") == ["/s/dtb"]
    assert value(argv, "-drive") == ["if=sd,format=qcow2,cache=unsafe,file=/s/card.qcow2"]
    assert value(argv, "-serial") == ["file:/l/0.log", "file:/l/1.log"]
    assert "-netdev" not in argv


def test_pi_4_model_gets_the_parameter_that_it_panics_without() -> None:
    assert "initcall_blacklist=brcmstb_l2_driver_init" in BOARD_MODELS["raspi4b"].extra


@pytest.mark.parametrize(
    ("size", "card"), [(1, 1), (3, 4), (2**30, 2**30), (2**30 + 512, 2**31), (1_500_000_000, 2**31)]
)
def test_card_sizes(size: int, card: int) -> None:
    assert power_of_two(size) == card


MACHINES = """Supported machines are:
raspi3b              Raspberry Pi 3B (revision 1.2)
virt                 QEMU 7.2 ARM Virtual Machine (alias of virt-7.2)
virt-7.2             QEMU 7.2 ARM Virtual Machine
"""


def test_machine_that_qemu_does_not_have_is_the_hosts_fault() -> None:
    with pytest.raises(HostError) as caught:
        require_machine("raspi4b", MACHINES, "QEMU emulator version 7.2.22 (Debian)\nCopyright")
    assert str(caught.value) == (
        "QEMU emulator version 7.2.22 (Debian) has no machine raspi4b\n"
        "hint: QEMU 9.0 or later has it: install qemu-system-arm from backports"
    )


@pytest.mark.parametrize("machine", ["virt", "raspi3b"])
def test_machine_that_qemu_has(machine: MachineName) -> None:
    require_machine(machine, MACHINES, "QEMU emulator version 7.2.22")
