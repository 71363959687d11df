"""A lab that keeps running in the background: start, status, ssh, stop.

DEST/lab/lab.json says what runs; it counts while DEST/.lab is locked by the process that it names. When that process
ends, however it does, the kernel ends everything in the lab's namespace.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from builder.errors import HostError, InputError, PibuildError, Problem
from builder.host.ending import unwind_on_signals
from builder.host.files import write
from builder.inventory.nodes import Inventory
from builder.lab import control
from builder.lab.lab import Lab, LabOptions, check_host, holder, lab, require_exploded
from builder.netboot.layout import Netboot
from builder.run import find_tool, require_root
from builder.services.files import serving
from builder.services.probe import ask_servers

_RUNNING = {"loading", "running"}
_WAIT = 15.0  # seconds for a lab to end
_BEGINNING = 10.0  # seconds until a lab that starts has written down what runs


def start(inventory: Inventory, names: Sequence[str], dest: Path, options: LabOptions) -> dict[str, Any]:
    """Start a lab in the background, or nodes in the one that runs; return what runs, as `status` does.

    A node that runs goes on as it does. Raises InputError when a node boots nothing from there,
    HostError when a test runs there or it fails.
    """
    check(inventory, names, dest)
    netboot = Netboot(dest.absolute())
    if holder(netboot.dest):
        control.ask(_report(netboot.dest).parent, names)
        return status(netboot.dest, look=False)
    options = replace(options, logs=options.logs.absolute() if options.logs else None)
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _stay(inventory, names, netboot, options, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read().decode()
    except BaseException:  # a signal: what is half up goes too
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    if said != "up":
        raise HostError(said or "the lab ended before it was up", hint="pibuild boot --netboot shows more")
    return status(netboot.dest, look=False)


def check(inventory: Inventory, names: Sequence[str], dest: Path) -> None:
    """Raise InputError or HostError where `start` would before it starts anything."""
    require_root("lab up")
    check_host()
    netboot = Netboot(dest.absolute())
    _background(netboot.dest)
    for name in names:
        require_exploded(netboot, inventory.node(name))


def _stay(inventory: Inventory, names: Sequence[str], netboot: Netboot, options: LabOptions, said: int) -> NoReturn:
    """Be the lab's process until a signal ends it; lets go of the caller's terminal and files."""
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    for descriptor in sorted(int(name) for name in os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers, not files
        if descriptor > 2 and descriptor != said:  # noqa: PLR2004 - stderr
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)
    unwind_on_signals()
    try:
        with lab(inventory, netboot.dest, options) as here, control.listening(here.directory) as requests:
            switch_on(here, names)
            os.write(said, b"up")
            os.close(said)
            while True:
                control.serve(requests, functools.partial(switch_on, here), functools.partial(_look, here))
    except (SystemExit, KeyboardInterrupt):
        os._exit(0)
    except PibuildError as error:
        os.write(said, str(error).encode())
        os._exit(error.exit_code)
    except BaseException as error:  # noqa: BLE001 - nobody above would show it
        os.write(said, f"{type(error).__name__}: {error}".encode())
        os._exit(1)


def switch_on(here: Lab, names: Sequence[str]) -> None:
    """Switch on those of the nodes that do not run, and write down what does."""
    try:
        wanted = [here.inventory.node(name).name for name in names]
    except InputError as error:  # the command that asks has found it in cluster.yaml as it is now
        message = f"the lab runs with cluster.yaml as it was when it started, without {', '.join(names)}"
        raise HostError(message, hint="sudo pibuild lab down; then start it again") from error
    off = [name for name in wanted if name not in here.nodes or here.nodes[name].state not in _RUNNING]
    try:
        for name in off:
            here.boot(name, at_once=len({*here.nodes, *off}))
    finally:
        write(_report(here.netboot.dest), json.dumps(_facts(here)).encode(), 0o600)


def _look(here: Lab) -> list[list[str]]:
    """Return what is found of the servers as the lab's nodes need them: server, result, what was seen."""
    nodes = tuple(node for node in here.inventory.nodes if node.name in here.nodes or node.boot != "network")
    with here.entered():
        found = ask_servers(serving(replace(here.inventory, nodes=nodes), "login"))
    return [[server, finding.result, finding.seen] for server, finding in found]


def _report(dest: Path) -> Path:
    return dest / "lab" / "lab.json"


def _facts(here: Lab) -> dict[str, Any]:
    return {
        "namespace": here.namespace.holder,
        "servers": {
            name: {"process": process.pid, "log": str(here.logs / f"{name}.log")}
            for name, process in here.servers.items()
        },
        "nodes": {
            name: {
                "address": str(node.address),
                "process": node.process.pid if node.process else 0,
                "state": str(node.machine.state),
                "logs": str(node.machine.logs),
                "ssh": [str(word) for word in node.shell.argv()],
            }
            for name, node in here.nodes.items()
        },
        "aliases": {alias: node.name for node in here.inventory.nodes for alias in node.aliases},
    }


def _read(dest: Path) -> dict[str, Any]:
    """Return what was written about the lab that runs in the background, {} when none does."""
    if not holder(dest) or not _report(dest).is_file():
        return {}
    return dict(json.loads(_report(dest).read_text()))


def _background(dest: Path) -> int:
    """Return the process of the lab that runs in the background, 0 when none does. Raises HostError for a test.

    A lab whose `lab up` was killed may not have written down yet what it is: it is waited for.
    """
    begun = time.monotonic()
    while (process := holder(dest)) and not _read(dest):
        if time.monotonic() - begun > _BEGINNING:
            message = f"a netboot test runs from {dest}: process {process}"
            raise HostError(message, hint="wait for it, or end it there (Ctrl-C)")
        time.sleep(0.1)
    return process


def status(dest: Path, *, look: bool = True) -> dict[str, Any]:
    """Return what runs: by server `state`, `seen` and `log`, by node `address`, `state`, `starts` and `console`.

    A server has ended, or is broken: it runs and does not serve, as `seen` says; nodes that run may wait for it without
    end. Without `look` a server that runs is not asked.
    """
    facts = _read(dest)
    servers = {
        name: {"state": "running" if _runs(server["process"]) else "ended", "seen": "", **server}
        for name, server in facts.get("servers", {}).items()
    }
    if look and servers:
        _ask_servers(dest, servers)
    nodes = {name: _node(name, node) for name, node in facts.get("nodes", {}).items()}
    return {"running": bool(facts), "process": holder(dest) if facts else 0, "servers": servers, "nodes": nodes}


def _ask_servers(dest: Path, servers: dict[str, dict[str, Any]]) -> None:
    """Write down what the lab finds of its servers; one that has ended stays so."""
    try:
        found = control.look(_report(dest).parent)
    except HostError as error:
        found = [[name, "unknown", f"not asked: {error.message}"] for name in servers]
    for name, result, seen in found:
        server = servers.get(name)
        if server and server["state"] != "ended" and not (server["state"] == "broken" and result != "broken"):
            server |= {"state": "broken" if result == "broken" else server["state"], "seen": seen}


def _runs(process: int) -> bool:
    """Return whether a process is there, and has not ended already."""
    path = Path("/proc") / str(process) / "stat"
    try:
        return path.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _node(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    path = Path(facts["state"])
    said = dict(json.loads(path.read_text())) if path.is_file() else {"number": 1, "state": "loading"}
    state = said["state"] if _runs(facts["process"]) or said["state"] in {"off", "refused", "lost"} else "lost"
    console = str(Path(facts["logs"]) / f"{name}.{said['number']}.log")
    return {"address": facts["address"], "state": state, "starts": said["number"], "console": console}


def log_in(dest: Path, name: str, command: Sequence[str]) -> NoReturn:
    """Become ssh to a node, in the lab's network. Raises InputError when the node does not run there."""
    require_root("lab ssh")
    facts = _read(dest)
    nodes = facts.get("nodes", {})
    node = nodes.get(facts.get("aliases", {}).get(name, name))
    if node is None:
        running = f"running: {', '.join(nodes)}" if nodes else f"sudo pibuild lab up {name}"
        raise InputError(Problem(message=f"{name} does not run in a lab of {dest}", hint=running))
    nsenter = find_tool("nsenter", package="util-linux")
    argv = ["nsenter", f"--net=/proc/{facts['namespace']}/ns/net", "--", *node["ssh"], *command]
    os.execv(nsenter, argv)  # noqa: S606 - becomes it


def stop(dest: Path) -> bool:
    """End the lab that runs in the background, and remove what one that was killed left. Returns whether one ran.

    Raises HostError when what runs from there is a test in the foreground.
    """
    require_root("lab down")
    process = _background(dest)
    for number in (signal.SIGTERM, signal.SIGKILL) if process else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
        until = time.monotonic() + _WAIT
        while holder(dest) and time.monotonic() < until:
            time.sleep(0.05)
    if holder(dest):
        raise HostError(f"process {process} does not end", hint=f"ps {process}")
    shutil.rmtree(dest / "lab", ignore_errors=True)
    return bool(process)
