"""Step kind `cmdline.txt`: the kernel's command line."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, StrictInt, StrictStr, model_validator

from builder.firmware.cmdline_txt import MOST_CHARACTERS, CmdlineEdit, edit, key_of, split
from builder.recipe.steps.base import Place, Step, Target
from builder.recipe.steps.fields import TargetPath
from builder.recipe.steps.rootfiles import RootFiles


def _word(value: str) -> str:
    if split(value) != [value] or value == "--":
        raise ValueError(f"'{value}' is not one word of a command line\nhint: each word is an entry of its own")
    return value


Word = Annotated[str, AfterValidator(_word)]
Value = StrictInt | StrictStr


class CmdlineTxtStep(Step):
    """Edit the kernel's command line in cmdline.txt. It stays one line; the other words keep their order.

    `remove` comes first (a bare key takes every word of that key), then `set` (every word of that key gives way to
    these values; a list gives a word for each), then `add` (words to have, at the end).

    ```yaml
    - cmdline.txt:
        remove: [quiet, splash, plymouth.ignore-serial-consoles]
        set:
          console: ['serial0,115200', tty1]
          panic: 10
        add: [cgroup_enable=memory, fixrtc]
    ```
    """

    remove: tuple[Word, ...] = Field(default=(), description="Keys, or whole words such as console=tty1.")
    set: dict[Word, Value | tuple[Value, ...]] = Field(default_factory=dict, description="Keys with all their values.")
    add: tuple[Word, ...] = Field(default=(), description="Words to have.")
    path: TargetPath = Field(default="/boot/firmware/cmdline.txt", description="The file, in the root.")

    @property
    def change(self) -> CmdlineEdit:
        """The change as the editor takes it."""
        values = {
            key: tuple(str(one) for one in (value if isinstance(value, tuple) else (value,)))
            for key, value in self.set.items()
        }
        return CmdlineEdit(remove=self.remove, set=values, add=self.add)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not (self.remove or self.set or self.add):
            raise ValueError("nothing is given\nhint: give set, add or remove")
        for key, values in self.change.set.items():
            if "=" in key:
                name, _, value = key.partition("=")
                raise ValueError(f"set: '{key}' is not a key\nhint: write set: {{{name}: {value or '…'}}}")
            if not values:
                raise ValueError(f"set: {key} has no value\nhint: write remove: [{key}]")
            wrong = next((one for one in values if split(f"{key}={one}") != [f"{key}={one}"]), None)
            if wrong is not None:
                raise ValueError(f"set: the value of {key} is not one word: '{wrong}'\nhint: quote it: '\"{wrong}\"'")
        keys = {key_of(key) for key in self.set}
        clash = next((word for word in (*self.add, *self.remove) if key_of(word) in keys), None)
        if clash:
            raise ValueError(f"{key_of(clash)} is set, and also added or removed\nhint: set gives all its values")
        removed = next((word for word in self.add if word in self.remove or key_of(word) in self.remove), None)
        if removed:
            raise ValueError(f"{removed} is both added and removed")
        return self

    def inputs(self, at: Place) -> object:  # noqa: ARG002
        """Return nothing: the fields alone decide."""
        return None

    def apply(self, target: Target, at: Place) -> None:
        """Edit the file."""
        files = RootFiles(target, at)

        def change(text: str) -> str:
            changed = edit(text, self.change)
            if len(changed.encode()) - 1 > MOST_CHARACTERS:
                raise files.error(f"{self.path} would have {len(changed) - 1} characters, {MOST_CHARACTERS} at most")
            return changed

        files.edit(self.path, change)
