"""The first recipe of one's own: golden, with the keys that open it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from builder.errors import InputError, Problem
from builder.host.named_file import read_named
from builder.host.ssh_keys import key_problem

_CERTIFICATE = "-cert.pub"


def find_keys(home: Path) -> dict[Path, list[str]]:
    """Return a person's own public keys: file to lines. What is no sound key is passed over."""
    found = {}
    for path in sorted((home / ".ssh").glob("*.pub")):
        if path.is_file() and not path.name.endswith(_CERTIFICATE):
            lines = _lines(read_named(path))
            if lines and not any(map(key_problem, lines)):
                found[path] = lines
    return found


def read_keys(path: Path) -> list[str]:
    """Return the public keys in a file that a person named. Raises InputError with what is wrong with it."""
    lines = _lines(read_named(path))
    problems = [f"line {number} {wrong}" for number, line in enumerate(lines, 1) if (wrong := key_problem(line))]
    if problems or not lines:
        told = problems[0] if problems else "it has no key"
        raise InputError(Problem(message=f"{path}: {told}", hint="name a file of public keys: ~/.ssh/id_ed25519.pub"))
    return lines


def _lines(content: bytes) -> list[str]:
    lines = [line.strip() for line in content.decode(errors="replace").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def recipe_text(name: str, keys: Sequence[str]) -> str:
    """Return the recipe. Braces in a key's comment stand for themselves."""
    listed = "".join(f"      - {_quoted(key)}\n" for key in keys)
    default = f"    default:\n{listed}" if keys else "    default: []   # lines of ~/.ssh/id_ed25519.pub\n"
    return f"""\
# What every node starts from: all of golden, and what you add. All kinds of steps: README of pibuild.
name: {name}
description: golden, with our keys
extends: [golden]           # with parts that golden lacks: [golden, parts/watchdog]

variables:
  authorized_keys:          # who may log in, as ubuntu
{default}
  # timezone: {{default: Europe/Athens}}

# layers:
#   - name: tools
#     steps:
#       - packages: {{install: [tcpdump, smartmontools]}}
"""


def _quoted(key: str) -> str:
    return json.dumps(key.replace("{{", "{{ '{{' }}"), ensure_ascii=False)
