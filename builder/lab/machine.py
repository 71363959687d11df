"""A node's machine: what a board does from power on. It loads over TFTP, starts what it got, and after a reboot again.

Runs in the lab's namespace, as a program of its own: `python -m builder.lab.machine SPEC.json`. What it does is in
files that it replaces whole: `state.json`, and for each start `boot-N.json`, the chain of files asked for.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from builder.firmware.boot_files import ServerTree
from builder.firmware.simulate import BootReport, Request, Stop, StopKind, simulate
from builder.host.files import write
from builder.run import spawn
from builder.verify.qemu import PATIENCE, generic_machine, kernel_cmdline

CONSOLE = "ttyAMA0"  # QEMU's serial port, in place of a board's: ttyAMA10 on the command line would keep it silent
_POWERED_OFF = b"reboot: Power down"  # kernel/reboot.c; everything else that ends QEMU by itself is a reset
_TAIL = 4096

State = Literal["loading", "running", "refused", "off", "lost"]
"""refused: the bootloader does not start it; off: it powered itself down; lost: QEMU ended with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a machine is. `server` is the TFTP server's address, `tap` its port in the namespace, `memory` in MiB.

    `directory` is for what it loads and reports, `logs` for its console, one file for each start.
    """

    node: str
    serial: str
    board: str
    mac: str
    server: str
    tap: str
    directory: Path
    logs: Path
    memory: int = 1024
    cpus: int = 2

    def console(self, number: int) -> Path:
        """Return where its serial console of a start is written, counted from 1."""
        return self.logs / f"{self.node}.{number}.log"

    def chain(self, number: int) -> Path:
        """Return where the report on what it loaded is written."""
        return self.directory / f"boot-{number}.json"

    @property
    def state(self) -> Path:
        """Where it says what it does."""
        return self.directory / "state.json"

    @property
    def complaints(self) -> Path:
        """Where QEMU's own messages, and this program's, are."""
        return self.logs / f"{self.node}.qemu.log"


def machine_argv(machine: Machine, files: Mapping[str, Path], cmdline: str, console: Path) -> tuple[str, ...]:
    """Return QEMU's command line. `files` has `kernel` and, where there is one, `initrd`.

    It ends when the machine resets: the bootloader comes before the next start.
    """
    initrd = ("-initrd", str(files["initrd"])) if "initrd" in files else ()
    return (
        *generic_machine(cpus=machine.cpus, memory=machine.memory),
        *("-kernel", str(files["kernel"]), *initrd, "-append", cmdline),
        *("-netdev", f"tap,id=net,ifname={machine.tap},script=no,downscript=no"),
        *("-device", f"virtio-net-pci,netdev=net,mac={machine.mac},romfile="),
        *("-serial", f"file:{console}"),
    )


def was_switched_off(console: bytes) -> bool:
    """Return whether the last words on a console are those of a power down, not of a reset."""
    return _POWERED_OFF in console[-_TAIL:]


def chain_json(report: BootReport) -> dict[str, Any]:
    """Return a bootloader's report without the files' contents, for programs."""
    fields = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    del fields["contents"]
    requests = [dataclasses.asdict(request) for request in report.requests]
    stop = dataclasses.asdict(report.stop) if report.stop else None
    return {**fields, "requests": requests, "stop": stop, "settings": dict(report.settings)}


def read_chain(path: Path) -> BootReport:
    """Return what `chain_json` wrote."""
    fields: dict[str, Any] = json.loads(path.read_text())
    requests = tuple(Request(**request) for request in fields.pop("requests"))
    if stop := fields.pop("stop"):
        fields["stop"] = Stop(**{**stop, "kind": StopKind(stop["kind"])})
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return BootReport(**{**fields, **lists, "requests": requests})


def load(machine: Machine) -> BootReport:
    """Do what the board's bootloader does, against the real TFTP server."""
    return simulate(ServerTree(host=machine.server), machine.board, machine.serial, mac=machine.mac)


def main(spec: Path) -> None:
    """Be a node's machine until it is switched off or cannot go on."""
    fields: dict[str, Any] = json.loads(spec.read_text())
    machine = Machine(**{**fields, "directory": Path(fields["directory"]), "logs": Path(fields["logs"])})
    number = 1
    while _start(machine, number):
        number += 1


def _start(machine: Machine, number: int) -> bool:
    """Start the machine and stay until it is down; return whether it starts again."""
    _say(machine, number, "loading")
    report = load(machine)
    write(machine.chain(number), json.dumps(chain_json(report), indent=1).encode())
    if report.stop is not None or report.kernel is None:
        _say(machine, number, "refused", report.stop.said if report.stop else "no kernel")
        return False
    files = {"kernel": machine.directory / "kernel"}
    write(files["kernel"], report.contents[report.kernel])
    if report.initramfs:
        files["initrd"] = machine.directory / "initrd"
        write(files["initrd"], b"".join(report.contents[name] for name in report.initramfs))
    console = machine.console(number)
    cmdline = kernel_cmdline(report.cmdline or "", console=CONSOLE, extra=PATIENCE)
    argv = machine_argv(machine, files, cmdline, console)
    with machine.complaints.open("ab") as complaints, spawn(argv, stdout=complaints) as process:
        _say(machine, number, "running")
        code = process.wait()
    if code != 0:
        _say(machine, number, "lost", f"QEMU ended with exit code {code}")
        return False
    if was_switched_off(console.read_bytes()):
        _say(machine, number, "off")
        return False
    return True


def _say(machine: Machine, number: int, state: State, detail: str = "") -> None:
    write(machine.state, json.dumps({"number": number, "state": state, "detail": detail}).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
