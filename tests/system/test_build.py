"""The build engine as a person meets it: the real command, a real Debian, real images."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.console import note
from builder.host.hashing import file_digest
from builder.image.filesystem import Entry, FileSystem
from builder.image.open import open_image
from builder.run import run
from tests import web
from tests.system.conftest import Small
from tests.system.engine import Engine, made

pytestmark = [pytest.mark.root, pytest.mark.network]

LAYERS = ["base", "packages", "traits", "seen", "last", "finish"]
_ABSENT = "0" * 64


# ------------------------------------------------------------------------------------------------ what is published


def test_everything_is_published(small: Small) -> None:
    home = small.engine.output / "small"
    latest = home / "latest"
    assert latest.resolve() == home / small.digest[:12]
    assert {path.name for path in latest.iterdir()} == {
        "small.img",
        "small.img.zst",
        "small.img.bmap",
        "small.spdx.json",
        "lock.yaml",
        "manifest.json",
        "SHA256SUMS",
    }
    run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=latest)
    assert file_digest(latest / "small.img") == small.digest
    assert made(small.report) == LAYERS
    assert not small.engine.scraps


def test_packed_and_mapped_copies_are_the_image(small: Small, tmp_path: Path) -> None:
    latest = small.engine.output / "small/latest"
    run(["zstd", "-dq", latest / "small.img.zst", "-o", tmp_path / "unpacked"])
    assert file_digest(tmp_path / "unpacked") == small.digest
    run(["bmaptool", "copy", "--bmap", latest / "small.img.bmap", latest / "small.img.zst", tmp_path / "flashed"])
    assert file_digest(tmp_path / "flashed") == small.digest


# ------------------------------------------------------------------------------------------------- what is built again


def test_the_same_again_builds_nothing(small: Small) -> None:
    before = _stamps(small.engine)
    report = small.engine.build()  # asks the archive, as people do
    assert made(report) == []
    assert report["published"]["reused"]
    assert report["published"]["digest"] == small.digest
    assert _stamps(small.engine) == before
    note(f"\nnothing to do: {report['seconds']:.1f} s, offline {small.engine.build('--offline')['seconds']:.1f} s")


def _stamps(engine: Engine) -> dict[str, int]:
    """Return when every layer's tree was made and every published file was written; use moves a layer's own time."""
    paths = [*engine.cache.glob("layers/*/*"), *engine.output.glob("small/*/*")]
    return {str(path): path.stat().st_ctime_ns for path in paths}


def test_a_changed_file_makes_its_layer_and_those_above(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    engine.recipe.with_name("greeting").write_text("good morning\n")
    report = engine.build("--offline")
    assert made(report) == ["last", "finish"]
    assert not report["published"]["reused"]
    assert report["published"]["digest"] != small.digest
    with open_image(engine.output / "small/latest") as image:
        assert image.root.read("/etc/greeting") == b"good morning\n"
    engine.recipe.with_name("greeting").write_text("hello\n")
    assert engine.build("--offline")["published"]["digest"] == small.digest


def test_another_cache_and_another_place_give_the_same_image(small: Small, tmp_path: Path) -> None:
    engine = small.engine.cold(tmp_path / "some" / "where else")
    lock = small.engine.output / "small/latest/lock.yaml"
    report = engine.build("--lock", lock, "--offline")
    assert made(report) == LAYERS
    assert report["published"]["digest"] == small.digest
    assert set(engine.layers) == set(small.engine.layers) & set(engine.layers)
    for name in ("small.img.zst", "small.img.bmap", "small.spdx.json", "lock.yaml", "manifest.json", "SHA256SUMS"):
        here, there = (each.output / "small/latest" / name for each in (engine, small.engine))
        assert file_digest(here) == file_digest(there), name


def test_two_builds_at_once(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    engine.recipe.with_name("greeting").write_text("twice\n")
    twice = f'{{ "$@" & "$@"; code=$?; wait $! && exit $code; }} >{tmp_path}/said 2>&1'
    done = run(["sh", "-c", twice, "sh", *engine.argv("--offline")], env=engine.env, check=False)
    assert done.returncode == 0, (tmp_path / "said").read_text()
    assert not engine.scraps
    run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=engine.output / "small/latest")


# ------------------------------------------------------------------------------------ what programs see, what survives


def _lines(files: FileSystem, path: str) -> list[str]:
    return files.read(path).decode().splitlines()


def test_what_a_run_step_sees(small: Small) -> None:
    with open_image(small.engine.output / "small/latest") as image:
        root = image.root
        assert _lines(root, "/srv/seen/machine") == ["aarch64"]
        assert _lines(root, "/srv/seen/architecture") == ["arm64"]
        assert _lines(root, "/srv/seen/library") == ["aarch64-linux-gnu-thread-multi 2"]
        assert _lines(root, "/srv/seen/hello") == ["Hello, world!"]
        assert _lines(root, "/srv/seen/devices") == ["lo"]
        host = [line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
        assert _lines(root, "/srv/seen/devices-with-network") == host
        assert root.read("/srv/seen/resolver") == Path("/etc/resolv.conf").read_bytes()
        assert _lines(root, "/srv/seen/user") == ["0"]
        environment = dict(line.split("=", 1) for line in _lines(root, "/srv/seen/environment"))
        assert "PIBUILD_CACHE" not in environment
        assert environment["SOURCE_DATE_EPOCH"].isdigit()
        assert not _exists(root, "/srv/started")


def _exists(files: FileSystem, path: str) -> bool:
    try:
        files.stat(path, follow=False)
    except FileNotFoundError:
        return False
    return True


def test_the_image_is_one_that_nobody_booted(small: Small) -> None:
    with open_image(small.engine.output / "small/latest") as image:
        root = image.root
        assert root.read("/etc/machine-id") == b""
        assert not _exists(root, "/etc/resolv.conf")
        for empty in ("/var/lib/apt/lists", "/var/cache/apt", "/run", "/tmp", "/proc", "/sys", "/dev", "/var/tmp"):
            assert not root.children(root.stat(empty)), empty
        entries = {entry.path: entry for entry in root.walk()}
        assert [p for p, e in entries.items() if p.startswith("/var/log/") and e.kind == "file" and e.size] == []
        foreign = [
            path
            for path in entries
            if path == "/usr/sbin/policy-rc.d" or any(word in path for word in ("pibuild", "qemu", "x86_64", "x86-64"))
        ]
        assert foreign == []
        newest = max(entry.mtime for entry in entries.values())
        assert newest <= json.loads((small.engine.output / "small/latest/manifest.json").read_text())["epoch"]
        assert _foreign_programs(root, entries) == []


def _foreign_programs(root: FileSystem, entries: Mapping[str, Entry]) -> list[str]:
    """Return the ELF files of another machine than AArch64 (e_machine 183, at byte 18)."""
    found = []
    for path, entry in entries.items():
        if entry.kind == "file" and entry.size > 64:
            head = next(iter(root.chunks(entry)))[:20]
            if head[:4] == b"\x7fELF" and struct.unpack_from("<H", head, 18)[0] != 183:
                found.append(path)
    return found


def test_what_is_easily_lost_survives_into_the_image(small: Small) -> None:
    with open_image(small.engine.output / "small/latest") as image:
        assert image.boot is not None
        assert image.boot.read("/config.txt").startswith(b"arm_64bit=1\n")
        root = image.root
        kept = {name: root.stat(f"/srv/kept/{name}", follow=False) for name in ("note", "link", "pipe", "capable")}
        directory = root.stat("/srv/kept")
        assert (directory.mode, directory.uid, directory.gid) == (0o2770, 1234, 4)
        assert (kept["note"].mode, kept["note"].uid, kept["note"].gid) == (0o4640, 1234, 1234)
        assert root.stat("/srv/kept/linked").inode == kept["note"].inode
        assert kept["note"].links == 2
        assert root.xattrs(kept["note"]) == {"user.colour": b"blue"}
        assert (kept["link"].kind, kept["link"].target) == ("symlink", "note")
        assert (kept["pipe"].kind, kept["pipe"].mode) == ("fifo", 0o600)
        # capability(7): revision 2, effective; CAP_NET_RAW is number 13
        assert root.xattrs(kept["capable"]) == {
            "security.capability": struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0),
        }
        assert root.read("/etc/shadow").decode().count("\nkeeper:!:") == 1


# ------------------------------------------------------------------------------------------------------ what goes wrong

BROKEN = """\
layers:
  - name: before
    steps:
      - run: {script: 'echo before >/srv/before'}
  - name: broken
    steps:
      - files:
          - {path: /srv/half, content: 'half'}
      - run:
          script: |
            echo the last words
            test -e /nowhere
            echo never said
"""


def test_a_failing_step_says_all_and_leaves_nothing(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    before = set(engine.layers)
    recipe = engine.write("broken.yaml", BROKEN)
    done = engine.run("--offline", recipe=recipe)
    assert done.returncode == 4
    assert f"{recipe}:11:9: step run: /bin/sh -eu script: exit code 1" in done.stderr
    assert "the command that failed: test -e /nowhere" in done.stderr
    assert "the last words" in done.stderr
    assert "never said" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not engine.scraps
    assert not engine.output.exists()
    assert [engine.layers[key] for key in set(engine.layers) - before] == ["before"]
    recipe.write_text(recipe.read_text().replace("/nowhere", "/etc"))
    assert made(engine.build("--offline", recipe=recipe)) == ["broken", "finish"]


def test_a_program_that_is_not_there(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    recipe = engine.write("missing.yaml", "layers: [{name: x, steps: [{run: {argv: [no-such-program, word]}}]}]\n")
    done = engine.run("--offline", recipe=recipe)
    assert done.returncode == 4
    assert f"{recipe}:3:" in done.stderr
    assert "no-such-program word: exit code 127" in done.stderr
    assert "no-such-program: No such file or directory" in done.stderr


def test_a_wrong_recipe(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    recipe = engine.write("wrong.yaml", "layers: [{name: x, stepz: []}]\n")
    done = engine.run(recipe=recipe)
    assert done.returncode == 2
    assert f"{recipe}:3:" in done.stderr
    assert "Traceback" not in done.stderr
    assert engine.run(recipe=tmp_path / "none.yaml").returncode == 2


def test_without_root(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o055)
        if path.name.startswith("pytest-of-"):
            break
    done = run([*nobody, *engine.argv()], env=engine.env, check=False)
    assert done.returncode == 3, done.stderr
    assert "needs root" in done.stderr
    assert f"sudo pibuild build {engine.recipe}" in done.stderr
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------------------- ways to emulate


def test_full_emulation_makes_the_same_image(small: Small, tmp_path: Path) -> None:
    engine = small.engine.cold(tmp_path)
    report = engine.build("--emulation", "full", "--offline")
    assert report["emulation"] == "full"
    assert report["published"]["digest"] == small.digest


# ------------------------------------------------------------------------------------------------------------ artifacts

ARTIFACT = """\
layers:
  - name: extra
    steps:
      - download:
          url: "{url}"
          sha256: {sha256}
          path: /opt/extra
          optional: {optional}
"""


def _artifact(engine: Engine, server: web.Web, content: bytes, *, optional: bool) -> Path:
    sha256 = hashlib.sha256(content).hexdigest()
    text = ARTIFACT.format(url=server.url("/extra"), sha256=sha256, optional=str(optional).lower())
    return engine.write("artifact.yaml", text)


def test_an_optional_artifact_that_is_missing_is_told(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    with web.serve() as server:
        recipe = _artifact(engine, server, b"extra one", optional=True)
        strict = engine.run("--strict", recipe=recipe)
        assert strict.returncode == 5
        assert server.url("/extra") in strict.stderr
        done = engine.run(recipe=recipe)
        assert done.returncode == 0, done.stderr
        assert f"missing    {server.url('/extra')} (optional" in done.stdout
        manifest = json.loads((engine.output / "artifact/latest/manifest.json").read_text())
        assert manifest["build"]["missing_artifacts"] == [server.url("/extra")]

        placed = tmp_path / "placed"
        placed.mkdir()
        (placed / "under another name").write_bytes(b"extra one")
        report = engine.build("--artifacts", placed, "--strict", recipe=recipe)
    assert made(report) == ["extra", "finish"]
    assert report["missing"] == []
    with open_image(engine.output / "artifact/latest") as image:
        assert image.root.read("/opt/extra") == b"extra one"


def test_an_artifact_comes_from_its_server(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    with web.serve() as server:
        server.files["/extra"] = b"extra two"
        recipe = _artifact(engine, server, b"extra two", optional=False)
        engine.build(recipe=recipe)
        assert len(server.requests) == 1
    engine.build("--offline", recipe=recipe)  # from the cache: the server is gone
    with open_image(engine.output / "artifact/latest") as image:
        assert image.root.read("/opt/extra") == b"extra two"


@pytest.mark.parametrize("optional", [False, True])
def test_an_artifact_with_another_content_is_refused(small: Small, tmp_path: Path, *, optional: bool) -> None:
    engine = small.engine.beside(tmp_path)
    with web.serve() as server:
        server.files["/extra"] = b"something else"
        done = engine.run(recipe=_artifact(engine, server, b"extra three", optional=optional))
    assert done.returncode == 5
    assert hashlib.sha256(b"extra three").hexdigest() in done.stderr
    assert not engine.output.exists()
    assert not engine.scraps


# --------------------------------------------------------------------------------------------------------- a full disk

FULL = """
mkdir -p "$1" && mount -t tmpfs -o size=60m none "$1" && mkdir "$1/cache" || exit 99
for name in archives lists resolutions tools; do ln -s "$2/$name" "$1/cache/$name"; done
place=$1 said=$3; shift 3
"$@" >"$said.full" 2>&1
echo $? >"$said.code"
find "$place/cache/tmp" "$place/cache/layers" -mindepth 1 >"$said.left"
mount -o remount,size=1g "$place" && exec "$@"
"""


def test_a_full_disk_is_told_and_leaves_nothing(small: Small, tmp_path: Path) -> None:
    place, said = tmp_path / "disk", tmp_path / "said"
    engine = Engine(cache=place / "cache", recipe=small.engine.recipe, output=tmp_path / "output")
    script: list[str | Path] = ["unshare", "--mount", "sh", "-c", FULL, "sh", place, small.engine.cache, said]
    done = run([*script, *engine.argv("--offline", "--json")], env=engine.env, check=False)
    full = said.with_suffix(".full").read_text()
    assert said.with_suffix(".code").read_text() == "3\n", full
    assert f"the disk of {engine.cache} is full" in full
    assert "pibuild gc" in full
    assert "Traceback" not in full
    assert said.with_suffix(".left").read_text() == ""
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["published"]["digest"] == small.digest


# ------------------------------------------------------------------------------------------------------------- the lock


def test_a_lock_refuses_to_drift(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    shutil.copy(small.engine.output / "small/latest/lock.yaml", engine.recipe.with_name("small.lock.yaml"))
    assert engine.build("--locked", "--offline")["published"]["digest"] == small.digest
    engine.recipe.write_text(engine.recipe.read_text().replace("[hello, ", "[hello, less, "))
    done = engine.run("--locked", "--offline")
    assert done.returncode == 2
    assert "small.lock.yaml does not fit" in done.stderr
    assert "pibuild lock" in done.stderr


def test_a_lock_that_names_another_package_file_is_refused(small: Small, tmp_path: Path) -> None:
    engine = small.engine.cold(tmp_path)
    lock = tmp_path / "changed.yaml"
    text = (small.engine.output / "small/latest/lock.yaml").read_text()
    hello = next(line for line in text.splitlines() if "- hello " in line).split()
    lock.write_text(text.replace(hello[4], _ABSENT))
    # a cache of its own: what does not fit the lock is removed from it
    (engine.cache / "archives").unlink()
    shutil.copytree(small.engine.cache / "archives", engine.cache / "archives", copy_function=shutil.copy)
    done = engine.run("--lock", lock, "--offline")
    assert done.returncode == 5, done.stderr
    assert "hello_" in done.stderr
    assert "Traceback" not in done.stderr
    assert not engine.scraps
