"""The parsers that take what a person, an image, a node or the network wrote, and inputs that each of them likes.

A parser that writes its answer into a Path-shaped argument gets it below the scratch directory. A new parser of foreign
input gets a target here.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import io
import json
import lzma
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from pydantic import ValidationError

from builder.build.lock import parse_lock
from builder.emulation.log import read_log
from builder.errors import PibuildError
from builder.firmware import cmdline_txt, config_txt
from builder.firmware.boards import BOARDS
from builder.firmware.boot_files import DirectoryTree
from builder.firmware.config_eval import Identity, evaluate
from builder.firmware.simulate import simulate
from builder.fleet.reports import Report
from builder.host import ssh
from builder.host import tftp_client as tftp
from builder.host.artifacts import find_checksum
from builder.host.dhcp_client import read_offer
from builder.host.ssh_keys import key_problem
from builder.image.identify import edit_fstab, set_root
from builder.image.ingest import find_boot_mount, find_identify
from builder.image.initramfs import read_initramfs
from builder.image.kernel import read_kernel
from builder.image.open import open_image
from builder.image.partitions import Partition
from builder.inventory.edit import add_nodes, remove_node, rename_node
from builder.inventory.names import AddressRange, mac_of, range_of, serial_of
from builder.inventory.pi_info import NewNode, import_pi_info
from builder.inventory.read import read_inventory
from builder.modelstore.chunks import cut
from builder.modelstore.manifest import read_manifest
from builder.netboot.diskless import cmdline_for_nfs, fstab_without_disks
from builder.netboot.generation import Generation
from builder.netboot.personalise import lint_cmdline
from builder.packages import dpkg_status
from builder.packages.apt import parse_deb
from builder.recipe.load import load_recipe
from builder.recipe.schema import parse_size
from builder.recipe.steps.archives import ArchiveError, members
from builder.services.dhcp import dnsmasq, kea
from builder.services.place import with_block
from builder.services.server import Fits
from builder.verify import verdict
from builder.verify.inspect import inspect
from tests import gguf
from tests.fuzz import peers
from tests.fuzz.engine import Target
from tests.images import DEBIAN, make_image

_REPOSITORY = Path(__file__).resolve().parents[2]
_PI4 = Identity(board=BOARDS["pi4"], serial="c0a3cab4")
_SMALL_RECIPES = sorted((_REPOSITORY / "tests/recipes").glob("*.yaml"))


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """Return what writes an input to a file of that name and lets a parser read it."""

    def feed(data: bytes, scratch: Path) -> object:
        path = scratch / name
        path.write_bytes(data)
        return read(path)

    return feed


def _of_text(*parsers: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    def feed(data: bytes, _: Path) -> None:
        for parse in parsers:
            parse(_text(data))

    return feed


def _of_bytes(parse: Callable[[bytes], object]) -> Callable[[bytes, Path], object]:
    return lambda data, _: parse(data)


def _or_value_error(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Return a parser of a field: pydantic turns its ValueError into a place and words."""

    def tried(text: str) -> None:
        with contextlib.suppress(ValueError):
            parse(text)

    return tried


def _contents(path: str) -> bytes:
    content = DEBIAN.root[path]
    assert isinstance(content, bytes)
    return content


_BOOT = Partition(number=1, type="0x0c", partuuid="1-2", label="bootfs", uuid="1-2", start=0, size=0)


def _edited(path: Path) -> None:
    new = NewNode(
        name="blue1", serial="0123abcd", mac="02:00:00:00:00:01", address="192.168.2.77", fields={"role": "worker"}
    )
    edits: tuple[Callable[[], None], ...] = (
        lambda: add_nodes(path, [new]),
        lambda: remove_node(path, "green1"),
        lambda: rename_node(path, "green2", "red2"),
    )
    kept = path.read_bytes()
    for edit in edits:
        path.write_bytes(kept)
        with contextlib.suppress(PibuildError):
            edit()


def _unpacked(path: Path) -> None:
    with members(path) as found:
        for number, _ in enumerate(found):
            if number > 100:
                return


def _users(data: bytes, scratch: Path) -> None:
    (scratch / "root/etc").mkdir(parents=True)
    (scratch / "root/etc/passwd").write_bytes(data)
    Generation(directory=scratch, sha256="", boot_mount="/boot", capabilities={}).users()


def _booted(data: bytes, scratch: Path) -> None:
    """Give a config.txt to every simulated board, in a tree that has what the usual one names."""
    home = scratch / "c0a3cab4"
    (home / "overlays").mkdir(parents=True)
    for name in (
        "start4.elf",
        "fixup4.dat",
        "kernel8.img",
        "kernel_2712.img",
        "initrd.img",
        "bcm2711-rpi-4-b.dtb",
        "cmdline.txt",
    ):
        (home / name).write_bytes(b"content")
    (home / "config.txt").write_bytes(data)
    for board in ("pi4", "pi5"):
        simulate(DirectoryTree(root=scratch), board, "c0a3cab4")


_ROOT_AT = 5 << 20  # where make_image puts the root partition
_PATCHED = 192 << 10  # bytes of it that are damaged: superblock, descriptors, bitmaps, inodes and first directories


def _image_seed(begin: int, length: int) -> Callable[[], list[bytes]]:
    return lambda: [_image_bytes()[begin : begin + length]]


@functools.cache
def _image_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        return make_image(Path(directory) / "a.img", DEBIAN).read_bytes()


def _patched(begin: int) -> Callable[[bytes, Path], None]:
    """Return what lays an input over a sound image at an offset, and inspects that."""

    def feed(data: bytes, scratch: Path) -> None:
        sound = _image_bytes()
        path = scratch / "a.img"
        path.write_bytes(sound[:begin] + data + sound[begin + len(data) :])
        with open_image(path) as image:
            inspect(image)

    return feed


def _tar() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        info = tarfile.TarInfo("bin/tool")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"tool"))
        link = tarfile.TarInfo("bin/link")
        link.type, link.linkname = tarfile.SYMTYPE, "tool"
        tar.addfile(link)
    return held.getvalue()


def _zip() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("bin/tool", "tool" * 100)
    return held.getvalue()


def _gguf() -> list[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        return [gguf.write(Path(directory) / "m.gguf", gguf.tensors(2, 64), template="hi", words=3).read_bytes()]


def _dhcp_offer() -> bytes:
    header = struct.pack(
        "!4BLHH4s4s4s4s16s192s", 2, 1, 6, 0, 7, 0, 0, b"", bytes([192, 168, 2, 20]), b"", b"", b"", b""
    )
    options = b"\x63\x82\x53\x63\x35\x01\x02\x36\x04\xc0\xa8\x02\x01\x42\x0b192.168.2.1\x2b\x0dRaspberry Pi\xff"
    body = header + options
    udp = struct.pack("!HHHH", 67, 68, 8 + len(body), 0) + body
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), bytes(4)) + udp


def _tftp_answer(data: bytes, _: Path) -> None:
    tftp._options(data)


_STANZA = b"""Package: nano
Version: 8.4-1
Architecture: arm64
Size: 1234
SHA256: 5a5a
Filename: pool/main/n/nano/nano_8.4-1_arm64.deb
"""
_LEASES = Fits(
    reserved={"dc:a6:32:01:02:03": IPv4Address("192.168.2.20")},
    pool=AddressRange(first=IPv4Address("192.168.2.100"), last=IPv4Address("192.168.2.109")),
)
_MANIFEST = {
    "format": 1,
    "model": "m",
    "version": "v1",
    "sha256": "5a" * 32,
    "size": 8,
    "name": "m.gguf",
    "chunks": [{"sha256": "5a" * 32, "off": 0, "len": 8}],
}
_NODE_MANIFEST = {**_MANIFEST, "file": "m.gguf", "published": "2026-01-01", "plain": ""}
_REPORT = {
    "serial": "10000000c0a3cab4",
    "model": "Raspberry Pi 4",
    "image": "0123456789ab",
    "root": "x",
    "kernel": "6.12",
    "boot": "b",
    "uptime": 12,
    "disk_size": 1000,
    "disk_free": 10,
    "failed_units": ["a.service"],
    "models": {"m": "v1"},
}
_FSTAB = (
    b"UUID=1-2 / ext4 defaults 0 1\nLABEL=bootfs /boot/firmware vfat defaults 0 2\n/swapfile none swap sw 0 0\n# end\n"
)
_LOCK = (
    b"format: 2\nrecipe: x\nquestion: y\nrelease: []\nepoch: 1\nimage: ''\nsources: ''\nanswers:\n"
    b"  - {debs: [], removes: []}\nartifacts: {}\n"
)


def _seeds_of(*paths: Path) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for path in paths]


def _are(*seeds: bytes) -> Callable[[], list[bytes]]:
    return lambda: list(seeds)


def _inventory_seeds() -> list[bytes]:
    kept = (path.read_bytes() for path in sorted((_REPOSITORY / "tests/inventories").glob("*.yaml"))[:12])
    return [(_REPOSITORY / "cluster.yaml").read_bytes(), *kept]


PERSON = (
    Target(
        name="recipe",
        seeds=_seeds_of(*_SMALL_RECIPES, _REPOSITORY / "recipes/debian.yaml"),
        feed=_file("r.yaml", load_recipe),
        weight=3,
    ),
    Target(name="inventory", seeds=_inventory_seeds, feed=_file("cluster.yaml", read_inventory), weight=2),
    Target(name="inventory-edit", seeds=_inventory_seeds, feed=_file("cluster.yaml", _edited)),
    Target(name="lock", seeds=_are(_LOCK), feed=lambda data, at: parse_lock(_text(data), at / "r.lock"), weight=2),
    Target(
        name="pi-info",
        seeds=_are(b"yellow3 dc:a6:32:01:02:03 c0a3cab4 192.168.2.12 # top\n"),
        feed=_file("pi_info.txt", import_pi_info),
    ),
    Target(
        name="ssh-key",
        seeds=_are(
            b'from="10.0.0.1" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me\n'
        ),
        feed=_of_text(key_problem),
    ),
    Target(
        name="words",
        seeds=_are(b"512M", b"dc:a6:32:01:02:03", b"c0a3cab4", b"192.168.2.100-192.168.2.109", b"auto"),
        feed=_of_text(*(_or_value_error(parse) for parse in (parse_size, mac_of, serial_of, range_of))),
    ),
    Target(
        name="hosts",
        seeds=_are(b"127.0.0.1 localhost\n# BEGIN pibuild\n192.168.2.1 pi-login\n# END pibuild\n::1 ip6\n"),
        feed=lambda data, _: with_block(data.decode(errors="surrogateescape"), "192.168.2.1 pi-login\n"),
    ),
    Target(
        name="archive",
        seeds=lambda: [_tar(), _zip(), bz2.compress(b"x"), lzma.compress(b"y")],
        feed=_file("a", _unpacked),
        refuses=(ArchiveError,),
        weight=2,
    ),
)
IMAGE = (
    Target(
        name="config-txt",
        seeds=_are(DEBIAN.boot["config.txt"], b"[pi4]\ninclude a.txt\nkernel=x\n[0xc0a3cab4]\nos_prefix=a/\n"),
        feed=_booted,
        weight=2,
    ),
    Target(
        name="config-txt-filters",
        seeds=_are(DEBIAN.boot["config.txt"]),
        feed=_of_bytes(lambda data: evaluate(data, _PI4)),
    ),
    Target(
        name="config-txt-edit",
        seeds=_are(DEBIAN.boot["config.txt"]),
        feed=_of_text(
            config_txt.parse, config_txt.settings, lambda text: config_txt.edit(text, config_txt.ConfigEdit())
        ),
    ),
    Target(
        name="cmdline-txt",
        seeds=_are(DEBIAN.boot["cmdline.txt"], b"root=/dev/nfs nfsroot=1.2.3.4:/x,vers=3,tcp rw ip=dhcp init=/x\n"),
        feed=_of_text(
            cmdline_txt.split,
            lint_cmdline,
            lambda text: cmdline_for_nfs(text, ["rw"]),
            lambda text: set_root(text, "/dev/x"),
        ),
    ),
    Target(
        name="kernel",
        seeds=lambda: [DEBIAN.boot["vmlinuz"], gzip.compress(DEBIAN.boot["vmlinuz"])],
        feed=_of_bytes(read_kernel),
        weight=2,
    ),
    Target(
        name="initramfs",
        seeds=lambda: [DEBIAN.boot["initrd.img"], lzma.compress(b"070701" + b"0" * 104), zlib.compress(b"a")],
        feed=_of_bytes(read_initramfs),
        weight=2,
    ),
    Target(
        name="dpkg-status", seeds=lambda: [_contents("var/lib/dpkg/status")], feed=_of_text(dpkg_status.parse_status)
    ),
    Target(name="passwd", seeds=lambda: [_contents("etc/passwd"), b"+::::::\n"], feed=_users),
    Target(
        name="fstab",
        seeds=_are(_FSTAB),
        feed=_of_text(
            lambda text: fstab_without_disks(text, "/boot"),
            lambda text: edit_fstab(text, {"/": "LABEL=x"}),
            lambda text: find_identify("root=x", text),
            lambda text: find_boot_mount(text, _BOOT),
        ),
    ),
    Target(name="partition-table", seeds=_image_seed(0, 512), feed=_patched(0), weight=0.1),
    Target(name="fat", seeds=_image_seed(1 << 20, 64 << 10), feed=_patched(1 << 20), weight=0.1),
    Target(name="ext4", seeds=_image_seed(_ROOT_AT, _PATCHED), feed=_patched(_ROOT_AT), weight=0.3),
    Target(name="gguf", seeds=_gguf, feed=_file("m.gguf", cut), weight=2),
)
NODE = (
    Target(
        name="report",
        seeds=_are(json.dumps(_REPORT).encode()),
        feed=_of_bytes(Report.model_validate_json),
        refuses=(ValidationError,),
    ),
    Target(name="emulation-log", seeds=_are(b"1 2 /usr/bin/dpkg\n"), feed=_file("log", read_log)),
    Target(
        name="verdict",
        seeds=_are(b"hostname=yellow3\nroot=1.2.3.4:/x nfs\n", b"|1|x= ssh-ed25519 AAAA\n"),
        feed=_of_text(verdict.facts, verdict.failed_units, ssh.fingerprints, ssh.offered, verdict.fatal),
    ),
)
NETWORK = (
    Target(name="packages", seeds=_are(_STANZA), feed=_of_text(parse_deb)),
    Target(
        name="checksums",
        seeds=_are(b"5a" * 32 + b" *a.img.xz\nSHA256 (a.img.xz) = " + b"5a" * 32 + b"\n"),
        feed=_of_text(lambda text: find_checksum(text, "a.img.xz", what="list")),
    ),
    Target(name="dhcp", seeds=lambda: [_dhcp_offer()], feed=_of_bytes(lambda data: read_offer(data, 7))),
    Target(
        name="leases-dnsmasq",
        seeds=_are(b"0 dc:a6:32:01:02:03 192.168.2.20 yellow3 *\nduid 00:01\n"),
        feed=_of_text(lambda text: dnsmasq.kept(text, _LEASES)),
    ),
    Target(
        name="leases-kea",
        seeds=_are(b"address,hwaddr,client_id\n192.168.2.20,dc:a6:32:01:02:03,\n"),
        feed=_of_text(lambda text: kea.kept(text, _LEASES)),
    ),
    Target(name="tftp", seeds=_are(b"tsize\x0012\0blksize\x001468\0"), feed=_tftp_answer, refuses=(tftp.TftpError,)),
    Target(
        name="manifest",
        seeds=_are(json.dumps(_MANIFEST).encode()),
        feed=_of_bytes(lambda data: read_manifest(data, "store")),
        weight=2,
    ),
)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: x\r\nContent-Range: bytes 0-3/4\r\n\r\nfour"
_MOVED = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/other\r\nContent-Length: 0\r\n\r\n"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n"
_BODY = json.dumps(_REPORT).encode()
_POSTED = (
    f"POST /v1/nodes/yellow3 HTTP/1.1\r\nAuthorization: Bearer {peers.TOKEN}\r\n".encode()
    + f"Content-Length: {len(_BODY)}\r\n\r\n".encode()
    + _BODY
)
PEERS = (
    Target(name="answer", seeds=_are(_ANSWER, _MOVED, _CHUNKED), feed=peers.fetched),
    Target(name="store-answer", seeds=_are(_ANSWER, _MOVED, _CHUNKED), feed=peers.store_on_a_node),
    Target(
        name="node-manifest", seeds=_are(json.dumps(_NODE_MANIFEST).encode()), feed=peers.manifest_on_a_node, weight=2
    ),
    Target(
        name="fleet-request", seeds=_are(_POSTED, b"GET /healthz HTTP/1.1\r\n\r\n"), feed=peers.asked_of_the_manager
    ),
)
TARGETS = (*PERSON, *IMAGE, *NODE, *NETWORK, *PEERS)
