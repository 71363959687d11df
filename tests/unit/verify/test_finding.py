"""One form of what checks find: in tables, in JSON, and in what a failure says."""

from __future__ import annotations

from builder.cli.options import plain
from builder.verify.finding import Finding, holds, judge, reasons, rows

CLOSED = judge(check="modes", ok=False, seen="/usr has mode 0700", hint="chmod 0755 /usr")
GOOD = judge(check="init", ok=True, seen="/sbin/init", hint="install systemd-sysv")
NOT_SEEN = Finding(check="nat", result="unknown", seen="reading the rules needs root", hint="sudo")


def test_what_does_not_hold_says_what_mends_it_and_what_holds_says_nothing_to_mend() -> None:
    assert plain(CLOSED) == {
        "check": "modes",
        "result": "broken",
        "seen": "/usr has mode 0700",
        "hint": "chmod 0755 /usr",
    }
    assert plain(GOOD) == {"check": "init", "result": "ok", "seen": "/sbin/init", "hint": ""}


def test_what_was_not_seen_is_neither_ok_nor_broken() -> None:
    assert holds([GOOD, NOT_SEEN])
    assert not holds([GOOD, NOT_SEEN, CLOSED])
    assert [row[1] for row in rows([GOOD, NOT_SEEN, CLOSED])] == ["ok", "unknown", "broken"]
    assert reasons([GOOD, NOT_SEEN, CLOSED]) == ["modes: /usr has mode 0700"]
