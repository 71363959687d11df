from __future__ import annotations

from pathlib import Path

from builder.emulation.log import read_log, rows, sum_up

LOG = """\
100.000 5 native 1 /usr/bin/dpkg --unpack
101.000 6 qemu 5 /usr/bin/python3 -c print a b
103.500 6 end
104.000 7 native 5 /usr/bin/dash -c true
105.000 7 qemu 5 /usr/bin/uname -m
105.250 7 end
110.000 5 end
200.000 3 native 1 /usr/bin/dpkg --configure
201.000 8 qemu 3 /usr/sbin/ldconfig
205.000 3 qemu 1 /usr/bin/true
207.000 3 end
"""


def test_costs_leave_out_the_children_and_come_dearest_first(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    costs = [(c.how, c.program, c.count, round(c.seconds, 3)) for c in sum_up(read_log(tmp_path / "log"))]
    assert costs == [
        ("native", "/usr/bin/dpkg", 2, (10 - 2.5 - 1 - 0.25) + (5 - 4)),
        ("qemu", "/usr/sbin/ldconfig", 1, 4),
        ("qemu", "/usr/bin/python3", 1, 2.5),
        ("qemu", "/usr/bin/true", 1, 2),
        ("native", "/usr/bin/dash", 1, 1),
        ("qemu", "/usr/bin/uname", 1, 0.25),
    ]


def test_rows_are_text(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("1.000 5 native 1 /usr/bin/dpkg x\n3.000 5 end\n")
    assert rows(sum_up(read_log(tmp_path / "log"))) == [("native", "/usr/bin/dpkg", "1", "2.0")]
