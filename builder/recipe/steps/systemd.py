"""Step kind `systemd`: units to enable, disable and mask."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from builder.documents.spelling import did_you_mean
from builder.recipe.steps.base import Place, Step, Target
from builder.recipe.steps.rootfiles import RootFiles

_DIRECTORIES = (  # systemd.unit(5), the system's unit search path, what a running system generates left out
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_SUFFIXES = ("service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?")
_INSTALL = re.compile(rb"^\s*\[Install\]", re.MULTILINE)


def _unit(value: str) -> str:
    if not _UNIT.fullmatch(value):
        raise ValueError(f"'{value}' is not the name of a unit")
    return value if value.rpartition(".")[2] in _SUFFIXES else f"{value}.service"


Unit = Annotated[str, AfterValidator(_unit)]


class SystemdStep(Step):
    """Enable, disable and mask systemd units; set the default target. Nothing is started while an image is built.

    A name without a suffix is a service. A unit that the root does not have is an error, and so is enabling one that
    has no [Install] section, which would do nothing.

    ```yaml
    - systemd:
        enable: [ssh.service, backup.timer]
        disable: [apt-daily.timer]
        mask: [systemd-networkd-wait-online.service]
        default_target: multi-user.target
    ```
    """

    enable: tuple[Unit, ...] = Field(default=(), description="Units to enable.")
    disable: tuple[Unit, ...] = Field(default=(), description="Units to disable.")
    mask: tuple[Unit, ...] = Field(default=(), description="Units to mask: nothing can start them.")
    default_target: Unit | None = Field(default=None, description="What the machine boots into.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (self.enable or self.disable or self.mask or self.default_target):
            raise ValueError("nothing is given\nhint: give enable, disable, mask or default_target")
        both = sorted(set(self.enable) & (set(self.disable) | set(self.mask)))
        if both:
            raise ValueError(f"{both[0]} is to be enabled and to be {'masked' if both[0] in self.mask else 'disabled'}")
        if self.default_target and not self.default_target.endswith(".target"):
            raise ValueError(f"default_target: {self.default_target} is not a target\nhint: such as multi-user.target")
        return self

    def inputs(self, at: Place) -> object:  # noqa: ARG002
        """Return nothing: the fields alone decide."""
        return None

    def apply(self, target: Target, at: Place) -> None:
        """Call systemctl in the root, once for each verb."""
        files = RootFiles(target, at)
        for unit in (*self.enable, *self.disable, *self.mask, *([self.default_target] if self.default_target else [])):
            self._require(files, unit)
        for unit in self.enable:
            text = _read_unit(files, unit)
            if text is not None and not _INSTALL.search(text):
                hint = "other units start it; leave it out, or give it an [Install] section"
                raise files.error(f"systemd: {unit} has no [Install] section, enabling it does nothing", hint=hint)
        for verb, units in (("disable", self.disable), ("mask", self.mask), ("enable", self.enable)):
            if units:
                target.run(["systemctl", "--no-reload", verb, *units])
        if self.default_target:
            target.run(["systemctl", "--no-reload", "set-default", self.default_target])

    def _require(self, files: RootFiles, unit: str) -> None:
        if any(files.exists(path) for path in (*_paths(unit), f"/etc/init.d/{unit.removesuffix('.service')}")):
            return
        known = {path.rpartition("/")[2] for directory in _DIRECTORIES for path in files.find(f"{directory}/*.*")}
        near = did_you_mean(unit, sorted(known)).removeprefix("; ")
        hint = near or "a package or a file of a step before this one has to bring it"
        raise files.error(f"systemd: the root has no unit {unit}", hint=hint)


def _paths(unit: str) -> list[str]:
    """Return where a unit's file can be, that of its template included, the one that counts first."""
    name, suffix = unit.rsplit(".", 1)
    template = f"{name.split('@')[0]}@.{suffix}" if "@" in name else unit
    return [f"{directory}/{file}" for file in dict.fromkeys((unit, template)) for directory in _DIRECTORIES]


def _read_unit(files: RootFiles, unit: str) -> bytes | None:
    found = (content for path in _paths(unit) if (content := files.read(path)) is not None)
    return next(found, None)
