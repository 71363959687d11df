"""What node_exporter reads of models."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from failures import say
from files import read_json, write
from model import Model

# name: type and words. Counters outlive runs, in .figures.json.
COUNTED = {
    "fetched_bytes_total": ("counter", "Bytes that came over the network."),
    "reused_bytes_total": ("counter", "Bytes of new versions that were on the disk already."),
    "spoilt_chunks_total": ("counter", "Chunks that came with the wrong checksum."),
    "failures_total": ("counter", "Runs that failed."),
    "last_run_timestamp_seconds": ("gauge", "When the store was last asked."),
    "last_success_timestamp_seconds": ("gauge", "When the wanted version was last found here, or brought."),
}
READ = {
    "info": "The version in use.",
    "wanted_info": "The version that the node is to have.",
    "up_to_date": "Whether the wanted version is in use.",
    "switched_timestamp_seconds": "When the version in use came into use.",
}


class Figures:
    """The figures of all models."""

    def __init__(self, home: Path, wanted: Mapping[str, str], textfile: Path) -> None:
        self._home = home
        self._wanted = wanted
        self._textfile = textfile
        self._path = home / ".figures.json"
        self._held: dict[str, dict[str, int]] = read_json(self._path)

    def add(self, name: str, **values: int) -> None:
        """Add to counters, set gauges."""
        held = self._held.setdefault(name, {})
        for figure, value in values.items():
            held[figure] = value if COUNTED[figure][0] == "gauge" else held.get(figure, 0) + value

    def write(self) -> None:
        """Write both files, the second where there is a node_exporter. A full disk costs figures, not models."""
        with contextlib.suppress(OSError):
            write(self._path, json.dumps(self._held).encode())
        if not self._textfile.parent.is_dir():
            return
        try:
            write(self._textfile, self.exposition().encode(), durable=False)
        except OSError as error:
            say(f"{self._textfile}: {error.strerror}: no metrics of models")

    def exposition(self) -> str:
        """Return the figures in Prometheus's text format."""
        kinds = {**{figure: ("gauge", text) for figure, text in READ.items()}, **COUNTED}
        lines: dict[str, list[str]] = {figure: [] for figure in kinds}
        for name, version in self._wanted.items():
            for figure, labels, value in self._of(name, version):
                lines[figure].append(f'edge_model_{figure}{{model="{name}"{labels}}} {value}\n')
        return "".join(
            f"# HELP edge_model_{figure} {text}\n# TYPE edge_model_{figure} {kind}\n" + "".join(lines[figure])
            for figure, (kind, text) in kinds.items()
            if lines[figure]
        )

    def _of(self, name: str, version: str) -> Iterator[tuple[str, str, object]]:
        """Yield the figures of a model: name, further labels, value."""
        model = Model(self._home, name)
        current, pointer = model.current(), model.pointer()
        if current and "switched" in pointer:
            yield "info", f',version="{current}",sha256="{str(pointer["sha256"])[:12]}"', 1
            yield "switched_timestamp_seconds", "", pointer["switched"]
        yield "wanted_info", f',version="{version}"', 1
        yield "up_to_date", "", int(current == version)
        yield from ((figure, "", value) for figure, value in self._held.get(name, {}).items())
