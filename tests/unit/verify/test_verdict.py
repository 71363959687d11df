from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import VerdictError
from builder.host.ssh import Shell
from builder.run import Completed, run
from builder.verify.finding import Finding, rows
from builder.verify.verdict import (
    Expected,
    Seen,
    SerialConsole,
    Verdict,
    Watch,
    answer_within,
    distinct,
    facts,
    failed_units,
    fatal,
    grown,
    look_at_console,
    own_keys,
)
from tests.web import serve

GOOD = Finding(check="kernel up", result="ok", seen="6.12")
BAD = Finding(check="systemd running", result="broken", seen="degraded\nfailed: a.service")


@dataclass
class FakeProcess:
    code: int | None

    def poll(self) -> int | None:
        return self.code


def console(tmp_path: Path, text: str, *, code: int | None = None, said: str = "") -> SerialConsole:
    (tmp_path / "console").write_text(text)
    (tmp_path / "qemu").write_text(said)
    return SerialConsole(path=tmp_path / "console", process=FakeProcess(code), log=tmp_path / "qemu")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r",
            "the kernel panicked: Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        ),
        (
            "ALERT!  PARTUUID=deadbeef-02 does not exist.  Dropping to a shell!",
            "the initramfs does not find the root file system: ALERT!  PARTUUID=deadbeef-02 does not exist",
        ),
        ("(initramfs) ", "the initramfs gave up and opened a shell: (initramfs)"),
        (
            'You are in emergency mode. After logging in, type "journalctl -xb"',
            "systemd went to emergency mode: You are in emergency mode",
        ),
        (
            "Cannot open access to console, the root account is locked.",
            "systemd went to emergency mode: Cannot open access to console, the root account is locked",
        ),
    ],
)
def test_what_ends_a_boot(line: str, reason: str) -> None:
    assert fatal(f"[    0.0] Booting Linux\n{line}\nmore") == reason


@pytest.mark.parametrize(
    "line", ["Welcome to Debian GNU/Linux 13 (trixie)!", "emergency.target: a job", "Begin: Running /scripts/panic"]
)
def test_what_does_not(line: str) -> None:
    assert fatal(line) == ""


def test_facts_take_lines_with_a_value_and_no_others() -> None:
    assert facts("motd\nhostname=golden\nroot=12\nmetrics=\nurl=a=b\n") == {
        "hostname": "golden",
        "root": "12",
        "metrics": "",
        "url": "a=b",
    }


def test_failed_units_by_name() -> None:
    listed = "a.service loaded failed failed A thing\nb.mount   loaded failed failed /b\n"
    assert failed_units(listed) == ["a.service", "b.mount"]


def test_copies_that_share_an_id_are_caught() -> None:
    assert distinct("machine-id unique", "abc", "abc").broken
    assert not distinct("machine-id unique", "abc", "abd").broken
    assert distinct("machine-id unique", "", "").broken


@pytest.mark.parametrize(
    ("one", "other", "ok"),
    [
        ({"ed25519": "a", "rsa": "b"}, {"ed25519": "c", "rsa": "d"}, True),
        ({"ed25519": "a", "rsa": "b"}, {"ed25519": "c", "rsa": "b"}, False),
        ({"ed25519": "a", "rsa": "b"}, {"ed25519": "c"}, True),
        ({"ed25519": "a"}, {"rsa": "b"}, False),
        ({}, {}, False),
    ],
)
def test_host_keys_are_compared_kind_by_kind(one: dict[str, str], other: dict[str, str], *, ok: bool) -> None:
    assert own_keys(one, other).broken is not ok


@pytest.mark.parametrize(("now", "ok"), [(1000 << 20, False), (1900 << 20, False), (2900 << 20, True)])
def test_root_has_to_have_taken_the_added_space(now: int, *, ok: bool) -> None:
    assert grown(Expected(hostname="x", root=1000 << 20, grow=2048 << 20), now).broken is not ok


def test_verdict_is_bad_with_one_bad_check_and_says_why_and_where() -> None:
    verdict = Verdict(checks=(GOOD, BAD), console=Path("/tmp/x/first.log"), seconds=12.34)
    assert not verdict.ok
    assert rows(verdict.checks)[1] == ("systemd running", "broken", BAD.seen)
    assert verdict.as_json()["ok"] is False
    assert verdict.as_json()["seconds"] == 12.3
    with pytest.raises(VerdictError, match=r"systemd running: degraded\nfailed: a\.service") as caught:
        verdict.require()
    assert "/tmp/x/first.log" in caught.value.hint
    assert caught.value.exit_code == 6


def test_verdict_without_checks_is_bad() -> None:
    with pytest.raises(VerdictError, match="nothing was seen"):
        Verdict(checks=(), console=Path("/x"), seconds=0).require()


def test_good_verdict_requires_nothing_more() -> None:
    verdict = Verdict(checks=(GOOD,), console=Path("/x"), seconds=1)
    verdict.require()
    assert verdict.ok


def test_board_is_followed_to_userspace(tmp_path: Path) -> None:
    text = "Linux version 6.12.1-arm64 (x)\nMachine model: Raspberry Pi 3 Model B\n[ 9.1] Run /init as init process\n"
    checks = look_at_console(console(tmp_path, text), deadline=0)
    assert [(check.check, check.result, check.seen) for check in checks] == [
        ("kernel up", "ok", "6.12.1-arm64"),
        ("device tree", "ok", "Raspberry Pi 3 Model B"),
        ("userspace", "ok", "Run /init as init process"),
    ]


def test_panic_ends_the_look_at_once(tmp_path: Path) -> None:
    text = "Linux version 6.12.1-arm64 (x)\nMachine model: Raspberry Pi 4 Model B\nKernel panic - not syncing: Oops\n"
    checks = look_at_console(console(tmp_path, text), deadline=1e12)
    assert [check.result for check in checks] == ["ok", "ok", "broken"]
    assert "Oops" in checks[-1].seen


def test_ended_machine_is_said_with_qemus_own_words(tmp_path: Path) -> None:
    checks = look_at_console(
        console(tmp_path, "", code=1, said="qemu: Could not set up host forwarding"), deadline=1e12
    )
    assert [check.result for check in checks] == ["broken"]
    assert "Could not set up host forwarding" in checks[0].seen


def test_deadline_is_said_with_the_last_line(tmp_path: Path) -> None:
    checks = look_at_console(console(tmp_path, "U-Boot\n\n"), deadline=0)
    assert [check.check for check in checks] == ["kernel up"]
    assert checks[0].seen.endswith("last on the console: U-Boot")


class Here(Shell):
    """Runs commands on this machine: they are a shell's, whoever logs in."""

    def run(self, command: str, *, timeout: float) -> Completed:
        return run(["sh", "-c", command], check=False, timeout=timeout)


@pytest.mark.tools
@pytest.mark.parametrize(("address", "seen"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_what_listens_on_loopback_alone_is_asked_on_the_machine(tmp_path: Path, address: str, *, seen: bool) -> None:
    here = Here(port=22, key=tmp_path / "key", user="ubuntu")
    machine = Seen(name="here", console=console(tmp_path, ""), shell=here, metrics="")
    watch = Watch(begun=time.monotonic(), deadline=time.monotonic() + 30, checks=[])
    with serve(address) as web:
        web.files["/metrics"] = b"node_boot_time_seconds 1\n"
        answer = answer_within(machine, web.port, "/metrics", watch)
        assert ("node_boot_time_seconds 1" in answer if answer else False) is seen
    assert answer_within(machine, web.port, "/metrics", watch) is None
