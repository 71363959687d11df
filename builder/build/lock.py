"""The lock: everything a recipe resolves to, with versions and checksums, so that a build can be repeated.

A lock names package files by what they are, never by where they came from: another mirror serves the same build.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from builder import console
from builder.build.archives import ARCHITECTURE, more_suites, open_archive, package_steps, source_of, unknown_packages
from builder.build.base_image import obtain_image, resolve_image
from builder.errors import FetchError, InputError, Problem, StepError
from builder.host.cache import Cache, read_json, write_json
from builder.host.hashing import digest_of
from builder.host.named_file import read_named
from builder.image.ingest import ImagePlaces
from builder.image.open import Image, open_image
from builder.packages.apt import Access, Apt, Deb, Request, Resolution
from builder.packages.mirrors import image_sources
from builder.recipe.load import Recipe
from builder.recipe.schema import BaseImage, Bootstrap
from builder.recipe.steps.base import Place
from builder.recipe.steps.packages import PackagesStep

FORMAT = 2
_RESOLVER = 3  # raised when the same archive would be asked another question
_LATEST = 1 << 40  # seconds
_ESSENTIAL = ("?essential", "apt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What a recipe resolved to.

    `steps` maps `LAYER/INDEX` of every packages step to its answer; `artifacts` maps checksums to URLs; `release` is
    (distribution, suite); `epoch` is in seconds; `sources` is the image's own /etc/apt entry.
    """

    recipe: str
    question: str
    epoch: int
    base: Resolution
    image: str
    sources: str
    steps: Mapping[str, Resolution] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    release: tuple[str, str] = ("debian", "")
    text: str = field(default="", compare=False, repr=False)  # as it was written, where that is known

    @property
    def packages(self) -> tuple[Deb, ...]:
        """Every package of the base and of all steps."""
        return tuple(deb for answer in (self.base, *self.steps.values()) for deb in answer.debs)

    def to_text(self) -> str:
        """Return the YAML of lock.yaml."""
        return self.text or yaml.safe_dump(self.to_json(), sort_keys=False, width=200)

    def to_json(self) -> dict[str, object]:
        """Return what is in lock.yaml."""
        return {
            "format": FORMAT,
            "recipe": self.recipe,
            "question": self.question,
            "release": list(self.release),
            "epoch": self.epoch,
            "image": self.image,
            "sources": self.sources,
            "base": _answer(self.base),
            "steps": {name: _answer(answer) for name, answer in self.steps.items()},
            "artifacts": dict(self.artifacts),
        }


def _answer(answer: Resolution) -> dict[str, object]:
    debs = [
        f"{deb.name} {deb.version} {deb.architecture} {deb.sha256} {deb.size} {deb.filename}" for deb in answer.debs
    ]
    return {**({"suite": answer.suite} if answer.suite else {}), "debs": debs, "removes": list(answer.removes)}


def _resolution(value: Mapping[str, Any]) -> Resolution:
    debs = []
    for line in value["debs"]:
        name, version, architecture, sha256, size, filename = line.split()
        debs.append(
            Deb(name=name, version=version, architecture=architecture, sha256=sha256, size=int(size), filename=filename)
        )
    return Resolution(debs=tuple(debs), removes=tuple(value["removes"]), suite=str(value.get("suite", "")))


def parse_lock(text: str, path: Path) -> Lock:
    """Return the lock in a file's text. Raises InputError when it is none."""
    try:
        return _lock(yaml.safe_load(text))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        problem = Problem(message=f"{path}: not a lock file: {error}", hint="pibuild lock RECIPE writes one")
        raise InputError(problem) from error


def _lock(value: Mapping[str, Any]) -> Lock:
    if value["format"] != FORMAT:
        raise ValueError(f"format {value['format']}, not {FORMAT}")
    epoch = value["epoch"]
    if type(epoch) is not int or not 0 <= epoch < _LATEST:
        raise ValueError("epoch is not a number of seconds")
    return Lock(
        recipe=str(value["recipe"]),
        question=str(value["question"]),
        epoch=epoch,
        image=str(value["image"]),
        sources=str(value["sources"]),
        base=_resolution(value["base"]),
        steps={name: _resolution(answer) for name, answer in value["steps"].items()},
        artifacts=dict(value["artifacts"]),
        release=(str(value["release"][0]), str(value["release"][1])),
    )


def read_fitting_lock(path: Path, recipe: Recipe) -> Lock:
    """Return the lock in a file, provided that it is one of this recipe. Raises InputError."""
    lock = read_lock(path)
    if lock.question != question_of(recipe):
        message = f"{path} does not fit {recipe.path}: its packages, base or artifacts have changed"
        raise InputError(Problem(message=message, hint=f"pibuild lock {recipe.path}, or put the recipe back"))
    return lock


def read_lock(path: Path) -> Lock:
    """Return the lock in a file. Raises InputError when there is none, or it is not one."""
    try:
        text = read_named(path).decode()
    except OSError as error:
        raise InputError(Problem(message=f"{path}: {error.strerror}", hint="pibuild lock RECIPE writes it")) from error
    except UnicodeDecodeError as error:
        problem = Problem(message=f"{path}: not a lock file: not text", hint="pibuild lock RECIPE writes one")
        raise InputError(problem) from error
    return parse_lock(text, path)


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(lock.to_text())
    partial.replace(path)


def question_of(recipe: Recipe) -> str:
    """Return a digest of all that resolution depends on in a recipe: a lock with another question does not fit it."""
    steps = [[name, step.model_dump(mode="json"), step.inputs(place)] for name, step, place in package_steps(recipe)]
    artifacts = sorted((artifact.sha256, artifact.url) for artifact in recipe_artifacts(recipe).values())
    return digest_of([_RESOLVER, base_question(recipe.base), steps, artifacts, recipe.epoch])


def base_question(base: Bootstrap | BaseImage) -> dict[str, object]:
    """Return what a base says, JSON-able, without where it is found: a mirror, a keyring's or an image's path.

    The same recipe asks the same in another checkout, or with another mirror.
    """
    if isinstance(base, Bootstrap):
        return base.model_dump(mode="json", exclude={"mirror", "keyring"})
    said = base.model_dump(mode="json", exclude={"path": True, "checksums": {"keyring"}})
    return {**said, "path": base.path.name if base.path else None}


def recipe_artifacts(recipe: Recipe) -> dict[str, Any]:
    """Return the artifacts of all steps by checksum."""
    return {a.sha256.lower(): a for layer in recipe.layers for step in layer.steps for a in step.step.artifacts()}


def remembered(recipe: Recipe, cache: Cache) -> Lock | None:
    """Return the newest resolution of this recipe that the cache remembers; asks nobody."""
    known = read_json(_memo(recipe, cache))
    if known and "value" in known:  # YAML takes a quarter of a second to say the same
        return replace(_lock(known["value"]), text=known["lock"])
    return parse_lock(known["lock"], _memo(recipe, cache)) if known else None


def prefixes_of(recipe: Recipe) -> list[str]:
    """Return a digest of what is asked of the archive for the base, and for each packages step with all before it.

    Recipes that begin in the same way, as one does that extends another, have the first of them in common. Where
    packages come from is in all: a further source may change any answer.
    """
    sources = [source.model_dump(mode="json") for _, step, _ in package_steps(recipe) for source in step.sources]
    suites = sorted({step.suite for _, step, _ in package_steps(recipe) if step.suite})
    found = [digest_of([_RESOLVER, base_question(recipe.base), recipe.epoch, sources, suites])]
    for name, step, place in package_steps(recipe):
        found.append(digest_of([found[-1], name, step.model_dump(mode="json"), step.inputs(place)]))
    return found


def remembered_in_part(recipe: Recipe, cache: Cache) -> Lock | None:
    """Return what the longest beginning of a recipe resolved to, as part of another recipe that the cache remembers.

    The lock has the steps of that beginning alone. None where not even the base is known.
    """
    wanted, best = prefixes_of(recipe), (0, 0.0, "", Path())
    for path in cache.resolutions.glob("*.json"):
        memo = read_json(path) or {}
        common = [one for one, other in zip(wanted, memo.get("prefixes") or (), strict=False) if one == other]
        if common:
            best = max(best, (len(common), path.stat().st_mtime, memo["lock"], path))
    count, _, text, path = best
    if not count:
        return None
    lock = parse_lock(text, path)
    kept = {name: lock.steps[name] for name, *_ in package_steps(recipe)[: count - 1] if name in lock.steps}
    return replace(lock, recipe=recipe.name, question="", steps=kept, text="")


def _memo(recipe: Recipe, cache: Cache) -> Path:
    return cache.resolutions / f"{question_of(recipe)[:32]}.json"


def resolve(
    recipe: Recipe, cache: Cache, *, artifacts: Sequence[Path] = (), offline: bool = False, refresh: bool = False
) -> Lock:
    """Return what a recipe resolves to, now. An archive that has not changed since is not asked again.

    `artifacts` are directories of hand-placed files; `offline` takes what is remembered and asks nobody. Raises
    FetchError when the archive does not answer and nothing is remembered, StepError when a request cannot be met.
    """
    known = remembered(recipe, cache)
    if known and offline:
        return known
    status = _BaseStatus.of(recipe, cache, artifacts, offline=offline)
    try:
        access: Access = "offline" if offline else "current"
        apt = open_archive(cache, status.distribution, status.suite, recipe, ARCHITECTURE, access=access)
    except FetchError as error:
        if known is None or refresh:
            raise
        console.warn(f"{error.message.splitlines()[0]}: the packages are those of the last resolution")
        return known
    release = apt.release_digest()
    memo = read_json(_memo(recipe, cache))
    if known and memo["release"] == release and not refresh:
        if "prefixes" not in memo:  # of an earlier pibuild
            write_json(_memo(recipe, cache), {**memo, "prefixes": prefixes_of(recipe)})
        return known
    with console.progress("resolve packages"):
        try:
            found = _ask(recipe, apt, status)
        except StepError as error:
            if problems := unknown_packages(recipe, cache):
                raise InputError(*problems) from error
            raise
    memo = {"release": release, "lock": found.to_text(), "value": found.to_json(), "prefixes": prefixes_of(recipe)}
    write_json(_memo(recipe, cache), memo)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _BaseStatus:
    """What a base brings: its distribution and, for an image, its checksum and dpkg status."""

    distribution: str
    suite: str
    image: str = ""
    status: str = ""

    @classmethod
    def of(cls, recipe: Recipe, cache: Cache, artifacts: Sequence[Path], *, offline: bool) -> _BaseStatus:
        base = recipe.base
        if not isinstance(base, BaseImage):
            return cls(distribution=base.distribution, suite=base.suite)
        sha256 = resolve_image(base, recipe.path.parent, offline=offline)
        memo = cache.resolutions / f"image-{sha256[:32]}.json"
        known = read_json(memo)
        if known is None:
            places = ImagePlaces(directory=recipe.path.parent, cache=cache.artifacts, search=tuple(artifacts))
            file = obtain_image(base, sha256, places, offline=offline)
            with open_image(file) as image:
                known = _read_status(image)
            write_json(memo, known)
        release = known["release"]
        distribution = "ubuntu" if release.get("ID") == "ubuntu" else "debian"
        return cls(
            distribution=distribution, suite=release.get("VERSION_CODENAME", ""), image=sha256, status=known["status"]
        )


def _read_status(image: Image) -> dict[str, Any]:
    """Return an image's release and dpkg status. Raises InputError for a base that apt cannot build on."""
    text = _text_of(image, "/etc/os-release", "what it is")
    release = dict(re.findall(r'^(ID|VERSION_CODENAME)="?([^"\n]*)"?$', text, re.MULTILINE))
    if not release.get("VERSION_CODENAME"):
        hint = (
            "a base is an image of a Debian or Ubuntu release: testing and other systems have no codename to build on"
        )
        raise InputError(Problem(message=f"{image.given}: its /etc/os-release has no VERSION_CODENAME", hint=hint))
    return {"release": release, "status": _text_of(image, "/var/lib/dpkg/status", "what is installed")}


def _text_of(image: Image, path: str, what: str) -> str:
    try:
        return image.root.text(path)
    except OSError as error:
        hint = "a base is an image of Debian, Ubuntu or Raspberry Pi OS"
        message = f"{image.given}: {path} cannot be read ({error.strerror}): {what} is not known"
        raise InputError(Problem(message=message, hint=hint)) from error


def _ask(recipe: Recipe, apt: Apt, status: _BaseStatus) -> Lock:
    base = recipe.base
    first, sources = Resolution(debs=()), ""
    if isinstance(base, Bootstrap):
        first = apt.resolve(Request(install=(*_ESSENTIAL, *base.include)))
        sources = image_sources(base.distribution, base.suite, base.components, more=more_suites(recipe))
    installed = {deb.name: deb for deb in first.debs}
    steps = {}
    for name, step, place in package_steps(recipe):
        answer = Resolution(debs=())
        if step.install or step.remove:
            request = Request(
                install=step.install, remove=step.remove, recommends=step.recommends, suite=step.suite or ""
            )
            answer = apt.resolve(request, installed.values(), status.status)
        if step.install:
            _say_what_gave_nothing(apt, step, place, answer)
        steps[name] = answer
        installed |= {deb.name: deb for deb in answer.debs}
        for removed in answer.removes:
            installed.pop(removed, None)
    return Lock(
        recipe=recipe.name,
        question=question_of(recipe),
        epoch=recipe.epoch if recipe.epoch is not None else release_epoch(apt),
        base=first,
        image=status.image,
        sources=sources,
        steps=steps,
        artifacts={sha256: artifact.url for sha256, artifact in recipe_artifacts(recipe).items()},
        release=(status.distribution, status.suite),
    )


def _say_what_gave_nothing(apt: Apt, step: PackagesStep, place: Place, answer: Resolution) -> None:
    """Warn of a suite that wins and of a source of this step that no package came from: apt does it silently."""
    if step.suite and not any(apt.has(step.suite, deb) for deb in answer.debs):
        console.warn(f"{place.mark}: no package of this step, and none that it needs, is in {step.suite}")
    for source in step.sources:
        found = source_of(source, place)
        if not any(apt.has(suite, deb, source=found) for suite in source.suites for deb in answer.debs):
            console.warn(
                f"{place.mark}: source '{source.name}' gave no package of this step: others have them with a higher "
                f"priority, or it has none of them (suite: {source.suites[0]} in the step lets it win)"
            )


def release_epoch(apt: Apt) -> int:
    """Return the date (seconds) of the main suite's release file: it moves with point releases, not with updates."""
    suite = apt.sources[0].suites[0]
    for path in sorted((apt.directory / "lists").glob(f"*_dists_{suite}_*Release")):
        found = re.search(r"^Date: (.*)$", path.read_text(errors="replace"), re.MULTILINE)
        if found:
            return int(email.utils.parsedate_to_datetime(found[1]).timestamp())
    raise FetchError(f"the release file of {suite} has no date")
