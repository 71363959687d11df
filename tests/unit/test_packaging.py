"""What the Debian package says, held to what pibuild is."""

import re
import runpy
import tomllib
from pathlib import Path

from builder import __version__
from builder.cli.main import pibuild

PROJECT = Path(__file__).parents[2]
DEBIAN = PROJECT / "packaging/debian"


def relations(field: str) -> set[str]:
    """Return the packages of a field of debian/control."""
    text = (DEBIAN / "control").read_text()
    found = re.search(rf"^{field}:((?:.|\n )*)", text, re.MULTILINE)
    assert found
    return set(re.findall(r"(?:^|,)\s*([a-z0-9.+-]+)", found[1]))


def test_the_package_depends_on_debians_build_of_every_library() -> None:
    debian = {"pyparted": "python3-parted", "pyyaml": "python3-yaml"}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[>=<\[]", one)[0] for one in project["dependencies"]}
    assert {debian.get(name, f"python3-{name}") for name in wanted} <= relations("Depends")


def test_the_package_names_every_package_that_a_hint_names() -> None:
    named = {
        package
        for path in (PROJECT / "builder").rglob("*.py")
        for words in re.findall(r'find_tool\([^)]*package="([^"]+)"', path.read_text())
        for package in words.split()
    }
    essential = {"apt", "dpkg", "util-linux", "bash", "coreutils", "findutils", "tar"}
    assert named - essential <= relations("Depends") | relations("Recommends") | relations("Suggests")


def test_versions_are_one() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (DEBIAN / "changelog").read_text()
    assert version == __version__
    assert changelog.startswith(f"pibuild ({__version__}) ")


def test_every_command_has_a_manual_page() -> None:
    pages = dict(runpy.run_path(str(PROJECT / "packaging/man.py"))["pages"](pibuild, "pibuild"))
    assert {"pibuild", "pibuild-build", "pibuild-services-render", "pibuild-init"} <= set(pages)
    build = pages["pibuild-build"]
    assert build.startswith('.TH "PIBUILD-BUILD" 1')
    assert "\\-\\-debug\\-emulation" not in build  # hidden
    assert ".SH EXAMPLE\n.nf\n  sudo pibuild build " in build
    assert ".SH EXIT CODES\n.nf\n" in pages["pibuild"]
    assert all(line.isascii() or not line.startswith(".") for text in pages.values() for line in text.splitlines())
