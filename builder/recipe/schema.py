"""What a person writes in a recipe, but for the steps: base, disk, layers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from builder.documents.messages import quoted
from builder.documents.spelling import did_you_mean
from builder.firmware.boards import BOARDS, NAMES
from builder.recipe.variables import Variable

Format = Literal["img", "img.xz", "img.zst", "img.gz"]

FORMATS: tuple[Format, ...] = ("img.xz", "img.zst", "img.gz", "img")
MIB = 1024**2
_UNITS = {"K": 1024, "M": MIB, "G": 1024**3, "T": 1024**4}
_SIZE = re.compile(r"([1-9][0-9]{0,9})([KMGT])")
_PERCENT = re.compile(r"([0-9]{1,3})%")
_MAX_DISK = 2 * 1024**4  # MBR counts 512-byte sectors in 32 bits
_MIN_BOOT = 16 * MIB  # a kernel and the firmware do not fit into less
_SUITES = {
    "debian": ("bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable"),
    "ubuntu": ("focal", "jammy", "noble", "plucky", "questing", "resolute"),
}
_COMPONENTS = {
    "debian": ("main", "contrib", "non-free", "non-free-firmware"),
    "ubuntu": ("main", "restricted", "universe", "multiverse"),
}


def parse_size(value: object) -> int:
    """Return the bytes of a size such as 256M; units are powers of 1024. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"a size needs a unit, not {quoted(value)}\nhint: write {value}M or {value}G")  # noqa: TRY004 - pydantic's
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected a size such as 256M or 4G, not {quoted(value)}\nhint: the units are K, M, G and T")
    size = int(match[1]) * _UNITS[match[2]]
    if size > _MAX_DISK:
        raise ValueError(f"{value} is more than the 2T that a Pi's partition table can hold")
    return size


def _root_size(value: object) -> object:
    return value if value == "auto" else parse_size(value)


def _boot_size(value: object) -> int:
    size = parse_size(value)
    if size < _MIN_BOOT:
        raise ValueError(f"{value} is too small for a kernel and the firmware\nhint: 256M is usual, 16M the least")
    return size


def _slack(value: object) -> object:
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        if int(match[1]) > 100:  # noqa: PLR2004 - percent
            raise ValueError(f"{value} is more than 100%\nhint: give a size instead: 4G")
        return value
    try:
        parse_size(value)
    except ValueError as error:
        raise ValueError(f"expected a share such as 15% or a size such as 512M, not {quoted(value)}") from error
    return value


def _matching(shape: str, meaning: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not re.fullmatch(shape, value):
            raise ValueError(f"{quoted(value)} is not {meaning}")
        return value

    return check


def _boot_label(value: str) -> str:
    if not 1 <= len(value) <= 11 or not re.fullmatch(r"[A-Za-z0-9_-]+", value):  # noqa: PLR2004 - FAT directory entry
        raise ValueError(f"'{value}' is not a FAT label: 1 to 11 letters, digits, - and _")
    return value


def _root_label(value: str) -> str:
    if not 1 <= len(value) <= 16 or not re.fullmatch(r"[A-Za-z0-9_.-]+", value):  # noqa: PLR2004 - ext4 super block
        raise ValueError(f"'{value}' is not an ext4 label: 1 to 16 letters, digits, -, _ and .")
    return value


def _mount_point(value: str) -> str:
    path = PurePosixPath(value)
    if not path.is_absolute() or ".." in path.parts or value in {"/", "//"}:
        raise ValueError(f"'{value}' is not a mount point\nhint: an absolute path without '..', such as /boot/firmware")
    return str(path)


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise ValueError(f"{quoted(value)} is not a URL\nhint: it starts with https:// or http://")
    return value


def _mirror(value: str) -> str:
    return value if value == "auto" else _url(value)


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]*", value):
        raise ValueError(f"{quoted(value)} is not a sha256\nhint: 64 digits 0-9 and a-f, as sha256sum prints them")
    if len(value) != 64:  # noqa: PLR2004 - SHA-256
        raise ValueError(f"a sha256 has 64 hexadecimal digits, not {len(value)}")
    return value.lower()


def _epoch(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        date = value if isinstance(value, str) and re.fullmatch(r"[0-9-]+", value) else "2025-01-01"
        hint = f"date -u -d {date} +%s prints them"
        raise ValueError(f"expected seconds since 1970, not {quoted(value)}\nhint: {hint}")  # noqa: TRY004 - pydantic's
    return value


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
    if twice is not None:
        raise ValueError(f"'{twice}' is listed twice")
    return values


def _known_board(name: str) -> str:
    if name not in BOARDS:
        raise ValueError(f"'{name}' is not one of {NAMES}{did_you_mean(name, BOARDS)}")
    return name


def _text_schema(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


Board = Annotated[str, AfterValidator(_known_board), WithJsonSchema({"enum": list(BOARDS)})]
Word = Annotated[
    str, AfterValidator(_matching(r"[a-z0-9][a-z0-9._+-]*", "a name of small letters, digits and . _ + -"))
]
Name = Annotated[
    str, AfterValidator(_matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", "a name of letters, digits and . _ -, without spaces"))
]
VariableName = Annotated[
    str,
    AfterValidator(_matching(r"[A-Za-z_][A-Za-z0-9_]*", "a variable's name: letters, digits and _, no digit first")),
]
Url = Annotated[str, AfterValidator(_url)]
Sha256 = Annotated[str, AfterValidator(_sha256)]
_SIZE_SCHEMA = _text_schema("^[1-9][0-9]*[KMGT]$", "256M")
BootSize = Annotated[int, BeforeValidator(_boot_size), _SIZE_SCHEMA]
RootSize = Annotated[
    int | Literal["auto"], BeforeValidator(_root_size), _text_schema("^(auto|[1-9][0-9]*[KMGT])$", "auto")
]
Slack = Annotated[str, BeforeValidator(_slack), _text_schema("^([0-9]{1,3}%|[1-9][0-9]*[KMGT])$", "15%")]


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bootstrap(_Written):
    """A base made from a Debian or Ubuntu archive. `mirror: auto` takes the host's own, or the distribution's."""

    architecture: ClassVar[str] = "arm64"

    distribution: Literal["debian", "ubuntu"]
    suite: Word
    mirror: Annotated[str, AfterValidator(_mirror)] = "auto"
    components: Annotated[tuple[Word, ...], AfterValidator(_unique), Field(min_length=1)] = ("main",)
    include: Annotated[tuple[Word, ...], AfterValidator(_unique)] = ()
    keyring: Path | None = None

    @field_validator("suite")
    @classmethod
    def _suite_fits(cls, suite: str, info: ValidationInfo) -> str:
        chosen = info.data.get("distribution", "")
        for distribution, suites in _SUITES.items():
            if chosen and suite in suites and distribution != chosen:
                raise ValueError(f"'{suite}' is a suite of {distribution}, not of {chosen}")
        return suite

    @field_validator("components")
    @classmethod
    def _components_fit(cls, components: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        chosen = info.data.get("distribution", "")
        if not chosen or info.data.get("mirror") != "auto":  # a mirror of one's own may have others
            return components
        unknown = next((component for component in components if component not in _COMPONENTS[chosen]), None)
        if unknown:
            near = did_you_mean(unknown, _COMPONENTS[chosen]) or f"\nhint: it has {', '.join(_COMPONENTS[chosen])}"
            raise ValueError(f"{chosen} has no component '{unknown}'{near}")
        return components


class Checksums(_Written):
    """A list of checksums with a detached signature, and the keys that may sign it."""

    url: Url
    signature: Url
    keyring: Path


class BaseImage(_Written):
    """A base taken from an image, by URL or by path; it is verified before it is used."""

    url: Url | None = None
    path: Path | None = None
    sha256: Sha256 | None = None
    checksums: Checksums | None = None

    @model_validator(mode="after")
    def _choices(self) -> Self:
        _exactly_one(self, "url", "path")
        _exactly_one(self, "sha256", "checksums")
        if not self._suffixes():
            name = str(self.url or self.path).rsplit("/", 1)[-1]
            raise ValueError(f"cannot tell what '{name}' is\nhint: an image ends in .img, .img.xz, .img.zst or .img.gz")
        return self

    def _suffixes(self) -> list[Format]:
        name = (self.url or str(self.path)).split("?")[0]
        return [suffix for suffix in FORMATS if name.endswith("." + suffix)]

    @property
    def format(self) -> Format:
        """How the image is packed, from the end of its name."""
        return self._suffixes()[0]


class BaseChoice(_Written):
    """What a recipe starts from: `bootstrap` or `image`."""

    bootstrap: Bootstrap | None = None
    image: BaseImage | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        _exactly_one(self, "bootstrap", "image")
        return self

    @property
    def chosen(self) -> Bootstrap | BaseImage:
        """The one that is given."""
        chosen = self.bootstrap or self.image
        assert chosen is not None  # noqa: S101 - the validator saw to it
        return chosen


def _exactly_one(model: BaseModel, *names: str) -> None:
    given = [name for name in names if getattr(model, name) is not None]
    if not given:
        raise ValueError(f"needs {' or '.join(repr(name) for name in names)}")
    if len(given) > 1:
        raise ValueError(f"has {' and '.join(repr(name) for name in given)}, which exclude each other\nhint: keep one")


class BootPartition(_Written):
    """The FAT partition that the firmware reads. `size` in bytes."""

    size: BootSize = 256 * MIB
    label: Annotated[str, AfterValidator(_boot_label)] = "bootfs"
    mount: Annotated[str, AfterValidator(_mount_point)] = "/boot/firmware"


class RootPartition(_Written):
    """The ext4 partition. `size` in bytes, or auto: the tree plus `slack`; `grow`: to all of the disk at first boot."""

    size: RootSize = "auto"
    slack: Slack = "15%"
    label: Annotated[str, AfterValidator(_root_label)] = "rootfs"
    identify: Literal["partuuid", "label"] = "partuuid"
    grow: bool = True

    def slack_bytes(self, content: int) -> int:
        """Return the room to leave beside a content of so many bytes."""
        if self.slack.endswith("%"):
            return content * int(self.slack[:-1]) // 100
        return parse_size(self.slack)


class Disk(_Written):
    """The image's layout: MBR, one FAT, one ext4."""

    boot: BootPartition = BootPartition()
    root: RootPartition = RootPartition()
    compress: Annotated[tuple[Literal["zst", "xz"], ...], AfterValidator(_unique)] = ("zst",)


class LayerDocument(_Written):
    """A named list of steps, cached as one. Each step is a mapping of one key, its kind."""

    name: Name
    steps: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]

    @field_validator("name")
    @classmethod
    def _not_the_engines(cls, name: str) -> str:
        if name in ("base", "finish"):
            raise ValueError(f"'{name}' is what the first or last layer of every image is called\nhint: choose another")
        return name


class Inheritance(_Written):
    """What a recipe file takes from others."""

    extends: Annotated[tuple[str, ...], AfterValidator(_unique)] = ()
    drop: Annotated[tuple[str, ...], AfterValidator(_unique)] = ()


class RecipeDocument(Inheritance):
    """A recipe, as its file and those that it extends say together."""

    name: Word
    description: str = ""
    variables: dict[VariableName, Variable] = {}
    epoch: Annotated[int, BeforeValidator(_epoch), Field(ge=0, lt=2**32)] | None = None
    base: BaseChoice
    boards: Annotated[tuple[Board, ...], AfterValidator(_unique), Field(min_length=1)] = ("pi4",)
    disk: Disk = Disk()
    layers: tuple[LayerDocument, ...] = ()
