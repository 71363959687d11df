"""Machines under QEMU: the golden image comes up as it should, and broken ones are caught and said why."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from builder.image.open import open_image
from builder.run import run
from builder.verify.finding import rows
from builder.verify.qemu import BootOptions, boot_image

REPOSITORY = Path(__file__).parents[2]
FAILING_UNIT = """\
[Unit]
Description=A unit that fails
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo the reason why; exit 3'
"""

pytestmark = [pytest.mark.boot, pytest.mark.root, pytest.mark.network, pytest.mark.apart]


@pytest.fixture
def image(golden_image: Path) -> Path:
    return golden_image / "golden.img"


@pytest.fixture
def copy(image: Path, tmp_path: Path) -> Path:
    """A copy of the image that a test may break."""
    run(["cp", "--sparse=always", image, tmp_path / "broken.img"])
    return tmp_path / "broken.img"


def test_what_travels_to_every_node_is_small(image: Path) -> None:
    with open_image(image) as opened:
        assert opened.boot
        initramfs = opened.boot.find("/initrd.img")
    assert initramfs is not None
    assert initramfs.size <= 10_000_000


def test_golden_image_gets_a_good_verdict(image: Path, tmp_path: Path) -> None:
    done = run(
        [sys.executable, "-m", "builder", "boot", image, "--json", "--logs", tmp_path], cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)["verdict"]
    assert verdict["ok"] is True
    assert [check["check"] for check in verdict["checks"]] == [
        "kernel up",
        "ssh by key",
        "systemd running",
        "hostname",
        "root grown",
        "node_exporter answers",
        "machine-id unique",
        "host keys unique",
        "no ssh by password",
    ]
    assert "Linux version" in Path(verdict["console"]).read_text(errors="replace")


def test_boot_leaves_the_image_as_it_was(image: Path, copy: Path, tmp_path: Path) -> None:
    options = BootOptions(machine="raspi3b", timeout=300, logs=tmp_path / "logs")
    verdict = boot_image(copy, options)
    assert verdict.ok, rows(verdict.checks)
    assert {check.check: check.seen for check in verdict.checks}["device tree"] == "Raspberry Pi 3 Model B"
    assert run(["cmp", image, copy], check=False).returncode == 0


def test_wrong_root_is_caught_long_before_the_timeout(copy: Path, tmp_path: Path) -> None:
    with open_image(copy) as opened:
        offset = opened.partitions[0].start
        assert opened.boot
        own = opened.boot.text("/cmdline.txt").split()
    words = ["root=PARTUUID=deadbeef-02" if word.startswith("root=") else word for word in own]
    (tmp_path / "cmdline.txt").write_text(" ".join(words) + "\n")
    run(["mcopy", "-o", "-i", f"{copy}@@{offset}", tmp_path / "cmdline.txt", "::/cmdline.txt"])
    verdict = boot_image(copy, BootOptions(timeout=900, logs=tmp_path / "logs"))
    assert [(check.check, check.result) for check in verdict.checks] == [("kernel up", "ok"), ("ssh by key", "broken")]
    assert "PARTUUID=deadbeef-02 does not exist" in verdict.checks[-1].seen
    assert verdict.seconds < 300


def test_failing_unit_is_named_with_its_last_words(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.service").write_text(FAILING_UNIT)
    with open_image(copy) as opened:
        offset = opened.root_partition.start
    wants = "/etc/systemd/system/multi-user.target.wants"
    (tmp_path / "commands").write_text(
        f"write {tmp_path}/broken.service /etc/systemd/system/broken.service\n"
        f"symlink {wants}/broken.service /etc/systemd/system/broken.service\n"
    )
    run(["debugfs", "-w", "-f", tmp_path / "commands", f"{copy}?offset={offset}"])
    verdict = boot_image(copy, BootOptions(logs=tmp_path / "logs"))
    failed = [check for check in verdict.checks if check.broken]
    assert [check.check for check in failed] == ["systemd running"]
    assert "failed: broken.service" in failed[0].seen
    assert "the reason why" in failed[0].seen


@pytest.mark.needs("raspi4b")
def test_pi_4_model_reaches_userspace(image: Path, tmp_path: Path) -> None:
    verdict = boot_image(image, BootOptions(machine="raspi4b", timeout=300, logs=tmp_path))
    assert verdict.ok, rows(verdict.checks)
