from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from builder.errors import InputError, Problem
from builder.recipe.json_schema import recipe_schema
from builder.recipe.load import Recipe, load_recipe
from builder.recipe.schema import BaseImage, Bootstrap, RootPartition, parse_size
from builder.recipe.steps.base import Place, Step, Target


class _Kind(Step):
    def inputs(self, at: Place) -> object:  # noqa: ARG002
        return None

    def apply(self, target: Target, at: Place) -> None:
        raise NotImplementedError


class _Say(_Kind):
    """Stands for a kind of step whose value is a mapping."""

    raw_fields: ClassVar[frozenset[str]] = frozenset({"content"})

    text: str | list[str] = ""
    times: int = 1
    loud: bool = False
    content: str = ""

    def check(self, at: Place) -> list[Problem]:
        wrong = Problem(message="say: nothing to say") if not self.text else None
        missing = not (at.directory / "voice").is_file() if self.loud else False
        return [*([wrong] if wrong else []), *([Problem(message="say: no voice", mark=at.mark)] if missing else [])]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    to: str


class _Files(_Kind):
    """Stands for a kind of step whose value is a list."""

    list_field: ClassVar[str] = "files"

    files: list[_File]


_KINDS: dict[str, type[Step]] = {"say": _Say, "files": _Files}
_BASE = "name: base\nbase: {bootstrap: {distribution: debian, suite: trixie}}\n"


def _write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory / f"{next(reversed(files))}.yaml"


def _load(directory: Path, settings: dict[str, str] | None = None, **files: str) -> Recipe:
    return load_recipe(_write(directory, **files), settings, kinds=_KINDS)


def _problems(directory: Path, settings: dict[str, str] | None = None, **files: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        _load(directory, settings, **files)
    return [str(problem).replace(f"{directory}/", "") for problem in caught.value.problems]


def _texts(recipe: Recipe) -> dict[str, Any]:
    return {layer.name: [step.step.model_dump().get("text") for step in layer.steps] for layer in recipe.layers}


def test_a_small_recipe_has_the_usual_around_it(tmp_path: Path) -> None:
    recipe = _load(tmp_path, base=_BASE)
    assert recipe.name == "base"
    assert recipe.path == tmp_path / "base.yaml"
    assert recipe.files == (tmp_path / "base.yaml",)
    assert isinstance(recipe.base, Bootstrap)
    assert (recipe.base.architecture, recipe.base.mirror, recipe.base.components) == ("arm64", "auto", ("main",))
    assert recipe.boards == ("pi4",)
    assert recipe.disk.boot.size == 256 * 1024**2
    assert recipe.disk.boot.mount == "/boot/firmware"
    assert recipe.disk.root.size == "auto"
    assert recipe.disk.compress == ("zst",)
    assert (recipe.epoch, recipe.layers, dict(recipe.variables)) == (None, (), {})


def test_steps_know_where_they_stand(tmp_path: Path) -> None:
    text = (
        _BASE + "layers:\n  - name: one\n    steps:\n      - say: {text: hello}\n      - files: [{to: /a}, {to: /b}]\n"
    )
    (layer,) = _load(tmp_path, base=text).layers
    said, files = layer.steps
    assert layer.mark.line == 4
    assert (said.kind, files.kind) == ("say", "files")
    assert (said.place.directory, said.place.mark.line, said.place.mark.column) == (tmp_path, 6, 9)
    assert files.step == _Files(files=[_File(to="/a"), _File(to="/b")])


_PARENT = (
    _BASE
    + """
description: a base
variables:
  greeting: {type: string, default: hello, description: what is said}
  count: {type: integer, default: 2}
disk: {boot: {size: 512M, label: BOOT}, compress: [zst, xz]}
layers:
  - {name: one, steps: [say: {text: one of the base}]}
  - {name: two, steps: [say: {text: "{{ greeting }}"}]}
"""
)


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    child = """
name: child
extends: [base.yaml]
variables: {greeting: {default: good day}}
disk: {boot: {label: CHILD}, compress: [xz]}
layers:
  - {name: three, steps: [say: {text: three}]}
  - {name: one, steps: [say: {text: one of the child}]}
"""
    recipe = _load(tmp_path, base=_PARENT, child=child)
    assert (recipe.name, recipe.description) == ("child", "")  # not inherited
    assert recipe.files == (tmp_path / "base.yaml", tmp_path / "child.yaml")
    assert (recipe.disk.boot.size, recipe.disk.boot.label, recipe.disk.compress) == (512 * 1024**2, "CHILD", ("xz",))
    assert list(_texts(recipe).items()) == [
        ("one", ["one of the child"]),
        ("two", ["good day"]),
        ("three", ["three"]),
    ]
    assert recipe.variables == {"greeting": "good day", "count": 2}


def test_places_start_from_the_file_a_step_stands_in(tmp_path: Path) -> None:
    (tmp_path / "parents").mkdir()
    (tmp_path / "parents" / "voice").touch()
    _write(tmp_path / "parents", base=_BASE + "layers: [{name: one, steps: [say: {text: x, loud: true}]}]\n")
    recipe = _load(tmp_path, child="name: child\nextends: [parents/base.yaml]\n")
    assert recipe.layers[0].steps[0].place.directory == tmp_path / "parents"


def test_dropped_layers_are_gone_and_may_come_again_at_the_end(tmp_path: Path) -> None:
    child = "name: child\nextends: [base.yaml]\ndrop: [one]\nlayers: [{name: one, steps: [say: {text: anew}]}]\n"
    assert list(_texts(_load(tmp_path, base=_PARENT, child=child)).items()) == [("two", ["hello"]), ("one", ["anew"])]


def test_dropping_what_is_not_there_is_a_problem(tmp_path: Path) -> None:
    child = "name: child\nextends: [base.yaml]\ndrop: [oen]\n"
    assert _problems(tmp_path, base=_PARENT, child=child) == [
        "child.yaml:3:8: cannot drop layer 'oen': no extended recipe has it; did you mean 'one'?"
    ]


def test_a_file_extended_on_two_ways_is_stacked_once(tmp_path: Path) -> None:
    left = "extends: [base.yaml]\nlayers: [{name: one, steps: [say: {text: left}]}]\n"
    right = "extends: [base.yaml]\nboards: [pi5]\n"
    recipe = _load(
        tmp_path, base=_PARENT, left=left, right=right, child="name: child\nextends: [left.yaml, right.yaml]\n"
    )
    assert _texts(recipe)["one"] == ["left"]
    assert recipe.boards == ("pi5",)
    assert [path.stem for path in recipe.files] == ["base", "left", "right", "child"]


def test_another_kind_of_base_replaces_the_inherited_one(tmp_path: Path) -> None:
    (tmp_path / "my.img.xz").touch()
    image = f"base: {{image: {{path: my.img.xz, sha256: {'A' * 64}}}}}\n"
    recipe = _load(tmp_path, base=_PARENT, child="name: child\nextends: [base.yaml]\n" + image)
    assert recipe.base == BaseImage(path=tmp_path / "my.img.xz", sha256="a" * 64)
    assert isinstance(recipe.base, BaseImage)
    assert recipe.base.format == "img.xz"


def test_part_of_a_bootstrap_can_be_replaced(tmp_path: Path) -> None:
    child = "name: child\nextends: [base.yaml]\nbase: {bootstrap: {suite: forky}}\n"
    base = _load(tmp_path, base=_PARENT, child=child).base
    assert isinstance(base, Bootstrap)
    assert (base.distribution, base.suite) == ("debian", "forky")


def test_recipes_that_extend_each_other_are_a_problem(tmp_path: Path) -> None:
    files = {"a": "extends: [b.yaml]\n", "b": _BASE + "extends: [c.yaml]\n", "c": "name: c\nextends: [a.yaml]\n"}
    (said,) = _problems(tmp_path, None, **files, child="name: child\nextends: [a.yaml]\n")
    assert said == "c.yaml:2:11: recipes that extend each other: a.yaml → b.yaml → c.yaml → a.yaml"


def test_problems_of_all_files_come_at_once_the_recipe_first(tmp_path: Path) -> None:
    base = _BASE + "bords: [pi4]\ndisk: {root: {grow: no}}\n"
    child = "name: child\nextends: [base.yaml]\nepoch: yesterday\nepoch: 3\n"
    assert [line.split("\n")[0] for line in _problems(tmp_path, base=base, child=child)] == [
        "child.yaml:3:1: epoch: expected seconds since 1970, not 'yesterday'",
        "child.yaml:4:1: key 'epoch' is given twice; the first is in line 3",
        "base.yaml:3:1: unknown key 'bords'; did you mean 'boards'?",
        "base.yaml:4:15: disk.root.grow: expected true or false, not the text 'no'",
    ]


def test_a_missing_recipe_is_said_alone(tmp_path: Path) -> None:
    child = "extends: [bose.yaml, sub/x.yaml]\nlayers: [{name: one, steps: [say: {text: '{{ of_base }}'}]}]\n"
    assert _problems(tmp_path, base=_PARENT, child=child) == [
        "child.yaml:1:11: no such recipe: bose.yaml; did you mean 'base.yaml'?",
        (
            "child.yaml:1:22: no such recipe: sub/x.yaml\n"
            "    hint: paths start from the recipe's own directory; looked for sub/x.yaml"
        ),
    ]


def test_a_step_that_is_a_list_is_named_as_it_is_written(tmp_path: Path) -> None:
    text = _BASE + "layers:\n  - name: one\n    steps:\n    - files: [{too: x}]\n    - files: {to: x}\n    - say:\n"
    assert _problems(tmp_path, base=text) == [
        "base.yaml:6:16: unknown key 'too' in files entry; did you mean 'to'?",
        "base.yaml:7:7: files: expected a list, not a mapping\n    hint: begin each entry with '- '",
        "base.yaml:8:7: say: nothing is given",
    ]


_VARIABLES = (
    _BASE
    + """
variables:
  word: {default: hello}
  count: {type: integer, default: 2}
  loud: {type: boolean, default: false}
  words: {type: list, default: [a, b]}
  both: {default: "{{ word }}, {{ count }} times"}
layers:
  - name: one
    steps:
      - say: {text: TEXT}
"""
)


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("'{{ word }} world'", "hello world"),
        ("'{{ word }}'", "hello"),
        ("'{{ words }}'", ["a", "b"]),
        ("[x, '{{ word }}']", ["x", "hello"]),
        ("'{{ words | join(\" \") }}'", "a b"),
        ("'{{ both }}'", "hello, 2 times"),
        ("'loud={{ loud }}'", "loud=false"),
        ("'${#x} {%s} {{ \"{{\" }} x }}'", "${#x} {%s} {{ x }}"),
        ('"{{ word }}\\n"', "hello\n"),
    ],
)
def test_strings_take_variables(tmp_path: Path, text: str, rendered: object) -> None:
    recipe = _load(tmp_path, base=_VARIABLES.replace("TEXT", text))
    assert recipe.layers[0].steps[0].step.model_dump()["text"] == rendered


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("'{{ wrod }}'", "base.yaml:13:15: undefined variable 'wrod'; did you mean 'word'?"),
        (
            "'{{ zone }}'",
            "base.yaml:13:15: undefined variable 'zone'\n    hint: declare it: variables: {zone: {default: …}}",
        ),
        (
            "'docker ps --format {{.Names}}'",
            (
                "base.yaml:13:15: cannot read {{ … }}: unexpected '.'\n"
                "    hint: two braces that stand for themselves are written {{ '{{' }}"
            ),
        ),
        (
            "'x {{ words }}'",
            "base.yaml:13:15: a list inside a text\n    hint: write {{ name | join(' ') }}",
        ),
        (
            "'{{ word.__class__ }}'",
            "base.yaml:13:15: cannot work out {{ … }}: access to attribute '__class__' of 'str' object is unsafe.",
        ),
        ("'{{ 1 // 0 }}'", "base.yaml:13:15: cannot work out {{ … }}: integer division or modulo by zero"),
        ("'{{ word.x }}'", "base.yaml:13:15: cannot work out {{ … }}: 'str object' has no attribute 'x'"),
    ],
)
def test_what_cannot_be_rendered_is_a_problem_at_its_place(tmp_path: Path, text: str, said: str) -> None:
    assert _problems(tmp_path, base=_VARIABLES.replace("TEXT", text)) == [said]


def test_a_typed_variable_keeps_its_type(tmp_path: Path) -> None:
    text = _VARIABLES.replace("TEXT", "x, times: '{{ count }}', loud: '{{ loud }}', content: '{{ anything }}'")
    assert _load(tmp_path, {"count": "7"}, base=text).layers[0].steps[0].step == _Say(
        text="x", times=7, loud=False, content="{{ anything }}"
    )


def test_the_command_line_sets_variables(tmp_path: Path) -> None:
    said = {"word": "{{ x }}", "count": "-3", "loud": "false", "words": "x, y"}
    recipe = _load(tmp_path, said, base=_VARIABLES.replace("TEXT", "x"))
    assert recipe.variables == {
        "word": "{{ x }}",
        "count": -3,
        "loud": False,
        "words": ["x", "y"],
        "both": "{{ x }}, -3 times",
    }


def test_what_is_wrong_on_the_command_line_says_so(tmp_path: Path) -> None:
    said = {"wrod": "x", "count": "many", "loud": "yes"}
    assert _problems(tmp_path, said, base=_VARIABLES.replace("TEXT", "'{{ count }}{{ loud }}'")) == [
        "--set wrod=x: unknown variable 'wrod'; did you mean 'word'?",
        "--set count=many: 'count' wants a whole number\n    hint: --set count=3",
        "--set loud=yes: 'loud' wants true or false\n    hint: --set loud=true",
    ]


def test_a_variable_without_a_value_must_be_set(tmp_path: Path) -> None:
    text = _BASE + "variables: {key: {type: integer}}\n"
    assert _problems(tmp_path, base=text) == [
        "base.yaml:3:13: variable 'key' has no value\n    hint: give it a default, or --set key=3"
    ]
    assert _load(tmp_path, {"key": "4"}, base=text).variables == {"key": 4}


def test_a_step_is_checked_beyond_its_types(tmp_path: Path) -> None:
    text = _BASE + "layers:\n  - name: one\n    steps:\n    - say: {loud: true}\n    - say: {loud: 3}\n"
    assert _problems(tmp_path, base=text) == [
        "base.yaml:6:7: say: nothing to say",
        "base.yaml:6:7: say: no voice",
        "base.yaml:7:13: say.loud: expected true or false, not the number 3",
    ]


@pytest.mark.parametrize(("text", "size"), [("1K", 1024), ("256M", 2**28), ("4G", 2**32), ("2T", 2**41)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["0M", "256", "256 M", "256MB", "1.5G", "-1M", "3T", "", None, True, 256])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match=r"size|more than"):
        parse_size(text)


def test_slack_is_a_share_or_a_size() -> None:
    assert RootPartition(slack="15%").slack_bytes(1000) == 150
    assert RootPartition(slack="1K").slack_bytes(1000) == 1024


def test_the_schema_knows_every_key_and_kind() -> None:
    schema = recipe_schema(_KINDS)
    definitions = schema["$defs"]
    assert schema["$ref"] == "#/$defs/RecipeDocument"
    assert set(definitions["RecipeDocument"]["properties"]) >= {"name", "extends", "drop", "layers", "base", "disk"}
    assert definitions["RecipeDocument"]["additionalProperties"] is False
    steps = definitions["LayerDocument"]["properties"]["steps"]["anyOf"][0]["items"]["oneOf"]
    assert [list(step["properties"]) for step in steps] == [["say"], ["files"]]
    assert steps[0]["properties"]["say"] == {"$ref": "#/$defs/_Say"}
    listed, mapping = steps[1]["properties"]["files"]["anyOf"]
    assert mapping == {"$ref": "#/$defs/_Files"}
    assert listed["anyOf"][0]["type"] == "array"
    assert {"type": "string", "pattern": r"\{\{.*\}\}"} in definitions["_Say"]["properties"]["loud"]["anyOf"]
    assert definitions["BootPartition"]["properties"]["size"]["anyOf"][0]["type"] == "string"


_NAMES = st.sampled_from(["a", "b", "c", "d"])
_LAYERS = st.lists(_NAMES, unique=True, max_size=4)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parents=st.lists(_LAYERS, min_size=1, max_size=3), dropped=st.sets(_NAMES))
def test_layers_of_stacked_recipes(tmp_path: Path, parents: list[list[str]], dropped: set[str]) -> None:
    def layers(names: list[str], by: str) -> str:
        return f"layers: [{', '.join(f'{{name: {name}, steps: [say: {{text: {by}}}]}}' for name in names)}]\n"

    files = {f"p{index}": _BASE + layers(names, f"p{index}") for index, names in enumerate(parents)}
    inherited = list(dict.fromkeys(name for names in parents for name in names))
    drop = sorted(dropped & set(inherited))
    child = f"name: child\nextends: [{', '.join(f'{name}.yaml' for name in files)}]\ndrop: [{', '.join(drop)}]\n"
    texts = _texts(_load(tmp_path, None, **files, child=child))
    assert list(texts) == [name for name in inherited if name not in drop]
    for name, (text,) in texts.items():
        assert text == max(by for by, names in zip(files, parents, strict=True) if name in names)


def test_paths_count_from_the_recipe_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the recipe is named by a relative path: the base image's and the keyrings'."""
    home = tmp_path / "recipes"
    home.mkdir()
    (home / "base.img").touch()
    (home / "keys.gpg").touch()
    image = f"image: {{path: base.img, sha256: {'0' * 64}}}"
    (home / "image.yaml").write_text(f"name: image\nbase: {{{image}}}\n")
    bootstrap = "bootstrap: {distribution: debian, suite: trixie, keyring: keys.gpg}"
    (home / "bootstrap.yaml").write_text(f"name: bootstrap\nbase: {{{bootstrap}}}\n")
    monkeypatch.chdir(tmp_path)
    base = load_recipe(Path("recipes/image.yaml")).base
    assert isinstance(base, BaseImage)
    assert Path("recipes") / (base.path or "") == home / "base.img"
    other = load_recipe(Path("recipes/bootstrap.yaml")).base
    assert isinstance(other, Bootstrap)
    assert other.keyring == home / "keys.gpg"


def test_a_recipe_extends_one_that_comes_with_pibuild_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nextends: [golden, parts/watchdog]\n")
    recipe = load_recipe(path)
    assert recipe.name == "mine"
    assert [layer.name for layer in recipe.layers][-1] == "watchdog"
    assert "access" in [layer.name for layer in recipe.layers]


@pytest.mark.parametrize(
    ("name", "said"),
    [("goldne", "did you mean 'golden'?"), ("parts/watchdg", "did you mean 'parts/watchdog'?"), ("../golden", "")],
)
def test_a_name_that_no_shipped_recipe_has_is_refused(name: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nextends: ['{name}']\n")
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert f"mine.yaml:2:11: no such recipe: {name}" in str(caught.value)
    assert said in str(caught.value)


def test_a_kind_that_does_not_say_what_its_result_depends_on_does_not_load() -> None:
    class Silent(Step):
        def apply(self, target: Target, at: Place) -> None:
            raise NotImplementedError

    with pytest.raises(TypeError, match="inputs"):
        Silent()  # type: ignore[abstract]
