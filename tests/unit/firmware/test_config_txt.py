from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.firmware.config_txt import ConfigEdit, edit, key_of, parse, settings

GOLDEN = Path(__file__).parents[1] / "golden/config_txt"

UBUNTU = """\
[all]
kernel=vmlinuz
cmdline=cmdline.txt
initramfs initrd.img followkernel

[pi4]
max_framebuffers=2
arm_boost=1

[all]
# Enable the audio output, I2C and SPI interfaces on the GPIO header.
dtparam=audio=on
dtparam=i2c_arm=on
#hdmi_drive=2

# Comment out the following line if the edges of the desktop appear outside
disable_overscan=1

[cm4]
# Enable the USB2 outputs on the IO board
dtoverlay=dwc2,dr_mode=host

[all]
"""


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("set", ConfigEdit(set={"kernel": "vmlinuz-6", "enable_uart": "1", "initramfs": "initrd.img-6 followkernel"})),
        ("model", ConfigEdit(section="pi4", set={"arm_boost": "0", "arm_freq": "1800"}, remove=["max_framebuffers"])),
        ("new-section", ConfigEdit(section="pi5", set={"arm_freq": "2800"}, add=["dtoverlay=vc4-kms-v3d-pi5"])),
        ("remove", ConfigEdit(remove=["dtparam", "disable_overscan=1", "initramfs", "dtparam=spi=on"])),
        ("add", ConfigEdit(add=["dtparam=audio=on", "dtoverlay=disable-wifi", "dtoverlay=disable-bt"])),
    ],
)
def test_edits_leave_the_rest_alone(golden: Callable[[Path, str], None], name: str, change: ConfigEdit) -> None:
    golden(GOLDEN / f"{name}.txt", edit(UBUNTU, change))


def test_a_missing_file_is_created() -> None:
    assert edit("", ConfigEdit(set={"arm_64bit": "1"})) == "arm_64bit=1\n"
    assert edit("", ConfigEdit(section="pi4", add=["dtoverlay=x"])) == "[pi4]\ndtoverlay=x\n"


def test_a_new_section_does_not_inherit_the_filters_before_it() -> None:
    text = "[EDID=VSC]\nhdmi_group=1\n"
    assert edit(text, ConfigEdit(section="pi4", set={"a": "1"})) == f"{text}\n[all]\n[pi4]\na=1\n"
    assert edit(text, ConfigEdit(set={"a": "1"})) == f"{text}\n[all]\na=1\n"


def test_filters_of_one_type_replace_and_of_two_types_add_up() -> None:
    text = (
        "a=0\n[pi4]\na=1\n[EDID=VSC]\na=2\n[pi5]\na=3\n[gpio4=1]\na=4\n[gpio17=0]\na=5\n[0x12345678]\na=6\n[all]\na=7\n"
    )
    over = [set(line.filters) for line in parse(text) if line.key]
    assert over == [
        set(),
        {"pi4"},
        {"pi4", "edid=vsc"},
        {"pi5", "edid=vsc"},
        {"pi5", "edid=vsc", "gpio4=1"},
        {"pi5", "edid=vsc", "gpio17=0"},
        {"pi5", "edid=vsc", "gpio17=0", "0x12345678"},
        set(),
    ]
    assert settings(text) == {"a": ["0", "7"]}
    assert settings(text, "pi4") == {"a": ["1"]}


def test_the_last_of_several_is_set_and_the_others_go() -> None:
    assert edit("a=1\nb=1\na=2\nc=1\n", ConfigEdit(set={"a": "3"})) == "b=1\na=3\nc=1\n"


def test_foreign_line_ends_survive() -> None:
    assert edit("# x\r\na=1\r\nb=2\r\n", ConfigEdit(set={"b": "3"})) == "# x\r\na=1\r\nb=3\n"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("a=1", "a"),
        (" a = 1", "a"),
        ("initramfs x y", "initramfs"),
        ("#a=1", ""),
        ("[all]", ""),
        ("", ""),
        ("gpio=4=op", "gpio"),
    ],
)
def test_key_of(line: str, key: str) -> None:
    assert key_of(line) == key


KEYS = st.sampled_from(["arm_freq", "dtoverlay", "gpu_mem", "kernel", "initramfs"])
VALUES = st.sampled_from(["1", "2", "vc4-kms-v3d", "x y"])
SECTIONS = st.sampled_from(["all", "pi4", "pi5", "cm4", "EDID=VSC", "gpio4=1", "tryboot"])
LINES = st.one_of(
    st.builds("{}={}".format, KEYS, VALUES),
    st.builds("#{}={}".format, KEYS, VALUES),
    st.builds("[{}]".format, SECTIONS),
    st.sampled_from(["", "  ", "# comment", "initramfs initrd.img followkernel", "[all] # after", "stray words"]),
)
TEXTS = st.lists(LINES, max_size=25).map("\n".join)


@st.composite
def edits(draw: st.DrawFn) -> ConfigEdit:
    wanted = draw(st.dictionaries(KEYS, VALUES, max_size=3))
    added = draw(st.lists(st.builds("{}={}".format, KEYS, VALUES), max_size=3))
    removed = draw(st.lists(st.one_of(KEYS, st.builds("{}={}".format, KEYS, VALUES)), max_size=3))
    return ConfigEdit(
        section=draw(SECTIONS),
        set=wanted,
        add=[line for line in added if key_of(line) not in wanted],
        remove=[line for line in removed if key_of(line) not in wanted],
    )


@given(TEXTS, edits())
def test_editing_twice_is_editing_once(text: str, change: ConfigEdit) -> None:
    once = edit(text, change)
    assert edit(once, change) == once


@given(TEXTS, edits())
def test_the_edit_holds_and_other_sections_stay(text: str, change: ConfigEdit) -> None:
    after = parse(edit(text, change))
    section = frozenset() if change.section == "all" else frozenset({change.section.casefold()})

    def others(lines: list[tuple[str, frozenset[str]]]) -> list[tuple[str, frozenset[str]]]:
        return [(line, filters) for line, filters in lines if key_of(line) and filters != section]

    before = parse(text)
    assert others([(line.text, line.filters) for line in after]) == others(
        [(line.text, line.filters) for line in before]
    )
    comments = [line.text for line in before if line.text.startswith("#")]
    assert [line.text for line in after if line.text.startswith("#")] == comments
    here = settings(edit(text, change), change.section)
    for key, value in change.set.items():
        assert here[key] == [value]
    for line in change.add:
        assert line.partition("=")[2] in here[key_of(line)]
