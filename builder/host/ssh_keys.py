"""The syntax of authorized_keys (sshd(8), "AUTHORIZED_KEYS FILE FORMAT")."""

from __future__ import annotations

import base64
import re

_KINDS = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
_WORD = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')


def key_problem(line: str) -> str:
    """Return what is wrong with a line of authorized_keys, `""` for a sound one, a comment or an empty line."""
    text = line.strip()
    if not text or text.startswith("#"):
        return ""
    return "is a private key; the public one ends in .pub" if "PRIVATE KEY" in text else _public_key_problem(text)


def _public_key_problem(text: str) -> str:
    words = _WORD.findall(text)
    place = next((index for index, word in enumerate(words[:2]) if word in _KINDS), None)
    if place is None:
        return "is not a public key of a kind that sshd takes (ssh-ed25519, ecdsa-sha2-…, ssh-rsa, sk-…)"
    if len(words) < place + 2:
        return f"has nothing after {words[place]}"
    try:
        blob = base64.b64decode(words[place + 1], validate=True)
    except ValueError:  # binascii.Error is one; what is not ASCII is another
        return "is cut short or damaged: its key is not base64"
    named = blob[4 : 4 + int.from_bytes(blob[:4], "big")]  # RFC 4253, 6.6: the blob begins with its kind as a string
    if named != words[place].encode() or len(blob) <= 4 + len(named):
        return f"is damaged: its key is not of the kind {words[place]}"
    return ""
