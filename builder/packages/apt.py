"""Package resolution and download through the host's apt, with a root of its own.

apt on the host answers for any architecture and release: it is given private directories and, as the set of installed
packages, what earlier layers hold. It needs neither root nor a chroot for that. Of the machine's own apt configuration
the proxies count, and nothing else: what it takes for signed and for current is decided here.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from builder import console
from builder.errors import FetchError, StepError
from builder.host.cache import Cache, read_json, write_json
from builder.host.hashing import digest_of, file_digest
from builder.packages.closure import Lists
from builder.packages.current import is_current, note_current
from builder.packages.machine import asked
from builder.packages.source import Source, list_name
from builder.run import Completed, find_tool, run

_LISTS = 2  # raised when the lists are kept in another form
_INSTALL = re.compile(r"^Inst (?P<name>\S+) (?:\[[^]]*\] )?\((?P<version>\S+) ")
_NAMED = re.compile(rb"^(Package|Provides): (.+)$", re.MULTILINE)
_REMOVE = re.compile(r"^Remv (?P<name>\S+)")
# what a machine's own configuration says of the way to an archive (apt.conf(5), apt-transport-http(1))
_WAY = re.compile(r"Acquire::((http|https|ftp)::([^ ]+::)?(Proxy|Proxy-Auto-Detect|CaInfo|CaPath)|ForceIPv[46]) .*;")
Access = Literal["current", "known", "offline"]
"""How new lists must be: brought up to date, as they are here already, or so and nothing is fetched at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """A package file: what the archive says of it. `filename` is relative to the archive's root."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    filename: str
    control: str = ""

    @property
    def archive_name(self) -> str:
        """The file name apt gives it in its archives directory: the epoch's colon is escaped."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A set of packages wanted on top of what is installed. Names may be apt patterns such as `?essential`.

    `suite` is the one that wins, for the packages and all that they need; "" leaves that to apt's priorities.
    """

    install: tuple[str, ...]
    remove: tuple[str, ...] = ()
    recommends: bool = False
    suite: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """apt's answer: what to unpack and what to remove first, and the suite that won, where one was asked for."""

    debs: tuple[Deb, ...]
    removes: tuple[str, ...] = ()
    suite: str = ""

    def to_json(self) -> dict[str, object]:
        """Return a JSON-able form, control stanzas left out."""
        debs = [{k: v for k, v in asdict(deb).items() if k != "control"} for deb in self.debs]
        return {"debs": debs, "removes": list(self.removes), **({"suite": self.suite} if self.suite else {})}


class Apt:
    """apt with private directories for one set of sources and one architecture."""

    def __init__(
        self, cache: Cache, sources: Sequence[Source], architecture: str, *, access: Access = "current"
    ) -> None:
        self.cache = cache
        self.access = access
        self.sources = tuple(sources)
        self.architecture = architecture
        text = "\n".join(source.deb822(architecture) for source in self.sources)
        self.directory = cache.lists / digest_of([_LISTS, text, architecture])[:16]
        self._text = text

    def update(self) -> None:
        """Bring the package lists up to date, as far as `access` asks for it.

        Raises FetchError where the archive does not answer as expected, or is not to be asked.
        """
        for name in ("lists/partial", "cache"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        os.utime(self.directory)  # used now: gc keeps it
        (self.directory / "status").write_text("")
        (self.directory / "pibuild.sources").write_text(self._text)
        (self.directory / "apt.conf").write_text(self._configuration(self.directory) + self._ways())
        if self.access != "current" and any((self.directory / "lists").glob("*Packages*")):
            return
        if self.access == "offline":
            where = ", ".join(f"{source.uris} {' '.join(source.suites)}" for source in self.sources)
            raise FetchError(
                f"the cache has no package lists of {where}, and --offline fetches nothing",
                hint="build once without --offline",
            )
        if is_current(self.directory, self.sources):
            return
        done = self._apt("apt-get", ["update"], check=False)
        if done.returncode != 0 or re.search(r"^(E|W: Failed to fetch)", done.stderr, re.MULTILINE):
            raise FetchError(
                f"the package archive did not answer as expected:\n{done.stderr.strip()[-1500:]}",
                hint="check the network and the recipe's mirror and suite; --offline uses the lists already here",
            )
        note_current(self.directory, self.sources)

    def release_digest(self) -> str:
        """Return a digest of the signed release files: it changes when, and only when, the archive does."""
        files = sorted((self.directory / "lists").glob("*Release"))
        return digest_of([[path.name, file_digest(path)] for path in files])

    def resolve(self, request: Request, installed: Iterable[Deb] = (), status: str = "") -> Resolution:
        """Return what apt would install for a request, given packages that are installed already.

        `status` is a dpkg status text (an image base's own); `installed` are added to it. An answer is remembered for
        as long as the archive says the same. Raises StepError with apt's words when the request cannot be met.
        """
        stanzas = [status.strip(), *(_installed_stanza(deb.control) for deb in installed)]
        there = "".join(f"{stanza}\n\n" for stanza in stanzas if stanza)
        question = {key: value for key, value in asdict(request).items() if key != "suite" or value}
        asked = digest_of([_LISTS, self._text, self.release_digest(), question, there])[:32]
        memo = self.cache.resolutions / f"asked-{asked}.json"
        if known := read_json(memo):
            debs = tuple(Deb(**fields) for fields in known["debs"])
            return Resolution(debs=debs, removes=tuple(known["removes"]), suite=request.suite)
        answer = self._ask(request, there)
        write_json(memo, {**answer.to_json(), "debs": [asdict(deb) for deb in answer.debs]})
        return answer

    def _ask(self, request: Request, status: str) -> Resolution:
        done = self._simulate_cut(request, status)
        if done is None:
            done = self._simulate(self.directory, request, status)
        if done.returncode != 0:
            said = "\n".join(line for line in (done.stderr + done.stdout).splitlines() if line.strip())[-1500:]
            raise StepError(
                f"packages cannot be resolved: {' '.join(_words(request))}\n{said}",
                hint="check the names and the sources",
            )
        wanted = [(m["name"].split(":")[0], m["version"]) for m in map(_INSTALL.match, done.stdout.splitlines()) if m]
        removes = tuple(m["name"].split(":")[0] for m in map(_REMOVE.match, done.stdout.splitlines()) if m)
        return Resolution(debs=tuple(self._describe(wanted)), removes=removes, suite=request.suite)

    def _simulate_cut(self, request: Request, status: str) -> Completed | None:
        """Ask with what can matter of the lists alone; None for a question that all of them have to answer.

        What cannot be met is said of the whole archive, and the order in which packages go depends on all of it.
        """
        if request.remove or not self._listed.can_be_cut(request.install):
            return None
        with self.cache.scratch("resolve") as place:
            for name in ("lists/partial", "cache"):
                (place / name).mkdir(parents=True)
            (place / "pibuild.sources").write_text(self._text)
            (place / "apt.conf").write_text(self._configuration(place))
            for path in (self.directory / "lists").glob("*Release*"):
                shutil.copy2(path, place / "lists")
            for path, text in self._listed.cut(request.install, status, recommends=request.recommends).items():
                (place / "lists" / path.name).write_bytes(text)
            done = self._simulate(place, request, status)
        removes = any(map(_REMOVE.match, done.stdout.splitlines()))
        return None if done.returncode != 0 or removes else done

    def _simulate(self, directory: Path, request: Request, status: str) -> Completed:
        (directory / "status").write_text(status)
        options = ["-o", f"APT::Install-Recommends={'true' if request.recommends else 'false'}"]
        if request.suite:
            options += ["-o", f"APT::Default-Release={request.suite}"]
        words = ["install", "--simulate", "-y", "-q", *options, *_words(request)]
        return self._apt("apt-get", words, directory=directory, check=False)

    def has(self, suite: str, deb: Deb, *, source: Source | None = None) -> bool:
        """Return whether a suite (of one source, else of any) lists a package in that version."""
        addresses = {uri for one in ([source] if source else self.sources) for uri in one.uris.split()}
        begins = tuple(list_name(uri, suite) for uri in addresses)
        lists = [path for path in (self.directory / "lists").glob("*_Packages") if path.name.startswith(begins)]
        wanted = re.compile(
            rb"^Package: %s\n(?:.+\n)*?Version: %s$" % (re.escape(deb.name.encode()), re.escape(deb.version.encode())),
            re.MULTILINE,
        )
        return any(wanted.search(path.read_bytes()) for path in lists)

    def _describe(self, wanted: Sequence[tuple[str, str]]) -> list[Deb]:
        found: dict[tuple[str, str], Deb] = {}
        for name in {name for name, _ in wanted}:
            for stanza in self._listed.stanzas(name):
                deb = parse_deb(stanza.decode())
                if deb is not None:
                    found.setdefault((deb.name, deb.version), deb)
        return [found[key] for key in sorted(set(wanted))]

    @cached_property
    def _listed(self) -> Lists:
        """The package lists. apt-cache would build its caches anew for every question."""
        return Lists(sorted((self.directory / "lists").glob("*_Packages")))

    def names(self) -> frozenset[str]:
        """Return every name that the lists here can be asked for, of packages and of what they provide; asks nobody."""
        found: set[str] = set()
        for path in (self.directory / "lists").glob("*_Packages"):
            for kind, listed in _NAMED.findall(path.read_bytes()):
                if kind == b"Package":
                    found.add(listed.decode())
                else:
                    found |= {one.split()[0].partition(":")[0] for one in listed.decode().split(",") if one.strip()}
        return frozenset(found)

    def download(self, debs: Iterable[Deb]) -> None:
        """Bring package files into the shared archives, verified. Present ones are not fetched again.

        Raises FetchError when the archive no longer has a version, or a file is not what the lists promise.
        """
        missing = [deb for deb in debs if not is_present(self.cache.archives, deb)]
        if not missing:
            return
        if self.access == "offline":
            some = ", ".join(deb.archive_name for deb in missing[:3])
            raise FetchError(
                f"{len(missing)} package files are not in the cache, and --offline fetches nothing: {some} …",
                hint="build once without --offline",
            )
        names = [
            f"{deb.name}:{deb.architecture}={deb.version}" if deb.architecture != "all" else f"{deb.name}={deb.version}"
            for deb in missing
        ]
        total = sum(deb.size for deb in missing)
        with (
            self.cache.scratch("download") as work,
            console.transfer(f"{len(missing)} packages", lambda: _bytes_in(work), total=total),
        ):
            for begin in range(0, len(names), 200):
                done = self._apt("apt-get", ["download", "-q", *names[begin : begin + 200]], cwd=work, check=False)
                if done.returncode != 0:
                    raise FetchError(
                        f"packages cannot be fetched:\n{done.stderr.strip()[-1500:]}",
                        hint="a locked version may have left the archive: pibuild lock RECIPE makes a new lock",
                    )
            for deb in missing:
                fetched = work / deb.archive_name
                if not fetched.exists() or file_digest(fetched) != deb.sha256:
                    raise FetchError(
                        f"{deb.archive_name}: the archive's file is not the one the lock names ({deb.sha256})"
                    )
                fetched.rename(self.cache.archives / deb.archive_name)

    def _configuration(self, directory: Path) -> str:
        lines = (
            'Dir::Etc::main "/dev/null";',
            'Dir::Etc::parts "/dev/null";',
            'Acquire::Check-Valid-Until "true";',
            'Acquire::Check-Date "true";',
            'Acquire::AllowInsecureRepositories "false";',
            'Acquire::AllowWeakRepositories "false";',
            'Acquire::AllowDowngradeToInsecureRepositories "false";',
            'APT::Get::AllowUnauthenticated "false";',
            f'Dir::State "{directory}";',
            f'Dir::State::lists "{directory}/lists";',
            f'Dir::State::status "{directory}/status";',
            f'Dir::State::extended_states "{directory}/extended_states";',
            f'Dir::Cache "{directory}/cache";',
            # minimal hosts switch these off: each question would read all lists anew, compressed ones at every package
            'Dir::Cache::pkgcache "pkgcache.bin";',
            'Dir::Cache::srcpkgcache "srcpkgcache.bin";',
            'Acquire::GzipIndexes "false";',
            f'Dir::Etc::SourceList "{directory}/pibuild.sources";',
            'Dir::Etc::SourceParts "/dev/null";',
            'Dir::Etc::Preferences "/dev/null";',
            'Dir::Etc::PreferencesParts "/dev/null";',
            f'APT::Architecture "{self.architecture}";',
            f'APT::Architectures {{ "{self.architecture}"; }};',
            'APT::Sandbox::User "root";',
            'Acquire::Languages "none";',
            'Acquire::Retries "3";',
            'Acquire::Queue-Mode "access";',
            'Debug::NoLocking "1";',
            'APT::Get::Assume-Yes "1";',
        )
        return "".join(f"{line}\n" for line in lines)

    def _ways(self) -> str:
        """Return how the machine's own configuration says that archives are reached: its proxies."""
        said = asked(self.cache, "apt-config", ["dump"])
        return "".join(f"{line}\n" for line in said.splitlines() if _WAY.fullmatch(line))

    def _apt(
        self,
        tool: str,
        words: Sequence[str],
        *,
        directory: Path | None = None,
        cwd: Path | None = None,
        check: bool = True,
    ) -> Completed:
        # read first of all, so that it can say that no other is read (apt.conf(5))
        env = {"APT_CONFIG": str((directory or self.directory) / "apt.conf")}
        return run([find_tool(tool, package="apt"), *words], cwd=cwd, env=env, check=check)


def _words(request: Request) -> list[str]:
    """Return the packages of a request as apt is told them."""
    return [*request.install, *(f"{name}-" for name in request.remove)]


def _bytes_in(directory: Path) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(directory))


def is_present(archives: Path, deb: Deb) -> bool:
    """Return whether the archives hold a package file, judged by its name and size; unpacking verifies the digest."""
    path = archives / deb.archive_name
    return path.exists() and path.stat().st_size == deb.size


def parse_deb(stanza: str) -> Deb | None:
    """Return the package a Packages stanza describes; None for a stanza that names no file (an installed one).

    Raises FetchError for one that lacks a field.
    """
    fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))
    if "Filename" not in fields:
        return None
    lacking = [name for name in ("Package", "Version", "Architecture", "SHA256") if name not in fields]
    if lacking or not re.fullmatch(r"[0-9]{1,15}", fields.get("Size", "")):
        lacks = ", ".join(lacking) or "Size"
        raise FetchError(f"a package list has an entry without {lacks}: {stanza[:80]!r}", hint="another mirror")
    return Deb(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        sha256=fields["SHA256"],
        size=int(fields["Size"]),
        filename=fields["Filename"],
        control=stanza.strip(),
    )


def _installed_stanza(control: str) -> str:
    """Return a dpkg status stanza for a package that counts as installed."""
    dropped = re.compile(r"^(Filename|Size|SHA256|SHA512|MD5sum|Description-md5):")
    lines = [line for line in control.splitlines() if not dropped.match(line)]
    return "\n".join([lines[0], "Status: install ok installed", *lines[1:]])
