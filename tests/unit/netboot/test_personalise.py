"""A node's own files, rendered from the lab's inventory and a small generation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import InputError
from builder.firmware.cmdline_txt import split
from builder.inventory.load import load_inventory
from builder.inventory.settled import changed
from builder.netboot.diskless import cmdline_for_nfs, cmdline_left_out, fstab_without_disks
from builder.netboot.generation import Generation
from builder.netboot.layout import Netboot
from builder.netboot.once import Once
from builder.netboot.personalise import (
    NodeFile,
    Subject,
    left_out,
    lint_cmdline,
    personalise,
)
from builder.netboot.state import NodeState, StateFile, machine_id

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    home = tmp_path / "generations/0123456789ab"
    for name in ("root/etc", "root/usr/share/zoneinfo/Europe", "boot"):
        (home / name).mkdir(parents=True)
    (home / "root/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n")
    (home / "root/etc/fstab").write_text("LABEL=r / ext4 defaults 0 1\n")
    (home / "root/usr/share/zoneinfo/Europe/Athens").write_text("tz")
    (home / "boot/cmdline.txt").write_text("console=tty0 root=LABEL=r rootwait\n")
    (tmp_path / "cluster.yaml").write_text((PROJECT / "cluster.yaml").read_text())
    inventory = load_inventory(tmp_path / "cluster.yaml")
    return Subject(
        inventory=inventory,
        node=inventory.node("yellow3"),
        generation=Generation(
            directory=home, sha256="0123456789ab" + "0" * 52, boot_mount="/boot/firmware", capabilities={}
        ),
        netboot=Netboot(Path("/srv/netboot")),
        state=NodeState(
            machine_id=machine_id("c0a3cab4"),
            login_key="ssh-ed25519 AAAA login node",
            files=(StateFile(path="/etc/restic/password", content=b"hush\n", mode=0o600),),
        ),
        shared=False,
    )


def files_of(subject: Subject) -> Mapping[str, NodeFile]:
    return {file.path: file for file in personalise(replace(subject, once=Once())).files}


def text_of(subject: Subject, path: str) -> str:
    return files_of(subject)[path].content.decode()


def test_hosts_resolve_the_node_itself_and_every_other(subject: Subject) -> None:
    lines = text_of(subject, "/etc/hosts").splitlines()
    assert "127.0.1.1 yellow3" in lines
    assert "192.168.2.2 mlops-master mlops_master" in lines
    assert not any(line.startswith("192.168.2.30 ") for line in lines)
    assert len([line for line in lines if line.startswith("192.168.2.")]) == 18


def test_no_two_nodes_share_the_name_that_they_go_to_storage_by(subject: Subject) -> None:
    """Whatever the image has there; and it outlives the root, as access lists on the other side name it."""
    name = "/etc/iscsi/initiatorname.iscsi"
    assert name not in files_of(subject)
    for path, text in (("usr/sbin/iscsi-iname", ""), (name[1:], "InitiatorName=iqn.1993-08.org.debian:01:0a\n")):
        (subject.generation.root / path).parent.mkdir(parents=True, exist_ok=True)
        (subject.generation.root / path).write_text(text)
    other = replace(subject, state=replace(subject.state, machine_id=machine_id("c0a3cab5")))
    shared = replace(subject, shared=True)
    one, two, over = (files_of(each)[name] for each in (subject, other, shared))
    assert one.content.startswith(b"InitiatorName=iqn.1993-08.org.debian:01:")
    assert one.content == over.content != two.content
    assert one.mode == 0o600


def test_the_login_nodes_key_opens_the_user(subject: Subject) -> None:
    file = files_of(replace(subject, keys=("ssh-ed25519 BBBB person",)))["/home/ubuntu/.ssh/authorized_keys"]
    assert file.content == b"ssh-ed25519 AAAA login node\nssh-ed25519 BBBB person\n"
    assert (file.uid, file.gid, file.mode) == (1000, 1000, 0o600)


def test_an_image_without_the_user_is_refused(subject: Subject) -> None:
    with pytest.raises(InputError, match="no user 'kalisperas'"):
        personalise(replace(subject, node=replace(subject.node, user="kalisperas")))


def test_a_time_zone_that_is_none_is_refused(subject: Subject) -> None:
    (subject.generation.root / "usr/share/zoneinfo/Europe/Athens").unlink()
    with pytest.raises(InputError, match="no time zone 'Europe/Athens'"):
        personalise(subject)


def test_cmdline_and_fstab_name_the_root_they_belong_to(subject: Subject) -> None:
    made = personalise(subject)
    assert made.name.startswith("0123456789ab-")
    assert made.cmdline == (
        f"console=tty0 root=/dev/nfs nfsroot=192.168.2.1:/srv/netboot/roots/yellow3/{made.name},vers=3,tcp,hard,noacl"
        " rw ip=dhcp cgroup_enable=cpuset cgroup_memory=1 cgroup_enable=memory\n"
    )
    boot = f"192.168.2.1:/srv/netboot/tftp/boot/yellow3/{made.name}"
    options = "vers=3,tcp,nolock,noacl,nofail,_netdev"
    assert text_of(subject, "/etc/fstab") == f"{boot} /boot/firmware nfs {options} 0 0\n"


def test_the_name_depends_on_what_is_not_secret_alone(subject: Subject) -> None:
    other = StateFile(path="/etc/restic/password", content=b"other\n", mode=0o600)
    changed = replace(subject, state=replace(subject.state, files=(other,)))
    assert personalise(changed).name == personalise(subject).name
    assert personalise(replace(subject, salt="again")).name != personalise(subject).name
    assert personalise(replace(subject, keys=("ssh-ed25519 B b",))).name != personalise(subject).name


def test_templates_of_the_users_own_win_from_general_to_particular(subject: Subject) -> None:
    overlays = subject.inventory.path.parent / "overlays"
    for name, text in (
        ("node", "all"),
        ("node-role/worker", "{{ node.role }}"),
        ("node-name/yellow3", "{{ node.name }}"),
    ):
        (overlays / name / "etc").mkdir(parents=True)
        (overlays / name / "etc/motd.j2").write_text(text)
    (overlays / "node/etc/link").symlink_to("../elsewhere")
    assert text_of(subject, "/etc/motd") == "yellow3"
    assert text_of(replace(subject, node=subject.inventory.node("green1")), "/etc/motd") == "worker"
    assert files_of(subject)["/etc/link"].link == "../elsewhere"


@pytest.mark.parametrize(
    ("text", "told"), [("{{ nobody }}", "'nobody' is undefined"), ("{% if %}", "Expected an expression")]
)
def test_a_template_that_cannot_be_rendered_is_named(subject: Subject, text: str, told: str) -> None:
    template = subject.inventory.path.parent / "overlays/node/etc/motd.j2"
    template.parent.mkdir(parents=True)
    template.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        personalise(subject)
    assert caught.value.problems[0].mark is not None
    assert caught.value.problems[0].mark.file == template


@pytest.mark.parametrize("config", ["", "snapshotter: overlayfs\n", "node-name: x\n"])
def test_containers_overlayfs_on_nfs_is_refused(subject: Subject, config: str) -> None:
    template = subject.inventory.path.parent / "overlays/node-name/yellow3/etc/rancher/k3s/config.yaml"
    template.parent.mkdir(parents=True)
    template.write_text(config)
    with pytest.raises(InputError, match="overlayfs on an NFS root") as caught:
        personalise(subject)
    assert "fuse-overlayfs" in caught.value.problems[0].hint
    fstab = subject.generation.root / "etc/fstab"
    fstab.write_text("/dev/nbd0 /var/lib/rancher ext4 defaults 0 0\n")
    assert personalise(replace(subject, once=Once())).name


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (b"node-label: [\n", "config.yaml: line 2: "),
        (b"1: x\n", "config.yaml: no mapping of options to values"),
        (b"- snapshotter\n", "config.yaml: no mapping of options to values"),
        (b"node-name: \xff\n", "config.yaml: no YAML"),
        (b"node-name: " + b"[" * 3000, "config.yaml: "),
        (b"node-name: 2026-13-45\n", "config.yaml: month must be in 1..12"),
    ],
)
def test_a_configuration_that_k3s_cannot_read_is_refused(subject: Subject, config: bytes, told: str) -> None:
    template = subject.inventory.path.parent / "overlays/node-name/yellow3/etc/rancher/k3s/config.yaml"
    template.parent.mkdir(parents=True)
    template.write_bytes(config)
    with pytest.raises(InputError) as caught:
        personalise(subject)
    assert told in caught.value.problems[0].message


@pytest.mark.parametrize("path", ["root/etc/fstab", "root/etc/passwd", "boot/cmdline.txt"])
def test_an_images_file_that_claims_any_size_is_not_read_whole(subject: Subject, path: str) -> None:
    with (subject.generation.directory / path).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=f"{path}: longer than 64 MiB"):
        personalise(subject)


def test_an_images_line_of_fstab_may_be_short(subject: Subject) -> None:
    template = subject.inventory.path.parent / "overlays/node-name/yellow3/etc/rancher/k3s/config.yaml"
    template.parent.mkdir(parents=True)
    template.write_text("snapshotter: overlayfs\n")
    (subject.generation.root / "etc/fstab").write_text("/dev/sda1 /var/lib/rancher\n")
    assert personalise(subject).name


def test_a_worker_joins_its_master(subject: Subject) -> None:
    config = text_of(subject, "/etc/rancher/k3s/config.yaml")
    assert "server: https://192.168.2.2:6443\n" in config
    assert "snapshotter: fuse-overlayfs\n" in config
    assert '  - "cable=yellow"\n' in config


def test_a_node_is_told_of_its_models_or_of_none(subject: Subject) -> None:
    paths = [f"/etc/pibuild/models.{kind}" for kind in ("json", "signers")]
    assert [text_of(subject, path) for path in paths] == ["", ""]  # the unit's condition is a file that is not empty
    path = subject.inventory.path
    text = path.read_text().replace("  nfs: {server", "  models: {store: https://models.example.org/}\n  nfs: {server")
    path.write_text(text.replace("  worker:\n", '  worker:\n    models: {jen: "3"}\n'))
    inventory = load_inventory(path)
    told = replace(subject, inventory=inventory, node=inventory.node("yellow3"))
    assert json.loads(text_of(told, paths[0])) == {
        "store": "https://models.example.org/",
        "models": {"jen": "3"},
        "window": {"start": "01:00", "length": 14400},
        "boot_delay": 158,
        "limit": 0,
        "signed": True,
    }
    assert text_of(told, paths[1]) == 'publisher namespaces="pibuild-model" ssh-ed25519 AAAA login node\n'
    timer = text_of(told, "/etc/systemd/system/pibuild-models.timer.d/window.conf")
    assert "OnCalendar=\nOnCalendar=*-*-* 03:31:38\n" in timer


def test_machine_ids_are_those_of_the_serial() -> None:
    assert machine_id("c0a3cab4") == "355aeb8ccdf750beba12bdb2bd314016"
    assert machine_id("c0a3cab5") != machine_id("c0a3cab4")


def test_fstab_loses_disks_and_nothing_else() -> None:
    disks = "LABEL=r / ext4 x 0 1\nLABEL=b /boot/firmware vfat x 0 2\n/swap none swap sw 0 0\n"
    text = f"# note\n{disks}tmpfs /tmp tmpfs x 0 0\n"
    kept = fstab_without_disks(text, "/boot/firmware")
    assert (kept.lines, kept.left_out) == (("# note", "tmpfs /tmp tmpfs x 0 0"), ())


@pytest.mark.parametrize(
    "spec",
    [
        *("LABEL=data", "UUID=1-2", "PARTUUID=deadbeef-03", 'PARTLABEL="data"', "ID=ata-x"),
        *(
            "/dev/sda1",
            "/dev/mmcblk0p3",
            "/dev/nvme0n1p1",
            "/dev/disk/by-label/data",
            "/dev/mapper/vg-data",
            "/dev/vg/data",
        ),
    ],
)
@pytest.mark.parametrize("options", ["defaults", "rw,x-systemd.device-timeout=9", "noatime,nofailure"])
def test_a_partition_that_a_diskless_node_would_wait_for_is_left_out_and_said(spec: str, options: str) -> None:
    kept = fstab_without_disks(f"proc /proc proc defaults\n{spec} /data ext4 {options} 0 2\n", "/boot")
    assert kept.lines == ("proc /proc proc defaults",)
    assert [f"{spec} at /data is left out" in told for told in kept.left_out] == [True]


@pytest.mark.parametrize(
    "line",
    [
        "LABEL=k3s /var/lib/rancher ext4 nofail,noatime 0 2",
        "/dev/sda1 /data ext4 noauto 0 2",
        "LABEL=x /data ext4 defaults,x-systemd.automount",
        "/dev/zram0 /tmp ext4 defaults 0 0",
        "192.168.2.1:/srv /srv nfs defaults 0 0",
        "/var/disk.img /mnt ext4 loop 0 0",
        "# LABEL=x /data ext4 defaults",
        "LABEL=x /data",
    ],
)
def test_what_nobody_waits_for_stays_in_fstab(line: str) -> None:
    kept = fstab_without_disks(f"{line}\n", "/boot")
    assert (kept.lines, kept.left_out) == ((line,), ())


def test_raspberry_pi_os_does_not_resize_a_disk_it_does_not_have() -> None:
    text = "console=tty1 root=PARTUUID=1-02 rootfstype=ext4 fsck.repair=yes rootwait quiet init=/usr/lib/x/firstboot"
    assert cmdline_for_nfs(text, ["root=/dev/nfs", "rw"]) == "console=tty1 quiet root=/dev/nfs rw\n"


@pytest.mark.parametrize(
    "once",
    [
        "init=/usr/lib/raspi-config/init_resize.sh",
        "init=/usr/lib/raspberrypi-sys-mods/firstboot",
        "init=/sbin/overlayRoot.sh",
        "systemd.run=/boot/firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target",
        'systemd.run="/boot/firmware/firstrun.sh now" systemd.run-failure-action=none',
        "boot=overlay",
        "overlayroot=tmpfs",
    ],
)
def test_what_an_sd_card_does_once_is_left_out_and_said(once: str) -> None:
    text = f"console=tty1 {once} quiet"
    assert cmdline_for_nfs(text, ["root=/dev/nfs", "rw"]) == "console=tty1 quiet root=/dev/nfs rw\n"
    assert [told.split()[1].partition("=")[0] for told in cmdline_left_out(text)] == [
        word.partition("=")[0] for word in split(once)
    ]


@pytest.mark.parametrize(
    "kept",
    ["init=/sbin/init", "init=/usr/lib/systemd/systemd", "systemd.unit=multi-user.target", "boot=nfs", "-- init=x"],
)
def test_words_that_hold_at_every_boot_stay(kept: str) -> None:
    assert (kept in cmdline_for_nfs(f"quiet {kept}", []), cmdline_left_out(kept)) == (True, ())


def test_a_node_may_be_given_an_init_of_its_own() -> None:
    assert cmdline_for_nfs("init=/a quiet", ["rw", "init=/b"]) == "quiet rw init=/b\n"


def test_what_nodes_do_not_take_over_is_told_of_an_image(subject: Subject) -> None:
    (subject.generation.root / "etc/fstab").write_text("LABEL=data /data ext4 defaults 0 2\n")
    (subject.generation.boot / "cmdline.txt").write_bytes(b"\xff init=/usr/lib/raspi-config/init_resize.sh\n")
    told = left_out(subject.generation)
    assert [each.partition(":")[0] for each in told] == ["/etc/fstab", "cmdline.txt"]
    made = personalise(subject)
    assert "init_resize" not in made.cmdline
    assert all(b"LABEL=data" not in file.content for file in made.files)


GOOD = "root=/dev/nfs nfsroot=192.168.2.1:/srv/x,vers=3,tcp rw ip=dhcp"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("vers=3", "vers=4"), "NFS version 3 alone"),
        (GOOD.replace("tcp", "proto=tcp"), "'proto=tcp' is none"),
        (GOOD.replace("tcp", "nconnect=4"), "'nconnect=4' is none"),
        (GOOD.replace("tcp", "actimeo=3"), "'actimeo=3' is none"),
        (GOOD.replace("tcp", "rsize=big"), "'rsize=big' is none"),
        (GOOD.replace(" rw", ""), "'rw' is missing"),
        (GOOD.replace(" ip=dhcp", ""), "ip= is missing"),
        (GOOD.replace("192.168.2.1:", ""), "not SERVER:/PATH"),
        (GOOD.replace("/dev/nfs", "/dev/sda"), "not /dev/nfs"),
    ],
)
def test_a_command_line_that_would_not_boot_is_told(text: str, told: str) -> None:
    assert [problem for problem in lint_cmdline(text) if told in problem] == lint_cmdline(text) != []


def test_a_good_command_line_has_no_complaint() -> None:
    assert lint_cmdline(GOOD) == []
    assert lint_cmdline(GOOD.replace("tcp", "tcp,hard,nolock,timeo=600,rsize=65536")) == []


@given(st.lists(st.from_regex(r"[a-z]{1,8}(=[a-z0-9]{1,5})?", fullmatch=True)))
def test_any_command_line_becomes_a_good_one(words: list[str]) -> None:
    text = cmdline_for_nfs(" ".join(words), GOOD.split())
    assert lint_cmdline(text) == []
    assert cmdline_for_nfs(text, GOOD.split()) == text


# ------------------------------------------------------------------------------------------- k3s, fleet, what is let in


def of_inventory(subject: Subject, old: str, new: str, node: str = "yellow3") -> Subject:
    """Return the subject with another text in the inventory."""
    path = subject.inventory.path
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    inventory = load_inventory(path)
    return replace(subject, inventory=inventory, node=inventory.node(node))


def test_a_master_serves_and_is_patient(subject: Subject) -> None:
    master = replace(subject, node=subject.inventory.node("mlops_master"))
    config = yaml.safe_load(text_of(master, "/etc/rancher/k3s/config.yaml"))
    assert config["node-name"] == "mlops-master"
    assert config["tls-san"] == ["192.168.2.2", "mlops-master"]
    assert config["disable"] == ["servicelb"]  # the inventory has a pool for MetalLB
    assert config["node-taint"] == ["node-role.kubernetes.io/control-plane=true:NoSchedule"]
    assert "request-timeout=5m" in config["kube-apiserver-arg"]
    # a node is lost after a whole number of its reports
    assert "node-monitor-grace-period=180s" in config["kube-controller-manager-arg"]
    assert "node-status-update-frequency=20s" in config["kubelet-arg"]
    worker = yaml.safe_load(text_of(subject, "/etc/rancher/k3s/config.yaml"))
    assert worker["kubelet-arg"] == config["kubelet-arg"]


@pytest.mark.parametrize(("node", "unit"), [("mlops-master", "k3s.service"), ("yellow3", "k3s-agent.service")])
def test_a_node_starts_the_k3s_of_its_role(subject: Subject, node: str, unit: str) -> None:
    files = files_of(replace(subject, node=subject.inventory.node(node)))
    wants = "/etc/systemd/system/multi-user.target.wants"
    enabled = [path for path in files if path.startswith(wants) and "k3s" in path]
    assert enabled == [f"{wants}/{unit}"]
    assert files[enabled[0]].link == f"../{unit}"
    assert (PROJECT / "overlays/k3s/etc/systemd/system" / unit).is_file()


def test_an_option_k3s_does_not_have_is_refused(subject: Subject) -> None:
    wrong = of_inventory(subject, "  worker:\n", "  worker:\n    k3s: {config: {tls-san: [x], node-lable: [a=b]}}\n")
    with pytest.raises(InputError) as caught:
        personalise(wrong)
    where = "node yellow3: /etc/rancher/k3s/config.yaml.d/50-inventory.yaml"
    assert [problem.message for problem in caught.value.problems] == [
        f"{where}: 'node-lable' is not an option of k3s agent; did you mean 'node-label'?",
        f"{where}: 'tls-san' is not an option of k3s agent",
    ]


def test_what_the_inventory_adds_counts_when_storage_is_checked(subject: Subject) -> None:
    wrong = of_inventory(subject, "  worker:\n", "  worker:\n    k3s: {config: {snapshotter: overlayfs}}\n")
    with pytest.raises(InputError, match="overlayfs on an NFS root"):
        personalise(wrong)


@pytest.mark.parametrize("shared", [False, True])
def test_a_volume_of_the_nodes_own_is_kept(subject: Subject, *, shared: bool) -> None:
    before = personalise(replace(subject, shared=shared))
    with_volume = of_inventory(subject, "  worker:\n", "  worker:\n    k3s: {volume: 4G}\n")
    made = personalise(replace(with_volume, shared=shared))
    assert made.persist == ("/var/lib/pibuild/volumes",)
    assert made.name != before.name
    files = {file.path: file.content.decode() for file in made.files if not file.link}
    assert files["/etc/pibuild/k3s-volume"] == "4G\n"
    assert "snapshotter" not in files["/etc/rancher/k3s/config.yaml"]  # containerd's own works on ext4
    kept = "192.168.2.1:/srv/netboot/roots/yellow3/persist/var/lib/pibuild/volumes /var/lib/pibuild/volumes nfs "
    assert (kept in files["/etc/fstab"]) != shared
    disk = of_inventory(with_volume, "volume: 4G", "volume: LABEL=k3s")
    assert personalise(replace(disk, shared=shared)).persist == ()
    assert text_of(replace(subject, shared=shared), "/etc/pibuild/k3s-volume") == ""


def test_a_node_reports_where_the_inventory_says(subject: Subject) -> None:
    assert text_of(subject, "/etc/pibuild/bootstrap.env") == ""
    told = of_inventory(subject, "  netboot:", "  fleet: {url: 'http://192.168.2.1:9340'}\n  netboot:")
    lines = text_of(told, "/etc/pibuild/bootstrap.env").splitlines()
    assert "FLEET_URL=http://192.168.2.1:9340" in lines
    assert f"FLEET_IMAGE={subject.generation.sha256}" in lines


def test_the_servers_come_first_in_what_a_node_lets_in(subject: Subject) -> None:
    rules = [line.strip() for line in text_of(subject, "/etc/pibuild/firewall.nft").splitlines()]
    verdicts = [line for line in rules if line.endswith("accept") or " accept " in line or "drop" in line]
    assert verdicts[0] == "type filter hook input priority filter; policy drop;"
    assert verdicts[1] == "ip saddr { 192.168.2.1, 192.168.2.3 } accept"
    assert not any("6443" in line for line in rules)
    master = text_of(replace(subject, node=subject.inventory.node("mlops-master")), "/etc/pibuild/firewall.nft")
    assert "ip saddr 192.168.2.0/24 tcp dport 6443 accept" in master


# -------------------------------------------------------------------------------- the faults of the lab's own document


FAULTS = {
    # what its users met: the file that mends it, what is in there
    "sudo: unable to resolve host": ("/etc/hosts", "127.0.1.1 yellow3"),
    "nodes are addressed by number": ("/etc/hosts", "192.168.2.20 green1"),
    "all prompts look alike": ("/etc/profile.d/pibuild-prompt.sh", "33m\\]\\u@yellow3"),
    "incorrect timestamps: time zone": ("/etc/timezone", "Europe/Athens"),
    "incorrect timestamps: time server": ("/etc/systemd/timesyncd.conf.d/10-cluster.conf", "NTP=192.168.2.1 ntp.lab"),
    "overlayfs is refused on NFS": ("/etc/rancher/k3s/config.yaml", "snapshotter: fuse-overlayfs"),
    "k3s takes slow nodes for dead": ("/etc/rancher/k3s/config.yaml", "node-status-update-frequency=20s"),
}


@pytest.mark.parametrize(("path", "content"), FAULTS.values(), ids=FAULTS)
def test_what_explode_mends(subject: Subject, path: str, content: str) -> None:
    told = of_inventory(subject, "  netboot:", "  ntp: [192.168.2.1, ntp.lab]\n  netboot:")
    assert content in text_of(told, path)


def test_the_clock_is_that_of_the_clusters_zone(subject: Subject) -> None:
    assert files_of(subject)["/etc/localtime"].link == "/usr/share/zoneinfo/Europe/Athens"


def test_a_scraped_node_has_no_forwarder_and_one_that_forwards_has(subject: Subject) -> None:
    assert text_of(subject, "/etc/pibuild/vmagent.env") == ""
    assert text_of(subject, "/etc/pibuild/node-exporter.env").endswith("LISTEN=192.168.2.30:9100\n")
    metrics = changed(subject.node.metrics, mode="local")
    forwards = replace(subject, node=replace(subject.node, metrics=metrics))
    assert "RW_URL=http://192.168.2.2:8428/api/v1/write\n" in text_of(forwards, "/etc/pibuild/vmagent.env")
    assert text_of(forwards, "/etc/pibuild/node-exporter.env").endswith("LISTEN=127.0.0.1:9100\n")
    assert '"node": "yellow3"' in text_of(forwards, "/etc/pibuild/scrape.yml")
