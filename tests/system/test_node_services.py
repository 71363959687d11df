"""Node-side programs that need no node: what the firewall's rules mean to a kernel, and the volume Kubernetes gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.inventory.load import load_inventory
from builder.netboot.generation import Generation
from builder.netboot.layout import Netboot
from builder.netboot.personalise import Subject, rendered
from builder.netboot.state import NodeState
from builder.run import Completed, run
from builder.services.fleet import FLEET_UNIT
from builder.services.render import render
from tests.clusters import LAB

pytestmark = [pytest.mark.root, pytest.mark.waits]
PROJECT = Path(__file__).parents[2]
OVERLAYS = PROJECT / "overlays"
VOLUME = PROJECT / "overlays/k3s/usr/local/sbin/pibuild-k3s-volume"


def rules_of(node: str, directory: Path) -> str:
    """Return a node's rules; what others add to them lies in `directory`."""
    inventory = load_inventory(LAB)
    subject = Subject(
        inventory=inventory,
        node=inventory.node(node),
        generation=Generation(directory=directory, sha256="0" * 64, boot_mount="/boot/firmware", capabilities={}),
        netboot=Netboot(Path("/srv/netboot")),
        state=NodeState(machine_id="0" * 32, login_key="", files=()),
        shared=False,
    )
    files = {file.path: file.content.decode() for file in rendered(subject)}
    return files["/etc/pibuild/firewall.nft"].replace("/etc/pibuild/firewall.d", str(directory))


@pytest.mark.parametrize("node", ["mlops_master", "yellow3"])
def test_a_kernel_takes_the_rules_and_takes_them_again(node: str, tmp_path: Path) -> None:
    file, before = tmp_path / "firewall.nft", tmp_path / "before.nft"
    file.write_text(rules_of(node, tmp_path / "more"))
    before.write_text("table ip kube { chain x { type filter hook forward priority 0; policy accept; }; }\n")
    added = tmp_path / "more/gateway.nft"
    added.parent.mkdir()
    script = f"nft -f {before} && nft -f {file} && echo 'tcp dport 8000 accept' >{added} && nft -f {file}"
    told = json.loads(run(["unshare", "--net", "sh", "-c", f"{script} && nft -j list ruleset"]).stdout)["nftables"]
    tables = [entry["table"]["name"] for entry in told if "table" in entry]
    assert tables == ["kube", "pibuild_node"]  # others' rules stay, and ours are there once
    rules: list[list[Mapping[str, Any]]] = [entry["rule"]["expr"] for entry in told if "rule" in entry]
    first = rules[0][0]["match"]["right"]["set"]
    assert first == ["192.168.2.1", "192.168.2.3"]
    assert any("8000" in json.dumps(rule) for rule in rules)
    assert any("6443" in json.dumps(rule) for rule in rules) == (node == "mlops_master")


def in_mount_namespace(script: str, env: Mapping[str, str], *, propagation: str = "private") -> Completed:
    """Run a script where nobody else sees its mounts: private as in an initramfs, or shared as systemd has them."""
    inside = ["unshare", "--mount", "--propagation", propagation, "sh", "-euc", script]
    return run(["unshare", "--mount", *inside], env=env, check=False)


def test_a_volume_is_made_once_and_shows_the_images_airgap_images(tmp_path: Path) -> None:
    """The whole way on a real loop device: make, mount, write, unmount, mount again, repair, refuse what is broken."""
    at, config, file = tmp_path / "rancher", tmp_path / "config", tmp_path / "volumes/rancher.ext4"
    images = at / "k3s/agent/images"
    images.mkdir(parents=True)
    (images / "airgap.tar.zst").write_text("of the image\n")
    config.write_text("64M\n")
    env = {"PIBUILD_K3S_VOLUME": str(config), "PIBUILD_K3S_FILE": str(file), "PIBUILD_K3S_MOUNT": str(at)}
    shut_in = f"setpriv --bounding-set=-all,+sys_admin --no-new-privs {VOLUME}"  # as its unit has it
    once = f"""
        {shut_in} start
        {shut_in} start
        findmnt --noheadings --output FSTYPE {at}
        cat {images}/airgap.tar.zst
        cat {at}/k3s/note 2>/dev/null || echo kept >{at}/k3s/note
        {shut_in} stop
        test ! -e {at}/k3s/note
    """
    first = in_mount_namespace(once, env, propagation="shared")
    assert (first.returncode, first.stdout.split("\n")[-3:-1]) == (0, ["ext4", "of the image"]), first.stderr
    assert file.stat().st_blocks * 512 < 16 << 20  # sparse
    second = in_mount_namespace(once, env, propagation="shared")
    assert second.stdout.splitlines()[-3:] == ["ext4", "of the image", "kept"], second.stderr
    with file.open("r+b") as broken:
        broken.seek(0)
        broken.write(bytes(1 << 20))
    refused = in_mount_namespace(f"{VOLUME} start", env)
    assert refused.returncode == 1
    assert "cannot be repaired by itself" in refused.stderr
    assert run(["losetup", "--associated", file]).stdout == ""


UNITS = {
    # what a unit may reach at most: systemd-analyze security, in tenths
    "bootstrap/etc/systemd/system/pibuild-bootstrap.service": 20,
    "hardening/etc/systemd/system/pibuild-firewall.service": 25,
    "k3s/etc/systemd/system/pibuild-k3s-volume.service": 40,  # it mounts for everybody
}


@pytest.mark.parametrize(("unit", "most"), UNITS.items(), ids=lambda value: Path(str(value)).name)
def test_units_are_shut_in(unit: str, most: int) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={most}"]
    done = run([*argv, PROJECT / "overlays" / unit], check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_the_fleet_managers_unit_is_shut_in(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(
        LAB.read_text().replace("  netboot:", "  fleet: {url: 'http://192.168.2.1:9340'}\n  netboot:")
    )
    files = render(load_inventory(tmp_path / "cluster.yaml"), "login")
    unit = tmp_path / "pibuild-fleet.service"
    unit.write_text(next(file.text for file in files if file.path == FLEET_UNIT))
    run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30", unit])


def test_systemd_understands_every_line_of_the_units() -> None:
    """What it does not know it passes over with a warning, and a sandbox is open without a word."""
    units = [
        path for part in ("k3s", "bootstrap", "hardening") for path in sorted((OVERLAYS / part).rglob("*.service"))
    ]
    units += sorted((OVERLAYS / "bootstrap").rglob("*.timer"))
    assert len(units) == 6
    done = run(["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", *units], check=False, merge=True)
    about = [line for line in done.stdout.splitlines() if "is not executable" not in line]
    known_by_257 = ("RestartSteps", "RestartMaxDelaySec")  # systemd 254; this host may be older
    assert [line for line in about if not any(word in line for word in known_by_257)] == []


OVERLAY_ROOT = OVERLAYS / "overlayroot/etc/initramfs-tools/scripts/init-bottom/pibuild-overlay-root"
FSTAB = (
    "# a note\nPARTUUID=1-02 / ext4 defaults,errors=remount-ro 0 1\nPARTUUID=1-01 /boot/firmware vfat defaults 0 2\n"
)


@pytest.mark.parametrize(
    ("identity", "word", "covered"),
    [
        ("355aeb8ccdf750beba12bdb2bd314016\n", "pibuild.overlay=memory", True),
        ("355aeb8ccdf750beba12bdb2bd314016\n", "pibuild.overlay=no", False),
        ("355aeb8ccdf750beba12bdb2bd314016\n", "pibuild.overlay=memory pibuild.node=192.168.2.1:/x/y", False),
        ("", "pibuild.overlay=memory", False),
        ("uninitialized\n", "pibuild.overlay=memory", False),
    ],
)
def test_a_root_under_an_overlay_is_not_written_to(identity: str, word: str, *, covered: bool, tmp_path: Path) -> None:
    """The initramfs's script, on a real ext4 root in a mount namespace."""
    image, root, cmdline, functions = (tmp_path / name for name in ("image", "root", "cmdline", "functions"))
    (root / "etc").mkdir(parents=True)
    (root / "etc/machine-id").write_text(identity)
    (root / "etc/fstab").write_text(FSTAB)
    run(["mke2fs", "-q", "-t", "ext4", "-d", root, image, "16M"])
    cmdline.write_text(f"console=tty0 {word} rw\n")
    functions.write_text('panic() { echo "$*" >&2; exit 1; }\n')
    script = f"""
        mount -o loop {image} {root}
        {OVERLAY_ROOT}
        findmnt --noheadings --output FSTYPE --mountpoint {root}
        cat {root}/etc/fstab
        echo written >{root}/etc/new
        if [ -d {tmp_path}/base/disk/etc ]; then
            test ! -e {tmp_path}/base/disk/etc/new
            ! touch {tmp_path}/base/disk/etc/new 2>/dev/null
        fi
    """
    env = {
        "rootmnt": str(root),
        "PIBUILD_CMDLINE": str(cmdline),
        "PIBUILD_FUNCTIONS": str(functions),
        "PIBUILD_BASE": str(tmp_path / "base"),
    }
    done = in_mount_namespace(script, env)
    assert done.returncode == 0, done.stderr
    kind, _, fstab = done.stdout.partition("\n")
    assert (kind, "errors=remount-ro" in fstab) == (("overlay", False) if covered else ("ext4", True))
    assert "PARTUUID=1-01 /boot/firmware vfat defaults 0 2\n" in fstab
    on_disk = run(["debugfs", "-R", "cat /etc/new", image], check=False).stdout
    assert on_disk == ("" if covered else "written\n")
