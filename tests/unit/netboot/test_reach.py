"""The login node's way to root on a node: whose host key will do."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from builder.inventory.load import load_inventory
from builder.netboot.layout import Netboot
from builder.netboot.reach import NodeRoot
from builder.run import CommandError
from tests.clusters import LAB

NODES = load_inventory(LAB)


@pytest.mark.tools
@pytest.mark.parametrize(("name", "strict"), [("yellow3", "yes"), ("pi-backup", "accept-new")])
def test_a_node_shows_a_host_key_of_its_state_or_gets_no_command(name: str, strict: str, tmp_path: Path) -> None:
    node = replace(NODES.node(name), address=IPv4Address("127.0.0.2"))
    home = tmp_path / "state" / node.name
    home.mkdir(parents=True)
    (home / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAA root@node\n")
    with pytest.raises(CommandError, match=f"on {node.name}: ") as caught:
        NodeRoot(netboot=Netboot(tmp_path), node=node).check()
    told = caught.value.completed.argv
    assert f"StrictHostKeyChecking={strict}" in told
    kept = f"UserKnownHostsFile={tmp_path}/state/.cluster/known_hosts"
    assert (kept in told) == (strict == "accept-new")  # of a machine with a disk of its own the state has no keys
    assert told[-2:] == ("--", "sudo -n true")
    assert str(tmp_path / "state/.cluster/id_ed25519.pub") in caught.value.hint
