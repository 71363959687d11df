"""Commands by name: an unknown one gets the nearest suggestion, also for words of other programs."""

from __future__ import annotations

import click

# what people type, as other tools call it, and what does it here
ELSEWHERE = {
    "show": "inspect IMAGE, node explain NODE",
    "status": "fleet list, lab status, services check",
    "info": "inspect IMAGE",
    "describe": "node explain NODE, inspect IMAGE",
    "ls": "node list, models list, fleet list",
    "list": "node list, models list, fleet list, backup list NODE",
    "nodes": "node list",
    "run": "boot IMAGE, lab up NODE",
    "start": "lab up NODE, boot IMAGE",
    "stop": "lab down",
    "up": "lab up NODE",
    "down": "lab down",
    "ssh": "lab ssh NODE",
    "deploy": "explode NODE, services apply",
    "push": "models publish FILE",
    "publish": "models publish FILE",
    "apply": "services apply",
    "render": "services render",
    "check": "services check, boot IMAGE --check-only",
    "validate": "plan RECIPE",
    "create": "build RECIPE, node add NODE",
    "make": "build RECIPE",
    "add": "node add NODE",
    "import": "node import FILE",
    "rename": "node rename NODE NEW",
    "explain": "node explain NODE",
    "remove": "node remove NODE",
    "rm": "node remove NODE",
    "delete": "node remove NODE",
    "undo": "rollback NODE",
    "revert": "rollback NODE",
    "clean": "gc, node gc, models gc",
    "prune": "gc, node gc, models gc",
    "version": "--version",
    "help": "--help",
}


class Commands(click.Group):
    """A group that says what was meant by a name that it does not have."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names. Raises UsageError with what was meant."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"No such command '{args[0]}'.{self._meant(ctx, args[0])}")
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: click.Context, word: str) -> str:
        from difflib import get_close_matches

        own = self.list_commands(ctx)
        near = get_close_matches(word.casefold(), own, n=1, cutoff=0.6)
        root = ctx.find_root()
        program = root.info_name or "pibuild"
        if near:
            return f" Did you mean '{ctx.command_path} {near[0]}'?"
        if word in ELSEWHERE:
            return f" That is: {', '.join(f'{program} {command}' for command in ELSEWHERE[word].split(', '))}"
        below = [
            f"{program} {name} {word}"
            for name in root.command.list_commands(root)  # type: ignore[attr-defined]
            if isinstance(group := root.command.get_command(root, name), click.Group)  # type: ignore[attr-defined]
            and word in group.list_commands(ctx)
        ]
        return f" Did you mean {' or '.join(below)}?" if below else f" '{ctx.command_path} --help' lists them."
