"""Packages that make keys and names while they are installed: none is in the image, and every machine gets its own."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.emulation.chroot import Chroot
from builder.emulation.mode import full_emulation
from builder.image.identities import SCRIPT, UNIT
from builder.image.open import open_image
from builder.verify.boot_chain_identities import check_identities
from tests.system.conftest import Small
from tests.system.engine import Engine, made

pytestmark = [pytest.mark.root, pytest.mark.network]

RECIPE = """\
layers:
  - name: identities
    steps:
      - packages: {install: [open-iscsi, ssl-cert, munge, nvme-cli]}
      - files:
          - {path: /etc/nvme/hostid, content: "6f0c6d5e-3b1a-4f57-8d29-4a1c7e9b2d60\\n"}
"""
INITIATOR = "etc/iscsi/initiatorname.iscsi"
KEY, CERTIFICATE = "etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem"
OWN = (KEY, CERTIFICATE, "etc/munge/munge.key")


def _build_again(engine: Engine, recipe: Path) -> dict[str, Any]:
    """Build with the layer of these packages, and what comes after it, made anew, to where nothing is published."""
    for key, name in engine.layers.items():
        if name == "identities":
            shutil.rmtree(engine.cache / "layers" / key)
    for finished in _finished(engine):
        shutil.rmtree(finished)
    return engine.build("--offline", recipe=recipe)


def _finished(engine: Engine) -> list[Path]:
    """Return the last layer of this recipe, which is the newest: that of the small one was there before."""
    last = [engine.cache / "layers" / key for key, name in engine.layers.items() if name == "finish"]
    return sorted(last, key=lambda path: path.stat().st_ctime_ns)[-1:]


def _machine(engine: Engine, at: Path) -> Path:
    """Return the root of a new machine of the image, after what its first boot runs."""
    at.mkdir()
    with open_image(engine.output / "identities/latest") as image:
        image.root.extract(["/"], at)
        for entry in image.root.walk():
            if entry.kind in ("file", "directory"):  # whose owners are not extracted
                os.chown(at / entry.path.lstrip("/"), entry.uid, entry.gid)
                (at / entry.path.lstrip("/")).chmod(entry.mode)
    chroot = Chroot(root=at, emulation=full_emulation())
    chroot.run([f"/{SCRIPT}"])
    chroot.run(["/usr/lib/open-iscsi/startup-checks.sh"])  # ExecStartPre= of iscsid.service
    return at


def test_two_builds_are_alike_and_two_machines_are_not(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    recipe = engine.write("identities.yaml", RECIPE)
    first = engine.build(recipe=recipe)
    again = _build_again(replace(engine, output=tmp_path / "again"), recipe)
    assert not again["published"]["reused"]
    assert made(again) == ["identities", "finish"]
    assert again["published"]["digest"] == first["published"]["digest"]
    assert again["identities"] == []
    with open_image(engine.output / "identities/latest") as image:
        assert image.root.read(f"/{INITIATOR}") == b"GenerateName=yes\n"
        assert [path for path in OWN if image.root.find(f"/{path}", follow=False)] == []
        assert image.root.find(f"/{UNIT}")
        # a recipe wrote it: it is meant, and shown
        assert image.root.read("/etc/nvme/hostid") == b"6f0c6d5e-3b1a-4f57-8d29-4a1c7e9b2d60\n"
        assert [each.seen for each in check_identities(image.root) if each.broken] == ["/etc/nvme/hostid (nvme-cli)"]
    one, other = (_machine(engine, tmp_path / name) for name in ("one", "other"))
    for path in (*OWN, INITIATOR):
        assert (one / path).read_bytes() != (other / path).read_bytes(), path
    assert b"InitiatorName=iqn.1993-08.org.debian:01:" in (one / INITIATOR).read_bytes()
    assert {(each / "etc/nvme/hostnqn").read_text() for each in (one, other)} == {
        "nqn.2014-08.org.nvmexpress:uuid:6f0c6d5e-3b1a-4f57-8d29-4a1c7e9b2d60\n"
    }
    owners = {path: Path(one / path).owner() for path in OWN}
    assert oct((one / KEY).stat().st_mode) == "0o100640"
    assert owners[KEY] == "root"
    assert (one / "etc/munge/munge.key").stat().st_uid == (one / "etc/munge").stat().st_uid != 0
    kept = (one / KEY).read_bytes()
    Chroot(root=one, emulation=full_emulation()).run([f"/{SCRIPT}"])
    assert (one / KEY).read_bytes() == kept
