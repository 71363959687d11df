"""A recipe whose base is an image from a server, with a signed list of checksums: the whole way to a new image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.host.hashing import file_digest
from builder.image.open import open_image
from tests.signing import Signer, signer
from tests.system.conftest import Small
from tests.system.engine import made
from tests.web import Web, serve

pytestmark = [pytest.mark.root, pytest.mark.network]

RECIPE = """\
name: onimage
base:
  image:
    url: {url}
    checksums: {{url: {sums}, signature: {sums}.gpg, keyring: signer.asc}}
boards: [pi4]
disk:
  boot: {{size: 40M, label: system-boot}}
  root: {{size: auto, slack: 16M, label: writable, identify: label}}
layers:
  - name: more
    steps:
      - packages: {{install: [cowsay]}}
      - run: {{script: "uname -m >/srv/machine; /usr/games/cowsay moo >/srv/cow"}}
"""


def offer(web: Web, key: Signer, image: Path, at: Path) -> str:
    """Put an image and its signed list on the server; return the recipe that takes it as its base."""
    listed = at / "SHA256SUMS"
    listed.write_text(f"{file_digest(image)} *{image.name}\n")
    web.files |= {
        f"/{image.name}": image,
        "/SHA256SUMS": listed,
        "/SHA256SUMS.gpg": key.sign(listed, at / "SHA256SUMS.gpg"),
    }
    return RECIPE.format(url=web.url(f"/{image.name}"), sums=web.url("/SHA256SUMS"))


def test_from_a_served_image_to_a_new_one(small: Small, tmp_path: Path) -> None:
    engine = small.engine.beside(tmp_path)
    recipe = tmp_path / "recipes/onimage.yaml"
    image = small.engine.output / "small/latest/small.img.zst"
    with serve() as web, signer("images") as key:
        shutil.copy(key.armored, tmp_path / "recipes/signer.asc")
        recipe.write_text(offer(web, key, image, tmp_path))
        report = engine.build(recipe=recipe)
        assert made(report) == ["base", "more", "finish"]
        assert made(engine.build(recipe=recipe)) == []
        with open_image(engine.output / "onimage/latest") as opened:
            assert [part.label for part in opened.partitions] == ["system-boot", "writable"]
            assert opened.boot is not None
            assert "root=LABEL=writable" in opened.boot.text("/cmdline.txt").split()
            assert opened.root.text("/srv/machine") == "aarch64\n"
            assert "< moo >" in opened.root.text("/srv/cow")
            assert opened.root.stat("/srv/kept/note").uid == 1234  # what the base had

        tampered = tmp_path / image.name
        tampered.write_bytes(image.read_bytes()[:-1] + b"!")
        web.files[f"/{image.name}"] = tampered
        done = small.engine.cold(tmp_path / "cold").run(recipe=recipe)
        assert done.returncode == 5
        assert "wrong checksum" in done.stderr
        (tmp_path / "SHA256SUMS").write_text(f"{file_digest(tampered)} *{image.name}\n")  # the list is not signed anew
        done = small.engine.cold(tmp_path / "forged").run(recipe=recipe)
        assert done.returncode == 5
        assert "signature" in done.stderr
    assert not engine.scraps
