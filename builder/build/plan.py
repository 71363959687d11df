"""What a build would do: every layer's key, whether it is cached and, if not, which input changed.

A key is the hash of everything that can change the layer's result: the parent's key, each step's kind, fields, inputs
and implementation version, the packages it resolved to, which optional artifacts there are, the engine's version. Where
a recipe lies, and on which of its lines a step stands, are not in it. Planning needs no root and, once resolved, no
network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.build.lock import Lock, base_question, recipe_artifacts, remembered, remembered_in_part
from builder.host.cache import Cache, read_json, write_json
from builder.host.dirmode import is_open
from builder.host.hashing import digest_of
from builder.packages.apt import Resolution
from builder.recipe.load import Recipe, RecipeLayer, RecipeStep
from builder.recipe.steps.packages import PackagesStep

ENGINE = 8  # raised when the engine makes another layer of the same inputs
FINISHING = 1  # raised when the last layer becomes another of the same layers below
BASE, FINISH = "base", "finish"
UNRESOLVED = "unresolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLayer:
    """A layer to come.

    `final`: its key is known, as all versions are up to it. `changed` names the inputs that differ from the last build
    of this recipe. `steps` are empty for the first and the last layer, which the engine makes itself; `answers` maps a
    packages step's index to what it resolved to.
    """

    name: str
    key: str
    cached: bool
    final: bool
    changed: tuple[str, ...]
    inputs: Mapping[str, str]
    steps: tuple[RecipeStep, ...] = ()
    answers: Mapping[int, Resolution] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All layers of a recipe, in order. `resolved` is false for one that no archive was ever asked for."""

    recipe: Recipe
    lock: Lock
    layers: tuple[PlannedLayer, ...]

    @property
    def key(self) -> str:
        """The key of the whole golden tree."""
        return self.layers[-1].key

    @property
    def resolved(self) -> bool:
        """Whether all versions are known. The layers from the first on whose are not count as not cached."""
        return self.layers[-1].final


def make_plan(recipe: Recipe, lock: Lock | None, cache: Cache, *, artifacts: Mapping[str, Path] | None = None) -> Plan:
    """Return the plan of a recipe as a lock resolves it; without one, as it was last resolved.

    `artifacts` are the files that are there, by checksum; None looks into the cache. Of a recipe that was never
    resolved, the layers that it has in common with one that was are known; from the first new packages on, keys are
    open and layers count as not cached.
    """
    known = lock or remembered(recipe, cache) or remembered_in_part(recipe, cache) or _unresolved(recipe)
    present = artifacts if artifacts is not None else _cached_artifacts(recipe, cache)
    before = read_json(_record(recipe, cache)) or {}
    layers: list[PlannedLayer] = []

    def add(name: str, inputs: dict[str, str], layer: RecipeLayer | None = None) -> None:
        key = layer_key(layers[-1].key if layers else "", inputs)
        steps = layer.steps if layer else ()
        asked = [f"{name}/{i}" for i, step in enumerate(steps) if isinstance(step.step, PackagesStep)]
        below = layers[-1].final if layers else known.question != UNRESOLVED
        final = below and all(one in known.steps for one in asked)
        cached = final and is_open(cache.layers / key)  # else of another umask
        places = _places(layer)
        changed = () if cached else _changes(inputs, before.get(name), parent_cached=not layers or layers[-1].cached)
        count = len(layer.steps) if layer else 0
        layers.append(
            PlannedLayer(
                name=name,
                key=key,
                cached=cached,
                final=final,
                changed=tuple(f"{change}{places.get(change.partition(':')[0], '')}" for change in changed),
                inputs=inputs,
                steps=layer.steps if layer else (),
                answers={i: known.steps[f"{name}/{i}"] for i in range(count) if f"{name}/{i}" in known.steps},
            )
        )

    add(BASE, _base_inputs(recipe, known))
    for layer in recipe.layers:
        add(layer.name, _layer_inputs(layer, known, present), layer)
    add(
        FINISH,
        {"version": str(FINISHING), "disk": digest_of(recipe.disk.model_dump(mode="json")), "recipe": recipe.name},
    )
    return Plan(recipe=recipe, lock=known, layers=tuple(layers))


def layer_key(parent: str, inputs: Mapping[str, str]) -> str:
    """Return a layer's key (32 hex digits) from its parent's and its inputs, whose order counts."""
    return digest_of([ENGINE, parent, list(inputs.items())])[:32]


def remember_plan(plan: Plan, cache: Cache) -> None:
    """Write down what was built, so that a later plan can say what changed."""
    write_json(_record(plan.recipe, cache), {layer.name: dict(layer.inputs) for layer in plan.layers})


def _record(recipe: Recipe, cache: Cache) -> Path:
    return cache.resolutions / f"built-{digest_of(str(recipe.path.resolve()))[:32]}.json"


def _unresolved(recipe: Recipe) -> Lock:
    return Lock(recipe=recipe.name, question=UNRESOLVED, epoch=0, base=Resolution(debs=()), image="", sources="")


def _cached_artifacts(recipe: Recipe, cache: Cache) -> dict[str, Path]:
    return {sha: cache.artifacts / sha for sha in recipe_artifacts(recipe) if (cache.artifacts / sha).is_file()}


def _base_inputs(recipe: Recipe, lock: Lock) -> dict[str, str]:
    return {
        "base": digest_of(base_question(recipe.base)),
        "base packages": _debs(lock.base),
        "image": lock.image,
        "image's apt sources": digest_of(lock.sources),
        "epoch": str(lock.epoch),
    }


def _labels(layer: RecipeLayer) -> list[str]:
    """Return a name for each step that is the same wherever in the file it stands: `run`, `run #2`."""
    seen: Counter[str] = Counter()
    labels = []
    for step in layer.steps:
        seen[step.kind] += 1
        labels.append(step.kind if seen[step.kind] == 1 else f"{step.kind} #{seen[step.kind]}")
    return labels


def _places(layer: RecipeLayer | None) -> dict[str, str]:
    if layer is None:
        return {}
    marks = [step.place.mark for step in layer.steps]
    return {label: f" ({mark.file.name}:{mark.line})" for label, mark in zip(_labels(layer), marks, strict=True)}


def _layer_inputs(layer: RecipeLayer, lock: Lock, present: Mapping[str, Path]) -> dict[str, str]:
    inputs: dict[str, str] = {}
    for index, (label, step) in enumerate(zip(_labels(layer), layer.steps, strict=True)):
        inputs[label] = digest_of([step.kind, step.step.version, step.step.model_dump(mode="json")])
        read = step.step.inputs(step.place)
        if read is not None:
            inputs[f"{label}: what it reads"] = digest_of(read)
        answer = lock.steps.get(f"{layer.name}/{index}")
        if answer is not None:
            inputs[f"{label}: versions"] = _debs(answer)
        files = ["present" if one.sha256.lower() in present else "absent" for one in step.step.artifacts()]
        if files:
            inputs[f"{label}: what can be had"] = " ".join(files)
    return inputs


def _debs(answer: Resolution) -> str:
    return digest_of([[deb.sha256 for deb in answer.debs], list(answer.removes)])


def _changes(now: Mapping[str, str], before: Mapping[str, str] | None, *, parent_cached: bool) -> tuple[str, ...]:
    """Return what differs from the last build; a layer that is the same as then follows the one below it."""
    if before is None:
        return ("never built",)
    found = [
        *(name for name in now if now[name] != before.get(name)),
        *(f"{name} (gone)" for name in before if name not in now),
    ]
    if not found and list(now) != list(before):
        found = ["the order of the steps"]
    return tuple(found) or (("not in the cache any more",) if parent_cached else ("the layer below it",))
