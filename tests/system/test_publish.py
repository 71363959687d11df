"""A golden tree becomes a directory of files that flash, boot-wise agree with each other, and never differ."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.errors import HostError, InputError
from builder.host import tree
from builder.host.hashing import file_digest
from builder.image import compress
from builder.image.open import open_image
from builder.image.partitions import MIB, DiskSpec, make_id32
from builder.image.publish import Published, PublishRequest, find_published, publish
from builder.run import run, spawn
from tests.system.trees import EPOCH, copy_shuffled, in_memory, make_tree, mounted

pytestmark = pytest.mark.root
DISK = DiskSpec(boot_size=64 * MIB)
KEY = "f" * 64
FILES = {
    "golden.img",
    "golden.img.zst",
    "golden.img.bmap",
    "golden.spdx.json",
    "lock.yaml",
    "manifest.json",
    "SHA256SUMS",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("golden") / "tree")


def request_for(source: Path, output: Path, *, disk: DiskSpec = DISK, tree_key: str = "") -> PublishRequest:
    return PublishRequest(
        name="golden",
        tree=source,
        disk=disk,
        key=KEY,
        epoch=EPOCH,
        output=output,
        lock_text="packages: []\n",
        tree_key=tree_key,
        manifest={"layers": [{"name": "base", "key": KEY}]},
    )


@pytest.fixture(scope="module")
def published(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(request_for(source, tmp_path_factory.mktemp("output")))


def test_what_lies_where(published: Published) -> None:
    home = published.directory.parent
    assert {path.name for path in published.directory.iterdir()} == FILES
    assert published.directory.name == published.digest[:12]
    assert (home / "latest").resolve() == published.directory
    assert {path.name for path in home.iterdir()} == {published.digest[:12], "latest"}
    run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=published.directory)
    assert published.image.stat().st_blocks * 512 < published.image.stat().st_size / 2
    manifest = json.loads((published.directory / "manifest.json").read_text())
    assert manifest["build"]["layers"][0]["name"] == "base"
    sbom = json.loads((published.directory / "golden.spdx.json").read_text())
    assert [each["name"] for each in sbom["packages"]] == ["golden", "bash"]


def test_the_bill_of_materials_is_what_the_spdx_project_s_own_library_reads(published: Published) -> None:
    """Nothing of it is against the specification, and read and written again it is the same: every key is known."""
    from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter  # noqa: PLC0415 - a second, for one test
    from spdx_tools.spdx.parser.json.json_parser import parse_from_file  # noqa: PLC0415
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document  # noqa: PLC0415

    file = published.directory / "golden.spdx.json"
    document = parse_from_file(str(file))
    assert [said.validation_message for said in validate_full_spdx_document(document)] == []
    again = json.dumps(DocumentConverter().convert(document))  # type: ignore[no-untyped-call]
    assert json.loads(again.replace("PACKAGE_MANAGER", "PACKAGE-MANAGER")) == json.loads(file.read_text())  # both go


def test_an_image_names_its_own_partitions(published: Published) -> None:
    disk_id = f"{make_id32(KEY, 'disk'):08x}"
    with open_image(published.directory) as image:
        assert image.boot
        assert (
            image.boot.text("cmdline.txt")
            == f"console=tty1 root=PARTUUID={disk_id}-02 quiet rootfstype=ext4 rootwait\n"
        )
        assert image.boot.text("vmlinuz.old") == image.boot.text("vmlinuz")
        assert image.root.text("/etc/fstab") == (
            f"# what is mounted\nPARTUUID={disk_id}-02 / ext4 defaults,noatime 0 1\n"
            f"PARTUUID={disk_id}-01 /boot/firmware vfat defaults 0 2\n"
        )
        assert [each.partuuid for each in image.partitions] == [f"{disk_id}-01", f"{disk_id}-02"]
        assert (image.boot_partition and image.boot_partition.label, image.root_partition.label) == ("bootfs", "rootfs")


def test_a_copied_tree_gives_the_same_files(published: Published, source: Path) -> None:
    with in_memory() as memory:
        again = publish(request_for(copy_shuffled(source, memory / "copy"), memory / "output"))
        sums = (again.directory / "SHA256SUMS").read_text()
    assert again.digest == published.digest
    assert sums == (published.directory / "SHA256SUMS").read_text()


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_bmaptool_flashes_a_used_card(published: Published, tmp_path: Path, suffix: str) -> None:
    """The card is full of ones: whatever the image relies on being zero has to be in the map."""
    card = tmp_path / "card"
    with card.open("wb") as file:
        for _ in range(published.image.stat().st_size // MIB):
            file.write(b"\xff" * MIB)
    packed = published.image.with_name(f"{published.image.name}{suffix}")
    bmap = published.image.with_name(f"{published.image.name}.bmap")
    run(["bmaptool", "copy", "--bmap", bmap, packed, card])
    manifest = json.loads((published.directory / "manifest.json").read_text())
    boot, root = manifest["disk"]["partitions"]
    run(["e2fsck", "-fn", f"card?offset={root['start']}"], cwd=tmp_path)
    alone = tmp_path / "boot"
    run(["dd", f"if={card}", f"of={alone}", "bs=1M", f"skip={boot['start'] // MIB}", f"count={boot['size'] // MIB}"])
    run(["fsck.vfat", "-n", alone])
    with (
        mounted(card, root["start"], tmp_path / "a") as one,
        mounted(published.image, root["start"], tmp_path / "b") as two,
    ):
        assert not tree.compare(one, two)


def test_the_map_leaves_out_only_zeros(published: Published) -> None:
    mapped = re.findall(r"> (\d+)(?:-(\d+))? </Range>", published.image.with_name("golden.img.bmap").read_text())
    at = 0
    with published.image.open("rb") as file:
        for first, last in [*mapped, (str(published.image.stat().st_size // 4096), "")]:
            file.seek(at)
            assert not file.read(int(first) * 4096 - at).strip(b"\0")
            at = (int(last or first) + 1) * 4096


@pytest.mark.parametrize("kind", ["zst", "xz"])
def test_threads_do_not_change_what_is_compressed(
    published: Published, tmp_path: Path, kind: compress.Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums, packed = set(), Path()
    for threads in (1, 2, 3, 64):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        image = tmp_path / "x.img"
        image.unlink(missing_ok=True)
        os.link(published.image, image)
        packed = compress.compress(image, kind)
        sums.add(file_digest(packed))
    assert len(sums) == 1
    run(["zstd" if kind == "zst" else "xz", "-t", packed])


def test_the_same_request_does_no_work(published: Published, source: Path, tmp_path: Path) -> None:
    wanted = request_for(source, tmp_path, tree_key="last layer")
    assert find_published(wanted) is None
    first = publish(wanted)
    assert (first.reused, first.digest) == (False, published.digest)
    (tmp_path / "golden/latest").unlink()
    again = publish(request_for(tmp_path / "the tree is gone", tmp_path, tree_key="last layer"))
    assert again.reused
    assert (tmp_path / "golden/latest").resolve() == first.directory
    (first.directory / "golden.img.zst").unlink()
    assert find_published(wanted) is None
    mended = publish(wanted)
    assert not mended.reused
    assert {path.name for path in mended.directory.iterdir()} == FILES
    assert {path.name for path in (tmp_path / "golden").iterdir()} == {first.directory.name, "latest"}


@contextmanager
def small_disk(at: Path, size: int) -> Iterator[Path]:
    at.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at])
    try:
        yield at
    finally:
        run(["umount", at])


@pytest.mark.parametrize("mebibytes", [1, 3, 6, 8, 10])
def test_a_full_disk_is_one_clear_error_and_nothing_is_left(source: Path, tmp_path: Path, mebibytes: int) -> None:
    fixed = DiskSpec(boot_size=64 * MIB, root_size=400 * MIB)
    with small_disk(tmp_path / "small", mebibytes * MIB) as output:
        with pytest.raises(HostError, match=r"the disk of .*small.* is full") as failure:
            publish(request_for(source, output, disk=fixed))
        assert "df -h" in failure.value.hint
        assert not list((output / "golden").iterdir())


def test_a_boot_partition_too_small_names_the_biggest_files(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "tree")
    (source / "boot/firmware/big.img").write_bytes(b"x" * 80 * MIB)
    with pytest.raises(InputError, match=r"boot partition of 64 MiB is too small: .* big\.img \(80\.0 MiB\), vmlinuz"):
        publish(request_for(source, tmp_path))
    assert not list((tmp_path / "golden").iterdir())


def test_a_killed_publish_leaves_no_result_and_is_swept(published: Published, source: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom tests.system.test_publish import publish, request_for\n"
        "publish(request_for(Path(sys.argv[1]), Path(sys.argv[2])))\n"
    )
    home = tmp_path / "golden"
    for wait in (0.0, 0.4, 1.2):
        with spawn([sys.executable, "-c", script, source, tmp_path], cwd=Path(__file__).parents[2]) as process:
            while not list(home.glob(".*.partial")) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (home / published.digest[:12]).exists() or (home / published.digest[:12] / "SHA256SUMS").exists()
    assert publish(request_for(source, tmp_path)).digest == published.digest
    assert {path.name for path in home.iterdir()} == {published.digest[:12], "latest"}
