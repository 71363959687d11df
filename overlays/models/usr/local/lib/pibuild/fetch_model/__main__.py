"""Bring the models this node is to have (/etc/pibuild/models.json), and of them only what it lacks.

A model lies in /var/lib/models/NAME/VERSION/, written once and never changed, so that a program may keep it mapped;
`current` points to the version in use, pointer.json says which that is, and the version before it stays to go back to.

A new version is put together in .incoming-VERSION/, front to back: a chunk that a version on the disk has comes from
there, any other from the store. Every chunk is compared with its sha256 before the next is begun, and the file with its
own at the end. So the file as far as it is there is all that a run leaves for the next: that one reads it again, and
goes on in the middle of a chunk. Needs Python's standard library, and ssh-keygen for signatures.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from failures import FailedError, say
from figures import Figures
from manifest import NAME
from model import Model
from store import Store
from version import Fetch, Terms

GRACE = 600  # seconds after the staging window in which what its end started may still begin


def in_window(window: Mapping[str, Any], now: datetime) -> bool:
    """Whether a time of day is in the staging window: `start` HH:MM, `length` in seconds."""
    hour, minute = map(int, str(window["start"]).split(":"))
    since = ((now.hour - hour) * 3600 + (now.minute - minute) * 60 + now.second) % 86400
    return bool(since < int(window["length"]) + GRACE)


def waits_for(window: Mapping[str, Any], boot_delay: int, *, first: bool) -> str:
    """Return what a scheduled run has to wait for, "" when nothing.

    The `first` version of a model does not wait for the window, but for the seconds after a start that are the node's
    own: whoever starts us, nodes that got power together do not ask together.
    """
    if not first and not in_window(window, datetime.now()):  # noqa: DTZ005 - the node's own time of day
        return f"the staging window, {window['start']}"
    if first and time.clock_gettime(time.CLOCK_BOOTTIME) < boot_delay:
        return f"its moment, {boot_delay} s after the start of the node"
    return ""


def read_settings(path: Path, token: Path) -> dict[str, Any]:
    """Return the settings, and the store's `token` in them. Raises FailedError for what pibuild did not render."""
    try:
        settings: dict[str, Any] = json.loads(path.read_bytes())
        settings["token"] = token.read_text().strip() if token.is_file() else ""
        names = [*settings["models"], *settings["models"].values()]
        in_window(settings["window"], datetime.now())  # noqa: DTZ005 - the node's own time of day
        urls = isinstance(settings["store"], str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FailedError(f"{path}: {error!r}") from None
    if not urls or not all(NAME.fullmatch(name) for name in names):
        raise FailedError(f"{path}: a name that cannot be one")
    return settings


def bring(model: Model, version: str, options: argparse.Namespace, settings: Mapping[str, Any]) -> dict[str, int]:
    """Bring one version and switch to it; say why when that failed. Returns the figures of the run."""
    limit = int(settings.get("limit", 0))
    store = Store(
        settings["store"], token=settings["token"], limit=limit, pause=options.pause, patience=options.patience
    )
    signers = options.signers if settings.get("signed", True) else None
    fetch = Fetch(model, version, store, Terms(signers, options.reserve))
    before, failed = model.current(), 1
    try:
        fetch.run()
        model.switch(version, settings["store"])
        model.tidy(version, before)
        failed = 0
    except FailedError as failure:
        say(str(failure))
    except OSError as error:
        say(f"{error.filename or model.home}: {error.strerror}")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # others need the disk as well
            shutil.rmtree(fetch.work, ignore_errors=True)
    finally:
        store.close()
    ended = "failed" if failed else "in use"
    say(f"{model.name} {version}: {ended}, {store.received} bytes fetched, {fetch.reused} reused")
    return {
        "fetched_bytes_total": store.received,
        "reused_bytes_total": fetch.reused,
        "spoilt_chunks_total": fetch.spoilt,
        "failures_total": failed,
        "last_run_timestamp_seconds": int(time.time()),
    }


def update(options: argparse.Namespace, settings: Mapping[str, Any], figures: Figures) -> bool:
    """Bring every model that is wanted and not here. Returns whether none failed."""
    good = True
    for name, version in settings["models"].items():
        model = Model(options.home, name)
        delay = int(settings.get("boot_delay", 0))
        wait = waits_for(settings["window"], delay, first=not model.current()) if options.scheduled else ""
        if model.has(version):
            if model.switch(version, settings["store"]):
                say(f"{name} {version}: was here, in use again")
            model.tidy(version, model.previous())
        elif wait:
            say(f"{name} {version}: waits for {wait}")
            continue
        else:
            counted = bring(model, version, options, settings)
            figures.add(name, **counted)
            if counted["failures_total"]:
                good = False
                continue
        figures.add(name, last_success_timestamp_seconds=int(time.time()))
    return good


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="pibuild-fetch-model", description="Bring the models this node is to have.")
    etc = Path("/etc/pibuild")
    parser.add_argument("--config", type=Path, default=etc / "models.json", metavar="FILE")
    parser.add_argument("--signers", type=Path, default=etc / "models.signers", metavar="FILE")
    parser.add_argument("--token", type=Path, default=etc / "models.token", metavar="FILE", help="sent to the store")
    parser.add_argument("--home", type=Path, default=Path("/var/lib/models"), metavar="DIR")
    parser.add_argument("--textfile", type=Path, default=Path("/run/node-textfile/models.prom"), metavar="FILE")
    parser.add_argument("--scheduled", action="store_true", help="wait for the node's time: do nothing before it")
    parser.add_argument("--reserve", type=int, default=256 << 20, metavar="BYTES", help="of the disk that stay free")
    parser.add_argument("--patience", type=float, default=60.0, metavar="SECONDS", help="that an answer may take")
    parser.add_argument("--pause", type=float, default=1.0, metavar="SECONDS", help="before the second attempt")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when every model is as it should be, or waits for its time; 1 when one failed."""
    options = read_options(arguments)
    try:
        settings = read_settings(options.config, options.token)
    except FailedError as failure:
        say(str(failure))
        return 1
    options.home.mkdir(parents=True, exist_ok=True)
    with (options.home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run is waited for
        figures = Figures(options.home, settings["models"], options.textfile)
        figures.write()
        try:
            return 0 if update(options, settings, figures) else 1
        finally:
            figures.write()


if __name__ == "__main__":
    sys.exit(main())
