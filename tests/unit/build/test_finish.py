"""tidy and finish on a made-up tree, and on one whose links lead out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.build.finish import finish, tidy


def _write(root: Path, *names: str, content: str = "x") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def _files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


def test_tidy_removes_traces_and_keeps_the_rest(root: Path) -> None:
    kept = ("etc/passwd", "etc/shadow", "var/lib/dpkg/status", "var/cache/debconf/config.dat", "var/log/syslog")
    traces = (
        "etc/passwd-",
        "etc/.pwd.lock",
        "var/lib/dpkg/status-old",
        "var/lib/dpkg/lock",
        "var/lib/dpkg/triggers/Lock",
        "var/cache/debconf/config.dat-old",
        "var/lib/apt/lists/mirror_Packages",
        "var/lib/apt/lists/partial/x",
        "var/cache/apt/archives/a.deb",
        "var/cache/ldconfig/aux-cache",
        "var/log/dpkg.log",
        "var/tmp/left/over",
        "root/.bash_history",
    )
    _write(root, *kept, *traces)
    tidy(root)
    assert _files(root) == set(kept)
    for name in ("var/lib/apt/lists", "var/cache/apt", "var/tmp"):
        assert list((root / name).iterdir()) == []
    tidy(root)
    assert _files(root) == set(kept)


def test_an_empty_root_is_tidy(root: Path) -> None:
    tidy(root)
    assert list(root.iterdir()) == []


def test_finish_leaves_the_identity_of_no_machine(root: Path) -> None:
    _write(root, "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "etc/ssh/sshd_config")
    _write(root, "etc/machine-id", content="0123456789abcdef0123456789abcdef\n")
    _write(root, "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret")
    (root / "var/lib/dbus").mkdir()
    (root / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    _write(root, "var/log/syslog", "var/log/apt/history.log", "var/log/journal/0123/system.journal")
    for _ in range(2):
        finish(root)
        assert _files(root) == {"etc/ssh/sshd_config", "etc/machine-id", "var/log/syslog", "var/log/apt/history.log"}
        assert (root / "etc/machine-id").read_text() == ""
        assert (root / "etc/machine-id").stat().st_mode & 0o777 == 0o444
        assert (root / "var/log/syslog").read_text() == (root / "var/log/apt/history.log").read_text() == ""
        assert (root / "var/log/journal").is_dir()


def test_links_lead_where_a_program_inside_would_get_and_never_out(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    _write(outside, "kept.log", "ssh_host_rsa_key", "machine-id", "journal/x", "dpkg.log", content="the host's own")
    before = _files(outside)
    _write(root, "data/log/syslog", "data/tmp/left")
    for name in ("etc", "var"):
        (root / name).mkdir()
    (root / "etc/ssh").symlink_to(outside)
    (root / "var/tmp").symlink_to("/data/tmp")
    (root / "var/log").symlink_to("../../../../../data/log")
    (root / "var/cache").symlink_to(outside)
    (root / "var/lib").symlink_to(outside)
    tidy(root)
    finish(root)
    assert _files(outside) == before
    assert {path.read_text() for path in outside.rglob("*") if path.is_file()} == {"the host's own"}
    assert list((root / "data/tmp").iterdir()) == []
    assert (root / "data/log/syslog").read_text() == ""


def test_a_machine_id_that_is_a_link_becomes_a_file_of_the_root_s(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "machine-id"
    target.write_text("the host's own")
    (root / "etc").mkdir()
    (root / "etc/machine-id").symlink_to(target)
    finish(root)
    assert not (root / "etc/machine-id").is_symlink()
    assert target.read_text() == "the host's own"


@pytest.mark.parametrize("grow", [True, False])
def test_a_root_that_keeps_its_size_is_not_grown_at_first_boot(tmp_path: Path, *, grow: bool) -> None:
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "grow-root.service").symlink_to("../grow-root.service")
    finish(tmp_path, grow=grow)
    assert (wants / "grow-root.service").is_symlink() is grow
