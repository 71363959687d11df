"""Each tests/recipes/NNN-slug.yaml is wrong, and NNN-slug.txt is exactly what is said about it.

After a message was changed on purpose, `pytest tests/unit/recipe/test_invalid_recipes.py --regenerate` writes the .txt
files anew; read the diff as somebody would who is woken up by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.recipe.load import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
INVALID = sorted(RECIPES.glob("[0-9][0-9][0-9]-*.yaml"))


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_recipe_is_refused_in_these_words(path: Path, golden: Callable[[Path, str], None]) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    said = str(caught.value).replace(f"{RECIPES}/", "").replace(str(RECIPES), "tests/recipes")
    golden(path.with_suffix(".txt"), said + "\n")


def test_there_are_many_and_each_has_its_words() -> None:
    assert len(INVALID) >= 40
    assert {path.stem for path in RECIPES.glob("*.txt")} == {path.stem for path in INVALID}
    assert len({path.name[:3] for path in INVALID}) == len(INVALID)


def test_every_message_has_a_place() -> None:
    for path in INVALID:
        for line in path.with_suffix(".txt").read_text().splitlines():
            assert re.match(r"(    hint: |[\w./-]+:\d+:\d+: )\S", line), f"{path.stem}: {line}"


def test_the_recipe_that_the_invalid_ones_build_on_is_valid() -> None:
    assert load_recipe(RECIPES / "parents" / "good.yaml").name == "good"
