"""The real command on a small recipe: `python -m builder build`, in caches and directories of the tests' own."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.host.cache import Cache
from builder.run import Completed, run

PROJECT = Path(__file__).parents[2]
RECIPES = Path(__file__).with_name("recipes")
_SHARED = ("archives", "lists", "resolutions", "tools")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """pibuild with a cache of its own. `recipe` lies in a directory that tests may change."""

    cache: Path
    recipe: Path
    output: Path

    @property
    def env(self) -> dict[str, str]:
        return {"PIBUILD_CACHE": str(self.cache), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(PROJECT)}

    @property
    def layers(self) -> dict[str, str]:
        """Key to name of every layer that has its final name; one that is not whole has no meta.json."""
        return {
            path.name: json.loads((path / "meta.json").read_text())["name"]
            for path in (self.cache / "layers").glob("*")
        }

    @property
    def scraps(self) -> list[str]:
        """Work in progress, in the cache and beside results."""
        return [str(path) for path in [*(self.cache / "tmp").glob("*"), *self.output.glob("*/.*")]]

    def argv(self, *words: str | Path, recipe: Path | None = None) -> list[str | Path]:
        program: list[str | Path] = [sys.executable, "-m", "builder", "build", recipe or self.recipe]
        return [*program, "--output", self.output, *words]

    def run(self, *words: str | Path, recipe: Path | None = None) -> Completed:
        """Build, and take what comes."""
        return run(self.argv(*words, recipe=recipe), env=self.env, cwd=self.recipe.parent, check=False)

    def build(self, *words: str | Path, recipe: Path | None = None) -> dict[str, Any]:
        """Build with success; return the report."""
        done = self.run("--json", *words, recipe=recipe)
        done.raise_for_status()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def write(self, name: str, text: str) -> Path:
        """Write a recipe that extends the small one."""
        path = self.recipe.with_name(name)
        path.write_text(f"name: {path.stem}\nextends: [small.yaml]\n{text}")
        return path

    def cold(self, at: Path) -> Engine:
        """Return an engine elsewhere that knows the packages and has no layer."""
        cache = at / "cache"
        cache.mkdir(parents=True)
        for name in _SHARED:
            (cache / name).symlink_to(self.cache / name)
        return Engine(cache=cache, recipe=copy_recipe(at / "recipes"), output=at / "output")

    def beside(self, at: Path) -> Engine:
        """Return an engine with the same cache, and a recipe and an output elsewhere."""
        return Engine(cache=self.cache, recipe=copy_recipe(at / "recipes"), output=at / "output")


def first_engine(at: Path) -> Engine:
    """Return an engine that has never resolved and never built.

    What builds on this machine have fetched before is not fetched again: package files, their lists, native tools.
    """
    known = Cache.default()
    known.prepare()
    (at / "cache").mkdir()
    (at / "cache/archives").symlink_to(known.archives)
    (at / "cache/tools").symlink_to(known.tools)
    shutil.copytree(known.lists, at / "cache/lists")
    return Engine(cache=at / "cache", recipe=copy_recipe(at / "recipes"), output=at / "output")


def copy_recipe(to: Path) -> Path:
    shutil.copytree(RECIPES, to)
    return to / "small.yaml"


def made(report: dict[str, Any]) -> list[str]:
    """Return the names of the layers that a build made."""
    return [layer["name"] for layer in report["layers"] if layer["made"]]


def processes_of(path: Path) -> list[str]:
    """Return the processes that have a path in their command line, as their directory or as their root."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            said = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            places = [str((entry / name).readlink()) for name in ("cwd", "root")]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is none of ours: a container's init shows its places to nobody
        if str(path) in said or any(str(path) in place for place in places):
            found.append(f"{entry.name} {said}")
    return found
