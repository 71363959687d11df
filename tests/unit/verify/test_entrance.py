"""Whether a flashed image lets anybody in."""

from pathlib import Path

import pytest

from builder.verify.entrance import can_log_in

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEC76vwyuzSP4PBYfiJQhEGHT431KPAaQpWXTDvAa4DA me"
PASSWD = "root:x:0:0::/root:/bin/bash\nubuntu:x:1000:1000::/home/ubuntu:/bin/bash\nd:x:1:1::/d:/usr/sbin/nologin\n"
LOCKED = "root:*:1::::::\nubuntu:!:1::::::\nd:$y$x:1::::::\n"


def image(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"etc/passwd": PASSWD, "etc/shadow": LOCKED, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    "files",
    [
        {"home/ubuntu/.ssh/authorized_keys": f"# mine\n\n{KEY}\n"},
        {"root/.ssh/authorized_keys": f'from="10.0.0.1" {KEY}'},
        {"etc/shadow": LOCKED.replace("ubuntu:!", "ubuntu:$y$j9T$a$b")},
        {"usr/bin/cloud-init": ""},
        {"usr/lib/userconf-pi/userconf": ""},
    ],
)
def test_a_key_a_password_or_a_first_boot_that_asks_lets_a_person_in(files: dict[str, str], tmp_path: Path) -> None:
    assert can_log_in(image(tmp_path, files))


@pytest.mark.parametrize(
    "files",
    [
        {},  # a password of a user without a shell
        {"home/ubuntu/.ssh/authorized_keys": "# ssh-ed25519 AAAA\n"},
        {"home/ubuntu/.ssh/authorized_keys": "ssh-ed25519 AAAA"},
        {"d/.ssh/authorized_keys": KEY},
        {"etc/shadow": LOCKED.replace("ubuntu:!", "ubuntu:!$y$j9T$a$b")},
        {"etc/passwd": "", "home/ubuntu/.ssh/authorized_keys": KEY},
        {"etc/passwd": ":::\nubuntu", "etc/shadow": "root"},
    ],
)
def test_nothing_else_does(files: dict[str, str], tmp_path: Path) -> None:
    assert not can_log_in(image(tmp_path, files))


def test_keys_outside_the_image_are_not_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text(KEY)
    root = image(tmp_path / "root", {"home/ubuntu/.ssh/x": ""})
    (root / "home/ubuntu/.ssh/authorized_keys").symlink_to(outside)
    assert not can_log_in(root)
