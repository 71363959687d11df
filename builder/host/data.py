"""Where what pibuild ships beside its code lies: recipes and overlays.

A checkout and the Debian package (in /usr/share/pibuild) have them beside `builder/`, a wheel in `builder/share`. A
wheel holds no symbolic links: `links.json` says which the overlays have, a path below the share to its target.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]  # where Python finds `builder`
_IN_WHEEL = PROJECT / "builder/share"
SHARE = _IN_WHEEL if _IN_WHEEL.is_dir() else PROJECT
RECIPES = SHARE / "recipes"
OVERLAYS = SHARE / "overlays"
CHECKOUT = (PROJECT / "pyproject.toml").is_file()  # else recipes are the system's: nothing is written beside them


def shipped_recipes() -> Mapping[str, Path]:
    """Return the recipes that come with pibuild, by the name that `build` and `extends` take: golden, parts/login."""
    found = sorted(path for path in RECIPES.rglob("*.yaml") if not path.name.endswith(".lock.yaml"))
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in found}


def is_name(written: str) -> bool:
    """Return whether a text names a shipped recipe rather than a file: golden, and not golden.yaml or ./golden."""
    return not written.endswith((".yaml", ".yml")) and not written.startswith(("/", "."))


def shipped_links(directory: Path) -> Mapping[str, str]:
    """Return what a directory of a wheel's overlays lacks: a link's name to its target, a directory's to nothing."""
    return _links(SHARE).get(directory.resolve(), {})


@functools.cache
def _links(share: Path) -> Mapping[Path, Mapping[str, str]]:
    try:
        listed: Mapping[str, str] = json.loads((share / "links.json").read_text())
    except FileNotFoundError:
        return {}
    found: dict[Path, dict[str, str]] = {}
    for name, target in listed.items():
        path = share / name
        found.setdefault(path.parent, {})[path.name] = target
        for parent in path.relative_to(share).parents[:-1]:
            found.setdefault((share / parent).parent, {}).setdefault(parent.name, "")
    return found
