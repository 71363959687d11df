"""docs/security.md: every sentence of the threat model names a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_NAMED = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
_SECTIONS = {
    "A compromised node",
    "A hostile image",
    "A recipe by someone else",
    "A stranger on the segment, or a client of a server",
    "A store, a mirror, a server that nodes or builds ask",
    "A local account of the login node",
}


def _rows() -> list[tuple[str, str]]:
    """Return the sentences of all tables, each with what holds it."""
    lines = (ROOT / "docs/security.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [(row[0], row[-1]) for row in cells if row[0] not in ("what it can or cannot do", "---")]


@pytest.mark.parametrize(("sentence", "held"), _rows())
def test_a_sentence_is_held_by_a_test(sentence: str, held: str) -> None:
    named = _NAMED.findall(held)
    assert named, f"no test holds: {sentence}"
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test in functions, f"{file} has no {test}"


def test_every_kind_of_attacker_has_sentences() -> None:
    text = (ROOT / "docs/security.md").read_text()
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    found = {part.partition("\n")[0]: part for part in parts}
    assert found.keys() >= _SECTIONS
    assert [name for name in _SECTIONS if not _NAMED.search(found[name])] == []
