"""What `pibuild diff` says is what was changed, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builder.image.open import open_image
from builder.verify.diff import FileChange, ImageDiff, PackageChange, diff, render, to_dict
from tests.images import DEBIAN, MIB, PACKAGE, Layout, Link, make_image

pytestmark = pytest.mark.tools


def compare(tmp_path: Path, before: Layout, after: Layout) -> ImageDiff:
    one, two = make_image(tmp_path / "a.img", before), make_image(tmp_path / "b.img", after)
    with open_image(one) as old, open_image(two) as new:
        return diff(old, new)


def root(**changes: bytes | Link) -> Layout:
    return replace(DEBIAN, root={**DEBIAN.root, **{name.replace("__", "/"): to for name, to in changes.items()}})


def test_same(tmp_path: Path) -> None:
    changes = compare(tmp_path, DEBIAN, DEBIAN)
    assert changes.empty
    assert render(changes) == ["no difference"]


def test_files(tmp_path: Path) -> None:
    before = root(data__same=b"s", data__content=b"a", data__size=b"a", data__kind=b"a", data__link=Link(target="x"))
    after = root(
        data__same=b"s", data__content=b"b", data__size=b"ab", data__kind=Link(target="/a"), data__link=Link(target="y")
    )
    after = replace(after, root={**after.root, "new/sub/file": b"", "new/other": b""})
    before = replace(before, root={**before.root, "data/old": b""})
    commands = (
        "sif /etc/hostname mode 0100600",
        "sif /etc/passwd uid 7",
        "sif /etc/machine-id mtime 20200101000000",
        "ea_set /etc/shadow security.capability x",
    )
    changes = compare(tmp_path, before, replace(after, debugfs=commands)).root
    assert (changes.added, changes.removed) == (("/new/",), ("/data/old",))
    assert changes.changed == (
        FileChange(path="/data/content", aspects=("content",)),
        FileChange(path="/data/kind", aspects=("file -> symlink",)),
        FileChange(path="/data/link", aspects=("link x -> y",)),
        FileChange(path="/data/size", aspects=("content 1 -> 2 bytes",)),
        FileChange(path="/etc/hostname", aspects=("mode 0644 -> 0600",)),
        FileChange(path="/etc/passwd", aspects=("owner 0:0 -> 7:0",)),
        FileChange(path="/etc/shadow", aspects=("attribute security.capability",)),
    )


def test_big_files_are_compared_too(tmp_path: Path) -> None:
    big = bytes(17 * MIB)
    before = replace(root(big=big + b"a"), root_size=48 * MIB)
    changes = compare(tmp_path, before, replace(root(big=big + b"b"), root_size=48 * MIB))
    assert changes.root.changed == (FileChange(path="/big", aspects=("content",)),)


def test_packages_and_units(tmp_path: Path) -> None:
    status = PACKAGE.replace("13.8", "13.9").replace("Package: openssh-server", "Package: restic")
    files = {
        **DEBIAN.root,
        "var/lib/dpkg/status": status.encode(),
        "etc/systemd/system/timers.target.wants/restic.timer": Link(target="/usr/lib/systemd/system/restic.timer"),
    }
    del files["etc/systemd/system/apt-daily.timer"]
    after = replace(DEBIAN, root=files)
    changes = compare(tmp_path, DEBIAN, after)
    assert changes.packages == (
        PackageChange(name="base-files:arm64", before="13.8", after="13.9"),
        PackageChange(name="openssh-server:arm64", before="1:10.0p1-7+b1", after=""),
        PackageChange(name="restic:arm64", before="", after="1:10.0p1-7+b1"),
    )
    assert changes.units == ("enabled restic.timer", "no longer masked apt-daily.timer")
    lines = render(changes)
    assert "  ~ base-files:arm64 13.8 -> 13.9" in lines
    assert "  + restic:arm64 1:10.0p1-7+b1" in lines
    assert json.loads(json.dumps(to_dict(changes)))["packages"][0]["after"] == "13.9"


def test_boot_configuration_and_partitions(tmp_path: Path) -> None:
    boot = {
        **DEBIAN.boot,
        "config.txt": DEBIAN.boot["config.txt"] + b"gpu_mem=16\n",
        "cmdline.txt": b"root=LABEL=other\n",
    }
    changes = compare(tmp_path, DEBIAN, replace(DEBIAN, boot=boot, root_label="other"))
    assert "+gpu_mem=16" in changes.boot_texts
    assert "+root=LABEL=other" in changes.boot_texts
    assert "partition 2 label rootfs -> other" in changes.partitions
    assert [each.path for each in changes.boot.changed] == ["/cmdline.txt", "/config.txt"]
    assert not changes.root.changed
