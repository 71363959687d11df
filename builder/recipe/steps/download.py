"""Step kind `download`: a file from outside, named by its checksum."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from builder.documents.spelling import did_you_mean
from builder.host.hashing import Artifact
from builder.recipe.steps.archives import ArchiveError, Member, decompressed, members
from builder.recipe.steps.base import Place, Step, Target
from builder.recipe.steps.fields import Mode, Owner, TargetPath
from builder.recipe.steps.rootfiles import RootFiles


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+/\S+", value):
        raise ValueError(f"'{value}' is not an http or https address of a file")
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        hint = "write it in lower case" if re.fullmatch(r"[0-9A-Fa-f]{64}", value) else "sha256sum FILE prints it"
        raise ValueError(f"'{value}' is not a sha256 of 64 lower-case hexadecimal digits\nhint: {hint}")
    return value


class DownloadStep(Step):
    """Put a file from outside into the root: as it is, a member of an archive, or an archive's whole content.

    The checksum is that of what the address gives. A file with that checksum in the artifacts' directory is used
    instead of the network. `optional: true` lets a build continue without the file; a wrong checksum is always
    an error. Archives: tar (also .gz, .bz2, .xz, .zst) and zip; owners in them are ignored, modes kept.

    ```yaml
    - download:
        url: https://example.org/k3s-arm64
        sha256: 5a1c0f3e8d7b6a594837261504f3e2d1c0b9a897867564534231201f0e0d0c0b
        path: /usr/local/bin/k3s
        mode: '0755'
        optional: true
    - download:
        url: https://example.org/tool-1.2.tar.gz
        sha256: 6b1c0f3e8d7b6a594837261504f3e2d1c0b9a897867564534231201f0e0d0c0b
        member: tool-1.2/bin/tool       # one file of the archive
        path: /usr/local/bin/tool
        mode: '0755'
    - download:
        url: https://example.org/data.tar.zst
        sha256: 7c1c0f3e8d7b6a594837261504f3e2d1c0b9a897867564534231201f0e0d0c0b
        extract: true                   # all of it, below path
        strip: 1                        # without the first directory of every name
        path: /opt/data
    ```
    """

    url: Annotated[str, AfterValidator(_url)] = Field(description="Where it comes from.")
    sha256: Annotated[str, AfterValidator(_sha256)] = Field(description="The checksum of what the address gives.")
    path: TargetPath = Field(description="Where it goes: an absolute path in the root.")
    member: str | None = Field(default=None, min_length=1, description="The one file of the archive to take.")
    extract: bool = Field(default=False, description="Unpack the archive into the directory `path`.")
    strip: int = Field(default=0, ge=0, description="With extract: how many leading directories of the names to drop.")
    decompress: bool = Field(default=False, description="The file is compressed by itself (.gz, .bz2, .xz, .zst).")
    owner: Owner = Field(default="root:root", description="`user:group` as the root knows them.")
    mode: Mode | None = Field(default=None, description="Quoted octal mode of the file; '0644' when left out.")
    optional: bool = Field(default=False, description="Build without it if the download is unavailable.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        chosen = [name for name in ("member", "extract", "decompress") if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other")
        if self.extract and self.mode is not None:
            raise ValueError("with extract, modes are those of the archive\nhint: leave mode out")
        if self.strip and not self.extract:
            raise ValueError("strip is for extract")
        return self

    def inputs(self, at: Place) -> object:  # noqa: ARG002
        """Return nothing: files from outside are artifacts."""
        return None

    def artifacts(self) -> tuple[Artifact, ...]:
        """Return the one file."""
        return (Artifact(url=self.url, sha256=self.sha256, optional=self.optional),)

    def apply(self, target: Target, at: Place) -> None:
        """Put it into the root; nothing where it is optional and could not be had."""
        fetched = target.fetched(self.sha256)
        files = RootFiles(target, at)
        if fetched is None:
            if not self.optional:
                raise files.error(f"download: {self.url} was not fetched")
            return
        try:
            self._put(files, fetched)
        except ArchiveError as error:
            raise files.error(f"download: {self.url} {error}") from error

    def _put(self, files: RootFiles, fetched: Path) -> None:
        owner, mode = files.owner(self.owner), int(self.mode or "0644", 8)
        if self.extract:
            self._extract(files, fetched, owner)
        elif self.member:
            with members(fetched) as found:
                names = []
                for member in found:
                    names.append(str(member.name))
                    if member.name == PurePosixPath(self.member) and member.kind != "directory":
                        with member.open() as stream:
                            files.write(self.path, stream, owner=owner, mode=mode)
                        return
            near = did_you_mean(self.member, names).removeprefix("; ")
            hint = near or f"its members begin with {', '.join(names[:5])}"
            raise files.error(f"download: {self.url} has no file {self.member}", hint=hint)
        elif self.decompress:
            with decompressed(fetched) as stream:
                files.write(self.path, stream, owner=owner, mode=mode)
        else:
            with fetched.open("rb") as stream:
                files.write(self.path, stream, owner=owner, mode=mode)

    def _extract(self, files: RootFiles, fetched: Path, owner: tuple[int, int]) -> None:
        files.make_directory(self.path)
        with members(fetched) as found:
            for member in found:
                parts = member.name.parts[self.strip :]
                if parts:
                    self._place(files, member, "/".join((self.path, *parts)), owner)

    def _place(self, files: RootFiles, member: Member, path: str, owner: tuple[int, int]) -> None:
        if member.kind == "directory":
            files.make_directory(path, owner=owner, mode=member.mode)
        elif member.kind == "link":
            files.make_link(path, member.link, owner=owner)
        elif member.kind == "hard link":
            files.make_hard_link(path, "/".join((self.path, *PurePosixPath(member.link).parts[self.strip :])))
        elif member.kind == "file":
            with member.open() as stream:
                files.write(path, stream, owner=owner, mode=member.mode)
        else:
            raise ArchiveError(f"has a device or pipe: {member.name}")
