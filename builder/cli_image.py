"""The commands that look at built images: inspect, diff, boot. None needs root, none mounts anything."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from builder import console
from builder.cli_options import example, image_argument, json_option, plain
from builder.errors import VerdictError


@click.command(
    epilog=example(
        "pibuild inspect output/golden/latest",
        "pibuild inspect raspios.img.xz --json | jq .packages",
    )
)
@image_argument
@json_option
def inspect(image: Path, as_json: bool) -> None:
    """Show what is in an image.

    Partitions, system, kernel, boot files per board, packages, units, users, sizes. IMAGE is an .img file, also
    compressed, or a directory that a build published.
    """
    from builder import inspect_image
    from builder.image import open_image

    with open_image(image) as opened:
        found = inspect_image.inspect(opened)
    if as_json:
        console.print_json(plain(found))
    else:
        for line in inspect_image.render(found):
            console.say(line)


@click.command(
    epilog=example(
        "pibuild diff output/golden/3f2a… output/golden/latest",
    )
)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@json_option
def diff(before: Path, after: Path, as_json: bool) -> None:
    """Say what changed between two images.

    From image BEFORE to image AFTER: packages, files, units, boot configuration.
    """
    from builder import diff_images
    from builder.image import open_image

    with open_image(before) as old, open_image(after) as new:
        changes = diff_images.diff(old, new)
    if as_json:
        console.print_json(plain(changes))
    else:
        for line in diff_images.render(changes):
            console.say(line)


@click.command(
    epilog=example(
        "pibuild boot output/golden/latest",
        "pibuild boot output/golden/latest --check-only",
        "pibuild boot output/golden/latest --machine raspi3b --logs /tmp/logs",
    )
)
@image_argument
@click.option(
    "--machine",
    type=click.Choice(["virt", "raspi3b", "raspi4b"]),
    default="virt",
    show_default=True,
    help="What QEMU is: its own board with network and the whole verdict, or a Pi that boots to userspace.",
)
@click.option(
    "--board",
    "boards",
    multiple=True,
    help="Check the files of this board: pi3, pi4, pi5; repeatable; default: what IMAGE has.",
)
@click.option("--check-only", is_flag=True, help="Check the boot chain's files and start no machine.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    default=900,
    show_default=True,
    help="Until all was seen.",
)
@click.option("--logs", type=click.Path(file_okay=False, path_type=Path), help="Keep the console logs here.")
@json_option
def boot(
    image: Path,
    machine: Literal["virt", "raspi3b", "raspi4b"],
    boards: tuple[str, ...],
    check_only: bool,
    timeout: int,
    logs: Path | None,
    as_json: bool,
) -> None:
    """Boot an image under QEMU: the verdict.

    First the boot chain's files are checked, then a throw-away copy of IMAGE is booted and looked at from outside.
    Exit code 6 when either is bad.
    """
    from builder.boot import BootOptions, boot_image
    from builder.bootchain import check_boot_chain
    from builder.image import open_image

    with open_image(image) as opened:
        chain = check_boot_chain(opened, boards)
    bad = [finding for finding in chain if not finding.ok]
    if not as_json:
        rows = [(finding.check, "ok" if finding.ok else "FAILED", finding.detail) for finding in chain]
        console.print_table(("boot chain", "", "found"), rows)
    elif bad or check_only:
        console.print_json({"boot_chain": plain(chain), "verdict": None})
    if bad:
        hints = dict.fromkeys(hint for finding in bad for hint in finding.hint.split("; ") if hint)
        raise VerdictError(
            f"this image would not boot: {', '.join(finding.check for finding in bad)}", hint="; ".join(hints)
        )
    if check_only:
        return
    verdict = boot_image(image, BootOptions(machine=machine, timeout=timeout, logs=logs))
    if as_json:
        console.print_json({"boot_chain": plain(chain), "verdict": verdict.as_json()})
    else:
        console.print_table(("verdict", "", "seen from outside"), verdict.rows())
    verdict.require()


COMMANDS = (inspect, diff, boot)
