"""Directories for work in progress: each is locked by the process that fills it, and gone when that is done.

What a killed process left has a free lock: whoever makes a new directory beside it sweeps it. Names by process id would
not do, as every build is process 1 of its namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from builder.errors import HostError
from builder.host.locks import locked

_FORCE_WRITABLE = 0o700


@contextlib.contextmanager
def temporary(prefix: str) -> Iterator[Path]:
    """Give a new private directory on disk ($TMPDIR, else /var/tmp), and sweep what killed commands left there."""
    home = Path(os.environ.get("TMPDIR") or "/var/tmp").absolute() / f"pibuild-{os.geteuid()}"  # noqa: S108 - 0700
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
    status = home.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        hint = f"sudo rm -r {home}, or name another directory in TMPDIR"
        raise HostError(f"{home} is not a directory of your own with mode 0700", hint=hint)
    sweep(home)
    with work_in(home, prefix=f"{prefix}-") as path:
        yield path


@contextlib.contextmanager
def work_in(home: Path, *, prefix: str = "", suffix: str = "") -> Iterator[Path]:
    """Give a new directory in `home`, locked while the block runs and gone after it."""
    with contextlib.ExitStack() as stack:
        path = _begin(home, prefix, suffix, stack)
        stack.callback(remove_tree, path)
        yield path


def _begin(home: Path, prefix: str, suffix: str, stack: contextlib.ExitStack) -> Path:
    """Make a directory and lock it; another process may sweep it between the two, then make another."""
    while True:
        path = home / f"{prefix}{secrets.token_hex(6)}{suffix}"
        path.mkdir(parents=True)
        with contextlib.suppress(FileNotFoundError):
            stack.enter_context(locked(path, busy=f"{path} is being swept"))
            if path.exists():
                return path


def sweep(home: Path, pattern: str = "*") -> None:
    """Remove work in progress whose process is gone: its lock is free."""
    for path in home.glob(pattern):
        # a lock that is held, or a directory that its own process has just removed: not ours to sweep
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _free(path):
            remove_tree(path)


@contextlib.contextmanager
def _free(path: Path) -> Iterator[None]:
    """Hold the lock of work in progress while the block runs. Raises BlockingIOError where its process lives."""
    if path.is_symlink():
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a directory tree, read-only or mode-less directories (overlay work directories) included; or a file."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        path.chmod(_FORCE_WRITABLE)
    for directory, names, _ in os.walk(path):
        for name in names:
            sub = os.path.join(directory, name)  # noqa: PTH118 - os.walk gives strings, and there are many
            if not os.path.islink(sub) and not os.access(sub, os.W_OK | os.X_OK, effective_ids=True):  # noqa: PTH114
                os.chmod(sub, _FORCE_WRITABLE)  # noqa: PTH101
    shutil.rmtree(path)
