"""What nodes are told of their backups, and what restic is told of theirs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from builder.backup.repository import Repository, node_files, url_of
from builder.errors import InputError
from builder.inventory.load import load_inventory
from builder.inventory.nodes import Inventory

PROJECT = Path(__file__).parents[3]


def inventory_with(tmp_path: Path, **backup: object) -> Inventory:
    cluster = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    cluster["cluster"]["backup"] = backup
    for node in cluster["nodes"]:
        node["backup"] = node["name"] == "yellow3"
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster, sort_keys=False))
    return load_inventory(tmp_path / "cluster.yaml")


def settings_of(text: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in shlex.split(text, comments=True))


@pytest.mark.parametrize(
    ("base", "own"),
    [
        ("rest:https://backup.example:8000", "rest:https://backup.example:8000/yellow3/"),
        ("rest:https://backup.example:8000/", "rest:https://backup.example:8000/yellow3/"),
        ("s3:https://store.example/bucket", "s3:https://store.example/bucket/yellow3"),
        ("sftp:pi@backup.example:/srv/backup", "sftp:pi@backup.example:/srv/backup/yellow3"),
        ("/srv/backup", "/srv/backup/yellow3"),
    ],
)
def test_each_node_has_a_repository_of_its_own(base: str, own: str, tmp_path: Path) -> None:
    inventory = inventory_with(tmp_path, repository=base)
    node = inventory.node("yellow3")
    told = settings_of(node_files(inventory, node)["/etc/pibuild/backup.env"])
    assert told == {"RESTIC_REPOSITORY": own, "RESTIC_HOST": "yellow3", "BACKUP_APPEND_ONLY": "no"}
    assert url_of(base, node) == own


def test_behind_a_gateway_the_node_does_not_forget(tmp_path: Path) -> None:
    inventory = inventory_with(tmp_path, repository="rest:http://192.168.2.3:8000", gateway="pi_backup")
    text = node_files(inventory, inventory.node("yellow3"))["/etc/pibuild/backup.env"]
    assert settings_of(text)["BACKUP_APPEND_ONLY"] == "yes"


def test_a_node_that_is_not_backed_up_is_told_nothing(tmp_path: Path) -> None:
    """The unit's condition is that the file is not empty."""
    inventory = inventory_with(tmp_path, repository="/srv/backup")
    assert node_files(inventory, inventory.node("yellow4"))["/etc/pibuild/backup.env"] == ""
    lab = load_inventory(PROJECT / "cluster.yaml")
    assert node_files(lab, lab.node("yellow4"))["/etc/pibuild/backup.env"] == ""


def test_paths_and_patterns_are_lines(tmp_path: Path) -> None:
    inventory = inventory_with(tmp_path, repository="/srv/b", paths=["/srv/my data"], exclude=["*.tmp", "$HOME"])
    files = node_files(inventory, inventory.node("yellow3"))
    assert files["/etc/pibuild/backup.paths"].splitlines()[1:] == ["/srv/my data"]
    assert files["/etc/pibuild/backup.exclude"].splitlines()[1:] == ["*.tmp", "$HOME"]


def test_the_password_of_a_server_goes_into_the_environment_quoted() -> None:
    keys = {"RESTIC_REST_USERNAME": "a", "RESTIC_REST_PASSWORD": "p@ss/word", "AWS_REGION": "x"}
    of = Repository(
        node="a", url="rest:https://backup.example:8000/a/", password="hush", keys=keys, identity=Path("/state/a/key")
    )
    assert of.environment() == {
        "RESTIC_REPOSITORY": "rest:https://a:p%40ss%2Fword@backup.example:8000/a/",
        "RESTIC_PASSWORD": "hush",
        "RESTIC_PROGRESS_FPS": "0.01",
        "AWS_REGION": "x",
    }


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("sftp:pi@backup.example:/srv/backup/a", "pi@backup.example"),
        ("sftp:backup:/srv/backup/a", "backup"),
        ("sftp://pi@backup.example:2222//srv/backup/a", "-p 2222 pi@backup.example"),
    ],
)
def test_the_nodes_own_key_opens_a_store_by_ssh(url: str, there: str) -> None:
    of = Repository(node="a", url=url, password="hush", keys={}, identity=Path("/state/a/key"))
    options = "-o BatchMode=yes -o ConnectTimeout=30 -o StrictHostKeyChecking=accept-new"
    assert of.ssh() == f"ssh -i /state/a/key {options} {there} -s sftp"


@pytest.mark.parametrize("repository", ["/srv/'b", "/srv/$(reboot)", "s3:https://a.example/b c", "rest:https://"])
def test_a_repository_that_a_shell_would_read_otherwise_is_refused(repository: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a known kind of repository"):
        inventory_with(tmp_path, repository=repository)
