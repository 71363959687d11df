"""cluster.yaml as a person writes it: the cluster, its nodes, and the roles and groups whose settings nodes inherit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["login", "backup", "master", "worker"]
ROLES: tuple[str, ...] = ("login", "backup", "master", "worker")


class Written(BaseModel):
    """What all models of the file share: unknown keys are errors, values are kept as written."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
        default="60s", pattern=r"[1-9][0-9]*[sm]", description="between two samples of everything but the heartbeat"
    )
    rate: int = Field(default=0, ge=0, description="bytes a second that a backlog may take of the uplink; 0: all of it")


class Settings(Written):
    """What a node may set, or inherit from its groups, its role, and `defaults`, the nearest one winning.

    Labels, metrics and the kernel's words add up; everything else replaces.
    """

    board: str | None = Field(default=None, description="model: pi4, pi400, cm4, cm4s, pi5, cm5 or pi500")
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
    """Who serves: the login node, and the backup node that must answer when the login node is dead."""

    login: ServerEntry
    backup: ServerEntry | None = None


class Pools(Written):
    """Ranges of addresses (`a-b`, `a/len` or one address) that no node may have."""

    services: str | None = Field(default=None, description="virtual addresses that MetalLB hands to services")
    dynamic: str | None = Field(default=None, description="what DHCP gives to boards that are not in this file")


class Dhcp(Written):
    """The DHCP server."""

    server: Literal["isc-dhcp", "dnsmasq", "kea"] = "isc-dhcp"
    lease: str = Field(
        default="infinite", pattern=r"infinite|[1-9][0-9]*[smhd]", description="of the reservations: 12h"
    )


class Tftp(Written):
    """The TFTP server."""

    server: Literal["tftpd-hpa", "dnsmasq"] = "tftpd-hpa"


class Nfs(Written):
    """The NFS server."""

    server: Literal["kernel", "ganesha"] = "kernel"


class Cluster(Written):
    """What all nodes have in common."""

    name: str
    subnet: str = Field(description="192.168.2.0/24")
    gateway: str = Field(description="the way out for the nodes; usually the login node")
    dns: list[str] = Field(default=[], description="name servers for the nodes; empty: the gateway")
    domain: str | None = Field(default=None, description="appended to the nodes' names")
    timezone: str = "Etc/UTC"
    servers: Servers
    pools: Pools = Pools()
    netboot: str = Field(
        default="/srv/netboot", description="directory on the login node that holds roots and TFTP files"
    )
    dhcp: Dhcp = Dhcp()
    tftp: Tftp = Tftp()
    nfs: Nfs = Nfs()


class InventoryFile(Written):
    """The whole file."""

    cluster: Cluster
    defaults: Settings = Settings()
    roles: dict[Role, Settings] = {}
    groups: dict[str, Settings] = {}
    nodes: list[NodeEntry]


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
}
