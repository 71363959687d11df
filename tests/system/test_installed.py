"""pibuild installed, away from any checkout: the wheel in a virtual environment, the package in a clean Debian 13."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.host.cache import Cache, commit
from builder.inventory.load import load_inventory
from builder.packages.mirrors import candidate_sources, find_keyring
from builder.run import Completed, run
from tests.system.conftest import Small
from tests.system.engine import made
from tests.system.lab import pibuild as from_checkout
from tests.system.test_explode import Lab

pytestmark = [pytest.mark.root, pytest.mark.network]

PROJECT = Path(__file__).parents[2]
EMULATOR = "qemu-user-static"  # recommended by the package: builds on other machines than arm64 need it
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEC76vwyuzSP4PBYfiJQhEGHT431KPAaQpWXTDvAa4DA me\n"
LAYER = """\
layers:
  - name: installed
    steps:
      - run: {script: 'uname -m >/srv/machine-of-NAME'}
"""
# A machine of its own as far as a build can tell: namespaces cannot be made in a chroot, so the root is a mount's.
ENTER = r"""
set -e
lower=$1 upper=$2 at=$3; shift 3
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper/upper,workdir=$upper/work" "$upper/root"
for bind in "$at" "$PIBUILD_TEST_CACHE"; do mkdir -p "$upper/root$bind"; mount --rbind "$bind" "$upper/root$bind"; done
for bind in /dev /sys; do mount --rbind "$bind" "$upper/root$bind"; done
mount -t proc proc "$upper/root/proc"
cd "$upper/root"
mkdir -p .outside
pivot_root . .outside
umount -l /.outside
cd "$at"
exec "$@"
"""

Pibuild = Callable[..., Completed]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` makes of /usr/local: the wheel in an environment of its own, manual pages, completion."""
    at = tmp_path_factory.mktemp("local")
    status = ["git", "-c", "safe.directory=*", "status", "--porcelain", "--ignored"]
    before = run(status, cwd=PROJECT).stdout
    run([PROJECT / "packaging/install", sys.executable, at])
    assert run(status, cwd=PROJECT).stdout == before, "an install leaves something in the checkout"
    return at


@pytest.fixture(scope="module")
def wheel(prefix: Path) -> Pibuild:
    """The command of the wheel."""

    def pibuild(*words: str | Path, cwd: Path, cache: Path, check: bool = True) -> Completed:
        return run([prefix / "bin/pibuild", *words], cwd=cwd, env={"PIBUILD_CACHE": str(cache)}, check=check)

    return pibuild


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of this checkout, as `make deb` builds it."""
    return Path(run([PROJECT / "packaging/deb", tmp_path_factory.mktemp("package")]).stdout.strip())


@pytest.fixture(scope="module")
def trixie(package: Path) -> Path:
    """A Debian 13 with what the package depends on and nothing else; made once for a list of packages."""
    fields = run(["dpkg-deb", "--field", package, "Depends"]).stdout
    wanted = ",".join(sorted({*re.findall(r"(?:^|, )([a-z0-9.+-]+)", fields), EMULATOR}))
    cache = Cache.default()
    with cache.room():
        cache.prepare()
        final = cache.root / "test-programs" / f"trixie_{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
        if not final.is_dir():
            with cache.scratch("trixie") as work:
                options = ["--variant=apt", f"--include={wanted}", "--aptopt=Acquire::Retries 5"]
                run(["mmdebstrap", *options, "trixie", work / "root", *sources()], input=b"")
                final.parent.mkdir(exist_ok=True)
                commit(work / "root", final)
    return final


def sources() -> Iterator[str]:
    """Yield the sources of Debian 13 that builds use on this machine, one line each."""
    keyring, cache = find_keyring("debian"), Cache.default()
    for source in next(candidate_sources("debian", "trixie", ("main",), mirror="auto", keyring=keyring, cache=cache)):
        for suite in source.suites:
            yield f"deb [signed-by={source.keyring}] {source.uris} {suite} {' '.join(source.components)}"


@pytest.fixture(scope="module")
def debian(package: Path, trixie: Path, tmp_path_factory: pytest.TempPathFactory) -> Pibuild:
    """The command of the package, in a Debian 13 that has what the package depends on."""
    upper, common = tmp_path_factory.mktemp("debian"), tmp_path_factory.getbasetemp()
    for name in ("upper", "work", "root"):
        (upper / name).mkdir()

    def inside(*words: str | Path, cwd: Path, cache: Path, check: bool = True) -> Completed:
        entered = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "sh", "-c", ENTER, "sh"]
        env = {"PIBUILD_CACHE": str(cache), "PIBUILD_TEST_CACHE": str(Cache.default().root)}
        shell: list[str | Path] = ["sh", "-c", 'cd "$1"; shift; exec "$@"', "sh", cwd]
        return run([*entered, trixie, upper, common, *shell, *words], env=env, check=check)

    run(["true"])
    here = package.parent
    installed = inside("dpkg", "--install", package, cwd=here, cache=here)
    assert "Setting up pibuild" in installed.stdout

    def pibuild(*words: str | Path, cwd: Path, cache: Path, check: bool = True) -> Completed:
        return inside("pibuild", *words, cwd=cwd, cache=cache, check=check)

    return pibuild


def planned(done: Completed) -> dict[str, Any]:
    """Return a plan without what depends on the cache: another test may build or collect meanwhile."""
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan | {"layers": [{**layer, "cached": None, "changed": None} for layer in plan["layers"]]}


def works_away_from_a_checkout(pibuild: Pibuild, at: Path, small: Small) -> None:
    """What a person does first, in an empty directory."""
    shared = Cache.default().root
    ours = planned(from_checkout("plan", "golden", "--json"))
    assert planned(pibuild("plan", "golden", "--json", cwd=at, cache=shared)) == ours  # keys and all

    (at / "key.pub").write_text(KEY)
    pibuild("init", "rack", "--key", "key.pub", cwd=at, cache=shared)
    own = planned(pibuild("plan", "node.yaml", "--json", cwd=at / "rack", cache=shared))
    assert [layer["name"] for layer in own["layers"]] == [layer["name"] for layer in ours["layers"]]
    assert "nfs.conf" in pibuild("services", "render", "--role", "login", cwd=at / "rack", cache=shared).stdout

    recipe = at / "own.yaml"
    recipe.write_text(f"name: own\nextends: ['{small.engine.recipe}']\n{LAYER.replace('NAME', at.name)}")
    done = pibuild("build", "own.yaml", "--offline", "--json", cwd=at, cache=small.engine.cache)
    assert "warning: nobody can log in to this image" in done.stderr
    built = json.loads(done.stdout)
    assert made(built)[0] == "installed"
    assert (at / "output/own/latest/own.img").is_file()

    (at / "cluster.yaml").write_bytes((PROJECT / "cluster.yaml").read_bytes())
    lab = Lab(load_inventory(at / "cluster.yaml"), at / "netboot")
    words = ("explode", "--node", "yellow3", "--image", lab.image("a"), "--dest", lab.dest)
    dry = json.loads(pibuild(*words, "-n", "--json", cwd=at, cache=shared).stdout)
    assert [row["action"] for row in dry] == ["make"]
    pibuild(*words, cwd=at, cache=shared)
    lab.check("yellow3", "a")
    wants = lab.root("yellow3") / "etc/systemd/system/multi-user.target.wants/pibuild-node.service"
    assert str(wants.readlink()) == "../pibuild-node.service"

    pibuild("services", "render", "-o", "rendered", cwd=at, cache=shared)
    expected = from_checkout("services", "render", "--json", "--cluster", at / "cluster.yaml").stdout
    rendered = pibuild("services", "render", "--json", cwd=at, cache=shared).stdout
    assert rendered.replace(str(at), "") == expected.replace(str(at), "")
    assert (at / "rendered/etc/exports").is_file() or list((at / "rendered/etc").iterdir())


def test_the_wheel_is_whole(wheel: Pibuild, small: Small, tmp_path: Path) -> None:
    works_away_from_a_checkout(wheel, tmp_path, small)


def test_an_install_is_taken_away_whole(wheel: Pibuild, prefix: Path, tmp_path: Path) -> None:
    assert wheel("--version", cwd=tmp_path, cache=tmp_path).stdout.startswith("pibuild ")
    assert ".SH EXAMPLE" in (prefix / "share/man/man1/pibuild-build.1").read_text()
    assert "_PIBUILD_COMPLETE" in (prefix / "share/bash-completion/completions/pibuild").read_text()
    (prefix / "share/man/man1/other.1").touch()
    run([PROJECT / "packaging/install", "--remove", prefix])
    assert [path.name for path in prefix.rglob("*") if not path.is_dir()] == ["other.1"]
    (prefix / "bin/pibuild").write_text("somebody else's")
    refused = run([PROJECT / "packaging/install", sys.executable, prefix], check=False)
    assert (refused.returncode, (prefix / "bin/pibuild").read_text()) == (3, "somebody else's")


def test_the_package_is_whole_on_a_clean_debian_13(debian: Pibuild, small: Small, tmp_path: Path) -> None:
    works_away_from_a_checkout(debian, tmp_path, small)
