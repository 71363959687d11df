"""Step kind `files`: single files, directories and links."""

from __future__ import annotations

import zoneinfo
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from builder.documents.spelling import did_you_mean
from builder.errors import Problem
from builder.host.hashing import file_digest
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
from builder.recipe.steps.rootfiles import RootFiles

_WHAT = ("content", "source", "directory", "symlink")


_ZONES = "/usr/share/zoneinfo/"  # tzfile(5)


def _zone_problem(target: str) -> Problem | None:
    """Return what is wrong with a link to a time zone, as far as this machine's own list of them tells."""
    zone = target.removeprefix(_ZONES)
    if zone == target or Path(target).is_file():
        return None
    known = zoneinfo.available_timezones()  # none where the machine has no tzdata
    if not known or zone in known:
        return None
    return Problem(message=f"unknown time zone '{zone}'{did_you_mean(zone, known)}", hint="timedatectl list-timezones")


class FileEntry(BaseModel):
    """A file (`content` or `source`), a directory (`directory: true`) or a symbolic link (`symlink`) in the root.

    Missing directories above it are made, root's and 0755. A file or link that stands there is replaced; a directory
    that stands there keeps its owner and mode where the entry gives none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: TargetPath = Field(description="Where it goes: an absolute path in the root.")
    content: str | None = Field(default=None, description="The text of the file.")
    source: str | None = Field(default=None, description="The file to copy, relative to the recipe file.")
    directory: bool = Field(default=False, description="Make a directory.")
    symlink: str | None = Field(default=None, min_length=1, description="What the symbolic link points to.")
    owner: Owner | None = Field(
        default=None, description="`user:group` as the root knows them; root:root when left out."
    )
    mode: Mode | None = Field(
        default=None,
        description="Quoted octal mode. Default: '0755' for directories and executable sources, else '0644'.",
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = [name for name in _WHAT if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"exactly one of content, source, directory and symlink says what it is, not {found}")
        if self.symlink and self.mode:
            raise ValueError("a symbolic link has no mode of its own\nhint: give the mode to what it points to")
        return self


class FilesStep(Step):
    """Put files, directories and symbolic links into the root.

    ```yaml
    - files:
        - path: /etc/motd
          content: |
            Yellow rack.
        - path: /usr/local/bin/report
          source: ../overlays/bin/report     # relative to this recipe file
          owner: root:adm                    # names as the image knows them
          mode: '0750'                       # quoted, octal
        - path: /var/lib/report
          directory: true
          owner: daemon:daemon
        - path: /etc/localtime
          symlink: /usr/share/zoneinfo/Europe/Athens
    ```
    """

    list_field: ClassVar[str] = "files"

    files: Annotated[tuple[FileEntry, ...], Field(min_length=1, description="What to put where.")]

    def check(self, at: Place) -> list[Problem]:
        """Find sources that are missing and paths given twice."""
        found = [source_problem(at, entry.source) for entry in self.files if entry.source is not None]
        problems = [problem for problem in found if problem]
        paths = [entry.path for entry in self.files]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        zones = [_zone_problem(entry.symlink) for entry in self.files if entry.symlink is not None]
        problems += [problem for problem in zones if problem]
        return problems + [Problem(message=f"files: {path} is given twice") for path in twice]

    def inputs(self, at: Place) -> object:
        """Return digest and executable bit of every source."""
        sources = [source_path(at, entry.source) for entry in self.files if entry.source is not None]
        return [[file_digest(source), is_executable(source)] for source in sources]

    def apply(self, target: Target, at: Place) -> None:
        """Write the entries in their order."""
        files = RootFiles(target, at)
        for entry in self.files:
            self._put(files, entry, at)

    def _put(self, files: RootFiles, entry: FileEntry, at: Place) -> None:
        mode = None if entry.mode is None else int(entry.mode, 8)
        owner = files.owner(entry.owner or "0:0")
        if entry.directory:
            files.make_directory(entry.path, owner=owner if entry.owner else None, mode=mode)
        elif entry.symlink is not None:
            files.make_link(entry.path, entry.symlink, owner=owner)
        elif entry.source is not None:
            source = source_path(at, entry.source)
            with source.open("rb") as stream:
                default = default_mode(executable=is_executable(source))
                files.write(entry.path, stream, owner=owner, mode=default if mode is None else mode)
        else:
            content = (entry.content or "").encode()
            files.write(entry.path, content, owner=owner, mode=0o644 if mode is None else mode)
