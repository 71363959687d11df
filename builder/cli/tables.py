"""Every table that a command prints: its columns, what a narrow terminal leaves out, and the words for no rows."""

from __future__ import annotations

from builder.table import Table

PLAN = Table(
    columns=("layer", "key", "state", "what changed"),
    drop=("key",),
    prose=("what changed",),
    empty="this recipe has no layers",
)
EMULATION = Table(
    columns=("how", "program", "count", "seconds"), drop=("count",), empty="no program of the image was started"
)
CACHE_GC = Table(
    columns=("entry", "size", "last used"),
    drop=("last used",),
    empty="nothing to remove: all that is in the cache was used lately",
)
FINDINGS = Table(columns=("check", "result", "what was seen"), prose=("what was seen",), empty="nothing was seen")
BOOTLOADER = Table(
    columns=("#", "file", "outcome", "bytes", "note"),
    drop=("bytes",),
    prose=("note",),
    empty="the bootloader asked for no file",
)
EXPLODED = Table(
    columns=("node", "action", "how", "boots", "boots next", "serial"),
    drop=("serial", "how"),
    empty="no node boots over the network",
)
WOULD_EXPLODE = Table(
    columns=("node", "action", "how", "boots", "would boot", "serial"),
    drop=("serial", "how"),
    empty="no node boots over the network",
)
ROLLED_BACK = Table(
    columns=("node", "no longer boots", "boots next", "held"), drop=("held",), empty="no node boots over the network"
)
WOULD_ROLL_BACK = Table(
    columns=("node", "would leave", "would boot", "held"), drop=("held",), empty="no node boots over the network"
)
NODES = Table(
    columns=("node", "serial", "mac", "address", "port", "role", "board", "boots from"),
    drop=("port", "board", "mac", "serial"),
    empty="the inventory has no nodes yet: pibuild node add, or pibuild node import FILE",
)
EXPLAINED = Table(
    columns=("field", "value", "why", "where"), drop=("where",), prose=("value",), empty="nothing is said of this node"
)
NODE_GC = Table(
    columns=("path", "why"),
    prose=("why",),
    empty="nothing to remove: nodes use every root and generation, or left it lately",
)
LAB = Table(
    columns=("node", "address", "machine", "starts", "console"), drop=("starts",), empty="the lab has no machines"
)
LAB_SERVERS = Table(columns=("server", "state", "log"), empty="the lab has no servers")
MODELS = Table(
    columns=("model", "version", "size", "chunks", "its own", "shared", "published", "signed"),
    drop=("chunks", "shared", "its own", "published"),
    empty="the store has no models yet: pibuild models publish FILE --name NAME --version VERSION",
)
CHUNKS = Table(columns=("offset", "bytes", "sha256"), drop=("bytes",), empty="an empty file: no chunks")
BAD_CHUNKS = Table(
    columns=("chunk", "what", "needed by"),
    drop=("needed by",),
    prose=("what",),
    empty="every chunk is what its name says",
)
MODELS_GC = Table(
    columns=("object", "size", "why"), drop=("size",), prose=("why",), empty="nothing to remove: every chunk is needed"
)
NODE_MODELS = Table(
    columns=("node", "model", "version", "begins at", "kept"),
    drop=("kept",),
    empty="cluster.yaml gives no node a model: models: {NAME: VERSION} for a node, a group, a role or the defaults",
)
FLEET = Table(
    columns=("node", "last contact", "health", "root", "kernel", "models", "serial"),
    drop=("serial", "kernel", "models"),
    empty="the inventory has no nodes, and none has reported",
)
SNAPSHOTS = Table(
    columns=("snapshot", "time", "host", "files", "size"),
    drop=("host", "files"),
    empty="no snapshots yet: the node makes its first one tonight, or with: sudo systemctl start pibuild-backup",
)
