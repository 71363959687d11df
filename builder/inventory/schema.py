"""cluster.yaml as a person writes it: the cluster, its nodes, and the roles and groups whose settings nodes inherit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from builder.firmware.boards import NAMES
from builder.inventory.choices import DEFAULTS, servers

Role = Literal["login", "backup", "master", "worker"]
if TYPE_CHECKING:  # Literal takes a tuple, which a type checker cannot know
    DhcpServer: TypeAlias = str
    TftpServer: TypeAlias = str
    NfsServer: TypeAlias = str
else:
    DhcpServer = Literal[servers("dhcp")]
    TftpServer = Literal[servers("tftp")]
    NfsServer = Literal[servers("nfs")]
ROLES: tuple[str, ...] = ("login", "backup", "master", "worker")


class Written(BaseModel):
    """What all models of the file share: unknown keys are errors, values are kept as written."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class K3s(Written):
    """How k3s runs on a node whose image has it; without a network root there is nothing to set."""

    volume: str = Field(
        default="none",
        pattern=r"^(none|[1-9][0-9]{0,5}[MGT]|(LABEL|UUID|PARTUUID|PARTLABEL)=[A-Za-z0-9._-]+|/dev/[A-Za-z0-9._/-]+)$",
        description="ext4 at /var/lib/rancher: none, a size (8G: a file of the node's own), or a disk (LABEL=k3s)",
    )
    config: dict[str, str | int | bool | list[str]] = Field(
        default={}, description="options of k3s server or agent, without dashes; they replace those pibuild sets"
    )


class Metrics(Written):
    """How a node's metrics reach their store; each level of the file may set any of it, the nearest one winning."""

    mode: Literal["local", "site-agent", "scraped", "off"] = Field(
        default="scraped",
        description="local: forwards its own, through a queue on disk; site-agent: and those of scraped nodes; "
        "scraped: is read over the network, by a site agent or the store itself; off: answers on localhost alone",
    )
    url: str | None = Field(default=None, description="where to write (remote_write): https://…/api/v1/write")
    store: Literal["victoria-metrics", "prometheus"] = Field(
        default="victoria-metrics", description="what answers there"
    )
    ca: str | None = Field(default=None, description="certificates that sign the store's, a file beside this one")
    interval: str = Field(
        default="60s", pattern=r"[1-9][0-9]{0,5}[sm]", description="between two samples of everything but the heartbeat"
    )
    rate: int = Field(default=0, ge=0, description="bytes a second that a backlog may take of the uplink; 0: all of it")


class Settings(Written):
    """What a node may set, or inherit from its groups, its role, and `defaults`, the nearest one winning.

    Labels, metrics and the kernel's words add up; everything else replaces.
    """

    board: str | None = Field(default=None, description=f"model: one of {NAMES}")
    image: str | None = Field(default=None, description="name of the golden image the node boots")
    site: str | None = Field(default=None, description="where the node stands; a label of its metrics and alerts")
    user: str | None = Field(default=None, description="login name for ssh")
    boot: Literal["network", "local"] | None = Field(
        default=None, description="network: boots from the login node; local: has its own disk and is only known of"
    )
    root: Literal["auto", "copy", "reflink", "shared"] | None = Field(
        default=None, description="how the NFS root is made; auto takes what the file system can do"
    )
    persist: list[str] | None = Field(default=None, description="paths that a node with a shared root keeps, over NFS")
    cmdline: list[str] = Field(default=[], description="words added to the kernel's command line")
    backup: bool | None = Field(default=None, description="whether restic backs the node up")
    metrics: Metrics = Field(default=Metrics(), description="how its metrics reach their store")
    labels: dict[str, str] = Field(default={}, description="labels for Kubernetes and metrics")
    models: dict[str, str] | None = Field(default=None, description="models it fetches: name to version")
    k3s: K3s | None = Field(default=None, description="how k3s runs there")


class NodeEntry(Settings):
    """One board."""

    name: str = Field(description="host name; an underscore becomes a hyphen, the written name stays as an alias")
    aliases: list[str] = Field(default=[], description="further names it answers to in ssh and hosts files")
    serial: str = Field(description="8 hex digits, in quotes; of 16 the last 8 count")
    mac: str = Field(description="of its Ethernet port: aa:bb:cc:dd:ee:ff")
    address: str = Field(description="its IPv4 address in the cluster's subnet")
    port: int | None = Field(default=None, ge=1, description="port of the switch it hangs on; for power cycling")
    role: Role = Field(description="login, backup, master or worker")
    groups: list[str] = Field(default=[], description="groups it inherits settings from, the first one winning")


class ServerEntry(Written):
    """One of the two machines that serve the others."""

    node: str = Field(description="name of the node that is this server")
    interface: str = Field(default="eth0", description="its port on the cluster's network")
    uplink: str | None = Field(
        default=None, description="its port to the world; with it, it translates addresses (NAT)"
    )


class Servers(Written):
    """Who serves: the login node, and the backup node, which gives boards their addresses beside the login node."""

    login: ServerEntry = Field(description="serves roots, boot files, addresses and the way out")
    backup: ServerEntry | None = Field(default=None, description="answers DHCP as well, so that one may be down")


class Pools(Written):
    """Ranges of addresses (`a-b`, `a/len` or one address) that no node may have."""

    services: str | None = Field(default=None, description="virtual addresses that MetalLB hands to services")
    dynamic: str | None = Field(default=None, description="what DHCP gives to boards that are not in this file")


class Dhcp(Written):
    """The DHCP server."""

    server: DhcpServer = Field(default=DEFAULTS["dhcp"], description="which of Debian's gives the addresses")
    lease: str = Field(
        default="infinite", pattern=r"infinite|[1-9][0-9]{0,5}[smhd]", description="of the reservations: 12h"
    )


class Tftp(Written):
    """The TFTP server."""

    server: TftpServer = Field(default=DEFAULTS["tftp"], description="which of Debian's sends boot files")


class Nfs(Written):
    """The NFS server."""

    server: NfsServer = Field(
        default=DEFAULTS["nfs"], description="the kernel's own, or nfs-ganesha where the kernel has none"
    )


class StagingWindow(Written):
    """When nodes may begin to fetch a new version of a model, each at a moment of its own."""

    start: str = Field(default="01:00", pattern=r"([01][0-9]|2[0-3]):[0-5][0-9]", description="time of day on the node")
    length: str = Field(default="4h", pattern=r"[1-9][0-9]{0,5}[mh]", description="how long it is: 30m, 4h")


class Models(Written):
    """Where nodes fetch models from, when, and whom they trust."""

    store: str = Field(pattern=r"https?://[^\s?#]+", description="address at which a web server has the store")
    window: StagingWindow = Field(default=StagingWindow(), description="when nodes may begin to fetch a new version")
    limit: str | None = Field(
        default=None, pattern=r"[1-9][0-9]{0,11}[KM]?", description="bytes per second and node: 500K"
    )
    signed: bool = Field(default=True, description="whether a version has to be signed")
    signers: list[str] = Field(
        default=[], description="public ssh keys that may sign, beside the one the login node opens nodes with"
    )


class Fleet(Written):
    """The fleet manager, which nodes report to."""

    url: str | None = Field(
        default=None,
        pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?$",
        description="where `pibuild fleet serve` answers, http or https, port 9340; without it no node reports",
    )


class Backup(Written):
    """Where nodes that say `backup: true` bring their backups, and what is in them beside /etc and /var/lib/pibuild.

    Keys and passwords have no place here: they are in the nodes' state on the login node.
    """

    repository: str = Field(
        description="directory, bucket or server; each node has its own repository below it, of its name:"
        " rest:https://backup.example:8000, s3:https://store.example/bucket, sftp:user@host:/srv/backup or /srv/backup"
    )
    gateway: str | None = Field(
        default=None, description="node whose rest-server it is: nodes can only add, and it forgets, prunes and checks"
    )
    paths: list[str] = Field(default=[], description="what else is backed up; a path that is missing is an error")
    exclude: list[str] = Field(default=[], description="what is not: patterns as restic's --exclude takes them")
    schedule: str = Field(
        default="*-*-* 02:10:00", description="systemd.time(7); each node starts up to two hours later"
    )


class Email(Written):
    """Alerts by mail. The password is in a file of the server's, which the user prometheus can read."""

    to: list[str] = Field(min_length=1, description="whom to write to")
    sender: str = Field(description="whom the mail is from")
    smarthost: str = Field(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$", description="mail server and port: mail.example:587")
    username: str | None = Field(default=None, description="how to log in there; without it nobody logs in")
    password_file: str = Field(
        default="/etc/pibuild/secrets/alerts-email.password", description="file on the server with the password"
    )
    tls: bool = Field(default=True, description="refuse a mail server without TLS")


class Webhook(Written):
    """Alerts by HTTP: a POST of Alertmanager's JSON. An address that is a secret stands in a file."""

    url: str | None = Field(default=None, pattern=r"^https?://[^\s?#@]+$", description="where to, when it is no secret")
    url_file: str | None = Field(default=None, description="file on the server that holds the address")
    token_file: str | None = Field(default=None, description="file on the server with a bearer token")


class Limits(Written):
    """From when on something is an alert."""

    node_silent: int = Field(default=10, ge=8, le=1440, description="minutes without a heartbeat: a node is down")
    site_fraction: float = Field(
        default=0.6, gt=0, lt=1, description="more than this part of a site's nodes silent: the site is down"
    )
    temperature: int = Field(default=80, ge=40, le=110, description="degrees Celsius")
    disk_free: int = Field(default=8, ge=1, le=50, description="percent of a file system")
    backup_age: int = Field(default=36, ge=1, le=8760, description="hours since a node's last complete backup")
    clock_offset: float = Field(default=2, gt=0, le=3600, description="seconds that a clock may be off")


class Monitoring(Written):
    """What watches the cluster: the store of metrics, the rules, and whom alerts reach (`email`, `webhook` or both).

    Pages go to both; what can wait until the morning goes by mail, or to the webhook where there is no mail.
    """

    server: str | None = Field(default=None, description="node that runs it; default: the one master")
    store: Literal["victoria-metrics", "prometheus"] = Field(
        default="victoria-metrics", description="which of Debian's keeps the metrics"
    )
    retention: str = Field(default="365d", pattern=r"^[1-9][0-9]{0,4}d$", description="how long it keeps them")
    limits: Limits = Field(default=Limits(), description="from when on something is an alert")
    email: Email | None = Field(default=None, description="alerts by mail")
    webhook: Webhook | None = Field(default=None, description="alerts by HTTP")
    deadman: Webhook | None = Field(
        default=None,
        description="a receiver outside that expects a message every five minutes, and tells when none comes",
    )
    runbooks: str = Field(
        default="docs/runbooks.md",
        pattern=r"^[^\s#]+$",
        description="where docs/runbooks.md is served; alerts link there",
    )


class Cluster(Written):
    """What all nodes have in common."""

    name: str = Field(description="name of the cluster, a label of its metrics")
    subnet: str = Field(description="addresses of the cluster's network: 192.168.2.0/24")
    gateway: str = Field(description="the way out for the nodes; usually the login node")
    dns: list[str] = Field(default=[], description="name servers for the nodes; empty: the gateway")
    domain: str | None = Field(default=None, description="appended to the nodes' names")
    timezone: str = Field(default="Etc/UTC", description="of every node, as timedatectl list-timezones prints it")
    ntp: list[str] = Field(default=[], description="time servers for the nodes; empty: those of the image or of DHCP")
    servers: Servers = Field(description="the machines that serve the others")
    pools: Pools = Field(default=Pools(), description="addresses that no node may have")
    netboot: str = Field(
        default="/srv/netboot", description="directory on the login node that holds roots and TFTP files"
    )
    dhcp: Dhcp = Field(default=Dhcp(), description="the DHCP server")
    tftp: Tftp = Field(default=Tftp(), description="the TFTP server")
    nfs: Nfs = Field(default=Nfs(), description="the NFS server")
    models: Models | None = Field(default=None, description="the store of models; without it no node fetches any")
    fleet: Fleet = Field(default=Fleet(), description="the manager that nodes report to")
    backup: Backup | None = Field(default=None, description="where backups go; without it no node makes any")
    monitoring: Monitoring | None = Field(default=None, description="what watches the cluster, and whom it wakes")


class InventoryFile(Written):
    """The whole file."""

    cluster: Cluster = Field(description="what all nodes have in common")
    defaults: Settings = Field(default=Settings(), description="settings of every node")
    roles: dict[Role, Settings] = Field(default={}, description="settings of the nodes of a role")
    groups: dict[str, Settings] = Field(default={}, description="settings of the nodes of a group")
    nodes: list[NodeEntry] = Field(description="the boards, one entry each")


BUILT_IN: Mapping[str, object] = {
    "board": "pi4",
    "image": "golden",
    "site": "",
    "user": "ubuntu",
    "boot": "network",
    "root": "auto",
    "persist": [],
    "cmdline": [],
    "backup": False,
    "metrics": {},
    "labels": {},
    "models": {},
    "k3s": K3s(),
}
