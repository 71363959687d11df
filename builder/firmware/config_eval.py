"""How a Raspberry Pi's firmware reads config.txt: filters, includes, and which line wins.

Sources: the official documentation, `config_txt` (What is config.txt, Conditional filters, Boot options); where it is
silent, a maintainer's answer in github.com/raspberrypi/firmware (#414, #450). What neither settles is said in a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from builder.firmware.boards import BOARDS, Board

LINE_LIMIT = 98  # characters; the documentation, "File format"
CONFIG_LIMIT = 256 << 10  # bytes of a file that are read; a guard of ours, as the next two
_INCLUDE_DEPTH = 8
_INCLUDES = 64
_BOM = b"\xef\xbb\xbf"

Include = Callable[[str], "bytes | None"]


_MODELS = frozenset({"pi0", "pi0w", "pi02", "pi1", "pi2", "pi3", "pi3+"}).union(
    *(each.filters for each in BOARDS.values())
)
_COMMANDS = frozenset({"initramfs", "kernel", "cmdline"})  # may be followed by a space instead of "="


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom the filters are asked about. `serial` is 8 hex digits."""

    board: Board
    serial: str
    tryboot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What config.txt comes to on one board.

    `settings` has the last value of every property; `initramfs` the files of the last initramfs line; `overlays` the
    names of `dtoverlay` in order; `notes` what a person should know, each with file:line.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    initramfs: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def enabled(self, name: str, *, default: bool = False) -> bool:
        """Return whether a property is set to a number other than zero; what is no number counts as not set."""
        value = self.settings.get(name)
        try:
            return default if value is None else int(value.strip(), 0) != 0
        except ValueError:
            return default


def cut(line: bytes) -> bytes:
    """Return a line as the firmware sees it: its first 98 characters, without the end of line."""
    return line.rstrip(b"\r\n")[:LINE_LIMIT]


def evaluate(text: bytes, identity: Identity, *, name: str = "config.txt", include: Include | None = None) -> Config:
    """Return what a config.txt comes to on a board.

    `include` returns the content of an included file, None where there is none; without it `include` lines do nothing,
    as in the EEPROM's stage.
    """
    reader = _Reader(identity=identity, include=include)
    reader.read(text, name, depth=0)
    return Config(
        settings=reader.settings,
        initramfs=reader.initramfs,
        overlays=tuple(reader.overlays),
        notes=tuple(reader.notes),
    )


@dataclass(slots=True, kw_only=True)
class _Reader:
    identity: Identity
    include: Include | None
    passing: dict[str, bool] = field(default_factory=dict)  # the filter in force of each kind
    settings: dict[str, str] = field(default_factory=dict)
    initramfs: tuple[str, ...] = ()
    overlays: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    place: str = ""
    files: int = 0

    def read(self, text: bytes, name: str, *, depth: int) -> None:
        self.files += 1
        self.place = f"{name}:1"
        if len(text) > CONFIG_LIMIT:
            self.note(f"the file has {len(text)} bytes; what comes after {CONFIG_LIMIT} is not looked at")
        for number, raw in enumerate(text[:CONFIG_LIMIT].split(b"\n"), start=1):
            self.place = f"{name}:{number}"
            if number == 1 and raw.startswith(_BOM):
                self.note("the file begins with a byte order mark: its first line is ignored; save it as plain text")
                continue
            seen = cut(raw)
            line = seen.decode(errors="replace").strip()
            if not line or line.startswith("#"):
                continue
            if len(seen) < len(raw.rstrip(b"\r\n")):
                self.note(f"the line is cut after {LINE_LIMIT} characters, at '…{line[-20:]}'")
            if line.startswith("["):
                self.filter(line)
            elif all(self.passing.values()):
                self.line(line, depth)

    def note(self, text: str) -> None:
        self.notes.append(f"{self.place}: {text}")

    def filter(self, line: str) -> None:
        if line == "[all]":
            self.passing.clear()
            return
        kind, passes = self.judge(line[1 : line.index("]")]) if "]" in line else ("", False)
        if kind:
            self.passing[kind] = passes
        else:
            known = " (filters are lower-case)" if line != line.lower() else ""
            self.note(f"the filter {line} is unknown and ignored: what follows is not limited by it{known}")

    def judge(self, name: str) -> tuple[str, bool]:
        """Return the kind of a filter and whether it passes on this board; no kind for an unknown one."""
        board = self.identity.board
        if name == "none":
            return "none", False
        if name in _MODELS:
            return "model", name in board.filters
        if name == "tryboot":
            return "tryboot", self.identity.tryboot
        if match := re.fullmatch(r"(board-type=)?(0x[0-9a-fA-F]{1,16})", name):
            own = board.type if match[1] else int(self.identity.serial, 16)
            return "board-type" if match[1] else "serial", int(match[2], 16) == own
        return self.surroundings(name)

    def surroundings(self, name: str) -> tuple[str, bool]:
        """Judge a filter on what is plugged into the board or happened to it."""
        if re.fullmatch(r"HDMI:[01]", name):  # says which port the settings are for, not whether they count
            return "HDMI", True
        match = re.match(r"(EDID|gpio|partition|boot_partition|bootvar0|boot_arg1|boot_count)[0-9]*[=<>&]", name)
        if match is None:
            return "", False
        self.note(f"[{name}] depends on the board's surroundings; taken as not matching")
        return match[1] if match[1] in {"EDID", "gpio"} else "expression", False

    def line(self, line: str, depth: int) -> None:
        word, _, rest = line.partition(" ")
        if word == "include":
            self.included(rest.strip(), depth)
        elif "=" in line and (word not in _COMMANDS or rest.lstrip().startswith("=")):
            self.property(line)
        elif word == "initramfs":
            self.ramfs(rest.split())
        elif word in _COMMANDS and rest:
            self.note(f"'{word} NAME' works, but is documented nowhere; write {word}={rest.strip()}")
            self.settings[word] = rest.strip()
        else:
            self.note(f"'{line}' is not property=value, and is ignored")

    def property(self, line: str) -> None:
        name, _, value = line.partition("=")
        if name != name.rstrip() or (value and value != value.lstrip()):
            self.note(f"spaces around '=' are not ignored: '{line}' does not do what it says; remove them")
        if name == "initramfs":
            self.note("initramfs takes no '=': the line is ignored; write 'initramfs NAME followkernel'")
        elif name == "ramfsfile":
            self.initramfs = _names(value)
        elif name in {"dtoverlay", "device_tree_overlay"}:
            if overlay := value.partition(",")[0].partition(":")[0].strip():
                self.overlays.append(overlay)
        else:
            self.settings[name] = value

    def ramfs(self, words: list[str]) -> None:
        if not words:
            self.note("initramfs without a file name is ignored")
            return
        if len(words) == 1:
            self.note("initramfs without an address was ignored by older firmware; write 'initramfs NAME followkernel'")
        self.initramfs = _names(words[0])

    def included(self, name: str, depth: int) -> None:
        if self.include is None:
            return
        if depth >= _INCLUDE_DEPTH or self.files >= _INCLUDES:
            self.note(f"include {name}: files include each other; not followed further")
            return
        content = self.include(name)
        if content is None:
            self.note(f"include {name}: no such file; its settings do not count")
            return
        place = self.place
        self.read(content, name, depth=depth + 1)
        self.place = place


def _names(value: str) -> tuple[str, ...]:
    return tuple(name for name in value.strip().split(",") if name)
