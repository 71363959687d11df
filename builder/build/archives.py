"""Which archives a recipe's packages come from, and what their lists hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from builder import console
from builder.documents.spelling import did_you_mean
from builder.errors import FetchError, Problem
from builder.host.cache import Cache
from builder.packages.apt import Access, Apt
from builder.packages.mirrors import candidate_sources, find_keyring
from builder.packages.source import Source
from builder.recipe.load import Recipe
from builder.recipe.schema import Bootstrap
from builder.recipe.steps.base import Place
from builder.recipe.steps.packages import PackageSource, PackagesStep

ARCHITECTURE = "arm64"


def package_steps(recipe: Recipe) -> list[tuple[str, PackagesStep, Place]]:
    """Return the packages steps with their names in a lock, `LAYER/INDEX`."""
    return [
        (f"{layer.name}/{index}", step.step, step.place)
        for layer in recipe.layers
        for index, step in enumerate(layer.steps)
        if isinstance(step.step, PackagesStep)
    ]


def unknown_packages(recipe: Recipe, cache: Cache) -> list[Problem]:
    """Return the packages that a recipe installs and the lists in the cache do not have; none where there are no lists.

    Asks nobody. Of a base image nothing is said: what its own sources have is known when it has been read.
    """
    base = recipe.base
    if not isinstance(base, Bootstrap) or not cache.lists.is_dir():
        return []
    sets = archives_of(recipe, ARCHITECTURE, cache, distribution=base.distribution, suite=base.suite)
    names = next(filter(None, (Apt(cache, one, ARCHITECTURE).names() for one in sets)), frozenset())
    return [
        Problem(message=f"no package '{name}'{did_you_mean(name, names)}", mark=place.mark, hint=_UNLISTED)
        for _, step, place in (package_steps(recipe) if names else ())
        for name in step.install
        if name not in names
    ]


def open_archive(
    cache: Cache, distribution: str, suite: str, recipe: Recipe, architecture: str, *, access: Access = "current"
) -> Apt:
    """Return apt with the lists of the first archive that serves the suite. Raises FetchError when none does."""
    failure: FetchError | None = None
    for sources in archives_of(recipe, architecture, cache, distribution=distribution, suite=suite):
        apt = Apt(cache, sources, architecture, access=access)
        try:
            with console.progress(f"package lists of {distribution} {suite}, {architecture}"):
                apt.update()
        except FetchError as error:
            failure = failure or error
        else:
            return apt
    raise failure or FetchError(
        f"no archive for {distribution} {suite}", hint="name a mirror in the recipe's bootstrap"
    )


def archives_of(
    recipe: Recipe, architecture: str, cache: Cache, *, distribution: str, suite: str
) -> Iterator[tuple[Source, ...]]:
    """Yield the sets of sources to try in turn, each with those that the recipe's steps bring."""
    bootstrap = recipe.base if isinstance(recipe.base, Bootstrap) else None
    keyring = Path(bootstrap.keyring) if bootstrap and bootstrap.keyring else find_keyring(distribution)
    components = bootstrap.components if bootstrap else _COMPONENTS[distribution]
    mirror = bootstrap.mirror if bootstrap else "auto"
    extra = _extra_sources(recipe) if architecture == ARCHITECTURE else []
    more = more_suites(recipe) if architecture == ARCHITECTURE else ()
    for own in candidate_sources(distribution, suite, components, mirror=mirror, keyring=keyring, cache=cache):
        sources = [replace(one, suites=(*one.suites, *more)) if suite in one.suites else one for one in own]
        yield (*sources, *extra)


_UNLISTED = "check the name; if it is new in the archive, pibuild lock RECIPE --dry-run brings the lists up to date"
_COMPONENTS = {"debian": ("main", "non-free-firmware"), "ubuntu": ("main", "restricted", "universe")}


def _extra_sources(recipe: Recipe) -> list[Source]:
    return [source_of(source, place) for _, step, place in package_steps(recipe) for source in step.sources]


def source_of(source: PackageSource, place: Place) -> Source:
    """Return a step's own source as apt is given it."""
    return Source(
        uris=" ".join(source.uris),
        suites=tuple(source.suites),
        components=tuple(source.components),
        keyring=(place.directory / source.key).resolve(),
    )


def more_suites(recipe: Recipe) -> tuple[str, ...]:
    """Return the suites that steps ask for and no source of theirs brings: the base's own archive has them."""
    brought = {suite for source in _extra_sources(recipe) for suite in source.suites}
    asked = [step.suite for _, step, _ in package_steps(recipe) if step.suite and step.suite not in brought]
    own = recipe.base.suite if isinstance(recipe.base, Bootstrap) else ""
    return tuple(suite for suite in dict.fromkeys(asked) if suite != own)
