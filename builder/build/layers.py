"""Run one layer: an overlay mount over the layers below, its steps in order, one rename when all of them succeeded."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder import console
from builder.build.bootstrap import install, prepare_root, write_sources
from builder.build.finish import finish, tidy
from builder.build.plan import BASE, FINISH, Plan, PlannedLayer
from builder.emulation.chroot import Chroot, crash_hint
from builder.emulation.mode import Emulation
from builder.emulation.stand_ins import StandIns
from builder.emulation.tools_tree import is_libperl
from builder.errors import PibuildError, StepError
from builder.host.cache import Cache, commit, read_json, write_json
from builder.host.mounts import overlay
from builder.host.named_file import text_in
from builder.image.identities import found
from builder.image.ingest import ingest
from builder.packages.apt import Resolution
from builder.packages.dpkg_status import STATUS
from builder.recipe.load import RecipeStep
from builder.recipe.steps.packages import PackagesStep
from builder.recipe.steps.run import RunStep
from builder.run import Argv, CommandError, Completed

_VISIBLE_TO_AUTHORS = ("perl", "bash", "python3", "dpkg-architecture")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What layers are made with. `layers` is the directory that gets them; `artifacts` maps checksums to files."""

    cache: Cache
    layers: Path
    emulation: Emulation
    artifacts: Mapping[str, Path]
    attach: str = "auto"
    image: Path | None = None


@dataclass(slots=True)
class LayerTarget:
    """The Target that a step is given: the merged root of its layer."""

    root: Path
    chroot: Chroot
    artifacts: Mapping[str, Path]
    step: RecipeStep | None = None
    identities: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        argv: Argv,
        *,
        network: bool = False,
        input: bytes | None = None,  # noqa: A002 - subprocess's own word
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program inside the root. Raises StepError with the step's place and the program's last lines."""
        try:
            return self.chroot.run(argv, network=network, input=input, env=env)
        except CommandError as error:
            raise StepError(
                f"{_where(self.step)}{error.message}", hint=error.hint or crash_hint(error.completed)
            ) from error

    def fetched(self, sha256: str) -> Path | None:
        """Return the file of an artifact, None where it is optional and could not be had."""
        return self.artifacts.get(sha256.lower())


def _where(step: RecipeStep | None) -> str:
    return f"{step.place.mark}: step {step.kind}: " if step else ""


def make_layer(shop: Workshop, plan: Plan, number: int) -> float:
    """Make one layer of a plan and commit it; return the seconds it took. Raises StepError."""
    begun = time.monotonic()
    layer = plan.layers[number]
    below = [shop.layers / lower.key / "fs" for lower in reversed(plan.layers[:number])]
    with shop.cache.scratch("layer") as scratch:
        upper, work, merged = (scratch / "layer" / "fs", scratch / "work", scratch / "merged")
        for path in (upper, work, merged):
            path.mkdir(parents=True)
        if layer.name == BASE:
            _begin_base(shop, plan, upper, scratch)
        full_perl = any(is_libperl(deb.name) for answer in _answers_up_to(plan, number) for deb in answer.debs)
        lowers = [*below, _harness(shop.cache), *shop.emulation.lowers(full_perl=full_perl)]
        with overlay(lowers, merged, upper=upper, work=work):
            identities = _fill(shop, plan, layer, merged)
        _clamp_times(upper, plan.lock.epoch)
        write_json(
            scratch / "layer" / "meta.json",
            {
                "name": layer.name,
                "seconds": time.monotonic() - begun,
                "inputs": dict(layer.inputs),
                "identities": identities,
            },
        )
        shop.cache.put_aside(shop.layers / layer.key)
        commit(scratch / "layer", shop.layers / layer.key)
    return time.monotonic() - begun


def _answers_up_to(plan: Plan, number: int) -> list[Resolution]:
    """Return what the base and the layers below `number` have installed."""
    layers = plan.layers[1:number]
    return [
        *([plan.lock.base] if number else []),
        *(answer for layer in layers for answer in layer.answers.values()),
    ]


def _begin_base(shop: Workshop, plan: Plan, upper: Path, scratch: Path) -> None:
    if shop.image is not None:
        console.step(f"files of {shop.image.name}")
        place = scratch / "ingest"
        place.mkdir()
        ingest(shop.image, upper, scratch=place, method=shop.attach)  # type: ignore[arg-type]
    else:
        prepare_root(upper, plan.lock.base.debs, shop.cache.archives)


def _fill(shop: Workshop, plan: Plan, layer: PlannedLayer, merged: Path) -> dict[str, str]:
    """Fill a layer's merged root; return the identities that packages made there, by path, with their digests."""
    env = {
        "SOURCE_DATE_EPOCH": str(plan.lock.epoch),
        "DEBIAN_FRONTEND": "noninteractive",
        "DEBCONF_NONINTERACTIVE_SEEN": "true",
    }
    stand_ins = StandIns(tools=shop.emulation.tools, root=merged, versions=_versions(plan, layer, merged))
    chroot = Chroot(root=merged, emulation=shop.emulation, env=env)
    target = LayerTarget(root=merged, chroot=chroot, artifacts=shop.artifacts)
    if layer.name == BASE and shop.image is None:
        console.step(f"{len(plan.lock.base.debs)} packages")
        fresh = replace(chroot, native=stand_ins.paths(fresh=True))
        install(fresh, plan.lock.base, shop.cache.archives, first=True)
        write_sources(merged, plan.recipe.base, plan.lock.sources)
    if layer.name == BASE:
        target.identities = found(merged)
    for index, step in enumerate(layer.steps):
        hidden = _VISIBLE_TO_AUTHORS if isinstance(step.step, RunStep) else ()
        console.step(f"{step.kind} ({step.place.mark.file.name}:{step.place.mark.line})")
        target.step, target.chroot = step, replace(chroot, native=stand_ins.paths(without=hidden))
        _apply(target, step, (layer.answers or {}).get(index), shop)
    if layer.name == FINISH:
        console.step("no identity of a machine stays")
        finish(merged, made=_made_identities(shop, plan), grow=plan.recipe.disk.root.grow)
    tidy(merged)
    return target.identities


def _made_identities(shop: Workshop, plan: Plan) -> dict[str, str]:
    """Return the identities that packages made in all layers; of an earlier version's layer, all that it holds."""
    made: dict[str, str] = {}
    for layer in plan.layers[:-1]:
        own = read_json(shop.layers / layer.key / "meta.json").get("identities")
        if own is None and _has_packages(layer):
            own = found(shop.layers / layer.key / "fs")
        made.update(own or {})
    return made


def is_of_packages(shop: Workshop, plan: Plan, path: str) -> bool:
    """Say whether a file of the golden tree is of a layer in which packages were installed."""
    layers = [each for each in plan.layers[::-1] if os.path.lexists(shop.layers / each.key / "fs" / path)]
    return bool(layers) and _has_packages(layers[0])


def _has_packages(layer: PlannedLayer) -> bool:
    """Say whether packages were installed in a layer, whose scripts make identities."""
    return layer.name == BASE or any(isinstance(step.step, PackagesStep) for step in layer.steps)


def _apply(target: LayerTarget, step: RecipeStep, answer: Resolution | None, shop: Workshop) -> None:
    try:
        step.step.apply(target, step.place)
        if isinstance(step.step, PackagesStep) and answer is not None and (answer.debs or answer.removes):
            before = found(target.root)
            install(target.chroot, answer, shop.cache.archives)
            target.identities.update(dict(found(target.root).items() - before.items()))
    except CommandError as error:
        raise StepError(f"{_where(step)}{error.message}", hint=error.hint) from error
    except PibuildError:
        raise
    except OSError as error:
        raise StepError(f"{_where(step)}{error}", hint="check the paths of this step") from error


def _versions(plan: Plan, layer: PlannedLayer, merged: Path) -> dict[str, str]:
    """Return the package versions that the target holds while the layer is made, as the lock has them."""
    found: dict[str, str] = {}
    name = ""
    for line in text_in(merged, STATUS).splitlines():
        if line.startswith("Package: "):
            name = line[9:]
        elif line.startswith("Version: "):
            found[name] = line[9:]
    answers = [plan.lock.base] if layer.name == BASE else list(layer.answers.values())
    for answer in answers:
        for deb in answer.debs:
            # a package that changes its version within the layer never stands in: either may be there
            found[deb.name] = deb.version if found.get(deb.name, deb.version) == deb.version else ""
            if is_libperl(deb.name):
                found["perl-base"] = ""  # its modules come and go while the layer is made
    return found


def _harness(cache: Cache) -> Path:
    """Return the lower directory whose policy-rc.d keeps maintainer scripts from starting daemons."""
    final = cache.tools / "harness-1"
    if not final.is_dir():
        with cache.scratch("harness") as scratch:
            program = scratch / "harness/usr/sbin/policy-rc.d"
            program.parent.mkdir(parents=True)
            program.write_text("#!/bin/sh\nexit 101\n")
            program.chmod(0o755)
            commit(scratch / "harness", final)
    os.utime(final)  # used now: gc keeps it
    return final


def _clamp_times(root: Path, epoch: int) -> None:
    """Give directories, and files newer than the epoch (seconds), the epoch as modification time.

    A directory's time says in which order its entries came, which packages unpacked side by side do not keep. Whiteouts
    are left alone.
    """
    for directory, names, files in os.walk(root, topdown=False):
        for name in (*names, *files):  # a link to a directory is among the names
            path = os.path.join(directory, name)  # noqa: PTH118 - many of them
            status = os.lstat(path)
            if status.st_mtime > epoch and not stat.S_ISCHR(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                os.utime(path, (epoch, epoch), follow_symlinks=False)
        os.utime(directory, (epoch, epoch))


@contextmanager
def golden_tree(shop: Workshop, plan: Plan) -> Iterator[Path]:
    """Mount all layers of a plan, read-only, for the time of the block: the golden tree."""
    with shop.cache.scratch("golden") as scratch:
        merged = scratch / "merged"
        merged.mkdir()
        for layer in plan.layers:
            os.utime(shop.layers / layer.key)  # used now: gc keeps it
        with overlay([shop.layers / layer.key / "fs" for layer in reversed(plan.layers)], merged):
            yield merged


def layer_seconds(shop: Workshop, plan: Plan) -> dict[str, float]:
    """Return how long each layer took when it was made."""
    return {layer.name: read_json(shop.layers / layer.key / "meta.json")["seconds"] for layer in plan.layers}
