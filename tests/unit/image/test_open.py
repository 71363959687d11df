"""Images are opened and read whoever laid them out, and bad ones are refused in words."""

import gzip
import lzma
from dataclasses import replace
from pathlib import Path

import parted
import pytest

from builder.errors import InputError
from builder.image.open import find_image, open_image
from builder.run import run
from tests.images import DEBIAN, MIB, RASPIOS, UBUNTU, Layout, Link, make_ext4, make_fat, make_image, mbr

pytestmark = pytest.mark.tools


@pytest.mark.parametrize(
    ("layout", "labels"),
    [(DEBIAN, ("bootfs", "rootfs")), (UBUNTU, ("system-boot", "writable")), (RASPIOS, ("bootfs", "rootfs"))],
)
def test_layouts(tmp_path: Path, layout: Layout, labels: tuple[str, str]) -> None:
    with open_image(make_image(tmp_path / "a.img", layout)) as image:
        assert image.table.kind == "msdos"
        assert image.table.disk_id == "deadbeef"
        assert [(each.type, each.start, each.filesystem) for each in image.partitions] == [
            ("0x0c", MIB, "vfat"),
            ("0x83", 5 * MIB, "ext4"),
        ]
        assert tuple(each.label for each in image.partitions) == labels
        assert [each.partuuid for each in image.partitions] == ["deadbeef-01", "deadbeef-02"]
        assert image.partitions[0].uuid == "0BAD-F00D"
        assert all(0 < each.free < each.size for each in image.partitions)
        assert image.boot is not None
        assert image.boot.read("config.txt") == layout.boot["config.txt"]
        assert image.root.text("/etc/hostname") == "golden\n"
        assert image.root_partition.number == 2


def test_boot_is_found_in_any_case_and_walked(tmp_path: Path) -> None:
    with open_image(make_image(tmp_path / "a.img", DEBIAN)) as image:
        assert image.boot is not None
        assert image.boot.read("/OVERLAYS/Disable-BT.dtbo") == DEBIAN.boot["overlays/disable-bt.dtbo"]
        files = [entry.path for entry in image.boot.walk() if entry.kind == "file"]
        assert files == sorted(f"/{name}" for name in DEBIAN.boot)


def test_paths_resolve_inside(tmp_path: Path) -> None:
    links: dict[str, bytes | Link] = {
        "a/up": Link(target="../../../../etc/hostname"),
        "a/absolute": Link(target="/etc"),
        "a/loop": Link(target="loop"),
        "a/dangling": Link(target="/nowhere"),
        "a/long": Link(target="../" + "etc/../" * 12 + "etc/hostname"),
    }
    with open_image(make_image(tmp_path / "a.img", replace(DEBIAN, root={**DEBIAN.root, **links}))) as image:
        root = image.root
        assert root.text("/a/up") == "golden\n"
        assert root.stat("/a/absolute/hostname").path == "/etc/hostname"
        assert root.stat("/a/absolute/../../../etc/./hostname").path == "/etc/hostname"
        assert root.stat("/a/long", follow=False).target == "../" + "etc/../" * 12 + "etc/hostname"
        assert root.text("/a/long") == "golden\n"
        assert root.stat("/a/dangling", follow=False).kind == "symlink"
        assert root.find("/a/dangling") is None
        assert root.stat("/sbin/init").path == "/usr/lib/systemd/systemd"
        with pytest.raises(OSError, match="too many levels"):
            root.stat("/a/loop")
        with pytest.raises(FileNotFoundError, match="/etc/none"):
            root.read("/etc/none")
        with pytest.raises(NotADirectoryError):
            root.stat("/etc/hostname/x")
        with pytest.raises(IsADirectoryError):
            root.read("/etc")
        with pytest.raises(NotADirectoryError):
            root.list("/etc/hostname")


def test_owners_modes_devices_attributes(tmp_path: Path) -> None:
    commands = (
        "sif /etc/hostname uid 70001",
        "sif /etc/hostname gid 70002",
        "sif /etc/hostname mode 0104750",
        "sif /etc/hostname mtime 20200102030405",
        "cd /etc",
        "mknod tty c 4 300",
        "mknod pipe p",
        "ln hostname other",
        "ea_set /etc/machine-id security.capability small",
        f"ea_set /etc/fstab user.big {'v' * 500}",
    )
    with open_image(make_image(tmp_path / "a.img", replace(DEBIAN, debugfs=commands))) as image:
        entry = image.root.stat("/etc/hostname")
        assert (entry.uid, entry.gid, entry.mode, entry.mtime) == (70001, 70002, 0o4750, 1577934245)
        assert image.root.stat("/etc/other").inode == entry.inode
        tty = image.root.stat("/etc/tty")
        assert (tty.kind, tty.device) == ("character", (4, 300))
        assert image.root.stat("/etc/pipe").kind == "fifo"
        assert image.root.read("/etc/pipe") == b""
        assert image.root.xattrs(image.root.stat("/etc/machine-id")) == {"security.capability": b"small"}
        assert image.root.xattrs(image.root.stat("/etc/fstab")) == {"user.big": b"v" * 500}


@pytest.mark.parametrize(
    "options",
    [(), ("-O", "^extent,^64bit"), ("-b", "1024"), ("-I", "128"), ("-O", "64bit,ea_inode")],
)
def test_contents_of_every_shape(tmp_path: Path, options: tuple[str, ...]) -> None:
    big = bytes(range(256)) * 4 * 1500
    holes = b"begin" + bytes(2 * MIB) + b"middle" + bytes(MIB) + b"end" + bytes(3000)
    names: dict[str, bytes | Link] = {f"many/a-rather-long-name-for-a-file-{number:04}": b"x" for number in range(600)}
    root: dict[str, bytes | Link] = {**DEBIAN.root, **names, "big": big, "holes": holes, "empty": b""}
    layout = replace(DEBIAN, root=root, root_size=24 * MIB, mke2fs=options)
    with open_image(make_image(tmp_path / "a.img", layout)) as image:
        assert image.root.read("/big") == big
        assert image.root.read("/holes") == holes
        assert image.root.read("/empty") == b""
        assert image.root.head("/big", 5) == big[:5]
        assert [entry.name for entry in image.root.list("/many")] == [name.removeprefix("many/") for name in names]
        walked = {entry.path.lstrip("/") for entry in image.root.walk() if not entry.directory}
        assert walked == set(root)


def test_contents_that_lie_in_their_inodes(tmp_path: Path) -> None:
    files: dict[str, bytes | Link] = {f"few/{size}": bytes(range(1, 251))[:size] for size in (0, 1, 60, 61, 100, 250)}
    layout = replace(DEBIAN, root={**DEBIAN.root, **files}, mke2fs=("-O", "inline_data", "-I", "512"))
    with open_image(make_image(tmp_path / "a.img", layout)) as image:
        assert {f"few/{entry.name}": image.root.read(entry.path) for entry in image.root.list("/few")} == files
        assert image.root.xattrs(image.root.stat("/few/250")) == {}


def test_unwritten_extents_are_zeros(tmp_path: Path) -> None:
    layout = replace(DEBIAN, root={**DEBIAN.root, "big": b"x" * 8192}, debugfs=("fallocate /etc/hostname 1 3",))
    with open_image(
        make_image(tmp_path / "a.img", replace(layout, debugfs=(*layout.debugfs, "sif /etc/hostname size 16384")))
    ) as image:
        assert image.root.read("/etc/hostname") == b"golden\n" + bytes(16384 - 7)


def test_extract(tmp_path: Path) -> None:
    with open_image(make_image(tmp_path / "a.img", DEBIAN)) as image:
        placed = image.root.extract(["/sbin/init", "/etc/systemd", "/etc/hostname"], tmp_path / "out")
        assert placed["/sbin/init"] == tmp_path / "out/usr/lib/systemd/systemd"
        assert placed["/sbin/init"].stat().st_mode & 0o777 == 0o755
        link = placed["/etc/systemd"] / "system/multi-user.target.wants/ssh.service"
        assert str(link.readlink()) == "/usr/lib/systemd/system/ssh.service"
        assert (tmp_path / "out/etc/hostname").read_text() == "golden\n"


@pytest.mark.parametrize("suffix", [".zst", ".xz", ".gz"])
def test_compressed(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make_image(tmp_path / "a.img", DEBIAN)
    packed = tmp_path / f"a.img{suffix}"
    if suffix == ".zst":
        run(["zstd", "-q", "--rm", plain])
    else:
        packed.write_bytes((lzma.compress if suffix == ".xz" else gzip.compress)(plain.read_bytes()))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    with open_image(packed) as image:
        assert image.given == packed
        assert image.root.text("/etc/hostname") == "golden\n"
        assert image.path.stat().st_blocks * 512 < image.size
        assert list(scratch.glob("*/*")) != []
    assert list(scratch.glob("*/*")) == []
    packed.write_bytes(packed.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"cannot be decompressed"), open_image(packed):
        pass
    assert list(scratch.glob("*/*")) == []


def test_directory_of_a_build(tmp_path: Path) -> None:
    build = tmp_path / "golden/0123456789ab"
    build.mkdir(parents=True)
    (tmp_path / "golden/latest").symlink_to("0123456789ab")
    with pytest.raises(InputError, match="holds no image"):
        find_image(tmp_path / "golden/latest")
    (build / "golden.img.zst").touch()
    assert find_image(tmp_path / "golden/latest").name == "golden.img.zst"
    (build / "golden.img").touch()
    assert find_image(build).name == "golden.img"
    (build / "more.img").touch()
    with pytest.raises(InputError, match=r"several images: golden.img, more.img"):
        find_image(build)
    with pytest.raises(InputError, match="no such image"):
        find_image(tmp_path / "nothing")


def test_gpt(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    device = parted.getDevice(str(path))
    disk = parted.freshDisk(device, "gpt")
    for start, size in ((MIB, 4 * MIB), (5 * MIB, 8 * MIB)):
        geometry = parted.Geometry(device=device, start=start // 512, length=size // 512)
        part = parted.Partition(disk=disk, type=parted.PARTITION_NORMAL, geometry=geometry)
        disk.addPartition(part, parted.Constraint(exactGeom=geometry))
    disk.commit()
    with path.open("r+b") as file:
        for start, part in ((MIB, make_fat(tmp_path / "f", DEBIAN)), (5 * MIB, make_ext4(tmp_path / "e", DEBIAN))):
            file.seek(start)
            file.write(part.read_bytes())
        file.seek(1024 + 128 + 16)
        guid = file.read(16)
    with open_image(path) as image:
        assert image.table.kind == "gpt"
        assert [each.filesystem for each in image.partitions] == ["vfat", "ext4"]
        assert bytes.fromhex(image.partitions[1].partuuid.replace("-", ""))[8:] == guid[8:]
        assert image.partitions[1].type == "0fc63daf-8483-4772-8e79-3d69d8477de4"
        assert image.root.text("/etc/hostname") == "golden\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (bytes(4 * MIB), "no usable partition table"),
        (mbr([(0x0C, MIB, 2 * MIB)]) + bytes(4 * MIB), "no partition holds an ext file system"),
        (mbr([(0x0C, MIB, 2 * MIB), (0x83, 3 * MIB, 64 * MIB)]) + bytes(4 * MIB), "partition"),
    ],
)
def test_no_image(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as failure, open_image(path):
        pass
    assert failure.value.problems[0].hint


def test_damage_is_told_in_words(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.img", DEBIAN)
    whole = path.read_bytes()
    root = 5 * MIB
    path.write_bytes(whole[: root + 7 * MIB])
    with pytest.raises(InputError), open_image(path):
        pass
    for at, damage in ((root + 1024 + 0x60, b"\xff\xff\xff\xff"), (root + 1024 + 0x28, bytes(4))):
        path.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
        with pytest.raises(InputError, match="partition 2"), open_image(path):
            pass
    with open_image(make_image(tmp_path / "b.img", DEBIAN)) as image:
        good = image.root.stat("/etc/passwd")
    listing = run(["debugfs", "-R", "blocks /etc", f"{tmp_path / 'b.img'}?offset={root}"]).stdout.split()
    at = root + int(listing[0]) * (4096 if len(whole) > 512 * MIB else 1024)
    path.write_bytes(whole[: at + 4] + b"\xff\xff" + whole[at + 6 :])
    assert good.size
    for file, size in (("/etc/passwd", 1 << 50), ("/etc", 1 << 40)):
        bent = make_image(tmp_path / f"{size}.img", replace(DEBIAN, debugfs=(f"sif {file} size {size}",)))
        with pytest.raises(InputError, match=f"claims {size} bytes"), open_image(bent) as image:
            image.root.text("/etc/passwd")
    with pytest.raises(InputError, match=r"directory /etc is damaged"), open_image(path) as image:
        image.root.list("/etc")
