"""What a program of somebody else (a run step, a maintainer script) reaches from its root: nothing of the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.emulation.chroot import Bind, Chroot
from builder.emulation.mode import NONE, full_emulation

pytestmark = [pytest.mark.root]


@pytest.fixture(params=["without", "emulated"])
def chroot(request: pytest.FixtureRequest, tmp_path: Path) -> Chroot:
    """A root with this machine's own programs: as on an arm64 host, and with the handler for arm64 registered."""
    root = tmp_path / "root"
    for name in ("proc", "dev", "run", "tmp", "etc", "usr"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    emulation = NONE if request.param == "without" else full_emulation()
    return Chroot(root=root, emulation=emulation, binds=[Bind(source=Path("/usr"), target="/usr")])


def python(chroot: Chroot, script: str, *, network: bool = False) -> list[str]:
    """Run a script of Python inside the root; return the lines it printed."""
    setting = "import ctypes, errno, os, stat\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    return chroot.run(["python3", "-I", "-c", setting + script], network=network).stdout.splitlines()


def test_a_second_chroot_leads_nowhere(chroot: Chroot, tmp_path: Path) -> None:
    mark = tmp_path / "host-file"
    mark.write_text("the host's")
    script = f"""\
os.mkdir("/sub")
os.chroot("/sub")
for _ in range(40):
    os.chdir("..")
os.chroot(".")
print(os.path.exists({str(mark)!r}), sorted(os.listdir("/")))
"""
    inside = ["bin", "dev", "etc", "lib", "lib64", "proc", "run", "sub", "tmp", "usr"]
    assert python(chroot, script) == [f"False {inside}"]


def test_nothing_that_the_kernel_shares_can_be_written(chroot: Chroot) -> None:
    """Opened for writing, never written: core_pattern, sysrq-trigger and the like would hit the machine of the test."""
    script = """\
for directory, names, files in os.walk("/proc"):
    names[:] = [name for name in names if not name.isdigit()]
    for name in files:
        path = f"{directory}/{name}"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            continue
        print(path)
for name in ("null", "zero", "full", "random", "urandom", "tty"):
    for change in (lambda path: os.chmod(path, 0o666), lambda path: os.chown(path, 0, 0)):
        try:
            change(f"/dev/{name}")
        except OSError:
            continue
        print(f"/dev/{name}")
with open("/dev/null", "w") as file:
    file.write("the data of devices is there")
assert len(open("/dev/urandom", "rb").read(8)) == 8
"""
    written = python(chroot, script)
    assert [path for path in written if not path.startswith("/proc/sys/fs/binfmt_misc/")] == []


def test_process_1_shows_nothing_of_the_host(chroot: Chroot, tmp_path: Path) -> None:
    script = f"""\
for name in ("root", "cwd"):
    try:
        print(name, os.path.exists(f"/proc/1/{{name}}{tmp_path}"))
    except OSError as error:
        print(name, False)
for name in ("exe", "mem", "fd/0"):
    try:
        os.open(f"/proc/1/{{name}}", os.O_RDONLY)
    except OSError as error:
        print(name, errno.errorcode[error.errno])
"""
    denied = [f"{name} EACCES" for name in ("exe", "mem", "fd/0")]
    assert python(chroot, script) == ["root False", "cwd False", *denied]


def test_nothing_is_mounted_and_no_device_is_made(chroot: Chroot) -> None:
    """A device of the host by its number, /proc writable again, control groups, a user namespace for all that."""
    device = next(path for path in Path("/sys/class/block").iterdir()) / "dev"
    major, minor = device.read_text().strip().split(":")
    script = f"""\
def said(result):
    return "done" if result == 0 else errno.errorcode[ctypes.get_errno()]
def mount(source, target, kind, flags=0):
    return said(libc.mount(source, target, kind, ctypes.c_ulong(flags), None))
os.mkdir("/place")
try:
    os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev({major}, {minor}))
    print("made")
except PermissionError:
    pass
print(mount(b"tmpfs", b"/place", b"tmpfs"))
print(mount(b"none", b"/proc", None, 4096 | 32))
print(said(libc.umount2(b"/proc", 2)))
for flag in (0x10000000, 0x20000, 0x2000000):
    print(said(libc.unshare(flag)))
print(mount(b"none", b"/place", b"cgroup2"))
"""
    assert python(chroot, script) == ["EPERM", "EPERM", "EPERM", "ENOSPC", "EPERM", "EPERM", "EPERM"]


def test_no_descriptor_and_no_terminal_comes_along(chroot: Chroot) -> None:
    script = """\
print([name for name in sorted(os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{name}")])
print(os.getsid(0) == 1)
"""
    kept = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(kept, True)  # noqa: FBT003 - positional only
    try:
        assert python(chroot, script) == ["['0', '1', '2']", "True"]
    finally:
        os.close(kept)


def test_what_is_shown_of_the_host_is_read_only(chroot: Chroot, tmp_path: Path) -> None:
    shown = tmp_path / "archives"
    shown.mkdir()
    (shown / "a.deb").write_text("whole")
    shop = Chroot(
        root=chroot.root, emulation=chroot.emulation, binds=[*chroot.binds, Bind(source=shown, target="/run/archives")]
    )
    script = """\
for attempt in (lambda: os.unlink("/run/archives/a.deb"), lambda: open("/run/archives/a.deb", "a"),
                lambda: os.chmod("/run/archives", 0o777)):
    try:
        attempt()
    except OSError as error:
        print(errno.errorcode[error.errno])
print(libc.mount(b"none", b"/run/archives", None, ctypes.c_ulong(4096 | 32), None))
"""
    assert python(shop, script) == ["EROFS", "EROFS", "EROFS", "-1"]
    assert (shown / "a.deb").read_text() == "whole"


@pytest.mark.parametrize("way", ["", "/proc/self/cwd"])
@pytest.mark.parametrize("name", ["etc", "dev", "run", "tmp", "proc", "way"])
def test_a_link_in_the_root_leads_no_mount_and_no_file_out(chroot: Chroot, tmp_path: Path, name: str, way: str) -> None:
    """An earlier step may have put a link where directories, or the resolver's configuration, are expected."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (chroot.root / "etc/resolv.conf").symlink_to("/way/deep/resolv.conf")
    if name == "etc":
        (chroot.root / "etc/resolv.conf").unlink()
    if name != "way":
        (chroot.root / name).rmdir()
    (chroot.root / name).symlink_to(f"{way}{elsewhere}")
    done = chroot.run(["true"], network=True, check=False)
    assert list(elsewhere.iterdir()) == []
    assert done.returncode in (0, 125), done.stdout
