"""The boot chain of good images holds; every broken link is found, and all of them at once."""

import gzip
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.image.open import open_image
from builder.verify.boot_chain import boards_of, check_boot_chain
from builder.verify.finding import Finding, holds
from tests.images import (
    DEBIAN,
    DISK_ID,
    RASPIOS,
    UBUNTU,
    VERSION,
    Layout,
    Link,
    cpio,
    elf,
    initramfs,
    kernel,
    make_image,
)

pytestmark = pytest.mark.tools


def check(tmp_path: Path, layout: Layout, *boards: str) -> tuple[Finding, ...]:
    with open_image(make_image(tmp_path / "a.img", layout)) as image:
        return check_boot_chain(image, boards)


def boot(**files: bytes | None) -> Layout:
    """Return DEBIAN with boot files changed; names have `__` for a dot, None removes one."""
    changed = {name.replace("__", "."): content for name, content in files.items()}
    return replace(
        DEBIAN, boot={name: content for name, content in {**DEBIAN.boot, **changed}.items() if content is not None}
    )


def root(files: Mapping[str, bytes | Link | None], **modes: int) -> Layout:
    """Return DEBIAN with root files changed; None removes one."""
    kept = {name: content for name, content in {**DEBIAN.root, **files}.items() if content is not None}
    return replace(
        DEBIAN, root=kept, modes={**DEBIAN.modes, **{name.replace("__", "/"): mode for name, mode in modes.items()}}
    )


@pytest.mark.parametrize("layout", [DEBIAN, UBUNTU, RASPIOS])
def test_good_images(tmp_path: Path, layout: Layout) -> None:
    findings = check(tmp_path, layout)
    assert [finding for finding in findings if finding.broken] == []
    assert {finding.check for finding in findings} >= {
        "pi4: boot files",
        "pi5: boot files",
        "kernel",
        "initramfs",
        "root=",
    }


def test_what_each_board_loads(tmp_path: Path) -> None:
    detail = {finding.check: finding.seen for finding in check(tmp_path, RASPIOS)}
    assert detail["pi4: boot files"] == "start4.elf, fixup4.dat, kernel8.img, initramfs8, bcm2711-rpi-4-b.dtb"
    assert detail["pi5: boot files"] == "kernel_2712.img, initramfs_2712, bcm2712-rpi-5-b.dtb"


def test_prefix_is_followed(tmp_path: Path) -> None:
    moved = ("vmlinuz", "initrd.img", "cmdline.txt", "bcm2711-rpi-4-b.dtb", "bcm2712-rpi-5-b.dtb")
    files = {f"current/{name}" if name in moved else name: content for name, content in DEBIAN.boot.items()}
    files["config.txt"] = b"[all]\nos_prefix=current/\nkernel=vmlinuz\ninitramfs initrd.img followkernel\n"
    findings = check(tmp_path, replace(DEBIAN, boot=files))
    assert [finding for finding in findings if finding.broken] == []
    assert "current/vmlinuz" in " ".join(finding.seen for finding in findings)


def test_includes_are_followed(tmp_path: Path) -> None:
    layout = boot(config__txt=b"include more.txt\n", more__txt=DEBIAN.boot["config.txt"] + b"b" * 99)
    findings = {finding.check: finding for finding in check(tmp_path, layout)}
    assert "vmlinuz" in findings["pi4: boot files"].seen
    assert findings["config.txt"].seen == "longer than 98 characters: more.txt:5"


def zboot() -> bytes:
    return b"MZ\0\0zimg" + bytes(100)


BROKEN: dict[str, tuple[Callable[[], Layout], str, str]] = {
    "no kernel": (lambda: boot(vmlinuz=None), "pi4: boot files", "No kernel: vmlinuz is not on the boot partition"),
    "empty kernel": (lambda: boot(vmlinuz=b""), "pi4: boot files", "vmlinuz is empty"),
    "amd64 kernel": (lambda: boot(vmlinuz=b"MZ" + bytes(500)), "kernel", "is no arm64 kernel"),
    "efi kernel": (lambda: boot(vmlinuz=zboot()), "kernel", "is an EFI program"),
    "cut kernel": (lambda: boot(vmlinuz=gzip.compress(kernel())[:-20]), "kernel", "compressed and damaged"),
    "other modules": (lambda: boot(vmlinuz=kernel("6.1.0-1")), "modules", "vmlinuz is 6.1.0-1, /lib/modules has"),
    "no initramfs": (lambda: boot(initrd__img=None), "pi5: boot files", "No initramfs: initrd.img is not on"),
    "empty initramfs": (lambda: boot(initrd__img=b""), "initramfs", "initrd.img: it is empty"),
    "initramfs is text": (lambda: boot(initrd__img=b"hello"), "initramfs", "no known compression at its beginning"),
    "cut initramfs": (lambda: boot(initrd__img=initramfs()[:-9]), "initramfs", "its gzip is cut short"),
    "cut cpio": (lambda: boot(initrd__img=cpio({"init": b"x"})[:140]), "initramfs", "cpio archive is cut short"),
    "no init in it": (lambda: boot(initrd__img=cpio({"a": b""})), "initramfs", "has no /init"),
    "other initramfs": (
        lambda: boot(initrd__img=initramfs("6.1")),
        "initramfs",
        f"is for 6.1, the kernel is {VERSION}",
    ),
    "no dtb": (lambda: boot(**{"bcm2712-rpi-5-b__dtb": None}), "pi5: boot files", "bcm2712-rpi-5-b.dtb is not on"),
    "bad dtb": (lambda: boot(**{"bcm2711-rpi-4-b__dtb": b"no"}), "pi4: device tree", "is no device tree (2 bytes)"),
    "no firmware": (lambda: boot(start4__elf=None), "pi4: boot files", "No firmware: start4.elf is not on"),
    "no fixup": (lambda: boot(fixup4__dat=None), "pi4: boot files", "fixup4.dat is not on"),
    "no config": (lambda: boot(config__txt=None), "config.txt", "there is none"),
    "long line": (lambda: boot(config__txt=DEBIAN.boot["config.txt"] + b"a" * 99), "config.txt", "config.txt:5"),
    "no cmdline": (lambda: boot(cmdline__txt=None), "pi4: boot files", "cmdline.txt is not on the boot partition"),
    "two lines": (lambda: boot(cmdline__txt=b"root=LABEL=rootfs\nrootwait\n"), "cmdline", "has 2 lines"),
    "dos lines": (lambda: boot(cmdline__txt=b"root=LABEL=rootfs rootwait\r\n"), "cmdline", "Windows line ends"),
    "not ascii": (lambda: boot(cmdline__txt="root=LABEL=rootfs rootwait ü".encode()), "cmdline", "not ASCII"),
    "no root": (lambda: boot(cmdline__txt=b"rootwait"), "root=", "cmdline.txt has no root="),
    "other disk": (
        lambda: boot(cmdline__txt=b"root=PARTUUID=12345678-02"),
        "root=",
        "means no partition of this image",
    ),
    "root is boot": (
        lambda: boot(cmdline__txt=b"root=/dev/mmcblk0p1"),
        "root=",
        "is partition 1, the system is on partition 2",
    ),
    "root is xfs": (lambda: boot(cmdline__txt=b"root=LABEL=rootfs rootfstype=xfs"), "root=", "partition 2 is ext4"),
    "nfs, no path": (lambda: boot(cmdline__txt=b"root=/dev/nfs"), "root=", "without nfsroot="),
    "no rootwait": (
        lambda: boot(config__txt=b"kernel=vmlinuz\n", cmdline__txt=b"root=LABEL=rootfs"),
        "rootwait",
        "has no rootwait",
    ),
    "full": (lambda: boot(junk=bytes(3800 * 1024)), "boot partition", "% free"),
    "no init": (lambda: root({"usr/sbin/init": None}), "init", "/sbin/init is not in"),
    "dangling init": (lambda: root({"usr/lib/systemd/systemd": None}), "init", "/sbin/init is not in"),
    "init mode": (lambda: root({}, usr__lib__systemd__systemd=0o644), "init", "has mode 0644"),
    "amd64 init": (lambda: root({"usr/lib/systemd/systemd": elf(62)}), "init", "is not for arm64"),
    "init= of its own": (lambda: boot(cmdline__txt=b"root=LABEL=rootfs init=/first"), "init", "/first is not in"),
    "fstab": (
        lambda: root({"etc/fstab": b"UUID=1234 / ext4 defaults 0 1\n"}),
        "fstab",
        "/: UUID=1234 means no partition",
    ),
    "fstab type": (lambda: root({"etc/fstab": b"LABEL=rootfs / btrfs defaults 0 1\n"}), "fstab", "is ext4, not btrfs"),
    "fstab swapped": (
        lambda: root({"etc/fstab": b"LABEL=bootfs / vfat defaults 0 1\n"}),
        "fstab",
        "partition 1, not 2",
    ),
    "fstab short": (lambda: root({"etc/fstab": b"LABEL=bootfs /\n"}), "fstab", "too few fields"),
    "machine-id": (lambda: root({"etc/machine-id": b"a" * 32}), "machine-id", "every machine would be aaa"),
    "host keys": (lambda: root({"etc/ssh/ssh_host_rsa_key": b"k"}), "ssh host keys", "/etc/ssh/ssh_host_rsa_key"),
    "password": (lambda: root({"etc/shadow": b"root:$y$j9T$x:1::::::\n"}), "passwords", "root"),
    "closed root": (lambda: replace(DEBIAN, debugfs=("sif / mode 040700",)), "modes", "0700"),
    "empty password": (lambda: root({"etc/shadow": b"root:*:1\nubuntu::1::::::\n"}), "passwords", "ubuntu"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_link(tmp_path: Path, name: str) -> None:
    make, link, detail = BROKEN[name]
    failed = {finding.check: finding for finding in check(tmp_path, make(), "pi4", "pi5") if finding.broken}
    assert link in failed
    assert re.search(re.escape(detail), failed[link].seen)
    assert failed[link].hint


@pytest.mark.parametrize(
    "spec",
    ["/dev/mmcblk0p2", "/dev/sda2", "LABEL=rootfs", f"PARTUUID={DISK_ID.upper()}-02", "/dev/disk/by-label/rootfs"],
)
def test_roots_that_are_found(tmp_path: Path, spec: str) -> None:
    findings = check(tmp_path, boot(cmdline__txt=f"root={spec} rootwait".encode()))
    assert [finding.seen for finding in findings if finding.check == "root="] == [f"{spec} is partition 2 (rootfs)"]
    assert holds(findings)


def test_all_that_is_missing_at_once(tmp_path: Path) -> None:
    layout = boot(start4__elf=None, vmlinuz=None, initrd__img=None, cmdline__txt=None)
    failed = {finding.check: finding.seen for finding in check(tmp_path, layout, "pi4") if finding.broken}
    assert failed.keys() == {"pi4: boot files"}
    for name in ("start4.elf", "vmlinuz", "initrd.img", "cmdline.txt"):
        assert f"{name} is not on the boot partition" in failed["pi4: boot files"]


def test_boards(tmp_path: Path) -> None:
    without = boot(**{"bcm2712-rpi-5-b__dtb": None})
    assert [finding for finding in check(tmp_path, without, "pi4") if finding.broken] == []
    with pytest.raises(InputError, match="unknown board 'pi6'"), open_image(tmp_path / "a.img") as image:
        check_boot_chain(image, ["pi6"])


TRIXIE = Path(__file__).parents[2] / "kernels" / "6.12.118+deb13-arm64"


def trixie() -> Layout:
    """Return an image with what Debian trixie's kernel has for boards."""
    directory = f"usr/lib/modules/{VERSION}"
    facts = {f"{directory}/{name}": (TRIXIE / name).read_bytes() for name in ("modules.dep", "modules.builtin")}
    modules = {f"{directory}/{line}": b"" for line in (TRIXIE / "initramfs").read_text().splitlines()}
    return replace(
        root({**facts, f"boot/config-{VERSION}": (TRIXIE / "config").read_bytes()}),
        boot={**DEBIAN.boot, "initrd.img": gzip.compress(cpio({"init": b"", **modules}))},
    )


def test_a_board_whose_card_the_kernel_cannot_drive_does_not_boot(tmp_path: Path) -> None:
    findings = check(tmp_path, trixie(), "pi4", "pi5")
    assert [finding.seen for finding in findings if finding.check == "pi4: root"] == ["SD card, USB disk, network"]
    wrong = [finding for finding in findings if finding.broken]
    assert [finding.check for finding in wrong] == ["pi5: root"]
    assert "SD card: the kernel has no sdhci-brcmstb" in wrong[0].seen
    assert "docs/boards.md" in wrong[0].hint


def test_a_kernel_without_its_initramfs_does_not_reach_the_root(tmp_path: Path) -> None:
    """The firmware ignores `initramfs=`: the kernel has no ext4 and no card driver then."""
    layout = replace(trixie(), boot={**trixie().boot, "config.txt": b"kernel=vmlinuz\ninitramfs=initrd.img\n"})
    findings = check(tmp_path, layout, "pi4")
    assert [finding.check for finding in findings if finding.broken] == ["pi4: root"]
    assert [finding.seen for finding in findings if finding.result == "note"] == [
        "config.txt:2: initramfs takes no '=': the line is ignored; write 'initramfs NAME followkernel'"
    ]


def test_a_root_over_the_network_needs_the_network(tmp_path: Path) -> None:
    cmdline = b"root=/dev/nfs nfsroot=192.168.2.1:/srv,vers=3,tcp ip=dhcp rw\n"
    layout = replace(trixie(), boot={**trixie().boot, "cmdline.txt": cmdline})
    findings = {finding.check: not finding.broken for finding in check(tmp_path, layout, "pi4", "pi5")}
    assert (findings["pi4: root"], findings["pi5: root"]) == (True, False)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (b"\xef\xbb\xbfkernel=vmlinuz\n", "byte order mark"),
        (b"[PI4]\nkernel=vmlinuz\n", "the filter [PI4] is unknown"),
        (b"kernel = vmlinuz\n", "spaces around '='"),
        (b"kernel=vmlinuz\ninclude nothing.txt\n", "no such file"),
        (b"kernel=vmlinuz\nos_prefix=old/\n", "os_prefix=old/ is ignored"),
        (b"kernel=vmlinuz\ndtoverlay=nowhere\n", "dtoverlay=nowhere"),
    ],
)
def test_every_note_on_what_boots_is_shown(tmp_path: Path, config: bytes, told: str) -> None:
    findings = check(tmp_path, boot(config__txt=config + b"initramfs initrd.img followkernel\n"), "pi4")
    assert told in " ".join(finding.seen for finding in findings if finding.result == "note")


@pytest.mark.parametrize(("inode", "path"), [("<2>", "/"), ("/usr", "/usr"), ("/etc", "/etc")])
def test_directories_that_only_root_enters_are_named(tmp_path: Path, inode: str, path: str) -> None:
    layout = replace(DEBIAN, debugfs=(f"set_inode_field {inode} mode 040700",))
    wrong = [finding for finding in check(tmp_path, layout) if finding.broken]
    assert [(finding.check, finding.seen) for finding in wrong] == [("modes", f"{path} has mode 0700")]
    assert f"chmod 0755 {path}" in wrong[0].hint


def test_a_published_image_is_checked_for_the_boards_of_its_recipe(tmp_path: Path) -> None:
    make_image(tmp_path / "a.img", trixie())
    for manifest, boards in (
        ('{"build": {"boards": ["pi4"]}}', {"pi4"}),
        ('{"build": {"boards": "pi4"}}', {"pi4", "pi5"}),
        ("[" * 100_000, {"pi4", "pi5"}),
        ("{}", {"pi4", "pi5"}),
    ):
        (tmp_path / "manifest.json").write_text(manifest)
        with open_image(tmp_path) as image:
            assert set(boards_of(image)) == boards


def _shared(findings: tuple[Finding, ...], *, note: bool) -> list[Finding]:
    return [each for each in findings if each.check == "shared identity" and (each.result == "note") is note]


def test_an_identity_that_every_machine_would_have_is_named(tmp_path: Path) -> None:
    """What machines that work together may share is a note."""
    baked = {
        "etc/iscsi/initiatorname.iscsi": b"InitiatorName=iqn.1993-08.org.debian:01:42c93dd07e9c\n",
        "etc/ssl/private/ssl-cert-snakeoil.key": b"key",
        "var/lib/dbus/machine-id": b"0123456789abcdef0123456789abcdef\n",
        "etc/munge/munge.key": b"a cluster's own",
    }
    findings = check(tmp_path, root(baked))
    (found,) = _shared(findings, note=False)
    assert found.broken
    assert found.seen == (
        "/var/lib/dbus/machine-id (dbus), /etc/iscsi/initiatorname.iscsi (open-iscsi),"
        " /etc/ssl/private/ssl-cert-snakeoil.key (ssl-cert)"
    )
    assert [each.seen.split()[0] for each in _shared(findings, note=True)] == ["/etc/munge/munge.key"]
    assert [each.check for each in findings if each.broken] == ["shared identity"]


def test_what_a_package_fills_in_at_first_boot_is_no_identity(tmp_path: Path) -> None:
    (found,) = _shared(check(tmp_path, root({"etc/iscsi/initiatorname.iscsi": b"GenerateName=yes\n"})), note=False)
    assert found.result == "ok"


def test_what_looks_like_an_identity_and_no_package_brought_is_a_note(tmp_path: Path) -> None:
    own, brought, elsewhere = (f"{at}/id" for at in ("var/lib/new", "etc/brought", "usr/share/new"))
    token = b"5f2b9c1e-8d3a-4c7b-9e21-0a6d4f8b7c35\n"
    lists = {"var/lib/dpkg/info/brought.list": b"/.\n/etc\n/etc/brought\n/etc/brought/id\n"}
    findings = check(tmp_path, root({own: token, brought: token, elsewhere: token, **lists}))
    (note,) = _shared(findings, note=True)
    assert note.seen == "/var/lib/new/id looks like a UUID; every machine would have the same"
    assert holds(findings)
