"""The rendered configurations in the real servers: a client in a namespace is answered, whatever it says it is."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pytest

from builder.errors import VerdictError
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory
from builder.run import run, spawn
from builder.services.apply import apply
from builder.services.dhcp import dnsmasq, kea
from builder.services.dhcp.isc_dhcp import DHCPD
from builder.services.dhcp.kea import KEA
from builder.services.dnsmasq import DNSMASQ, RESERVATIONS
from builder.services.files import ServerRole
from builder.services.leases import fits
from builder.services.offer import pxe_option
from builder.services.render import render
from builder.services.tftp.tftpd_hpa import TFTPD
from builder.services.tftp_view import BOOT_MOUNT, MOUNT, VIEW
from tests.clusters import DYNAMIC, variant

pytestmark = [pytest.mark.root, pytest.mark.waits]

PROJECT = Path(__file__).parents[2]
NODE = "yellow3"
CLIENT_IDS = {  # what the three DHCP clients of one boot send
    "eeprom": "-",
    "initramfs": "01e45f01f5f1ae",
    "system": "ff01f5f1ae000200000ab11f0b9b7a2d5e6c4f",
}
YEAR = 365 * 86400  # seconds; dhcpd cuts an endless lease to what is left until 2038
SERVERS = ("isc-dhcp", "dnsmasq", "kea")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Two namespaces with one cable: the server's end is eth0 with the server's address, the client's has none."""

    server: str
    client: str

    def lease(self, mac: str, client_id: str, *, boot: bool) -> Mapping[str, object]:
        """Return what a client with this MAC address is answered."""
        run(["ip", "-n", self.client, "link", "set", "eth0", "down"])
        run(["ip", "-n", self.client, "link", "set", "eth0", "address", mac, "up"])
        words = ["eth0", mac, client_id, *(["boot"] if boot else [])]
        argv = ["ip", "netns", "exec", self.client, sys.executable, "-m", "tests.dhcp_client", *words]
        answer: Mapping[str, object] = json.loads(run(argv, cwd=PROJECT, timeout=60).stdout)
        return answer


@contextlib.contextmanager
def network(address: str) -> Iterator[Network]:
    name = f"pb{secrets.token_hex(3)}"
    made = Network(server=f"{name}s", client=f"{name}c")
    with contextlib.ExitStack() as stack:
        for namespace in (made.server, made.client):
            run(["ip", "netns", "add", namespace])
            stack.callback(run, ["ip", "netns", "delete", namespace])
        run(["ip", "link", "add", "eth0", "netns", made.server, "type", "veth", "peer", "eth0", "netns", made.client])
        run(["ip", "-n", made.server, "address", "add", f"{address}/24", "dev", "eth0"])
        for namespace, link in ((made.server, "lo"), (made.server, "eth0"), (made.client, "eth0")):
            run(["ip", "-n", namespace, "link", "set", link, "up"])
        yield made


def write(inventory: Inventory, role: ServerRole, directory: Path) -> dict[PurePosixPath, Path]:
    """Write every rendered file below a directory; return where each is."""
    written = {}
    for file in render(inventory, role):
        path = directory / file.path.relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
        written[file.path] = path
    return written


def dhcp_command(server: str, files: Mapping[PurePosixPath, Path], scratch: Path) -> list[str]:
    """Return how a server is started with its rendered configuration, its state kept in a scratch directory."""
    leases = scratch / "leases"
    leases.touch()
    if server == "isc-dhcp":
        return [
            "dhcpd",
            "-4",
            "-f",
            "-d",
            "-cf",
            str(files[DHCPD]),
            "-lf",
            str(leases),
            "-pf",
            str(scratch / "pid"),
            "eth0",
        ]
    if server == "dnsmasq":
        conf = files[DNSMASQ].read_text().replace(str(RESERVATIONS), str(files[RESERVATIONS]))
        (scratch / "dnsmasq.conf").write_text(conf)
        state = ["--log-facility=-", f"--dhcp-leasefile={leases}", f"--pid-file={scratch / 'pid'}"]
        return ["dnsmasq", "-k", "--user=root", "-C", str(scratch / "dnsmasq.conf"), *state]
    (scratch / "kea").mkdir(exist_ok=True)  # Kea takes no other places for its leases and its process id
    script = 'for place in /var/lib/kea /run/kea; do mkdir -p $place; mount --bind "$0" $place; done; exec "$@"'
    return [
        "unshare",
        "-m",
        "sh",
        "-ec",
        script,
        str(scratch / "kea"),
        "env",
        "KEA_LOCKFILE_DIR=none",
        "kea-dhcp4",
        "-c",
        str(files[KEA]),
    ]


@contextlib.contextmanager
def running(server: str, role: ServerRole, directory: Path) -> Iterator[tuple[Inventory, Network]]:
    """Run a DHCP server with what is rendered for a role."""
    inventory = load_inventory(variant(directory, dhcp=server))
    files = write(inventory, role, directory)
    scratch = directory / "scratch"
    scratch.mkdir()
    address = inventory.login.address if role == "login" else inventory.node("backup").address
    with network(str(address)) as made, (scratch / "log").open("wb") as log:
        argv = ["ip", "netns", "exec", made.server, *dhcp_command(server, files, scratch)]
        with spawn(argv, stdout=log):
            try:
                yield inventory, made
            except BaseException as error:
                error.add_note((scratch / "log").read_text(errors="replace")[-4000:])
                raise


def text(options: Mapping[str, str], code: int) -> str:
    return bytes.fromhex(options[str(code)]).rstrip(b"\0").decode()


@pytest.mark.parametrize("server", SERVERS)
def test_a_node_gets_its_address_and_options_whatever_client_id_it_sends(server: str, tmp_path: Path) -> None:
    with running(server, "login", tmp_path) as (inventory, made):
        node = inventory.node(NODE)
        for name, client_id in CLIENT_IDS.items():
            answer = made.lease(node.mac, client_id, boot=name == "eeprom")
            options = answer["options"]
            assert isinstance(options, dict)
            assert answer["address"] == str(node.address), name
            assert answer["next"] == "192.168.2.1"
            assert text(options, 66) == "192.168.2.1"
            assert text(options, 12) == NODE
            assert options["1"] == "ffffff00"
            assert options["3"] == options["6"] == options["54"] == "c0a80201"
            assert options["51"] == "ffffffff" or (server == "isc-dhcp" and int(options["51"], 16) > 10 * YEAR)
            if name == "eeprom":
                assert bytes.fromhex(options["43"]) == pxe_option()


@pytest.mark.parametrize("server", SERVERS)
def test_a_board_with_a_disk_is_not_told_to_boot_from_the_network(server: str, tmp_path: Path) -> None:
    with running(server, "login", tmp_path) as (inventory, made):
        answer = made.lease(inventory.node("backup").mac, "-", boot=True)
        assert answer["address"] == "192.168.2.3"
        options = answer["options"]
        assert isinstance(options, dict)
        assert "66" not in options
        assert b"Raspberry Pi Boot".hex() not in options.get("43", "")


@pytest.mark.parametrize("server", SERVERS)
def test_login_and_backup_answer_a_node_identically(server: str, tmp_path: Path) -> None:
    answers = []
    roles: tuple[ServerRole, ...] = ("login", "backup")
    for role in roles:
        (tmp_path / role).mkdir()
        with running(server, role, tmp_path / role) as (inventory, made):
            answer = made.lease(inventory.node(NODE).mac, CLIENT_IDS["initramfs"], boot=True)
        options = answer["options"]
        assert isinstance(options, dict)
        own = options.pop("54")  # the server's own address: all that may differ
        assert own == {"login": "c0a80201", "backup": "c0a80203"}[role]
        if server == "isc-dhcp":
            assert int(options.pop("51"), 16) > 10 * YEAR  # counted down to 2038
        answers.append(answer)
    assert answers[0] == answers[1]


def test_dnsmasq_takes_a_changed_reservation_on_a_reload(tmp_path: Path) -> None:
    with running("dnsmasq", "login", tmp_path) as (inventory, made):
        node = inventory.node(NODE)
        assert made.lease(node.mac, "-", boot=False)["address"] == "192.168.2.30"
        reservations = tmp_path / RESERVATIONS.relative_to("/")
        reservations.write_text(reservations.read_text().replace("192.168.2.30,", "192.168.2.99,"))
        os.kill(int((tmp_path / "scratch" / "pid").read_text()), 1)
        assert made.lease(node.mac, "-", boot=False)["address"] == "192.168.2.99"


@pytest.mark.parametrize(("server", "book"), [("dnsmasq", "leases"), ("kea", "kea/kea-leases4.csv")])
def test_a_replaced_board_gets_the_address_once_the_old_lease_is_gone(server: str, book: str, tmp_path: Path) -> None:
    """Only then: that both servers keep to an endless lease of the board that was is why leases are looked at."""
    old, new = "e4:5f:01:f5:f1:ae", "e4:5f:01:00:00:01"
    cluster = variant(tmp_path, dhcp=server)
    before = load_inventory(cluster)
    cluster.write_text(cluster.read_text().replace(old, new))
    after, offered = load_inventory(cluster), []
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for inventory, mac in ((before, old), (after, new), (after, new)):
        files = write(inventory, "login", tmp_path)
        with network("192.168.2.1") as made, (scratch / "log").open("ab") as log:
            argv = ["ip", "netns", "exec", made.server, *dhcp_command(server, files, scratch)]
            with spawn(argv, stdout=log):
                if mac == old:
                    made.lease(mac, "-", boot=True)
                else:
                    time.sleep(2)
                    script = (
                        "import sys; from builder.host.dhcp_client import *; "
                        "print([o.address for o in discover('eth0', sys.argv[1], seconds=4)])"
                    )
                    asked = ["ip", "netns", "exec", made.client, sys.executable, "-c", script, mac]
                    run(["ip", "-n", made.client, "address", "add", "192.168.2.250/24", "dev", "eth0"])
                    offered.append("192.168.2.30" in run(asked, cwd=PROJECT).stdout)
        text = (scratch / book).read_text()
        kept = (dnsmasq if server == "dnsmasq" else kea).kept(text, fits(inventory))
        if len(offered) == 1:
            assert old in text
            assert old not in kept
            (scratch / book).write_text(kept)
        else:
            assert kept == text
    assert offered == [False, True]


@pytest.mark.parametrize("server", SERVERS)
def test_every_file_passes_its_servers_checker(server: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    files = render(load_inventory(variant(tmp_path, dhcp=server, changes=[DYNAMIC])), "backup")
    checked = {one.check: one.result for one in apply(files, tmp_path / "root").checked}
    tool = {"isc-dhcp": "dhcpd", "dnsmasq": "dnsmasq", "kea": "kea-dhcp4"}[server]
    assert checked == {tool: "ok", "nft": "ok", "ssh": "ok"}


@pytest.mark.parametrize(
    ("server", "path", "old", "new", "said"),
    [
        (
            "isc-dhcp",
            DHCPD,
            "hardware ethernet",
            "hardware token",
            "expecting network hardware type|semicolon expected|Configuration file errors",
        ),
        ("kea", KEA, '"match-client-id"', '"match-client"', "match-client"),
        ("dnsmasq", DNSMASQ, "dhcp-range=", "dhcp-rang=", "bad option at line"),
        ("dnsmasq", RESERVATIONS, ",192.168.2.30,", ",192.168.2.31,", "duplicate dhcp-host IP address"),
    ],
)
def test_what_a_checker_refuses_changes_nothing(
    server: str, path: PurePosixPath, old: str, new: str, said: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    inventory = load_inventory(variant(tmp_path, dhcp=server))
    apply(render(inventory, "login"), root)
    before = {file: file.read_bytes() for file in (root / "etc").rglob("*") if file.is_file()}
    broken = []
    for file in render(inventory, "login"):
        text = file.text.replace(old, new) if file.path == path else file.text + "# changed\n"
        broken.append(replace(file, text=text))
    with pytest.raises(VerdictError, match=said):
        apply(broken, root)
    assert {file: file.read_bytes() for file in (root / "etc").rglob("*") if file.is_file()} == before


FETCH = """  # prints what each file has: block size and checksum, or the error
import hashlib, sys, time
from builder.host.tftp_client import *
for name in sys.argv[1:]:
    for _ in range(20):
        try:
            got = get(Server(host="192.168.2.1", timeout=1), name)
            print(got.block_size, hashlib.sha256(got.data).hexdigest())
            break
        except TftpError as error:
            if error.code is not None:
                print("refused", error.code)
                break
            time.sleep(0.1)
"""


def fetched(made: Network, *names: str) -> list[str]:
    """Return what a board is given of each file."""
    asked = ["ip", "netns", "exec", made.client, sys.executable, "-c", FETCH, *names]
    return run(asked, cwd=PROJECT, timeout=120).stdout.splitlines()


@pytest.mark.parametrize("server", ["dnsmasq", "tftpd-hpa"])
def test_a_board_loads_its_files_over_tftp_and_nothing_that_its_node_links_to(server: str, tmp_path: Path) -> None:
    """A node can write in its boot directory; files of the login node that anybody can read lie beside the tree."""
    inventory = load_inventory(variant(tmp_path, tftp=server))
    root = tmp_path / "tftp"
    boot = root / "boot" / NODE / "1"
    boot.mkdir(parents=True)
    (root / "c0a3cab4").symlink_to(f"boot/{NODE}/1")
    content = bytes(range(256)) * 4000
    (boot / "start4.elf").write_bytes(content)
    (tmp_path / "secret").write_text("the login node's\n")
    (root.parent / "state").mkdir()
    (root.parent / "state/key").write_text("the login node's\n")
    (boot / "rootfs").symlink_to("/")
    (boot / "up").symlink_to("../../../..")
    (boot / "file").symlink_to(tmp_path / "secret")
    (root / "boot" / NODE / "2").symlink_to(tmp_path)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)  # the servers are not root when they read
    files = write(inventory, "login", tmp_path)
    outside = ("rootfs" + str(tmp_path / "secret"), "up/secret", "up/state/key", "file", "../../../../secret")
    asked = [f"c0a3cab4/{name}" for name in outside] + [f"boot/{NODE}/2/secret", str(tmp_path / "secret")]
    with network("192.168.2.1") as made:
        run(["ip", "-n", made.client, "address", "add", "192.168.2.30/24", "dev", "eth0"])
        argv = tftp_command(server, files, root, tmp_path)
        with spawn(["ip", "netns", "exec", made.server, *argv]):
            first, *others = fetched(made, "c0a3cab4/start4.elf", *asked)
    assert first.split() == ["1468", hashlib.sha256(content).hexdigest()]
    assert len(others) == len(asked)
    assert {line.split()[0] for line in others} == {"refused"}, dict(zip(asked, others, strict=True))


def tftp_command(server: str, files: Mapping[PurePosixPath, Path], root: Path, scratch: Path) -> list[str]:
    """Return how a TFTP server is started with what was rendered, on another directory."""
    if server == "dnsmasq":
        mounts = [_mount_command(files[unit], root) for unit in (MOUNT, BOOT_MOUNT)]
        script = " && ".join(["mount -t tmpfs none /run", f"mkdir -p {VIEW}", *mounts, 'exec "$@"'])
        argv = ["dnsmasq", "-k", "--user=nobody", "-C", str(files[DNSMASQ]), f"--pid-file={scratch / 'pid'}"]
        return ["unshare", "-m", "sh", "-ec", script, "view", *argv]
    settings = dict(line.split("=", 1) for line in files[TFTPD].read_text().splitlines() if "=" in line[:20])
    values = {name: value.strip('"') for name, value in settings.items()}
    assert values["TFTP_DIRECTORY"] in ("/srv/netboot/tftp", str(root))
    options = [*values["TFTP_OPTIONS"].split(), "--user", values["TFTP_USERNAME"], "--address", values["TFTP_ADDRESS"]]
    return ["in.tftpd", "--foreground", *options, str(root)]


def _mount_command(unit: Path, root: Path) -> str:
    """Return what systemd runs for a mount unit (systemd.mount(5)), of another tree."""
    words = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and line[0] != "#")
    what = words["What"].replace("/srv/netboot/tftp", str(root))
    return f"mount {what} {words['Where']} -t {words['Type']} -o {words['Options']}"


def test_a_file_that_is_mounted_on_is_written_in_place(tmp_path: Path) -> None:
    """As /etc/hosts is in a container: it cannot be renamed over."""
    root, mounted = tmp_path / "root", tmp_path / "mounted"
    (root / "etc").mkdir(parents=True)
    (root / "etc/hosts").touch()
    mounted.write_text("127.0.0.1 localhost\n" + "# long\n" * 3000)
    script = 'mount --bind "$1" "$2/etc/hosts"; shift 2; exec "$@"'
    words: list[str | Path] = [sys.executable, "-m", "builder", "services", "apply", "--root", root]
    words += ["--cluster", variant(tmp_path)]
    argv: list[str | Path] = ["unshare", "-m", "sh", "-ec", script, "sh", mounted, root, *words]
    run(argv, cwd=PROJECT)
    assert mounted.read_text().startswith("127.0.0.1 localhost\n# long\n")
    assert "192.168.2.30 yellow3\n" in mounted.read_text()
    mounted.write_text("127.0.0.1 localhost\n")
    run(argv, cwd=PROJECT)
    assert mounted.read_text().count("192.168.2.30 yellow3\n") == 1
    assert (root / "etc/hosts").read_text() == ""


def test_the_state_of_nodes_may_lie_on_another_file_system(tmp_path: Path) -> None:
    """As docs/security.md advises: nodes make up handles of any file on the one that they mount."""
    script = (
        "import sys; from pathlib import Path; from builder.netboot.layout import Netboot\n"
        "served = Netboot(Path(sys.argv[1]))\n"
        "with served.locked():\n"
        "    served.write(served.state / 'key', b'one', 0o600); served.write(served.state / 'key', b'two', 0o600)\n"
        "print((served.state / 'key').read_text(), sorted(path.name for path in served.state.iterdir()))"
    )
    mounts = 'mkdir -m 700 "$1/state" && mount -t tmpfs none "$1/state" && exec "$2" -c "$3" "$1"'
    argv: list[str | Path] = ["unshare", "-m", "sh", "-ec", mounts, "sh", tmp_path, sys.executable, script]
    words = run(argv, cwd=PROJECT).stdout.split(maxsplit=1)
    assert words[0] == "two"
    assert "'key'" in words[1]
    assert "'.key." not in words[1]


@pytest.mark.parametrize(
    ("mounts", "said"),
    [
        ("true", [" shares a file system with /: ", "/roots is mounted without nosuid and nodev: "]),
        (
            'mount -t tmpfs -o nodev none "$1/srv"; mkdir -p "$1/srv/roots" "$1/srv/state"',
            ["/state, with every node's keys, ", "/roots is mounted without nosuid: "],
        ),
        (
            (
                'mount -t tmpfs -o nosuid,nodev none "$1/srv"; mkdir -p "$1/srv/roots" "$1/srv/state";'
                ' mount -t tmpfs none "$1/srv/state"'
            ),
            [],
        ),
    ],
)
def test_a_netboot_tree_from_which_nodes_reach_more_than_their_own_is_told_of(
    mounts: str, said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "srv/roots").mkdir(parents=True)
    (tmp_path / "srv/state").mkdir()
    cluster = variant(tmp_path, changes=[("netboot: /srv/netboot", f"netboot: {tmp_path}/srv")])
    script = (
        "import sys; from pathlib import Path; from builder.inventory.load import load_inventory\n"
        "from builder.services.files import serving; from builder.services.live_disk import sharing\n"
        "print(*sharing(serving(load_inventory(Path(sys.argv[1])), 'login')), sep='\\n')"
    )
    argv: list[str | Path] = ["unshare", "-m", "sh", "-ec", f'{mounts}; exec "$2" -c "$3" "$4"', "sh", tmp_path]
    told = run([*argv, sys.executable, script, cluster], cwd=PROJECT).stdout.splitlines()
    assert len([line for line in told if line]) == len(said)
    assert all(words in line for words, line in zip(said, told, strict=False))


def test_a_backup_server_that_cannot_take_over_says_so_when_it_is_applied(tmp_path: Path) -> None:
    for role, told in (("login", False), ("backup", True)):
        (tmp_path / role).mkdir()
        words: list[str | Path] = ["services", "apply", "--role", role, "--root", tmp_path / role]
        ended = run([sys.executable, "-m", "builder", *words, "--cluster", variant(tmp_path)], cwd=PROJECT)
        assert ("no board boots until it is back" in ended.stderr) == told
