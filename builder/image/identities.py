"""The keys and names that each machine has for itself: their files, their packages, and how new ones are made.

The one table of them. Packages make most when they are installed, which is while an image is built: without this table
all machines of an image would share them, and no build would be like the one before. Each row says where that stands.
"""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from builder.host.confine import resolve_in
from builder.host.files import write
from builder.image.filesystem import Entry, FileSystem

_NAMES = uuid.UUID("0d1f0f0a-8f3c-4f0e-9a51-6c1b2a7b7d35")  # of pibuild's own making
_MOST = 1 << 20  # bytes of an identity; more is none
SCRIPT = "usr/local/sbin/pibuild-identities"
UNIT = "etc/systemd/system/pibuild-identities.service"
_WANTED = "etc/systemd/system/sysinit.target.wants/pibuild-identities.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One identity.

    `paths` are relative to the root, the last part may be a pattern; a symbolic link that leads to `link_to` belongs to
    it too. `always`: it leaves the image whoever made it, else only what a package made: what a recipe wrote is meant.
    `form` stays in its place: the package's own unit fills it in. `maker` is a line of shell that makes a new one where
    `program` is and the first path is not; without one the package's own unit does. `per_node` returns a netboot node's
    (from its machine-id), which outlives its roots. `cluster`: machines that work together may have to share it.
    `checked_elsewhere`: by a check of its own. `baked`: it is in the initramfs too; it stays, and is reported.
    """

    package: str
    paths: tuple[str, ...]
    program: str = ""
    link_to: str = ""
    always: bool = False
    form: bytes | None = None
    mode: int = 0o600
    maker: str = ""
    per_node: Callable[[str], Mapping[str, bytes]] | None = None
    cluster: bool = False
    checked_elsewhere: bool = False
    baked: bool = False


def _uuid(machine_id: str, of: str) -> uuid.UUID:
    return uuid.uuid5(_NAMES, f"{machine_id} {of}")


def _initiator(machine_id: str) -> dict[str, bytes]:
    name = f"iqn.1993-08.org.debian:01:{_uuid(machine_id, 'iscsi').hex[:12]}"
    return {"etc/iscsi/initiatorname.iscsi": f"InitiatorName={name}\n".encode()}


def _nvme(machine_id: str) -> dict[str, bytes]:
    own = _uuid(machine_id, "nvme")
    return {
        "etc/nvme/hostnqn": f"nqn.2014-08.org.nvmexpress:uuid:{own}\n".encode(),
        "etc/nvme/hostid": f"{own}\n".encode(),
    }


def _hostid(machine_id: str) -> dict[str, bytes]:
    return {"etc/hostid": _uuid(machine_id, "zfs").bytes[:4]}


# Read in the packages of Debian 12 and 13 (postinst, units, programs), where nothing else is named.
IDENTITIES = (
    # machine-id(5): empty is made at first boot, and a missing one where /etc is written to
    Identity(package="systemd", paths=("etc/machine-id",), always=True, form=b"", mode=0o444, checked_elsewhere=True),
    # a file, or a link to /etc/machine-id that tmpfiles.d/dbus.conf makes at boot
    Identity(package="dbus", paths=("var/lib/dbus/machine-id",), always=True),
    # systemd-random-seed.service(8), systemd-creds(1): "automatically generated … when needed"
    Identity(package="systemd", paths=("var/lib/systemd/random-seed",), always=True),
    Identity(package="systemd", paths=("var/lib/systemd/credential.secret",), always=True),
    # postinst; at boot sshd-keygen.service (Debian 13), regenerate_ssh_host_keys (Raspberry Pi OS), cloud-init (Ubuntu)
    Identity(package="openssh-server", paths=("etc/ssh/ssh_host_*",), always=True, checked_elsewhere=True),
    # postinst: iscsi-iname; iscsid.service's ExecStartPre= startup-checks.sh makes one of GenerateName=yes
    Identity(
        package="open-iscsi",
        paths=("etc/iscsi/initiatorname.iscsi",),
        program="usr/sbin/iscsi-iname",
        form=b"GenerateName=yes\n",
        per_node=_initiator,
    ),
    # postinst: `uuidgen`, `nvme gen-hostnqn`; no unit makes them
    Identity(
        package="nvme-cli",
        paths=("etc/nvme/hostid",),
        program="usr/sbin/nvme",
        mode=0o644,
        maker="cat /proc/sys/kernel/random/uuid >/etc/nvme/hostid",
        per_node=_nvme,
    ),
    Identity(
        package="nvme-cli",
        paths=("etc/nvme/hostnqn",),
        program="usr/sbin/nvme",
        mode=0o644,
        maker="read -r id </etc/nvme/hostid && echo nqn.2014-08.org.nvmexpress:uuid:$id >/etc/nvme/hostnqn",
    ),
    # postinst, by zgenhostid(8)
    Identity(
        package="zfsutils-linux",
        paths=("etc/hostid",),
        program="usr/sbin/zgenhostid",
        mode=0o644,
        maker="zgenhostid",
        per_node=_hostid,
    ),
    # postinst; other packages' links to it (dovecot-core, xrdp, postgresql) stay
    Identity(
        package="ssl-cert",
        paths=("etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem", "etc/ssl/certs/*.[0-9]"),
        program="usr/sbin/make-ssl-cert",
        link_to="ssl-cert-snakeoil.pem",
        maker="make-ssl-cert generate-default-snakeoil --force-overwrite",
    ),
    # postinst
    Identity(
        package="bind9",
        paths=("etc/bind/rndc.key",),
        program="usr/sbin/named",
        maker="rndc-confgen -a && chown bind:bind /etc/bind/rndc.key && chmod 0640 /etc/bind/rndc.key",
    ),
    # postinst
    Identity(
        package="munge",
        paths=("etc/munge/munge.key",),
        program="usr/sbin/mungekey",
        maker="runuser -u munge -- mungekey -c",
        cluster=True,
    ),
    # postinst, which trusts Erlang's own cookie less
    Identity(
        package="rabbitmq-server",
        paths=("var/lib/rabbitmq/.erlang.cookie",),
        program="usr/sbin/rabbitmq-server",
        maker=(
            "(umask 377 && openssl rand -base64 -out /var/lib/rabbitmq/.erlang.cookie 42)"
            " && chown rabbitmq:rabbitmq /var/lib/rabbitmq/.erlang.cookie"
        ),
        cluster=True,
    ),
    # postinst
    Identity(
        package="dropbear",
        paths=("etc/dropbear/dropbear_ed25519_host_key", "etc/dropbear/dropbear_*_host_key"),
        program="usr/bin/dropbearkey",
        maker=(
            "for kind in rsa ecdsa ed25519; do key=/etc/dropbear/dropbear_${kind}_host_key;"
            " [ -e $key ] || dropbearkey -t $kind -f $key; done"
        ),
    ),
    # postinst, and its hook copies them into every initramfs
    Identity(package="dropbear-initramfs", paths=("etc/dropbear/initramfs/dropbear_*_host_key",), baked=True),
    # postinst
    Identity(
        package="xrdp",
        paths=("etc/xrdp/rsakeys.ini",),
        program="usr/bin/xrdp-keygen",
        maker="(umask 077 && xrdp-keygen xrdp auto && chown xrdp /etc/xrdp/rsakeys.ini)",
    ),
    # postinst: MY_HOSTID and DAY, and in cron.d the minute
    Identity(
        package="popularity-contest",
        paths=("etc/popularity-contest.conf", "etc/cron.d/popularity-contest"),
        program="usr/sbin/popularity-contest",
        maker="dpkg-reconfigure --frontend=noninteractive popularity-contest",
    ),
    # made when the service first runs: in images of machines that ran. cockpit.service's ExecStartPre=
    Identity(package="cockpit-ws", paths=("etc/cockpit/ws-certs.d/0-self-signed*",)),
    # NetworkManager's own (src/libnm-core-aux-intern: "secret_key"); dockerd's "engine-id"
    Identity(package="network-manager", paths=("var/lib/NetworkManager/secret_key",)),
    Identity(package="docker.io", paths=("var/lib/docker/engine-id",)),
)


def _belongs(row: Identity, pattern: str, link: str) -> bool:
    """Say whether a path that fits a pattern is the identity; where links are named, only the one that leads to it."""
    is_link_pattern = bool(row.link_to) and "*" in pattern
    return link.rpartition("/")[2] == row.link_to if is_link_pattern else True


def found(root: Path) -> dict[str, str]:
    """Return the identities in a tree, by path: a digest of each. What still has the form in its place is none."""
    there = {}
    for row in IDENTITIES:
        for path, at in _files_of(root, row):
            digest = _digest(at)
            if digest is not None and (row.form is None or digest != _digest_of(row.form)):
                there[path] = digest
    return there


def is_known(path: str) -> bool:
    """Say whether a path, relative to the root, is one of the table's."""
    parent, _, name = path.rpartition("/")
    patterns = (pattern.rpartition("/") for row in IDENTITIES for pattern in row.paths)
    return any(directory == parent and fnmatchcase(name, wanted) for directory, _, wanted in patterns)


def in_image(root: FileSystem) -> dict[str, Identity]:
    """Return the identities in an image's root file system, by path, but those that are checked elsewhere."""
    there = {}
    for row in IDENTITIES:
        if row.checked_elsewhere:
            continue
        for pattern in row.paths:
            parent, _, name = pattern.rpartition("/")
            directory = root.find(f"/{parent}")
            for entry in root.children(directory).values() if directory and directory.directory else ():
                if fnmatchcase(entry.name, name) and _is_identity(root, row, pattern, entry):
                    there[f"{parent}/{entry.name}"] = row
    return there


def _is_identity(root: FileSystem, row: Identity, pattern: str, entry: Entry) -> bool:
    if entry.kind != "file" or not entry.size or not _belongs(row, pattern, entry.target):
        return False
    return row.form is None or root.head(entry.path, _MOST) != row.form


def remove(root: Path, made: Mapping[str, str]) -> tuple[Identity, ...]:
    """Take the identities out of a tree, and see to it that each machine gets its own; return the rows that were there.

    `made` are those that packages made, as `found` returned them then. Another one with the same path is a recipe's and
    stays, unless its row is `always`.
    """
    gone = []
    for row in IDENTITIES:
        mine = [at for path, at in _files_of(root, row) if row.always or (path in made and made[path] == _digest(at))]
        if row.baked or not (mine or (row.always and row.form is not None)):
            continue
        for at in mine:
            at.unlink()
        gone.append(row)
        if row.form is not None:
            write(resolve_in(root, row.paths[0], follow=False), row.form, row.mode)
    if any(row.maker for row in gone):
        places = [resolve_in(root, path, follow=False) for path in (SCRIPT, UNIT, _WANTED)]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
        program, unit, wanted = places
        write(program, script().encode(), 0o755)
        write(unit, _SERVICE.encode())
        wanted.unlink(missing_ok=True)
        wanted.symlink_to(f"/{UNIT}")
    return tuple(gone)


def node_rows(root: Path) -> tuple[Identity, ...]:
    """Return the rows of which a node gets its own, as a root has their programs."""
    return tuple(row for row in IDENTITIES if row.per_node is not None and resolve_in(root, row.program).is_file())


def node_identities(rows: Iterable[Identity], machine_id: str) -> dict[str, tuple[bytes, int]]:
    """Return what a node gets of rows: path to content and mode."""
    return {
        path: (content, row.mode)
        for row in rows
        if row.per_node is not None
        for path, content in row.per_node(machine_id).items()
    }


def script() -> str:
    """Return the program that makes what is missing on the machine that it runs on."""
    lines = [
        "#!/bin/sh",
        "# Written by pibuild: make the keys and names that this machine must have for itself, where they are missing.",
        "failed=0",
    ]
    for row in IDENTITIES:
        if row.maker:
            missing = f"[ ! -x /{row.program} ] || [ -e /{row.paths[0]} ]"
            lines.append(f"{missing} || {{ {row.maker}; }} || failed=1  # {row.package}")
    return "\n".join([*lines, "exit $failed", ""])


_SERVICE = f"""\
# Written by pibuild, see {SCRIPT}
[Unit]
Description=Make the keys and names that this machine must have for itself
DefaultDependencies=no
ConditionPathIsReadWrite=/etc
After=local-fs.target systemd-tmpfiles-setup.service
Before=sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=5min
ExecStart=/{SCRIPT}

[Install]
WantedBy=sysinit.target
"""


def _files_of(root: Path, row: Identity) -> Iterator[tuple[str, Path]]:
    """Yield path and place of what is there of a row, each once."""
    seen = set()
    for pattern in row.paths:
        parent, _, name = pattern.rpartition("/")
        directory = resolve_in(root, parent)
        for at in sorted(directory.glob(name)) if any(sign in name for sign in "*[") else [directory / name]:
            path = f"{parent}/{at.name}"
            link = str(at.readlink()) if at.is_symlink() else ""
            if path not in seen and os.path.lexists(at) and _belongs(row, pattern, link):
                seen.add(path)
                yield path, at


def _digest(at: Path) -> str | None:
    """Return a digest of a file's content or of a link's target; None for anything else."""
    status = at.lstat()
    if stat.S_ISLNK(status.st_mode):
        return f"link {at.readlink()}"
    return _digest_of(at.read_bytes()) if stat.S_ISREG(status.st_mode) and status.st_size <= _MOST else None


def _digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
