"""An inventory that was read before is taken as it was: for the same text alone, and from where nobody else writes."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.inventory import kept
from builder.inventory.load import load_inventory
from builder.inventory.read import read_inventory
from builder.run import run
from tests.clusters import LAB

ODD = """\
cluster:
  name: odd
  subnet: 10.0.0.0/16
  gateway: 10.0.0.1
  dns: [10.0.0.1, 9.9.9.9]
  servers: {login: {node: Gate_1, uplink: wlan0}}
  pools: {services: 10.0.9.0/28, dynamic: 10.0.8.1}
  models: {store: "http://10.0.0.1:8080", window: {start: "02:30"}}
  backup: {repository: /srv/backup, exclude: ["*.tmp"]}
groups: {empty: {}, big: {labels: {a.b: "1"}, k3s: {config: {flag: true, many: [x, y], number: 5}}}}
nodes:
  - {name: Gate_1, serial: "00000001", mac: "02:00:00:00:00:01", address: 10.0.0.1, role: login, boot: local}
  - {name: a, serial: "00000002", mac: "02:00:00:00:00:02", address: 10.0.0.2, role: worker, groups: [big],
     models: {qwen: v1}, persist: [/srv], cmdline: [quiet], port: 4, aliases: [first]}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return where inventories are kept; the mask is a program's, whatever the tests'."""
    monkeypatch.setenv("PIBUILD_CACHE", str(tmp_path / "cache"))
    mask = os.umask(0o022)
    yield tmp_path / "cache" / "inventories"
    os.umask(mask)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return an inventory with a bit of everything."""
    written = tmp_path / "cluster.yaml"
    written.write_text(ODD)
    return written


def _found(path: Path) -> bool:
    return kept.find(path, kept.text_of(path)) is not None


@pytest.mark.parametrize("text", [ODD, LAB.read_text()], ids=["odd", "lab"])
def test_what_is_kept_is_what_a_full_reading_says(path: Path, place: Path, text: str) -> None:
    path.write_text(text)
    first = load_inventory(path)
    assert [file.name for file in place.iterdir()] != []
    known = kept.find(path, text)
    assert known == first == read_inventory(path).inventory
    assert {type(getattr(known.nodes[0], name)) for name in ("labels", "aliases")} == {
        type(getattr(first.nodes[0], name)) for name in ("labels", "aliases")
    }


def test_another_text_another_path_and_other_code_are_read_anew(
    path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_inventory(path)
    assert _found(path)
    monkeypatch.chdir(path.parent)
    assert not _found(Path(path.name))  # its marks would have the other path
    assert not _found(path.rename(path.with_name("moved.yaml")))
    path.write_text(ODD.replace("quiet", "debug"))
    assert load_inventory(path).node("a").cmdline == ("debug",)
    assert _found(path)
    (file,) = place.iterdir()
    code = json.loads(file.read_text())
    assert any(name.endswith("inventory/checks.py") for name in code["code"])
    name = next(iter(code["code"]))
    code["code"][name][0] += 1
    file.write_text(json.dumps(code))
    assert not _found(path)


def test_an_inventory_with_a_problem_is_never_kept(path: Path, place: Path) -> None:
    path.write_text(ODD.replace("address: 10.0.0.2", "address: 10.0.0.1"))
    for _ in range(2):
        with pytest.raises(InputError, match=re.escape("address 10.0.0.1 is also Gate_1's")):
            load_inventory(path)
    assert not place.exists()


def test_what_others_could_have_written_does_not_count(path: Path, place: Path) -> None:
    load_inventory(path)
    (file,) = place.iterdir()
    place.chmod(0o777)
    assert not _found(path)
    place.chmod(0o700)
    assert _found(path)
    file.chmod(0o622)
    assert not _found(path)
    file.chmod(0o600)
    aside = file.rename(place.parent / "aside")
    file.symlink_to(aside)
    assert not _found(path)
    assert load_inventory(path).node("a").port == 4
    assert not file.is_symlink()
    place.rename(place.with_name("elsewhere"))
    place.symlink_to("elsewhere")
    assert not _found(path)


def test_a_damaged_or_strange_file_is_as_good_as_none(path: Path, place: Path) -> None:
    load_inventory(path)
    (file,) = place.iterdir()
    whole = file.read_text()
    told = json.loads(whole)
    told["inventory"]["nodes"][0].pop("role")
    for damaged in ("", "{", "[]", "7", "[" * 50_000, whole[:-20], json.dumps(told), '{"of": 1}', '{"": {"of": 1}}'):
        file.write_text(damaged)
        file.chmod(0o600)
        assert not _found(path)
    file.unlink()
    os.mkfifo(file, 0o600)
    begun = time.monotonic()
    assert not _found(path)
    assert time.monotonic() - begun < 5
    assert load_inventory(path).node("a").port == 4
    assert _found(path)


def test_where_there_is_no_place_nothing_is_kept(path: Path, place: Path) -> None:
    place.parent.write_text("a file")
    assert load_inventory(path) == load_inventory(path)


def test_there_are_never_more_than_a_few(path: Path, place: Path) -> None:
    inventory = load_inventory(path)
    for number in range(200):
        kept.keep(path.with_name(f"{number}.yaml"), ODD, inventory)
    assert len(list(place.iterdir())) <= 64


@pytest.mark.tools
@pytest.mark.usefixtures("place")
def test_what_is_known_needs_neither_pydantic_nor_yaml(path: Path) -> None:
    ask = (
        "import sys; from pathlib import Path; from builder.inventory.load import load_inventory;"
        f" load_inventory(Path({str(path)!r})); print(*sys.modules)"
    )
    loaded = [set(run([sys.executable, "-c", ask]).stdout.split()) for _ in range(2)]
    assert loaded[0] >= {"pydantic", "yaml"}
    assert not loaded[1] & {"pydantic", "yaml", "jinja2", "builder.inventory.schema"}
