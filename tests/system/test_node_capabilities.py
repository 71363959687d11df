"""A node gives its programs the capabilities back that NFS does not carry: the node's own script, on real programs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.image.capabilities import can_mend, capable_files
from builder.run import Completed, find_tool, run

pytestmark = pytest.mark.root
SCRIPT = Path(__file__).parents[2] / "overlays/node/usr/local/sbin/pibuild-node"
# What a node is here: the host's own root, read-only, with the places that the script writes in memory, in a mount
# namespace of its own. The program is a copy that lost its capability, as it would over NFS.
NODE = """
mount --make-rprivate /
for place in /run /etc /var/lib /opt; do mount -t tmpfs none "$place"; done
mkdir /etc/pibuild /var/lib/pibuild
cp /bin/sleep /opt/ping; cp /bin/sleep /opt/other
cat >/etc/pibuild/capabilities <<END
/opt/ping cap_net_raw=ep
/opt/other = cap_net_admin,cap_net_raw+ep
/opt/gone cap_net_raw=ep
END
export PATH=$PATH:/usr/sbin
"""


def node(script: str) -> Completed:
    find_tool("setcap", package="libcap2-bin")
    return run(["unshare", "-m", "sh", "-euc", NODE + script, SCRIPT], check=False, merge=True)


def test_capabilities_are_given_back_and_taken_away_for_dpkg() -> None:
    ended = node(
        """
        "$0" start
        "$0" start   # apt ends with another one
        getcap /opt/ping /opt/other
        test -f /var/lib/pibuild/booted
        setpriv --reuid=65534 --clear-groups /opt/ping 0.3 & grep CapEff /proc/$!/status >/dev/null; sleep 0.1
        grep CapEff /proc/$!/status
        wait
        "$0" stop
        echo "after: $(getcap /opt/ping /opt/other)"
        mountpoint -q /opt/ping || cp /bin/sleep /opt/new && mv /opt/new /opt/ping  # as dpkg replaces it
        "$0" start
        getcap /opt/ping
        """
    )
    said = ended.stdout.splitlines()
    assert ended.returncode == 0, said
    assert said[0] == "/opt/ping cap_net_raw=ep"
    assert said[1] in ("/opt/other cap_net_admin,cap_net_raw=ep", "/opt/other = cap_net_admin,cap_net_raw+ep")
    assert int(said[2].split()[1], 16) == 1 << 13  # CAP_NET_RAW, linux/capability.h
    assert said[3:] == ["after: ", "/opt/ping cap_net_raw=ep"]


def test_what_cannot_be_mended_is_named_and_the_rest_is_done() -> None:
    ended = node(
        """
        printf '/opt/ping cap_nonsense=ep\\n/opt/other cap_net_raw=ep\\n' >/etc/pibuild/capabilities
        "$0" start && exit 9
        getcap /opt/other
        """
    )
    assert "pibuild-node: /opt/ping stays without cap_nonsense=ep" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "/opt/other cap_net_raw=ep"


def test_files_with_capabilities_are_found_and_what_mends_them(tmp_path: Path) -> None:
    for name in ("usr/bin/ping", "usr/bin/plain", "usr/bin/mountpoint", "usr/sbin/setcap"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", tmp_path / name)
    (tmp_path / "usr/bin/link").symlink_to("ping")
    run([find_tool("setcap", package="libcap2-bin"), "cap_net_raw=ep", tmp_path / "usr/bin/ping"])
    assert capable_files(tmp_path) == [tmp_path / "usr/bin/ping"]
    assert can_mend(tmp_path)
    (tmp_path / "usr/sbin/setcap").unlink()
    assert not can_mend(tmp_path)
