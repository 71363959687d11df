"""The identities of machines: what leaves an image, what stays, what a node gets, and the rule for unknown ones."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from builder.image.identities import IDENTITIES, SCRIPT, UNIT, found, node_identities, node_rows, remove, script
from builder.image.identity_signs import sign_of
from builder.run import run

PEM = b"-----BEGIN %s-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ\n-----END %s-----\n"
UUID = b"5f2b9c1e-8d3a-4c7b-9e21-0a6d4f8b7c35"
HEX = b"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
KEY = bytes(range(3, 256, 2))  # 127 bytes, no two alike
INITIATOR = "etc/iscsi/initiatorname.iscsi"


def _write(root: Path, **contents: bytes) -> None:
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _tree(root: Path) -> None:
    """What the scripts of open-iscsi, ssl-cert, munge and dropbear-initramfs leave, and one that uses ssl-cert's."""
    _write(
        root,
        **{
            INITIATOR: b"## DO NOT EDIT\nInitiatorName=iqn.1993-08.org.debian:01:42c93dd07e9c\n",
            "etc/ssl/certs/ssl-cert-snakeoil.pem": PEM % (b"CERTIFICATE", b"CERTIFICATE"),
            "etc/ssl/private/ssl-cert-snakeoil.key": PEM % (b"PRIVATE KEY", b"PRIVATE KEY"),
            "etc/munge/munge.key": KEY,
            "etc/dropbear/initramfs/dropbear_rsa_host_key": KEY,
            "etc/dovecot/private/conf": b"x",
        },
    )
    (root / "etc/ssl/certs/8f2a1c3b.0").symlink_to("ssl-cert-snakeoil.pem")
    (root / "etc/ssl/certs/b1159c4c.0").symlink_to("ISRG_Root_X1.pem")
    (root / "etc/dovecot/private/dovecot.key").symlink_to("/etc/ssl/private/ssl-cert-snakeoil.key")


def test_what_packages_made_leaves_the_image(tmp_path: Path) -> None:
    _tree(tmp_path)
    gone = remove(tmp_path, found(tmp_path))
    assert {row.package for row in gone} >= {"open-iscsi", "ssl-cert", "munge"}
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_symlink() or path.is_file()}
    assert there == {
        INITIATOR,
        "etc/machine-id",
        "etc/ssl/certs/b1159c4c.0",
        "etc/dovecot/private/conf",
        "etc/dovecot/private/dovecot.key",
        "etc/dropbear/initramfs/dropbear_rsa_host_key",
        SCRIPT,
        UNIT,
        "etc/systemd/system/sysinit.target.wants/pibuild-identities.service",
    }
    assert (tmp_path / INITIATOR).read_text() == "GenerateName=yes\n"
    assert stat.S_IMODE((tmp_path / INITIATOR).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / SCRIPT).stat().st_mode) == 0o755
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    remove(tmp_path, found(tmp_path))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_what_a_recipe_wrote_stays(tmp_path: Path) -> None:
    _tree(tmp_path)
    made = found(tmp_path)
    _write(tmp_path, **{"etc/munge/munge.key": KEY[::-1], INITIATOR: b"InitiatorName=iqn.2001-04.org.example:one\n"})
    remove(tmp_path, made)
    assert (tmp_path / "etc/munge/munge.key").read_bytes() == KEY[::-1]
    assert (tmp_path / INITIATOR).read_bytes() == b"InitiatorName=iqn.2001-04.org.example:one\n"
    assert not (tmp_path / "etc/ssl/private/ssl-cert-snakeoil.key").exists()


def test_a_tree_without_such_packages_gets_no_unit(tmp_path: Path) -> None:
    _write(tmp_path, **{INITIATOR: b"InitiatorName=iqn.1993-08.org.debian:01:42c93dd07e9c\n"})
    remove(tmp_path, found(tmp_path))
    assert not (tmp_path / UNIT).exists()
    assert not (tmp_path / SCRIPT).exists()


def test_links_lead_nowhere_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    _write(outside, **{"munge.key": KEY, "initiatorname.iscsi": b"InitiatorName=the-host-s-own\n", "ssh_host_x": b"x"})
    (root / "etc").mkdir(parents=True)
    for name in ("munge", "iscsi", "ssh", "systemd"):
        (root / "etc" / name).symlink_to(outside)
    (root / "usr").symlink_to(outside)
    made = found(root)
    assert made == {}
    remove(root, {**made, "etc/munge/munge.key": "x", INITIATOR: "x"})
    assert sorted(path.name for path in outside.iterdir()) == ["initiatorname.iscsi", "munge.key", "ssh_host_x"]


def test_each_node_gets_its_own_and_keeps_it(tmp_path: Path) -> None:
    assert node_identities(node_rows(tmp_path), "a" * 32) == {}
    _write(tmp_path, **{"usr/sbin/iscsi-iname": b"", "usr/sbin/nvme": b"", "usr/sbin/zgenhostid": b""})
    one, other = (node_identities(node_rows(tmp_path), sign * 32) for sign in "ab")
    assert set(one) == set(other) == {INITIATOR, "etc/nvme/hostnqn", "etc/nvme/hostid", "etc/hostid"}
    assert one == node_identities(node_rows(tmp_path), "a" * 32)
    assert all(one[path] != other[path] for path in one)
    assert len(one["etc/hostid"][0]) == 4
    assert one[INITIATOR][0].startswith(b"InitiatorName=iqn.1993-08.org.debian:01:")


def test_every_row_says_how_the_next_machine_gets_its_own() -> None:
    """By a unit of its package, the form in its place, a line of the program, or not at all, which is reported."""
    assert [row.package for row in IDENTITIES if row.maker and not row.program] == []
    assert [row.package for row in IDENTITIES if row.per_node and not row.program] == []
    for row in IDENTITIES:
        assert (f"[ -e /{row.paths[0]} ]" in script()) is bool(row.maker), row.package


@pytest.mark.tools
def test_the_program_is_shell(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(script())
    run(["sh", "-n", program])


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (PEM % (b"RSA PRIVATE KEY", b"RSA PRIVATE KEY"), 0o600, "a private key"),
        (PEM % (b"OPENSSH PRIVATE KEY", b"OPENSSH PRIVATE KEY"), 0o644, "a private key"),
        (PEM % (b"PGP PRIVATE KEY BLOCK", b"PGP PRIVATE KEY BLOCK"), 0o600, "a private key"),
        (UUID + b"\n", 0o644, "a UUID"),
        (b"nqn.2014-08.org.nvmexpress:uuid:" + UUID + b"\n", 0o644, "a UUID"),
        (b'# of this machine\nMY_HOSTID="' + HEX[:32] + b'"\n', 0o644, "a random number in hex"),
        (b"oldEngineID 0x80001f88804f8c2d3a" + HEX[:20] + b"\n", 0o600, "a random number in hex"),
        (b'key "rndc-key" {\n\tsecret "SRrRHT9vNvH2PsRv+KwYk3oEFyA8tQyfbTDQ7G0+x1c=";\n};\n', 0o640, "a random word"),
        (b"8Xq3ZtV0pLw7RkYb2NfJc5MdGhS9aTeU1oCiHvDx\n", 0o400, "a random word"),
        (KEY, 0o400, "a random key, by its bytes"),
    ],
)
def test_what_looks_like_an_identity(content: bytes, mode: int, told: str) -> None:
    assert sign_of("var/lib/some/file", mode, content) == told


@pytest.mark.parametrize(
    ("path", "content", "mode"),
    [
        ("etc/ssl/certs/ca-certificates.pem", PEM % (b"CERTIFICATE", b"CERTIFICATE"), 0o644),
        ("root/.ssh/authorized_keys", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx9YvQ2mPq7 a\n", 0o600),
        ("etc/fstab", b"UUID=" + UUID + b" / ext4 defaults 0 1\n", 0o644),
        ("etc/some.conf", b"# " + UUID + b"\nkey = value\n", 0o644),
        ("var/lib/some/sums", HEX + b"  /usr/lib/some/file\n", 0o644),
        ("var/lib/some/zero", b"0" * 64, 0o644),
        ("etc/some.conf", b"path = /usr/share/Foo1Bar/aVeryLongNameOfAFile23\n", 0o644),
        ("etc/some.conf", b"net.ipv4.conf.all.rp_filter = 1\nTheLongestNameThatANamedOptionHas = yes\n", 0o600),
        ("var/lib/some/database", KEY, 0o644),
        ("var/lib/some/empty", b"", 0o600),
        ("var/lib/some/zeros", bytes(512), 0o600),
        ("var/lib/some/table", b"\x7fELF" + bytes(300) + KEY[:20], 0o600),
    ],
)
def test_what_does_not(path: str, content: bytes, mode: int) -> None:
    assert sign_of(path, mode, content) == ""
