"""What dnsmasq's TFTP server sees: the tree of boot files through a mount in which no link is followed.

A node can write in its own boot directory, and dnsmasq would follow a link from there to any file that its user can
read. tftpd-hpa changes its root to the tree; dnsmasq has nothing like that. So the kernel sees to it (MS_NOSYMFOLLOW,
Linux 5.10): the tree is mounted a second time, and below boot/ once more without links. The links beside it, which say
what a board boots, are the login node's own.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from builder.services.files import ConfigFile, Serving, fill, netboot

VIEW = PurePosixPath("/run/pibuild/tftp")
_UNITS = PurePosixPath("/etc/systemd/system")
MOUNT = _UNITS / "run-pibuild-tftp.mount"  # systemd wants the names to be those of the places
BOOT_MOUNT = _UNITS / "run-pibuild-tftp-boot.mount"
DROP_IN = _UNITS / "dnsmasq.service.d/pibuild.conf"
_OPTIONS = "bind,ro,nosuid,nodev,noexec"


def view_files(here: Serving) -> list[ConfigFile]:
    """Return the units that mount the view, and the one that has dnsmasq wait for them: without them it serves none."""
    tree = netboot(here.inventory).tftp
    rows = ((MOUNT, tree, VIEW, _OPTIONS), (BOOT_MOUNT, tree / "boot", VIEW / "boot", f"{_OPTIONS},nosymfollow"))
    units = [
        ConfigFile(path=path, text=fill("tftp.mount.j2", here, what=what, where=where, options=options))
        for path, what, where, options in rows
    ]
    return [*units, ConfigFile(path=DROP_IN, text=fill("dnsmasq.service.j2", here, view=VIEW / "boot"))]


def view_script(tree: Path) -> str:
    """Return the shell commands that mount the view where there is no systemd, in a mount namespace of its own."""
    return (
        f"mkdir -p {VIEW} && mount -o {_OPTIONS} {tree} {VIEW}"
        f" && mount -o {_OPTIONS},nosymfollow {tree}/boot {VIEW}/boot"
    )
