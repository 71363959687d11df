"""From a recipe to a published image: the main line, as a table of contents."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from builder import __version__, console
from builder.build.archives import open_archive
from builder.build.base_image import obtain_image
from builder.build.layers import Workshop, golden_tree, is_of_packages, layer_seconds, make_layer
from builder.build.lock import Lock, read_fitting_lock, recipe_artifacts, resolve
from builder.build.plan import Plan, PlannedLayer, make_plan, remember_plan
from builder.emulation.mode import NONE, Emulation, can_use_native_tools, full_emulation, is_native, native_emulation
from builder.emulation.tools_tree import make_tools_tree, resolve_tools
from builder.errors import FetchError, HostError, StepError
from builder.host.artifacts import obtain
from builder.host.cache import Cache
from builder.host.dirmode import is_open
from builder.host.fetch import Patience
from builder.host.mounts import enter_namespaces
from builder.host.tree import compare
from builder.image.capabilities import can_mend
from builder.image.identity_signs import signs_in
from builder.image.ingest import ImagePlaces
from builder.image.open import open_image
from builder.image.partitions import DiskSpec
from builder.image.publish import Published, PublishRequest, find_published, publish
from builder.packages.apt import Access, Deb, is_present
from builder.printable import one_line
from builder.recipe.load import Recipe, load_recipe
from builder.recipe.schema import BaseImage
from builder.run import require_root
from builder.verify.entrance import can_log_in

KEYS = "authorized_keys"  # the variable of recipes/parts/access.yaml
_OPTIONAL = Patience(connect=5, read=20, attempts=1, most=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What the command line says of a build. `artifacts` are directories of hand-placed files."""

    settings: Mapping[str, str] = field(default_factory=dict)
    lock: Path | None = None
    emulation: Literal["auto", "native-tools", "full"] = "auto"
    verify_emulation: bool = False
    attach: str = "auto"
    strict: bool = False
    output: Path = Path("output")
    artifacts: tuple[Path, ...] = ()
    refresh: bool = False
    offline: bool = False
    emulation_log: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """A layer in the summary. `made` is whether this build made it; `seconds` is how long that took, then or now.

    `full_seconds` is how long it took fully emulated, None unless the build was verified.
    """

    name: str
    key: str
    made: bool
    seconds: float
    full_seconds: float | None = None

    def summary(self) -> str:
        """Return its line."""
        full = "" if self.full_seconds is None else f", fully emulated {self.full_seconds:.1f} s"
        return f"{self.name:<16}{self.seconds:>9.1f}  {'built' if self.made else 'cached'}{full}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build did. Times are seconds.

    `entrance` is whether a person can log in to the image as it is; `key_variable` whether the recipe has the variable
    of keys. `identities`: what packages seem to have made for one machine.
    """

    recipe: str
    published: Published
    layers: tuple[LayerReport, ...]
    emulation: str
    seconds: float
    publish_seconds: float
    missing: tuple[str, ...]
    differences: tuple[str, ...] | None
    entrance: bool
    key_variable: bool
    identities: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return what a person reads at the end: where, how big, how long, what next."""
        published = self.published
        lines = [f"{'layer':<16}{'seconds':>9}  state"]
        lines += [layer.summary() for layer in self.layers]
        lines.append(f"{'publish':<16}{self.publish_seconds:>9.1f}  {'unchanged' if published.reused else 'written'}")
        lines += ["", f"emulation  {self.emulation}"]
        lines += [
            f"missing    {url} (optional download unavailable; recorded in manifest.json)" for url in self.missing
        ]
        lines += [f"identity   {told}; every machine would have the same" for told in self.identities]
        if self.differences is not None:
            lines.append(f"verified   built both ways, {len(self.differences)} differences")
        link = published.directory.parent / "latest"
        lines += [
            f"digest     sha256:{published.digest}",
            *(f"file       {link / name} ({console.size(size)})" for name, size in published.files.items()),
            f"time       {self.seconds:.1f} s",
            "",
            f"next: pibuild boot {link}      start it under QEMU before anyone flashes it",
            f"      pibuild inspect {link}   what is in it",
        ]
        return "\n".join(lines)


def build_recipe(path: Path, options: BuildOptions, cache: Cache) -> Built:
    """Build a recipe and publish the image. Raises InputError, HostError, StepError, FetchError.

    The process goes on in namespaces of its own, which end with it.
    """
    begun = time.monotonic()
    recipe = load_recipe(path, options.settings)
    require_root("build")
    enter_namespaces()
    with console.working(), cache.room():
        cache.prepare()
        with cache.in_use():
            return _build(recipe, options, cache, begun)


def _build(recipe: Recipe, options: BuildOptions, cache: Cache, begun: float) -> Built:
    lock = _lock_of(recipe, options, cache)
    artifacts = _obtain_artifacts(recipe, options, cache)
    missing = tuple(a.url for sha, a in recipe_artifacts(recipe).items() if sha not in artifacts)
    plan = make_plan(recipe, lock, cache, artifacts=artifacts)
    request = _request(plan, Path("/"), options, missing)
    made: set[str] = set()
    shop = Workshop(cache=cache, layers=cache.layers, emulation=NONE, artifacts=artifacts, attach=options.attach)
    differences: tuple[str, ...] | None = None
    full: Mapping[str, float] = {}
    if not all(layer.cached for layer in plan.layers) or options.verify_emulation:
        with _downloads(plan, cache, options) as packages:
            with console.progress("tools and base"):
                shop = _open_workshop(plan, options, cache, artifacts)
            made = _make_layers(shop, plan, packages)
            if options.verify_emulation:
                differences, full = _verify(shop, plan, packages)
    else:
        for number, layer in enumerate(plan.layers, start=1):
            console.passed(f"layer {layer.name}", "cached", number=number, of=len(plan.layers))
    published = find_published(request) if not made else None
    publish_begun = time.monotonic()
    with golden_tree(shop, plan) as tree:
        entrance = can_log_in(tree)
        if published is None:
            with console.progress("publish"):
                published = publish(_request(plan, tree, options, missing))
                _report_capabilities(tree, published.capable)
        else:
            console.passed("publish", "unchanged")
            published = publish(_request(plan, tree, options, missing))
    remember_plan(plan, cache)
    times = layer_seconds(shop, plan)
    return Built(
        recipe=recipe.name,
        published=published,
        layers=tuple(
            LayerReport(
                name=x.name, key=x.key, made=x.name in made, seconds=times[x.name], full_seconds=full.get(x.name)
            )
            for x in plan.layers
        ),
        emulation=shop.emulation.mode if made else "not needed: every layer was cached",
        seconds=time.monotonic() - begun,
        publish_seconds=time.monotonic() - publish_begun,
        missing=missing,
        differences=differences,
        entrance=entrance,
        key_variable=KEYS in recipe.variables,
        identities=_unknown_identities(shop, plan, published),
    )


def _unknown_identities(shop: Workshop, plan: Plan, published: Published) -> tuple[str, ...]:
    """Return in words what packages' scripts seem to have made for one machine, and no table knows."""
    with open_image(published.directory) as image:
        signs = signs_in(image.root)
    return tuple(f"/{path} looks like {sign}" for path, sign in signs.items() if is_of_packages(shop, plan, path))


def _report_capabilities(tree: Path, capable: Sequence[str]) -> None:
    """Say what a node with an NFS root would lose."""
    files = ", ".join(f"/{one_line(path)}" for path in capable)
    if files and can_mend(tree):
        console.note(f"file capabilities, which NFS does not carry: {files}; a node that boots over it gets them back")
    elif files:
        console.warn(f"nodes that boot over NFS lose the capabilities of {files}: add libcap2-bin to the packages")


def _lock_of(recipe: Recipe, options: BuildOptions, cache: Cache) -> Lock:
    if options.lock is None:
        return resolve(recipe, cache, artifacts=options.artifacts, offline=options.offline, refresh=options.refresh)
    return read_fitting_lock(options.lock, recipe)


def _obtain_artifacts(recipe: Recipe, options: BuildOptions, cache: Cache) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for sha256, artifact in recipe_artifacts(recipe).items():
        patience = _OPTIONAL if artifact.optional else None
        wanted = artifact if not options.strict else type(artifact)(url=artifact.url, sha256=artifact.sha256)
        file = obtain(
            wanted, cache_dir=cache.artifacts, search=options.artifacts, patience=patience, offline=options.offline
        )
        if file is not None:
            found[sha256] = file
    return found


def _open_workshop(plan: Plan, options: BuildOptions, cache: Cache, artifacts: Mapping[str, Path]) -> Workshop:
    """Bring base image and native tools here, for the layers that have to be made."""
    return Workshop(
        cache=cache,
        layers=cache.layers,
        emulation=_choose_emulation(plan, options, cache),
        artifacts=artifacts,
        attach=options.attach,
        image=_base_image(plan, options, cache),
    )


@contextmanager
def _downloads(plan: Plan, cache: Cache, options: BuildOptions) -> Iterator[Mapping[str, Future[None]]]:
    """Download packages in the order of their layers while work goes on that does not need them yet.

    By layer: what to wait for before it is made. Raises FetchError there.
    """
    needed = {
        layer.name: [*(plan.lock.base.debs if layer is plan.layers[0] else ()), *_debs_of(layer)]
        for layer in plan.layers
        if options.verify_emulation or not layer.cached
    }
    # the lists were brought up to date when the lock was made
    access: Access = "offline" if options.offline else "known" if options.lock is None else "current"

    def download(debs: list[Deb]) -> None:
        missing = [deb for deb in debs if not is_present(cache.archives, deb)]
        if missing:
            distribution, suite = plan.lock.release
            open_archive(cache, distribution, suite, plan.recipe, "arm64", access=access).download(missing)

    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            yield {name: pool.submit(download, debs) for name, debs in needed.items()}
        finally:
            pool.shutdown(cancel_futures=True)


def _debs_of(layer: PlannedLayer) -> list[Deb]:
    return [deb for answer in layer.answers.values() for deb in answer.debs]


def _choose_emulation(plan: Plan, options: BuildOptions, cache: Cache) -> Emulation:
    if is_native() or options.emulation == "full":
        return full_emulation()
    if not can_use_native_tools():
        if options.emulation == "native-tools":
            raise HostError(
                "native tools need an x86-64 host with Linux 6.7 or newer", hint="--emulation full works here"
            )
        return full_emulation()
    try:
        distribution, suite = plan.lock.release
        access: Access = "offline" if options.offline else "current"
        apt = open_archive(cache, distribution, suite, plan.recipe, "amd64", access=access)
        console.step("native tools")
        return native_emulation(cache, make_tools_tree(cache, apt, resolve_tools(apt)), log=options.emulation_log)
    except FetchError as error:
        if options.emulation == "native-tools":
            raise
        console.warn(f"native tools are not available here, everything is emulated: {error.message.splitlines()[0]}")
        return full_emulation()


def _base_image(plan: Plan, options: BuildOptions, cache: Cache) -> Path | None:
    base = plan.recipe.base
    if not isinstance(base, BaseImage) or (plan.layers[0].cached and not options.verify_emulation):
        return None
    places = ImagePlaces(directory=plan.recipe.path.parent, cache=cache.artifacts, search=options.artifacts)
    return obtain_image(base, plan.lock.image, places, offline=options.offline)


def _make_layers(shop: Workshop, plan: Plan, packages: Mapping[str, Future[None]]) -> set[str]:
    made, count = set(), len(plan.layers)
    for number, layer in enumerate(plan.layers):
        if is_open(shop.layers / layer.key):
            console.passed(f"layer {layer.name}", "cached", number=number + 1, of=count)
            continue
        with console.progress(f"layer {layer.name}", number=number + 1, of=count):
            if not packages[layer.name].done():
                console.step("waits for its packages")
            packages[layer.name].result()
            make_layer(shop, plan, number)
        made.add(layer.name)
    return made


def _verify(
    shop: Workshop, plan: Plan, packages: Mapping[str, Future[None]]
) -> tuple[tuple[str, ...], Mapping[str, float]]:
    """Make every layer again, fully emulated, and compare the golden trees.

    Returns the differences (none) and how long each layer took. Raises StepError on a difference.
    """
    with shop.cache.scratch("verify") as scratch:
        other = Workshop(
            cache=shop.cache,
            layers=scratch,
            emulation=full_emulation(),
            artifacts=shop.artifacts,
            attach=shop.attach,
            image=shop.image,
        )
        console.note("verify: building every layer again, fully emulated")
        _make_layers(other, plan, packages)
        seconds = layer_seconds(other, plan)
        with golden_tree(shop, plan) as fast, golden_tree(other, plan) as slow:
            differences = tuple(str(difference) for difference in compare(fast, slow))
    if differences:
        shown = "\n".join(differences[:40])
        raise StepError(
            f"the two ways to build differ in {len(differences)} places:\n{shown}",
            hint="--emulation full is right; please report the paths above",
        )
    return differences, seconds


def _request(plan: Plan, tree: Path, options: BuildOptions, missing: tuple[str, ...]) -> PublishRequest:
    disk = plan.recipe.disk
    slack = disk.root.slack
    percent = slack.endswith("%")
    return PublishRequest(
        name=plan.recipe.name,
        tree=tree,
        disk=DiskSpec(
            boot_size=disk.boot.size,
            boot_label=disk.boot.label,
            boot_mount=disk.boot.mount,
            root_size=None if disk.root.size == "auto" else disk.root.size,
            slack_percent=int(slack[:-1]) if percent else 0,
            slack_bytes=0 if percent else disk.root.slack_bytes(0),
            root_label=disk.root.label,
            identify=disk.root.identify,
        ),
        key=plan.recipe.name,
        epoch=plan.lock.epoch,
        output=options.output,
        lock_text=plan.lock.to_text(),
        compress=tuple(disk.compress),
        tree_key=plan.key,
        manifest={
            "pibuild": __version__,
            "recipe": plan.recipe.name,
            "description": plan.recipe.description,
            "boards": list(plan.recipe.boards),
            "layers": [{"name": layer.name, "key": layer.key} for layer in plan.layers],
            "missing_artifacts": list(missing),
        },
        checksums={(deb.name, deb.version, deb.architecture): deb.sha256 for deb in plan.lock.packages},
    )
