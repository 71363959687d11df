"""What a step's result depends on, and what it does not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from builder.errors import Mark
from builder.host.hashing import Artifact, digest_of
from builder.recipe.steps.base import Place
from builder.recipe.steps.registry import STEP_KINDS


def inputs(directory: Path, kind: str, fields: dict[str, Any], **variables: object) -> str:
    at = Place(directory=directory, mark=Mark(file=directory / "r.yaml", line=1, column=1), variables=variables)
    step = STEP_KINDS[kind].model_validate(fields)
    assert step.check(at) == []
    return digest_of(json.loads(json.dumps([step.model_dump(mode="json"), step.inputs(at)])))


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    top = tmp_path / "overlay"
    (top / "etc/empty").mkdir(parents=True)
    (top / "etc/motd").write_text("hello")
    (top / "etc/run").write_text("#!")
    (top / "etc/run").chmod(0o755)
    (top / "etc/link").symlink_to("motd")
    return top


def test_an_overlay_does_not_depend_on_times_or_the_checkouts_umask(overlay: Path, tmp_path: Path) -> None:
    before = inputs(tmp_path, "overlay", {"source": "overlay"})
    os.utime(overlay / "etc/motd", (1, 1))
    (overlay / "etc/motd").chmod(0o600)
    (overlay / "etc/run").chmod(0o700)
    (overlay / "etc").chmod(0o700)
    assert inputs(tmp_path, "overlay", {"source": "overlay"}) == before
    shutil.copytree(overlay, tmp_path / "again/overlay", symlinks=True)
    assert inputs(tmp_path / "again", "overlay", {"source": "overlay"}) == before


def test_an_overlay_depends_on_all_else(overlay: Path, tmp_path: Path) -> None:
    seen = [inputs(tmp_path, "overlay", {"source": "overlay"})]

    def changed() -> bool:
        seen.append(inputs(tmp_path, "overlay", {"source": "overlay"}))
        return len(set(seen)) == len(seen)

    (overlay / "etc/motd").write_text("hallo")
    assert changed()
    (overlay / "etc/motd").chmod(0o755)
    assert changed()
    (overlay / "etc/motd").rename(overlay / "etc/issue")
    assert changed()
    (overlay / "etc/link").unlink()
    (overlay / "etc/link").symlink_to("issue")
    assert changed()
    (overlay / "etc/empty").rmdir()
    assert changed()
    (overlay / "etc/empty").touch()
    assert changed()


def test_a_name_that_is_no_text_is_an_input_too(overlay: Path, tmp_path: Path) -> None:
    before = inputs(tmp_path, "overlay", {"source": "overlay"})
    Path(os.fsdecode(bytes(overlay) + b"/etc/\xff")).touch()
    assert inputs(tmp_path, "overlay", {"source": "overlay"}) != before


def test_files_depend_on_their_sources(tmp_path: Path) -> None:
    fields = {"files": [{"path": "/a", "source": "one"}]}
    (tmp_path / "one").write_text("1")
    before = inputs(tmp_path, "files", fields)
    (tmp_path / "one").write_text("2")
    after = inputs(tmp_path, "files", fields)
    (tmp_path / "one").chmod(0o755)
    assert len({before, after, inputs(tmp_path, "files", fields)}) == 3


def test_a_template_depends_on_its_text_alone(tmp_path: Path) -> None:
    fields = {"source": "t", "path": "/a"}
    (tmp_path / "t").write_text("{{ a }}{# one #}")
    before = inputs(tmp_path, "template", fields, a=1, b=1)
    (tmp_path / "t").write_text("{{ a }}{# another #}")
    assert inputs(tmp_path, "template", fields, a=1, b=2) == before
    assert inputs(tmp_path, "template", fields, a=2, b=2) != before
    (tmp_path / "part").write_text("x")
    (tmp_path / "t").write_text("{% include 'part' %}")
    included = inputs(tmp_path, "template", fields)
    (tmp_path / "part").write_text("y")
    assert inputs(tmp_path, "template", fields) != included


def test_a_user_depends_on_the_file_of_keys(tmp_path: Path) -> None:
    fields = {"name": "a", "authorized_keys": {"source": "keys"}}
    (tmp_path / "keys").write_text("# none\n")
    before = inputs(tmp_path, "user", fields)
    (tmp_path / "keys").write_text("# nobody\n")
    assert inputs(tmp_path, "user", fields) != before


def test_packages_depend_on_the_keys_of_their_sources(tmp_path: Path) -> None:
    source = {"name": "a", "uris": ["https://example.org/"], "suites": ["./"], "key": "key"}
    (tmp_path / "key").write_bytes(b"\x99\x01")
    before = inputs(tmp_path, "packages", {"sources": [source]})
    (tmp_path / "key").write_bytes(b"\x99\x02")
    assert inputs(tmp_path, "packages", {"sources": [source]}) != before


def test_a_download_names_its_file() -> None:
    fields = {"url": "https://example.org/a", "sha256": "0" * 64, "path": "/a", "optional": True}
    step = STEP_KINDS["download"].model_validate(fields)
    assert step.artifacts() == (Artifact(url="https://example.org/a", sha256="0" * 64, optional=True),)
    assert STEP_KINDS["run"].model_validate({"argv": ["true"]}).artifacts() == ()
