"""From an image and an inventory to what nodes boot: prepare everything aside, then switch node by node.

Killed at any moment, every node boots what it booted before or, whole, what it was to boot: roots and boot directories
get their names by rename after they reached the disk, and a board's switch is the rename of one link.

A node writes where its roots are. What it makes impossible there fails for that node, whose row says so, and for no
other. A node that went back (`rollback`) stays with that root until it is released.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder.console import note, warn
from builder.errors import HostError, InputError, PibuildError, Problem, VerdictError
from builder.firmware.boot_files import DirectoryTree
from builder.host.confine import is_directory, is_there
from builder.host.dirmode import let_in
from builder.host.unwritable import is_full
from builder.image.attach import Method as AttachMethod
from builder.image.capabilities import can_mend
from builder.inventory.nodes import Inventory, Node
from builder.kubernetes.k3s import BINARY, storage_warnings
from builder.netboot.board import ask_boards
from builder.netboot.gc import forget_former
from builder.netboot.generation import Generation, ImageFile, bring_in, find_image
from builder.netboot.layout import PERSIST, Netboot
from builder.netboot.once import Once
from builder.netboot.personalise import Personal, Subject, left_out, personalise
from builder.netboot.record import Record, Way
from builder.netboot.root import Method, changed_files, find_way, make_boot, make_persistent, make_root
from builder.netboot.state import NodeState, make_state

_NAMED = 5  # nodes in a line


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplodeOptions:
    """What was asked for. `keys` are lines of authorized_keys; `fresh` makes new roots even where nothing changed.

    `unhold` lets nodes that went back go forward again.
    """

    image: Path | None = None
    method: Method = "auto"
    attach: AttachMethod = "auto"
    keys: tuple[str, ...] = ()
    fresh: bool = False
    unhold: bool = False
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploded:
    """What became, or would become, of a node.

    `before` and `after` name its roots; `after` is "" where only making it will tell. `action` is make, switch (the
    root is there, and another one is booted), none, held (it went back, and stays) or failed, for which `failed` is the
    reason. `changed` are the node's own files that differ from before; `takes` is what making the root takes, in bytes,
    and with `image_takes` what bringing its image in does, which the first node of an image has.
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
    takes: int = 0
    image_takes: int = 0
    failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A node to explode."""

    node: Node
    generation: Generation
    personal: Personal
    way: Way
    action: str

    @property
    def shared(self) -> bool:
        """Whether its root is a shared one."""
        return self.way == "shared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run works with. `once` has what was read for one node and is the same for others."""

    inventory: Inventory
    netboot: Netboot
    options: ExplodeOptions
    once: Once = field(default_factory=Once)

    def personal(self, node: Node, generation: Generation, state: NodeState) -> Personal:
        """Return what makes a root of a generation the node's own."""
        return personalise(
            Subject(
                inventory=self.inventory,
                node=node,
                generation=generation,
                netboot=self.netboot,
                state=state,
                shared=method_of(node, self.options) == "shared",
                keys=self.options.keys,
                salt=secrets.token_hex(8) if self.options.fresh else "",
                once=self.once,
            )
        )


def choose(inventory: Inventory, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Return those nodes that boot over the network. Raises InputError where none does."""
    chosen = tuple(node for node in nodes if node.boot == "network")
    own = [node.name for node in nodes if node not in chosen]
    if not chosen:
        message = f"no node to explode: {named(own)} boot{'s' * (len(own) == 1)} from a disk of its own"
        mark = nodes[0].mark if len(nodes) == 1 else None
        hint = (
            f"boot: network in {inventory.path} for a node that has none; a disk is given the image itself (README.md)"
        )
        raise InputError(Problem(message=message, mark=mark, hint=hint))
    if own:
        note(f"left out, with a disk of their own: {named(own)}")
    return tuple(node for node in inventory.nodes if node in chosen)


def named(names: Sequence[str]) -> str:
    """Return a few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def explode(inventory: Inventory, nodes: Sequence[Node], dest: Path, options: ExplodeOptions) -> tuple[Exploded, ...]:
    """Make the nodes' next roots and let their boards boot them. Needs root and a private mount namespace.

    Raises InputError for what cannot be meant, HostError when this machine cannot; then nothing is switched. What
    fails for a node alone is in its row, and the others are done.
    """
    netboot = Netboot(dest.absolute())
    with netboot.locked(begin=True), _room(netboot):
        forget_former(netboot)
        staying = [node for node in nodes if netboot.held(node.name) and not options.unhold]
        nodes = [node for node in nodes if node not in staying]
        images = find_images(inventory, nodes, options)
        generations = {name: bring_in(netboot, image, attach=options.attach) for name, image in images.items()}
        states = make_state(netboot, tuple(nodes))
        working = Run(inventory=inventory, netboot=netboot, options=options)
        jobs = [_job(working, node, generations[node.image], states[node.name]) for node in nodes]
        seconds, failed = _make_all(working, [job for job in jobs if job.action == "make"])
        netboot.flush()
        booted = netboot.booted()
        stopped = ask_boards(
            (job.node, job.generation, DirectoryTree(root=netboot.boot(job.node.name, job.personal.name)), job.shared)
            for job in jobs
            if job.node.name not in failed
        )
        failed |= stopped
        _record_before(netboot, jobs, booted, failed)
        done = {
            job.node.name: _switched(inventory, netboot, job, booted, failed.get(job.node.name, "")) for job in jobs
        }
        netboot.flush()
        done = {name: replace(row, seconds=round(seconds.get(name, 0.0), 3)) for name, row in done.items()}
        done |= {node.name: stay(netboot, node, booted) for node in staying}
    return conclude(inventory, jobs, done, stopped)


def conclude(
    inventory: Inventory, jobs: Sequence[Job], done: Mapping[str, Exploded], stopped: Mapping[str, str]
) -> tuple[Exploded, ...]:
    """Say what all should know of what was made; return the rows in the inventory's order.

    Raises VerdictError where boards would stop.
    """
    generations = tuple({job.generation.directory: job.generation for job in jobs}.values())
    _report_capabilities(generations)
    _report_left_out(generations)
    unsaid = [job.node.name for job in jobs if job.shared and job.node.root != "shared"]
    if unsaid:
        warn(f"{', '.join(unsaid)}: the servers export what is shared only for `root: shared` in {inventory.path}")
    if stopped:
        reasons = "\n".join(f"{name}: {row.failed}" for name, row in done.items() if row.failed)
        hint = "these boot what they booted; pibuild boot IMAGE --check-only --board BOARD"
        raise VerdictError(f"not switched:\n{reasons}", hint=hint)
    return tuple(done[node.name] for node in inventory.nodes if node.name in done)


# -------------------------------------------------------------------------------------------------------------- making


def find_images(inventory: Inventory, nodes: Sequence[Node], options: ExplodeOptions) -> dict[str, ImageFile]:
    """Return the images that nodes boot, by name."""
    names = dict.fromkeys(node.image for node in nodes)
    return {name: find_image(options.image, name, inventory.path.resolve().parent) for name in names}


def method_of(node: Node, options: ExplodeOptions) -> Method:
    """Return how a node's root is to be made."""
    wanted: Mapping[str, Method] = {"copy": "copy", "reflink": "reflink", "shared": "shared"}
    return wanted.get(node.root, "auto") if options.method == "auto" else options.method


def _job(run: Run, node: Node, generation: Generation, state: NodeState) -> Job:
    personal = run.personal(node, generation, state)
    way = run.once(find_way, run.netboot.dest, generation, method_of(node, run.options))
    action = action_for(run.netboot, node, personal.name)
    return Job(node=node, generation=generation, personal=personal, way=way, action=action)


def action_for(netboot: Netboot, node: Node, name: str) -> str:
    """Return what has to be done so that a node boots a root."""
    if not netboot.is_whole(node.name, name):
        return "make"
    return "none" if netboot.current(node.serial) == name else "switch"


def _make_all(run: Run, jobs: Sequence[Job]) -> tuple[dict[str, float], dict[str, str]]:
    """Make roots side by side, flush, and give them their names; return the seconds, and by node what failed."""
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    with run.netboot.scratch() as scratch, ThreadPoolExecutor(max_workers=max(1, run.options.jobs)) as threads:
        running = {threads.submit(_make, run, job, scratch): job for job in jobs}
        try:
            for number, future in enumerate(as_completed(running), start=1):
                job = running[future]
                with alone(job.node, failed):
                    seconds[job.node.name] = future.result()
                    note(f"{job.node.name}: {job.way}, {seconds[job.node.name]:.1f} s ({number}/{len(jobs)})")
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
        run.netboot.flush()
        _record_all(run.netboot, jobs, failed)
        for job in jobs:
            if job.node.name not in failed:
                with alone(job.node, failed):
                    _name(run.netboot, job, scratch)
    return seconds, failed


def _record_all(netboot: Netboot, jobs: Sequence[Job], failed: dict[str, str]) -> None:
    """Put on record how roots were made, before they get their names."""
    records = {}
    for job in jobs:
        if job.node.name not in failed:
            with alone(job.node, failed):
                node, name = job.node.name, job.personal.name
                before = netboot.record(node, name) or Record(generation=job.generation.digest, way=job.way)
                records[node, name] = replace(before, way=job.way, made=int(time.time()))
    netboot.write_records(records)


@contextlib.contextmanager
def alone(node: Node, failed: dict[str, str]) -> Iterator[None]:
    """Note what fails for a node, so that the others go on; a full disk ends it for all."""
    try:
        yield
    except (OSError, PibuildError) as error:
        if is_full(error):
            raise
        failed[node.name] = str(error)
        warn(f"{node.name}: {error}")


def _make(run: Run, job: Job, scratch: Path) -> float:
    begun, netboot = time.monotonic(), run.netboot
    home = scratch / job.node.name
    home.mkdir()
    make_root(job.generation, job.personal, job.way, home / "root", once=run.once)
    make_boot(job.generation, job.personal, job.way, home / "boot")
    (netboot.roots / job.node.name).mkdir(exist_ok=True)
    let_in(netboot.roots / job.node.name)
    if not kept_as(run.inventory, netboot, job.node):
        make_persistent(netboot, job.generation, job.node.name, job.personal.persist)
    return time.monotonic() - begun


def kept_as(inventory: Inventory, netboot: Netboot, node: Node) -> str:
    """Return the former name under which lies what a renamed node keeps, "" when there is nothing to take over."""
    former = netboot.former(node.name, node.serial)
    if not former or is_there(netboot.root(node.name, PERSIST)) or not is_directory(netboot.root(former, PERSIST)):
        return ""
    return former if all(former != each.name for each in inventory.nodes) else ""


def _take_over(inventory: Inventory, netboot: Netboot, job: Job) -> None:
    """Let what a renamed node keeps go with its new name, now that it boots under it."""
    former = kept_as(inventory, netboot, job.node)
    if former:
        netboot.flush()  # what the board boots first
        netboot.root(former, PERSIST).rename(netboot.root(job.node.name, PERSIST))
        make_persistent(netboot, job.generation, job.node.name, job.personal.persist)


def _record_before(
    netboot: Netboot, jobs: Sequence[Job], booted: Mapping[str, tuple[str, str]], failed: dict[str, str]
) -> None:
    """Put on record what nodes boot before they are switched, for all of them together."""
    records: dict[tuple[str, str], Record] = {}
    for job in jobs:
        if job.node.name not in failed:
            with alone(job.node, failed):
                node, name = job.node.name, job.personal.name
                record = netboot.noted_before(node, job.node.serial, name, booted)
                records |= {(node, name): record} if record else {}
    netboot.write_records(records)


def _name(netboot: Netboot, job: Job, scratch: Path) -> None:
    """Give a finished root its name: the boot directory first, as a root without one counts as not made."""
    node, name = job.node.name, job.personal.name
    root, boot = netboot.root(node, name), netboot.boot(node, name)
    netboot.discard(boot)  # of a run that was killed between the two
    keeps = netboot.current(job.node.serial) == name and is_directory(root)  # it may run from there: only boot was lost
    if not keeps:
        netboot.discard(root)
    boot.parent.mkdir(exist_ok=True)
    let_in(boot.parent)
    (scratch / node / "boot").rename(boot)
    if not keeps:
        (scratch / node / "root").rename(root)


def _switched(
    inventory: Inventory, netboot: Netboot, job: Job, booted: dict[str, tuple[str, str]], failed: str
) -> Exploded:
    """Let a board boot its root, unless it could not be made; return what became of the node."""
    failures = {job.node.name: failed} if failed else {}
    row = Exploded(
        node=job.node.name,
        serial=job.node.serial,
        image=job.generation.digest,
        before=netboot.current(job.node.serial),
        after=job.personal.name,
        way=job.way,
        action=job.action,
        changed=(),
    )
    with alone(job.node, failures):
        if not failed:
            row = replace(row, changed=changed_files(netboot, job.node, job.personal.files))
            netboot.switch(job.node.name, job.node.serial, job.personal.name, booted=booted, flush=False)
            _take_over(inventory, netboot, job)
            netboot.release(job.node.name)
            warn_of_storage(job.node, job.generation)
    if not failures:
        return row
    boots = netboot.current(job.node.serial)
    return replace(row, action="failed", after=boots, failed=failures[job.node.name])


def _held_row(netboot: Netboot, node: Node) -> Exploded:
    """Return the row of a node that stays with the root it went back to."""
    name, before = netboot.held(node.name), netboot.current(node.serial)
    return Exploded(
        node=node.name,
        serial=node.serial,
        image=name.partition("-")[0],
        before=before,
        after=name,
        way="",
        action="held" if before == name else "switch",
        changed=(),
    )


def stay(netboot: Netboot, node: Node, booted: dict[str, tuple[str, str]] | None) -> Exploded:
    """Let a board boot the root that its node is held at: a board that was replaced boots nothing yet.

    Without `booted` that is found out, and nothing changed.
    """
    row = _held_row(netboot, node)
    if row.action == "held":
        return row
    failures: dict[str, str] = {}
    with alone(node, failures):
        _require_held(netboot, row)
        if booted is not None:
            netboot.switch(node.name, node.serial, row.after, back=True, booted=booted)
    return replace(row, action="failed", after=row.before, failed=failures[node.name]) if failures else row


def _require_held(netboot: Netboot, row: Exploded) -> None:
    """Raise HostError where the root that a node is held at is gone."""
    if not netboot.is_whole(row.node, row.after):
        hint = f"sudo pibuild explode --unhold --node {row.node}"
        raise HostError(f"{row.node} is held at {row.after}, which is gone", hint=hint)


def warn_of_storage(node: Node, generation: Generation) -> None:
    """Warn of what a node's role asks of storage and its root cannot give."""
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
        if not is_full(error):
            raise
        free = shutil.disk_usage(netboot.dest).free
        message = f"the disk of {netboot.dest} is full ({free >> 20} MiB free); every node boots what it booted"
        raise HostError(message, hint=f"pibuild node gc --dest {netboot.dest}; df -h {netboot.dest}") from error
