"""Packages that no archive has are found before anything is asked, where the lists are there."""

from pathlib import Path

from builder.build.archives import ARCHITECTURE, archives_of, unknown_packages
from builder.host.cache import Cache
from builder.packages.apt import Apt
from builder.recipe.load import Recipe, load_recipe

RECIPE = """\
name: fixture
base:
  bootstrap: {distribution: debian, suite: trixie, mirror: "http://127.0.0.1/debian"}
boards: [pi4]
layers:
  - name: tools
    steps:
      - packages: [htop, htpo, mail-transport-agent]
"""
LISTED = """\
Package: htop
Version: 3.4

Package: postfix
Provides: mail-transport-agent, default-mta (= 3.10)
Version: 3.10
"""


def _recipe(directory: Path) -> Recipe:
    (directory / "fixture.yaml").write_text(RECIPE)
    return load_recipe(directory / "fixture.yaml")


def test_a_package_that_is_in_no_list_is_named_with_what_was_meant(tmp_path: Path) -> None:
    recipe, cache = _recipe(tmp_path), Cache(tmp_path / "cache")
    (sources,) = archives_of(recipe, ARCHITECTURE, cache, distribution="debian", suite="trixie")
    lists = Apt(cache, sources, ARCHITECTURE).directory / "lists"
    lists.mkdir(parents=True)
    (lists / "127.0.0.1_debian_dists_trixie_main_binary-arm64_Packages").write_text(LISTED)
    (problem,) = unknown_packages(recipe, cache)
    assert problem.message == "no package 'htpo'; did you mean 'htop'?"
    assert problem.mark
    assert problem.mark.line == 8


def test_without_lists_nothing_is_said_and_nothing_made(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert unknown_packages(_recipe(tmp_path), cache) == []
    assert not (tmp_path / "cache").exists()
