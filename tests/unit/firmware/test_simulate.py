"""The simulated bootloader: a case file for each rule, each with the source that the rule comes from."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from builder.documents.document import load, validate
from builder.errors import InputError
from builder.firmware.boards import BOARDS
from builder.firmware.boot_files import Answer, DirectoryTree
from builder.firmware.config_eval import LINE_LIMIT, Identity, evaluate
from builder.firmware.simulate import BootReport, Eeprom, Stop, StopKind, explain, simulate

CASES = sorted((Path(__file__).parents[2] / "bootloader").glob("*.yaml"))
SERIAL = "c0a3cab4"
CMDLINE = "root=/dev/nfs ip=dhcp rw\n"


class Expected(BaseModel):
    """What a case looks at; what it does not name may be anything. `S/` stands for the prefix."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kernel: str | None = None
    initramfs: list[str] = []
    dtb: str | None = None
    overlays: list[str] = []
    cmdline: str | None = None
    stop: str | None = None  # part of the reason; null: the board starts its kernel
    settings: dict[str, str] = {}
    notes: list[str] = []  # parts of notes; an empty list: there are none
    requests: list[str] = []  # all of them
    order: list[str] = []  # some of them, in this order
    never: list[str] = []  # files that are not asked for


class Case(BaseModel):
    """A TFTP tree, the board that boots from it, and what comes out.

    File names are below the board's directory, those with a leading slash below the TFTP root.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(min_length=10)
    board: str = "pi4"
    base: Literal["usual", "none"] = "usual"
    at: str = SERIAL
    mac: str = ""
    config: str = ""
    crlf: bool = False
    add: dict[str, str] = {}
    drop: list[str] = []
    link: dict[str, str] = {}
    mode: dict[str, int] = {}
    size: dict[str, int] = {}
    eeprom: dict[str, str | int | bool] = {}
    expect: Expected


def _plant(case: Case, root: Path) -> None:
    directory = root / case.at
    files = dict(case.add)
    if case.base == "usual":
        board = BOARDS[case.board]
        firmware = ["start4.elf", "fixup4.dat"] if board.family == "pi4" else []
        usual = dict.fromkeys([*firmware, *board.kernels, board.dtb], "content") | {"cmdline.txt": CMDLINE}
        config = case.config.replace("\n", "\r\n") if case.crlf else case.config
        files = {**usual, "config.txt": config, **files}
    for name, content in files.items():
        if name not in case.drop:
            _place(root, directory, name).write_bytes(content.encode())
    for name, size in case.size.items():
        with _place(root, directory, name).open("wb") as file:
            os.truncate(file.fileno(), size)
    for name, target in case.link.items():
        _place(root, directory, name).symlink_to(target.replace("S", case.at))
    for name, mode in case.mode.items():
        _place(root, directory, name).chmod(mode)


def _place(root: Path, directory: Path, name: str) -> Path:
    path = root / name[1:] if name.startswith("/") else directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _run(case: Case, root: Path) -> BootReport:
    _plant(case, root)
    eeprom = Eeprom(**case.eeprom)  # type: ignore[arg-type]  # pydantic has kept the types as written
    return simulate(DirectoryTree(root=root), case.board, SERIAL, mac=case.mac, eeprom=eeprom)


def _in_order(wanted: list[str], given: list[str]) -> bool:
    rest = iter(given)
    return all(any(one == other for other in rest) for one in wanted)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case(path: Path, tmp_path: Path) -> None:
    case = validate(Case, load(path))
    report = _run(case, tmp_path)
    told = case.expect

    def short(text: str) -> str:
        return text.replace(f"{case.at}/", "S/")

    if told.stop is None:
        assert report.stop is None
    else:
        assert report.stop is not None
        assert told.stop in short(report.stop.said)
    requests = [short(f"{asked.outcome} {asked.name}") for asked in report.requests]
    if told.requests:
        assert requests == told.requests
    assert _in_order(told.order, requests), requests
    asked = {short(request.name) for request in report.requests}
    assert not asked & set(told.never)
    assert told.settings.items() <= report.settings.items()
    notes = [short(note) for note in report.notes]
    for part in told.notes:
        assert any(part in note for note in notes), notes
    if "notes" in told.model_fields_set and not told.notes:
        assert notes == []
    seen = {
        "kernel": report.kernel and short(report.kernel),
        "initramfs": [short(name) for name in report.initramfs],
        "dtb": report.dtb and short(report.dtb),
        "overlays": [short(name) for name in report.overlays],
        "cmdline": report.cmdline,
    }
    named = told.model_dump(include=set(seen) & told.model_fields_set)
    assert named == {name: seen[name] for name in named}


def test_there_are_enough_cases_and_each_names_its_source() -> None:
    cases = [validate(Case, load(path)) for path in CASES]
    assert len(cases) >= 60
    assert [path.name[:3] for path in CASES] == [f"{number:03}" for number in range(1, len(cases) + 1)]


def test_the_contents_are_those_of_the_files(tmp_path: Path) -> None:
    case = Case(
        source="what boots is what was sent",
        add={"vmlinuz": "the kernel", "initrd.img": "the ramdisk"},
        config="kernel=vmlinuz\ninitramfs initrd.img followkernel\n",
        expect=Expected(),
    )
    report = _run(case, tmp_path)
    assert report.contents == {
        f"{SERIAL}/vmlinuz": b"the kernel",
        f"{SERIAL}/initrd.img": b"the ramdisk",
        f"{SERIAL}/bcm2711-rpi-4-b.dtb": b"content",
    }
    assert explain(report)[0] == ("1", f"{SERIAL}/start4.elf", "probed", "7", "")


def test_an_unknown_board_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown board 'pi6'"):
        simulate(DirectoryTree(root=tmp_path), "pi6", SERIAL)


class _Silent:
    """A server that does not answer."""

    def probe(self, name: str) -> Answer:
        return Answer(outcome="failed", detail=f"no answer for {name}")

    read = probe


def test_a_silent_server_stops_the_board_at_once() -> None:
    report = simulate(_Silent(), "pi4", SERIAL)
    said = f"{SERIAL}/start4.elf: no answer for {SERIAL}/start4.elf"
    assert report.stop == Stop(kind=StopKind.SERVER, file=f"{SERIAL}/start4.elf", said=said)
    assert len(report.requests) == 1


# --------------------------------------------------------------------------------------------- config.txt's filters

FILTERS = {  # filter: kind, and whether it passes on the board below
    "pi4": ("model", True),
    "pi400": ("model", False),
    "pi5": ("model", False),
    "cm4": ("model", False),
    "none": ("none", False),
    "tryboot": ("tryboot", False),
    f"0x{SERIAL}": ("serial", True),
    "0x1": ("serial", False),
    "board-type=0x11": ("board-type", True),
    "board-type=0x14": ("board-type", False),
    "gpio4=1": ("gpio", False),
    "HDMI:1": ("HDMI", True),
    "all": ("all", True),
    "rack7": ("", True),
}
PI4 = Identity(board=BOARDS["pi4"], serial=SERIAL)


@given(st.lists(st.sampled_from(sorted(FILTERS))))
def test_filters_of_a_kind_replace_each_other_and_kinds_combine(names: list[str]) -> None:
    text = "".join(f"[{name}]\nmark{place}=1\n" for place, name in enumerate(names))
    settings = evaluate(text.encode(), PI4).settings
    since = 0
    for place, name in enumerate(names):
        since = place if name == "all" else since
        last = {FILTERS[one][0]: FILTERS[one][1] for one in names[since : place + 1] if FILTERS[one][0]}
        assert (f"mark{place}" in settings) == all(last.values())


@given(st.lists(st.sampled_from(sorted(FILTERS)), max_size=5), st.lists(st.sampled_from(sorted(FILTERS)), max_size=5))
def test_what_stands_before_all_does_not_matter_after_it(before: list[str], after: list[str]) -> None:
    head = "".join(f"[{name}]\n" for name in before)
    tail = "[all]\n" + "".join(f"[{name}]\n" for name in after) + "mark=1\n"
    assert evaluate((head + tail).encode(), PI4).settings == evaluate(tail.encode(), PI4).settings


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=200))
def test_a_line_counts_up_to_its_98th_character(value: str) -> None:
    config = evaluate(f"kernel={value}\n".encode(), PI4)
    assert config.settings["kernel"] == value[: LINE_LIMIT - len("kernel=")]
    assert bool(config.notes) == (len(value) + len("kernel=") > LINE_LIMIT)


@given(st.binary(max_size=400))
def test_no_text_is_too_odd_to_read(text: bytes) -> None:
    config = evaluate(text, PI4, include=lambda _name: text)
    assert all(len(name) <= LINE_LIMIT for name in config.settings)


def test_a_byte_order_mark_spoils_the_first_line() -> None:
    config = evaluate(b"\xef\xbb\xbfkernel=a\ncmdline=b\n", PI4)
    assert config.settings == {"cmdline": "b"}
    assert config.notes[0].startswith("config.txt:1: the file begins with a byte order mark")


@pytest.mark.parametrize("content", [b"include x\n" * 20, b"a\n" * 1_000_000, b"x" * (30 << 20)])
def test_a_config_that_has_no_end_is_read_to_an_end(content: bytes) -> None:
    begun = time.monotonic()
    config = evaluate(content, PI4, include=lambda _name: content)
    assert config.settings == {}
    assert time.monotonic() - begun < 5


def test_a_name_with_a_nul_is_no_file(tmp_path: Path) -> None:
    assert DirectoryTree(root=tmp_path).probe("a\0b").outcome == "missing"


def test_a_directory_that_only_root_enters_is_denied(tmp_path: Path) -> None:
    (tmp_path / "S").mkdir(mode=0o700)
    (tmp_path / "S" / "config.txt").write_text("")
    answer = DirectoryTree(root=tmp_path).probe("S/config.txt")
    assert (answer.outcome, "chmod 0755" in answer.detail) == ("denied", True)


def test_a_boot_file_without_end_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "kernel8.img").open("wb") as file:
        file.truncate(8 << 30)
    assert DirectoryTree(root=tmp_path).read("kernel8.img").outcome == "denied"


def test_a_stop_says_its_kind_and_its_file(tmp_path: Path) -> None:
    case = Case(source="the table of kinds", drop=["bcm2711-rpi-4-b.dtb"], expect=Expected())
    report = _run(case, tmp_path)
    assert report.stop is not None
    assert (report.stop.kind, report.stop.file) == (StopKind.DTB, f"{SERIAL}/bcm2711-rpi-4-b.dtb")


def test_files_that_include_each_other_end() -> None:
    config = evaluate(b"include config.txt\nkernel=a\n", PI4, include=lambda _name: b"include config.txt\n")
    assert config.settings == {"kernel": "a"}
    assert any("include each other" in note for note in config.notes)
