"""`python -m tests.fuzz --number 100000`: damaged inputs for every target, and a table of what became of them."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.fuzz.engine import Crash, Result, Target, fuzz
from tests.fuzz.targets import TARGETS

CRASHES = Path(__file__).parent.parent / "crashes"


def shares(targets: list[Target], number: int) -> dict[str, int]:
    """Return how many inputs each target gets, by weight; `number` in all, at least one each."""
    whole = sum(target.weight for target in targets)
    return {target.name: max(1, round(number * target.weight / whole)) for target in targets}


def keep(crash: Crash) -> Path:
    """Write a failing input where the tests find it, and return its path."""
    path = CRASHES / crash.target / hashlib.sha256(crash.data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(crash.data)
    return path


def run_all(targets: list[Target], number: int, seed: int) -> list[Result]:
    """Fuzz targets side by side, one process each and as many at once as there are processors."""
    parts = shares(targets, number)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        running = [threads.submit(fuzz, target, parts[target.name], seed) for target in targets]
        results = []
        for future in as_completed(running):
            result = future.result()
            print(line_of(result), flush=True)
            results.append(result)
    return results


def line_of(result: Result) -> str:
    """Return a target's line of the table."""
    fate = f"{result.crash.kind.upper()}" if result.crash else "ok"
    figures = f"{result.inputs:8d} inputs {result.seconds:7.2f} s at most {result.memory >> 20:5d} MiB"
    return f"{result.target:24} {figures}  {fate}"


def main() -> int:
    """Return 1 when an input was not survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--number", type=int, default=10000, help="inputs in all (10000)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random numbers; now, if not given")
    parser.add_argument("--only", action="append", default=[], metavar="TARGET", help="this target; more than once")
    options = parser.parse_args()
    known = {target.name: target for target in TARGETS}
    if unknown := set(options.only) - known.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = [known[name] for name in options.only] or list(TARGETS)
    begun = time.monotonic()
    print(f"{options.number} inputs for {len(chosen)} targets, --seed {options.seed}")
    results = run_all(chosen, options.number, options.seed)
    crashes = [result.crash for result in results if result.crash]
    inputs, seconds = sum(result.inputs for result in results), time.monotonic() - begun
    print(f"{inputs} inputs in {seconds:.0f} s: {len(crashes)} not survived")
    for crash in crashes:
        print(f"\n{crash.target}: {crash.kind}, kept as {keep(crash)}\n{crash.told}")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
