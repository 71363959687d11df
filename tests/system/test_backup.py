"""Backups with the shipped programs against real servers: back up, lose, restore; what a node cannot do; rotation."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from moto.server import ThreadedMotoServer

from builder.backup import rotate as backup_rotate
from builder.backup.gateway import Gateway, let_in
from builder.backup.repository import repository, restore, snapshots
from builder.backup.rotate import rotate
from builder.console import note
from builder.errors import HostError, InputError
from builder.host.hashing import file_digest
from builder.run import CommandError, run, spawn
from tests.system.fleet_backup import NODES, PROJECT, Fleet, answer, make_fleet, read_metrics, tree_size
from tests.trixie import program, unpacked

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.waits]
BACKUP = "/usr/local/lib/pibuild/backup"
NO_ANSWER, NO_INPUT, WRONG_PASSWORD, NO_REPOSITORY = 124, 66, 12, 10


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet; whatever is done with it, no secret is ever an argument, said by a node, or in the server's log."""
    made = make_fleet(tmp_path)
    names = [(node, name) for node in NODES for name in ("restic-password", "restic-http-password")]
    secrets = {made.secret(*name) for name in names}
    yield made
    secrets |= {made.secret(*name) for name in names}
    for path in (made.local / "arguments", made.home / "said", made.home / "server.log"):
        text = path.read_text() if path.is_file() else ""
        assert not [secret for secret in secrets if secret in text], path


def fill(root: Path) -> None:
    """Put application data, and a model with its pointer, on a node."""
    app, models = root / "var/lib/pibuild/app", root / "var/lib/models"
    for directory in (app, models / "jen/2"):
        directory.mkdir(parents=True)
    (app / "data.db").write_bytes(os.urandom(8 << 20))
    (app / "settings.json").write_text('{"threads": 4}')
    (app / "settings.json").chmod(0o640)
    os.chown(app / "settings.json", 1000, 1000)
    (app / "stray.gguf").write_bytes(os.urandom(16 << 20))
    (models / "jen/2/model.bin").write_bytes(os.urandom(16 << 20))
    (models / "jen/pointer.json").write_text('{"model": "jen", "version": "2"}')
    (models / "jen/current").symlink_to("2")


def test_a_lost_file_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    root = fleet.root("yellow1")
    fill(root)
    app = root / "var/lib/pibuild/app"
    before = {name: file_digest(app / name) for name in ("data.db", "settings.json")}
    with fleet.served():
        of = repository(fleet.inventory, fleet.netboot, fleet.inventory.node("yellow1"))
        with pytest.raises(InputError, match="yellow1 has backed up nothing yet"):
            snapshots(of)
        assert fleet.back_up("yellow1").returncode == 0
        (app / "settings.json").unlink()
        (app / "data.db").write_bytes(b"broken")
        (root / "etc/hostname").write_text("somebody else\n")

        aside = fleet.on("yellow1", "/usr/local/sbin/pibuild-restore", "--to", "/var/back")
        assert aside.returncode == 0, aside.stdout
        assert file_digest(root / "var/back/var/lib/pibuild/app/data.db") == before["data.db"]
        asked = fleet.on("yellow1", "/usr/local/sbin/pibuild-restore", "--in-place")
        assert (asked.returncode, (app / "data.db").read_bytes()) == (2, b"broken"), asked.stdout

        fstab = root / "etc/fstab"
        fstab.write_text("of the root that runs\n")
        done = fleet.on("yellow1", "/usr/local/sbin/pibuild-restore", "--in-place", "--yes")
        assert done.returncode == 0, done.stdout
        assert {name: file_digest(app / name) for name in before} == before
        facts = (app / "settings.json").stat()
        assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777) == (1000, 1000, 0o640)
        assert (root / "etc/hostname").read_text() == "somebody else\n"
        assert fstab.read_text() == "of the root that runs\n"

        restore(of, tmp_path / "whole")
        assert file_digest(tmp_path / "whole/var/lib/pibuild/app/data.db") == before["data.db"]
        one = restore(of, tmp_path / "one", include=["/etc/hostname"], snapshot=snapshots(of)[0].id)
        assert (one, (tmp_path / "one/etc/hostname").read_text()) == (1, "yellow1\n")
        with pytest.raises(InputError, match=r"nothing in snapshot [0-9a-f]+ is called /etc/nonesuch"):
            restore(of, tmp_path / "none", include=["/etc/nonesuch"])
        with pytest.raises(InputError, match="is not an empty directory"):
            restore(of, tmp_path / "one")
        assert (tmp_path / "one").stat().st_mode & 0o777 == 0o700

        packs = fleet.store / "yellow1/data"
        shutil.move(packs, fleet.home / "data")
        with pytest.raises(CommandError):
            restore(of, tmp_path / "stopped")
        shutil.move(fleet.home / "data", packs)
        with pytest.raises(InputError, match="is not an empty directory"):  # goes on, and with nothing else
            restore(of, tmp_path / "stopped", include=["/etc"])
        restore(of, tmp_path / "stopped")
        assert file_digest(tmp_path / "stopped/var/lib/pibuild/app/data.db") == before["data.db"]
        assert {path.name for path in (tmp_path / "stopped").iterdir()} == {"etc", "var"}


OWNED = ("shadow", "group", "hosts", "timezone", "rancher/k3s/config.yaml", "tuned.conf")  # by an image


def _fill_etc(etc: Path) -> Path:
    """Make an image's /etc, with what only this image has and what every image has; return a directory of links."""
    for name in (*OWNED, "old-package.conf", "motd"):
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        (etc / name).write_text("of every image\n" if name == "motd" else f"{name} of the old image\n")
    wants = etc / "systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "old.service").symlink_to("/usr/lib/systemd/system/old.service")
    return wants


def test_a_recovery_leaves_what_a_new_image_and_the_inventory_own(fleet: Fleet) -> None:
    """Onto a root of another image: the person's changes and the node's data come back, the old image does not."""
    program, restore_on_node = "/usr/local/lib/pibuild/backup-baseline", "/usr/local/sbin/pibuild-restore"
    etc = fleet.root("yellow1") / "etc"
    wants = _fill_etc(etc)
    first = fleet.on("yellow1", program, "write")
    assert first.returncode == 0, first.stdout

    fill(fleet.root("yellow1"))
    for name in ("passwd", "shadow", "hosts", "tuned.conf", "fstab"):
        (etc / name).write_text(f"{name}, changed by a person\n")
    (etc / "app").mkdir(mode=0o750)
    os.chown(etc / "app", 0, 1000)
    (etc / "app/a person's [own] $HOME.conf").write_text("mine\n")
    (etc / "app/link").symlink_to("../tuned.conf")
    (wants / "mine.service").symlink_to("/etc/systemd/system/mine.service")
    assert fleet.on("yellow1", program, "write").returncode == 0  # a later boot changes nothing
    with fleet.served():
        assert fleet.back_up("yellow1").returncode == 0
        fleet.renew_image({"motd": "of every image\n"} | {name: f"{name} of the new image\n" for name in OWNED})
        new = fleet.root("yellow1")
        assert new != etc.parent
        before = {name: (new / "etc" / name).read_text() for name in (*OWNED[:5], "passwd", "fstab", "hostname")}
        assert fleet.on("yellow1", program, "write").returncode == 0
        (new / "etc/motd").write_text("spoilt since\n")
        asked = fleet.on("yellow1", restore_on_node, "--in-place")
        assert (asked.returncode, (new / "etc/app").exists()) == (2, False), asked.stdout
        assert "comes back: /etc/tuned.conf" in asked.stdout
        assert "left alone, it is this root's: /etc/passwd" in asked.stdout
        for more in ((), ("--include", "/etc"), ("--include", "/etc/fstab", "--include", "/etc/passwd")):
            done = fleet.on("yellow1", restore_on_node, "--in-place", "--yes", *more)
            assert done.returncode == 0, done.stdout
            assert {name: (new / "etc" / name).read_text() for name in before} == before
            assert not (new / "etc/old-package.conf").exists()
        assert not (new / "etc/systemd/system/multi-user.target.wants/old.service").is_symlink()
        assert (new / "etc/systemd/system/multi-user.target.wants/mine.service").is_symlink()
        assert (new / "etc/tuned.conf").read_text() == "tuned.conf, changed by a person\n"
        assert (new / "etc/motd").read_text() == "of every image\n"
        assert (new / "etc/app/a person's [own] $HOME.conf").read_text() == "mine\n"
        assert (new / "etc/app/link").readlink() == Path("../tuned.conf")
        assert ((new / "etc/app").stat().st_mode & 0o777, (new / "etc/app").stat().st_gid) == (0o750, 1000)
        assert (new / "var/lib/pibuild/app/data.db").stat().st_size == 8 << 20
        (new / "etc/tuned.conf").write_text("again\n")
        one = fleet.on("yellow1", restore_on_node, "--in-place", "--yes", "--include", "/etc/old-package.conf")
        assert one.returncode == 0, one.stdout
        assert (new / "etc/old-package.conf").read_text() == "old-package.conf of the old image\n"
        assert (new / "etc/tuned.conf").read_text() == "again\n"
    alone = fleet.on("yellow1", "setpriv", "--reuid=65534", "--clear-groups", restore_on_node, "--list")
    assert (alone.returncode, "needs root" in alone.stdout) == (3, True), alone.stdout
    assert "sudo pibuild-restore --list" in alone.stdout


def test_an_unchanged_second_run_adds_next_to_nothing_and_models_are_not_in_it(fleet: Fleet) -> None:
    root = fleet.root("yellow1")
    fill(root)
    with fleet.served():
        assert fleet.back_up("yellow1").returncode == 0
        first, stored = fleet.metrics("yellow1"), tree_size(fleet.store / "yellow1")
        assert fleet.back_up("yellow1").returncode == 0
        second, after = fleet.metrics("yellow1"), tree_size(fleet.store / "yellow1")
        listed = fleet.restic("yellow1", "ls", "latest").stdout.splitlines()
    added = [int(figures['edge_backup_added_bytes{job_name="system"}']) for figures in (first, second)]
    note(f"\nbackup: {stored} bytes stored after the first run, {after - stored} more after an unchanged second")
    note(f"backup: restic added {added[0]} bytes, then {added[1]}; 32 MiB of models on the node")
    assert 8 << 20 < stored < 10 << 20
    assert after - stored < 4096
    assert added[1] < added[0] / 1000
    assert {"/etc/hostname", "/var/lib/models/jen/pointer.json", "/var/lib/models/jen/current"} < set(listed)
    for kept_out in ("model.bin", ".gguf", "/etc/restic", "/etc/machine-id", "ssh_host_"):
        assert not [path for path in listed if kept_out in path], kept_out


def test_a_node_can_neither_delete_its_history_nor_read_anothers(fleet: Fleet) -> None:
    with fleet.served():
        for node in ("yellow1", "yellow2"):
            assert fleet.back_up(node).returncode == 0
        assert fleet.back_up("yellow1").returncode == 0
        files = {path for path in (fleet.store / "yellow1").rglob("*") if path.is_file() and "locks" not in path.parts}
        fleet.restic("yellow1", "forget", "--keep-last", "1", "--prune")
        fleet.restic("yellow1", "key", "remove", next((fleet.store / "yellow1/keys").iterdir()).name)
        (snapshot, _) = (path.name for path in (fleet.store / "yellow1/snapshots").iterdir())
        mine = {"user": "yellow1", "password": fleet.secret("yellow1", "restic-http-password")}
        assert answer(fleet, "DELETE", f"/yellow1/snapshots/{snapshot}", **mine) == 403
        assert answer(fleet, "DELETE", "/yellow1/", **mine) >= 400
        assert answer(fleet, "POST", "/yellow1/config", **mine) >= 400
        assert files <= set((fleet.store / "yellow1").rglob("*"))
        assert len(snapshots(repository(fleet.inventory, fleet.netboot, fleet.inventory.node("yellow1")))) == 2
        assert fleet.on_store("yellow1", "check", "--read-data").returncode == 0

        assert answer(fleet, "GET", "/yellow1/config", **mine) == 200
        assert answer(fleet, "GET", "/yellow2/config", **mine) in (401, 403)
        assert answer(fleet, "GET", "/yellow2/keys/", **mine) in (401, 403)
        assert answer(fleet, "GET", "/yellow1/config") == 401
        theirs = fleet.restic("yellow1", "--repo", f"rest:http://127.0.0.1:{fleet.port}/yellow2/", "snapshots")
        assert theirs.returncode != 0
        assert re.search(r"40[13]", theirs.stdout)


def test_a_rotated_out_password_opens_nothing(fleet: Fleet) -> None:
    node = fleet.inventory.node("yellow1")
    with fleet.served() as gateway:
        assert fleet.back_up("yellow1").returncode == 0
        old = repository(fleet.inventory, fleet.netboot, node)
        other = fleet.secret("yellow2", "restic-password")
        done = rotate(fleet.inventory, fleet.netboot, node, gateway=gateway)
        assert (done.repository, done.roots, done.removed, done.pushed) == (True, 1, 1, False)

        new = repository(fleet.inventory, fleet.netboot, node)
        assert old.password != new.password
        assert old.keys["RESTIC_REST_PASSWORD"] != new.keys["RESTIC_REST_PASSWORD"]
        for stale in (old, replace(old, keys=new.keys), replace(new, keys=old.keys)):
            with pytest.raises(CommandError, match=r"wrong password|401"):
                snapshots(stale)
        assert fleet.on_store("yellow1", "snapshots", password=old.password).returncode == WRONG_PASSWORD
        assert len(list((fleet.store / "yellow1/keys").iterdir())) == 1
        assert fleet.back_up("yellow1").returncode == 0
        assert len(snapshots(new)) == 2
        assert fleet.secret("yellow2", "restic-password") == other
        assert fleet.back_up("yellow2").returncode == 0
    assert not list((fleet.netboot.state / "yellow1").glob("*.next"))


def test_a_node_takes_its_passwords_whole_or_not_at_all(fleet: Fleet) -> None:
    etc = fleet.root("yellow1") / "etc/restic"
    before = {path.name: path.read_text() for path in etc.iterdir()}
    assert fleet.on("yellow1", BACKUP, "secrets").returncode == 65
    assert {path.name: path.read_text() for path in etc.iterdir()} == before
    assert fleet.on("yellow1", BACKUP, "secrets", stdin=b"new\nRESTIC_REST_USERNAME=a\nB=c\n").returncode == 0
    after = {path.name: (path.read_text(), path.stat().st_mode & 0o777) for path in etc.iterdir()}
    assert after == {"password": ("new\n", 0o600), "keys": ("RESTIC_REST_USERNAME=a\nB=c\n", 0o600)}


def test_a_rotation_that_was_stopped_is_finished_by_the_next(fleet: Fleet) -> None:
    node = fleet.inventory.node("yellow1")
    with fleet.served() as gateway:
        assert fleet.back_up("yellow1").returncode == 0
        old = repository(fleet.inventory, fleet.netboot, node)
        broken = Gateway(environment={**gateway.environment, "GATEWAY_ETC": "/nonexistent"})
        with pytest.raises(CommandError, match="on the gateway"):
            rotate(fleet.inventory, fleet.netboot, node, gateway=broken)
        assert len(snapshots(old)) == 1  # nothing was taken away
        users = fleet.home / "gateway/users.htpasswd"
        let_in = users.read_text()
        retiring = Gateway(environment={**gateway.environment, "GATEWAY_STORE": "/nonexistent"})
        with pytest.raises(CommandError, match="no repository"):  # as far as the state, the old key still there
            rotate(fleet.inventory, fleet.netboot, node, gateway=retiring)
        assert users.read_text() != let_in
        assert len(list((fleet.store / "yellow1/keys").iterdir())) == 2
        for _ in range(2):  # nor does one that cannot remove the old keys add to them
            with pytest.raises(CommandError, match="no repository"):
                rotate(fleet.inventory, fleet.netboot, node, gateway=retiring)
        assert len(list((fleet.store / "yellow1/keys").iterdir())) == 2
        assert rotate(fleet.inventory, fleet.netboot, node, gateway=gateway).removed == 2
        assert fleet.on_store("yellow1", "snapshots", password=old.password).returncode == WRONG_PASSWORD
        assert fleet.back_up("yellow1").returncode == 0


def leave_a_lock(fleet: Fleet, host: str) -> None:
    """Kill a restic of some machine while it has yellow1's repository locked."""
    locks = fleet.store / "yellow1/locks"
    reading, writing = os.pipe()
    script = f'hostname {host}; exec "$0" -r "$1" --no-cache backup --stdin --host yellow1 </dev/fd/{reading}'
    argv: list[str | Path] = [
        "unshare",
        "--uts",
        "sh",
        "-c",
        script,
        fleet.local / "bin/restic.real",
        fleet.store / "yellow1",
    ]
    before, env = set(locks.iterdir()), {"RESTIC_PASSWORD": fleet.secret("yellow1", "restic-password")}
    with spawn(argv, env=env, pass_fds=[reading]) as process:
        deadline = time.monotonic() + 20
        while not any(len(path.name) == 64 for path in set(locks.iterdir()) - before):  # whole, under its sha256
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_locks_that_kills_and_power_cuts_left_keep_no_old_key(fleet: Fleet) -> None:
    node = fleet.inventory.node("yellow1")
    with fleet.served() as gateway:
        assert fleet.back_up("yellow1").returncode == 0
        old = repository(fleet.inventory, fleet.netboot, node)
        leave_a_lock(fleet, "yellow1")  # of a node that lost its power, and may be at it for all that anybody knows
        leave_a_lock(fleet, socket.gethostname())
        assert rotate(fleet.inventory, fleet.netboot, node, gateway=gateway).removed == 1
        assert len(list((fleet.store / "yellow1/keys").iterdir())) == 1
        assert len(list((fleet.store / "yellow1/locks").iterdir())) == 1  # what this machine left is gone
        assert fleet.on_store("yellow1", "snapshots", password=old.password).returncode == WRONG_PASSWORD
        assert fleet.back_up("yellow1").returncode == 0


def test_without_a_gateway_a_locked_repository_gets_no_further_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    fleet = make_fleet(tmp_path, repository=str(store))
    node = fleet.inventory.node("yellow1")
    store.mkdir(exist_ok=True)
    first = fleet.secret("yellow1", "restic-password")
    made = fleet.on_store("yellow1", "init", "--repository-version", "1", password=first)
    assert made.returncode == 0, made.stderr
    leave_a_lock(fleet, "yellow1")
    monkeypatch.setattr(backup_rotate, "_IN_USE", 0.2)
    for _ in range(3):
        with pytest.raises(HostError, match="is in use"):
            rotate(fleet.inventory, fleet.netboot, node, gateway=None)
        assert len(list((store / "yellow1/keys").iterdir())) == 2
    for lock in (store / "yellow1/locks").iterdir():
        lock.unlink()
    leave_a_lock(fleet, socket.gethostname())
    assert rotate(fleet.inventory, fleet.netboot, node, gateway=None).removed == 2
    assert fleet.on_store("yellow1", "snapshots", password=first).returncode == WRONG_PASSWORD


def test_whom_the_gateway_lets_in_after_a_rotation_that_failed(fleet: Fleet) -> None:
    node = fleet.inventory.node("yellow1")
    with fleet.served() as gateway:
        assert fleet.back_up("yellow1").returncode == 0
        shutil.move(fleet.store / "yellow1/keys", fleet.home / "keys")
        with pytest.raises(HostError, match="does not open"):
            rotate(fleet.inventory, fleet.netboot, node, gateway=gateway)
        shutil.move(fleet.home / "keys", fleet.store / "yellow1/keys")
        let_in(fleet.inventory, fleet.netboot, gateway)
        done = fleet.back_up("yellow1")
        assert done.returncode == 0, done.stdout
        gateway.call("upkeep")
        broken = Gateway(environment={**gateway.environment, "GATEWAY_ETC": "/nonexistent"})
        with pytest.raises(CommandError, match="on the gateway"):  # by now the node has the new ones
            rotate(fleet.inventory, fleet.netboot, node, gateway=broken)
        let_in(fleet.inventory, fleet.netboot, gateway)
        assert fleet.back_up("yellow1").returncode == 0
        assert rotate(fleet.inventory, fleet.netboot, node, gateway=gateway).removed == 1
        let_in(fleet.inventory, fleet.netboot, gateway)
        assert fleet.back_up("yellow1").returncode == 0


def test_a_repository_below_a_nodes_own_is_seen(fleet: Fleet) -> None:
    with fleet.served() as gateway:
        assert fleet.back_up("yellow1").returncode == 0
        gateway.call("upkeep")
        mine = {"user": "yellow1", "password": fleet.secret("yellow1", "restic-http-password")}
        assert answer(fleet, "POST", "/yellow1/sub/?create=true", **mine) == 200
        with pytest.raises(CommandError, match=r"yellow1/sub is no part of a repository"):
            gateway.call("upkeep")
        figures = read_metrics(fleet.home / "textfile/backup-gateway.prom")
        assert figures['edge_backup_gateway_exit_code{repository="yellow1"}'] == 65


def test_a_store_that_was_not_mounted_is_opened_again_by_the_next_rotation(fleet: Fleet) -> None:
    node = fleet.inventory.node("yellow1")
    with fleet.served() as gateway:
        assert fleet.back_up("yellow1").returncode == 0
        shutil.move(fleet.store / "yellow1", fleet.home / "elsewhere")
        for _ in range(2):
            assert not rotate(fleet.inventory, fleet.netboot, node, gateway=gateway).repository
        shutil.rmtree(fleet.store / "yellow1", ignore_errors=True)
        shutil.move(fleet.home / "elsewhere", fleet.store / "yellow1")
        assert fleet.back_up("yellow1").returncode == WRONG_PASSWORD
        assert rotate(fleet.inventory, fleet.netboot, node, gateway=gateway).removed == 1
        assert fleet.back_up("yellow1").returncode == 0
    assert not (fleet.netboot.state / "yellow1/restic-password.before").exists()


def test_what_fails_is_told_and_the_next_run_is_whole(fleet: Fleet) -> None:
    root = fleet.root("yellow1")
    away = fleet.back_up("yellow1", BACKUP_PATIENCE="3")  # nothing listens
    assert away.returncode not in (0, NO_REPOSITORY)
    assert fleet.metric("yellow1", "last_exit_code") == away.returncode
    assert 'edge_backup_last_success_timestamp_seconds{job_name="system"}' not in fleet.metrics("yellow1")
    with socket.create_server(("127.0.0.1", fleet.port)):  # takes connections, answers nothing
        hung = fleet.back_up("yellow1", BACKUP_PATIENCE="2")
    assert (hung.returncode, fleet.metric("yellow1", "last_exit_code")) == (NO_ANSWER, NO_ANSWER)
    assert hung.seconds < 20

    with fleet.served():
        assert fleet.back_up("yellow1").returncode == 0
        succeeded = fleet.metric("yellow1", "last_success_timestamp_seconds")
        (root / "etc/pibuild/backup.paths").write_text("/var/lib/forgotten\n")
        missing = fleet.back_up("yellow1")
        assert missing.returncode == NO_INPUT
        assert "/var/lib/forgotten is to be backed up and is not there" in missing.stdout
        assert fleet.metric("yellow1", "last_success_timestamp_seconds") == succeeded
        (root / "etc/pibuild/backup.paths").unlink()

        password = (root / "etc/restic/password").read_text()
        (root / "etc/restic/password").write_text("wrong\n")
        assert fleet.back_up("yellow1").returncode == WRONG_PASSWORD
        assert fleet.metric("yellow1", "last_exit_code") == WRONG_PASSWORD
        (root / "etc/restic/password").write_text(password)

        shutil.move(fleet.store / "yellow1", fleet.home / "elsewhere")
        gone = fleet.back_up("yellow1")
        assert gone.returncode == NO_REPOSITORY
        assert "the repository this node has backed up to is gone" in gone.stdout
        shutil.move(fleet.home / "elsewhere", fleet.store / "yellow1")
        assert fleet.back_up("yellow1").returncode == 0
        assert fleet.metric("yellow1", "last_exit_code") == 0
        assert fleet.metric("yellow1", "last_success_timestamp_seconds") >= succeeded
    checked = fleet.on("yellow1", "/bin/sh", "-c", "cat /run/node-textfile/backup.prom").stdout.encode()
    promtool = program("promtool", "usr/bin/promtool")
    assert run([promtool, "check", "metrics"], input=checked, check=False).returncode == 0
    assert not list((fleet.home / "textfile/yellow1").glob(".*"))  # no half-written file is left


def test_the_gateway_forgets_prunes_and_checks(fleet: Fleet) -> None:
    now = datetime.now(UTC)
    with fleet.served() as gateway:
        assert fleet.back_up("yellow1").returncode == 0
        for days in (1, 2, 3, 20, 21, 27, 40, 41, 42):
            when = (now - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S")
            fleet.on_store("yellow1", "backup", "--quiet", "--host", "yellow1", "--time", when, "/etc/hostname")
        kept_before = len(list((fleet.store / "yellow1/snapshots").iterdir()))
        gateway.call("upkeep")
        kept = len(list((fleet.store / "yellow1/snapshots").iterdir()))
        figures = read_metrics(fleet.home / "textfile/backup-gateway.prom")
        assert figures['edge_backup_gateway_exit_code{repository="yellow1"}'] == 0
        assert figures['edge_backup_gateway_bytes{repository="yellow1"}'] > 1000
        note(f"\nbackup: {kept} of {kept_before} daily snapshots kept")
        assert kept_before == 10
        assert 6 <= kept <= 9  # a week's days, the weeks of a month, the months of a year, the very first
        assert fleet.back_up("yellow1").returncode == 0

        # a node that somebody has taken over dates a backup into the future, so that all others be too old
        fleet.restic("yellow1", "backup", "--host", "yellow1", "--time", "2090-01-01 00:00:00", "/etc/hostname")
        before = len(list((fleet.store / "yellow1/snapshots").iterdir()))
        with pytest.raises(CommandError, match="snapshot of the future"):
            gateway.call("upkeep")
        assert len(list((fleet.store / "yellow1/snapshots").iterdir())) == before == kept + 2


def test_a_repository_on_a_path_is_kept_by_the_node_itself(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, repository="/var/store", paths=["/home/ubuntu"], exclude=["*.tmp"])
    root = fleet.root("yellow1")
    (root / "home/ubuntu/kept").write_text("kept")
    (root / "home/ubuntu/left.tmp").write_text("left")
    for _ in range(3):
        done = fleet.back_up("yellow1")
        assert done.returncode == 0, done.stdout
    assert fleet.metric("yellow1", "upkeep_exit_code") == 0
    assert len(list((root / "var/store/yellow1/snapshots").iterdir())) == 2  # the last of a day, and the very first
    assert (root / "var/lib/pibuild/backup/checked").exists()
    listed = fleet.restic("yellow1", "ls", "latest").stdout.splitlines()
    assert "/home/ubuntu/kept" in listed
    assert "/home/ubuntu/left.tmp" not in listed


def test_over_tls_a_node_trusts_the_gateways_certificate_alone(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path, repository="rest:https://127.0.0.1:PORT")
    node = fleet.inventory.node("yellow1")
    with fleet.served() as gateway:
        strange = fleet.back_up("yellow1", BACKUP_PATIENCE="5")  # exploded before there was a certificate
        assert strange.returncode != 0
        assert "certificate" in strange.stdout
        fleet.explode()
        done = fleet.back_up("yellow1")
        assert done.returncode == 0, done.stdout
        assert rotate(fleet.inventory, fleet.netboot, node, gateway=gateway).removed == 1
        assert fleet.back_up("yellow1").returncode == 0
        assert len(snapshots(repository(fleet.inventory, fleet.netboot, node))) == 2
    key = (fleet.netboot.state / ".cluster/backup-ca.key").read_text()
    assert (fleet.netboot.state / ".cluster/backup-ca.key").stat().st_mode & 0o777 == 0o600
    assert key.strip() not in (fleet.root("yellow1") / "etc/pibuild/backup-ca.pem").read_text()


def test_a_bucket_holds_backups_and_rotated_keys_leave_it(tmp_path: Path) -> None:
    """S3 as moto's server speaks it; the bucket's keys are what a person has put into the node's state."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        requests.post(f"http://127.0.0.1:{port}/moto-api/reset", timeout=10)  # what another test has left
        requests.put(f"http://127.0.0.1:{port}/backups", timeout=10)
        fleet = make_fleet(tmp_path, repository=f"s3:http://127.0.0.1:{port}/backups")
        node = fleet.inventory.node("yellow1")
        given = "AWS_ACCESS_KEY_ID=key\nAWS_SECRET_ACCESS_KEY=hu+sh/=\n"
        (fleet.netboot.state / "yellow1/restic-keys").write_text(given)
        first = rotate(fleet.inventory, fleet.netboot, node, gateway=None)
        assert (first.repository, first.roots, first.removed) == (False, 1, 0)
        done = fleet.back_up("yellow1")
        assert done.returncode == 0, done.stdout
        old = repository(fleet.inventory, fleet.netboot, node)
        assert rotate(fleet.inventory, fleet.netboot, node, gateway=None).removed == 1
        with pytest.raises(CommandError, match="wrong password"):
            snapshots(old)
        done = fleet.back_up("yellow1")
        assert done.returncode == 0, done.stdout
        assert fleet.metric("yellow1", "upkeep_exit_code") == 0
        of = repository(fleet.inventory, fleet.netboot, node)
        assert restore(of, tmp_path / "back", include=["/etc/hostname"]) == 1
    finally:
        server.stop()


def test_a_node_without_a_repository_does_nothing(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path)
    (fleet.root("yellow1") / "etc/pibuild/backup.env").write_text("")
    assert fleet.back_up("yellow1").returncode == 78
    assert not list((fleet.home / "textfile/yellow1").iterdir())


UNITS = ("pibuild-backup.service", "pibuild-backup-upkeep.service", "restic-rest-server.service")


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the units of both parts, over Debian's unit of the server."""
    root = tmp_path_factory.mktemp("units")
    shutil.copytree(unpacked("restic-rest-server") / "usr/lib/systemd", root / "usr/lib/systemd")
    for part in ("backup", "backup-gateway"):
        shutil.copytree(PROJECT / "overlays" / part / "etc", root / "etc", dirs_exist_ok=True)
        shutil.copytree(PROJECT / "overlays" / part / "usr", root / "usr", dirs_exist_ok=True)
    return root


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_shut_in(unit: str, units: Path) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=25", f"--root={units}", unit]
    done = run(argv, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_systemd_understands_every_line_of_the_units(units: Path) -> None:
    timers = ("pibuild-backup.timer", "pibuild-backup-upkeep.timer")
    paths = [units / "etc/systemd/system" / name for name in (*UNITS[:2], *timers)]
    done = run(["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", *paths], check=False, merge=True)
    assert [line for line in done.stdout.splitlines() if "is not executable" not in line] == []
