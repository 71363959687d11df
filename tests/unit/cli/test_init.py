"""`pibuild init`: a recipe with one's keys, an inventory, a README; nothing invented, nothing overwritten."""

from pathlib import Path

import pytest

from builder.cli.main import run_command
from builder.inventory.load import load_inventory
from builder.recipe.load import load_recipe

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEC76vwyuzSP4PBYfiJQhEGHT431KPAaQpWXTDvAa4DA a: {{b}} \"c' #d"
LIST = """\
pi_login     e4:5f:01:f6:07:b2 f154e171 192.168.2.1
pi_backup    d8:3a:dd:0b:01:17 6d30a4c2 192.168.2.3
mlops_master d8:3a:dd:0b:01:2c 2490e89e 192.168.2.2
green1       e4:5f:01:f6:07:87 85b6d0ea 192.168.2.20
green2       e4-5f-01-f6-08-02 10000000abcdef02 192.168.3.21
blue1        e4:5f:01:f6:08:03 0783b083 192.168.2.22
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's home with a key, a certificate, and what is no key."""
    ssh = tmp_path / "home/.ssh"
    ssh.mkdir(parents=True)
    (ssh / "id_ed25519.pub").write_text(f"{KEY}\n")
    (ssh / "id_ed25519-cert.pub").write_text(KEY.replace("me", "cert"))
    (ssh / "odd.pub").write_bytes(b"\xff\x00 no key")
    (ssh / "dir.pub").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path / "home"


def keys_of(path: Path) -> object:
    return load_recipe(path).variables["authorized_keys"]


def test_a_place_to_work_is_read_back_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["init", "My Rack"]) == 0
    shown = capsys.readouterr()
    assert "next: cd 'My Rack' && sudo pibuild build node.yaml" in shown.out
    assert "warning" not in shown.err
    assert keys_of(tmp_path / "work/My Rack/node.yaml") == [KEY]
    inventory = load_inventory(tmp_path / "work/My Rack/cluster.yaml")
    assert [(node.name, node.role, node.image) for node in inventory.nodes] == [
        ("login", "login", "node"),
        ("node1", "worker", "node"),
    ]
    readme = (tmp_path / "work/My Rack/README.md").read_text()
    assert readme.count("sudo pibuild ") == 3


def test_a_list_of_nodes_says_who_they_are(tmp_path: Path) -> None:
    (tmp_path / "pi_info.txt").write_text(LIST)
    assert run_command(["init", "--from", str(tmp_path / "pi_info.txt"), "--name", "rack"]) == 0
    inventory = load_inventory(Path("cluster.yaml"))
    assert {node.name: (node.role, *node.groups) for node in inventory.nodes} == {
        "pi-login": ("login",),
        "pi-backup": ("backup",),
        "mlops-master": ("master",),
        "green1": ("worker", "green"),
        "green2": ("worker", "green"),
        "blue1": ("worker",),
    }
    cluster = inventory.cluster
    assert (str(cluster.subnet), str(cluster.gateway)) == ("192.168.2.0/23", "192.168.2.1")
    assert {node.image for node in inventory.nodes} == {"rack"}
    assert inventory.node("green2").serial == "abcdef02"
    assert cluster.servers.login.uplink is None  # no name tells


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (LIST.replace("pi_login", "pi_one"), [], "no node of the list has 'login' in the name"),
        (LIST.replace("green1 ", "login2 "), [], "pi_login and login2 have 'login' in the name"),
        (LIST, ["--login", "nobody"], "no node 'nobody'"),
        (LIST.replace("192.168.3.21", "10.0.0.1"), [], "10.0.0.1 and 192.168.2.22 are too far apart"),
        (LIST.replace("85b6d0ea", "c72aafcfc"), [], "pi_info.txt:4:1: node green1: serial 'c72aafcfc'"),
        ("", [], "no node of the list"),
    ],
)
def test_a_list_that_leaves_open_who_serves_is_refused(
    text: str, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pi_info.txt").write_text(text)
    assert run_command(["init", "rack", "--from", str(tmp_path / "pi_info.txt"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("rack").exists()


def test_the_login_node_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "pi_info.txt").write_text(LIST.replace("pi_login", "pi_one"))
    assert run_command(["init", "--from", str(tmp_path / "pi_info.txt"), "--login", "pi-one"]) == 0
    assert load_inventory(Path("cluster.yaml")).login.name == "pi-one"


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cluster.yaml").symlink_to("nowhere")
    assert run_command(["init"]) == 2
    assert "already there: cluster.yaml" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["cluster.yaml"]


def test_without_a_key_it_says_what_makes_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".ssh/id_ed25519.pub").unlink()
    assert run_command(["init"]) == 0
    assert "ssh-keygen -t ed25519" in capsys.readouterr().err
    assert keys_of(Path("node.yaml")) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "line 1 is a private key; the public one ends in .pub"),
        ("# none\n", "it has no key"),
        ("ssh-ed25519 AAAA\n", "line 1 is damaged"),
    ],
)
def test_a_key_that_is_none_is_refused(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(content)
    assert run_command(["init", "--key", str(tmp_path / "key")]) == 2
    assert said in capsys.readouterr().err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", ["golden", "a/b", "", "-x"])
def test_a_name_that_is_none_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["init", f"--name={name}"]) == 2
    assert f"--name {name}: is" in capsys.readouterr().err
