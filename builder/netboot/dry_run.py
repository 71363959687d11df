"""Find out what `explode` would do, without changing anything.

All that the real run checks is checked, with its messages and exit codes: an image that was not brought in is mounted
read-only, or copied where it cannot be; nodes without an identity get one for the moment; boards are asked with the
command line that they would get. What lies in a temporary directory ($TMPDIR) is gone afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.firmware.boot_files import Answer, DirectoryTree, Tree
from builder.host.scratch import temporary
from builder.inventory.nodes import Inventory, Node
from builder.netboot.board import ask_boards
from builder.netboot.cost import taken
from builder.netboot.explode import (
    Exploded,
    ExplodeOptions,
    Job,
    Run,
    action_for,
    alone,
    conclude,
    find_images,
    kept_as,
    method_of,
    stay,
    warn_of_storage,
)
from builder.netboot.generation import Generation, ImageFile, is_btrfs, looked_at, read_generation
from builder.netboot.layout import Netboot, nearest
from builder.netboot.record import Way
from builder.netboot.root import changed_files, find_way
from builder.netboot.state import NodeState, make_state, read_state


@dataclass(frozen=True, slots=True, kw_only=True)
class _WithCmdline:
    """A generation's boot files with a node's own command line: a Tree."""

    tree: DirectoryTree
    cmdline: bytes

    def probe(self, name: str) -> Answer:
        """Say whether the server would send a file."""
        return replace(self.read(name), data=b"") if name == "cmdline.txt" else self.tree.probe(name)

    def read(self, name: str) -> Answer:
        """Return a file's content."""
        if name == "cmdline.txt":
            return Answer(outcome="found", size=len(self.cmdline), data=self.cmdline)
        return self.tree.read(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """A job of which some is known only when it is done: the root's name without an identity, or with a new salt."""

    job: Job
    brought_in: bool
    named: bool


def plan_explode(
    inventory: Inventory, nodes: Sequence[Node], dest: Path, options: ExplodeOptions
) -> tuple[Exploded, ...]:
    """Return what `explode` would do, and raise what it would raise. Writes nothing where nodes boot.

    Needs root and a private mount namespace.
    """
    netboot = Netboot(dest.absolute())
    netboot.require_room_to_begin()
    staying = [node for node in nodes if netboot.held(node.name) and not options.unhold]
    nodes = [node for node in nodes if node not in staying]
    images = find_images(inventory, nodes, options)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(temporary("dry-run"))
        there = {name: read_generation(netboot, image.digest) for name, image in images.items()}
        seen = {name: there[name] or _look(stack, image, scratch, options) for name, image in images.items()}
        states = {node.name: read_state(netboot, node) for node in nodes}
        new = _new_states(scratch, tuple(node for node in nodes if states[node.name] is None))
        working = Run(inventory=inventory, netboot=netboot, options=options)
        planned = []
        for node in nodes:
            known, generation = states[node.name], seen[node.image]
            personal = working.personal(node, generation, known or new[node.name])
            way = _way(netboot, generation, node, options, brought_in=there[node.image] is not None)
            action = action_for(netboot, node, personal.name)
            job = Job(node=node, generation=generation, personal=personal, way=way, action=action)
            named = known is not None and not options.fresh
            planned.append(_Planned(job=job, brought_in=there[node.image] is not None, named=named))
        failed: dict[str, str] = {}
        for each in planned:
            with alone(each.job.node, failed):
                kept_as(inventory, netboot, each.job.node)
        stopped = ask_boards(
            (each.job.node, each.job.generation, _boot(netboot, each.job), each.job.shared)
            for each in planned
            if each.job.node.name not in failed
        )
        failed |= stopped
        done = {each.job.node.name: _row(netboot, each, failed.get(each.job.node.name, "")) for each in planned}
        done = _with_cost(planned, done)
        done |= {node.name: stay(netboot, node, None) for node in staying}
        return conclude(inventory, [each.job for each in planned], done, stopped)


def _look(stack: contextlib.ExitStack, image: ImageFile, scratch: Path, options: ExplodeOptions) -> Generation:
    place = scratch / f"image-{image.digest}"
    place.mkdir(exist_ok=True)
    return stack.enter_context(looked_at(image, place, attach=options.attach))


def _new_states(scratch: Path, nodes: tuple[Node, ...]) -> dict[str, NodeState]:
    """Return an identity for each of the nodes that have none, good for this run."""
    if not nodes:
        return {}
    netboot = Netboot(scratch / "new")
    for path in (netboot.dest, netboot.state, netboot.tmp):
        path.mkdir(mode=0o700)
    return make_state(netboot, nodes)


def _way(netboot: Netboot, generation: Generation, node: Node, options: ExplodeOptions, *, brought_in: bool) -> Way:
    method = method_of(node, options)
    if not brought_in and method in ("auto", "reflink") and is_btrfs(nearest(netboot.dest)):
        return "snapshot"  # as which it would be brought in
    return find_way(netboot.dest, generation, method)


def _boot(netboot: Netboot, job: Job) -> Tree:
    if job.action != "make":
        return DirectoryTree(root=netboot.boot(job.node.name, job.personal.name))
    return _WithCmdline(tree=DirectoryTree(root=job.generation.boot), cmdline=job.personal.cmdline.encode())


def _row(netboot: Netboot, planned: _Planned, failed: str) -> Exploded:
    job, before = planned.job, netboot.current(planned.job.node.serial)
    row = Exploded(
        node=job.node.name,
        serial=job.node.serial,
        image=job.generation.digest,
        before=before,
        after=job.personal.name if planned.named else "",
        way=job.way,
        action=job.action if planned.brought_in else "ingest and make",
        changed=(),
    )
    if failed:
        return replace(row, action="failed", after=before, failed=failed)
    warn_of_storage(job.node, job.generation)
    return replace(row, changed=changed_files(netboot, job.node, job.personal.files) if planned.named else ())


def _with_cost(planned: Sequence[_Planned], rows: Mapping[str, Exploded]) -> dict[str, Exploded]:
    """Add what the roots that are made take of the disk, and the images that are brought in first."""
    found = dict(rows)
    whole: dict[Path, int] = {}
    brought_in: set[Path] = set()
    for each in planned:
        job, row = each.job, rows[each.job.node.name]
        if row.failed or job.action != "make":
            continue
        generation = job.generation
        if generation.directory not in whole:
            whole[generation.directory] = taken([generation.root, generation.boot])
        own = sum(len(file.content) for file in job.personal.files)
        boot = 0 if job.way == "shared" else taken([generation.boot])
        takes = whole[generation.directory] if job.way == "copy" else own + boot
        image = 0
        if not each.brought_in and generation.directory not in brought_in:
            image = whole[generation.directory]
            brought_in.add(generation.directory)
        found[row.node] = replace(row, takes=takes, image_takes=image)
    return found
