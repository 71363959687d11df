"""A node's fetcher of models against a store on this machine: its settings, its directories, and what it left."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from builder.host.hashing import file_digest
from builder.run import Completed, run

PROGRAM = Path(__file__).resolve().parents[1] / "overlays/models/usr/local/lib/pibuild/fetch_model"


@dataclass(slots=True, kw_only=True)
class Fetcher:
    """A node below `home`. `settings` is what models.json says, `options` is added to the command line."""

    home: Path
    settings: dict[str, object] = field(default_factory=dict)
    signers: str = ""
    options: tuple[str, ...] = ()

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def metrics(self) -> Path:
        return self.home / "textfile/models.prom"

    def command(self, *options: str) -> list[str | Path]:
        """Write the files the fetcher reads, and return its command line."""
        (self.home / "textfile").mkdir(parents=True, exist_ok=True)
        window = {"start": "00:00", "length": 86400}
        settings = {"window": window, "limit": 0, "signed": bool(self.signers), **self.settings}
        (self.home / "models.json").write_text(json.dumps(settings))
        (self.home / "models.signers").write_text(self.signers)
        return [
            sys.executable,
            *("-I", "-B", PROGRAM),
            *("--config", self.home / "models.json", "--signers", self.home / "models.signers"),
            *("--token", self.home / "models.token", "--home", self.models, "--textfile", self.metrics),
            *("--pause", "0.05", "--reserve", "0"),
            *self.options,
            *options,
        ]

    def run(self, *options: str) -> Completed:
        return run(self.command(*options), check=False, merge=True, timeout=120)

    def fetch(self, **wanted: str) -> str:
        """Fetch versions of models, and return what the fetcher said."""
        self.settings["models"] = wanted
        ended = self.run()
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    def fails(self, **wanted: str) -> str:
        """Fetch in vain, and return what the fetcher said."""
        self.settings["models"] = wanted
        ended = self.run()
        assert ended.returncode == 1, ended.stdout
        assert "Traceback" not in ended.stdout
        return ended.stdout

    def current(self, model: str) -> str:
        """Return the version in use, having compared its file with its manifest and the pointer."""
        link = self.models / model / "current"
        if not link.is_symlink():
            return ""
        manifest = json.loads((link / "manifest.json").read_bytes())
        assert file_digest(link / manifest["file"]) == manifest["sha256"]
        assert manifest["version"] == str(link.readlink())
        return str(link.readlink())

    def pointer(self, model: str) -> dict[str, object]:
        read = json.loads((self.models / model / "pointer.json").read_bytes())
        assert isinstance(read, dict)
        return read

    def there(self, model: str) -> set[str]:
        """Return the names in a model's directory."""
        return {path.name for path in (self.models / model).iterdir()}

    def metric(self, name: str) -> float:
        """Return the one value of a metric."""
        (line,) = (line for line in self.metrics.read_text().splitlines() if line.startswith(f"{name}{{"))
        return float(line.split()[-1])
