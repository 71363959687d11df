"""Look at a booted machine from outside: console, ssh, HTTP.

The checks come in the order in which a machine comes up; what cannot be seen because an earlier one failed is not
listed.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import requests

from builder.console import note
from builder.errors import VerdictError
from builder.host.ssh import Shell, require_ssh
from builder.verify.finding import Finding, holds, judge, reasons

_EVERY = 2.0  # seconds between two looks
_FATAL: tuple[tuple[str, str], ...] = (
    (r"Kernel panic - not syncing[^\r\n]*", "the kernel panicked"),
    (r"ALERT! +\S[^\r\n]* does not exist", "the initramfs does not find the root file system"),
    (r"\(initramfs\)", "the initramfs gave up and opened a shell"),
    (r"You are in (emergency|rescue) mode", "systemd went to emergency mode"),
    (r"Cannot open access to console, the root account is locked", "systemd went to emergency mode"),
    (r"Freezing execution", "systemd gave up"),
)
_FACTS = {
    "hostname": "hostname",
    "machine-id": "cat /etc/machine-id",
    "root": "findmnt -nbo SIZE /",
    "source": "findmnt -no SOURCE /",
    "metrics": "systemctl is-enabled prometheus-node-exporter.service 2>/dev/null",
}
_EXPORTER_PORT, _EXPORTER_SERIES = 9100, "node_boot_time_seconds"
LOOPBACK = re.compile(r"^(127\.|\[::1\]|.*%lo:)")  # what ss shows of sockets that nobody else can reach
_ENOUGH = 0.5  # of the added space: the rest is alignment and the file system's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All that was seen of a boot, where its console log is, and how long it took."""

    checks: tuple[Finding, ...]
    console: Path
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether there was something to see and all of it was well."""
        return bool(self.checks) and holds(self.checks)

    def as_json(self) -> dict[str, object]:
        """Return the verdict for programs."""
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "console": str(self.console),
            "checks": [dataclasses.asdict(check) for check in self.checks],
        }

    def require(self) -> None:
        """Raise VerdictError with the reasons and the place of the console log unless all is well."""
        if self.ok:
            return
        said = reasons(self.checks) or ["nothing was seen"]
        raise VerdictError(
            "the image does not boot as it should\n" + "\n".join(said), hint=f"read the console log: {self.console}"
        )


class Process(Protocol):
    """What is asked of a running QEMU."""

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialConsole:
    """A machine's serial console in a file, and the process that writes it; `log` has QEMU's own complaints."""

    path: Path
    process: Process
    log: Path

    def text(self) -> str:
        """Return what was printed so far."""
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def fatal(self) -> str:
        """Return why this machine will not come up any more, empty while it may."""
        reason = fatal(self.text())
        if not reason and self.process.poll() is not None:
            said = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            reason = "the machine went down or QEMU ended" + (": " + " / ".join(said) if said else "")
        return reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A machine that can be looked at. `metrics` is the address of its node_exporter."""

    name: str
    console: SerialConsole
    shell: Shell
    metrics: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the image promises. `root` is the root partition's bytes in the image, `grow` those added behind it or 0."""

    hostname: str
    root: int
    grow: int


# Pure parts ---------------------------------------------------------------------------------------


def fatal(console: str) -> str:
    """Return why a machine with this on its console will not come up, with the line that says so; else empty."""
    for pattern, reason in _FATAL:
        found = re.search(pattern, console)
        if found:
            return f"{reason}: {found.group().strip()}"
    return ""


def facts(stdout: str) -> Mapping[str, str]:
    """Return the `name=value` lines of a machine's answer."""
    return dict(line.split("=", 1) for line in stdout.splitlines() if "=" in line)


def failed_units(stdout: str) -> list[str]:
    """Return the names in `systemctl list-units --state=failed --plain --no-legend`."""
    return [line.split()[0] for line in stdout.splitlines() if line.strip()]


def distinct(name: str, first: str, second: str) -> Finding:
    """Return the check that two nodes do not share what should be each one's own."""
    if not first or not second:
        return Finding(check=name, result="broken", seen="could not be read")
    shared = first == second
    return judge(check=name, ok=not shared, seen=f"both copies have {first}" if shared else f"{first}, {second}")


def own_keys(one: Mapping[str, str], other: Mapping[str, str]) -> Finding:
    """Return the check that two nodes share no host key (kind to fingerprint); what only one has says nothing."""
    name = "host keys unique"
    kinds = sorted(set(one) & set(other))
    if not kinds:
        return Finding(check=name, result="broken", seen="ssh-keyscan got no answer")
    shared = [f"{kind} {one[kind]}" for kind in kinds if one[kind] == other[kind]]
    return judge(check=name, ok=not shared, seen=f"both copies have {shared[0]}" if shared else ", ".join(kinds))


def grown(expected: Expected, now: int) -> Finding:
    """Return the check that the root file system (`now` bytes) took the space added behind the partition."""
    least = expected.root + int(_ENOUGH * expected.grow)
    detail = f"{expected.root >> 20} MiB in the image, {now >> 20} MiB on the machine"
    return judge(check="root grown", ok=now >= least, seen=detail)


# Looking ------------------------------------------------------------------------------------------


class NotSeenError(Exception):
    """The machine does not come further: the check that says so."""

    def __init__(self, check: Finding) -> None:
        super().__init__(check.seen)
        self.check = check


@dataclass(slots=True, kw_only=True)
class Watch:
    """A look at machines against the clock; says each thing as soon as it is known."""

    deadline: float
    begun: float
    checks: list[Finding]

    def say(self, check: Finding) -> None:
        """Keep a check and tell of it."""
        note(f"{time.monotonic() - self.begun:6.0f} s  {check.check}: {'broken: ' if check.broken else ''}{check.seen}")
        self.checks.append(check)

    def left(self, at_most: float) -> float:
        """Return the seconds for one question: never none, so that the last one is asked in full."""
        return max(10.0, min(at_most, self.deadline - time.monotonic()))

    def until_printed(self, console: SerialConsole, pattern: str, name: str) -> re.Match[str]:
        """Wait for a line on the console."""
        while True:
            found = re.search(pattern, console.text())
            if found:
                return found
            self.give_up(console, name)
            time.sleep(_EVERY)

    def until_reached(self, machine: Seen, name: str) -> float:
        """Wait until a command can be run by ssh; returns the seconds since the start."""
        while machine.shell.run("true", timeout=self.left(60)).returncode != 0:
            self.give_up(machine.console, name)
            time.sleep(_EVERY)
        return time.monotonic() - self.begun

    def give_up(self, console: SerialConsole, name: str) -> None:
        """Raise NotSeenError when the machine will not come up any more, or the time is over."""
        reason = console.fatal()
        if not reason and time.monotonic() > self.deadline:
            last = [line for line in console.text().splitlines() if line.strip()][-1:] or ["nothing was printed"]
            reason = f"not within {self.deadline - self.begun:.0f} s; last on the console: {last[0].strip()}"
        if reason:
            raise NotSeenError(Finding(check=name, result="broken", seen=reason))


def look(first: Seen, second: Seen, expected: Expected, *, deadline: float) -> tuple[Finding, ...]:
    """Look at two machines booted from fresh copies of one image until `deadline` (monotonic seconds)."""
    require_ssh()
    watch = Watch(deadline=deadline, begun=time.monotonic(), checks=[])
    try:
        kernel = watch.until_printed(first.console, r"Linux version (\S+)", "kernel up")
        watch.say(Finding(check="kernel up", result="ok", seen=kernel.group(1)))
        seconds = watch.until_reached(first, "ssh by key")
        watch.say(Finding(check="ssh by key", result="ok", seen=f"{first.shell.user}, after {seconds:.0f} s"))
        watch.say(settled(first, watch))
        one = facts_of(first, watch)
        name = one.get("hostname", "")
        watch.say(
            judge(
                check="hostname",
                ok=bool(name) and name == expected.hostname,
                seen=f"{name}, the image says {expected.hostname}",
            )
        )
        if expected.grow:
            watch.say(grown(expected, int(one.get("root") or 0)))
        watch.say(_metrics(first, one, watch))
        watch.until_reached(second, "second copy")
        other = facts_of(second, watch)
        watch.say(distinct("machine-id unique", one.get("machine-id", ""), other.get("machine-id", "")))
        watch.say(_host_keys(first, second, watch))
        watch.say(no_password(first, watch))
    except NotSeenError as stop:
        watch.say(stop.check)
    return tuple(watch.checks)


def look_at_console(console: SerialConsole, *, deadline: float) -> tuple[Finding, ...]:
    """Look at a machine without a network until it has reached userspace."""
    watch = Watch(deadline=deadline, begun=time.monotonic(), checks=[])
    try:
        kernel = watch.until_printed(console, r"Linux version (\S+)", "kernel up")
        watch.say(Finding(check="kernel up", result="ok", seen=kernel.group(1)))
        model = watch.until_printed(console, r"Machine model: ([^\r\n]+)", "device tree")
        watch.say(Finding(check="device tree", result="ok", seen=model.group(1)))
        init = watch.until_printed(
            console, r"Run (/\S*init\S*) as init process|systemd\[1\]: systemd (\S+) running", "userspace"
        )
        watch.say(Finding(check="userspace", result="ok", seen=init.group().strip()))
    except NotSeenError as stop:
        watch.say(stop.check)
    return tuple(watch.checks)


def facts_of(machine: Seen, watch: Watch, asked: Mapping[str, str] = MappingProxyType(_FACTS)) -> Mapping[str, str]:
    """Return what commands print on a machine (name to command), each in one line."""
    command = "; ".join(f'echo "{name}=$({how})"' for name, how in asked.items())
    return facts(machine.shell.run(command, timeout=watch.left(120)).stdout)


def settled(machine: Seen, watch: Watch) -> Finding:
    """Wait until systemd has nothing left to start, and see how it calls its state."""
    name = "systemd running"
    while True:
        state = machine.shell.run("systemctl is-system-running --wait", timeout=watch.left(600)).stdout.strip()
        if state == "running":
            return Finding(check=name, result="ok", seen="no failed units")
        if state in {"degraded", "maintenance"}:
            return Finding(check=name, result="broken", seen=f"{state}\n{_complaints(machine, watch)}".strip())
        if time.monotonic() > watch.deadline:
            jobs = machine.shell.run(
                "systemctl list-jobs --no-legend --no-pager", timeout=watch.left(60)
            ).stdout.strip()
            return Finding(check=name, result="broken", seen=f"still {state or 'silent'}; jobs:\n{jobs}")
        watch.give_up(machine.console, name)
        time.sleep(_EVERY)


def _complaints(machine: Seen, watch: Watch) -> str:
    """Return each failed unit with the last lines of its journal."""
    listed = machine.shell.run(
        "systemctl list-units --state=failed --plain --no-legend --no-pager", timeout=watch.left(60)
    )
    said = []
    for unit in failed_units(listed.stdout):
        read = f"journalctl -b -u '{unit}' -n 10 --no-pager -o cat"
        lines = machine.shell.run(f"sudo -n {read} || {read}", timeout=watch.left(60)).stdout.strip().splitlines()
        said.append("\n    ".join([f"failed: {unit}", *lines]))
    return "\n".join(said)


def answer_within(machine: Seen, port: int, path: str, watch: Watch) -> str | None:
    """Return what a service answers on the machine itself; None for one that does not listen on loopback alone."""
    listing = f"ss -Hltn 'sport = :{port}' | awk '{{print $4}}'"
    sockets = machine.shell.run(listing, timeout=watch.left(60)).stdout.split()
    if not sockets or not all(LOOPBACK.match(place) for place in sockets):
        return None
    script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    return machine.shell.run(f'bash -c "{script}"', timeout=watch.left(60)).stdout


def _metrics(machine: Seen, known: Mapping[str, str], watch: Watch) -> Finding:
    name = "node_exporter answers"
    if known.get("metrics") != "enabled":
        return Finding(check=name, result="ok", seen="not in this image")
    while True:
        try:
            within = answer_within(machine, _EXPORTER_PORT, "/metrics", watch)
            text = requests.get(machine.metrics, timeout=watch.left(60)).text if within is None else within
        except requests.RequestException as error:
            detail = f"{type(error).__name__}: {error}"
        else:
            series = sum(not line.startswith("#") for line in text.splitlines())
            if _EXPORTER_SERIES in text:
                where = "" if within is None else ", on the machine itself alone"
                return Finding(check=name, result="ok", seen=f"{series} series{where}")
            detail = f"{series} series, no {_EXPORTER_SERIES}"
        if time.monotonic() > watch.deadline or machine.console.fatal():
            return Finding(check=name, result="broken", seen=detail)
        time.sleep(_EVERY)


def _host_keys(first: Seen, second: Seen, watch: Watch) -> Finding:
    one, other = (machine.shell.host_keys(timeout=watch.left(60)) for machine in (first, second))
    return own_keys(one, other)


def no_password(machine: Seen, watch: Watch) -> Finding:
    """Return the check that nobody gets in by guessing."""
    methods = machine.shell.methods(timeout=watch.left(60))
    ok = methods == ("publickey",)
    return judge(check="no ssh by password", ok=ok, seen=f"offered: {', '.join(methods) or 'no answer'}")
