"""The boot chain behind the kernel: command line, root file system, fstab, init, and what must not be in them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from builder.image.filesystem import FileSystem
from builder.image.open import Image
from builder.image.partitions import Partition
from builder.verify.boot_chain_identities import check_identities
from builder.verify.finding import Finding, judge

_NUMBERED = re.compile(r"/dev/(?:mmcblk\d+p|nvme\d+n\d+p|[sv]d[a-z])(\d{1,4})")
_TAGS = ("PARTUUID", "UUID", "LABEL")
_ELF_ARM64 = 183  # e_machine, elf.h: EM_AARCH64
_FSTAB_FIELDS = 3
_OPEN = ("/", "/etc", "/usr", "/usr/bin", "/usr/lib", "/usr/sbin", "/var", "/var/lib", "/home", "/opt", "/srv")


def check_root(image: Image, cmdlines: Mapping[str, bytes], *, initramfs: bool) -> list[Finding]:
    """Check from the kernel's command lines on. `cmdlines`: file name to content; `initramfs`: whether there is one."""
    findings = []
    for name, raw in cmdlines.items():
        findings.append(_check_one_line(name, raw))
        words = raw.decode(errors="replace").split("\n")[0].split()
        findings += [_check_root_word(image, name, words), _check_wait(name, words, initramfs=initramfs)]
        init = next((word[5:] for word in words if word.startswith("init=")), "/sbin/init")
        findings.append(_check_init(image.root, init))
    findings += [
        _check_modes(image.root),
        _check_fstab(image),
        *_check_untouched(image.root),
        *check_identities(image.root),
    ]
    return findings


def find_partition(image: Image, spec: str) -> Partition | None:
    """Return the partition that a root= word or an fstab field means, None if none of this image does."""
    if match := _NUMBERED.fullmatch(spec):
        return next((each for each in image.partitions if each.number == int(match[1])), None)
    if spec.startswith("/dev/disk/by-"):
        kind, _, value = spec.removeprefix("/dev/disk/by-").partition("/")
        spec = f"{kind.upper()}={value}"
    tag, _, value = spec.partition("=")
    value = value.strip('"')
    for each in image.partitions:
        own = {"PARTUUID": each.partuuid, "UUID": each.uuid, "LABEL": each.label}.get(tag)
        if own and (own == value if tag == "LABEL" else own.lower() == value.lower()):
            return each
    return None


def _names_of(partition: Partition) -> str:
    return f"PARTUUID={partition.partuuid}, UUID={partition.uuid}, LABEL={partition.label}"


def _check_one_line(name: str, raw: bytes) -> Finding:
    content = raw.rstrip(b"\n")
    wrong = []
    if not content.strip():
        wrong.append("is empty")
    if more := content.count(b"\n"):
        wrong.append(f"has {more + 1} lines, of which only the first counts")
    if b"\r" in content:
        wrong.append("has Windows line ends")
    if not raw.isascii():
        wrong.append("holds characters that are not ASCII")
    detail = f"{name} {', '.join(wrong)}" if wrong else f"{name}: one line, {len(content)} characters"
    return judge(check="cmdline", ok=not wrong, seen=detail, hint=f"make {name} one line of plain ASCII")


def _check_root_word(image: Image, name: str, words: list[str]) -> Finding:
    spec = next((word[5:] for word in words if word.startswith("root=")), None)
    wanted = image.root_partition
    hint = f"write root= as one of {_names_of(wanted)} in {name}"
    if spec is None:
        return Finding(check="root=", result="broken", seen=f"{name} has no root=", hint=hint)
    if spec == "/dev/nfs":
        ok = any(word.startswith("nfsroot=") for word in words)
        detail = "root over NFS" if ok else "root=/dev/nfs without nfsroot="
        return judge(check="root=", ok=ok, seen=detail, hint="add nfsroot=SERVER:/path,vers=3,tcp and ip=dhcp")
    found = find_partition(image, spec)
    if found is None:
        detail = f"root={spec} means no partition of this image"
        return Finding(check="root=", result="broken", seen=detail, hint=hint)
    if found.number != wanted.number:
        detail = f"root={spec} is partition {found.number}, the system is on partition {wanted.number}"
        return Finding(check="root=", result="broken", seen=detail, hint=hint)
    kind = next((word[11:] for word in words if word.startswith("rootfstype=")), wanted.filesystem)
    if wanted.filesystem not in kind.split(","):
        detail = f"rootfstype={kind}, but partition {wanted.number} is {wanted.filesystem}"
        return Finding(
            check="root=", result="broken", seen=detail, hint=f"write rootfstype={wanted.filesystem} in {name}"
        )
    return Finding(check="root=", result="ok", seen=f"{spec} is partition {found.number} ({found.label or 'no label'})")


def _check_wait(name: str, words: list[str], *, initramfs: bool) -> Finding:
    there = any(word == "rootwait" or word.startswith(("rootwait=", "rootdelay=")) for word in words)
    network = "root=/dev/nfs" in words
    if there:
        detail = "rootwait"
    elif initramfs or network:
        detail = "not set; the initramfs waits for the root" if initramfs else "not set; the root is on the network"
    else:
        detail = f"{name} has no rootwait: the kernel looks for the root before the card is there"
    return judge(check="rootwait", ok=there or initramfs or network, seen=detail, hint=f"add rootwait to {name}")


def _check_init(root: FileSystem, path: str) -> Finding:
    hint = "install systemd-sysv in the image (it brings /sbin/init), for architecture arm64"
    entry = root.find(path)
    if entry is None or entry.kind != "file":
        return Finding(check="init", result="broken", seen=f"{path} is not in the root file system", hint=hint)
    if not entry.mode & 0o111:
        detail = f"{entry.path} has mode {entry.mode:04o}: it cannot be executed"
        return Finding(check="init", result="broken", seen=detail, hint=f"chmod 0755 {entry.path}")
    head = root.head(entry.path, 20)
    if head.startswith(b"\x7fELF") and int.from_bytes(head[18:20], "little") != _ELF_ARM64:
        return Finding(check="init", result="broken", seen=f"{entry.path} is not for arm64", hint=hint)
    return Finding(check="init", result="ok", seen=path if entry.path == path else f"{path} is {entry.path}")


def _check_fstab(image: Image) -> Finding:
    """Check that an entry that needs a partition of the image finds it, with the right type in the right place."""
    wrong = []
    text = image.root.text("/etc/fstab") if image.root.find("/etc/fstab") else ""
    entries = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for fields in entries:
        if len(fields) < _FSTAB_FIELDS:
            wrong.append(f"'{' '.join(fields)}' has too few fields")
            continue
        spec, at, kind, *options = fields
        mine = spec.startswith("/dev/") or spec.partition("=")[0] in _TAGS
        if not mine or kind == "swap" or "nofail" in ",".join(options[:1]).split(","):
            continue
        wrong.extend(_wrong_mount(image, spec, at, kind))
    detail = "; ".join(wrong) or f"{len(entries)} entries, their partitions are there"
    hint = f"mend /etc/fstab; the root is {_names_of(image.root_partition)}"
    return judge(check="fstab", ok=not wrong, seen=detail, hint=hint)


def _wrong_mount(image: Image, spec: str, at: str, kind: str) -> list[str]:
    found = find_partition(image, spec)
    if found is None:
        return [f"{at}: {spec} means no partition of this image, and the boot waits for it"]
    if kind != "auto" and {kind, found.filesystem} not in ({"ext4"}, {"vfat"}, {"ext4", "ext3"}, {"ext4", "ext2"}):
        return [f"{at}: {spec} is {found.filesystem}, not {kind}"]
    meant = {"/": image.root_partition, "/boot/firmware": image.boot_partition}.get(at)
    if meant is not None and meant.number != found.number:
        return [f"{at}: {spec} is partition {found.number}, not {meant.number}"]
    return []


def _check_modes(root: FileSystem) -> Finding:
    """Check that everybody may enter the directories that everything runs from (hier(7)), and no other write there."""
    closed = []
    for path in _OPEN:
        entry = root.find(path, follow=False)
        if entry is not None and entry.directory and (entry.mode & 0o555 != 0o555 or entry.mode & 0o022):  # noqa: PLR2004 - modes
            closed.append(f"{path} has mode {entry.mode:04o}")
    detail = "; ".join(closed) or "everybody may enter / and what is in it"
    hint = f"chmod 0755 {' '.join(each.split()[0] for each in closed)} in the image; no service but root's starts"
    return judge(check="modes", ok=not closed, seen=detail, hint=hint)


def _check_untouched(root: FileSystem) -> list[Finding]:
    """Check that what every machine must have for itself is not in an image that many are made of."""
    machine_id = root.text("/etc/machine-id").strip() if root.find("/etc/machine-id") else ""
    keys = [entry.path for entry in (root.list("/etc/ssh") if root.find("/etc/ssh") else ()) if _host_key(entry.name)]
    passwords = [name for name, state in passwords_of(root).items() if state != "locked"]
    return [
        judge(
            check="machine-id",
            ok=machine_id in ("", "uninitialized"),
            seen="none yet" if machine_id in ("", "uninitialized") else f"every machine would be {machine_id}",
            hint="empty /etc/machine-id in the image: the first boot makes one",
        ),
        judge(
            check="ssh host keys",
            ok=not keys,
            seen=", ".join(keys) or "none yet",
            hint="remove them from the image: the first boot makes its own",
        ),
        judge(
            check="passwords",
            ok=not passwords,
            seen=f"set or empty for {', '.join(passwords)}" if passwords else "none: keys only",
            hint="passwd --lock NAME in the image; log in with an SSH key",
        ),
    ]


def _host_key(name: str) -> bool:
    return name.startswith("ssh_host_") and name.endswith("_key")


def passwords_of(root: FileSystem) -> dict[str, str]:
    """Return for each user of /etc/shadow (without one, /etc/passwd) locked, set or empty (shadow(5))."""
    name = next((name for name in ("/etc/shadow", "/etc/passwd") if root.find(name)), None)
    states = {}
    for line in root.text(name).splitlines() if name else ():
        user, field, *_ = [*line.split(":"), ""]
        if user and field != "x":
            states[user] = "empty" if not field else "locked" if field[0] in "!*" else "set"
    return states
