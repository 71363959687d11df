"""apt as pibuild asks it, with archives of the tests' own: which suite wins, and what counts as signed and current."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builder.build import archives, lock
from builder.errors import FetchError, StepError
from builder.host.cache import Cache
from builder.packages.apt import Apt, Request, _installed_stanza
from builder.recipe.load import load_recipe
from builder.run import run
from tests.archive import Archive
from tests.signing import signer
from tests.web import serve

PROJECT = Path(__file__).parents[2]
STABLE = {"base": ("1", ""), "kernel": ("6.12", "tools"), "tools": ("6.12", ""), "extra": ("1", "")}
BACKPORTS = {"kernel": ("6.18~bpo", "tools (>= 6.18~)"), "tools": ("6.18~bpo", ""), "extra": ("2~bpo", "")}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with signer("archive") as key:
        yield Archive(root=tmp_path / "archive", key=key)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path / "cache")
    made.prepare()
    return made


def versions(apt: Apt, *names: str, suite: str = "") -> dict[str, str]:
    return {deb.name: deb.version for deb in apt.resolve(Request(install=names, suite=suite)).debs}


def test_a_suite_wins_with_all_that_a_package_needs(archive: Archive, cache: Cache) -> None:
    archive.write("trixie", STABLE)
    archive.write("trixie-backports", BACKPORTS, backports=True)
    apt = Apt(cache, [archive.source("trixie", "trixie-backports")], "arm64")
    apt.update()
    assert versions(apt, "kernel", "base") == {"kernel": "6.12", "tools": "6.12", "base": "1"}
    won = {"kernel": "6.18~bpo", "tools": "6.18~bpo", "base": "1"}
    for _ in range(2):  # asked, and remembered
        assert versions(apt, "kernel", "base", suite="trixie-backports") == won


def test_a_step_names_the_suite_and_no_address(
    archive: Archive, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base's own archive has it; the lock says it; a source that gave nothing is told of."""
    archive.write("trixie", STABLE)
    archive.write("trixie-backports", BACKPORTS, backports=True)
    monkeypatch.setattr(lock, "_ESSENTIAL", ("base",))
    monkeypatch.setattr(archives, "candidate_sources", lambda *_, **__: [(archive.source("trixie"),)])
    recipe = tmp_path / "pi5.yaml"
    source = f"{{name: more, uris: ['file:{archive.root}'], suites: [trixie-backports], components: [main], key: k}}"
    (tmp_path / "k").write_bytes(archive.key.keyring.read_bytes())
    step = "      - packages: {{install: [{}], {}}}\n"
    head = "name: pi5\nbase: {bootstrap: {distribution: debian, suite: trixie}}\nlayers:\n  - name: a\n    steps:\n"
    recipe.write_text(
        head + step.format("kernel", "suite: trixie-backports") + step.format("extra", "recommends: false")
    )
    found = lock.resolve(load_recipe(recipe), cache)
    said = {name: (answer.suite, [deb.version for deb in answer.debs]) for name, answer in found.steps.items()}
    assert said == {"a/0": ("trixie-backports", ["6.18~bpo", "6.18~bpo"]), "a/1": ("", ["1"])}
    assert lock.parse_lock(found.to_text(), recipe).to_text() == found.to_text()
    assert "suite: trixie-backports" in found.to_text()
    assert "gave no package" not in capsys.readouterr().err
    recipe.write_text(head + step.format("extra", f"sources: [{source}]"))
    lock.resolve(load_recipe(recipe), cache)
    warned = " ".join(capsys.readouterr().err.split())
    assert "source 'more' gave no package of this step" in warned
    assert "suite: trixie-backports in the step lets it win" in warned


@pytest.mark.root
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"valid": timedelta(days=-1)}, "is expired"),
        ({"made": timedelta(days=2), "valid": timedelta(days=9)}, "is not valid yet"),
        ({"signed": False}, "is not signed"),
    ],
    ids=["expired", "future", "unsigned"],
)
def test_what_the_machine_accepts_is_not_accepted(
    archive: Archive, cache: Cache, tmp_path: Path, said: dict[str, object], message: str
) -> None:
    """In a mount namespace whose apt.conf.d says that anything goes."""
    archive.write("trixie", STABLE, **said)  # type: ignore[arg-type]
    host = tmp_path / "apt.conf.d"
    host.mkdir()
    (host / "99host").write_text(
        'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n'
        'Acquire::AllowInsecureRepositories "true";\nAPT::Get::AllowUnauthenticated "true";\n'
    )
    script = f"""\
from pathlib import Path
from builder.packages.apt import Apt
from builder.packages.source import Source
from builder.host.cache import Cache
source = Source(uris="file:{archive.root}", suites=("trixie",), components=("main",),
                keyring=Path({str(archive.key.keyring)!r}))
Apt(Cache(Path({str(cache.root)!r})), [source], "arm64").update()
"""
    mounted = 'mount --bind "$1" /etc/apt/apt.conf.d && exec "$2" -c "$3"'
    words: list[str | Path] = ["unshare", "--mount", "sh", "-c", mounted, "sh", host, sys.executable, script]
    done = run(words, env={"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}, check=False)
    assert done.returncode != 0
    assert message in done.stderr


def test_offline_nothing_is_fetched(archive: Archive, cache: Cache) -> None:
    """Neither lists that are not there, nor a package file."""
    archive.write("trixie", STABLE)
    with pytest.raises(FetchError, match=r"no package lists of .* trixie, and --offline fetches nothing"):
        Apt(cache, [archive.source("trixie")], "arm64", access="offline").update()
    Apt(cache, [archive.source("trixie")], "arm64").update()
    apt = Apt(cache, [archive.source("trixie")], "arm64", access="offline")
    apt.update()
    with pytest.raises(FetchError, match="2 package files are not in the cache, and --offline") as caught:
        apt.download(apt.resolve(Request(install=("kernel",))).debs)
    assert caught.value.exit_code == 5


def test_lists_that_are_still_served_cost_one_request_a_release_file(archive: Archive, cache: Cache) -> None:
    """apt itself is run for what has changed; then the new lists are what counts."""
    with serve() as web:
        web.root = archive.root
        source = replace(archive.source("trixie"), uris=web.url("/"))

        def update(packages: Mapping[str, tuple[str, str]]) -> list[bool]:
            """Update after the archive was written anew; return of each request whether it was apt's own."""
            if packages:
                shutil.rmtree(archive.root, ignore_errors=True)
                archive.write("trixie", packages)
                here = archive.root / "dists/trixie"
                archive.key.sign(here / "Release", here / "InRelease", "--clear")
            web.requests.clear()
            apt.update()
            return ["APT" in agent for agent in web.asked("User-Agent")]

        apt = Apt(cache, [source], "arm64")
        assert all(update(STABLE))
        assert update({}) == [False]
        asked = update({**STABLE, "extra": ("9", "")})
        assert (asked[0], all(asked[1:]), len(asked) > 1) == (False, True, True)
        assert versions(apt, "extra") == {"extra": "9"}
        assert update({}) == [False]


TANGLED = {
    "base": ("1", "libc"),
    "libc": ("1", ""),
    "app": ("1", "mail-agent | quiet, lib (>= 2)"),
    "lib": ("2", "either | or-else"),
    "either": ("1", "nowhere"),
    "or-else": ("1", ""),
    "quiet": ("1", "libc"),
    "exim": ("4", "libc\nProvides: mail-agent\nConflicts: postfix"),
    "postfix": ("3", "libc\nProvides: mail-agent\nConflicts: exim\nRecommends: docs"),
    "docs": ("1", "viewer | pager"),
    "pager": ("1", ""),
    "broken": ("1", "nowhere"),
    "old": ("1", "lib\nBreaks: or-else"),
}
QUESTIONS = [
    *(Request(install=(name,), recommends=recommends) for name in TANGLED for recommends in (False, True)),
    Request(install=("app", "postfix"), recommends=True),
    Request(install=("app",), remove=("libc",)),
    Request(install=("app", "exim"), suite="trixie-backports"),
    Request(install=("exim", "postfix")),
]


def test_lists_that_were_cut_down_give_the_answers_of_all_lists(archive: Archive, cache: Cache) -> None:
    archive.write("trixie", TANGLED)
    archive.write("trixie-backports", {"lib": ("3", "quiet"), "exim": ("5", "lib (>= 3)")}, backports=True)
    apt = Apt(cache, [archive.source("trixie", "trixie-backports")], "arm64")
    apt.update()
    installed = list(apt.resolve(Request(install=("base", "postfix"))).debs)
    status = "".join(f"{_installed_stanza(deb.control)}\n\n" for deb in installed)
    answered = 0
    for question in QUESTIONS:
        for there in ("", status):
            cut, full = apt._simulate_cut(question, there), apt._simulate(apt.directory, question, there)
            assert cut is None or (cut.returncode, cut.stdout) == (full.returncode, full.stdout)
            assert (cut is None) == (bool(question.remove) or full.returncode != 0 or "\nRemv " in full.stdout)
            answered += cut is not None
    assert answered > 30
    with pytest.raises(StepError, match="nowhere"):
        apt.resolve(Request(install=("broken",)))
