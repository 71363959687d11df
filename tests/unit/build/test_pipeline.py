"""What a person reads at the end of a build; builds themselves are in tests/system."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from builder.build.pipeline import Built, LayerReport
from builder.cli.options import plain
from builder.image.publish import Published

BUILT = Built(
    recipe="golden",
    published=Published(
        directory=Path("output/golden/5a1c"),
        image=Path("output/golden/5a1c/golden.img"),
        digest="5a" * 32,
        files={"golden.img": 1_500_000_000, "golden.img.zst": 400_000_000},
        reused=False,
    ),
    layers=(
        LayerReport(name="base", key="a" * 32, made=False, seconds=31.25),
        LayerReport(name="monitoring", key="b" * 32, made=True, seconds=4.0),
    ),
    emulation="native-tools",
    seconds=12.3,
    publish_seconds=5.5,
    missing=("https://example.org/k3s",),
    identities=("/etc/new/id looks like a UUID",),
    differences=None,
    entrance=True,
    key_variable=True,
)


def test_the_summary_says_what_was_built_where_it_is_and_what_to_do_next() -> None:
    assert BUILT.summary().splitlines() == [
        "layer             seconds  state",
        "base                 31.2  cached",
        "monitoring            4.0  built",
        "publish               5.5  written",
        "",
        "emulation  native-tools",
        "missing    https://example.org/k3s (optional download unavailable; recorded in manifest.json)",
        "identity   /etc/new/id looks like a UUID; every machine would have the same",
        f"digest     sha256:{'5a' * 32}",
        "file       output/golden/latest/golden.img (1.4 GiB)",
        "file       output/golden/latest/golden.img.zst (381.5 MiB)",
        "time       12.3 s",
        "",
        "next: pibuild boot output/golden/latest      start it under QEMU before anyone flashes it",
        "      pibuild inspect output/golden/latest   what is in it",
    ]


def test_the_summary_of_a_build_that_did_nothing() -> None:
    unchanged = replace(BUILT, published=replace(BUILT.published, reused=True), missing=(), differences=())
    said = unchanged.summary()
    assert "publish               5.5  unchanged" in said
    assert "missing" not in said
    assert "verified   built both ways, 0 differences" in said


def test_the_summary_of_a_verified_build_has_both_times() -> None:
    layer = replace(BUILT.layers[1], full_seconds=31.4)
    assert layer.summary() == "monitoring            4.0  built, fully emulated 31.4 s"


def test_a_build_as_json_has_all_of_it() -> None:
    told = json.loads(json.dumps(plain(BUILT)))
    assert told["published"]["files"] == {"golden.img": 1_500_000_000, "golden.img.zst": 400_000_000}
    made = {"name": "monitoring", "key": "b" * 32, "made": True, "seconds": 4.0, "full_seconds": None}
    assert told["layers"][1] == made
