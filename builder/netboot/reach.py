"""A node as the login node reaches it: ssh as its user with the login node's key, root by sudo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from builder.host.scratch import temporary
from builder.host.ssh import Shell, known_host
from builder.inventory.nodes import Node
from builder.netboot.layout import Netboot
from builder.netboot.state import host_keys, known_hosts_file, login_key_file
from builder.run import Argv, Completed

_PATIENCE = 600  # seconds for a command
_ALIVE = 20  # seconds for a node to answer
_CONNECTING = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoot:
    """Root on a node. A node whose host keys are in the state answers with one of them or not at all."""

    netboot: Netboot
    node: Node

    def run(self, argv: Argv, *, stdin: bytes = b"", timeout: float = _PATIENCE) -> Completed:
        """Run a command as root there. Raises CommandError, HostError."""
        hint = f"is it up, and does it know the login node's key? {login_key_file(self.netboot)}.pub"
        with self._shell() as shell:
            command = ["sudo", "-n", *argv]
            return shell.call(command, stdin=stdin, timeout=timeout, what=f"on {self.node.name}", hint=hint)

    def check(self, *command: str) -> None:
        """Raise HostError or CommandError unless the node can be reached as root, and a command succeeds there."""
        self.run(command or ["true"], timeout=_ALIVE)

    @contextmanager
    def _shell(self) -> Iterator[Shell]:
        with temporary("ssh") as scratch:
            known, learns = known_hosts_file(self.netboot), True
            if self.node.boot == "network":
                known, learns = scratch / "known_hosts", False
                lines = [known_host(str(self.node.address), key) for key in host_keys(self.netboot, self.node)]
                known.write_text("".join(lines))
            yield Shell(
                user=self.node.user,
                key=login_key_file(self.netboot),
                host=str(self.node.address),
                known_hosts=known,
                learns=learns,
                connecting=_CONNECTING,
            )
