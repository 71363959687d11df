"""From an image and an inventory to what nodes boot: prepare everything aside, then switch node by node.

Killed at any moment, every node boots what it booted before or, whole, what it was to boot: roots and boot directories
get their names by rename after they reached the disk, and a board's switch is the rename of one link.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from builder.attach import Method as AttachMethod
from builder.confine import resolve_in
from builder.console import note, warn
from builder.dirmode import let_in
from builder.errors import HostError, InputError, PibuildError, Problem, VerdictError
from builder.explode_board import ask_boards
from builder.generation import Generation, ImageFile, bring_in, can_mend, find_image, read_generation
from builder.inventory import Inventory, Node
from builder.k3s_config import BINARY, storage_warnings
from builder.netboot import PERSIST, Netboot
from builder.node_root import Method, Way, find_way, make_boot, make_persistent, make_root
from builder.node_state import NodeState, make_state, read_state
from builder.personalise import NodeFile, Personal, Subject, left_out, personalise


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplodeOptions:
    """What was asked for. `keys` are lines of authorized_keys; `fresh` makes new roots even where nothing changed."""

    image: Path | None = None
    method: Method = "auto"
    attach: AttachMethod = "auto"
    keys: tuple[str, ...] = ()
    fresh: bool = False
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploded:
    """What became, or would become, of a node.

    `before` and `after` name its roots; `after` is "" where only making it will tell. `action` is make, switch (the
    root is there, and another one is booted) or none. `changed` are the node's own files that differ from before.
    """

    node: str
    serial: str
    image: str
    before: str
    after: str
    way: str
    action: str
    changed: tuple[str, ...]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A node to explode."""

    node: Node
    generation: Generation
    personal: Personal
    way: Way
    action: str


def choose(inventory: Inventory, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Return those nodes that boot over the network. Raises InputError where none does."""
    chosen = tuple(node for node in nodes if node.boot == "network")
    if not chosen:
        names = ", ".join(node.name for node in nodes) or "nobody"
        hint = "boot: network in cluster.yaml; pibuild node list"
        raise InputError(Problem(message=f"no node to explode: {names} boots from a disk of its own", hint=hint))
    for node in nodes:
        if node not in chosen:
            note(f"{node.name}: has its own disk, left out")
    return tuple(node for node in inventory.nodes if node in chosen)


def explode(inventory: Inventory, nodes: Sequence[Node], dest: Path, options: ExplodeOptions) -> tuple[Exploded, ...]:
    """Make the nodes' next roots and let their boards boot them. Needs root and a private mount namespace.

    Raises InputError for what cannot be meant, HostError when this machine cannot; then nothing is switched.
    """
    netboot = Netboot(dest.absolute())
    with netboot.locked(), _room(netboot):
        images = _images(inventory, nodes, options)
        generations = {name: bring_in(netboot, image, attach=options.attach) for name, image in images.items()}
        states = make_state(netboot, tuple(nodes))
        jobs = [_job(inventory, node, netboot, generations[node.image], states[node.name], options) for node in nodes]
        seconds = _make_all(inventory, netboot, [job for job in jobs if job.action == "make"], options.jobs)
        done = [_outcome(netboot, job, seconds.get(job.node.name, 0.0)) for job in jobs]
        netboot.flush()
        booted = netboot.booted()
        stopped = ask_boards(
            (job.node, job.generation, netboot.boot(job.node.name, job.personal.name), job.way == "shared")
            for job in jobs
        )
        for job in jobs:
            if job.node.name in stopped:
                continue
            netboot.switch(job.node.name, job.node.serial, job.personal.name, booted=booted)
            _take_over(inventory, netboot, job)
            _warn_of_storage(job.node, job.generation)
    _report_capabilities(tuple(generations.values()))
    _report_left_out(tuple(generations.values()))
    unsaid = [job.node.name for job in jobs if job.way == "shared" and job.node.root != "shared"]
    if unsaid:
        warn(f"{', '.join(unsaid)}: the servers export what is shared only for `root: shared` in {inventory.path}")
    if stopped:
        reasons = "\n".join(f"{name}: {why}" for name, why in stopped.items())
        hint = "these boot what they booted; pibuild boot IMAGE --check-only --board BOARD"
        raise VerdictError(f"not switched:\n{reasons}", hint=hint)
    return tuple(done)


def plan_explode(
    inventory: Inventory, nodes: Sequence[Node], dest: Path, options: ExplodeOptions
) -> tuple[Exploded, ...]:
    """Return what `explode` would do. Writes nothing."""
    netboot = Netboot(dest.absolute())
    images = _images(inventory, nodes, options)
    planned = []
    for node in nodes:
        image = images[node.image]
        generation, state = read_generation(netboot, image.digest), read_state(netboot, node)
        before = netboot.current(node.serial)
        if generation is None or state is None:
            why = "make" if generation else "ingest and make"
            planned.append(_planned(node, image, before=before, action=why))
            continue
        subject = _subject(inventory, node, netboot, generation, state, options)
        personal = personalise(subject)
        _warn_of_storage(node, generation)
        action = _action(netboot, node, personal.name)
        changed = _changed(netboot, node, personal.files)
        planned.append(_planned(node, image, before=before, action=action, after=personal.name, changed=changed))
    return tuple(planned)


def _planned(
    node: Node, image: ImageFile, *, before: str, action: str, after: str = "", changed: tuple[str, ...] = ()
) -> Exploded:
    return Exploded(
        node=node.name,
        serial=node.serial,
        image=image.digest,
        before=before,
        after=after,
        way="",
        action=action,
        changed=changed,
    )


def rollback(inventory: Inventory, name: str, dest: Path) -> tuple[str, str]:
    """Let a node boot what it booted before; return the names of the root it leaves and of the one it goes back to."""
    netboot, node = Netboot(dest.absolute()), inventory.node(name)
    with netboot.locked():
        current = netboot.current(node.serial)
        previous = str(netboot.record(node.name, current).get("previous", "")) if current else ""
        if not current:
            raise InputError(Problem(message=f"{node.name} boots nothing from {netboot.dest}", hint="pibuild explode"))
        there = previous and netboot.root(node.name, previous).is_dir() and netboot.boot(node.name, previous).is_dir()
        if not there:
            hint = f"pibuild explode --node {node.name} --image …"
            raise InputError(Problem(message=f"{node.name} has booted nothing before {current}", hint=hint))
        netboot.switch(node.name, node.serial, previous, back=True)
        return current, previous


# -------------------------------------------------------------------------------------------------------------- making


def _images(inventory: Inventory, nodes: Sequence[Node], options: ExplodeOptions) -> dict[str, ImageFile]:
    names = dict.fromkeys(node.image for node in nodes)
    return {name: find_image(options.image, name, inventory.path.resolve().parent) for name in names}


def _subject(
    inventory: Inventory,
    node: Node,
    netboot: Netboot,
    generation: Generation,
    state: NodeState,
    options: ExplodeOptions,
) -> Subject:
    return Subject(
        inventory=inventory,
        node=node,
        generation=generation,
        netboot=netboot,
        state=state,
        shared=_method(node, options) == "shared",
        keys=options.keys,
        salt=secrets.token_hex(8) if options.fresh else "",
    )


def _method(node: Node, options: ExplodeOptions) -> Method:
    wanted: Mapping[str, Method] = {"copy": "copy", "reflink": "reflink", "shared": "shared"}
    return wanted.get(node.root, "auto") if options.method == "auto" else options.method


def _job(
    inventory: Inventory,
    node: Node,
    netboot: Netboot,
    generation: Generation,
    state: NodeState,
    options: ExplodeOptions,
) -> _Job:
    personal = personalise(_subject(inventory, node, netboot, generation, state, options))
    way = find_way(netboot, generation, _method(node, options))
    action = _action(netboot, node, personal.name)
    return _Job(node=node, generation=generation, personal=personal, way=way, action=action)


def _action(netboot: Netboot, node: Node, name: str) -> str:
    if not (netboot.root(node.name, name).is_dir() and netboot.boot(node.name, name).is_dir()):
        return "make"
    return "none" if netboot.current(node.serial) == name else "switch"


def _make_all(inventory: Inventory, netboot: Netboot, jobs: Sequence[_Job], at_once: int) -> dict[str, float]:
    """Make roots side by side, flush, and give them their names. The first failure ends it, and nothing is named."""
    seconds: dict[str, float] = {}
    with netboot.scratch() as scratch, ThreadPoolExecutor(max_workers=max(1, at_once)) as threads:
        running = {threads.submit(_make, inventory, netboot, job, scratch): job for job in jobs}
        try:
            for number, future in enumerate(as_completed(running), start=1):
                job = running[future]
                seconds[job.node.name] = future.result()
                note(f"{job.node.name}: {job.way}, {seconds[job.node.name]:.1f} s ({number}/{len(jobs)})")
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
        netboot.flush()
        for job in jobs:
            _name(netboot, job, scratch)
    return seconds


def _make(inventory: Inventory, netboot: Netboot, job: _Job, scratch: Path) -> float:
    begun = time.monotonic()
    home = scratch / job.node.name
    home.mkdir()
    make_root(job.generation, job.personal, job.way, home / "root")
    make_boot(job.generation, job.personal, job.way, home / "boot")
    netboot.root(job.node.name, "").mkdir(parents=True, exist_ok=True)
    let_in(netboot.root(job.node.name, ""))
    if not _kept_as(inventory, netboot, job.node):
        make_persistent(netboot, job.generation, job.node.name, job.personal.persist)
    return time.monotonic() - begun


def _kept_as(inventory: Inventory, netboot: Netboot, node: Node) -> str:
    """Return the former name under which lies what a renamed node keeps, "" when there is nothing to take over."""
    former = netboot.former(node.name, node.serial)
    if not former or netboot.root(node.name, PERSIST).exists() or not netboot.root(former, PERSIST).is_dir():
        return ""
    return former if all(former != each.name for each in inventory.nodes) else ""


def _take_over(inventory: Inventory, netboot: Netboot, job: _Job) -> None:
    """Let what a renamed node keeps go with its new name, now that it boots under it."""
    former = _kept_as(inventory, netboot, job.node)
    if former:
        netboot.root(former, PERSIST).rename(netboot.root(job.node.name, PERSIST))
        make_persistent(netboot, job.generation, job.node.name, job.personal.persist)


def _name(netboot: Netboot, job: _Job, scratch: Path) -> None:
    """Give a finished root its name: the boot directory first, as a root without one counts as not made."""
    node, name = job.node.name, job.personal.name
    root, boot = netboot.root(node, name), netboot.boot(node, name)
    netboot.discard(boot)  # of a run that was killed between the two
    keeps = netboot.current(job.node.serial) == name and root.is_dir()  # it may run from there: only boot was lost
    if not keeps:
        netboot.discard(root)
    boot.parent.mkdir(parents=True, exist_ok=True)
    let_in(boot.parent)
    facts = {"generation": job.generation.digest, "way": job.way, "made": int(time.time())}
    netboot.write_record(node, name, {"previous": "", **netboot.record(node, name), **facts})
    (scratch / node / "boot").rename(boot)
    if not keeps:
        (scratch / node / "root").rename(root)


def _outcome(netboot: Netboot, job: _Job, seconds: float) -> Exploded:
    return Exploded(
        node=job.node.name,
        serial=job.node.serial,
        image=job.generation.digest,
        before=netboot.current(job.node.serial),
        after=job.personal.name,
        way=job.way,
        action=job.action,
        changed=_changed(netboot, job.node, job.personal.files),
        seconds=round(seconds, 3),
    )


def _changed(netboot: Netboot, node: Node, files: Sequence[NodeFile]) -> tuple[str, ...]:
    """Return the paths of a node's own files that differ from those in the root it boots now."""
    current = netboot.current(node.serial)
    if not current:
        return ()
    root = netboot.root(node.name, current)
    root = root / "files" if netboot.record(node.name, current).get("way") == "shared" else root
    return tuple(file.path for file in files if not _is_there(root, file))


def _is_there(root: Path, file: NodeFile) -> bool:
    at = resolve_in(root, file.path, follow=False)
    if file.link:
        return at.is_symlink() and str(at.readlink()) == file.link
    return at.is_file() and not at.is_symlink() and at.read_bytes() == file.content


def _warn_of_storage(node: Node, generation: Generation) -> None:
    if (generation.root / BINARY).is_file():
        for told in storage_warnings(node.role, node.k3s.volume, node.persist):
            warn(f"{node.name}: {told}")


def _report_capabilities(generations: Sequence[Generation]) -> None:
    for generation in generations:
        mended = can_mend(generation.root)
        for path, text in generation.capabilities.items():
            then = "pibuild-node.service gives it back on the node" if mended else "the node goes without"
            note(f"{path}: NFS does not carry its {text}; {then}")
        if generation.capabilities and not mended:
            warn("nodes cannot give capabilities back without setcap: add libcap2-bin to the image's packages")


def _report_left_out(generations: Sequence[Generation]) -> None:
    for told in dict.fromkeys(told for generation in generations for told in left_out(generation)):
        note(told)


@contextlib.contextmanager
def _room(netboot: Netboot) -> Iterator[None]:
    """Turn a full disk into one HostError; nothing has been switched then."""
    try:
        yield
    except (OSError, PibuildError) as error:
        if "No space left on device" not in str(error):
            raise
        free = shutil.disk_usage(netboot.dest).free
        message = f"the disk of {netboot.dest} is full ({free >> 20} MiB free); every node boots what it booted"
        raise HostError(message, hint=f"pibuild node gc --dest {netboot.dest}; df -h {netboot.dest}") from error
