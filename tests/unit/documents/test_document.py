from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict

from builder.documents.document import Document, in_file_order, load, merge, validate
from builder.errors import InputError, Mark, Problem


def _load(directory: Path, text: str) -> Document:
    path = directory / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def _messages(directory: Path, text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        _load(directory, text)
    return [str(problem).replace(f"{directory}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("''", ""),
        ("12", 12),
        ("-12", -12),
        ("0o17", 15),
        ("0x1F", 31),
        ("0755", "0755"),
        ("755", 755),
        ("1_000", "1_000"),
        ("3.10", 3.1),
        ("1e3", 1000.0),
        ("+.5", 0.5),
        ("-.inf", -math.inf),
        ("12:34:56", "12:34:56"),
        ("dc:a6:32:01:02:03", "dc:a6:32:01:02:03"),
        ("2025-01-01", "2025-01-01"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    loaded = _load(tmp_path, f"key: {text}\n").value["key"]
    assert loaded == value
    assert type(loaded) is type(value)


def test_not_a_number_is_a_float(tmp_path: Path) -> None:
    assert math.isnan(_load(tmp_path, "key: .nan").value["key"])


def test_keys_are_text(tmp_path: Path) -> None:
    assert _load(tmp_path, "8080: a\nno: b\nnull: c\n").value == {"8080": "a", "no": "b", "null": "c"}


def test_every_value_has_its_place(tmp_path: Path) -> None:
    document = _load(tmp_path, "a:\n  b: [1, 22]\nc:\n  - d: 1\n")
    places = {path: (mark.line, mark.column) for path, mark in document.marks.items()}
    assert places == {
        (): (1, 1),
        ("a",): (1, 1),
        ("a", "b"): (2, 3),
        ("a", "b", 0): (2, 7),
        ("a", "b", 1): (2, 10),
        ("c",): (3, 1),
        ("c", 0): (4, 5),
        ("c", 0, "d"): (4, 5),
    }
    assert document.mark(("a", "b", 7, "x")).line == 2
    assert document.at("c", 0).value == {"d": 1}
    assert document.at("c", 0).mark(("d",)).line == 4


def test_an_anchored_value_is_shared(tmp_path: Path) -> None:
    assert _load(tmp_path, "a: &x [1]\nb: *x\n").value == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["file.yaml:1:1: the file is empty"]),
        ("# nothing\n", ["file.yaml:1:1: the file holds nothing but comments"]),
        (
            "a: 1\nb: 2\na: 3\nb: 4\n",
            [
                "file.yaml:3:1: key 'a' is given twice; the first is in line 1",
                "file.yaml:4:1: key 'b' is given twice; the first is in line 2",
            ],
        ),
        ("a:\n\tb: 1\n", ["file.yaml:2:1: a tab character\n    hint: YAML is indented with spaces; replace the tab"]),
        ("a: 'x\nb: 1\n", ["file.yaml:1:4: a quote that is never closed"]),
        (
            "a: {{ b }}/c\n",
            ['file.yaml:1:11: a value that starts with {{ is not in quotes\n    hint: write "{{ name }}…"'],
        ),
        ("a: [1, 2\n", ["file.yaml:2:1: a list in [ ] that is not closed, or lacks a comma"]),
        (
            "a: 1\n---\nb: 1\n",
            ["file.yaml:2:1: a second document ('---') in one file\n    hint: one file holds one document"],
        ),
        ("a: &x [*x]\n", ["file.yaml:1:4: an alias that contains itself"]),
        (
            "a: !secret x\n",
            ["file.yaml:1:4: unknown tag !secret\n    hint: put the value in quotes if it starts with !"],
        ),
        ("a: !!int x\n", ["file.yaml:1:4: 'x' does not fit its tag !!int"]),
        ("<<: {a: 1}\n", ["file.yaml:1:1: merge keys ('<<') are not part of YAML 1.2\n    hint: write the keys out"]),
        ("a: b\x07\n", ["file.yaml:1:5: a control character (#x07)"]),
        ("[" * 3000, ["file.yaml:1:1: nested too deeply"]),
    ],
)
def test_what_is_no_yaml_is_said_with_its_place(tmp_path: Path, text: str, messages: list[str]) -> None:
    assert _messages(tmp_path, text) == messages


def test_aliases_may_not_unfold_without_end(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert "unfold to too many values" in _messages(tmp_path, text)[0]


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="a directory, not a file"):
        load(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(InputError, match=r"latin\.yaml:2:7: not UTF-8"):
        load(path)


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    on: bool = True
    mode: str = ""
    either: str | list[str] = ""
    size: Annotated[int, BeforeValidator(int)] = 0


class _Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    count: int = 0
    nodes: list[_Inner] = []
    tags: dict[str, bool] = {}


def _invalid(directory: Path, text: str) -> list[str]:
    document = _load(directory, text)
    with pytest.raises(InputError) as caught:
        validate(_Outer, document)
    return [str(problem).replace(f"{directory}/", "") for problem in caught.value.problems]


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
        cuont: 1
        nodes:
          - {mode: 755, on: no}
          - {either: 3}
          - {either: [x, 3], zebra: 1}
          - text
        count: '7'
        tags: {a: 1, b: true}
    """
    assert _invalid(tmp_path, "\n".join(line.removeprefix("        ") for line in text.splitlines())) == [
        "file.yaml:1:1: missing key 'name'",
        "file.yaml:1:1: unknown key 'cuont'; did you mean 'count'?",
        'file.yaml:3:6: nodes entry, mode: expected text, not the number 755\n    hint: put it in quotes: "755"',
        "file.yaml:3:17: nodes entry, on: expected true or false, not the text 'no'\n    hint: write false",
        (
            "file.yaml:4:6: nodes entry, either: expected text or a list, not the number 3\n"
            '    hint: put it in quotes: "3"'
        ),
        'file.yaml:5:18: nodes entry, either entry: expected text, not the number 3\n    hint: put it in quotes: "3"',
        "file.yaml:5:22: unknown key 'zebra' in nodes entry\n    hint: the keys here: on, mode, either, size",
        "file.yaml:6:5: nodes entry: expected a mapping (key: value), not the text 'text'",
        "file.yaml:7:1: count: expected a whole number, not the text '7'\n    hint: write it without quotes",
        "file.yaml:8:8: tags.a: expected true or false, not the number 1",
    ]


def test_a_misspelt_key_that_is_needed_is_said_once(tmp_path: Path) -> None:
    assert _invalid(tmp_path, "nmae: x\n") == ["file.yaml:1:1: unknown key 'nmae'; did you mean 'name'?"]


def test_a_validator_before_the_type_may_take_text(tmp_path: Path) -> None:
    assert validate(_Outer, _load(tmp_path, "name: x\nnodes: [{size: '12'}]")).nodes[0].size == 12


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


class _Quoted(yaml.SafeDumper):
    """Writes every text in double quotes and every number as the core schema has it."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Quoted.add_representer(str, _quoted)
_QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_QUICK
@given(value=st.dictionaries(st.text(max_size=8), _VALUES, max_size=4))
def test_what_is_written_is_read_back(tmp_path: Path, value: dict[str, Any]) -> None:
    text = yaml.dump(value, Dumper=_Quoted, allow_unicode=False, width=10_000)
    assert _load(tmp_path, text).value == value


@_QUICK
@given(text=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,12}[A-Za-z0-9_]", fullmatch=True))
def test_a_plain_scalar_is_a_number_only_when_python_agrees(tmp_path: Path, text: str) -> None:
    value = _load(tmp_path, f"key: {text}\n").value["key"]
    if isinstance(value, bool) or value is None:
        assert text.lower() in {"true", "false", "null"}
    elif isinstance(value, int | float):
        assert value == (int(text, 0) if isinstance(value, int) else float(text))
    else:
        assert value == text


_TREES = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
_MAPPINGS = st.dictionaries(st.sampled_from("abcd"), _TREES, max_size=4)


def _document(value: Any, file: str) -> Document:
    marks: dict[tuple[str | int, ...], Mark] = {}

    def walk(part: Any, path: tuple[str | int, ...]) -> None:
        marks[path] = Mark(file=Path(file), line=1, column=1)
        for step, inner in (
            part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        ):
            walk(inner, (*path, step))

    walk(value, ())
    return Document(value=value, marks=marks)


@_QUICK
@given(base=_MAPPINGS, over=_MAPPINGS)
def test_merging_keeps_each_value_with_its_own_mark(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = merge(_document(base, "base"), _document(over, "over"))
    assert set(merged.marks) == set(_document(merged.value, "").marks)  # a mark for every value, none left over
    for path, mark in merged.marks.items():
        source: Any = over if mark.file == Path("over") else base
        value: Any = merged.value
        for step in path:
            source, value = source[step], value[step]
        assert source == value or isinstance(value, dict)


@_QUICK
@given(base=_MAPPINGS, over=_MAPPINGS, third=_MAPPINGS)
def test_merging_is_idempotent_and_the_later_one_wins(
    base: dict[str, Any], over: dict[str, Any], third: dict[str, Any]
) -> None:
    a, b, c = _document(base, "a"), _document(over, "b"), _document(third, "c")
    assert merge(a, a).value == base
    assert merge(merge(a, b), b).value == merge(a, b).value
    assert merge(a, _document({}, "b")).value == base
    assert set(merge(merge(a, b), c).value) == set(base) | set(over) | set(third)
    for key, value in third.items():
        if not isinstance(value, dict):
            assert merge(merge(a, b), c).value[key] == value


def test_problems_are_sorted_by_file_line_and_column() -> None:
    def problem(file: str, line: int) -> Problem:
        return Problem(message="x", mark=Mark(file=Path(file), line=line, column=1))

    placeless = Problem(message="y")
    unsorted = [problem("b", 2), problem("a", 9), placeless, problem("b", 1), problem("b", 1)]
    assert in_file_order(unsorted) == [placeless, problem("b", 1), problem("b", 2), problem("a", 9)]
    assert in_file_order(unsorted, files=[Path("a")])[1] == problem("a", 9)
