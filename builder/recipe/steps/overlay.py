"""Step kind `overlay`: a directory laid over the root."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from builder.errors import Problem
from builder.host.hashing import file_digest
from builder.host.overlay import Laid, walk
from builder.recipe.steps.base import Place, Step, Target
from builder.recipe.steps.fields import (
    Mode,
    Owner,
    TargetPath,
    default_mode,
    is_executable,
    source_path,
    source_problem,
)
from builder.recipe.steps.rootfiles import RootFiles, is_pattern, matches


class Permission(BaseModel):
    """Owner and mode of what an overlay lays down, where they are not root's and what git holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: TargetPath = Field(
        description="A path in the root that the overlay lays down; `*`, `?`, `[…]` and `**` allowed."
    )
    owner: Owner | None = Field(default=None, description="`user:group` as the root knows them.")
    mode: Mode | None = Field(default=None, description="Quoted octal mode.")

    @model_validator(mode="after")
    def _gives_something(self) -> Self:
        if self.owner is None and self.mode is None:
            raise ValueError("neither owner nor mode is given")
        return self


class OverlayStep(Step):
    """Lay a directory's content over the root, the boot partition (`boot/firmware/…`) included.

    Everything belongs to root; files are 0644, or 0755 where executable; new directories are 0755, directories that the
    root has keep their owner and mode. `permissions` says otherwise, the last entry that names a path winning. Symbolic
    links are copied as links; a directory laid where the root has a link to one goes where the link points.
    `delete` comes first: a pattern may match nothing, a path without wildcards has to exist.

    ```yaml
    - overlay:
        source: ../overlays/base            # relative to this recipe file
        delete: [/etc/motd, /etc/update-motd.d/*]
        permissions:
          - {path: /etc/sudoers.d/*, mode: '0440'}
          - {path: /var/lib/report, owner: 'daemon:daemon', mode: '0750'}
    ```
    """

    source: str = Field(description="The directory to lay over the root, relative to the recipe file.")
    delete: tuple[TargetPath, ...] = Field(default=(), description="Paths in the root to remove; wildcards allowed.")
    permissions: tuple[Permission, ...] = Field(default=(), description="Owners and modes that git cannot hold.")

    def check(self, at: Place) -> list[Problem]:
        """Find a missing source, what is no file, directory or link in it, and permissions that match nothing."""
        missing = source_problem(at, self.source, directory=True)
        if missing:
            return [missing]
        laid = list(walk(source_path(at, self.source)))
        problems = [
            Problem(message=f"{self.source}{one.path} is neither a file, a directory nor a symbolic link")
            for one in laid
            if one.kind == "special"
        ]
        for permission in self.permissions:
            named = [one for one in laid if matches(permission.path, one.path)]
            if not named:
                hint = f"permissions are for what lies in {self.source}; use a files step for others"
                problems.append(Problem(message=f"permissions: {permission.path} matches nothing laid down", hint=hint))
            elif permission.mode and all(one.kind == "link" for one in named):
                problems.append(
                    Problem(message=f"permissions: {permission.path} is a symbolic link, which has no mode")
                )
        return problems

    def inputs(self, at: Place) -> object:
        """Return names, contents, executable bits and link targets, sorted; neither times nor the checkout's umask."""
        return [[one.path, one.kind, *_content(one)] for one in walk(source_path(at, self.source))]

    def apply(self, target: Target, at: Place) -> None:
        """Delete what is to go, then lay the directory over the root."""
        files = RootFiles(target, at)
        for path in self.delete:
            found = files.find(path)
            if not found and not is_pattern(path):
                hint = f"write it as a pattern if it may be missing: {path[:-1]}[{path[-1]}]"
                raise files.error(f"overlay: delete: the root has no {path}", hint=hint)
            for one in reversed(found):
                if files.exists(one):
                    files.remove(one)
        for laid in walk(source_path(at, self.source)):
            self._lay(files, laid)

    def _lay(self, files: RootFiles, laid: Laid) -> None:
        named = [permission for permission in self.permissions if matches(permission.path, laid.path)]
        owner = next((files.owner(one.owner) for one in reversed(named) if one.owner), None)
        mode = next((int(one.mode, 8) for one in reversed(named) if one.mode), None)
        if laid.kind == "directory":
            files.make_directory(laid.path, owner=owner, mode=mode)
        elif laid.kind == "link":
            files.make_link(laid.path, laid.link or "", owner=owner or (0, 0))
        else:
            default = default_mode(executable=is_executable(laid.source))
            with laid.source.open("rb") as stream:
                files.write(laid.path, stream, owner=owner or (0, 0), mode=default if mode is None else mode)


def _content(one: Laid) -> tuple[object, ...]:
    if one.kind == "link":
        return (one.link,)
    return (file_digest(one.source), is_executable(one.source)) if one.kind == "file" else ()
