"""How nodes' metrics reach their store: who scrapes whom, the forwarder's files, and who may write under which name.

The files' templates are in `overlays/node/etc/pibuild`; a user's own replace them. A node that is exploded gets them in
its root; a server that has its own disk gets the same from `pibuild services`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from builder.errors import InputError, Problem
from builder.host.data import OVERLAYS
from builder.host.named_file import read_named
from builder.host.templates import environment
from builder.inventory.nodes import FORWARDING, Inventory, Node

CONFIG = "/etc/pibuild"
TOKEN = "remote-write.token"  # noqa: S105 - the name of its file
_TEMPLATES = OVERLAYS / "node/etc/pibuild"
_LABEL = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")  # prometheus.io/docs/concepts/data_model; a leading _ is for its own use
FILES = ("vmagent.env", "scrape.yml", "vmagent-labels.yml", "node-exporter.env", "metrics-ca.pem")


def scraped_by(inventory: Inventory, node: Node) -> tuple[Node, ...]:
    """Return the nodes that a node's forwarder reads: itself first, and as a site agent those of its site."""
    if node.metrics.mode not in FORWARDING:
        return ()
    others = (each for each in inventory.nodes if each.site == node.site and each.metrics.mode == "scraped")
    return (node, *others) if node.metrics.mode == "site-agent" else (node,)


def unread(inventory: Inventory) -> tuple[Node, ...]:
    """Return the nodes that no forwarder reads, and that a store has to read by itself."""
    read = {each.name for node in inventory.nodes for each in scraped_by(inventory, node)}
    return tuple(node for node in inventory.nodes if node.metrics.mode == "scraped" and node.name not in read)


def scrape_jobs(inventory: Inventory, reader: Node) -> list[dict[str, object]]:
    """Return the jobs of a store that reads nodes by itself: those that a forwarder has, for the nodes that none reads.

    `reader` is the node that the store is on, at whose interval they are read.
    """
    import yaml  # noqa: PLC0415 - what renders other files does without

    scraped = [_target(each, here=False) for each in unread(inventory)]
    text = environment().from_string((_TEMPLATES / "scrape.yml.j2").read_text()).render(node=reader, scraped=scraped)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, ten times as fast
    jobs = yaml.load(text, Loader=loader)["scrape_configs"]  # noqa: S506 - safe, either of them
    return [job for job in jobs if job["job_name"] != "vmagent"]


def certificates(inventory: Inventory, node: Node) -> str:
    """Return the certificates that sign the store's, "" for those that the system knows. Raises InputError."""
    if node.metrics.ca is None or node.metrics.mode not in FORWARDING:
        return ""
    path = inventory.path.resolve().parent / node.metrics.ca
    try:
        text = read_named(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        message = f"node {node.name}: metrics.ca: {path} cannot be read"
        raise InputError(Problem(message=message, mark=node.mark, hint="a PEM file beside cluster.yaml")) from error
    if "-----BEGIN CERTIFICATE-----" not in text or "PRIVATE KEY" in text:
        message = f"node {node.name}: metrics.ca: {path} is not a file of certificates alone"
        raise InputError(Problem(message=message, mark=node.mark, hint="PEM: -----BEGIN CERTIFICATE-----, no key"))
    return text


def template_values(inventory: Inventory, node: Node) -> dict[str, object]:
    """Return what the forwarder's templates can say beside the node itself."""
    scraped = [_target(each, here=each is node) for each in scraped_by(inventory, node)]
    return {"scraped": scraped, "certificates": certificates(inventory, node)}


def _target(node: Node, *, here: bool) -> dict[str, object]:
    """Return an entry of static_configs, with those of a node's labels whose names metrics can have."""
    own = {"instance": node.name, "node": node.name, "site": node.site, "role": node.role}
    more = {key: value for key, value in node.labels.items() if _LABEL.fullmatch(key) and key not in {*own, "job"}}
    return {"targets": [f"{'127.0.0.1' if here else node.address}:9100"], "labels": own | more}


def forwarder_files(inventory: Inventory, node: Node) -> Mapping[str, str]:
    """Return the files of a server that forwards metrics and is not exploded: path to text. Raises InputError."""
    if node.metrics.mode not in FORWARDING:
        return {}
    values = {"node": node, "cluster": inventory.cluster, **template_values(inventory, node)}
    return {
        f"{CONFIG}/{name}": environment().from_string((_TEMPLATES / f"{name}.j2").read_text()).render(values)
        for name in FILES
    }


def gateway(inventory: Inventory, tokens: Mapping[str, str], store: str) -> str:
    """Return a configuration of vmauth: each forwarder writes with its own token, and under its own name alone.

    vmauth adds `extra_label`s that a writer cannot override (docs.victoriametrics.com/vmauth). A site agent speaks for
    others: the site is all that it is held to. `tokens` by node; `store` is the address of the store, without a path.
    """
    users: list[Mapping[str, object]] = []
    for node in inventory.nodes:
        if node.metrics.mode in FORWARDING:
            labels = "&".join(f"extra_label={label}" for label in held_to(node))
            way = {"src_paths": ["/api/v1/write"], "url_prefix": f"{store.rstrip('/')}/?{labels}"}
            users.append({"name": node.name, "bearer_token": tokens[node.name], "url_map": [way]})
    import yaml  # noqa: PLC0415 - what renders other files does without

    return yaml.safe_dump({"users": users}, sort_keys=False, width=1000)


def held_to(node: Node) -> list[str]:
    """Return the labels that a node's token stands for."""
    labels = [f"site={node.site}"] if node.site else []
    return labels if node.metrics.mode == "site-agent" else [f"node={node.name}", *labels, f"role={node.role}"]
