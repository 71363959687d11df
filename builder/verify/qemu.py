"""Boot an image under QEMU, on throw-away copies, and say what is seen from outside.

Two machines with fresh copies of the image start at the same time: what should be unique to a node must differ.

How the test's ssh key reaches an image that nobody edits: systemd takes credentials from the kernel command line
(`systemd.set_credential_binary=NAME:BASE64`, systemd(1), since 251), and systemd-tmpfiles-setup.service imports the
one called `tmpfiles.extra` as tmpfiles.d lines (tmpfiles.d(5), since 252), which write the key into the user's
authorized_keys before sshd starts. Other ways were dropped: QEMU's fw_cfg and SMBIOS credentials need a driver, or
UEFI firmware, that a kernel started directly does not have that early; cloud-init is not in every image;
`ssh.authorized_keys.root` is for root alone, and root must not be let in.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from builder.console import note
from builder.errors import HostError, VerdictError
from builder.firmware.boards import BOARDS
from builder.host.scratch import temporary
from builder.host.ssh import Shell
from builder.image.filesystem import FileSystem
from builder.image.open import Image, open_image
from builder.run import find_tool, run, spawn
from builder.verify import verdict as observe
from builder.verify.boot_chain import boot_files
from builder.verify.finding import Finding
from builder.verify.verdict import Seen, Verdict

GIB = 1 << 30
MachineName = Literal["virt", "raspi3b", "raspi4b"]
QEMU = "qemu-system-aarch64"
# An emulated machine on a busy host takes minutes for what a board does in seconds (systemd(1), since 254).
PATIENCE = ("systemd.default_device_timeout_sec=600", "systemd.default_timeout_start_sec=600")
_COMMAND_LINE_SIZE = 2048  # bytes with the final NUL, arch/arm64/include/uapi/asm/setup.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A real board that QEMU models. `console` is the port its kernel speaks on, `serial` which of QEMU's that is."""

    memory: int  # MiB, what QEMU insists on
    dtb: str
    console: str
    serial: int
    extra: tuple[str, ...]  # kernel parameters that the model needs
    since: str  # the QEMU that has it


BOARD_MODELS: Mapping[str, Board] = MappingProxyType(
    {
        "raspi3b": Board(
            memory=1024, dtb=BOARDS["pi3"].upstream_dtb, console="ttyS1", serial=1, extra=(), since="2.12"
        ),
        "raspi4b": Board(
            memory=2048,
            dtb=BOARDS["pi4"].upstream_dtb,
            console="ttyS1",
            serial=1,
            extra=(
                "initcall_blacklist=brcmstb_l2_driver_init",
            ),  # the model has no such interrupt controller: the driver panics
            since="9.0",
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootOptions:
    """How to boot. `timeout` in seconds until all has been seen, `grow` in bytes beyond the image, `memory` in MiB.

    `logs` is where the console logs stay; None = a new directory in the temporary directory. `hostname` is what the
    node must call itself; None = what the image's /etc/hostname says.
    """

    machine: MachineName = "virt"
    timeout: float = 900
    grow: int = 2 * GIB
    memory: int = 2048
    user: str = "ubuntu"
    hostname: str | None = None
    logs: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """What the firmware would hand to the processor, copied out of the image. `cmdline` is one line."""

    kernel: Path
    initrd: Path | None
    dtb: Path | None
    cmdline: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Loopback ports that lead into a machine."""

    ssh: int
    metrics: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drives:
    """A machine's copy-on-write disk and where its serial ports are written, the first one first."""

    disk: Path
    serials: tuple[Path, ...] = field(default=())


def boot_image(image: Path, options: BootOptions = BootOptions()) -> Verdict:
    """Boot an image (as open_image takes it) and return what was seen; `Verdict.require` judges it.

    Raises InputError for no image there, HostError for a missing tool or machine model, VerdictError for an image that
    a board's firmware would not start.
    """
    check_host(options.machine)
    begun = time.monotonic()
    with open_image(image) as opened, temporary("boot") as scratch:
        logs = (options.logs or Path(tempfile.mkdtemp(prefix="pibuild-console-"))).absolute()
        logs.mkdir(parents=True, exist_ok=True)
        boot = _boot_virt if options.machine == "virt" else _boot_board
        checks, console = boot(opened, options, scratch, logs)
    return Verdict(checks=checks, console=console, seconds=time.monotonic() - begun)


def check_host(machine: MachineName) -> None:
    """Raise HostError unless this host's QEMU can be the machine."""
    qemu = find_tool(QEMU, package="qemu-system-arm")
    find_tool("qemu-img", package="qemu-utils")
    find_tool("ssh-keygen", package="openssh-client")
    require_machine(machine, run([qemu, "-M", "help"]).stdout, run([qemu, "--version"]).stdout)


def require_machine(machine: MachineName, machines: str, version: str) -> None:
    """Raise HostError unless `machines` (what `-M help` says) names the machine; `version` is what `--version` says."""
    if machine not in {line.split()[0] for line in machines.splitlines() if line.strip()}:
        raise HostError(
            f"{version.splitlines()[0]} has no machine {machine}",
            hint=f"QEMU {BOARD_MODELS[machine].since} or later has it: install qemu-system-arm from backports",
        )


def take_boot_files(boot: FileSystem, into: Path, *, dtb: str | None = None) -> BootFiles:
    """Copy what a Pi 4's firmware would load out of the boot partition. Raises VerdictError where it would stop."""
    report = boot_files(boot, "pi4")
    if report.stop is not None or report.kernel is None or report.cmdline is None:
        why = report.stop.said if report.stop else "no kernel"
        raise VerdictError(f"a Pi 4 would not start: {why}", hint="pibuild inspect shows the boot files")
    if dtb is not None and boot.find(dtb) is None:
        raise VerdictError(f"{dtb} is not on the boot partition", hint="the kernel package's hook should copy it there")

    def take(name: str, content: bytes) -> Path:
        target = into / name
        target.write_bytes(content)
        return target

    initrd = b"".join(report.contents[name] for name in report.initramfs)
    return BootFiles(
        kernel=take("kernel", report.contents[report.kernel]),
        initrd=take("initrd", initrd) if initrd else None,
        dtb=take("dtb", boot.read(dtb)) if dtb else None,
        cmdline=report.cmdline.strip(),
    )


# Command lines ------------------------------------------------------------------------------------


def authorize(user: str, public_key: str) -> str:
    """Return the kernel parameter that lets a key in as a user; see the module's docstring."""
    ssh = f"/home/{user}/.ssh"
    key = base64.b64encode(f"{public_key.strip()}\n".encode()).decode()
    keys = f"{ssh}/authorized_keys"
    lines = f"d {ssh} 0700 {user} {user}\nf {keys} 0600 {user} {user}\nw+~ {keys} - - - - {key}\n"
    return f"systemd.set_credential_binary=tmpfiles.extra:{base64.b64encode(lines.encode()).decode()}"


def kernel_cmdline(own: str, *, console: str, extra: Sequence[str] = ()) -> str:
    """Return the image's own command line with the consoles replaced by QEMU's and more parameters at its end.

    `quiet` and `splash` go too: the console is what the verdict reads. Raises VerdictError when it grows beyond what an
    arm64 kernel reads.
    """
    kept = [word for word in own.split() if word not in {"quiet", "splash"} and not word.startswith("console=")]
    cmdline = " ".join([f"console={console}", *kept, *extra])
    if len(cmdline) >= _COMMAND_LINE_SIZE:
        raise VerdictError(
            f"the kernel command line has {len(cmdline)} characters; arm64 reads {_COMMAND_LINE_SIZE - 1}"
        )
    return cmdline


def processors(machines: int) -> int:
    """Return how many processors each of some machines should have that boot at the same time: 1 or 2.

    Emulated processors wait for each other with locks held when there are more of them than real ones: two nodes took
    120 s with two each on two, 62 s with one each. A third one gains nothing in a boot.
    """
    return max(1, min(2, len(os.sched_getaffinity(0)) // machines))


def generic_machine(*, cpus: int, memory: int) -> tuple[str, ...]:
    """Return the first words of QEMU's command line for the generic arm64 machine, which ends when it resets.

    Without randomness in the device tree the kernel stays where it is, and its page tables are not isolated for that
    (arch/arm64/kernel/cpufeature.c, kaslr_requires_kpti): every system call would flush an emulated TLB, a third of a
    boot's processor time. The default of translated code, an eighth of the memory, is too little for a boot.
    """
    return (
        *(QEMU, "-M", "virt,dtb-randomness=off", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "cortex-a72"),
        *("-smp", str(cpus), "-m", str(memory), "-device", "virtio-rng-pci"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"),
    )


def virt_argv(files: BootFiles, drives: Drives, ports: Ports, options: BootOptions) -> tuple[str, ...]:
    """Return QEMU's command line for the generic arm64 machine. `files.cmdline` is passed on as it stands."""
    forward = f"hostfwd=tcp:127.0.0.1:{ports.ssh}-:22,hostfwd=tcp:127.0.0.1:{ports.metrics}-:9100"
    return (
        *generic_machine(cpus=processors(2), memory=options.memory),
        *_kernel_argv(files),
        *("-drive", f"if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file={_escaped(drives.disk)}"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", f"user,id=net,{forward}", "-device", "virtio-net-pci,netdev=net,romfile="),
        *_serial_argv(drives),
    )


def board_argv(machine: str, files: BootFiles, drives: Drives) -> tuple[str, ...]:
    """Return QEMU's command line for a modelled Raspberry Pi: no network, the image as its SD card."""
    return (
        *(QEMU, "-M", machine, "-accel", "tcg,thread=multi", "-m", str(BOARD_MODELS[machine].memory)),
        *("-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"),
        *_kernel_argv(files),
        *("-drive", f"if=sd,format=qcow2,cache=unsafe,file={_escaped(drives.disk)}"),
        *_serial_argv(drives),
    )


def _kernel_argv(files: BootFiles) -> tuple[str, ...]:
    initrd = ("-initrd", str(files.initrd)) if files.initrd else ()
    dtb = ("-dtb", str(files.dtb)) if files.dtb else ()
    return ("-kernel", str(files.kernel), *initrd, *dtb, "-append", files.cmdline)


def _serial_argv(drives: Drives) -> tuple[str, ...]:
    return tuple(word for path in drives.serials for word in ("-serial", f"file:{path}"))


def _escaped(path: Path) -> str:
    """Return a path as QEMU's option parser takes it: a comma is doubled."""
    return str(path).replace(",", ",,")


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is not below a size in bytes: QEMU's SD cards come in no other."""
    return 1 << (size - 1).bit_length()


# Machines -----------------------------------------------------------------------------------------


def _overlay(image: Path, at: Path, size: int) -> Path:
    """Make a copy-on-write disk of `size` bytes on top of the image."""
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image.absolute(), "-F", "raw", at, str(size)])
    return at


def _free_ports(count: int) -> tuple[int, ...]:
    """Return loopback ports that are free now; held together, so that no two are the same."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)


def _make_key(scratch: Path) -> Path:
    key = scratch / "id_ed25519"
    run(
        [
            find_tool("ssh-keygen", package="openssh-client"),
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "pibuild-boot-test",
            "-f",
            key,
        ]
    )
    return key


@contextlib.contextmanager
def _machine(argv: Sequence[str], drives: Drives, *, console: int, log: Path) -> Iterator[observe.SerialConsole]:
    """Run QEMU while the block runs; its own complaints go to `log`."""
    for path in drives.serials:
        path.unlink(missing_ok=True)
    with log.open("wb") as complaints, spawn(argv, stdout=complaints) as process:
        yield observe.SerialConsole(path=drives.serials[console], process=process, log=log)


def _boot_virt(image: Image, options: BootOptions, scratch: Path, logs: Path) -> tuple[tuple[Finding, ...], Path]:
    files = take_boot_files(_boot_partition(image), scratch)
    key = _make_key(scratch)
    access = authorize(options.user, key.with_suffix(".pub").read_text())
    cmdline = kernel_cmdline(files.cmdline, console="ttyAMA0", extra=[*PATIENCE, access])
    files = BootFiles(kernel=files.kernel, initrd=files.initrd, dtb=None, cmdline=cmdline)
    deadline = time.monotonic() + options.timeout
    seen: list[Seen] = []
    with contextlib.ExitStack() as stack:
        free = iter(_free_ports(4))
        for name in ("first", "second"):
            ports = Ports(ssh=next(free), metrics=next(free))
            disk = _overlay(image.path, scratch / f"{name}.qcow2", image.size + options.grow)
            drives = Drives(disk=disk, serials=(logs / f"{name}.log",))
            argv = virt_argv(files, drives, ports, options)
            console = stack.enter_context(_machine(argv, drives, console=0, log=logs / f"{name}.qemu.log"))
            note(f"{name}: booting a fresh copy of {image.path.name}, console in {console.path}")
            shell = Shell(port=ports.ssh, key=key, user=options.user, sockets=scratch)
            seen.append(
                Seen(name=name, console=console, shell=shell, metrics=f"http://127.0.0.1:{ports.metrics}/metrics")
            )
        expected = observe.Expected(
            hostname=options.hostname or image.root.text("/etc/hostname").strip(),
            root=image.root_partition.size,
            grow=options.grow,
        )
        checks = observe.look(seen[0], seen[1], expected, deadline=deadline)
    return checks, seen[0].console.path


def _boot_partition(image: Image) -> FileSystem:
    if image.boot is None:
        raise VerdictError(
            "the image has no boot partition", hint="the first partition must be FAT and hold config.txt"
        )
    return image.boot


def _boot_board(image: Image, options: BootOptions, scratch: Path, logs: Path) -> tuple[tuple[Finding, ...], Path]:
    board = BOARD_MODELS[options.machine]
    files = take_boot_files(_boot_partition(image), scratch, dtb=board.dtb)
    cmdline = kernel_cmdline(files.cmdline, console=f"{board.console},115200", extra=board.extra)
    files = BootFiles(kernel=files.kernel, initrd=files.initrd, dtb=files.dtb, cmdline=cmdline)
    disk = _overlay(image.path, scratch / "card.qcow2", power_of_two(image.size))
    drives = Drives(disk=disk, serials=tuple(logs / f"{options.machine}.serial{number}.log" for number in range(2)))
    argv = board_argv(options.machine, files, drives)
    with _machine(argv, drives, console=board.serial, log=logs / f"{options.machine}.qemu.log") as console:
        note(f"{options.machine}: booting, console in {console.path}")
        return observe.look_at_console(console, deadline=time.monotonic() + options.timeout), console.path
