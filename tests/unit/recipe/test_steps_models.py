"""What each kind of step takes and refuses, and the examples in their references."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from builder.errors import Mark, Problem
from builder.host.ssh_keys import key_problem
from builder.recipe.steps.base import Place
from builder.recipe.steps.packages import PackageSource
from builder.recipe.steps.registry import STEP_KINDS
from builder.recipe.steps.run import _without_trace

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
SHA = "0" * 64


def check(directory: Path, kind: str, fields: dict[str, Any], **variables: object) -> list[Problem]:
    at = Place(directory=directory, mark=Mark(file=directory / "r.yaml", line=1, column=1), variables=variables)
    return STEP_KINDS[kind].model_validate(fields).check(at)


def examples(kind: str) -> list[Any]:
    found = re.search(r"```yaml\n(.*?)```", STEP_KINDS[kind].__doc__ or "", re.DOTALL)
    assert found, f"{kind} has no example"
    entries = yaml.safe_load(textwrap.dedent("    " + found[1].strip("\n").removeprefix("    ")))
    return [entry[kind] for entry in entries]


@pytest.mark.parametrize("kind", STEP_KINDS)
def test_the_examples_of_the_reference_are_valid(kind: str) -> None:
    model = STEP_KINDS[kind]
    for example in examples(kind):
        fields = {model.list_field: example} if isinstance(example, list) else example  # type: ignore[attr-defined]
        model.model_validate(fields)


@pytest.mark.parametrize("kind", STEP_KINDS)
def test_every_field_is_described_and_unknown_ones_are_refused(kind: str) -> None:
    model = STEP_KINDS[kind]
    assert [name for name, info in model.model_fields.items() if not info.description and not info.exclude] == []
    with pytest.raises(ValidationError, match="extra_forbidden"):
        model.model_validate({"nonsense": 1})


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("files", {"files": []}, "at least 1 item"),
    ("files", {"files": [{"path": "/a"}]}, "exactly one of content, source, directory and symlink"),
    ("files", {"files": [{"path": "/a", "content": "", "source": "b"}]}, "not content and source"),
    ("files", {"files": [{"path": "/a", "symlink": "b", "mode": "0644"}]}, "has no mode of its own"),
    ("overlay", {"source": "a", "permissions": [{"path": "/a"}]}, "neither owner nor mode"),
    ("overlay", {"source": "a", "delete": ["/"]}, "'/' is the root itself"),
    ("run", {}, "either script or argv says what to run"),
    ("run", {"script": "a", "argv": ["b"]}, "not both"),
    ("run", {"argv": []}, "at least 1 item"),
    ("run", {"argv": ["a"], "environment": {"A-B": "c"}}, "not the name of an environment variable"),
    ("systemd", {}, "nothing is given"),
    ("systemd", {"enable": ["a"], "mask": ["a.service"]}, "a.service is to be enabled and to be masked"),
    ("systemd", {"enable": ["a"], "disable": ["a"]}, "to be enabled and to be disabled"),
    ("systemd", {"enable": ["a b"]}, "not the name of a unit"),
    ("systemd", {"enable": ["--root=/"]}, "not the name of a unit"),
    ("systemd", {"default_target": "multi-user"}, "is not a target"),
    ("user", {"name": "a", "password": "x"}, "an image has no passwords"),
    ("user", {"name": "Ab"}, "is not a name of a user"),
    ("user", {"name": "-a"}, "is not a name of a user"),
    ("user", {"name": "a", "groups": ["a:b"]}, "is not a name of a user or group"),
    ("user", {"name": "a", "authorized_keys": ["ssh-ed25519 AAAA"]}, "its key is not of the kind"),
    ("user", {"name": "a", "authorized_keys": [f"{ED25519}\n{ED25519}"]}, "is not one line"),
    ("user", {"name": "a", "authorized_keys": [""]}, "is not one line"),
    ("user", {"name": "a", "gecos": "a:b"}, "holds a colon"),
    ("user", {"name": "a", "sudo": "yes"}, "'nopasswd' or 'none'"),
    ("download", {"url": "ftp://x/a", "sha256": SHA, "path": "/a"}, "not an http or https address"),
    ("download", {"url": "https://example.org/a", "sha256": "A" * 64, "path": "/a"}, "lower case"),
    ("download", {"url": "https://example.org/a", "sha256": "a", "path": "/a"}, "sha256sum FILE prints it"),
    (
        "download",
        {"url": "https://example.org/a", "sha256": SHA, "path": "/a", "member": "b", "extract": True},
        "member and extract exclude each other",
    ),
    (
        "download",
        {"url": "https://example.org/a", "sha256": SHA, "path": "/a", "extract": True, "mode": "0644"},
        "leave mode out",
    ),
    ("download", {"url": "https://example.org/a", "sha256": SHA, "path": "/a", "strip": 1}, "strip is for extract"),
    ("config.txt", {}, "nothing is given"),
    ("config.txt", {"set": {"dtoverlay": "x"}}, "dtoverlay may stand more than once"),
    ("config.txt", {"set": {"enable_uart": True}}, "valid integer"),
    ("config.txt", {"set": {"a b": 1}}, "'a b' is not a key"),
    ("config.txt", {"set": {"a": 1}, "add": ["a=2"]}, "a is set, and also added or removed"),
    ("config.txt", {"add": ["[pi4]"]}, r"'\[pi4\]' is a section"),
    ("config.txt", {"add": ["a=1\nb=2"]}, "is not one line"),
    ("config.txt", {"section": "[pi4]", "add": ["a=1"]}, "without brackets"),
    ("config.txt", {"edits": [{"add": ["dtparam=" + "x" * 91]}]}, "has 99 characters, 98 at most"),
    ("config.txt", {"set": {"a": "ä" * 49}}, "has 100 characters, 98 at most"),
    ("cmdline.txt", {}, "nothing is given"),
    ("cmdline.txt", {"add": ["a b"]}, "not one word"),
    ("cmdline.txt", {"add": ["--"]}, "not one word"),
    ("cmdline.txt", {"set": {"root": "a b"}}, "the value of root is not one word: 'a b'"),
    ("cmdline.txt", {"set": {"root=x": "a"}}, "'root=x' is not a key"),
    ("cmdline.txt", {"set": {"root": []}}, r"write remove: \[root\]"),
    ("cmdline.txt", {"set": {"a_b": 1}, "add": ["a-b=2"]}, "a_b is set, and also added or removed"),
    ("cmdline.txt", {"add": ["quiet"], "remove": ["quiet"]}, "both added and removed"),
    ("packages", {}, "nothing is given"),
    ("packages", {"install": ["a=1"]}, "not the name of a package"),
    ("packages", {"install": ["restic=0.18-1"]}, "write restic; pibuild lock writes the version down"),
    ("packages", {"install": ["restic/sid"]}, "suite: sid in a step of its own"),
    ("packages", {"install": ["libc6:arm64"]}, "write libc6"),
    ("packages", {"install": ["nano-"]}, "not the name of a package"),
    ("packages", {"install": ["-o=x"]}, "not the name of a package"),
    ("packages", {"debconf": ["a b"]}, "package question type value"),
]


@pytest.mark.parametrize(("kind", "fields", "said"), WRONG)
def test_what_is_refused(kind: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        STEP_KINDS[kind].model_validate(fields)


def test_what_is_as_long_as_the_firmware_reads_is_taken(tmp_path: Path) -> None:
    assert check(tmp_path, "config.txt", {"add": ["dtparam=" + "x" * 90]}) == []


def test_the_schema_does_not_offer_a_password() -> None:
    assert "password" not in STEP_KINDS["user"].model_json_schema()["properties"]


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("files", {"files": [{"path": "/a", "source": "nono"}]}, ["nono: no such file"]),
        ("files", {"files": [{"path": "/a", "content": ""}] * 2}, ["files: /a is given twice"]),
        ("run", {"script": " \n"}, ["run: the script is empty"]),
        ("run", {"script": "#!/bin/bash\n"}, ["run: a script is for /bin/sh, not for /bin/bash"]),
        ("run", {"script": "#!/bin/sh -e\ntrue\n"}, []),
        ("user", {"name": "a", "authorized_keys": {"source": "keys"}}, ["keys:2: has nothing after ssh-ed25519"]),
        ("user", {"name": "a", "authorized_keys": []}, []),
        (
            "packages",
            {"install": ["a0", "b0", "a0"], "remove": ["b0"]},
            ["packages: install names a0 twice", "packages: b0 is to be installed and to be removed"],
        ),
        (
            "packages",
            {"sources": [{"name": "x", "uris": ["https://example.org/"], "suites": ["./"], "key": "keys"}]},
            ["keys is not an OpenPGP key, armored or binary"],
        ),
        (
            "overlay",
            {
                "source": "over",
                "permissions": [{"path": "/etc/b*", "mode": "0600"}, {"path": "/etc/a", "mode": "0600"}],
            },
            ["permissions: /etc/b* matches nothing laid down"],
        ),
        ("overlay", {"source": "keys"}, ["keys is not a directory"]),
    ],
)
def test_what_a_check_finds(tmp_path: Path, kind: str, fields: dict[str, Any], said: list[str]) -> None:
    (tmp_path / "keys").write_text(f"{ED25519} a\nssh-ed25519\n# note\n\n")
    (tmp_path / "over/etc").mkdir(parents=True)
    (tmp_path / "over/etc/a").touch()
    assert [problem.message for problem in check(tmp_path, kind, fields)] == said


# ---------------------------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n{{ server }}\n{{ zone }}\n", [(2, "'server' is not defined"), (3, "'zone' is not defined")]),
        ("{{ zone | default('x') }}{% if more is defined %}{% endif %}", []),
        ("{{ zone | default('x') }}\n{{ name.first }}", [(2, "'str object' has no attribute 'first'")]),
        ("a\n\n{% if %}\n", [(3, "expected an expression")]),
        ("{% include 'nowhere' %}", [(1, "no such template: nowhere")]),
        ("a\n{{ 1 / 0 }}", [(2, "division by zero")]),
        ("{% for one in [1] %}{{ one }}{% endfor %}{{ name }}", []),
    ],
)
def test_a_template_fails_at_its_place(tmp_path: Path, text: str, said: list[tuple[int, str]]) -> None:
    template = tmp_path / "t.j2"
    template.write_text(text)
    problems = check(tmp_path, "template", {"source": "t.j2", "path": "/a"}, name="n", servers=[])
    assert len(problems) == len(said)
    for problem, (line, message) in zip(problems, said, strict=True):
        assert problem.mark == Mark(file=template, line=line, column=1)
        assert message in problem.message


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__[1].__subclasses__()",
        "cycler.__init__.__globals__['os'].system('touch ' ~ name)",
        "self._TemplateReference__context.environment.loader",
        "(name | attr('__class__'))",
        "servers.append(name)",
        "'{0.__class__.__mro__}'.format(name)",
    ],
)
def test_a_template_reaches_nothing_of_the_builders(tmp_path: Path, expression: str) -> None:
    """It is rendered on the machine that plans or builds, outside any root."""
    template = tmp_path / "t.j2"
    template.write_text(f"a\n{{{{ {expression} }}}}\n")
    beside: list[str] = []
    problems = check(
        tmp_path, "template", {"source": "t.j2", "path": "/a"}, name=str(tmp_path / "made"), servers=beside
    )
    assert (beside, (tmp_path / "made").exists()) == ([], False)
    assert [problem.mark for problem in problems] == [Mark(file=template, line=2, column=1)], problems


def test_a_near_variable_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{{ server }}")
    [problem] = check(tmp_path, "template", {"source": "t.j2", "path": "/a"}, servers=[])
    assert problem.hint == "did you mean 'servers'?"


# --------------------------------------------------------------------------------------------------------------- rest


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (ED25519, ""),
        (f"{ED25519} somebody at home", ""),
        (f'from="10.0.0.0/8",command="echo \\"a b\\"" {ED25519}', ""),
        ("", ""),
        ("# comment", ""),
        ("ssh-ed25519", "has nothing after ssh-ed25519"),
        ("ssh-ed25519 AAA", "is not base64"),
        (ED25519.replace("ssh-ed25519", "ssh-rsa"), "its key is not of the kind ssh-rsa"),
        ("ssh-dss AAAA", "is not a public key of a kind that sshd takes"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "is a private key"),
        ("id_ed25519.pub", "is not a public key"),
    ],
)
def test_public_keys(line: str, said: str) -> None:
    assert key_problem(line).endswith(said) if not said else said in key_problem(line)
    assert bool(key_problem(line)) is bool(said)


def test_a_source_is_written_as_deb822() -> None:
    fields = {
        "name": "lab",
        "uris": ["https://example.org/a"],
        "suites": ["x", "y"],
        "components": ["main"],
        "key": "k",
    }
    source = PackageSource.model_validate(fields)
    assert source.keyring(b"\x99\x01") == "/etc/apt/keyrings/lab.gpg"
    assert source.keyring(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n") == "/etc/apt/keyrings/lab.asc"
    assert source.stanza("/k") == (
        "Types: deb\nURIs: https://example.org/a\nSuites: x y\nComponents: main\nSigned-By: /k\n"
    )
    flat = PackageSource.model_validate({**fields, "suites": ["./"], "components": []})
    assert "Components" not in flat.stanza("/k")
    with pytest.raises(ValidationError, match="components are missing"):
        PackageSource.model_validate({**fields, "components": []})


def test_a_script_fails_with_its_command_and_without_the_trace() -> None:
    message = "r.yaml:1:1: sh: exit code 1\n+pibuild: echo a\na\n++pibuild: date\n+pibuild: grep x /y\ngrep: /y: no"
    assert _without_trace(message) == (
        "r.yaml:1:1: sh: exit code 1\nthe command that failed: grep x /y\na\ngrep: /y: no"
    )
    assert _without_trace("r.yaml:1:1: killed") == "r.yaml:1:1: killed"
