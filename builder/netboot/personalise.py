"""Make a root a node's own: files rendered from the inventory, the node's state and templates.

All of it is pure: nothing is written here. Templates are the trees `overlays/node`, `overlays/node-role/ROLE` and
`overlays/node-name/NODE`, of pibuild and beside cluster.yaml; a later one replaces a file of an earlier one. `X.j2` is
rendered with Jinja2 to `X` (an undefined variable is an error), any other file is taken as it is, symbolic links too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import jinja2
import yaml

from builder.errors import InputError, Mark, Problem
from builder.firmware.cmdline_txt import key_of, split
from builder.host.confine import is_file
from builder.host.data import OVERLAYS
from builder.host.hashing import digest_of
from builder.host.named_file import text_in
from builder.host.overlay import Laid, walk
from builder.host.templates import environment
from builder.image.identities import node_identities, node_rows
from builder.inventory.nodes import Inventory, Node
from builder.kubernetes.k3s import ADDED, CONFIG, DATA, VOLUMES, is_file_volume, unknown_keys
from builder.monitoring.forwarder import template_values
from builder.netboot.diskless import Kept, cmdline_for_nfs, cmdline_left_out, fstab_without_disks
from builder.netboot.generation import Generation
from builder.netboot.layout import PERSIST, Netboot
from builder.netboot.model_window import node_models
from builder.netboot.once import Once
from builder.netboot.state import NodeState

# options that the initramfs's mount understands: usr/kinit/nfsmount/main.c of klibc
_FLAGS = frozenset(
    {"soft", "hard", "intr", "nointr", "posix", "noposix", "cto", "nocto", "ac", "noac", "lock", "nolock"}
    | {"acl", "noacl", "broken_suid", "v2", "v3", "udp", "tcp", "ro", "rw"}
)
_NUMBERS = frozenset(
    {"port", "nfsvers", "vers", "rsize", "wsize", "timeo", "retrans", "acregmin", "acregmax", "acdirmin", "acdirmax"}
)
# noacl: on nfs-ganesha 4.3 (Debian 12, Ubuntu 24.04) taking an ACL away fails with EIO (nfs-ganesha #918), and with it
# every unit that has a StateDirectory= and a user. Without ACLs a node also asks less of any server.
# A layer of an overlay needs them all the same: see pibuild-shared-root.
MOUNT = "vers=3,tcp,hard,noacl"
_MOUNT_LAYER = "vers=3,tcp,hard"
_MOUNT_LATER = "vers=3,tcp,nolock,noacl,nofail,_netdev"
# Newer than /usr, they keep systemd from making caches again that the image has, at first boot, with a shared root at
# every one (systemd-update-done.service(8)): linker, hardware database, journal catalog, users.
_UPDATED = ("/etc/.updated", "/var/.updated")
ANY_NAME = "NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFile:
    """A file, or with `link` a symbolic link, of a node's root. `secret` keeps its content out of names."""

    path: str
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    link: str = ""
    secret: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a root is made for and of what. `shared`: the root itself is the generation's, read-only.

    `once` has what was read for other nodes of the same run.
    """

    inventory: Inventory
    node: Node
    generation: Generation
    netboot: Netboot
    state: NodeState
    shared: bool
    keys: tuple[str, ...] = ()
    salt: str = ""
    once: Once = field(default_factory=Once)


@dataclass(frozen=True, slots=True, kw_only=True)
class Personal:
    """A node's own files, its cmdline.txt, the paths it keeps, and the name that its root gets for all of that."""

    name: str
    files: tuple[NodeFile, ...]
    cmdline: str
    persist: tuple[str, ...]


def personalise(subject: Subject) -> Personal:
    """Return what makes a root the node's own. Raises InputError for a template or a setting that cannot work."""
    files = {file.path: file for file in (*_own_files(subject), *rendered(subject))}
    _check_containers(subject, files)
    draft = [*files.values(), _fstab(subject, ANY_NAME)]
    cmdline = _cmdline(subject, ANY_NAME)
    facts = [
        (file.path, file.mode, file.uid, file.gid, file.link, "" if file.secret else file.content.hex())
        for file in draft
    ]
    key = digest_of([sorted(facts), cmdline, subject.shared, list(kept(subject.node)), subject.salt])[:8]
    name = f"{subject.generation.digest}-{key}"
    final = {**files, "/etc/fstab": _fstab(subject, name)}
    return Personal(
        name=name,
        files=tuple(final[path] for path in sorted(final)),
        cmdline=_cmdline(subject, name),
        persist=kept(subject.node),
    )


def kept(node: Node) -> tuple[str, ...]:
    """Return the paths that a node keeps whichever root it boots: those it is told to, and its volumes."""
    volumes = (VOLUMES,) if is_file_volume(node.k3s.volume) else ()
    return tuple(dict.fromkeys((*node.persist, *volumes)))


# ------------------------------------------------------------------------------------------------------------ built in


def _own_files(subject: Subject) -> Iterator[NodeFile]:
    state, timezone = subject.state, subject.inventory.cluster.timezone
    for file in state.files:
        yield NodeFile(path=file.path, content=file.content, mode=file.mode, secret=file.mode == 0o600)  # noqa: PLR2004
    rows = subject.once(node_rows, subject.generation.root)
    for path, (content, mode) in node_identities(rows, state.machine_id).items():
        yield NodeFile(path=f"/{path}", content=content, mode=mode)
    if not subject.once(is_file, subject.generation.root / "usr/share/zoneinfo" / timezone):
        problem = f"the image knows no time zone '{timezone}'"
        raise InputError(Problem(message=problem, hint="cluster.timezone: a name of timedatectl list-timezones"))
    yield NodeFile(path="/etc/localtime", link=f"/usr/share/zoneinfo/{timezone}")
    yield _authorized_keys(subject)
    listed = "".join(f"{path} {text}\n" for path, text in sorted(subject.generation.capabilities.items()))
    yield NodeFile(path="/etc/pibuild/capabilities", content=listed.encode())
    for path in _UPDATED:
        yield NodeFile(path=path, content=b"# Written by pibuild: the image has the caches of its /usr.\n")


def _authorized_keys(subject: Subject) -> NodeFile:
    node, users = subject.node, subject.once(subject.generation.users)
    user = users.get(node.user)
    if user is None:
        known = ", ".join(sorted(users))
        message = f"node {node.name}: the image has no user '{node.user}' to give the login node's key to"
        raise InputError(Problem(message=message, mark=node.mark, hint=f"user: one of {known}; or another image"))
    path = f"{user.home.rstrip('/')}/.ssh/authorized_keys"
    there = [line for line in subject.once(subject.generation.read, path).splitlines() if line.strip()]
    lines = dict.fromkeys([*there, subject.state.login_key, *subject.keys])
    content = "".join(f"{line}\n" for line in lines).encode()
    return NodeFile(path=path, content=content, mode=0o600, uid=user.uid, gid=user.gid)


def _fstab(subject: Subject, name: str) -> NodeFile:
    node, server = subject.node, subject.inventory.login.address
    boot_mount = subject.generation.boot_mount
    lines = list(subject.once(_image_fstab, subject.generation).lines)
    if not subject.shared:
        boot = subject.netboot.boot(node.name, name)
        lines.append(f"{server}:{boot} {boot_mount} nfs {_MOUNT_LATER} 0 0")
        persist = subject.netboot.root(node.name, PERSIST)
        lines += [f"{server}:{persist}{path} {path} nfs {_MOUNT_LATER} 0 0" for path in kept(node)]
    return NodeFile(path="/etc/fstab", content="".join(f"{line}\n" for line in lines).encode())


def _image_fstab(generation: Generation) -> Kept:
    return fstab_without_disks(generation.read("/etc/fstab"), generation.boot_mount)


def _cmdline(subject: Subject, name: str) -> str:
    node, netboot, server = subject.node, subject.netboot, subject.inventory.login.address
    root = subject.generation.root if subject.shared else netboot.root(node.name, name)
    mount = _MOUNT_LAYER if subject.shared else MOUNT
    words = ["root=/dev/nfs", f"nfsroot={server}:{root},{mount}", "ro" if subject.shared else "rw", "ip=dhcp"]
    if subject.shared:
        words.append(f"pibuild.node={server}:{netboot.roots / node.name}/{name}")
    text = cmdline_for_nfs(subject.once(_image_cmdline, subject.generation), [*words, *node.cmdline])
    problems = [Problem(message=f"node {node.name}: {told}", mark=node.mark) for told in lint_cmdline(text)]
    if problems:
        raise InputError(*problems)
    return text


def _image_cmdline(generation: Generation) -> str:
    return text_in(generation.boot, "cmdline.txt")


def left_out(generation: Generation) -> tuple[str, ...]:
    """Return in words what nodes do not take over of an image, as they have no disk."""
    return (*_image_fstab(generation).left_out, *cmdline_left_out(_image_cmdline(generation)))


def lint_cmdline(text: str) -> list[str]:
    """Return what of a command line would keep a node from mounting its NFS root in an initramfs."""
    words = split(text)
    values = {key_of(word): word.partition("=")[2] for word in words}
    found = []
    if values.get("root") != "/dev/nfs":
        found.append("cmdline.txt: root= is not /dev/nfs")
    where, *options = values.get("nfsroot", "").split(",")
    if ":/" not in where:
        found.append("cmdline.txt: nfsroot= is not SERVER:/PATH")
    for option in options:
        key, _, value = option.partition("=")
        if key in ("vers", "nfsvers") and value != "3":
            found.append(f"cmdline.txt: nfsroot option '{option}': the initramfs mounts NFS version 3 alone")
        elif option not in _FLAGS and not (key in _NUMBERS and value.isdigit()):
            found.append(f"cmdline.txt: nfsroot option '{option}' is none that the initramfs's nfsmount knows")
    if "rw" not in words and "pibuild.node" not in values:
        found.append("cmdline.txt: 'rw' is missing: the root would stay read-only")
    if "ip" not in values:
        found.append("cmdline.txt: ip= is missing: no network, no root")
    return found


def _check_containers(subject: Subject, files: Mapping[str, NodeFile]) -> None:
    """Refuse what k3s would stop at: options it does not have, and containerd's overlayfs on NFS.

    The kernel mounts no overlay whose upper layer lies there.
    """
    node = subject.node
    settings: dict[str, object] = {}
    for path in (path for path in (CONFIG, ADDED) if path in files):
        try:
            read = subject.once(_k3s_settings, files[path].content)
            problems = unknown_keys(read, node.role)
        except ValueError as error:
            read, problems = {}, [str(error)]
        if problems:
            hint = "k3s: {config: …} in the inventory, or the template of that file"
            raise InputError(
                *(Problem(message=f"node {node.name}: {path}: {told}", mark=node.mark, hint=hint) for told in problems)
            )
        settings |= read
    if CONFIG not in files or subject.shared or node.k3s.volume != "none":
        return
    mounts = [line.split() for line in _fstab(subject, ANY_NAME).content.decode().splitlines()]
    if settings.get("snapshotter", "overlayfs") != "overlayfs" or any(
        row[1:2] == [str(DATA)] and not any(kind.startswith("nfs") for kind in row[2:3]) for row in mounts
    ):
        return
    hint = "snapshotter: fuse-overlayfs in the template of /etc/rancher/k3s/config.yaml, or k3s: {volume: 8G}"
    message = f"node {node.name}: k3s would run containerd's overlayfs on an NFS root, which the kernel refuses"
    raise InputError(Problem(message=message, mark=node.mark, hint=hint))


def _k3s_settings(content: bytes) -> Mapping[str, object]:
    """Return the options that a configuration of k3s sets. Raises ValueError for what k3s could not read either."""
    try:
        read = yaml.safe_load(content)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("no YAML") from error
    if not isinstance(read, dict | None) or not all(isinstance(key, str) for key in read or {}):
        raise ValueError("no mapping of options to values")
    return read or {}


# ------------------------------------------------------------------------------------------------------------ templates


def template_trees(inventory: Inventory, node: Node) -> list[Path]:
    """Return the trees of templates for a node, the ones that win last."""
    own, beside = OVERLAYS, inventory.path.resolve().parent / "overlays"
    places = dict.fromkeys((own, beside))
    names = ("node", f"node-role/{node.role}", f"node-name/{node.name}")
    return [place / name for name in names for place in places if (place / name).is_dir()]


def rendered(subject: Subject) -> list[NodeFile]:
    """Return the files of all trees of templates, rendered. Raises InputError with the template's place."""
    found: dict[str, NodeFile] = {}
    known = variables(subject)
    for tree in template_trees(subject.inventory, subject.node):
        for laid in subject.once(_laid, tree):
            file = _render(known, subject.once(_source, laid))
            found[file.path] = file
    return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A file of a tree of templates: as it is for every node, or with the text of its template."""

    file: NodeFile
    at: Path
    template: str | None = None


def _laid(tree: Path) -> tuple[Laid, ...]:
    return tuple(laid for laid in walk(tree) if laid.kind != "directory")


def _source(laid: Laid) -> _Source:
    if laid.link is not None:
        return _Source(file=NodeFile(path=laid.path, link=laid.link), at=laid.source)
    mode = 0o755 if laid.source.stat().st_mode & 0o100 else 0o644
    if laid.source.suffix != ".j2":
        return _Source(file=NodeFile(path=laid.path, content=laid.source.read_bytes(), mode=mode), at=laid.source)
    file = NodeFile(path=laid.path.removesuffix(".j2"), mode=mode)
    return _Source(file=file, at=laid.source, template=laid.source.read_text())


@functools.cache
def _compiled(text: str) -> jinja2.Template:
    """Return a template, compiled once for all nodes."""
    return environment().from_string(text)


def _render(known: Mapping[str, object], source: _Source) -> NodeFile:
    if source.template is None:
        return source.file
    try:
        text = _compiled(source.template).render(known)
    except jinja2.TemplateSyntaxError as error:
        mark = Mark(file=source.at, line=error.lineno, column=1)
        raise InputError(Problem(message=f"template: {error.message}", mark=mark)) from error
    except jinja2.UndefinedError as error:
        mark = Mark(file=source.at, line=1, column=1)
        hint = f"there are {', '.join(sorted(known))}"
        raise InputError(Problem(message=f"template: {error.message}", mark=mark, hint=hint)) from error
    return replace(source.file, content=text.encode())


def variables(subject: Subject) -> dict[str, object]:
    """Return what templates can say."""
    inventory = subject.inventory
    masters = [node for node in inventory.nodes if node.role == "master"]
    return {
        "node": subject.node,
        "nodes": inventory.nodes,
        "hosts": "".join(line for name, line in subject.once(inventory.host_lines) if name != subject.node.name),
        "cluster": inventory.cluster,
        "login": inventory.login,
        "backup": inventory.backup,
        "master": masters[0] if masters else None,
        "machine_id": subject.state.machine_id,
        "image": subject.generation.sha256,
        "shared": subject.shared,
        "login_key": subject.state.login_key,
        "models": node_models(inventory, subject.node),
        **template_values(inventory, subject.node),
    }
