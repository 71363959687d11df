"""Which models a node fetches, and when it begins: at a moment of the staging window that is always the same one.

The moment is the node's name's sha256 modulo the window's length, so that nodes spread over the window without knowing
of each other, and one more node moves none of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from builder.inventory.nodes import Inventory, Node

_SECONDS = {"m": 60, "h": 3600}
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20}
_DAY = 86400
_HOME = PurePosixPath("/var/lib/models")
_AFTER_BOOT = (60, 600)  # seconds: nodes that have no model yet, or get power together, spread over so long


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeModels:
    """What a node's fetcher is told.

    `wanted` is model to version; `length` the window's, in seconds; `moment` the time of day it begins at, HH:MM:SS;
    `boot_delay` the seconds from its start to its first look; `limit` bytes per second, 0 for none;
    `kept` says whether the models outlive the node's root, of which every `explode` makes a new one.
    """

    store: str
    wanted: Mapping[str, str]
    start: str
    length: int
    moment: str
    boot_delay: int
    limit: int
    signed: bool
    signers: tuple[str, ...]
    kept: bool


def node_models(inventory: Inventory, node: Node) -> NodeModels | None:
    """Return what a node fetches; None where that is nothing."""
    models = inventory.cluster.models
    if models is None or not node.models:
        return None
    length = min(int(models.window.length[:-1]) * _SECONDS[models.window.length[-1]], _DAY)
    hour, minute = map(int, models.window.start.split(":"))
    moment = (hour * 3600 + minute * 60 + spread(node.name, length)) % _DAY
    number, factor = re.fullmatch(r"(\d+)([KM]?)", models.limit or "0").groups()  # type: ignore[union-attr]
    first, spread_over = _AFTER_BOOT
    return NodeModels(
        store=models.store,
        wanted=node.models,
        start=models.window.start,
        length=length,
        moment=f"{moment // 3600:02}:{moment // 60 % 60:02}:{moment % 60:02}",
        boot_delay=first + spread(node.name, spread_over),
        limit=int(number) * _FACTORS[factor],
        signed=models.signed,
        signers=tuple(models.signers),
        kept=node.boot == "local" or any(_HOME.is_relative_to(path) for path in node.persist),
    )


def spread(name: str, length: int) -> int:
    """Return a node's own second of `length`."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % length
