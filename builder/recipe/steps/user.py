"""Step kind `user`: an account that keys open, never a password."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from builder.errors import Problem
from builder.host.hashing import file_digest
from builder.host.ssh_keys import key_problem
from builder.recipe.steps.base import Place, Step, Target
from builder.recipe.steps.fields import TargetPath, source_path, source_problem
from builder.recipe.steps.rootfiles import RootFiles

_LOCKED = "!"  # shadow(5): no password matches; keys still do


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", value):
        hint = "lower-case letters, digits, - and _, a letter first, 32 characters at most"
        raise ValueError(f"'{value}' is not a name of a user or group\nhint: {hint}")
    return value


def _gecos(value: str) -> str:
    if re.search(r"[:\n]", value):
        raise ValueError("holds a colon or a line feed, which /etc/passwd cannot")
    return value


def _key(value: str) -> str:
    problem = key_problem(value)
    if not value.strip() or "\n" in value.strip():
        raise ValueError("is not one line\nhint: each key is an entry of its own")
    if problem:
        raise ValueError(f"'{value[:40]}{'…' if len(value) > 40 else ''}' {problem}")  # noqa: PLR2004 - what fits a line
    return value.strip()


def _no_password(_: object) -> None:
    hint = "give authorized_keys, and sudo: nopasswd for an administrator; passwords for the console belong to a node"
    raise ValueError(f"an image has no passwords: everyone who holds it would hold them\nhint: {hint}")


Name = Annotated[str, AfterValidator(_name)]


class KeysFile(BaseModel):
    """A file of public keys, in the format of authorized_keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="The file, relative to the recipe file.")


class UserStep(Step):
    """Have an account in the root. Its password is locked, always; ssh keys open it.

    Groups that are missing are created as system groups. What is not given of an existing account stays as it is; its
    password is locked all the same. The keys given are all the keys it has; an empty list leaves them alone.

    ```yaml
    - user:
        name: ubuntu
        uid: 1000
        groups: [adm, video]
        shell: /bin/bash
        gecos: Ubuntu
        authorized_keys:                    # or {source: keys/admins.pub}
          - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f admin@example.org
        sudo: nopasswd
    - user: {name: metrics, system: true, home: /var/lib/metrics}
    ```
    """

    name: Name = Field(description="The account's name, and its group's.")
    uid: int | None = Field(default=None, ge=0, le=65533, description="Its number; the next free one when left out.")
    groups: tuple[Name, ...] = Field(default=(), description="Groups it belongs to, beside its own.")
    shell: TargetPath | None = Field(default=None, description="/bin/bash for a new account, for a system one nologin.")
    home: TargetPath | None = Field(default=None, description="/home/NAME for a new account, for a system one none.")
    gecos: Annotated[str, AfterValidator(_gecos)] | None = Field(default=None, description="Whose it is, for people.")
    authorized_keys: tuple[Annotated[str, AfterValidator(_key)], ...] | KeysFile = Field(
        default=(), description="Public keys that open it: lines of authorized_keys, or a file of them."
    )
    sudo: Literal["nopasswd", "none"] = Field(
        default="none", description="Whether it may become root, without password."
    )
    system: bool = Field(default=False, description="A service's account: low number, no home and no shell by default.")
    password: SkipJsonSchema[Annotated[None, BeforeValidator(_no_password)]] = Field(default=None, exclude=True)

    def check(self, at: Place) -> list[Problem]:
        """Find a missing file of keys, and wrong lines in it."""
        if not isinstance(self.authorized_keys, KeysFile):
            return []
        missing = source_problem(at, self.authorized_keys.source)
        if missing:
            return [missing]
        found = [(number, key_problem(line)) for number, line in enumerate(self._keys(at), start=1)]
        source = self.authorized_keys.source
        return [Problem(message=f"{source}:{number}: {problem}") for number, problem in found if problem]

    def inputs(self, at: Place) -> object:
        """Return the digest of the file of keys."""
        keys = self.authorized_keys
        return file_digest(source_path(at, keys.source)) if isinstance(keys, KeysFile) else None

    def apply(self, target: Target, at: Place) -> None:
        """Create or change the account, then its keys and its sudo rule."""
        files = RootFiles(target, at)
        if self.sudo == "nopasswd" and not files.exists("/usr/bin/sudo"):
            raise files.error("user: the root has no sudo", hint="install the package sudo in a step before this one")
        for group in self.groups:
            if group not in _entries(files, "/etc/group"):
                target.run(["groupadd", "--system", group])
        known = _entries(files, "/etc/passwd").get(self.name)
        if known is None:
            target.run(self._useradd(files))
        elif self.uid is not None and known[2] != str(self.uid):
            raise files.error(f"user: {self.name} has the uid {known[2]} in the root, not {self.uid}")
        target.run(self._usermod(new=known is None))
        entry = _entries(files, "/etc/passwd").get(self.name)
        if entry is None:
            raise files.error(f"user: {self.name} was not created")
        keys = [line.strip() for line in self._keys(at) if line.strip()]
        if keys:
            _write_keys(files, keys, home=entry[5], owner=files.owner(f"{self.name}:{entry[3]}"))
        self._write_sudo(files)

    def _useradd(self, files: RootFiles) -> list[str]:
        home = self.home or ("/nonexistent" if self.system else f"/home/{self.name}")
        shell = self.shell or ("/usr/sbin/nologin" if self.system else "/bin/bash")
        argv = ["useradd", "--no-log-init", "--shell", shell, "--home-dir", home, "--comment", self.gecos or ""]
        argv += ["--gid", self.name] if self.name in _entries(files, "/etc/group") else ["--user-group"]
        argv += ["--no-create-home"] if self.system and self.home is None else ["--create-home"]
        argv += ["--system"] if self.system else []
        argv += ["--uid", str(self.uid)] if self.uid is not None else []
        return [*argv, self.name]

    def _usermod(self, *, new: bool) -> list[str]:
        argv = ["usermod", "--password", _LOCKED]
        argv += ["--append", "--groups", ",".join(self.groups)] if self.groups else []
        if not new:
            argv += ["--shell", self.shell] if self.shell else []
            argv += ["--home", self.home, "--move-home"] if self.home else []
            argv += ["--comment", self.gecos] if self.gecos is not None else []
        return [*argv, self.name]

    def _keys(self, at: Place) -> list[str]:
        if isinstance(self.authorized_keys, KeysFile):
            return source_path(at, self.authorized_keys.source).read_text(errors="replace").splitlines()
        return list(self.authorized_keys)

    def _write_sudo(self, files: RootFiles) -> None:
        path = f"/etc/sudoers.d/90-{self.name}"
        if self.sudo == "nopasswd":
            files.write(path, f"{self.name} ALL=(ALL:ALL) NOPASSWD: ALL\n".encode(), mode=0o440)
        elif files.exists(path):
            files.remove(path)


def _write_keys(files: RootFiles, keys: list[str], *, home: str, owner: tuple[int, int]) -> None:
    if not files.resolve(home).is_dir():
        files.make_directory(home, owner=owner, mode=0o750)
    files.make_directory(f"{home}/.ssh", owner=owner, mode=0o700)
    content = "".join(f"{key}\n" for key in keys).encode()
    files.write(f"{home}/.ssh/authorized_keys", content, owner=owner, mode=0o600)


def _entries(files: RootFiles, path: str) -> dict[str, list[str]]:
    """Return an account file's entries (passwd(5), group(5)) by name."""
    lines = (files.read(path) or b"").decode(errors="replace").splitlines()
    separators = 6 if path.endswith("passwd") else 3  # fewer are a damaged line, or NIS's
    return {line.split(":")[0]: line.split(":") for line in lines if line.count(":") >= separators}
