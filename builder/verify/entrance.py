"""Whether a person can log in to an image as it is flashed: by a key, a password, or what its first boot asks for."""

from __future__ import annotations

from pathlib import Path

from builder.host.confine import Held, held
from builder.host.ssh_keys import key_problem

_LIMIT = 1 << 20  # bytes of passwd, shadow, and one user's keys
_NO_SHELLS = ("nologin", "false")
# cloud-init and Raspberry Pi OS let a person in by what they find on the boot partition, or ask for at a screen
_FIRST_BOOT = ("/usr/bin/cloud-init", "/usr/lib/userconf-pi/userconf")


def can_log_in(tree: Path) -> bool:
    """Return whether any user of a root can be logged in to."""
    with held(tree) as root:
        if any(root.facts(path, follow=True) is not None for path in _FIRST_BOOT):
            return True
        passwords = {fields[0]: fields[1] for fields in _fields(root, "/etc/shadow", least=2)}
        return any(
            _is_password(passwords.get(name, "")) or _has_key(root, home)
            for name, _, _, _, _, home, shell, *_ in _fields(root, "/etc/passwd", least=7)
            if not shell.endswith(_NO_SHELLS)
        )


def _fields(root: Held, path: str, *, least: int) -> list[list[str]]:
    lines = (root.read(path, limit=_LIMIT, follow=True) or b"").decode(errors="replace").splitlines()
    return [fields for line in lines if len(fields := line.split(":")) >= least]


def _is_password(field: str) -> bool:
    """Return whether shadow(5) has the hash of a password; `*`, `!` and a locked one are none."""
    return field.startswith("$")


def _has_key(root: Held, home: str) -> bool:
    content = root.read(f"{home}/.ssh/authorized_keys", limit=_LIMIT, follow=True) or b""
    lines = (line.strip() for line in content.decode(errors="replace").splitlines())
    return any(line and not line.startswith("#") and not key_problem(line) for line in lines)
