"""Which nodes a command is about: NODE, --node, --role, --group, --all, the same for all that take several."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from builder.cli.complete import groups, nodes, roles
from builder.cli.options import Function

if TYPE_CHECKING:
    from builder.inventory.nodes import Inventory, Node

node_argument = click.argument("name", metavar="NODE", shell_complete=nodes)
_named = click.argument("names", metavar="[NODE]...", nargs=-1, shell_complete=nodes)
_options = (
    click.option(
        "--node",
        "more",
        metavar="NODE",
        multiple=True,
        shell_complete=nodes,
        help="A node, by name or alias; repeatable.",
    ),
    click.option("--role", metavar="ROLE", shell_complete=roles, help="All nodes of a role."),
    click.option("--group", metavar="GROUP", shell_complete=groups, help="All nodes of a group."),
    click.option("--all", "everything", is_flag=True, help="All nodes; where they boot over the network, those."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a person said of which nodes."""

    names: tuple[str, ...] = ()
    role: str | None = None
    group: str | None = None
    everything: bool = False

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        return bool(self.names or self.role or self.group or self.everything)

    def require(self) -> None:
        """Raise click's UsageError unless it was said which nodes."""
        if not self.given:
            raise click.UsageError("say which nodes: NODE, --role, --group or --all")

    def of(self, inventory: Inventory) -> tuple[Node, ...]:
        """Return the nodes; all where nothing was said. Raises InputError for what the inventory does not have."""
        return inventory.select(
            self.names, role=self.role, group=self.group, everything=self.everything or not self.given
        )


def selection(command: Function) -> Function:
    """Add what says which nodes; the command gets it as `chosen`."""
    return _named(selection_options(command))


def selection_options(command: Function) -> Function:
    """Add the options alone, for a command whose arguments are no nodes."""

    @functools.wraps(command)
    def chosen(
        *words: Any,
        more: tuple[str, ...],
        role: str | None,
        group: str | None,
        everything: bool,
        names: tuple[str, ...] = (),
        **others: Any,
    ) -> Any:
        said = Selection(names=(*names, *more), role=role, group=group, everything=everything)
        return command(*words, chosen=said, **others)

    for option in reversed(_options):
        option(chosen)
    return cast("Function", chosen)
