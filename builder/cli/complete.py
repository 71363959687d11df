"""What a shell completes: nodes, roles, groups, boards, variables, recipes. Files are read, and nothing is checked.

A person waits for it at every press of the key: the inventory and the recipe are read as YAML, without their models.
What cannot be read completes to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from builder.host.data import is_name, shipped_recipes
from builder.inventory.names import hostname

_PLACES = (Path("cluster.yaml"), Path("/etc/pibuild/cluster.yaml"))  # as builder.inventory.load has them
_LARGEST = 4 << 20  # bytes: nobody waits for more
_RECIPE = re.compile(r"^(base|layers|extends|name):", re.MULTILINE)


def nodes(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the inventory's nodes and their aliases, but for those that are named already."""
    known = _inventory(context).get("nodes")
    named = {name for value in context.params.values() if isinstance(value, tuple) for name in value}
    found = [
        (_called(called), f"{entry.get('role', '')} {entry.get('address', '')}".strip())
        for entry in (known if isinstance(known, list) else [])
        if isinstance(entry, dict)
        for called in _texts([entry.get("name"), *_texts(entry.get("aliases"))])
        if _called(called) not in named
    ]
    return [CompletionItem(name, help=told) for name, told in found if name.startswith(incomplete)]


def roles(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the roles that the inventory's nodes have."""
    known = _inventory(context).get("nodes")
    entries = [entry for entry in (known if isinstance(known, list) else []) if isinstance(entry, dict)]
    return _items((str(entry["role"]) for entry in entries if entry.get("role")), incomplete)


def groups(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the inventory's groups."""
    known = _inventory(context).get("groups")
    return _items(map(str, known if isinstance(known, dict) else ()), incomplete)


def boards(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the boards there are."""
    from builder.firmware.boards import BOARDS

    return _items(BOARDS, incomplete)


def variables(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the variables of the recipe that is named, and of those that it extends, as `NAME=`."""
    # an option that has no value yet ends click's parsing before it comes to arguments
    recipe = context.params.get("recipe") or next(iter(context.args), "")
    found = _variables(shipped_recipes().get(str(recipe), Path(recipe)), set()) if recipe else {}
    return [
        CompletionItem(f"{name}=", help=told) for name, told in sorted(found.items()) if name.startswith(incomplete)
    ]


def recipes(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the recipes that come with pibuild, and files: those here that look like one come first."""
    shipped = [name for name in shipped_recipes() if "/" not in name]
    directory = Path(incomplete).parent
    near = [directory, *([Path("recipes")] if not incomplete else [])]
    files = [str(path) for place in near for path in sorted(place.glob("*.y*ml")) if _is_recipe(path)]
    return [*_items([*files, *shipped], incomplete), CompletionItem(incomplete, type="file")]


def _called(name: str) -> str:
    """Return a node's name as commands say it."""
    try:
        return hostname(name)
    except ValueError:
        return name


def _items(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in dict.fromkeys(words) if word.startswith(incomplete)]


def _texts(value: object) -> Sequence[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else ()


def _is_recipe(path: Path) -> bool:
    return not path.name.endswith(".lock.yaml") and bool(_RECIPE.search(_text(path)[:4096]))


def _inventory(context: click.Context) -> dict[str, Any]:
    given = context.params.get("cluster_file")
    for path in (Path(given),) if given else _PLACES:
        if found := _mapping(path):
            return found
    return {}


def _variables(path: Path, seen: set[Path]) -> dict[str, str]:
    if path in seen:
        return {}
    seen.add(path)
    document = _mapping(path)
    found: dict[str, str] = {}
    for extended in _texts(document.get("extends")):
        shipped = shipped_recipes().get(extended) if is_name(extended) else None
        found |= _variables(shipped or (path.parent / extended).resolve(), seen)
    own = document.get("variables")
    for name, value in (own if isinstance(own, dict) else {}).items():
        told = value.get("description", "") if isinstance(value, dict) else ""
        found[str(name)] = str(told) or found.get(str(name), "")
    return found


def _text(path: Path) -> str:
    """Return a file's text; nothing for what is no file, is too large, or cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return ""
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _mapping(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds, {} where it does not, or is being written."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        value = yaml.load(_text(path), Loader=loader)  # noqa: S506 - a safe loader, the quick one where it is there
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
