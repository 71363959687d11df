"""A booted node and a store on the login node's network: what is sent, and what the node is left with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.host.hashing import file_digest
from builder.lab.lab import Lab, LabNode
from builder.modelstore.publish import Publication, publish, show
from builder.modelstore.store import DirectoryStore
from builder.netboot.model_window import node_models
from builder.run import run
from tests import gguf
from tests.fetcher import Fetcher
from tests.metrics_path import wait_for
from tests.system.lab import MODELS, NetLab
from tests.web import Web, serve

pytestmark = [pytest.mark.boot, pytest.mark.root, pytest.mark.network]
NODE = "yellow4"
FETCHER = 885  # the account's number: recipes/parts/models.yaml
TENSORS, TENSOR = 48, 4_400_000  # a file of 211 MB
WHOLE = 1 << 30
CURRENT = "/var/lib/models/jen/current"


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelled:
    """A node that has version 1 of jen; the store, which has version 2 as well; the file of that."""

    lab: Lab
    node: LabNode
    web: Web
    store: DirectoryStore
    second: Path

    def said(self, command: str, *, timeout: float = 300) -> str:
        done = self.node.ssh(command, timeout=timeout)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def modelled(netlab: NetLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modelled]:
    home = tmp_path_factory.mktemp("models")
    (home / "store").mkdir()
    store = DirectoryStore(home / "store")
    key = netlab.lab.netboot.state / ".cluster/id_ed25519"
    weights = gguf.tensors(TENSORS, TENSOR)
    first = gguf.write(home / "1.gguf", weights, words=30_000)
    publish(store, Publication(path=first, model="jen", version="1", key=key))
    changed = {name: os.urandom(TENSOR) for name in ("blk.7.weight", "blk.31.weight")}
    second = gguf.write(home / "2.gguf", weights | changed, words=30_000, template="a longer one " * 100)
    publish(store, Publication(path=second, model="jen", version="2", key=key))
    (node,) = netlab.up(NODE)
    with serve("192.168.2.1", port=MODELS, network=netlab.lab.entered()) as web:
        web.root = store.directory
        made = Modelled(lab=netlab.lab, node=node, web=web, store=store, second=second)
        made.said("sudo systemctl stop pibuild-models.service")  # its store was away
        seed(home, netlab.dest, store)
        wait_for("version 1", lambda: node.ssh(f"readlink {CURRENT}").stdout == "1\n", seconds=120)
        yield made
    made.said("sudo rm -r /var/lib/models/jen")


def seed(home: Path, dest: Path, store: DirectoryStore) -> None:
    """Have the node's root hold version 1, as its own fetcher would have left it."""
    with serve() as web:
        web.root = store.directory
        node = Fetcher(home=home / "seed", settings={"store": web.url("/")})
        node.fetch(jen="1")
    models = (dest / "nfs" / NODE).resolve() / "var/lib/models"
    run(["cp", "-a", node.models / "jen", models])
    run(["chown", "-R", f"{FETCHER}:{FETCHER}", models])


def test_the_timer_has_the_nodes_own_moment(modelled: Modelled) -> None:
    told = node_models(modelled.lab.inventory, modelled.node.node)
    assert told is not None
    timers = modelled.said("systemctl show -p TimersCalendar -p TimersMonotonic pibuild-models.timer")
    assert f"OnCalendar=*-*-* {told.moment} ;" in timers
    minutes, seconds = divmod(told.boot_delay, 60)
    assert f"OnBootUSec={minutes}min {seconds}s ;" in timers or f"OnBootUSec={minutes}min ;" in timers
    assert modelled.said("systemctl is-active pibuild-models.timer") == "active"


def test_a_new_version_costs_what_is_new_of_it(modelled: Modelled) -> None:
    """Two of 48 tensors, over a link that breaks off twice, with one chunk spoilt on the way."""
    assert modelled.said(f"readlink {CURRENT}") == "1"
    modelled.said("""sudo sed -i 's/"jen": "1"/"jen": "2"/' /etc/pibuild/models.json""")  # as the next root would say
    web = modelled.web
    web.sent, web.requests = 0, []
    # what is small comes whole: the manifest, its signature, the header's first chunk (twice) and its last
    web.break_after = [*[WHOLE] * 5, 1_500_000, 700_000]
    header = next(chunk for chunk in chunks_of(modelled, "2") if chunk not in chunks_of(modelled, "1"))
    web.spoil[f"/{header}"] = 1
    ended = modelled.node.ssh("sudo systemctl start pibuild-models.service", timeout=600)
    log = modelled.said("sudo journalctl -b -o cat -u pibuild-models.service")
    assert ended.returncode == 0, log
    assert (log.count("broke off"), log.count("came with the wrong checksum")) == (2, 1)
    print(f"\n{modelled.second.stat().st_size} bytes, of which {web.sent} were sent for 2 x {TENSOR} changed")  # noqa: T201
    assert 2 * TENSOR < web.sent <= 1.1 * 2 * TENSOR
    digest = modelled.said("sha256sum < /var/lib/models/jen/current/model.gguf").split()[0]
    assert digest == file_digest(modelled.second)


def chunks_of(modelled: Modelled, version: str) -> list[str]:
    return [chunk.object for chunk in show(modelled.store, "jen", version).chunks]


def test_what_the_node_says_of_it(modelled: Modelled) -> None:
    metrics = modelled.said("cat /run/node-textfile/models.prom")
    assert 'edge_model_info{model="jen",version="2"' in metrics
    assert 'edge_model_up_to_date{model="jen"} 1' in metrics
    assert 'edge_model_spoilt_chunks_total{model="jen"} 1' in metrics
    assert '"previous": "1"' in modelled.said("cat /var/lib/models/jen/pointer.json")
    assert modelled.said("ls /var/lib/models/jen") == "1\n2\ncurrent\npointer.json"
    assert modelled.said("stat -c %U /var/lib/models/jen/2/model.gguf") == "pibuild-models"


def test_the_unit_is_shut_in_and_nothing_failed(modelled: Modelled) -> None:
    said = modelled.said("systemd-analyze security pibuild-models.service --no-pager")
    level = said.splitlines()[-1]
    print(f"\n{level}")  # noqa: T201
    assert float(level.split(":")[1].split()[0]) < 4
    assert modelled.said("systemctl list-units --state=failed --plain --no-legend") == ""


def test_a_start_with_nothing_to_do_asks_nobody(modelled: Modelled) -> None:
    modelled.web.requests = []
    modelled.said("sudo systemctl start pibuild-models.service")
    assert modelled.web.requests == []
