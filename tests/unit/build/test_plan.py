"""Keys: everything that can change a layer is in its key, and nothing else."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.build.lock import Lock, prefixes_of, question_of
from builder.build.plan import BASE, FINISH, Plan, layer_key, make_plan, remember_plan
from builder.host.cache import Cache
from builder.packages.apt import Deb, Resolution
from builder.recipe.load import load_recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "plan_keys.json"
SHA = "5a" * 32
RECIPE = f"""\
name: fixture
description: what the keys are pinned for
variables:
  greeting: {{type: string, default: hello, description: what is said}}
base:
  bootstrap: {{distribution: debian, suite: trixie, mirror: auto, include: [systemd-sysv]}}
boards: [pi4]
disk:
  boot: {{size: 256M, label: bootfs, mount: /boot/firmware}}
  root: {{size: auto, slack: 15%, label: rootfs, identify: partuuid, grow: true}}
layers:
  - name: tools
    steps:
      - packages: {{install: [nano]}}
  - name: words
    steps:
      - files:
          - {{path: /etc/motd, source: motd}}
      - run: {{script: "echo {{{{ greeting }}}}"}}
      - run: {{script: "true"}}
  - name: extra
    steps:
      - download: {{url: "https://example.org/tool", sha256: {SHA}, path: /usr/bin/tool, optional: true}}
"""


def _deb(name: str, version: str = "1.0-1") -> Deb:
    return Deb(name=name, version=version, architecture="arm64", sha256=name * 2, size=1, filename=f"pool/{name}.deb")


LOCK = Lock(
    recipe="fixture",
    question="asked",
    epoch=1_700_000_000,
    base=Resolution(debs=(_deb("libc6"), _deb("systemd-sysv"))),
    image="",
    sources="Types: deb\n",
    steps={"tools/0": Resolution(debs=(_deb("nano"),), removes=("vim",))},
    release=("debian", "trixie"),
)
LAYERS = [BASE, "tools", "words", "extra", FINISH]


def _plan(
    directory: Path, *, text: str = RECIPE, lock: Lock = LOCK, motd: str = "welcome\n", artifacts: bool = False
) -> Plan:
    directory.mkdir(exist_ok=True)
    (directory / "motd").write_text(motd)
    recipe = directory / "fixture.yaml"
    recipe.write_text(text)
    present = {SHA: directory / "tool"} if artifacts else {}
    return make_plan(load_recipe(recipe), lock, Cache(directory / "cache"), artifacts=present)


def _first_difference(one: Plan, other: Plan) -> str | None:
    """Return the first layer with another key; every later one must have another key too."""
    keys = list(zip(one.layers, other.layers, strict=True))
    different = [mine.key != theirs.key for mine, theirs in keys]
    assert different == sorted(different), "a later layer kept its key"
    return next((mine.name for mine, theirs in keys if mine.key != theirs.key), None)


def test_the_keys_of_a_fixed_recipe_are_pinned(tmp_path: Path, golden: Callable[[Path, str], None]) -> None:
    """Raise a step's `version` or plan.ENGINE on purpose; never change keys by accident."""
    plan = _plan(tmp_path)
    golden(GOLDEN, json.dumps({layer.name: layer.key for layer in plan.layers}, indent=2) + "\n")
    assert [layer.name for layer in plan.layers] == LAYERS


@pytest.mark.parametrize(
    ("old", "new", "first"),
    [
        ("suite: trixie", "suite: bookworm", BASE),
        ("include: [systemd-sysv]", "include: [systemd-sysv, dbus]", BASE),
        ("install: [nano]", "install: [less]", "tools"),
        ("install: [nano]", "install: [nano], recommends: true", "tools"),
        ("path: /etc/motd", "path: /etc/issue", "words"),
        ("default: hello", "default: bye", "words"),
        ('"true"', '"true", network: true', "words"),
        ('"true"', '"true", environment: {A: b}', "words"),
        ("path: /usr/bin/tool", "path: /usr/bin/tool, mode: '0755'", "extra"),
        (SHA, "6b" * 32, "extra"),
        ("slack: 15%", "slack: 20%", FINISH),
        ("description: what the keys", "description: what other keys", None),
        ("mirror: auto", "mirror: http://mirror.example.org/debian", None),
        ("boards: [pi4]", "boards: [pi4, pi5]", None),
        ("layers:\n", "# a remark\n\nlayers:\n", None),
    ],
)
def test_a_change_of_the_recipe_changes_its_layer_and_the_later_ones(
    tmp_path: Path, old: str, new: str, first: str | None
) -> None:
    assert RECIPE.count(old) == 1
    assert _first_difference(_plan(tmp_path), _plan(tmp_path, text=RECIPE.replace(old, new))) == first


@pytest.mark.parametrize(
    ("lock", "first"),
    [
        (replace(LOCK, epoch=LOCK.epoch + 1), BASE),
        (replace(LOCK, image="7c" * 32), BASE),
        (replace(LOCK, sources="Types: deb\nURIs: elsewhere\n"), BASE),
        (replace(LOCK, base=Resolution(debs=LOCK.base.debs[:1])), BASE),
        (replace(LOCK, steps={"tools/0": Resolution(debs=(_deb("nano2"),), removes=("vim",))}), "tools"),
        (replace(LOCK, steps={"tools/0": Resolution(debs=(_deb("nano"),))}), "tools"),
        (replace(LOCK, recipe="another", question="another"), None),
    ],
)
def test_a_change_of_the_lock_changes_the_layers_it_serves(tmp_path: Path, lock: Lock, first: str | None) -> None:
    assert _first_difference(_plan(tmp_path), _plan(tmp_path, lock=lock)) == first


def test_a_file_s_content_and_its_executable_bit_are_in_the_key(tmp_path: Path) -> None:
    before = _plan(tmp_path)
    assert _first_difference(before, _plan(tmp_path, motd="go away\n")) == "words"
    (tmp_path / "motd").chmod(0o755)
    assert _first_difference(before, _plan(tmp_path)) == "words"


def test_an_optional_file_that_could_not_be_had_makes_another_layer(tmp_path: Path) -> None:
    assert _first_difference(_plan(tmp_path), _plan(tmp_path, artifacts=True)) == "extra"


def test_the_order_of_steps_is_in_the_key(tmp_path: Path) -> None:
    one, two = '      - run: {script: "echo {{ greeting }}"}\n', '      - run: {script: "true"}\n'
    assert _first_difference(_plan(tmp_path), _plan(tmp_path, text=RECIPE.replace(one + two, two + one))) == "words"


def test_another_checkout_makes_the_same_keys(tmp_path: Path) -> None:
    assert _first_difference(_plan(tmp_path / "here"), _plan(tmp_path / "there")) is None


def test_nothing_of_a_value_can_be_read_off_a_plan(tmp_path: Path) -> None:
    plan = _plan(tmp_path, text=RECIPE.replace("default: hello", "default: hunter2"), motd="hunter2")
    assert "hunter2" not in json.dumps([[layer.key, dict(layer.inputs), layer.changed] for layer in plan.layers])


@given(st.text(max_size=8), st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4), st.data())
def test_any_change_of_any_input_changes_the_key(parent: str, inputs: dict[str, str], data: st.DataObject) -> None:
    others = data.draw(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4))
    other_parent = data.draw(st.text(max_size=8))
    same = (parent, list(inputs.items())) == (other_parent, list(others.items()))
    assert (layer_key(parent, inputs) == layer_key(other_parent, others)) is same
    assert layer_key(parent, dict(inputs)) == layer_key(parent, inputs)


# ---------------------------------------------------------------------------------------- what is cached, and why not


def _build(plan: Plan, directory: Path) -> None:
    """Leave behind what a build leaves, as far as planning looks at it."""
    cache = Cache(directory / "cache")
    for layer in plan.layers:
        (cache.layers / layer.key / "fs").mkdir(parents=True, exist_ok=True)
    remember_plan(plan, cache)


def test_before_the_first_build_nothing_is_cached(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    assert plan.resolved
    assert {(layer.cached, layer.changed) for layer in plan.layers} == {(False, ("never built",))}


def test_after_a_build_all_is_cached(tmp_path: Path) -> None:
    _build(_plan(tmp_path), tmp_path)
    assert {(layer.cached, layer.changed) for layer in _plan(tmp_path).layers} == {(True, ())}


def test_a_plan_names_the_input_that_changed_with_its_place(tmp_path: Path) -> None:
    _build(_plan(tmp_path), tmp_path)
    plan = _plan(tmp_path, text="# one line more\n" + RECIPE, motd="go away\n")
    assert {layer.name: layer.changed for layer in plan.layers if not layer.cached} == {
        "words": ("files: what it reads (fixture.yaml:18)",),
        "extra": ("the layer below it",),
        FINISH: ("the layer below it",),
    }


def test_a_plan_says_what_is_gone_and_what_changed_places(tmp_path: Path) -> None:
    _build(_plan(tmp_path), tmp_path)
    without = _plan(tmp_path, text=RECIPE.replace('      - run: {script: "true"}\n', ""))
    assert without.layers[2].changed == ("run #2 (gone)",)
    cleared = _plan(tmp_path)
    os.rename(tmp_path / "cache/layers" / cleared.layers[1].key, tmp_path / "elsewhere")  # noqa: PTH104 - a directory
    assert _plan(tmp_path).layers[1].changed == ("not in the cache any more",)


def test_a_recipe_that_was_never_resolved_has_open_keys(tmp_path: Path) -> None:
    known = _plan(tmp_path)
    _build(known, tmp_path)
    plan = make_plan(known.recipe, None, Cache(tmp_path / "cache"))
    assert not plan.resolved
    assert not any(layer.cached for layer in plan.layers)
    assert plan.layers[1].answers == {}


def _remember(directory: Path, recipe: str) -> None:
    """Let the cache remember how the fixture was resolved, as `resolve` writes it."""
    loaded = load_recipe(directory / recipe)
    memo = {"release": "r", "lock": LOCK.to_text(), "prefixes": prefixes_of(loaded)}
    (directory / "cache/resolutions").mkdir(parents=True, exist_ok=True)
    (directory / f"cache/resolutions/{question_of(loaded)[:32]}.json").write_text(json.dumps(memo))


MINE = """\
name: mine
extends: [fixture.yaml]
layers:
  - name: mine
    steps:
      - packages: {install: [htop]}
  - name: after
    steps:
      - run: {script: "true"}
"""


def test_a_recipe_that_extends_a_built_one_is_known_up_to_its_first_new_packages(tmp_path: Path) -> None:
    known = _plan(tmp_path)
    _build(known, tmp_path)
    _remember(tmp_path, "fixture.yaml")
    (tmp_path / "mine.yaml").write_text(MINE)
    plan = make_plan(load_recipe(tmp_path / "mine.yaml"), None, Cache(tmp_path / "cache"))
    common = known.layers[:-1]
    assert [(layer.key, layer.cached) for layer in plan.layers[: len(common)]] == [(one.key, True) for one in common]
    assert [(layer.name, layer.final, layer.cached) for layer in plan.layers[len(common) :]] == [
        ("mine", False, False), ("after", False, False), (FINISH, False, False),
    ]  # fmt: skip
    assert not plan.resolved


@pytest.mark.parametrize(
    ("change", "known"),
    [
        (("suite: trixie", "suite: bookworm"), []),
        (("include: [systemd-sysv]", "include: [systemd-sysv, vim]"), []),
        (("install: [nano]", "install: [nano, vim]"), [BASE]),
        (("default: hello", "default: hallo"), LAYERS),
    ],
)
def test_what_is_asked_otherwise_is_not_taken_for_known(
    change: tuple[str, str], known: list[str], tmp_path: Path
) -> None:
    _build(_plan(tmp_path), tmp_path)
    _remember(tmp_path, "fixture.yaml")
    text = RECIPE.replace(*change)
    assert text != RECIPE
    (tmp_path / "other.yaml").write_text(text)
    plan = make_plan(load_recipe(tmp_path / "other.yaml"), None, Cache(tmp_path / "cache"))
    assert [layer.name for layer in plan.layers if layer.final] == known


def test_a_source_more_may_change_any_answer(tmp_path: Path) -> None:
    _build(_plan(tmp_path), tmp_path)
    _remember(tmp_path, "fixture.yaml")
    (tmp_path / "key.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    source = "{name: more, uris: [https://example.org/debian], suites: [trixie], components: [main], key: key.asc}"
    (tmp_path / "mine.yaml").write_text(MINE.replace("[htop]", f"[htop], sources: [{source}]"))
    plan = make_plan(load_recipe(tmp_path / "mine.yaml"), None, Cache(tmp_path / "cache"))
    assert not any(layer.final for layer in plan.layers)


def test_planning_writes_nothing(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    make_plan(plan.recipe, None, Cache(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


# ------------------------------------------------------------------------- any layers, any changes, any of them dropped


def _numbered(directory: Path, steps: list[str], versions: list[int]) -> Plan:
    """Return the plan of a recipe whose layers have a step each: the same number makes the same layer."""
    layers = [f'  - name: l{i}\n    steps:\n      - run: {{script: "{step} {version}"}}\n'
              for i, (step, version) in enumerate(zip(steps, versions, strict=True))]  # fmt: skip
    (directory / "fixture.yaml").write_text(RECIPE[: RECIPE.index("layers:")] + "layers:\n" + "".join(layers))
    return make_plan(load_recipe(directory / "fixture.yaml"), LOCK, Cache(directory / "cache"), artifacts={})


@given(st.data())
def test_a_layer_is_cached_by_its_key_alone_and_a_plan_says_why_one_is_not(data: st.DataObject) -> None:
    """A changed layer and all above it are new; one that is gone from the cache is made again, those above it stay."""
    count = data.draw(st.integers(1, 5))
    steps, numbers = [f"echo {i}" for i in range(count)], st.sets(st.integers(0, count - 1))
    touched, gone, closed = data.draw(numbers), data.draw(numbers), data.draw(numbers)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        before = _numbered(directory, steps, [0] * count)
        _build(before, directory)
        layers = Cache(directory / "cache").layers
        for i in gone:
            (layers / before.layers[i + 1].key).rename(directory / f"gone-{i}")
        for i in closed - gone:
            (layers / before.layers[i + 1].key).chmod(0o700)  # of another umask
        plan = _numbered(directory, steps, [int(i in touched) for i in range(count)])
    first = min(touched, default=count + 1)
    below = True  # the base is there
    assert plan.layers[0].cached
    for i, layer in enumerate(plan.layers[1:]):  # the finish is the last
        assert layer.cached == (i < first and i not in gone | closed)
        if layer.cached:
            assert layer.changed == ()
        elif i in touched:
            assert [change.partition(" (")[0] for change in layer.changed] == ["run"]
        else:
            assert layer.changed == ("not in the cache any more" if below else "the layer below it",)
        below = layer.cached
