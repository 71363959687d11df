"""Step kind `config.txt`: the Pi firmware's settings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

from builder.firmware.config_txt import MOST_CHARACTERS, REPEATED, ConfigEdit, edit, key_of, lines_of
from builder.recipe.steps.base import Place, Step, Target
from builder.recipe.steps.fields import TargetPath
from builder.recipe.steps.rootfiles import RootFiles


def _line(value: str) -> str:
    if "\n" in value or "\r" in value or not value.strip():
        raise ValueError("is not one line\nhint: each line is an entry of its own")
    if value.lstrip().startswith("["):
        raise ValueError(f"'{value}' is a section\nhint: put it into section, without brackets")
    return value.strip()


def _section(value: str) -> str:
    plain = value.strip()
    if not plain or "[" in plain or "]" in plain or "\n" in plain:
        raise ValueError(f"'{value}' is not a section\nhint: write it without brackets, such as pi4")
    return plain


Line = Annotated[str, AfterValidator(_line)]


class SectionEdit(BaseModel):
    """Changes to one section of config.txt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    section: Annotated[str, AfterValidator(_section)] = Field(
        default="all", description="The conditional filter that the lines stand under: all, pi4, pi5, cm4, gpio4=1…"
    )
    remove: tuple[Line, ...] = Field(default=(), description="Keys, or whole lines such as dtoverlay=vc4-kms-v3d.")
    set: dict[str, StrictInt | StrictStr] = Field(default_factory=dict, description="Keys with their one value.")
    add: tuple[Line, ...] = Field(
        default=(), description="Lines to have, for keys that repeat: dtoverlay=…, dtparam=…."
    )

    @property
    def change(self) -> ConfigEdit:
        """The change as the editor takes it."""
        values = {key: str(value) for key, value in self.set.items()}
        return ConfigEdit(section=self.section, remove=self.remove, set=values, add=self.add)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for key, value in self.set.items():
            if key_of(key) != key:
                raise ValueError(f"set: '{key}' is not a key")
            if key in REPEATED:
                raise ValueError(f"set: {key} may stand more than once\nhint: write add: ['{key}={value}']")
            if "\n" in str(value):
                raise ValueError(f"set: the value of {key} is not one line")
        touched = [key_of(line) for line in (*self.add, *self.remove)]
        clash = next((key for key in self.set if key in touched), None)
        if clash:
            raise ValueError(f"{clash} is set, and also added or removed\nhint: set replaces every earlier value")
        for line in lines_of(self.change):
            if len(line.encode()) > MOST_CHARACTERS:
                found = len(line.encode())
                hint = "the firmware drops the rest; several dtparam lines can follow a dtoverlay line"
                raise ValueError(f"'{line[:40]}…' has {found} characters, {MOST_CHARACTERS} at most\nhint: {hint}")
        return self


class ConfigTxtStep(SectionEdit, Step):
    """Edit the Pi firmware's config.txt.

    Other sections, comments and the order of lines stay; a missing file is created.
    In each section `remove` comes first, then `set`, then `add`. A line stands under the filters before it, which add
    up across types until `[all]`; `section: pi4` means the lines under `[pi4]` alone. Numbers need no quotes; the
    firmware knows 1 and 0, not true and false.

    ```yaml
    - config.txt:
        set: {arm_64bit: 1, enable_uart: 1}
        remove: [dtparam=audio=on, camera_auto_detect]
        add: [dtoverlay=disable-wifi, dtoverlay=disable-bt]
    - config.txt:                       # several sections
        - section: pi4
          set: {arm_boost: 1}
        - section: pi5
          add: [dtparam=pciex1_gen=3]
    ```
    """

    list_field: ClassVar[str] = "edits"

    edits: tuple[SectionEdit, ...] = Field(default=(), description="Changes to several sections, in their order.")
    path: TargetPath = Field(default="/boot/firmware/config.txt", description="The file, in the root.")

    @model_validator(mode="after")
    def _gives_something(self) -> Self:
        if not any(one.remove or one.set or one.add for one in self._all()):
            raise ValueError("nothing is given\nhint: give set, add or remove")
        return self

    def _all(self) -> list[SectionEdit]:
        return [self, *self.edits]

    def inputs(self, at: Place) -> object:  # noqa: ARG002
        """Return nothing: the fields alone decide."""
        return None

    def apply(self, target: Target, at: Place) -> None:
        """Edit the file."""

        def change(text: str) -> str:
            for one in self._all():
                text = edit(text, one.change)
            return text

        RootFiles(target, at).edit(self.path, change)
