"""The golden image is made of parts; each can be left out, and what is left still stands on its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from builder.build.plan import make_plan
from builder.host.cache import Cache
from builder.inventory.load import load_inventory
from builder.recipe.load import load_recipe
from builder.services.files import ServerRole, serving
from builder.services.packages import packages
from tests.clusters import LAB

RECIPES = Path(__file__).parents[3] / "recipes"
BASE = {"firmware", "kernel", "system", "access"}  # what it boots with, and is reached by


def layers_of(recipe: Path) -> list[str]:
    return [layer.name for layer in load_recipe(recipe).layers]


BASE_AND_PARTS = layers_of(RECIPES / "golden.yaml")
PARTS = [name for name in BASE_AND_PARTS if name not in BASE]
IN_GOLDEN = {Path(path).name for path in yaml.safe_load((RECIPES / "golden.yaml").read_text())["extends"]}
LOGIN = RECIPES / "parts/login.yaml"
OPTIONAL = sorted(path for path in (RECIPES / "parts").glob("*.yaml") if path.name not in IN_GOLDEN)


def test_golden_has_the_parts() -> None:
    assert {"monitoring", "backup", "cluster", "bootstrap", "hardening"} <= set(PARTS)
    assert {"watchdog", "overlayroot"} <= {path.stem for path in OPTIONAL}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_can_be_left_out(part: str, tmp_path: Path) -> None:
    path = tmp_path / "less.yaml"
    path.write_text(f"name: less\nextends: [{RECIPES / 'golden.yaml'}]\ndrop: [{part}]\n")
    recipe = load_recipe(path)
    plan = make_plan(recipe, None, Cache(tmp_path / "cache"))
    names = [layer.name for layer in plan.layers]
    assert part not in names
    assert set(names) == {"base", "finish", *BASE, *PARTS} - {part}


@pytest.mark.parametrize("part", OPTIONAL, ids=lambda path: path.stem)
def test_a_part_that_is_not_in_golden_can_be_added(part: Path, tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(f"name: more\nextends: [{RECIPES / 'golden.yaml'}, {part}]\n")
    own = [layer["name"] for layer in yaml.safe_load(part.read_text())["layers"]]
    assert layers_of(path) == [*BASE_AND_PARTS, *own]


def test_the_login_part_has_what_the_servers_need_and_the_docs_name_all_of_it() -> None:
    (layer,) = yaml.safe_load(LOGIN.read_text())["layers"]
    brought = layer["steps"][0]["packages"]["install"]
    roles: tuple[ServerRole, ...] = ("login", "backup")
    for role in roles:
        assert set(packages(serving(load_inventory(LAB), role))) <= set(brought)
    told = (LAB.parent / "docs/login-node.md").read_text()
    rows = [line.split("`")[-2] for line in told.splitlines() if line.startswith("| ") and line.count("`") >= 2]
    assert [package for row in rows for package in row.split()] == brought
