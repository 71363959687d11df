"""dnsmasq as a TFTP server: it sees the boot files through a mount in which no link is followed (`tftp_view.py`)."""

from __future__ import annotations

from dataclasses import replace

from builder.services.dnsmasq import NAMES, UNIT
from builder.services.server import Unit
from builder.services.tftp_view import BOOT_MOUNT, MOUNT, view_files

SERVER = replace(
    NAMES,
    units=(
        Unit(name=MOUNT.name, restart_on=(MOUNT,)),  # a restart takes the mount on it along, and dnsmasq
        Unit(name=BOOT_MOUNT.name, restart_on=(BOOT_MOUNT,)),
        UNIT,
    ),
    files=(*NAMES.files, view_files),
)
