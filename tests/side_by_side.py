"""`python -m tests.side_by_side [OPTIONS]`: what boots machines and what does not, in two runs of pytest at once.

Each run has network namespaces, a /run/pibuild and a directory for temporary files of its own, so that neither takes
the other's traces for its own. What the machines' run printed follows when the other has ended.
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
    """Run both, print what they print, and return the worse exit code."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pibuild-tests-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)  # some tests give up root, and go on in it
        log = Path(directory) / "machines.log"
        runs = [
            _start("not boot", options, Path(directory) / "others", None),
            _start("boot", options, Path(directory) / "machines", log),
        ]
        try:
            codes = [run.wait() for run in runs]
        finally:
            for run in runs:
                run.terminate()
        text = log.read_text(errors="replace")
    print(f"\n== what boots machines\n{text}\n== side by side: {time.monotonic() - begun:.0f} s; {_summary(text)}")
    worst = [code for code in codes if code != _NOTHING_RUN]
    return max((abs(code) for code in worst), default=_NOTHING_RUN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
