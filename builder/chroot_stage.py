"""The process between pibuild and a program inside a root. Started as a script of its own with a JSON argument.

It gives the program namespaces, /proc, /dev, /run and /tmp, registers the handler for arm64 programs in a user
namespace (binfmt_misc belongs to the user namespace since Linux 6.7: the registration ends with it), enters the root
and runs the program. When the program ends, everything it started ends too. It imports nothing but the standard
library, and little: it starts with every program that is run in a root.
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
PR_SET_PDEATHSIG = 1
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
CRASHES = (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)
ALL_IDS = "0 0 4294967295"

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


def prepare(root: str, binds: list[list[str]]) -> None:
    """Mount what a program expects in its root; all of it is gone with the namespace."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=1m")
    for name in DEVICES:
        with open(f"{root}/dev/{name}", "w"):
            pass
        mount(f"/dev/{name}", f"{root}/dev/{name}", flags=MS_BIND)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(target, f"{root}/dev/{name}")
    os.mkdir(f"{root}/dev/pts")
    os.mkdir(f"{root}/dev/shm")  # noqa: S108 - the root's own
    mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=666,mode=620,gid=5")
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")  # noqa: S108 - a mount of the root's own
    mount("tmpfs", f"{root}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")  # noqa: S108 - a mount of the root's own
    os.makedirs(f"{root}/run/lock", mode=0o1777)
    for source, target, mode in binds:
        place = root + target
        if os.path.isdir(source):
            os.makedirs(place, exist_ok=True)
        elif not os.path.exists(place):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, "w"):
                pass
        mount(source, place, flags=MS_BIND)
        if mode == "ro":
            mount(source, place, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def link_native(root: str, programs: dict[str, int]) -> None:
    """Let the launcher find the native builds that may stand in: links below /run/pibuild/native.

    Each carries the modification time (ns) of the file it stands in for, 0 where that is not there yet.
    """
    for path, modified in programs.items():
        place = f"{root}/run/pibuild/native{path}"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.symlink(f"/run/pibuild/tools{path}", place)
        os.utime(place, ns=(modified, modified), follow_symlinks=False)


def watch_exits(root: str) -> None:
    """Have the kernel write down how every process of this namespace ends (acct(2)), where it can."""
    for name in ("exits", "emulated"):
        with open(f"{root}/run/pibuild/{name}", "w"):
            pass
    os.chmod(f"{root}/run/pibuild/emulated", 0o666)  # noqa: S103 - programs of any user start others
    LIBC.acct(os.fsencode(f"{root}/run/pibuild/exits"))  # without it a crash is reported without a name


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
    check(LIBC.unshare(NEWNS | NEWPID | NEWIPC | NEWUTS | (0 if spec["network"] else NEWNET)), "unshare")
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
    if os.read(ready_read, 1) and spec["register"]:
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{init}/{kind}", "w") as mapping:
                mapping.write(ALL_IDS)
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


def run_init(spec: dict, ready: int, mapped: int) -> int:  # type: ignore[type-arg]
    """Be process 1 of the namespace: set it up, start the program, reap until it ends."""
    root = spec["root"]
    prepare(root, spec["binds"])
    link_native(root, spec["native"])
    LIBC.sethostname(b"localhost", 9)
    if not spec["network"]:
        loopback_up()
    if spec["register"]:
        os.makedirs(f"{root}/run/pibuild", exist_ok=True)
        watch_exits(root)
        check(LIBC.unshare(NEWUSER | NEWNS), "unshare user namespace")
    os.write(ready, b"1")
    if spec["register"]:
        if os.read(mapped, 1) != b"1":
            return 125
        place = f"{root}/proc/sys/fs/binfmt_misc"
        mount("binfmt_misc", place, "binfmt_misc")
        with open(f"{place}/register", "w") as handler:
            handler.write(spec["register"])
    os.chroot(root)
    os.chdir("/")
    os.umask(0o022)
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
