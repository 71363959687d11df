"""What knows the nodes by name: hosts, ssh, and lists for parallel-ssh, of all nodes and of each group."""

from __future__ import annotations

from pathlib import PurePosixPath

from builder.services.files import CONFIG, ConfigFile, Serving, fill, netboot
from builder.services.server import Checker

HOSTS = PurePosixPath("/etc/hosts")
SSH = PurePosixPath("/etc/ssh/ssh_config.d/pibuild.conf")
PARALLEL = CONFIG / "hosts.txt"
CHECKER = Checker(
    path=SSH, program="ssh", package="openssh-client", argv=lambda file: ("-G", "-F", str(file), "localhost")
)


def name_files(here: Serving) -> list[ConfigFile]:
    """Return these files."""
    files = [
        ConfigFile(path=HOSTS, text=fill("hosts.j2", here), block=True),
        ConfigFile(path=SSH, text=fill("ssh_config.j2", here, login_key=netboot(here.inventory).login_key)),
        ConfigFile(path=PARALLEL, text=fill("hosts.txt.j2", here, listed=here.netbooting)),
    ]
    for group in here.inventory.groups:
        members = tuple(node for node in here.netbooting if group in node.groups)
        text = fill("hosts.txt.j2", here, listed=members)
        files.append(ConfigFile(path=PARALLEL.with_name(f"hosts-{group}.txt"), text=text))
    return files
