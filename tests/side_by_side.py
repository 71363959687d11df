"""`python -m tests.side_by_side [OPTIONS]`: what boots machines, what mostly waits, and the rest, in runs at once.

Each run of pytest has network namespaces, a /run/pibuild and a directory for temporary files of its own, so that none
takes another's traces for its own. What the others printed follows when the first has ended.
"""

from __future__ import annotations

import os
import re
import subprocess  # noqa: TID251 - two runs of pytest, and nothing of pibuild's
import sys
import tempfile
import time
from pathlib import Path

from tests.machine import BESIDE

_NOTHING_RUN = 5  # pytest's exit code for no test selected
# iproute2 names network namespaces by mounts below /run/netns
_ALONE = """
for at in /run/netns /run/pibuild; do mkdir -p "$at"; mount -t tmpfs tmpfs "$at"; done
exec "$@"
"""
# by the name of its directory: what it is, and the marker expression that selects it; the first prints as it goes
_RUNS = {
    "others": ("what neither boots nor waits", "not boot and not waits"),
    "machines": ("what boots machines", "boot and not apart"),
    "waiting": ("what waits, and what boots machines of its own", "apart or (waits and not boot)"),
}
_COUNTED = re.compile(r"(\d+) (passed|failed|skipped|errors?)")


def _start(selected: str, options: list[str], scratch: Path, log: Path | None) -> subprocess.Popen[bytes]:
    """Start pytest on the tests that a marker expression selects, in a mount namespace of its own where we are root."""
    scratch.mkdir()
    command = [sys.executable, "-m", "pytest", "-m", selected, *options]
    if os.geteuid() == 0:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ALONE, "sh", *command]
    environment = {**os.environ, "TMPDIR": str(scratch), BESIDE: "1"}
    output = log.open("wb") if log else None
    return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT if log else None)


def _summary(text: str) -> str:
    """Return pytest's last line."""
    return next((line for line in reversed(text.splitlines()) if _COUNTED.search(line)), "no test was run")


def main(options: list[str]) -> int:
    """Run all, print what they print, and return the worst exit code."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pibuild-tests-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)  # some tests give up root, and go on in it
        logs = {name: Path(directory) / f"{name}.log" for name in list(_RUNS)[1:]}
        runs = [
            _start(selected, options, Path(directory) / name, logs.get(name)) for name, (_, selected) in _RUNS.items()
        ]
        try:
            codes = [run.wait() for run in runs]
        finally:
            for run in runs:
                run.terminate()
        texts = {_RUNS[name][0]: log.read_text(errors="replace") for name, log in logs.items()}
    for title, text in texts.items():
        print(f"\n== {title}\n{text}")
    print(f"== side by side: {time.monotonic() - begun:.0f} s")
    for title, text in texts.items():
        print(f"{title}: {_summary(text)}")
    worst = [code for code in codes if code != _NOTHING_RUN]
    return max((abs(code) for code in worst), default=_NOTHING_RUN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
