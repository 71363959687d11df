"""The process between pibuild and a program inside a root. Started as a script of its own with a JSON argument.

It gives the program namespaces, /proc, /dev, /run and /tmp, enters the root and runs the program. When the program
ends, everything it started ends too.

The program is somebody else's (a recipe's author, a package's maintainer), so nothing of the host is in its reach:

- The root becomes the whole of its mount namespace (pivot_root(2)), and what was there before is detached: there is
  nothing above it that a second chroot(2) would lead to.
- It is root of a user namespace of its own, on every kind of host, with all ids as they are: no device can be mounted
  or made, no module loaded, no clock set. The mounts it finds are locked there (mount_namespaces(7)).
- /proc and the devices are read-only mounts: the kernel lets uid 0 of any user namespace write /proc/sys.
- It has the capabilities that maintainer scripts need, and can get no others: no further user namespace can be made.

The user namespace is also what holds the handler for arm64 programs (binfmt_misc belongs to it since Linux 6.7: the
registration ends with it). This script imports nothing but the standard library, and little: it starts with every
program that is run in a root.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import warnings  # noqa: F401 - os.execvpe imports it, and inside the root it is not to be had

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
CRASHES = (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)
# numbers of linux/capability.h: chown, dac_override, dac_read_search (backups read with it), fowner, fsetid, kill,
# setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap. Of the others, sys_admin
# alone could do anything here: mount.
KEPT = frozenset((0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
# pivot_root and keyctl have no function in every C library: numbers of asm/unistd_64.h and asm-generic/unistd.h
PIVOT_ROOT, KEYCTL = {"x86_64": (155, 250), "aarch64": (41, 219)}[os.uname().machine]
KEYCTL_JOIN_SESSION_KEYRING = 1

LIBC = ctypes.CDLL(None, use_errno=True)


def check(result: int, doing: str) -> None:
    """Raise OSError for a failed call."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{doing}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a file system or directory. Raises OSError."""
    encoded = [os.fsencode(text) or None for text in (source, target, kind, data)]
    check(LIBC.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]), f"mount {source} on {target}")


def read_only(target: str) -> None:
    """Make a mount read-only. Raises OSError."""
    mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def prepare(binds: list[list[str]]) -> None:
    """Mount what a program expects in its root; all of it is gone with the namespace.

    `/` is the root already, so that no link in there leads out of it, and the working directory is the host's: sources
    are relative to that.
    """
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=1m")
    for name in DEVICES:
        with open(f"/dev/{name}", "w"):
            pass
        mount(f"dev/{name}", f"/dev/{name}", flags=MS_BIND)
        read_only(f"/dev/{name}")
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(target, f"/dev/{name}")
    os.mkdir("/dev/pts")
    os.mkdir("/dev/shm")  # noqa: S108 - the root's own
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=666,mode=620,gid=5")
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")  # noqa: S108 - a mount of the root's own
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")  # noqa: S108 - a mount of the root's own
    os.makedirs("/run/lock", mode=0o1777)
    for source, target, mode in binds:
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        elif not os.path.exists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "w"):
                pass
        mount(source, target, flags=MS_BIND)
        if mode == "ro":
            read_only(target)


def enter(root: str, binds: list[list[str]], native: dict[str, int]) -> int:
    """Make a directory the root of everything; return a descriptor of the settings that limit namespaces.

    /proc comes last: a link in the root could name what it shows of this process, the host's files among them.
    """
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount(root, root, flags=MS_BIND)
    relative = [[os.path.realpath(source).lstrip("/") or ".", target, mode] for source, target, mode in binds]
    os.chdir("/")
    os.chroot(root)
    prepare(relative)
    link_native(native)
    watch_exits()
    os.chroot(".")
    os.chdir(root)
    check(LIBC.syscall(PIVOT_ROOT, b".", b"."), "pivot_root (not in a chroot or an initramfs)")
    check(LIBC.umount2(b".", MNT_DETACH), "detach the host")
    os.chdir("/")
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount("proc", "/proc", "proc", flags)
    limits = os.open("/proc/sys/user", os.O_PATH | os.O_DIRECTORY)
    check(LIBC.umount2(b"/proc", MNT_DETACH), "umount /proc")
    mount("proc", "/proc", "proc", flags)
    read_only("/proc")
    return limits


def link_native(programs: dict[str, int]) -> None:
    """Let the launcher find the native builds that may stand in: links below /run/pibuild/native.

    Each carries the modification time (ns) of the file it stands in for, 0 where that is not there yet.
    """
    for path, modified in programs.items():
        place = f"/run/pibuild/native{path}"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.symlink(f"/run/pibuild/tools{path}", place)
        os.utime(place, ns=(modified, modified), follow_symlinks=False)


def watch_exits() -> None:
    """Have the kernel write down how every process of this namespace ends (acct(2)), where it can."""
    os.makedirs("/run/pibuild", exist_ok=True)
    for name in ("exits", "emulated"):
        with open(f"/run/pibuild/{name}", "w"):
            pass
    os.chmod("/run/pibuild/emulated", 0o666)  # noqa: S103 - programs of any user start others
    LIBC.acct(b"/run/pibuild/exits")  # without it a crash is reported without a name


def crashed_programs() -> list[str]:
    """Return the emulated programs that a crash's signal ended, as `PATH (signal N)`. Called inside the root.

    Records are of version 3, 64 bytes (acct(5)): flags at 0, exit code at 4, process at 16, command at 48. The
    launcher adds `PROCESS PATH` to the list of emulated programs; without a launcher there is the command's name.
    """
    with open("/run/pibuild/emulated", errors="replace") as file:
        started = dict(line.rstrip("\n").split(" ", 1) for line in file if " " in line)
    with open("/run/pibuild/exits", "rb") as file:
        records = file.read()
    found = []
    for at in range(0, len(records) - 63, 64):
        number = int.from_bytes(records[at + 4 : at + 8], sys.byteorder) & 0x7F
        process = str(int.from_bytes(records[at + 16 : at + 20], sys.byteorder))
        command = records[at + 48 : at + 64].partition(b"\0")[0].decode(errors="replace")
        if number in CRASHES and (process in started or not started):
            found.append(f"{started.get(process, command)} (signal {number})")
    return found


def loopback_up() -> None:
    """Bring up the loopback device of a fresh network namespace (SIOCSIFFLAGS, IFF_UP | IFF_RUNNING)."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0x41))


def main() -> int:
    """Run the program named by the JSON in argv[1]; return its exit code (128 + signal when a signal ended it)."""
    spec = json.loads(sys.argv[1])
    check(LIBC.unshare(NEWPID | NEWIPC | NEWUTS | (0 if spec["network"] else NEWNET)), "unshare")
    ready_read, ready_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    init = os.fork()
    if init == 0:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(ready_read)
        os.close(mapped_write)
        os._exit(run_init(spec, ready_write, mapped_read))
    os.close(ready_write)
    os.close(mapped_read)
    if os.read(ready_read, 1):
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/self/{kind}") as own, open(f"/proc/{init}/{kind}", "w") as mapping:
                ranges = [line.split() for line in own]
                mapping.write("".join(f"{first} {first} {count}\n" for first, _, count in ranges))
        os.write(mapped_write, b"1")
    return exit_code(os.waitpid(init, 0)[1])


def exit_code(status: int) -> int:
    """Return a shell's view of a wait status."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def start(argv: list[str], env: dict[str, str]) -> None:
    """Become the program; where that fails, end as a shell would: 127 when there is none, else 126."""
    try:
        os.execvpe(argv[0], argv, env)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def isolate(limits: int, register: str, ready: int, mapped: int) -> None:
    """Enter a user namespace, have its ids mapped, register the handler there, and give up what nobody needs.

    This process is looked into by nobody afterwards: its program and its libraries are the host's.
    """
    check(LIBC.unshare(NEWUSER | NEWNS), "unshare user namespace (sysctl user.max_user_namespaces)")
    os.write(ready, b"1")
    if os.read(mapped, 1) != b"1":
        raise OSError(0, "the user namespace got no ids")
    if register:
        mount("binfmt_misc", "/proc/sys/fs/binfmt_misc", "binfmt_misc")
        with open("/proc/sys/fs/binfmt_misc/register", "w") as handler:
            handler.write(register)
    setting = os.open("max_user_namespaces", os.O_WRONLY, dir_fd=limits)
    os.write(setting, b"0")
    os.close(setting)
    os.close(limits)
    check(LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
    LIBC.syscall(KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, None)  # a kernel without keys has none to hide
    number = 0
    while number in KEPT or LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1


def run_init(spec: dict, ready: int, mapped: int) -> int:  # type: ignore[type-arg]
    """Be process 1 of the namespace: set it up, start the program, reap until it ends."""
    os.umask(0o022)
    os.setsid()  # without the caller's terminal
    check(LIBC.unshare(NEWNS), "unshare")
    LIBC.sethostname(b"localhost", 9)
    if not spec["network"]:
        loopback_up()
    limits = enter(spec["root"], spec["binds"], spec["native"])
    os.open("/proc/self/ns/mnt", os.O_RDONLY)  # kept: accounting ends with the mount that its file is on
    isolate(limits, spec["register"], ready, mapped)
    program = os.fork()
    if program == 0:
        start(spec["argv"], spec["env"])
    while True:
        ended, status = os.wait()
        if ended == program:
            if status != 0 and spec["register"]:
                for crashed in crashed_programs():
                    sys.stderr.write(f"pibuild: qemu-user crashed in {crashed}\n")
                sys.stderr.flush()
            return exit_code(status)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.stderr.write(f"pibuild: {error}\n")
        sys.exit(125)
