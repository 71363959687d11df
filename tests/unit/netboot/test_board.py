"""Asked before a board is switched: what stops it, what nobody can tell, and that the second is not the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.firmware.boards import BOARDS
from builder.firmware.boot_files import DirectoryTree
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Node
from builder.netboot.board import ask_boards
from builder.netboot.generation import Generation
from tests.clusters import LAB

NODE = load_inventory(LAB).node("yellow3")


def asked(home: Path, node: Node = NODE) -> dict[str, str]:
    generation = Generation(directory=home, sha256="a" * 64, boot_mount="/boot/firmware", capabilities={})
    return ask_boards([(node, generation, DirectoryTree(root=home / "boot"), False)])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A generation whose boot files are all there, and whose kernel is no kernel."""
    (tmp_path / "root").mkdir()
    boot = tmp_path / "boot"
    boot.mkdir()
    for name in ("start4.elf", "fixup4.dat", BOARDS["pi4"].dtb, "vmlinuz"):
        (boot / name).write_text(name)
    (boot / "config.txt").write_text("kernel=vmlinuz\n")
    (boot / "cmdline.txt").write_text("root=/dev/nfs\n")
    return tmp_path


def test_what_cannot_be_told_is_warned_of_and_stops_no_board(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(home) == {}
    assert "was not seen, each a pi4: vmlinuz is no kernel whose version it says" in capsys.readouterr().err


def test_a_board_that_would_stop_is_said_with_the_kind_of_its_stop(home: Path) -> None:
    (home / "boot" / BOARDS["pi4"].dtb).unlink()
    said = asked(home)[NODE.name]
    assert said.startswith("its Pi 4 B would stop (dtb): No device tree: ")


def test_a_board_that_boots_from_no_network_is_not_asked_further(home: Path) -> None:
    assert "is not known to boot over the network" in asked(home, replace(NODE, board="pi3"))[NODE.name]
