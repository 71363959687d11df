"""What a shipped unit would run, to be run on this machine: systemd's ExecStart= with other paths and ports."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

OVERLAYS = Path(__file__).parents[1] / "overlays"
UNITS = OVERLAYS / "metrics/etc/systemd/system"


def lines(path: Path, key: str) -> list[str]:
    """Return the values of a setting in a unit file, continued lines joined (systemd.syntax(7)), comments left out."""
    text = re.sub(r"\\\n", " ", "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#")))
    return [line.partition("=")[2].strip() for line in text.splitlines() if line.startswith(f"{key}=")]


def environment(text: str) -> dict[str, str]:
    """Return what an EnvironmentFile= holds."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: "".join(shlex.split(value)) if value.startswith('"') else value for key, _, value in pairs}


def exec_start(path: Path, env: Mapping[str, str], places: Mapping[str, str]) -> list[str]:
    """Return the words of a unit's ExecStart= as systemd would run it (systemd.service(5), command lines).

    `${NAME}` is a variable, a word `$NAME` becomes as many words as it has, `$$` is a dollar sign. `places` says what
    stands for paths and addresses of the node, the longer ones first.
    """
    (command,) = (line for line in lines(path, "ExecStart") if line)
    words: list[str] = []
    for word in shlex.split(command):
        if re.fullmatch(r"\$[A-Z_]+", word):
            words += env.get(word[1:], "").split()
            continue
        filled = re.sub(r"\$\{([A-Z_]+)\}", lambda match: env[match[1]], word.replace("$$", "\0")).replace("\0", "$")
        for there in sorted(places, key=len, reverse=True):
            filled = filled.replace(there, places[there])
        words.append(filled)
    return words
