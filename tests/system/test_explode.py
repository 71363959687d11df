"""Nodes' roots from a small generation: on what the file system can do, through upgrades, rollbacks and kills."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import HostError, InputError, VerdictError
from builder.firmware.boards import BOARDS
from builder.host.hashing import file_digest
from builder.inventory.edit import remove_node
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.netboot.dry_run import plan_explode
from builder.netboot.explode import Exploded, ExplodeOptions, choose, explode
from builder.netboot.gc import collect, withdraw
from builder.netboot.layout import Netboot
from builder.netboot.rollback import rollback
from builder.netboot.root import SHARED_SCRIPT_OWN
from builder.run import PATH, CommandError, run, spawn
from tests.images import DTB, VERSION, cpio, kernel
from tests.system.privacy import private_mounts

pytestmark = pytest.mark.root
PROJECT = Path(__file__).parents[2]
NODES = 17
PAYLOAD = 3 << 20
SECRETS = ("etc/rancher/node/password", "etc/rancher/k3s/token", "etc/restic/password", "etc/ssh/ssh_host_ed25519_key")


@dataclass(frozen=True, slots=True)
class Lab:
    """The lab's inventory and a directory to boot from, with images that are generations already."""

    inventory: Inventory
    dest: Path

    @property
    def netboot(self) -> Netboot:
        return Netboot(self.dest)

    def image(self, text: str) -> Path:
        """Return an image file whose generation is there: what `text` says is in its /etc/release."""
        image = self.dest.parent / f"{text}.img"
        image.write_text(text)
        digest = file_digest(image)
        home = self.dest / "generations" / digest[:12]
        if not home.exists():
            make_generation(home, digest, text)
        return image

    def explode(self, image: Path, *names: str, **options: object) -> tuple[Exploded, ...]:
        nodes = choose(self.inventory, self.inventory.select(names, everything=not names))
        return explode(self.inventory, nodes, self.dest, ExplodeOptions(image=image, **options))  # type: ignore[arg-type]

    def back(self, node: str) -> tuple[str, str]:
        """Let a node go back; return the root it leaves and the one it boots."""
        (row,) = rollback(self.inventory, self.inventory.select([node]), self.dest)
        return row.left, row.boots

    def root(self, node: str) -> Path:
        return (self.dest / "nfs" / node).resolve()

    def boot(self, node: str) -> Path:
        return (self.dest / "tftp" / self.inventory.node(node).serial).resolve()

    def check(self, node: str, release: str) -> None:
        """Check that a node would boot, whole, what is made of a release."""
        boot = self.boot(node)
        root = self.dest / "roots" / node / boot.name
        assert (root / "etc/release").read_text() == release
        assert (root / "usr/lib/payload").stat().st_size == PAYLOAD
        assert (root / "etc/hostname").read_text() == f"{node}\n"
        assert (root / "last").read_text() == "the end\n"
        assert (boot / "vmlinuz").read_text() == f"kernel {release}"
        assert (boot / "zz-last").read_text() == "the end\n"
        assert f"nfsroot=192.168.2.1:{root},vers=3,tcp,hard,noacl rw ip=dhcp" in (boot / "cmdline.txt").read_text()
        assert f"192.168.2.1:{boot} /boot/firmware nfs " in (root / "etc/fstab").read_text()

    def identity(self, node: str) -> dict[str, bytes]:
        """Return what makes a node the one it is."""
        root = self.root(node)
        paths = [
            "etc/machine-id",
            *SECRETS,
            *(str(key.relative_to(root)) for key in (root / "etc/ssh").glob("ssh_host_*")),
        ]
        return {path: (root / path).read_bytes() for path in paths if path != "etc/rancher/k3s/token"}


def make_generation(home: Path, digest: str, text: str) -> None:
    root, boot = home / "root", home / "boot"
    for path in ("etc/ssh", "boot/firmware", "home/ubuntu", "usr/lib", "usr/share/zoneinfo/Europe", "var/lib"):
        (root / path).mkdir(parents=True)
    (root / "etc/release").write_text(text)
    (root / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\nnone:x:65534:65534::/:/bin/false\n"
    )
    (root / "etc/fstab").write_text("LABEL=r / ext4 defaults 0 1\nLABEL=b /boot/firmware vfat defaults 0 2\n")
    (root / "usr/share/zoneinfo/Europe/Athens").write_text("tz")
    (root / "usr/lib/payload").write_bytes(os.urandom(PAYLOAD))
    (root / SHARED_SCRIPT_OWN).parent.mkdir(parents=True)
    (root / SHARED_SCRIPT_OWN).write_text("#!/bin/sh\n")
    for number in range(40):
        (root / f"usr/lib/{number}").write_text(str(number))
    os.setxattr(root / "usr/lib/1", "user.kept", b"yes")
    (root / "last").write_text("the end\n")
    os.chown(root / "home/ubuntu", 1000, 1000)
    (boot / "overlays").mkdir(parents=True)
    (boot / "config.txt").write_text("kernel=vmlinuz\n")
    (boot / "cmdline.txt").write_text("console=tty0 root=PARTUUID=1-02 rootfstype=ext4 rootwait rw\n")
    (boot / "vmlinuz").write_text(f"kernel {text}")
    for name in ("start4.elf", "fixup4.dat", BOARDS["pi4"].dtb):
        (boot / name).write_text(name)
    (boot / "overlays/one.dtbo").write_text("dtbo")
    (boot / "zz-last").write_text("the end\n")
    meta = {"sha256": digest, "boot_mount": "/boot/firmware", "capabilities": {"/usr/lib/2": "cap_net_raw=ep"}}
    (home / "meta.json").write_text(json.dumps(meta))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(load_inventory(PROJECT / "cluster.yaml"), tmp_path / "netboot")


@contextlib.contextmanager
def file_system(tmp_path: Path, *make: str) -> Iterator[Path]:
    """Mount a new file system in a mount namespace of our own: a neighbour's new namespace would copy our mounts."""
    image, at = tmp_path / "fs.img", tmp_path / "fs"
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(600 << 20)
    run([*make, image])
    with private_mounts():
        run(["mount", "-o", "loop", image, at])
        try:
            yield at
        finally:
            run(["umount", at])


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    with file_system(tmp_path, "mkfs.xfs", "-q", "-m", "reflink=1") as at:
        yield at


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    with file_system(tmp_path, "mkfs.btrfs", "-q") as at:
        yield at


def occupied(path: Path) -> int:
    """Return the bytes of a directory's files, those with several names once."""
    return int(run(["du", "-s", "-B1", path]).stdout.split()[0])


def used(path: Path) -> int:
    """Return the bytes in use of a whole file system, which needs one of its own: blocks may be shared."""
    os.sync()
    return shutil.disk_usage(path).used


def test_seventeen_nodes_have_roots_and_identities_of_their_own(lab: Lab) -> None:
    done = lab.explode(lab.image("a"), method="copy")
    assert [row.action for row in done] == ["make"] * NODES
    assert {row.way for row in done} == {"copy"}
    for row in done:
        lab.check(row.node, "a")
    identities = [lab.identity(row.node) for row in done]
    for path in identities[0]:
        assert len({identity[path] for identity in identities}) == NODES, path
    tokens = {(lab.root(row.node) / "etc/rancher/k3s/token").read_bytes() for row in done}
    assert len(tokens) == 1
    assert os.getxattr(lab.root("green1") / "usr/lib/1", "user.kept") == b"yes"
    keys = lab.root("green1") / "home/ubuntu/.ssh/authorized_keys"
    assert "login node" in keys.read_text()
    assert (keys.stat().st_uid, keys.stat().st_mode & 0o777, keys.parent.stat().st_mode & 0o777) == (1000, 0o600, 0o700)
    assert lab.netboot.state.stat().st_mode & 0o777 == 0o700
    assert not list(lab.netboot.tmp.iterdir())


def test_many_nodes_wait_for_the_disk_and_start_programs_as_often_as_two(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thousand nodes take: nothing of it may be once a node. And the disk has what a board is switched to."""
    happened: list[str] = []

    def note(place: str, what: str) -> None:
        original = pkgutil.resolve_name(place)

        def noted(*args: object, **options: object) -> object:
            happened.append(what)
            return original(*args, **options)

        monkeypatch.setattr(place, noted)

    image = lab.image("a")
    lab.explode(image, "mlops-master", method="shared")  # what the cluster has is made
    note("os.fsync", "disk")
    note("builder.syscalls.sync_file_system", "disk")
    note("builder.run.subprocess.run", "program")
    note("builder.netboot.layout.Netboot.point", "switch")
    counts = []
    for names, made in ((("green1", "green2"), 2), ((), NODES - 3)):
        happened.clear()
        done = lab.explode(image, *names, method="shared")
        assert [row.action for row in done].count("make") == made
        counts.append({what: happened.count(what) for what in ("disk", "program")})
        first, last = happened.index("switch"), len(happened) - happened[::-1].index("switch")
        assert "disk" in happened[:first]
        assert "disk" not in happened[first:last]
        assert "disk" in happened[last:]
    assert counts[0] == counts[1]


def test_exploding_again_changes_nothing(lab: Lab) -> None:
    image = lab.image("a")
    first = lab.explode(image)
    assert [row.action for row in lab.explode(image)] == ["none"] * NODES
    assert all(len(lab.netboot.names(row.node)) == 1 for row in first)
    fresh = lab.explode(image, "yellow3", fresh=True)
    assert [(row.action, row.before) for row in fresh] == [
        ("make", lab.netboot.names("yellow1")[0][:12] + row.before[12:]) for row in fresh
    ]


def test_nothing_secret_and_no_way_out_in_tftp(lab: Lab) -> None:
    lab.explode(lab.image("a"))
    tftp = lab.dest / "tftp"
    secrets = {(lab.root(f"green{n}") / path).read_bytes().strip() for n in range(1, 9) for path in SECRETS}
    served = 0
    for path in tftp.rglob("*"):
        assert path.resolve().is_relative_to(tftp)
        if path.is_file():
            served += 1
            assert path.stat().st_mode & 0o444 == 0o444
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets)
    assert served >= NODES * 5


def test_roots_on_xfs_share_their_blocks(lab: Lab, xfs: Path) -> None:
    lab = Lab(lab.inventory, xfs / "netboot")
    image = lab.image("a")
    before = used(xfs)
    done = lab.explode(image)
    assert {row.way for row in done} == {"reflink"}
    assert used(xfs) - before < PAYLOAD * 4  # 17 copies would be more than 50 MiB
    for row in done:
        lab.check(row.node, "a")
    (lab.root("green1") / "usr/lib/payload").write_bytes(bytes(PAYLOAD))
    lab_payload = (lab.root("green2") / "usr/lib/payload").read_bytes()
    assert lab_payload == next((lab.dest / "generations").glob("*/root/usr/lib/payload")).read_bytes()
    assert lab_payload != bytes(PAYLOAD)


def test_reflink_is_refused_where_it_cannot_be(lab: Lab) -> None:
    if run(["stat", "-f", "-c", "%T", lab.dest.parent]).stdout.strip() in ("btrfs", "xfs"):
        pytest.fail("this test needs a temporary directory on ext4 or tmpfs")
    with pytest.raises(HostError, match="cannot share blocks"):
        lab.explode(lab.image("a"), method="reflink")
    assert not (lab.dest / "nfs" / "green1").exists()


def test_upgrade_leaves_the_running_root_alone_and_rollback_goes_back(lab: Lab) -> None:
    lab.explode(lab.image("a"), "yellow3", "green1")
    running, identity = lab.root("yellow3"), lab.identity("yellow3")
    (running / "var/lib/own").write_text("written by the node\n")
    (lab.boot("yellow3") / "vmlinuz").write_text("kernel a")  # as apt on the node would
    before = {path: path.lstat().st_mtime_ns for path in running.rglob("*")}

    upgraded = lab.explode(lab.image("b"), "yellow3")
    assert upgraded[0].before == running.name
    lab.check("yellow3", "b")
    lab.check("green1", "a")
    assert lab.identity("yellow3") == identity
    assert {path: path.lstat().st_mtime_ns for path in running.rglob("*")} == before

    left, back = lab.back("yellow3")
    assert (left, back) == (upgraded[0].after, running.name)
    lab.check("yellow3", "a")
    assert (lab.root("yellow3") / "var/lib/own").read_text() == "written by the node\n"
    assert lab.identity("yellow3") == identity
    with pytest.raises(InputError, match="has booted nothing before"):
        lab.back("yellow3")
    assert [(row.node, row.action) for row in lab.explode(lab.image("b"))][:2] == [
        ("mlops-master", "make"),
        ("green1", "make"),
    ]
    lab.check("yellow3", "a")
    assert [row.action for row in lab.explode(lab.image("b"), "yellow3", unhold=True)] == ["switch"]
    lab.check("yellow3", "b")


def test_a_kernel_upgraded_on_one_node_is_that_nodes_alone(lab: Lab) -> None:
    lab.explode(lab.image("a"), "green1", "green2")
    (lab.boot("green1") / "vmlinuz").write_text("newer")
    assert (lab.boot("green2") / "vmlinuz").read_text() == "kernel a"
    assert [path.read_text() for path in lab.dest.glob("generations/*/boot/vmlinuz")] == ["kernel a"]


def test_gc_keeps_what_is_booted_gone_back_to_or_running(lab: Lab) -> None:
    names = []
    for text in "abcd":
        names.append(lab.explode(lab.image(text), "yellow3")[0].after)
        if text == "a":  # it started from the first and has not been restarted since
            (lab.root("yellow3") / "var/lib/pibuild").mkdir(exist_ok=True)
            (lab.root("yellow3") / "var/lib/pibuild/booted").touch()
    assert not collect(lab.dest, keep_days=7, dry_run=False)
    would = collect(lab.dest, keep_days=0, dry_run=True)
    assert {garbage.path.name for garbage in would} == {names[1], names[1][:12]}
    assert len(lab.netboot.names("yellow3")) == 4
    collect(lab.dest, keep_days=0, dry_run=False)
    assert set(lab.netboot.names("yellow3")) == {names[0], names[2], names[3]}
    assert not lab.netboot.boot("yellow3", names[1]).exists()
    lab.check("yellow3", "d")
    lab.back("yellow3")
    lab.check("yellow3", "c")


def test_a_shared_root_costs_a_node_little(lab: Lab) -> None:
    image = lab.image("a")
    lab.explode(image, "green1", method="shared")
    before = occupied(lab.dest)
    begun = time.monotonic()
    lab.explode(image, *(f"green{n}" for n in range(2, 9)), method="shared")
    assert (time.monotonic() - begun) / 7 < 3  # mostly host keys; the machine may be busy
    assert max(occupied(lab.dest / "roots" / f"green{n}") for n in range(2, 9)) < 1 << 20
    assert occupied(lab.dest) - before < 64 << 20
    cmdline = (lab.boot("green2") / "cmdline.txt").read_text()
    generation = next((lab.dest / "generations").iterdir())
    assert f"nfsroot=192.168.2.1:{generation}/root,vers=3,tcp,hard ro ip=dhcp" in cmdline
    assert f"pibuild.node=192.168.2.1:{lab.dest}/roots/green2/{lab.root('green2').name}" in cmdline
    assert (lab.root("green2") / "files/etc/hostname").read_text() == "green2\n"
    assert (generation / "boot/cmdline.txt").read_text().startswith("console=tty0 root=PARTUUID")


def test_dry_run_writes_nothing_and_says_what_explode_does(lab: Lab) -> None:
    image = lab.image("a")
    nodes = choose(lab.inventory, lab.inventory.select(["yellow3"]))
    assert [row.action for row in plan_explode(lab.inventory, nodes, lab.dest, ExplodeOptions(image=image))] == ["make"]
    assert not (lab.dest / "state").exists()
    lab.explode(image, "yellow3")
    listed = sorted(lab.dest.rglob("*"))
    planned = plan_explode(lab.inventory, nodes, lab.dest, ExplodeOptions(image=lab.image("b")))
    assert [row.action for row in planned] == ["make"]
    assert planned[0].after == lab.explode(lab.image("b"), "yellow3")[0].after
    assert set(listed) < set(lab.dest.rglob("*"))


def test_removing_a_node_keeps_or_deletes_its_state(lab: Lab) -> None:
    lab.explode(lab.image("a"), "yellow3", "green1")
    identity = lab.identity("yellow3")
    withdraw(lab.dest, "yellow3", keep_state=True)
    assert not (lab.dest / "tftp" / lab.inventory.node("yellow3").serial).is_symlink()
    assert not lab.netboot.names("yellow3")
    lab.check("green1", "a")
    lab.explode(lab.image("a"), "yellow3")
    assert lab.identity("yellow3") == identity
    withdraw(lab.dest, "yellow3", keep_state=False)
    lab.explode(lab.image("a"), "yellow3")
    assert lab.identity("yellow3")["etc/ssh/ssh_host_ed25519_key"] != identity["etc/ssh/ssh_host_ed25519_key"]
    assert lab.identity("yellow3")["etc/machine-id"] == identity["etc/machine-id"]


def test_killed_at_any_moment_every_node_boots_what_it_did_or_the_next_whole(lab: Lab) -> None:
    names = ["yellow1", "yellow2", "yellow3"]
    images = [lab.image("a"), lab.image("b")]
    for image in images:
        lab.explode(image, *names)
    chosen = list(itertools.chain(*(("--node", name) for name in names)))
    begun = time.monotonic()
    assert run(command(lab, images[0], chosen), cwd=PROJECT).returncode == 0
    whole = time.monotonic() - begun
    generator = random.Random(4)  # noqa: S311 - moments, no secrets
    for attempt in range(5):
        image = images[attempt % 2]
        with spawn(command(lab, image, chosen), cwd=PROJECT) as process:
            time.sleep(whole * generator.uniform(0.3, 1.0))
            process.send_signal(signal.SIGKILL)
        wait_until_unlocked(lab)
        for name in names:
            lab.check(name, (lab.boot(name) / "vmlinuz").read_text().removeprefix("kernel "))
    lab.explode(images[1], *names)
    for name in names:
        lab.check(name, "b")
        assert lab.root(name).name == lab.boot(name).name
    assert not list(lab.netboot.tmp.iterdir())


def command(lab: Lab, image: Path, chosen: list[str]) -> list[str | Path]:
    program: list[str | Path] = [sys.executable, "-m", "builder", "explode", "--fresh"]
    program += ["--cluster", PROJECT / "cluster.yaml"]
    return [*program, *chosen, "--image", image, "--dest", lab.dest]


def wait_until_unlocked(lab: Lab) -> None:
    with lab.netboot.locked():
        return


def test_roots_on_btrfs_are_snapshots(lab: Lab, btrfs: Path) -> None:
    lab = Lab(lab.inventory, btrfs / "netboot")
    image = lab.image("a")
    generation = next((lab.dest / "generations").iterdir())
    (generation / "root").rename(btrfs / "tree")
    run(["btrfs", "subvolume", "create", generation / "root"])
    run(["cp", "-a", "--reflink=always", f"{btrfs}/tree/.", generation / "root"])
    done = lab.explode(image)
    assert {row.way for row in done} == {"snapshot"}
    for row in done:
        lab.check(row.node, "a")
    lab.explode(image, "green1", fresh=True)
    lab.explode(image, "green1", fresh=True)
    assert collect(lab.dest, keep_days=0, dry_run=False)
    lab.check("green1", "a")


def pibuild(lab: Lab, cluster: Path, *words: str | Path) -> str:
    places: list[str | Path] = ["--cluster", cluster, "--dest", lab.dest]
    return run([sys.executable, "-m", "builder", *words, *places], cwd=PROJECT, merge=True).stdout


def own_cluster(lab: Lab, tmp_path: Path) -> tuple[Lab, Path]:
    """Return the lab with an inventory that may be edited; its nodes keep two directories."""
    cluster = tmp_path / "cluster.yaml"
    text = (PROJECT / "cluster.yaml").read_text()
    cluster.write_text(text.replace("  user: ubuntu\n", "  user: ubuntu\n  persist: [/var/lib/kept]\n", 1))
    return Lab(load_inventory(cluster), lab.dest), cluster


def test_a_renamed_node_keeps_what_it_is_and_has_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    lab, cluster = own_cluster(lab, tmp_path)
    lab.explode(lab.image("a"), "yellow3", "green1")
    identity, running = lab.identity("yellow3"), lab.root("yellow3")
    (lab.dest / "roots/yellow3/persist/var/lib/kept/data").write_text("of years")
    (running / "var/lib/pibuild").mkdir(exist_ok=True)
    (running / "var/lib/pibuild/booted").touch()
    said = pibuild(lab, cluster, "node", "rename", "yellow3", "blue1")
    assert f"next: sudo pibuild explode --cluster {cluster} --dest {lab.dest} blue1\n" in said
    lab.check("yellow3", "a")  # boots as before until it is exploded

    lab = Lab(load_inventory(cluster), lab.dest)
    lab.explode(lab.image("a"), "blue1")
    lab.check("blue1", "a")
    assert lab.identity("blue1") == identity
    assert (lab.dest / "roots/blue1/persist/var/lib/kept/data").read_text() == "of years"
    collect(lab.dest, keep_days=0, dry_run=False)
    assert (running / "last").exists()  # it has not booted since
    (lab.root("blue1") / "var/lib/pibuild").mkdir(exist_ok=True)
    (lab.root("blue1") / "var/lib/pibuild/booted").touch()
    collect(lab.dest, keep_days=0, dry_run=False)
    assert not [path for path in lab.dest.rglob("*") if "yellow3" in path.name]
    record = lab.netboot.record("blue1", lab.root("blue1").name)
    assert record is not None
    assert record.former == ""
    with pytest.raises(InputError, match="has booted nothing before"):
        lab.back("blue1")
    lab.check("green1", "a")


def test_who_gets_a_name_that_was_free_leaves_its_data_to_no_other(lab: Lab, tmp_path: Path) -> None:
    """yellow3 becomes blue1, another board becomes yellow3 and is removed: what it kept does not go to blue1."""
    lab, cluster = own_cluster(lab, tmp_path)
    keeping = cluster.read_text()
    lab.explode(lab.image("a"), "yellow3", "green1")
    pibuild(lab, cluster, "node", "rename", "yellow3", "blue1")
    pibuild(lab, cluster, "node", "rename", "green1", "yellow3")
    cluster.write_text(cluster.read_text().replace("  persist: [/var/lib/kept]\n", ""))
    shutil.rmtree(lab.dest / "roots/yellow3/persist")  # it kept nothing
    lab = Lab(load_inventory(cluster), lab.dest)
    lab.explode(lab.image("a"), "blue1")
    lab.explode(lab.image("a"), "yellow3")
    for node in ("blue1", "yellow3"):
        (lab.root(node) / "var/lib/pibuild").mkdir(exist_ok=True)
        (lab.root(node) / "var/lib/pibuild/booted").touch()
    (lab.dest / "roots/yellow3/persist/var/lib/kept").mkdir(parents=True, exist_ok=True)
    (lab.dest / "roots/yellow3/persist/var/lib/kept/secret").write_text("the second yellow3's")
    assert "  persist: [/var/lib/kept]\n" in keeping
    lab.explode(lab.image("b"), "blue1")
    pibuild(lab, cluster, "node", "remove", "yellow3")
    text = cluster.read_text()
    cluster.write_text(text.replace("  user: ubuntu\n", "  user: ubuntu\n  persist: [/var/lib/kept]\n", 1))
    lab = Lab(load_inventory(cluster), lab.dest)
    lab.explode(lab.image("a"), "blue1")
    assert not (lab.dest / "roots/blue1/persist/var/lib/kept/secret").exists()
    assert (lab.dest / "roots/yellow3/persist/var/lib/kept/secret").exists()


def test_a_rename_that_fails_changes_nothing_and_takes_no_other_identity(lab: Lab, tmp_path: Path) -> None:
    lab, cluster = own_cluster(lab, tmp_path)
    lab.explode(lab.image("a"), "yellow3", "green1")
    text, identity = cluster.read_text(), lab.identity("yellow3")
    for new, told in (("green1", "green1"), ("no_", "no_")):
        with pytest.raises(CommandError, match=told):
            pibuild(lab, cluster, "node", "rename", "yellow3", new)
    assert cluster.read_text() == text
    pibuild(lab, cluster, "node", "remove", "green1")
    with pytest.raises(CommandError, match="a node of that name left its identity"):
        pibuild(lab, cluster, "node", "rename", "yellow3", "green1")
    lab.explode(lab.image("b"), "yellow3")
    assert lab.identity("yellow3") == identity
    assert "green1 is not in" in pibuild(lab, cluster, "node", "remove", "green1", "--delete-state")
    assert not [path for path in lab.dest.rglob("*") if path.name == "green1"]


def test_a_removal_that_was_killed_is_taken_up_again(lab: Lab, tmp_path: Path) -> None:
    lab, cluster = own_cluster(lab, tmp_path)
    lab.explode(lab.image("a"), "yellow3", "green1")
    remove_node(cluster, "yellow3")  # and then killed
    said = pibuild(lab, cluster, "node", "remove", "yellow3")
    assert "yellow3 is not in" in said
    assert not (lab.dest / "tftp/c0a3cab4").is_symlink()
    assert [str(path.relative_to(lab.dest)) for path in lab.dest.rglob("*") if path.name == "yellow3"] == [
        "roots/yellow3",
        "state/yellow3",
    ]
    assert [path.name for path in (lab.dest / "roots/yellow3").iterdir()] == ["persist"]
    with pytest.raises(CommandError, match="no node 'yellow3'"):
        pibuild(lab, cluster, "node", "remove", "yellow3")
    lab.check("green1", "a")


def test_a_board_that_is_replaced_goes_on_as_the_node_and_the_old_one_boots_nothing(lab: Lab, tmp_path: Path) -> None:
    lab, cluster = own_cluster(lab, tmp_path)
    lab.explode(lab.image("a"), "yellow3")
    before, identity = lab.root("yellow3"), lab.identity("yellow3")
    cluster.write_text(cluster.read_text().replace('"c0a3cab4"', '"0badcafe"'))
    lab = Lab(load_inventory(cluster), lab.dest)
    lab.explode(lab.image("b"), "yellow3")
    assert lab.boot("yellow3").is_relative_to(lab.dest / "tftp/boot/yellow3")
    assert not (lab.dest / "tftp/c0a3cab4").is_symlink()
    assert lab.identity("yellow3") == identity
    assert lab.back("yellow3")[1] == before.name


def test_half_a_root_is_never_taken_for_the_whole(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection that is killed while it removes: the same image is made anew, not switched back to."""
    lab.explode(lab.image("a"), "yellow3")
    name = lab.root("yellow3").name
    for text in "bc":
        lab.explode(lab.image(text), "yellow3")

    def killed(path: Path) -> None:
        (path / "last").unlink(missing_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("builder.netboot.layout.remove", killed)
        with pytest.raises(KeyboardInterrupt):
            collect(lab.dest, keep_days=0, dry_run=False)
    done = lab.explode(lab.image("a"), "yellow3")
    assert [(row.action, row.after) for row in done] == [("make", name)]
    lab.check("yellow3", "a")


@pytest.mark.parametrize("method", ["copy", "shared"])
def test_a_nodes_file_is_gone_from_its_next_root_when_the_inventory_drops_it(
    lab: Lab, tmp_path: Path, method: str
) -> None:
    """A worker becomes a master: what made it start as a worker goes, with what its role alone had beside the file."""
    _, cluster = own_cluster(lab, tmp_path)
    (tmp_path / "overlays/node-role/worker/etc").mkdir(parents=True)
    (tmp_path / "overlays/node-role/worker/etc/of-workers").write_text("work\n")
    own = "files" if method == "shared" else ""
    wants = "etc/systemd/system/multi-user.target.wants"
    dropped = (f"{wants}/k3s-agent.service", "etc/of-workers")
    (row,) = Lab(load_inventory(cluster), lab.dest).explode(lab.image("a"), "green1", method=method)
    before = lab.root("green1") / own
    assert [os.path.lexists(before / name) for name in dropped] == [True, True]
    cluster.write_text(cluster.read_text().replace("port: 34, role: worker", "port: 34, role: master"))
    (row,) = Lab(load_inventory(cluster), lab.dest).explode(lab.image("a"), "green1", method=method)
    after = lab.root("green1") / own
    assert (row.action, [os.path.lexists(after / name) for name in dropped]) == ("make", [False, False])
    assert os.path.lexists(after / wants / "k3s.service")
    assert [os.path.lexists(before / name) for name in dropped] == [True, True]  # a node may run from it


def test_a_board_that_would_stop_is_not_switched_and_the_others_are(lab: Lab, tmp_path: Path) -> None:
    """green1 becomes a Pi 5, whose device tree the image has not: it goes on booting what it booted."""
    lab.explode(lab.image("a"), "green1", "green2")
    changed, cluster = own_cluster(lab, tmp_path)
    assert "- {name: green1," in cluster.read_text()
    cluster.write_text(cluster.read_text().replace("- {name: green1,", "- {name: green1, board: pi5,"))
    changed = Lab(load_inventory(cluster), lab.dest)
    with pytest.raises(VerdictError) as caught:
        changed.explode(lab.image("b"), "green1", "green2")
    told = str(caught.value)
    assert "green1: its Pi 5 would stop (system)" in told
    assert "bcm2712-rpi-5-b.dtb is not on the server" in told
    assert "green2" not in told
    lab.check("green1", "a")
    lab.check("green2", "b")


def test_a_kernel_that_cannot_reach_the_network_is_not_switched_to(lab: Lab, tmp_path: Path) -> None:
    """Trixie's kernel on a Pi 5: all files are there, no driver is; on a Pi 4 it holds."""
    changed, cluster = own_cluster(lab, tmp_path)
    cluster.write_text(cluster.read_text().replace("- {name: green1,", "- {name: green1, board: pi5,"))
    changed = Lab(load_inventory(cluster), lab.dest)
    image = lab.image("trixie")
    home = next(lab.dest.glob("generations/*"))
    modules = home / "root/usr/lib/modules" / VERSION
    modules.mkdir(parents=True)
    facts = PROJECT / "tests/kernels/6.12.118+deb13-arm64"
    for name in ("modules.dep", "modules.builtin"):
        shutil.copy(facts / name, modules)
    names = [f"usr/lib/modules/{VERSION}/{line}" for line in (facts / "initramfs").read_text().splitlines()]
    (home / "boot/vmlinuz").write_bytes(kernel())
    (home / "boot/initrd.img").write_bytes(cpio(dict.fromkeys(["init", *names], b"")))
    (home / "boot/config.txt").write_text("kernel=vmlinuz\ninitramfs initrd.img followkernel\n")
    for board in ("pi4", "pi5"):
        (home / "boot" / BOARDS[board].dtb).write_bytes(DTB)
    with pytest.raises(VerdictError) as caught:
        changed.explode(image, "green1", "green2")
    assert "green1: its Pi 5 would start the kernel and not reach its root" in str(caught.value)
    assert "the kernel has no irq-bcm2712-mip, rp1_pci, clk-rp1, pinctrl-rp1" in str(caught.value)
    assert "green2" not in str(caught.value)
    assert (
        changed.netboot.current(changed.inventory.node("green1").serial),
        bool(changed.boot("green2").is_dir()),
    ) == ("", True)


OWN_STATE = """
mkdir "$1/state" && mount -t tmpfs -o mode=0700 tmpfs "$1/state"
cd "$2"
for image in "$3" "$4"; do python3 -m builder explode --node green1 --node green2 --image "$image" $5; done
python3 -m builder rollback green1 $5
python3 -m builder node gc --keep-days 0 $5
python3 -m builder metrics token green1 $5 >/dev/null
find "$1/state/.tmp" "$1/tmp" -mindepth 1
stat -c '%a %s' "$1"/state/.tmp "$1"/state/green1/*_key "$1"/state/.cluster/id_ed25519
"""


def test_the_state_may_be_on_a_file_system_of_its_own(lab: Lab) -> None:
    """As docs/security.md advises: nothing of it is ever on the one that nodes reach, not even while it is made."""
    lab.dest.mkdir()
    options = f"--dest {lab.dest} --cluster {lab.inventory.path}"
    argv: list[str | Path] = [
        "unshare",
        "--mount",
        "sh",
        "-euc",
        OWN_STATE,
        "own",
        lab.dest,
        PROJECT,
        lab.image("a"),
        lab.image("b"),
    ]
    ended = run([*argv, options], env={"PATH": f"{Path(sys.executable).parent}:{PATH}"})
    modes = [line.split()[0] for line in ended.stdout.splitlines() if line[:3].isdigit()]
    assert modes == ["700", "600", "600", "600"], ended.stdout
    lab.check("green1", "a")
    lab.check("green2", "b")
