"""Exploding on a real login node: every way of reading an image ends, and so does an explode that gets a signal.

A machine with systemd, udev, device-mapper and the kernel's NFS server, which the machine of the tests may not have.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests import images
from tests.system.login_guest import LoginGuest, build_images, login_guest

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.boot]

NODE = "yellow3"
FAILED = "systemctl list-units --state=failed --plain --no-legend"
EXPLODE = f"cd /opt/pibuild && sudo timeout 400 pibuild explode --node {NODE} --image /mnt/worker"
# what every way of reading an image finds in a tiny one; three runs of the command would be three starts of Python
EVERY_WAY = """
import json, pathlib, tempfile
from builder.image.attach import attached
from builder.host.mounts import enter_namespaces
enter_namespaces()
found = {}
for method in ("kpartx", "loop", "files"):
    with tempfile.TemporaryDirectory(dir="/srv") as scratch:
        with attached(pathlib.Path("/mnt/tiny.img"), method, pathlib.Path(scratch)) as it:
            names = sorted(str(path.relative_to(it.root)) for path in it.root.rglob("*"))
            found[method] = [it.mounted, [name for name in names if not name.startswith("lost+found")]]
print(json.dumps(found))
"""
NOTHING_ATTACHED = "sudo losetup --list --noheadings; sudo dmsetup ls | grep -v 'No devices'; ls /run/pibuild/loops"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginGuest]:
    """A login node that is up, and on which nothing has been done yet."""
    at = tmp_path_factory.mktemp("login")
    disk, worker = build_images(at)
    tiny = images.make_image(at / "tiny.img", images.DEBIAN)
    with login_guest(at, {"worker": worker.parent, "tiny.img": tiny}, disk) as made:
        made.power_on()
        made.run("sudo mount -o ro /dev/vdb /mnt && sudo cp -r /mnt/pibuild /opt/")
        yield made


def until(condition: Callable[[], bool], seconds: float) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"not within {seconds:.0f} s"
        time.sleep(0.5)
    return time.monotonic() - begun


def test_servers_without_a_configuration_do_not_fail_at_boot(guest: LoginGuest) -> None:
    assert guest.run(FAILED).stdout == ""


def test_every_way_to_attach_ends_and_leaves_nothing(guest: LoginGuest) -> None:
    done = guest.timed("every way", f"cd /opt/pibuild && sudo timeout 200 python3 -c '{EVERY_WAY}'", timeout=210)
    found = json.loads(done.stdout)
    assert {method: mounted for method, (mounted, _) in found.items()} == {"kpartx": True, "loop": True, "files": False}
    assert found["kpartx"][1] == found["loop"][1] == found["files"][1]
    assert "etc/os-release" in found["files"][1]
    assert guest.run(NOTHING_ATTACHED, check=False).stdout == ""


def test_a_signal_ends_an_explode_that_has_attached_and_frees_its_lock(guest: LoginGuest) -> None:
    guest.run(f"({EXPLODE} --dest /srv/other >/tmp/ended 2>&1; echo $? >/tmp/code) </dev/null >/dev/null 2>&1 &")
    until(lambda: "loop" in guest.run("sudo dmsetup ls").stdout, 200)
    script = (
        "sudo pkill -TERM -o -f '^python3 -m builder explode'; for i in $(seq 100); do "
        "[ -s /tmp/code ] && break; sleep 0.1; done; cat /tmp/code; sudo flock -n /srv/other/.lock echo free"
    )
    assert guest.run(script).stdout.split() == ["143", "free"], guest.run("cat /tmp/ended").stdout
    until(lambda: guest.run(NOTHING_ATTACHED, check=False).stdout == "", 10)
