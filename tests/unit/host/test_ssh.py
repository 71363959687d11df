"""One way to run a command elsewhere: what ssh is told, and what its failures become."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from builder.host.ssh import Shell, fingerprints, known_host, offered, sftp
from builder.run import CommandError

KEY = Path("/keys/id_ed25519")
KNOWN = Path("/state/known_hosts")


def options(argv: list[str | Path]) -> dict[str, str]:
    """Return the -o words of a command line."""
    words = [str(word) for word in argv]
    said = [words[index + 1] for index, word in enumerate(words) if word == "-o"]
    return dict(word.split("=", 1) for word in said)


@pytest.mark.parametrize(
    ("shell", "strict", "known"),
    [
        (Shell(user="ubuntu", key=KEY), "no", "/dev/null"),
        (Shell(user="ubuntu", key=KEY, known_hosts=KNOWN), "yes", str(KNOWN)),
        (Shell(user="ubuntu", key=KEY, known_hosts=KNOWN, learns=True), "accept-new", str(KNOWN)),
    ],
)
def test_whose_host_key_will_do(shell: Shell, strict: str, known: str) -> None:
    said = options(shell.argv())
    assert (said["StrictHostKeyChecking"], said["UserKnownHostsFile"]) == (strict, known)


def test_nobody_is_asked_and_no_configuration_counts() -> None:
    argv = [str(word) for word in Shell(user="ubuntu", key=KEY, host="192.168.2.30", connecting=10).argv()]
    said = options([*argv])
    assert {name: said[name] for name in ("BatchMode", "IdentitiesOnly", "ConnectTimeout", "ServerAliveInterval")} == {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "15",
    }
    assert argv[:5] == ["ssh", "-F", "/dev/null", "-p", "22"]
    assert argv[argv.index("-i") + 1] == str(KEY)
    assert argv[-1] == "ubuntu@192.168.2.30"


def test_sftp_is_for_programs_that_speak_it() -> None:
    argv = sftp(["-p", "2222", "backup@store"], KEY)
    assert options([*argv]) == {"BatchMode": "yes", "ConnectTimeout": "30", "StrictHostKeyChecking": "accept-new"}
    assert argv[:3] == ["ssh", "-i", str(KEY)]
    assert argv[-5:] == ["-p", "2222", "backup@store", "-s", "sftp"]


@pytest.mark.tools
def test_a_machine_that_is_not_there_is_a_result_to_one_and_an_error_to_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shell = Shell(user="ubuntu", key=tmp_path / "key", port=port)
    done = shell.run("true", timeout=10)
    assert done.returncode == 255
    assert "Connection refused" in done.stderr
    with pytest.raises(CommandError, match=r"(?s)on yellow3: .*Connection refused") as caught:
        shell.call(["install", "-D", "a b; c"], timeout=10, what="on yellow3", hint="is it up?")
    assert caught.value.hint == "is it up?"
    assert caught.value.completed.argv[-2:] == ("--", "install -D 'a b; c'")


@pytest.mark.tools
def test_a_connection_that_is_shared_is_forgotten_when_nothing_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shell = Shell(user="ubuntu", key=tmp_path / "key", port=port, sockets=tmp_path)
    left = tmp_path / f"127.0.0.1-{port}.ssh"
    left.touch()
    done = shell.run("true", timeout=10)
    assert options([*done.argv])["ControlPath"] == left.name
    assert not left.exists()
    assert "ControlPath" not in options(shell.argv())  # a person's session, and root's commands, are their own


@pytest.mark.tools
def test_one_that_accepts_and_says_nothing_ends_with_the_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        shell = Shell(user="ubuntu", key=tmp_path / "key", port=server.getsockname()[1])
        done = shell.run("true", timeout=0.5)
    assert done.returncode == 255
    assert "no end after 0.5 s" in done.stderr


def test_what_the_state_says_of_a_machines_key(tmp_path: Path) -> None:
    public = tmp_path / "ssh_host_ed25519_key.pub"
    public.write_text("ssh-ed25519 AAAA root@yellow3\n")
    assert known_host("192.168.2.30,yellow3", public) == "192.168.2.30,yellow3 ssh-ed25519 AAAA\n"


@pytest.mark.parametrize(
    ("stderr", "methods"),
    [
        ("ubuntu@127.0.0.1: Permission denied (publickey).", ("publickey",)),
        ("x\nubuntu@127.0.0.1: Permission denied (publickey,password).\n", ("publickey", "password")),
        ("Permission denied (publickey,keyboard-interactive).", ("publickey", "keyboard-interactive")),
        ("ssh: connect to host 127.0.0.1 port 1: Connection refused", ()),
    ],
)
def test_offered_methods(stderr: str, methods: tuple[str, ...]) -> None:
    assert offered(stderr) == methods


def test_fingerprints_are_those_that_ssh_keygen_prints() -> None:
    # as ssh-keygen -lf prints this key
    scan = (
        "# 127.0.0.1:22 SSH-2.0-OpenSSH_10.0\n"
        "[127.0.0.1]:22 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOP6ITZpyYJTVHCBzSUTP9DGlWr3rSAFBcQKKWqD4Kv1\n"
    )
    assert fingerprints(scan) == {"ssh-ed25519": "SHA256:DDTuObTYd6S7ttDuzwxu5beexeibCSyl9R4xJFIRB0c"}
