"""Directories for work in progress."""

import os
import signal
import sys
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.host.scratch import sweep, temporary, work_in
from builder.run import run

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"pibuild-{os.geteuid()}"


def test_a_temporary_directory_is_private_and_gone_after_the_block(home: Path) -> None:
    with temporary("boot") as path:
        assert path.parent == home
        assert home.stat().st_mode & 0o777 == 0o700
        (path / "key").write_text("secret")
    assert list(home.iterdir()) == []


@pytest.mark.tools
def test_what_a_killed_command_left_goes_with_the_next_and_what_lives_stays(home: Path) -> None:
    script = (
        "import os\nfrom builder.host.scratch import temporary\n"
        "with temporary('boot') as path:\n    (path / 'id_ed25519').write_text('secret')\n    os.kill(os.getpid(), 9)\n"
    )
    killed = run([sys.executable, "-c", script], env={"TMPDIR": str(home.parent)}, cwd=PROJECT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(home.glob("boot-*/id_ed25519"))) == 1
    with temporary("image") as first, temporary("image") as second:
        assert sorted(home.iterdir()) == sorted([first, second])


def test_a_link_in_the_way_is_swept_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home/link").symlink_to(tmp_path / "kept")
    sweep(tmp_path / "home")
    assert (tmp_path / "kept").is_dir()
    assert not list((tmp_path / "home").iterdir())


def test_a_directory_of_somebody_elses_is_not_used(home: Path) -> None:
    home.symlink_to(home.parent)
    with pytest.raises(HostError, match="not a directory of your own"), temporary("x"):
        pass
    home.unlink()
    home.mkdir(mode=0o755)
    home.chmod(0o777)
    with pytest.raises(HostError, match="mode 0700"), temporary("x"):
        pass


def test_names_say_whose_work_it_is(tmp_path: Path) -> None:
    with work_in(tmp_path, prefix=".", suffix=".partial") as path:
        assert path.name.startswith(".")
        assert path.name.endswith(".partial")
