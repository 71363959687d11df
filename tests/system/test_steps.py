"""Steps applied: to a bare tree, and to a real root that programs run in."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder.emulation.chroot import Chroot
from builder.errors import Mark, StepError
from builder.recipe.steps.base import Place
from builder.recipe.steps.registry import STEP_KINDS
from builder.run import Argv, CommandError, Completed, run

pytestmark = pytest.mark.root

MARK = Mark(file=Path("recipe.yaml"), line=7, column=5)
PACKAGES = "passwd,systemd,sudo,debconf"
CACHED = Path("/tmp/pibuild-tests-steps-root.tar")  # a cache between runs
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A target whose programs run in a chroot."""

    root: Path
    artifacts: Mapping[str, Path] = field(default_factory=dict)

    def run(
        self,
        argv: Argv,
        *,
        network: bool = False,
        input: bytes | None = None,  # noqa: A002 - subprocess's own word
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        try:
            return Chroot(root=self.root).run(argv, network=network, input=input, env=env)
        except CommandError as error:
            raise StepError(f"{MARK}: {error.message}", hint=error.hint) from error

    def fetched(self, sha256: str) -> Path | None:
        return self.artifacts.get(sha256)


def place(directory: Path, **variables: object) -> Place:
    return Place(directory=directory, mark=MARK, variables=variables)


def apply(target: Tree, directory: Path, kind: str, fields: dict[str, Any], **variables: object) -> None:
    """Check and apply a step as an engine does."""
    step, at = STEP_KINDS[kind].model_validate(fields), place(directory, **variables)
    assert step.check(at) == []
    step.apply(target, at)


def described(path: Path) -> tuple[int, int, str]:
    status = path.lstat()
    return status.st_uid, status.st_gid, f"{status.st_mode & 0o7777:04o}"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree with accounts of its own and links that would lead out of it."""
    root = tmp_path / "root"
    for directory in ("etc", "usr/lib", "usr/sbin", "boot/firmware", "root"):
        (root / directory).mkdir(parents=True)
    root.chmod(0o755)
    (root / "root").chmod(0o700)
    (root / "lib").symlink_to("usr/lib")
    (root / "outside").symlink_to(tmp_path / "elsewhere")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nreport:x:4321:4322::/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nreport:x:4322:\nadm:x:4:\n")
    return Tree(root=root)


@pytest.fixture
def strange_umask() -> Any:
    before = os.umask(0o077)
    yield
    os.umask(before)


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.usefixtures("strange_umask")
def test_files_have_the_owner_and_mode_asked_for(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o700)
    entries = [
        {"path": "/etc/motd", "content": "Γεια\n"},
        {"path": "/srv/new/deep/secret", "content": "s", "owner": "report:adm", "mode": "0600"},
        {"path": "/usr/bin/tool", "source": "tool"},
        {"path": "/usr/bin/suid", "source": "tool", "mode": "4750", "owner": "0:report"},
        {"path": "/var/lib/report", "directory": True, "owner": "report:report", "mode": "2775"},
        {"path": "/root", "directory": True},
        {"path": "/etc/localtime", "symlink": "/usr/share/zoneinfo/Europe/Athens"},
        {"path": "/lib/x.conf", "content": ""},
    ]
    apply(tree, tmp_path, "files", {"files": entries})
    root = tree.root
    assert (root / "etc/motd").read_text() == "Γεια\n"
    assert described(root / "etc/motd") == (0, 0, "0644")
    assert described(root / "srv/new/deep") == (0, 0, "0755")
    assert described(root / "srv/new/deep/secret") == (4321, 4, "0600")
    assert described(root / "usr/bin/tool") == (0, 0, "0755")
    assert described(root / "usr/bin/suid") == (0, 4322, "4750")
    assert described(root / "var/lib/report") == (4321, 4322, "2775")
    assert described(root / "root") == (0, 0, "0700")
    assert (root / "etc/localtime").readlink() == Path("/usr/share/zoneinfo/Europe/Athens")
    assert (root / "lib").is_symlink()
    assert (root / "usr/lib/x.conf").is_file()


def test_nothing_is_written_outside_the_root(tree: Tree, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("the host's")
    (tree.root / "etc/link").symlink_to(elsewhere / "file")
    entries = [{"path": "/outside/file", "content": "x"}, {"path": "/etc/link", "content": "y"}]
    apply(tree, tmp_path, "files", {"files": entries})
    config = {"set": {"a": 1}, "path": "/outside/config.txt"}
    apply(tree, tmp_path, "config.txt", config)
    assert [entry.name for entry in elsewhere.iterdir()] == ["file"]
    assert (elsewhere / "file").read_text() == "the host's"
    assert not (tree.root / "etc/link").is_symlink()
    inside = tree.root / str(elsewhere).removeprefix("/")
    assert sorted(entry.name for entry in inside.iterdir()) == ["config.txt", "file"]


def test_a_file_is_replaced_and_its_other_name_is_not(tree: Tree, tmp_path: Path) -> None:
    old = tree.root / "etc/old"
    old.write_text("old")
    os.setxattr(old, "user.note", b"kept")
    os.setxattr(old, "security.capability", bytes.fromhex("0000000200200000000000000000000000000000"))
    (tree.root / "etc/other").hardlink_to(old)
    apply(tree, tmp_path, "files", {"files": [{"path": "/etc/old", "content": "new"}]})
    assert (tree.root / "etc/other").read_text() == "old"
    assert sorted(os.listxattr(tree.root / "etc/other")) == ["security.capability", "user.note"]
    assert os.listxattr(old) == []
    assert [entry.name for entry in (tree.root / "etc").iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ({"path": "/etc/x", "content": "", "owner": "raport:adm"}, "no user 'raport' (/etc/passwd)", "'report'?"),
        ({"path": "/etc/x", "content": "", "owner": "root:wheel"}, "no group 'wheel' (/etc/group)", "step before"),
        ({"path": "/etc", "content": ""}, "/etc is a directory in the root", "remove it first"),
        ({"path": "/etc/passwd/x", "content": ""}, "/etc/passwd is no directory in the root", "remove it first"),
        ({"path": "/circle/x", "content": ""}, "/circle/x: too many levels of symbolic links", ""),
    ],
)
def test_what_the_root_lacks_is_said_with_its_place(
    tree: Tree, tmp_path: Path, entry: dict[str, str], message: str, hint: str
) -> None:
    (tree.root / "circle").symlink_to("circle")
    with pytest.raises(StepError) as caught:
        apply(tree, tmp_path, "files", {"files": [entry]})
    assert caught.value.message.startswith("recipe.yaml:7:5: ")
    assert message in caught.value.message
    assert hint in caught.value.hint


# ----------------------------------------------------------------------------------------------------------- overlay


@pytest.fixture
def laid(tmp_path: Path) -> Path:
    source = tmp_path / "overlay"
    for directory in ("etc/sudoers.d", "root", "lib/firmware", "boot/firmware", "var/lib/report/in"):
        (source / directory).mkdir(parents=True)
    (source / "etc/sudoers.d/admin").write_text("x")
    (source / "root/.profile").write_text("x")
    (source / "lib/firmware/blob").write_text("x")
    (source / "boot/firmware/extra.txt").write_text("x")
    (source / "var/lib/report/in/run").write_text("x")
    (source / "var/lib/report/in/run").chmod(0o755)
    (source / "etc/link").symlink_to("/etc/passwd")
    return source


@pytest.mark.usefixtures("laid", "strange_umask")
def test_an_overlay_is_laid_with_what_git_cannot_hold(tree: Tree, tmp_path: Path) -> None:
    permissions = [
        {"path": "/etc/sudoers.d/*", "mode": "0440"},
        {"path": "/var/lib/report/**", "owner": "report:adm"},
        {"path": "/var/lib/report", "mode": "0700"},
    ]
    apply(tree, tmp_path, "overlay", {"source": "overlay", "permissions": permissions})
    root = tree.root
    assert described(root / "etc/sudoers.d/admin") == (0, 0, "0440")
    assert described(root / "etc/sudoers.d") == (0, 0, "0755")
    assert described(root / "root") == (0, 0, "0700")
    assert described(root / "root/.profile") == (0, 0, "0644")
    assert described(root / "var/lib/report") == (4321, 4, "0700")
    assert described(root / "var/lib/report/in/run") == (4321, 4, "0755")
    assert (root / "etc/link").readlink() == Path("/etc/passwd")
    assert (root / "lib").is_symlink()
    assert (root / "usr/lib/firmware/blob").is_file()
    assert (root / "boot/firmware/extra.txt").is_file()


@pytest.mark.usefixtures("laid")
def test_an_overlay_deletes_first(tree: Tree, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a").touch()
    old = tree.root / "etc/update-motd.d"
    old.mkdir()
    for name in ("10-help", "50-news", ".hidden"):
        (old / name).touch()
    (tree.root / "etc/sudoers.d").write_text("a file where a directory comes")
    delete = ["/etc/update-motd.d/*", "/etc/sudoers.d", "/outside", "/nothing/*", "/etc/gr[o]up"]
    apply(tree, tmp_path, "overlay", {"source": "overlay", "delete": delete})
    assert list(old.iterdir()) == []
    assert (tree.root / "etc/sudoers.d/admin").is_file()
    assert not (tree.root / "outside").is_symlink()
    assert (elsewhere / "a").exists()
    assert not (tree.root / "etc/group").exists()
    with pytest.raises(StepError, match=r"the root has no /etc/nowhere") as caught:
        apply(tree, tmp_path, "overlay", {"source": "overlay", "delete": ["/etc/nowhere"]})
    assert "/etc/nowher[e]" in caught.value.hint


@pytest.mark.usefixtures("laid")
def test_a_mounted_directory_is_not_deleted(tree: Tree, tmp_path: Path) -> None:
    (tree.root / "srv/data disk").mkdir(parents=True)
    run(["mount", "-t", "tmpfs", "none", tree.root / "srv/data disk"])
    try:
        (tree.root / "srv/data disk/a").touch()
        with pytest.raises(StepError, match="a file system is mounted there"):
            apply(tree, tmp_path, "overlay", {"source": "overlay", "delete": ["/srv"]})
        assert (tree.root / "srv/data disk/a").exists()
    finally:
        run(["umount", tree.root / "srv/data disk"])


# -------------------------------------------------------------------------------------------- templates and boot files


def test_a_template_is_rendered(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{% for one in servers %}\nserver {{ one }}\n{% endfor %}\nzone {{ zone }}\n")
    fields = {"source": "t.j2", "path": "/etc/t.conf", "owner": "root:adm", "mode": "0640", "variables": {"zone": "B"}}
    apply(tree, tmp_path, "template", fields, servers=["a", "b"], zone="A")
    assert (tree.root / "etc/t.conf").read_text() == "server a\nserver b\nzone B\n"
    assert described(tree.root / "etc/t.conf") == (0, 4, "0640")


def test_boot_files_are_created_and_edited(tree: Tree, tmp_path: Path) -> None:
    config, cmdline = (tree.root / "boot/firmware" / name for name in ("config.txt", "cmdline.txt"))
    for _ in range(2):
        apply(tree, tmp_path, "config.txt", {"set": {"enable_uart": 1}, "edits": [{"section": "pi5", "add": ["a=1"]}]})
        apply(tree, tmp_path, "cmdline.txt", {"set": {"console": ["serial0,115200", "tty1"]}, "add": ["fixrtc"]})
    assert config.read_text() == "enable_uart=1\n\n[pi5]\na=1\n"
    assert cmdline.read_text() == "console=serial0,115200 console=tty1 fixrtc\n"
    assert described(config) == (0, 0, "0644")
    config.chmod(0o755)
    apply(tree, tmp_path, "config.txt", {"remove": ["enable_uart"]})
    assert described(config) == (0, 0, "0755")


def test_what_a_base_left_in_place_of_a_file_is_neither_waited_for_nor_read_whole(tree: Tree, tmp_path: Path) -> None:
    config = tree.root / "boot/firmware/config.txt"
    config.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(config)
    with pytest.raises(StepError, match="a named pipe, not a file"):
        apply(tree, tmp_path, "config.txt", {"set": {"enable_uart": 1}})
    config.unlink()
    with config.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StepError, match="longer than 64 MiB"):
        apply(tree, tmp_path, "config.txt", {"set": {"enable_uart": 1}})


def test_a_command_line_too_long_for_the_kernel_is_refused(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="would have 2103 characters, 2047 at most"):
        apply(tree, tmp_path, "cmdline.txt", {"add": ["a" * 2103]})


# --------------------------------------------------------------------------------------------------------- downloads

SHA = "0" * 64


def download(tree: Tree, archive: Path, tmp_path: Path, **fields: Any) -> None:
    target = Tree(root=tree.root, artifacts={SHA: archive})
    apply(target, tmp_path, "download", {"url": "https://example.org/a", "sha256": SHA, **fields})


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    top = tmp_path / "pack/tool-1.2"
    (top / "bin").mkdir(parents=True)
    (top / "bin/tool").write_bytes(b"\x7fELF" + bytes(5000))
    (top / "bin/tool").chmod(0o755)
    (top / "bin/same").hardlink_to(top / "bin/tool")
    (top / "link").symlink_to("bin/tool")
    os.chown(top / "bin/tool", 1234, 1234)
    return tmp_path / "pack"


@pytest.mark.parametrize("packing", ["", "gz", "xz", "bz2", "zst"])
def test_an_archive_is_unpacked(tree: Tree, tmp_path: Path, packed: Path, packing: str) -> None:
    archive = tmp_path / "archive"
    program = {"": [], "gz": ["-z"], "xz": ["-J"], "bz2": ["-j"], "zst": ["--zstd"]}[packing]
    run(["tar", "-C", packed, *program, "-cf", archive, "."])
    download(tree, archive, tmp_path, member="tool-1.2/bin/tool", path="/usr/bin/tool", mode="0755")
    assert described(tree.root / "usr/bin/tool") == (0, 0, "0755")
    assert (tree.root / "usr/bin/tool").stat().st_size == 5004
    download(tree, archive, tmp_path, extract=True, strip=1, path="/opt/tool", owner="report:report")
    assert described(tree.root / "opt/tool/bin/tool") == (4321, 4322, "0755")
    assert (tree.root / "opt/tool/bin/same").samefile(tree.root / "opt/tool/bin/tool")
    assert (tree.root / "opt/tool/link").readlink() == Path("bin/tool")
    with pytest.raises(StepError, match=r"has no file tool-1\.2/bin/toll") as caught:
        download(tree, archive, tmp_path, member="tool-1.2/bin/toll", path="/x")
    assert "did you mean 'tool-1.2/bin/tool'?" in caught.value.hint


def test_a_zip_is_unpacked(tree: Tree, tmp_path: Path, packed: Path) -> None:
    run([sys.executable, "-m", "zipfile", "-c", tmp_path / "a.zip", packed / "tool-1.2"])
    download(tree, tmp_path / "a.zip", tmp_path, extract=True, path="/opt")
    assert described(tree.root / "opt/tool-1.2/bin/tool") == (0, 0, "0755")


@pytest.mark.parametrize(("program", "ending"), [("gzip", ".gz"), ("xz", ".xz"), ("bzip2", ".bz2"), ("zstd", ".zst")])
def test_a_single_file_is_decompressed(tree: Tree, tmp_path: Path, program: str, ending: str) -> None:
    (tmp_path / "one").write_text("content")
    run([program, "-k", tmp_path / "one"])
    download(tree, tmp_path / f"one{ending}", tmp_path, decompress=True, path="/usr/bin/one", mode="0755")
    assert (tree.root / "usr/bin/one").read_text() == "content"


def test_an_archive_cannot_reach_outside(tree: Tree, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with tarfile.open(tmp_path / "dots", "w") as tar:
        tar.addfile(tarfile.TarInfo("../../elsewhere/a"))
    with pytest.raises(StepError, match=r"has a member outside itself: \.\./\.\./elsewhere/a"):
        download(tree, tmp_path / "dots", tmp_path, extract=True, path="/opt")
    with tarfile.open(tmp_path / "links", "w") as tar:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(elsewhere)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("way/a"))
    download(tree, tmp_path / "links", tmp_path, extract=True, path="/opt")
    assert list(elsewhere.iterdir()) == []
    with tarfile.open(tmp_path / "device", "w") as tar:
        device = tarfile.TarInfo("null")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    with pytest.raises(StepError, match="has a device or pipe: null"):
        download(tree, tmp_path / "device", tmp_path, extract=True, path="/opt")


def test_what_is_no_archive_or_cut_short_is_said(tree: Tree, tmp_path: Path, packed: Path) -> None:
    (tmp_path / "text").write_text("not found")
    with pytest.raises(StepError, match=r"example\.org/a is neither a tar nor a zip archive"):
        download(tree, tmp_path / "text", tmp_path, extract=True, path="/opt")
    with pytest.raises(StepError, match="is not compressed with"):
        download(tree, tmp_path / "text", tmp_path, decompress=True, path="/opt")
    run(["tar", "-C", packed, "-cf", tmp_path / "whole", "."])
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:3000])
    with pytest.raises(StepError, match="is damaged"):
        download(tree, tmp_path / "cut", tmp_path, extract=True, path="/opt")


def test_an_optional_download_that_could_not_be_had_changes_nothing(tree: Tree, tmp_path: Path) -> None:
    fields = {"url": "https://example.org/a", "sha256": SHA, "path": "/usr/bin/a"}
    apply(tree, tmp_path, "download", {**fields, "optional": True})
    assert not (tree.root / "usr/bin").exists()
    with pytest.raises(StepError, match="was not fetched"):
        apply(tree, tmp_path, "download", fields)


# -------------------------------------------------------------------------------------------------------- a real root


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A Debian of this machine's own architecture and archive, with systemd and the account tools."""
    if not CACHED.exists():
        made = tmp_path_factory.mktemp("made") / "root.tar"
        sources = sorted(Path("/etc/apt/sources.list.d").glob("*.sources")) or [Path("/etc/apt/sources.list")]
        run(["mmdebstrap", "--variant=essential", f"--include={PACKAGES}", "bookworm", made, sources[0]])
        made.replace(CACHED)
    root = tmp_path_factory.mktemp("debian") / "root"
    root.mkdir()
    run(["tar", "-C", root, "--numeric-owner", "--xattrs", "-xpf", CACHED])
    return Tree(root=root)


def entry(tree: Tree, file: str, name: str) -> list[str]:
    lines = [line.split(":") for line in (tree.root / "etc" / file).read_text().splitlines()]
    return next(line for line in lines if line[0] == name)


@pytest.mark.network
def test_a_script_ends_at_the_command_that_fails_and_says_which(debian: Tree, tmp_path: Path) -> None:
    script = (
        "#!/bin/sh\necho one > /tmp-run\ncat\nif true; then\n  grep nothing /etc/passwd\nfi\necho two >> /tmp-run\n"
    )
    with pytest.raises(StepError) as caught:
        apply(debian, tmp_path, "run", {"script": script})
    assert (debian.root / "tmp-run").read_text() == "one\n"
    assert caught.value.message == (
        "recipe.yaml:7:5: /bin/sh -eu script: exit code 1\nthe command that failed: grep nothing /etc/passwd"
    )
    with pytest.raises(StepError, match="parameter not set") as unset:
        apply(debian, tmp_path, "run", {"script": "echo $undefined\n"})
    assert "+pibuild" not in unset.value.message


@pytest.mark.network
def test_a_program_has_the_environment_given(debian: Tree, tmp_path: Path) -> None:
    fields = {"argv": ["sh", "-c", 'echo "$WHO" >/tmp-argv'], "environment": {"WHO": "me"}}
    apply(debian, tmp_path, "run", fields)
    assert (debian.root / "tmp-argv").read_text() == "me\n"
    apply(debian, tmp_path, "run", {"script": "grep -c : /proc/net/dev > /tmp-net\n"})
    assert (debian.root / "tmp-net").read_text() == "1\n", "the loopback alone"


@pytest.mark.network
def test_an_account_has_keys_and_no_password(debian: Tree, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# admins\n{KEY}\n\n")
    fields = {
        "name": "ubuntu",
        "uid": 1000,
        "groups": ["adm", "gpio"],
        "gecos": "Ubuntu",
        "authorized_keys": [KEY],
        "sudo": "nopasswd",
    }
    root = debian.root
    for keys in ([KEY], {"source": "keys"}):
        apply(debian, tmp_path, "user", {**fields, "authorized_keys": keys})
        assert entry(debian, "passwd", "ubuntu")[2:] == ["1000", "1000", "Ubuntu", "/home/ubuntu", "/bin/bash"]
        assert entry(debian, "shadow", "ubuntu")[1] == "!"
        assert entry(debian, "group", "gpio")[3] == entry(debian, "group", "adm")[3] == "ubuntu"
        assert KEY in (root / "home/ubuntu/.ssh/authorized_keys").read_text()
        assert described(root / "home/ubuntu/.ssh/authorized_keys") == (1000, 1000, "0600")
        assert described(root / "home/ubuntu/.ssh") == (1000, 1000, "0700")
        assert described(root / "etc/sudoers.d/90-ubuntu") == (0, 0, "0440")
        debian.run(["visudo", "-c"])
    with pytest.raises(StepError, match="ubuntu has the uid 1000 in the root, not 1001"):
        apply(debian, tmp_path, "user", {"name": "ubuntu", "uid": 1001})
    debian.run(["usermod", "--password", "secret", "ubuntu"])
    apply(debian, tmp_path, "user", {"name": "ubuntu", "shell": "/bin/sh", "home": "/srv/ubuntu"})
    assert entry(debian, "shadow", "ubuntu")[1] == "!"
    assert entry(debian, "passwd", "ubuntu")[4:] == ["Ubuntu", "/srv/ubuntu", "/bin/sh"]
    assert (root / "srv/ubuntu/.ssh/authorized_keys").is_file()
    assert not (root / "etc/sudoers.d/90-ubuntu").exists()


@pytest.mark.network
def test_accounts_of_services_and_of_root(debian: Tree, tmp_path: Path) -> None:
    apply(debian, tmp_path, "user", {"name": "metrics", "system": True})
    uid, _, _, home, shell = entry(debian, "passwd", "metrics")[2:]
    assert int(uid) < 1000
    assert (home, shell) == ("/nonexistent", "/usr/sbin/nologin")
    apply(debian, tmp_path, "user", {"name": "queue", "system": True, "home": "/var/lib/queue"})
    assert described(debian.root / "var/lib/queue")[0] == int(entry(debian, "passwd", "queue")[2])
    apply(debian, tmp_path, "user", {"name": "root", "authorized_keys": [KEY]})
    assert described(debian.root / "root/.ssh/authorized_keys") == (0, 0, "0600")
    assert entry(debian, "passwd", "root")[5:] == ["/root", "/bin/bash"]


@pytest.mark.network
def test_units_are_enabled_disabled_and_masked(debian: Tree, tmp_path: Path) -> None:
    units = debian.root / "etc/systemd/system"
    for name in ("one.service", "two@.service"):
        text = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
        (units / name).write_text(text)
    (units / "static.service").write_text("[Service]\nExecStart=/bin/true\n")
    fields = {
        "enable": ["one", "two@a.service"],
        "mask": ["fstrim.timer"],
        "default_target": "multi-user.target",
    }
    for _ in range(2):
        apply(debian, tmp_path, "systemd", fields)
        wants = sorted(entry.name for entry in (units / "multi-user.target.wants").iterdir())
        assert [name for name in wants if name in ("one.service", "two@a.service")] == ["one.service", "two@a.service"]
        assert (units / "fstrim.timer").readlink() == Path("/dev/null")
        assert (units / "default.target").readlink().name == "multi-user.target"
    apply(debian, tmp_path, "systemd", {"disable": ["one.service"]})
    assert not (units / "multi-user.target.wants/one.service").is_symlink()
    with pytest.raises(StepError, match=r"the root has no unit oen\.service") as caught:
        apply(debian, tmp_path, "systemd", {"enable": ["oen"]})
    assert caught.value.hint == "did you mean 'one.service'?"
    with pytest.raises(StepError, match=r"static.service has no \[Install\] section"):
        apply(debian, tmp_path, "systemd", {"enable": ["static"]})


@pytest.mark.network
def test_a_package_source_is_written_and_answers_are_set(debian: Tree, tmp_path: Path) -> None:
    (tmp_path / "key.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    source = {
        "name": "lab",
        "uris": ["http://example.org/a"],
        "suites": ["x"],
        "components": ["main"],
        "key": "key.asc",
    }
    fields = {"sources": [source], "debconf": ["base-passwd base-passwd/user-remove boolean false"]}
    apply(debian, tmp_path, "packages", fields)
    assert (debian.root / "etc/apt/sources.list.d/lab.sources").read_text() == (
        "Types: deb\nURIs: http://example.org/a\nSuites: x\nComponents: main\nSigned-By: /etc/apt/keyrings/lab.asc\n"
    )
    assert described(debian.root / "etc/apt/keyrings/lab.asc") == (0, 0, "0644")
    assert "base-passwd/user-remove" in (debian.root / "var/cache/debconf/config.dat").read_text()
