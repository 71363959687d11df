"""What goes into the wheel beside the code: recipes and overlays in `builder/share`, and which of them are links."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Share(BuildHookInterface[Any]):  # type: ignore[misc]
    """Add what `builder.host.data` looks for. An editable install reads the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files; a link, which no wheel can hold, goes into links.json."""
        if version == "editable":
            return
        root, links = Path(self.root), {}
        for tree in ("recipes", "overlays"):
            for directory, names, files in os.walk(root / tree):
                names[:] = [name for name in names if name != "__pycache__"]
                for path in (Path(directory, name) for name in sorted([*names, *files])):
                    name = path.relative_to(root).as_posix()
                    if path.is_symlink():
                        links[name] = str(path.readlink())
                    elif path.is_file():
                        build_data["force_include"][str(path)] = f"builder/share/{name}"
        self._directory = tempfile.TemporaryDirectory()
        table = Path(self._directory.name, "links.json")
        table.write_text(json.dumps(links, indent=2, sort_keys=True) + "\n")
        build_data["force_include"][str(table)] = "builder/share/links.json"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the table."""
        del build_data, artifact_path
        if version != "editable":
            self._directory.cleanup()
