"""Images as bases: real layouts, a real arm64 tree, every packing, every way to attach that this machine has."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.build.base_image import obtain_image, resolve_image
from builder.errors import FetchError, HostError, InputError
from builder.host.fetch import UnreachableError
from builder.host.hashing import file_digest
from builder.image import attach
from builder.image.attach import Method, attached
from builder.image.ingest import BaseFacts, ImagePlaces, ingest, unpack
from builder.recipe.schema import BaseImage
from builder.run import run, spawn
from tests.signing import Signer, signer
from tests.system import images
from tests.system.images import RASPIOS, UBUNTU, Style
from tests.system.privacy import private_mounts
from tests.web import Web, serve

pytestmark = [pytest.mark.root, pytest.mark.network]
STYLES = (UBUNTU, RASPIOS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The images of all styles and the trees they were made from, by the style's name."""

    images: dict[str, Path]
    trees: dict[str, Path]

    def expected(self, style: Style) -> dict[str, tuple[object, ...]]:
        """What a tree must hold: the root partition's content; the boot partition's is compared apart."""
        return without_boot(images.described(self.trees[style.name]))


def without_boot(tree: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    return {path: what for path, what in tree.items() if not path.startswith("boot/firmware")}


@pytest.fixture(autouse=True)
def mount_namespace() -> Iterator[None]:
    """Mount as a build does."""
    with private_mounts():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    packages = images.download_packages(tmp_path_factory.mktemp("apt"))
    where = tmp_path_factory.mktemp("images")
    trees = {style.name: images.make_tree(packages, where / f"{style.name}.tree", style) for style in STYLES}
    return Made(
        images={
            style.name: images.make_image(trees[style.name], where / f"{style.name}.img", style) for style in STYLES
        },
        trees=trees,
    )


@pytest.fixture(scope="module")
def key() -> Iterator[Signer]:
    with signer("images") as found:
        yield found


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as server:
        yield server


def published(web: Web, key: Signer, file: Path, directory: Path) -> BaseImage:
    """Put an image on the server beside a signed list, as the distributions do; return the recipe's words for it."""
    listed = directory / "SHA256SUMS"
    listed.write_text(f"{file_digest(file)} *{file.name}\n{'0' * 64} *another.img.xz\n")
    web.files |= {
        f"/{file.name}": file,
        "/SHA256SUMS": listed,
        "/SHA256SUMS.gpg": key.sign(listed, directory / "SHA256SUMS.gpg"),
    }
    shutil.copy(key.armored, directory / "signer.asc")
    checksums = {"url": web.url("/SHA256SUMS"), "signature": web.url("/SHA256SUMS.gpg"), "keyring": "signer.asc"}
    return BaseImage.model_validate({"url": web.url(f"/{file.name}"), "checksums": checksums})


def bring(image: Path, at: Path, method: Method = "auto") -> tuple[Path, BaseFacts]:
    tree, scratch = at / "tree", at / "scratch"
    tree.mkdir(parents=True)
    scratch.mkdir()
    facts = ingest(image, tree, scratch=scratch, method=method)
    assert not list(scratch.rglob("*.img"))
    return tree, facts


def check(tree: Path, facts: BaseFacts, style: Style, made: Made) -> None:
    assert without_boot(images.described(tree)) == made.expected(style)
    boot = tree / "boot" / "firmware"
    assert {str(path.relative_to(boot)): path.read_text() for path in boot.rglob("*") if path.is_file()} == style.boot
    assert {path.stat().st_mode & 0o7777 for path in [boot, *boot.rglob("*")]} == {0o755}
    assert (boot / "cmdline.txt").stat().st_mtime == 1_700_000_000
    assert (tree / "srv" / "odd" / "sparse").stat().st_blocks * 512 < images.SPARSE_SIZE // 4
    assert (facts.boot_mount, facts.identify) == ("/boot/firmware", style.identify)
    boot_part, root_part = facts.layout.boot, facts.layout.root
    assert facts.layout.table.disk_id == f"{style.disk_id:08x}"
    assert (boot_part.label, boot_part.start, boot_part.size) == (style.boot_label, style.start, images.BOOT_SIZE)
    assert (root_part.label, root_part.start, root_part.size) == (style.root_label, boot_part.end, images.ROOT_SIZE)
    assert boot_part.uuid
    assert root_part.uuid


def in_cache(directory: Path) -> ImagePlaces:
    return ImagePlaces(directory=directory, cache=directory / "cache")


@pytest.mark.parametrize("suffix", ["", "xz", "zst", "gz"])
@pytest.mark.parametrize("style", STYLES, ids=["ubuntu", "raspios"])
def test_from_a_server_with_a_signed_list(
    made: Made, key: Signer, web: Web, tmp_path: Path, style: Style, suffix: str
) -> None:
    image = published(web, key, images.pack(made.images[style.name], suffix), tmp_path)
    sha256 = resolve_image(image, tmp_path)
    file = obtain_image(image, sha256, in_cache(tmp_path))
    tree, facts = bring(file, tmp_path)
    check(tree, facts, style, made)
    assert file_digest(file) == sha256


@pytest.mark.parametrize(
    "method", ["auto", "loop", "files", pytest.param("kpartx", marks=pytest.mark.needs("device-mapper"))]
)
@pytest.mark.parametrize("style", STYLES, ids=["ubuntu", "raspios"])
def test_every_way_to_attach_gives_the_same_tree(made: Made, tmp_path: Path, style: Style, method: Method) -> None:
    before = file_digest(made.images[style.name])
    tree, facts = bring(made.images[style.name], tmp_path, method)
    check(tree, facts, style, made)
    assert file_digest(made.images[style.name]) == before


def test_fine_times_survive_every_way(tmp_path: Path, made: Made) -> None:
    """The kernel writes nanoseconds and dates beyond 2038, which mke2fs does not."""
    image, at = tmp_path / "fine.img", tmp_path / "mnt"
    shutil.copy(made.images[UBUNTU.name], image)
    at.mkdir()
    run(["mount", "-t", "ext4", "-o", f"loop,offset={UBUNTU.start + images.BOOT_SIZE}", image, at])
    try:
        for name, time_ns in (
            ("fine", 1_600_000_000_123_456_789),
            ("far", 2_500_000_000_000_000_001),
            ("old", -5_000_000_001),
        ):
            (at / name).write_text("x")
            os.utime(at / name, ns=(time_ns, time_ns))
    finally:
        run(["umount", at])
    methods: tuple[Method, ...] = ("loop", "files")
    trees = [bring(image, tmp_path / method, method)[0] for method in methods]
    for name in ("fine", "far", "old"):
        assert len({(tree / name).stat().st_mtime_ns for tree in trees}) == 1, name
    assert (trees[1] / "fine").stat().st_mtime_ns == 1_600_000_000_123_456_789


# ------------------------------------------------------------------------------------------------- what is refused


def test_a_tampered_image_is_refused(made: Made, key: Signer, web: Web, tmp_path: Path) -> None:
    file = images.pack(made.images[UBUNTU.name], "zst")
    image = published(web, key, file, tmp_path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    web.files[f"/{file.name}"] = bytes(content)
    with pytest.raises(FetchError, match="wrong checksum"):
        obtain_image(image, resolve_image(image, tmp_path), in_cache(tmp_path))
    assert list((tmp_path / "cache").glob("*[0-9a-f]")) == []


def test_a_bad_signature_is_refused(made: Made, key: Signer, web: Web, tmp_path: Path) -> None:
    image = published(web, key, made.images[UBUNTU.name], tmp_path)
    web.files["/SHA256SUMS"] = (tmp_path / "SHA256SUMS").read_bytes() + b"# more\n"
    with pytest.raises(FetchError, match="signature is not good"):
        resolve_image(image, tmp_path)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_is_completed(
    made: Made, key: Signer, web: Web, tmp_path: Path, *, ranges: bool
) -> None:
    file = images.pack(made.images[UBUNTU.name], "zst")
    image = published(web, key, file, tmp_path)
    sha256 = resolve_image(image, tmp_path)
    web.ranges = ranges
    web.requests.clear()
    web.break_after = [1_000_000]
    got = obtain_image(image, sha256, in_cache(tmp_path))
    assert file_digest(got) == sha256
    assert web.asked("Range") == ["", "bytes=1000000-"]


def test_an_image_that_is_not_there(web: Web, tmp_path: Path) -> None:
    image = BaseImage.model_validate({"url": web.url("/none.img.xz"), "sha256": "0" * 64})
    with pytest.raises(UnreachableError, match="404"):
        obtain_image(image, "0" * 64, in_cache(tmp_path))


def test_an_image_by_path_is_verified(made: Made, tmp_path: Path) -> None:
    file = made.images[UBUNTU.name]
    right = BaseImage.model_validate({"path": str(file), "sha256": file_digest(file)})
    assert obtain_image(right, resolve_image(right, tmp_path), in_cache(tmp_path)) == file
    wrong = BaseImage.model_validate({"path": str(file), "sha256": "0" * 64})
    with pytest.raises(FetchError, match=file_digest(file)):
        obtain_image(wrong, resolve_image(wrong, tmp_path), in_cache(tmp_path))


@pytest.mark.parametrize("suffix", ["xz", "zst", "gz"])
def test_a_packed_image_that_is_cut_short(made: Made, tmp_path: Path, suffix: str) -> None:
    packed = images.pack(made.images[UBUNTU.name], suffix)
    short = tmp_path / "short"
    short.write_bytes(packed.read_bytes()[:-5000])
    with pytest.raises(FetchError, match="unpacking the base image"):
        unpack(short, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_raspberry_pi_image(made: Made, tmp_path: Path) -> None:
    whole = made.images[UBUNTU.name].read_bytes()
    one_partition = bytearray(whole[:512])
    one_partition[446 + 16 : 446 + 32] = bytes(16)
    dirty = bytearray(whole)
    dirty[UBUNTU.start + images.BOOT_SIZE + 1024 + 0x60] |= 0x4
    blank = bytearray(whole)
    blank[UBUNTU.start + images.BOOT_SIZE + 1024 : UBUNTU.start + images.BOOT_SIZE + 2048] = bytes(1024)
    for content, message in (
        (b"text", "no usable partition table"),
        (bytes(one_partition), "outside the disk"),
        (whole[: 80 * images.MIB], "no usable partition table|cut short"),
        (bytes(dirty), "not unmounted cleanly"),
        (bytes(blank), "no partition holds an ext file system"),
    ):
        (tmp_path / "x.img").write_bytes(content)
        with pytest.raises(InputError, match=message):
            bring(tmp_path / "x.img", tmp_path / message.replace(" ", "-"))


def test_a_tree_whose_links_lead_out_is_confined(made: Made, tmp_path: Path) -> None:
    tree = tmp_path / "evil.tree"
    run(["cp", "-a", made.trees[UBUNTU.name], tree])
    shutil.rmtree(tree / "boot")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    (tree / "boot").symlink_to(outside)
    image = images.make_image(tree, tmp_path / "evil.img", UBUNTU)
    brought, _ = bring(image, tmp_path)
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (brought / str(outside).lstrip("/") / "firmware" / "cmdline.txt").is_file()


# -------------------------------------------------------------------------------------------------- nothing is left


def test_kpartx_says_what_it_lacks(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "misc").write_text(" 58 rfkill\n")
    monkeypatch.setattr(attach, "_MISC", tmp_path / "misc")
    with pytest.raises(HostError, match="no device-mapper") as caught:
        bring(made.images[UBUNTU.name], tmp_path / "forced", "kpartx")
    assert "--attach loop" in caught.value.hint
    tree, facts = bring(made.images[UBUNTU.name], tmp_path / "auto")
    check(tree, facts, UBUNTU, made)


def test_auto_goes_on_without_loop_devices(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "_ways", lambda _method: ())
    tree, facts = bring(made.images[UBUNTU.name], tmp_path)
    check(tree, facts, UBUNTU, made)


def test_a_failure_inside_leaves_nothing(made: Made, tmp_path: Path) -> None:
    image = made.images[UBUNTU.name]

    def fail_inside() -> None:
        with attached(image, "loop", tmp_path) as found:
            assert found.root.is_mount()
            assert loops(image)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert not loops(image)


def loops(image: Path) -> list[str]:
    return attach._loops_of(attach._identity(image))


HOLD = """
import sys, time
from pathlib import Path
from builder.image.attach import attached
with attached(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])):
    Path(sys.argv[4]).touch()
    time.sleep(60)
"""


@pytest.mark.parametrize("method", ["loop", pytest.param("kpartx", marks=pytest.mark.needs("device-mapper"))])
def test_a_kill_leaves_nothing(made: Made, tmp_path: Path, method: str) -> None:
    image, ready, scratch = made.images[UBUNTU.name], tmp_path / "ready", tmp_path / "scratch"
    scratch.mkdir()
    argv: list[str | Path] = ["unshare", "--mount", sys.executable, "-c", HOLD, image, method, scratch, ready]
    with spawn(argv, cwd=Path(__file__).parents[2]) as process:
        until(ready.exists)
        assert loops(image)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not loops(image))


KILL_BETWEEN = "import os; from builder.image import attach; attach._mount = lambda *_: os.kill(os.getpid(), 9)"
NEXT: tuple[Method, ...] = ("loop", "files")


@pytest.mark.parametrize("method", ["loop", pytest.param("kpartx", marks=pytest.mark.needs("device-mapper"))])
def test_what_a_kill_before_the_mount_leaves_goes_with_the_next_run(made: Made, tmp_path: Path, method: Method) -> None:
    image = made.images[UBUNTU.name]
    for following in dict.fromkeys((method, *NEXT)):
        scratch = tmp_path / f"killed-before-{following}"
        scratch.mkdir()
        argv: list[str | Path] = [sys.executable, "-c", KILL_BETWEEN + HOLD, image, method, scratch, tmp_path / "never"]
        killed = run(["unshare", "--mount", *argv], cwd=Path(__file__).parents[2], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert loops(image)
        bring(image, tmp_path / f"after-{method}-{following}", following)
        assert not loops(image)
        assert not list(attach._RECORDS.iterdir())


def test_a_loop_device_of_somebody_else_is_no_obstacle_and_stays(made: Made, tmp_path: Path) -> None:
    """Such as one of a person who looks into the image; mount(8) calls it an overlapping loop device."""
    image = made.images[UBUNTU.name]
    other = run(["losetup", "--find", "--show", "--read-only", image]).stdout.strip()
    try:
        tree, facts = bring(image, tmp_path, "loop")
        assert loops(image) == [Path(other).name]
    finally:
        run(["losetup", "--detach", other])
    check(tree, facts, UBUNTU, made)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
