"""The commands that look at built images: inspect, diff, boot. None needs root, none mounts anything."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from builder import console
from builder.cli import tables
from builder.cli.complete import boards as known_boards
from builder.cli.options import cluster_option, dest_option, example, image_argument, json_option, plain, table_options
from builder.cli.selection import Selection, selection_options
from builder.errors import VerdictError
from builder.firmware.boards import NAMES


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
    from builder.image.open import open_image
    from builder.verify import inspect as inspect_image

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
    from builder.image.open import open_image
    from builder.verify import diff as diff_images

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
        "# nodes, as they boot from what was exploded: their files, in their roots, on a network of their own",
        "sudo pibuild boot --node yellow3 --node yellow4 --netboot --dest /srv/netboot",
        "sudo pibuild boot --node yellow3 --netboot --explain",
    )
)
@click.argument("image", type=click.Path(path_type=Path), required=False)
@selection_options
@click.option("--netboot", is_flag=True, help="Boot nodes over the network, from their exploded roots. Needs root.")
@click.option("--explain", is_flag=True, help="With --netboot: list the files that a board asks for, and stop.")
@click.option("--server", metavar="ADDRESS", help="With --netboot: explain what this TFTP server has for NODE.")
@cluster_option
@dest_option
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
    shell_complete=known_boards,
    help=f"Check for this board, one of {NAMES}; repeatable; default: those that IMAGE is made for.",
)
@click.option("--check-only", is_flag=True, help="Check the files of the boot chain; start no machine.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    default=900,
    show_default=True,
    help="Seconds to wait for all checks.",
)
@click.option("--logs", type=click.Path(file_okay=False, path_type=Path), help="Keep the console logs here.")
@table_options
def boot(
    image: Path | None,
    chosen: Selection,
    netboot: bool,
    explain: bool,
    server: str | None,
    cluster_file: Path | None,
    dest: Path | None,
    machine: Literal["virt", "raspi3b", "raspi4b"],
    boards: tuple[str, ...],
    check_only: bool,
    timeout: int,
    logs: Path | None,
    as_json: bool,
) -> None:
    """Boot an image or nodes: the verdict.

    Checks the files of IMAGE's boot chain, then boots a throw-away copy and looks at it from outside. With --netboot,
    each NODE fetches what its board's bootloader fetches from real servers, boots it, and is looked at the same way.
    Exits with 6 when a check fails. With --json every check has the keys check, result (ok,
    broken, unknown, warning, note), seen and hint.
    """
    if netboot or chosen.given or explain or server:
        if image is not None or not (netboot and chosen.given):
            raise click.UsageError("nodes are booted by: pibuild boot --node NODE --netboot")
        _netboot(
            chosen, cluster_file, dest, explain=explain, server=server, timeout=timeout, logs=logs, as_json=as_json
        )
    elif image is None:
        raise click.UsageError("Missing argument 'IMAGE', or: --node NODE --netboot")
    else:
        _boot_image(image, boards, machine, check_only=check_only, timeout=timeout, logs=logs, as_json=as_json)


def _netboot(
    chosen: Selection,
    cluster_file: Path | None,
    dest: Path | None,
    *,
    explain: bool,
    server: str | None,
    timeout: int,
    logs: Path | None,
    as_json: bool,
) -> None:
    from builder.cli.lab import explain_netboot, netboot
    from builder.inventory.load import find_inventory, load_inventory
    from builder.lab.lab import LabOptions

    inventory = load_inventory(find_inventory(cluster_file))
    nodes = chosen.of(inventory)
    where = dest or Path(inventory.cluster.netboot)
    if explain or server:
        explain_netboot(inventory, nodes, where, server=server, as_json=as_json)
    else:
        import tempfile

        kept = logs or Path(tempfile.mkdtemp(prefix="pibuild-console-"))
        netboot(inventory, nodes, where, LabOptions(logs=kept), timeout=timeout, as_json=as_json)


def _boot_image(
    image: Path,
    boards: tuple[str, ...],
    machine: Literal["virt", "raspi3b", "raspi4b"],
    *,
    check_only: bool,
    timeout: int,
    logs: Path | None,
    as_json: bool,
) -> None:
    from builder.image.open import open_image
    from builder.verify.boot_chain import check_boot_chain
    from builder.verify.finding import rows
    from builder.verify.qemu import BootOptions, boot_image

    with open_image(image) as opened:
        chain = check_boot_chain(opened, boards)
    bad = [finding for finding in chain if finding.broken]
    if not as_json:
        console.print_table(tables.FINDINGS, rows(chain), title="boot chain")
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
        console.print_table(tables.FINDINGS, rows(verdict.checks), title="verdict")
    verdict.require()
