"""Files that people name, and what is none."""

import os
import socket
from pathlib import Path

import pytest

from builder.cli import main as cli
from builder.errors import InputError
from builder.host.hashing import file_digest
from builder.host.named_file import open_named, read_named


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    assert read_named(tmp_path / "link") == b"text"
    with pytest.raises(FileNotFoundError):
        open_named(tmp_path / "nothing")


def test_what_is_no_file_is_named(pipe: Path) -> None:
    with pytest.raises(InputError, match="pipe: a named pipe, not a file"):
        read_named(pipe)
    with pytest.raises(InputError, match="/dev/zero: a character device, not a file"):
        read_named(Path("/dev/zero"))
    with pytest.raises(InputError, match="a directory, not a file"):
        read_named(pipe.parent)
    with pytest.raises(InputError, match="a named pipe"):
        file_digest(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(pipe.with_name("socket")))
        with pytest.raises(OSError, match="No such device or address"):
            read_named(pipe.with_name("socket"))


def test_a_text_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="longer than 64 MiB"):
        read_named(tmp_path / "sparse")


@pytest.mark.parametrize(
    "words",
    [
        "inspect PIPE",
        "diff PIPE PIPE",
        "boot --check-only PIPE",
        "plan PIPE",
        "build PIPE",
        "lock PIPE",
        "build --lock PIPE recipes/golden.yaml",
        "node list --cluster PIPE",
        "node import PIPE",
        "explode --all --authorized-key PIPE",
        "models publish PIPE --name jen --version 1",
        "fleet serve --certificate PIPE",
    ],
)
def test_no_command_waits_for_a_named_pipe(words: str, pipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(words.replace("PIPE", str(pipe)).split()) == 2
    assert "named pipe" in capsys.readouterr().err
