"""Whatever stands where a value is wanted, in whatever pibuild reads: an InputError with its place, soon."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.build.lock import read_lock
from builder.documents.document import load
from builder.errors import InputError
from builder.inventory.load import load_inventory
from builder.netboot.generation import find_image
from builder.printable import printable
from builder.recipe.load import load_recipe

DIGITS = "9" * 5000
HOSTILE = {
    "a number of 5,000 digits": DIGITS,
    "a negative one": f"-{DIGITS}",
    "5,000 hex digits": f"0x{'f' * 5000}",
    "6,000 octal digits": f"0o{'7' * 6000}",
    "an exponent of 5,000 digits": f"1e{DIGITS}",
    "5,000 digits as text": f'"{DIGITS}"',
    "5,000 digits with a unit": f'"{DIGITS}G"',
    "5,000 digits as an owner": f'"{DIGITS}:{DIGITS}"',
    "nested mappings": "{a: {b: [1, {c: d}]}}",
    "nested lists": "[[1], [2]]",
    "half a character": '"\\ud800"',
    "a list 40 deep": "[" * 40 + "]" * 40,
    "a list 250 deep": "[" * 250 + "]" * 250,
    "a list 10,000 deep": "[" * 10_000 + "]" * 10_000,
    "a mapping 10,000 deep": "{a: " * 10_000 + "1" + "}" * 10_000,
}
CLUSTER = """cluster:
  name: lab
  subnet: 192.168.2.0/24
  gateway: 192.168.2.1
  servers: {login: {node: pi_login, interface: eth0, uplink: wlan0}}
  pools: {services: 192.168.2.200-192.168.2.219}
  dhcp: {server: isc-dhcp, lease: 12h}
  models: {store: "http://192.168.2.1/models", limit: 500K, window: {start: "01:00", length: 4h}}
defaults: {board: pi4, image: golden, persist: [/var/lib/x], k3s: {volume: 8G}, metrics: {interval: 60s}}
nodes:
  - {name: pi_login, serial: "f154e171", mac: "e4:5f:01:f6:07:b2", address: 192.168.2.1, port: 15, boot: local}
"""
RECIPE = """name: x
base: {distribution: debian, suite: trixie}
epoch: 1
boards: [pi4]
disk: {boot: {size: 256M}, root: {slack: 10%}}
variables: {size: 4}
layers:
  - name: one
    steps:
      - packages: [chrony]
      - files: [{path: /etc/motd, content: x, mode: "0644", owner: "0:0"}]
      - user: {name: me, uid: 1000}
      - run: {argv: [true], network: none}
"""
LOCK = f"""format: 2
recipe: x
question: y
release: [debian, trixie]
epoch: 1
image: ''
sources: ''
base: {{debs: ["a 1 arm64 {"0" * 64} 10 pool/a.deb"], removes: []}}
steps: {{}}
artifacts: {{}}
"""
_VALUE = re.compile(r"""(?<=: )("[^"\n]*"|''|\[[^\]\n]*\]|\{\}|[^\s,{}\[\]#"][^,{}\[\]#\n]*)""")


def no_more_than(error: InputError) -> None:
    """Check that a person can read what is said, on any terminal."""
    text = str(error)
    printable(text).encode()
    assert text
    assert len(text) < 20_000


def feed(path: Path, read: Callable[[Path], object]) -> None:
    begun, refused = time.monotonic(), None
    try:
        read(path)
    except InputError as error:
        no_more_than(error)
        refused = error
    assert time.monotonic() - begun < 10
    assert refused is None or path.name in refused.message


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(
    ("text", "read"),
    [(CLUSTER, load_inventory), (RECIPE, load_recipe), (LOCK, read_lock)],
    ids=["cluster", "recipe", "lock"],
)
def test_a_hostile_value_is_refused_with_its_place(
    tmp_path: Path, text: str, read: Callable[[Path], object], hostile: str
) -> None:
    path = tmp_path / "document.yaml"
    path.write_text(text)
    spans = [found.span() for found in _VALUE.finditer(text)]
    assert len(spans) > 8
    for begin, end in spans[: 1 if "10,000 deep" in hostile else None]:
        path.write_text(text[:begin] + HOSTILE[hostile] + text[end:])
        feed(path, read)


@pytest.mark.parametrize(
    "hostile", ['"\\ud800": 1', f"{DIGITS}: 1", f"? {'[' * 10_000}{']' * 10_000}\n: 1", "{a: {}}: 1"]
)
@pytest.mark.parametrize("read", [load_inventory, load_recipe, read_lock])
def test_a_hostile_key_is_refused(tmp_path: Path, read: Callable[[Path], object], hostile: str) -> None:
    path = tmp_path / "document.yaml"
    path.write_text(f"{hostile}\n")
    with pytest.raises(InputError) as caught:
        read(path)
    no_more_than(caught.value)


@pytest.mark.parametrize("depth", range(10, 420, 25))
def test_no_depth_ends_in_a_traceback(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "document.yaml"
    for opening, closing in ("[]", ("{a: ", "}")):
        path.write_text(RECIPE.replace("size: 4}", f"size: {opening * depth}1{closing * depth}}}"))
        with pytest.raises(InputError) as caught:
            load_recipe(path)
        assert ("nested too deeply" in str(caught.value)) == (depth > 45)


def test_what_is_too_deep_or_half_a_character_is_said_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "document.yaml"
    for text, place in (
        ("a: 1\nb: " + "[" * 60 + "]" * 60, "2:"),
        ('a: 1\nb: "\\udfff"', "2:4"),
        ('"\\ud800": 1', "1:1"),
    ):
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            load(path)
        assert f"{path.name}:{place}" in str(caught.value)


MANIFEST = {"image": "x.img", "sha256": "0" * 64, "identity": "y", "files": {"x.img": {"size": 1}}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        "[" * 100_000,
        '{"a": ' * 100_000,
        f'{{"files": {{"x": {{"size": {DIGITS}}}}}}}',
        json.dumps({**MANIFEST, "image": "../../etc/passwd"}),
        json.dumps({**MANIFEST, "image": "\ud800"}),
        json.dumps({**MANIFEST, "image": 7}),
        json.dumps({**MANIFEST, "sha256": 10**100}),
        json.dumps({**MANIFEST, "files": {"x": {"size": -1}}}),
        json.dumps({**MANIFEST, "files": [[[]]]}),
        json.dumps(MANIFEST),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError) as caught:
        find_image(tmp_path, "golden", tmp_path)
    no_more_than(caught.value)
    assert str(tmp_path) in str(caught.value)
