"""The main job on a real login node: serve, explode by kpartx, boot a worker, and go on after kills and a power cut.

A machine with systemd, udev, device-mapper and the kernel's NFS server and client, which the machine of the tests may
not have. The tests are steps of one story, in order; a node that has been broken into attacks while the worker boots.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from builder.console import note
from builder.host.tftp_client import Server, TftpError, get
from builder.lab.lab import LabNode
from builder.run import Completed
from tests import images
from tests.system.hostile_node import BOOT_LINKS, WRITTEN
from tests.system.login_guest import HERE, KEPT, OUTSIDE, SERVED, LoginGuest, build_images, login_guest

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.boot, pytest.mark.apart]

NODE = "yellow3"
SMALL = ("green1", "green2", "green3")  # two are hostile, the third is what they are to leave alone
FAILED = "systemctl list-units --state=failed --plain --no-legend"
# what every way of reading an image finds in a tiny one; three runs of the command would be three starts of Python
EVERY_WAY = """
import json, pathlib, tempfile, time
from builder.image.attach import attached
from builder.host.mounts import enter_namespaces
enter_namespaces()
found = {}
for method in ("kpartx", "loop", "files"):
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/srv") as scratch:
        with attached(pathlib.Path("/mnt/a.img"), method, pathlib.Path(scratch)) as it:
            names = sorted(str(path.relative_to(it.root)) for path in it.root.rglob("*"))
            found[method] = [it.mounted, [name for name in names if not name.startswith("lost+found")]]
    found[method].append(time.monotonic() - begun)
print(json.dumps(found))
"""
NOTHING_ATTACHED = "sudo losetup --list --noheadings; sudo dmsetup ls | grep -v 'No devices'; ls /run/pibuild/loops"
RECORDED = re.compile(r"^\d+-\d+$", re.MULTILINE)  # who is to detach what
# A signal at the moment when the partitions' device-mapper nodes are there; then whether the lock is free.
STRIKE = """
cd /opt/pibuild
( timeout 200 pibuild explode --node green3 --attach kpartx {dest} >/tmp/struck 2>&1; echo $? >/tmp/code ) &
until id=$(pgrep -o -f "^python3 -m builder explode"); do :; done
until [ -e /sys/block/dm-0 ]; do [ -d /proc/$id ] || break; done
kill -{signal} $id
wait
cat /tmp/code
flock -n {at}/.lock echo free
"""


@dataclass(slots=True, kw_only=True)
class Story:
    """The login node, and a worker that boots from it."""

    login: LoginGuest
    worker: LabNode


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginGuest]:
    """A login node that is up, and on which nothing has been done yet."""
    at = tmp_path_factory.mktemp("login")
    disk, worker = build_images(at)
    brought = {"worker": worker.parent, **{name: HERE / name for name in ("hostile_node.py", "as_node.sh")}}
    for text in ("a", "b"):
        own = {"usr/share/zoneinfo/Europe/Athens": b"a zone", "etc/release": text.encode()}
        layout = replace(images.DEBIAN, root={**images.DEBIAN.root, **own})
        brought[f"{text}.img"] = images.make_image(at / f"{text}.img", layout)
    with login_guest(at, brought, disk) as made:
        made.power_on()
        made.set_up()
        made.publish("worker", "worker")
        made.publish("a.img", "small")
        yield made


@pytest.fixture(scope="module")
def served(guest: LoginGuest) -> LoginGuest:
    """The servers run."""
    guest.took("apply", guest.pibuild("services", "apply").seconds)
    return guest


@pytest.fixture(scope="module")
def story(served: LoginGuest) -> Story:
    """A worker has been exploded as its operators do it: what is at hand is chosen (`auto`)."""
    done = served.pibuild("explode", "--node", NODE, "--json")
    served.took("explode", done.seconds)
    assert "does not work here" not in done.stderr  # auto begins with kpartx
    assert [row["node"] for row in json.loads(done.stdout)] == [NODE]
    return Story(login=served, worker=served.connect(NODE))


def until(condition: Callable[[], bool], seconds: float) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"not within {seconds:.0f} s"
        time.sleep(0.5)
    return time.monotonic() - begun


def rows(done: Completed) -> dict[str, dict[str, str]]:
    return {row["node"]: row for row in json.loads(done.stdout)}


def strike(guest: LoginGuest, signal: str, *, dest: str = "") -> list[str]:
    """Send a signal to an explode that has attached its image; return its exit code, and whether its lock is free."""
    script = STRIKE.format(signal=signal, dest=f"--dest {dest}" if dest else "", at=dest or SERVED)
    done = guest.timed(f"explode until {signal}", f"sudo sh -c '{script}'", timeout=220)
    return done.stdout.split()


def test_servers_without_a_configuration_do_not_fail_at_boot(guest: LoginGuest) -> None:
    assert guest.run(FAILED).stdout == ""


def test_every_way_to_attach_ends_and_leaves_nothing(guest: LoginGuest) -> None:
    done = guest.timed("every way", f"cd /opt/pibuild && sudo timeout 200 python3 -c '{EVERY_WAY}'", timeout=210)
    found = json.loads(done.stdout)
    for method, (_, _, seconds) in found.items():
        guest.took(f"a tiny image by {method}", seconds)
    assert {method: mounted for method, (mounted, *_) in found.items()} == {
        "kpartx": True,
        "loop": True,
        "files": False,
    }
    assert found["kpartx"][1] == found["loop"][1] == found["files"][1]
    assert "etc/os-release" in found["files"][1]
    assert guest.run(NOTHING_ATTACHED, check=False).stdout == ""


def test_a_signal_ends_an_explode_that_has_attached_and_frees_its_lock(guest: LoginGuest) -> None:
    assert strike(guest, "TERM", dest="/srv/other") == ["143", "free"], guest.run("cat /tmp/struck").stdout
    left = guest.run(NOTHING_ATTACHED, check=False).stdout
    assert left == "" or RECORDED.search(left), left  # a busy machine does not detach in time: the next run will


def test_after_a_kill_in_the_middle_another_way_of_attaching_works(served: LoginGuest) -> None:
    """What kpartx had set up is still there, or goes by itself; either way nothing of it stays."""
    assert strike(served, "KILL") == ["137", "free"], served.run("cat /tmp/struck").stdout
    left = served.run(NOTHING_ATTACHED, check=False).stdout
    note(f"left by the kill: {left!r}")
    for loop in re.findall(r"^/dev/(loop\d+) ", left, re.MULTILINE):
        served.run(f"sudo dmsetup create --notable {loop}p7")  # as kpartx does before it says what lies behind
    done = served.pibuild(
        "explode", *(word for name in SMALL for word in ("--node", name)), "--attach", "loop", "--json"
    )
    served.took("explode three small nodes", done.seconds)
    assert {name: row["action"] for name, row in rows(done).items()} == dict.fromkeys(SMALL, "make")
    until(lambda: served.run(NOTHING_ATTACHED, check=False).stdout == "", 10)


def test_every_server_answers_as_its_boards_ask(story: Story) -> None:
    """On a file system of its own (docs/security.md), and with directories of roots that only root enters."""
    story.worker.power_on()
    check = story.login.pibuild("services", "check", "--json", check=False)
    found = [(row["check"], row["result"]) for row in json.loads(check.stdout)]
    assert {name for name, result in found if result != "ok"} == {"clock"}, check.stdout  # no time server is near
    assert {("dhcp", "ok"), ("tftp", "ok"), ("nfs", "ok")} <= set(found), check.stdout
    modes = story.login.run(f"stat -c %a {SERVED}/roots {SERVED}/generations {SERVED}/state").stdout
    assert modes.split() == ["700"] * 3


def test_a_hostile_node_changes_its_own_directories_alone(story: Story) -> None:
    """Over real NFS, while the login node explodes, goes back and collects; a worker boots meanwhile."""
    login = story.login
    secret = f"{SERVED}/roots/green3/persist{KEPT}/secret"
    begun = time.monotonic()
    login.run(
        f"sudo sh -euc 'mkdir -p {OUTSIDE}/restic; echo own >{OUTSIDE}/hostname; echo own >{OUTSIDE}/restic/password; "
        f"echo own >{secret}; sleep 1; touch /run/before'"
    )
    assert login.as_node("green1", "records_of_nonsense", "keep_by_a_link").stdout == ""
    everything = ["records_of_nonsense", "leave_bad_names", "spoil_what_is_read", "link_in_its_boot_directory"]
    assert login.as_node("green2", *everything, "put_setuid_programs", "put_devices", "write_on").stdout == ""
    login.took("attacks", time.monotonic() - begun)

    login.publish("b.img", "small")
    done = login.pibuild("explode", "--all", "--json", check=False)
    login.took("explode all", done.seconds)
    became = {name: row["action"] for name, row in rows(done).items()}
    assert became == {NODE: "none", "green1": "failed", "green2": "make", "green3": "make"}, done.stderr
    back = login.pibuild("rollback", "green2", "green3", "--json")
    assert {row["boots"][:12] for row in rows(back).values()} == {rows(done)["green3"]["before"][:12]}
    gone = login.pibuild("node", "gc", "--keep-days", "0")
    login.took("rollback and gc", back.seconds + gone.seconds)
    assert login.run(f"cat {WRITTEN}").stdout == ""

    name = rows(back)["green3"]["boots"]
    left = login.run(f"sudo ls -A {SERVED}/roots/green2 {SERVED}/roots/green3").stdout
    assert "0123456789ab" not in left, left
    assert "deadbeef" not in left, left
    own = f"cd {SERVED}/roots/green3/{name}/etc; cat hostname release {secret}"
    assert login.run(f"sudo sh -euc '{own}'").stdout == "green3\naown\n"
    changed = f"sudo find /etc /root /home {OUTSIDE} {SERVED}/state/green3 {secret} -cnewer /run/before"
    assert login.run(changed).stdout == ""
    check_accounts_and_strangers(login, rows(back)["green2"]["boots"], name)


def check_accounts_and_strangers(login: LoginGuest, name: str, good: str) -> None:
    """An account of the login node, and whoever asks its TFTP server, gets nothing by what a node made."""
    boot = f"{SERVED}/tftp/boot/green2/{name}"
    assert "Permission denied" in login.run(f"ls {SERVED}/roots/green2", check=False).stderr
    tried = f"{boot}/id -u; for file in kmsg vda; do head -c 1 {boot}/$file >/dev/null 2>&1 && echo read; done; true"
    assert login.run(tried).stdout == "1000\n"
    asked = [f"{link}/etc/hostname" for link in BOOT_LINKS] + ["file", "dir/hostname", "kmsg", "vda"]
    with login.lab.entered():
        with pytest.raises(TftpError):
            get(Server(host="192.168.2.1", timeout=0.5), f"boot/green2/{name}/pipe")
        server = Server(host="192.168.2.1", timeout=20)
        assert get(server, f"boot/green3/{good}/config.txt").data
        for path in asked:
            with pytest.raises(TftpError):
                get(server, f"boot/green2/{name}/{path}")


def test_a_worker_boots_from_it_and_goes_on_after_a_power_cut(story: Story) -> None:
    login, worker = story.login, story.worker
    worker.wait_until_up(600)
    login.took("worker", float(worker.ssh("cut -d' ' -f1 /proc/uptime").stdout))
    before = worker.ssh(f"cat /proc/sys/kernel/random/boot_id; findmnt -no FSTYPE {KEPT}").stdout.split()
    assert before[1].startswith("nfs")
    assert worker.ssh("sudo ping -c 1 -W 20 10.0.2.2").returncode == 0  # the login node's own uplink translates

    login.cut_power()
    writing = f"echo again | sudo tee {KEPT}/written && sync {KEPT}/written"
    login.power_on(400)
    begun = time.monotonic()
    until(lambda: worker.ssh(writing, timeout=60).returncode == 0, 300)
    login.took("writes again", time.monotonic() - begun)
    assert worker.ssh("cat /proc/sys/kernel/random/boot_id").stdout.split() == before[:1]
    assert login.run(f"sudo find {SERVED}/roots -name written -exec cat {{}} +").stdout == "again\n"
    assert login.run(FAILED).stdout == ""
