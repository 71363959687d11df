"""Identities in an image that many machines are made of: by the table, and by what files look like."""

from __future__ import annotations

from builder.image.filesystem import FileSystem
from builder.image.identities import in_image
from builder.image.identity_signs import signs_in
from builder.verify.finding import Finding, judge

CHECK = "shared identity"
_HINT = "build the image with pibuild, which takes it out, and leave it to a machine's first boot; or remove it by hand"
_BAKED = "remove the package, or write its keys with a step of your own: its hook puts them into the initramfs"
_SHOWN = 12


def check_identities(root: FileSystem) -> list[Finding]:
    """Check that no key and no name is in an image that every machine must have for itself.

    What machines that work together may share, and what only looks like an identity, is a note.
    """
    known = in_image(root)
    wrong = {path: row for path, row in known.items() if not row.cluster}
    named = ", ".join(f"/{path} ({row.package})" for path, row in wrong.items())
    hint = _BAKED if any(row.baked for row in wrong.values()) else _HINT
    notes = [
        f"/{path} ({row.package}): right for machines that work together, else each needs its own"
        for path, row in known.items()
        if row.cluster
    ]
    return [
        judge(check=CHECK, ok=not wrong, seen=named or "none", hint=hint),
        *(Finding(check=CHECK, seen=told, result="note") for told in [*notes, *unknown_identities(root)]),
    ]


def unknown_identities(root: FileSystem) -> list[str]:
    """Return in words what looks like an identity, is in no package and not in the table."""
    signs = [f"/{path} looks like {sign}; every machine would have the same" for path, sign in signs_in(root).items()]
    more = len(signs) - _SHOWN
    return [*signs[:_SHOWN], *([f"{more} more files look like keys of one machine"] if more > 0 else [])]
