"""What k3s is told on each node: options that it has, a place for its data, and warnings where that place is bad."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from builder.errors import InputError
from builder.inventory.load import load_inventory
from builder.inventory.schema import K3s
from builder.inventory.settled import settle
from builder.kubernetes.k3s import AGENT_KEYS, SERVER_KEYS, is_file_volume, storage_warnings, unknown_keys
from builder.netboot import explode
from builder.netboot.generation import Generation
from tests.clusters import LAB


def test_keys_are_the_programs_own() -> None:
    assert unknown_keys({"tls-san": [], "node-label+": [], "kubelet-arg": []}, "master") == []
    assert unknown_keys({"snapshotter": "native", "node-label+": []}, "worker") == []
    assert unknown_keys({"tls-san": []}, "worker") == ["'tls-san' is not an option of k3s agent"]
    assert unknown_keys({"node-nam": "x"}, "worker") == [
        "'node-nam' is not an option of k3s agent; did you mean 'node-name'?"
    ]
    assert unknown_keys({"pod-eviction-timeout": "5m"}, "master")  # Kubernetes' flag, not k3s's; and gone since 1.27
    assert AGENT_KEYS < SERVER_KEYS


@pytest.mark.parametrize("volume", ["none", "8G", "512M", "LABEL=k3s", "/dev/mmcblk0p3", "UUID=1-2-3"])
def test_volumes_that_are_one(volume: str) -> None:
    assert K3s(volume=volume).volume == volume
    assert is_file_volume(volume) == (volume in {"8G", "512M"})


@pytest.mark.parametrize("volume", ["", "8", "8GB", "0G", "8G; reboot", "LABEL=", "../x", "8G\n", "nonesuch"])
def test_volumes_that_are_none(volume: str, tmp_path: Path) -> None:
    text = LAB.read_text().replace("k3s: {volume: 8G}", f"k3s: {{volume: {volume!r}}}", 1)
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_inventory(tmp_path / "cluster.yaml")
    assert caught.value.problems[0].mark is not None
    assert caught.value.problems[0].mark.line == text[: text.index("k3s: {volume")].count("\n") + 1


def test_a_server_that_keeps_its_database_on_nfs_is_warned_about() -> None:
    (told,) = storage_warnings("master", "none", ("/var/lib/rancher",))
    assert "SQLite database on NFS" in told
    assert "volume: 8G" in told
    (told,) = storage_warnings("master", "none", ("/var/lib/other",))
    assert "gone with the next root" in told
    assert storage_warnings("master", "8G", ()) == []
    assert storage_warnings("master", "LABEL=k3s", ()) == []
    assert storage_warnings("worker", "none", ()) == []


def test_explode_says_it_where_the_image_has_k3s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cluster.yaml").write_text(LAB.read_text().replace("k3s: {volume: 8G}", "k3s: {}"))
    master = load_inventory(tmp_path / "cluster.yaml").node("mlops_master")
    image = Generation(directory=tmp_path, sha256="0" * 64, boot_mount="/boot/firmware", capabilities={})
    explode.warn_of_storage(master, image)
    assert capsys.readouterr().err == ""
    (tmp_path / "root/usr/local/bin").mkdir(parents=True)
    (tmp_path / "root/usr/local/bin/k3s").touch()
    explode.warn_of_storage(master, image)
    assert capsys.readouterr().err.startswith(
        "warning: mlops-master: k3s keeps its SQLite database in the node's NFS root"
    )
    explode.warn_of_storage(load_inventory(LAB).node("mlops_master"), image)
    assert capsys.readouterr().err == ""  # the lab's has a volume


def test_the_nearest_k3s_settings_win_as_a_whole(tmp_path: Path) -> None:
    text = LAB.read_text().replace("  image: golden\n", "  image: golden\n  k3s: {volume: 4G}\n", 1)
    text = text.replace("role: master}", "role: master, k3s: {config: {debug: true}}}")
    (tmp_path / "cluster.yaml").write_text(text)
    inventory = load_inventory(tmp_path / "cluster.yaml")
    assert inventory.node("yellow1").k3s == settle(K3s(volume="4G"))
    assert inventory.node("mlops_master").k3s == settle(K3s(config={"debug": True}))


def test_what_is_rendered_is_yaml() -> None:
    """The lists of names are words; a name that was joined with its neighbour would hide both."""
    for name in SERVER_KEYS:
        assert yaml.safe_load(f"{name}: x") == {name: "x"}
        assert len(name) < 40
