"""Replacing the servers' files: all or none, whatever happens in between."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import HostError, InputError, VerdictError
from builder.inventory.load import load_inventory
from builder.services.apply import KEPT, apply, compare, recover
from builder.services.files import ConfigFile
from builder.services.place import BEGIN, END, with_block
from builder.services.record import is_interrupted, write_written
from builder.services.render import render
from tests.clusters import variant

HOSTS, KEA, OLD = (
    PurePosixPath("/etc/hosts"),
    PurePosixPath("/etc/kea/x.conf"),
    PurePosixPath("/etc/pibuild/hosts-old.txt"),
)
FILES = (
    ConfigFile(path=PurePosixPath("/etc/default/tftpd-hpa"), text="new\n"),
    ConfigFile(path=HOSTS, text="192.0.2.1 a\n", block=True),
    ConfigFile(path=KEA, text="kea\n"),
)
AFTER = {
    "etc/default/tftpd-hpa": "new\n",
    "etc/hosts": f"127.0.0.1 localhost\n{BEGIN}\n192.0.2.1 a\n{END}\n",
    "etc/kea/x.conf": "kea\n",
}


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not on the disk yet survives a killed process; waiting for a busy disk would only take time."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


class Servers:
    """Servers that note what they are told, and refuse `refusals` times."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.told: list[tuple[PurePosixPath, ...]] = []
        self.did: list[str] = []

    def require(self) -> None:
        self.did.append("require")

    def retire(self, _changed: Sequence[PurePosixPath]) -> None:
        self.did.append("retire")

    def update(self, changed: Sequence[PurePosixPath]) -> None:
        self.did.append("update")
        self.told.append(tuple(changed))
        if self.refusals:
            self.refusals -= 1
            raise VerdictError("dhcpd does not start", hint="journalctl")

    def halt(self) -> list[str]:
        self.did.append("halt")
        return []

    def undo(self) -> list[str]:
        self.did.append("undo")
        return []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in (
        (HOSTS, "127.0.0.1 localhost\n"),
        (PurePosixPath("/etc/default/tftpd-hpa"), "old\n"),
        (OLD, "gone\n"),
    ):
        live = tmp_path / path.relative_to("/")
        live.parent.mkdir(parents=True, exist_ok=True)
        live.write_text(text)
    write_written(tmp_path, {OLD: False})
    return tmp_path


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() for path in sorted((root / "etc").rglob("*")) if path.is_file()
    }


def test_an_apply_replaces_adds_and_removes_and_a_second_has_nothing_to_do(root: Path) -> None:
    servers = Servers()
    (root / "etc/default/tftpd-hpa").chmod(0o600)
    applied = apply(FILES, root, servers=servers)
    assert [(change.kind, str(change.path)) for change in applied.changes] == [
        ("changed", "/etc/default/tftpd-hpa"),
        ("changed", "/etc/hosts"),
        ("new", "/etc/kea/x.conf"),
        ("removed", "/etc/pibuild/hosts-old.txt"),
    ]
    assert contents(root) == AFTER
    assert (root / "etc/default/tftpd-hpa").stat().st_mode & 0o777 == 0o600
    assert (root / "etc/kea/x.conf").stat().st_mode & 0o777 == 0o644
    assert applied.backup is not None
    assert (applied.backup / "etc/default/tftpd-hpa").read_text() == "old\n"
    again = apply(FILES, root, servers=servers)
    assert (again.changes, again.backup) == ((), None)
    assert servers.told == [tuple(change.path for change in applied.changes), ()]


def test_a_server_that_refuses_gets_the_old_files_back(root: Path) -> None:
    before, servers = contents(root), Servers(refusals=1)
    with pytest.raises(VerdictError, match="does not start\nundone: the files are as they were before") as caught:
        apply(FILES, root, servers=servers)
    assert caught.value.hint == "journalctl"
    assert contents(root) == before
    assert servers.did == ["require", "retire", "update", "halt", "undo"]
    assert recover(root) == ()
    assert len(apply(FILES, root, servers=servers).changes) == 4


@pytest.mark.parametrize("name", ["replace", "unlink", "chmod"])
@pytest.mark.parametrize("at", range(1, 8))
def test_a_failure_at_any_call_leaves_all_old_files_or_all_new_ones(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    before, left, real = contents(root), [at], getattr(Path, name)

    def fail(path: Path, *words: object, **options: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device", str(path))
        return real(path, *words, **options)

    with monkeypatch.context() as patched, contextlib.suppress(OSError):
        patched.setattr(Path, name, fail)
        apply(FILES, root)
    assert contents(root) in (before, AFTER)
    apply(FILES, root)
    assert contents(root) == AFTER
    assert not list(root.rglob("*.dpkg-new"))


@pytest.mark.tools  # forks
@pytest.mark.parametrize("at", range(1, 30))
def test_a_rerun_after_a_kill_at_any_moment_completes_and_tells_of_every_change(root: Path, at: int) -> None:
    before = contents(root)
    child = os.fork()
    if child == 0:
        _die_at(at)
        apply(FILES, root, servers=Servers())
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    servers = Servers()
    applied = apply(FILES, root, servers=servers)
    assert not compare(FILES, root)
    assert not list(root.rglob("*.dpkg-new"))
    assert not (root / "var/lib/pibuild/services/journal.json").exists()
    done = not applied.changes
    assert done or applied.backup is not None
    if not done:
        assert {change.path for change in applied.changes} == {*(file.path for file in FILES), OLD}
        kept = (
            {
                str(path.relative_to(applied.backup)): path.read_text()
                for path in applied.backup.rglob("*")
                if path.is_file()
            }
            if applied.backup
            else {}
        )
        assert kept == before
        assert servers.told == [tuple(change.path for change in applied.changes)]
    assert killed or done


def _die_at(moment: int) -> None:
    """Let this process end at the n-th call that changes a file, as SIGKILL would end it."""
    left = moment

    def dying(real: object) -> object:
        def call(*words: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)
            return real(*words, **options)  # type: ignore[operator]

        return call

    for name in ("replace", "unlink", "chmod", "mkdir"):
        setattr(Path, name, dying(getattr(Path, name)))
    os.fsync = dying(os.fsync)  # type: ignore[assignment]


def test_the_oldest_backups_go(root: Path) -> None:
    for number in range(KEPT + 3):
        apply([ConfigFile(path=KEA, text=f"{number}\n")], root)
    backups = sorted((root / "var/backups/pibuild/services").iterdir())
    assert len(backups) == KEPT
    assert (backups[-1] / "etc/kea/x.conf").read_text() == f"{KEPT + 1}\n"


def test_a_clock_that_went_back_does_not_cost_the_newest_backup(root: Path) -> None:
    for number in range(KEPT):
        (root / f"var/backups/pibuild/services/21{number:02}0101T000000.000000Z").mkdir(parents=True)
    applied = apply(FILES, root)
    assert applied.backup is not None
    assert (applied.backup / "etc/default/tftpd-hpa").read_text() == "old\n"
    assert len(list(applied.backup.parent.iterdir())) == KEPT


@pytest.mark.tools  # forks
def test_servers_are_told_of_files_that_a_killed_apply_had_replaced_and_nobody_wants_any_more(root: Path) -> None:
    class Killed(Servers):
        def update(self, _changed: Sequence[PurePosixPath]) -> None:
            os._exit(9)  # the servers may have been told of the new files

    before, wanted = contents(root), [ConfigFile(path=path, text=text) for path, text in _as_they_are(root)]
    child = os.fork()
    if child == 0:
        apply(FILES[:1], root, servers=Killed())
    os.waitpid(child, 0)
    assert contents(root)["etc/default/tftpd-hpa"] == "new\n"
    assert is_interrupted(root)
    servers = Servers(refusals=1)
    with pytest.raises(VerdictError):
        apply(wanted, root, servers=servers)
    assert is_interrupted(root)  # still nobody knows
    apply(wanted, root, servers=servers)
    assert contents(root) == before
    assert (FILES[0].path in servers.told[0], FILES[0].path in servers.told[1]) == (True, True)
    assert not is_interrupted(root)


def _as_they_are(root: Path) -> list[tuple[PurePosixPath, str]]:
    return [(PurePosixPath("/") / path, text) for path, text in contents(root).items()]


def test_a_backup_that_was_deleted_is_not_taken_for_a_file_that_was_not_there(root: Path) -> None:
    class Killed(Servers):
        def update(self, _changed: Sequence[PurePosixPath]) -> None:
            raise KeyboardInterrupt

        def undo(self) -> list[str]:
            raise SystemExit(9)

    with pytest.raises(SystemExit):
        apply(FILES, root, servers=Killed())
    shutil.rmtree(root / "var/backups")
    with pytest.raises(HostError, match="no longer has /etc/default/tftpd-hpa") as caught:
        apply(FILES, root)
    assert "journal.json" in caught.value.hint
    assert (root / "etc/default/tftpd-hpa").exists()


def test_two_at_once_is_refused(root: Path) -> None:
    class Impatient(Servers):
        def update(self, changed: Sequence[PurePosixPath]) -> None:
            super().update(changed)
            apply(FILES, root)

    with pytest.raises(HostError, match="another apply is running here"):
        apply(FILES, root, servers=Impatient())


def test_a_diff_reads_like_one(root: Path) -> None:
    lines = {str(change.path): change.lines() for change in compare(FILES, root)}
    assert lines["/etc/default/tftpd-hpa"] == [
        "--- /etc/default/tftpd-hpa",
        "+++ /etc/default/tftpd-hpa",
        "@@ -1 +1 @@",
        "-old",
        "+new",
    ]
    assert lines["/etc/kea/x.conf"][0] == "--- /dev/null"
    assert lines["/etc/pibuild/hosts-old.txt"][1] == "+++ /dev/null"


@given(
    st.lists(st.text(alphabet="ab #.\t", max_size=8), max_size=6),
    st.lists(st.text(alphabet="cd", min_size=1, max_size=8), max_size=4),
    st.lists(st.text(alphabet="ef", min_size=1, max_size=8), max_size=4),
)
def test_a_block_is_replaced_and_the_other_lines_stay(live: list[str], first: list[str], second: list[str]) -> None:
    once = with_block("".join(f"{line}\n" for line in live), "".join(f"{line}\n" for line in first))
    twice = with_block(once, "".join(f"{line}\n" for line in second))
    assert twice.splitlines() == [*live, BEGIN, *second, END]


def test_what_an_apply_wrote_goes_when_a_later_one_does_not_want_it_and_nothing_else_does(root: Path) -> None:
    apply(FILES, root)
    (root / "etc/pibuild/by-hand.txt").write_text("mine\n")
    applied = apply(FILES[1:2], root)
    gone = [(change.kind, str(change.path)) for change in applied.changes]
    assert gone == [("removed", "/etc/default/tftpd-hpa"), ("removed", "/etc/kea/x.conf")]
    assert contents(root).keys() == {"etc/hosts", "etc/pibuild/by-hand.txt"}
    apply([], root)
    assert contents(root)["etc/hosts"] == "127.0.0.1 localhost\n"  # pibuild's part alone


ODD = b"127.0.0.1 localhost\r\n# note \x0c192.0.2.9 a\xe2\x80\xa8192.0.2.8 b\x85\xff\x1c\r\n"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_bytes_outside_the_marked_part_never_change(root: Path, line_end: bytes) -> None:
    hosts = root / "etc/hosts"
    block = f"{BEGIN}\n192.0.2.1 a\n{END}\n".encode()
    hosts.write_bytes(ODD)
    apply(FILES, root)
    assert hosts.read_bytes() == ODD + block
    hosts.write_bytes(ODD + f"{BEGIN}\nold\n{END}".encode().replace(b"\n", line_end) + line_end + b"# tail\x0cx")
    apply(FILES, root)
    assert hosts.read_bytes() == ODD + block.rstrip(b"\n") + b"\n" + b"# tail\x0cx"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"a\n{BEGIN}\nb\n", 2),
        (f"a\nb\n{END}\n", 3),
        (f"{END}\n{BEGIN}\n", 1),
        (f"{BEGIN}\n{END}\nx\n{BEGIN}\n{END}\n", 1),
        (f"{BEGIN}\nx\n{BEGIN}\n{END}\n", 1),
    ],
)
def test_a_lost_mark_is_refused_with_its_line_and_nothing_changes(root: Path, text: str, line: int) -> None:
    (root / "etc/hosts").write_text(text)
    before = contents(root)
    with pytest.raises(InputError, match=f"etc/hosts:{line}:1: .*mark|etc/hosts:{line}:1: .*is missing") as caught:
        apply(FILES, root)
    assert "sudoedit" in caught.value.problems[0].hint
    assert contents(root) == before


def test_links_stay_and_are_followed_within_the_root_alone(tmp_path: Path) -> None:
    """What is below the root may be an image: its links are those of a machine that starts from it."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "etc").mkdir(parents=True)
    (outside / "kea").mkdir(parents=True)
    (outside / "hosts").write_text("the host's\n")
    (root / "etc/hosts").symlink_to("/real/hosts")
    (root / "real").mkdir()
    (root / "real/hosts").write_text("::1 localhost\n")
    (root / "etc/kea").symlink_to(outside / "kea")
    (root / "etc/default").symlink_to("../../outside")
    (root / "var").symlink_to(outside)
    before = sorted(path.name for path in outside.rglob("*"))
    apply(FILES, root)
    assert (root / "etc/hosts").readlink() == Path("/real/hosts")
    assert (root / "real/hosts").read_text().startswith(f"::1 localhost\n{BEGIN}")
    assert (root / str(outside / "kea/x.conf").lstrip("/")).read_text() == "kea\n"
    assert sorted(path.name for path in outside.rglob("*")) == before
    assert (root / "outside/tftpd-hpa").read_text() == "new\n"


@pytest.mark.parametrize(
    ("record", "content"),
    [
        ("written.json", '{"/etc/../root/x": false}'),
        ("written.json", '{"/usr/bin/x": false}'),
        ("written.json", "[1]"),
        ("written.json", '{"/etc/x": 7}'),
        ("written.json", "{"),
        ("journal.json", '{"backup": "/etc", "replaced": [], "new": ["/etc/x"], "untold": []}'),
        ("journal.json", '{"backup": "/var/backups/x", "replaced": [], "new": ["/bin/sh"], "untold": []}'),
        ("journal.json", "\ud800"),
    ],
)
def test_a_record_of_nonsense_removes_nothing(root: Path, record: str, content: str) -> None:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/x").touch()
    (root / "var/lib/pibuild/services" / record).write_bytes(content.encode(errors="surrogatepass"))
    before = contents(root)
    with pytest.raises(HostError, match=record) as caught:
        apply(FILES, root)
    assert "sudo rm" in caught.value.hint
    assert contents(root) == before
    assert (root / "usr/bin/x").exists()


def test_a_named_pipe_in_place_of_a_file_is_not_waited_for(root: Path) -> None:
    (root / "etc/hosts").unlink()
    os.mkfifo(root / "etc/hosts")
    with pytest.raises(HostError, match="etc/hosts is no regular file"):
        apply(FILES, root)


@pytest.mark.tools  # the checkers of those servers that are installed
@pytest.mark.parametrize(
    ("gone", "path", "stays"),
    [
        (("groups: [green]}", "groups: []}"), "etc/pibuild/hosts-green.txt", "etc/pibuild/hosts-yellow.txt"),
        ((", uplink: wlan0}\n    backup", "}\n    backup"), "etc/pibuild/nat.nft", "etc/pibuild/hosts.txt"),
    ],
    ids=["a group", "the uplink"],
)
def test_a_file_goes_when_the_inventory_drops_what_it_is_for(
    tmp_path: Path, gone: tuple[str, str], path: str, stays: str
) -> None:
    """From one inventory to the next, with what each renders: no list of what to remove is kept by hand."""
    root = tmp_path / "root"
    root.mkdir()
    before, after = tmp_path / "before", tmp_path / "after"
    for directory in (before, after):
        directory.mkdir()
    drop = [("  green: {labels: {cable: green}}\n", "")] if "green" in gone[0] else []
    apply(render(load_inventory(variant(before)), "login"), root)
    assert {path, stays} <= contents(root).keys()
    applied = apply(render(load_inventory(variant(after, changes=[gone, *drop])), "login"), root)
    assert path in {str(change.path)[1:] for change in applied.changes if change.kind == "removed"}
    assert path not in contents(root)
    assert stays in contents(root)
    assert apply(render(load_inventory(after / "cluster.yaml"), "login"), root).changes == ()
