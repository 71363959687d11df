"""What k3s's configuration files may say: every key is a flag of `k3s server` or `k3s agent` without its dashes.

k3s ends with an error at a key that is none, on a node that nobody looks at; here it is found before the node is made.
The names are those of pkg/cli/cmds/{root,config,log,agent,server}.go in k3s's sources, releases 1.30 to 1.36, without
the hidden and deprecated ones; docs.k3s.io/cli/server and docs.k3s.io/cli/agent list the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from builder.documents.spelling import did_you_mean

DATA = PurePosixPath("/var/lib/rancher")
BINARY = "usr/local/bin/k3s"
CONFIG = "/etc/rancher/k3s/config.yaml"
ADDED = "/etc/rancher/k3s/config.yaml.d/50-inventory.yaml"
VOLUMES = "/var/lib/pibuild/volumes"  # where a volume that is a file lies, kept over roots

_BOTH = """
    debug v vmodule log alsologtostderr token token-file server data-dir
    node-name with-node-id node-label node-taint node-ip node-external-ip node-internal-dns node-external-dns
    image-credential-provider-bin-dir image-credential-provider-config image-service-endpoint
    selinux protect-kernel-defaults lb-server-port rootless prefer-bundled-bin enable-pprof bind-address
    docker container-runtime-endpoint default-runtime nonroot-devices pause-image snapshotter private-registry
    airgap-extra-registry disable-default-registry-endpoint resolv-conf vpn-auth vpn-auth-file
    flannel-iface flannel-conf flannel-cni-conf kubelet-arg kube-proxy-arg disable-apiserver-lb
"""
_SERVER = """
    https-listen-port advertise-address advertise-port tls-san tls-san-security cluster-cidr service-cidr
    service-node-port-range cluster-dns cluster-domain flannel-backend flannel-ipv6-masq flannel-external-ip
    egress-selector-mode servicelb-namespace write-kubeconfig write-kubeconfig-mode write-kubeconfig-group
    helm-job-image agent-token agent-token-file cluster-init cluster-reset cluster-reset-restore-path
    kube-apiserver-arg etcd-arg kube-controller-manager-arg kube-scheduler-arg kube-cloud-controller-manager-arg
    datastore-endpoint datastore-cafile datastore-certfile datastore-keyfile kine-tls
    etcd-expose-metrics etcd-disable-snapshots etcd-snapshot-name etcd-snapshot-schedule-cron
    etcd-snapshot-retention etcd-snapshot-dir etcd-snapshot-compress etcd-s3 etcd-s3-endpoint etcd-s3-endpoint-ca
    etcd-s3-skip-ssl-verify etcd-s3-access-key etcd-s3-secret-key etcd-s3-session-token etcd-s3-bucket
    etcd-s3-bucket-lookup-type etcd-s3-region etcd-s3-folder etcd-s3-proxy etcd-s3-config-secret etcd-s3-insecure
    etcd-s3-timeout etcd-s3-retention default-local-storage-path disable disable-scheduler disable-cloud-controller
    disable-kube-proxy disable-network-policy disable-helm-controller disable-apiserver disable-controller-manager
    disable-etcd disable-agent embedded-registry supervisor-metrics system-default-registry secrets-encryption
    secrets-encryption-provider
"""
AGENT_KEYS = frozenset(_BOTH.split())
SERVER_KEYS = AGENT_KEYS | frozenset(_SERVER.split())


def unknown_keys(settings: Mapping[str, object], role: str) -> list[str]:
    """Return what to say of keys that k3s would refuse on a node of a role; `key+` adds to a list set before."""
    known = SERVER_KEYS if role == "master" else AGENT_KEYS
    program = "k3s server" if role == "master" else "k3s agent"
    return [
        f"'{key}' is not an option of {program}{did_you_mean(key.removesuffix('+'), known)}"
        for key in settings
        if key.removesuffix("+") not in known
    ]


def is_file_volume(volume: str) -> bool:
    """Return whether a volume is a file of a size (8G) rather than a device (LABEL=k3s)."""
    return volume[:1].isdigit()


def storage_warnings(role: str, volume: str, kept: tuple[str, ...]) -> list[str]:
    """Return what is wrong with where a server on an NFS root keeps its database. `kept` are paths kept over NFS."""
    if role != "master" or volume != "none":
        return []
    if any(DATA.is_relative_to(path) or PurePosixPath(path).is_relative_to(DATA) for path in kept):
        what = "on NFS: every lock and sync waits for the network, and requests time out"
    else:
        what = "in the node's NFS root: it is slow there, and gone with the next root"
    better = "k3s: {volume: 8G}, or better a disk of the node's own, k3s: {volume: LABEL=k3s}"
    return [f"k3s keeps its SQLite database {what}; {better}"]
