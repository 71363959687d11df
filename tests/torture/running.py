"""What runs machines and servers: boot, lab, fleet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time

from builder.run import run
from tests.images import DEBIAN, make_image
from tests.system.test_fleet import AGENT
from tests.torture.harness import Command, Left, Loss, Room, ended, said
from tests.torture.making import packed
from tests.torture.netboot import Nodes

LISTEN = 30.0  # seconds


class Boot:
    """`boot`: no machine goes on, and the next run sweeps its disks and its key."""

    name, weight, span, whole = "boot", 2, 2.0, False

    def __init__(self, room: Room) -> None:
        self.room, self.home = room, room.place("boot")
        self.image = packed(make_image(self.home / "base.img", DEBIAN))

    def command(self) -> Command:
        return Command(words=("boot", self.image, "--timeout", "2", "--logs", self.home / "logs"))

    def check(self) -> None:
        pass

    def again(self) -> None:
        self.command().to_its_end(self.room.log, may=(6,))
        self.room.check_swept()


class Lab:
    """`lab`: whoever of its processes is killed, nothing of it goes on, and the next one can begin."""

    name, weight, span, whole = "lab", 1, 3.0, False

    def __init__(self, room: Room) -> None:
        self.nodes = Nodes.make(room, "lab")
        self.room = room

    def command(self) -> Command:
        return Command(words=("lab", "up", "yellow3", *self.nodes.at()))

    def check(self) -> None:
        pass

    def again(self) -> None:
        """Take down what a killed `lab up` left to go on, and try once more."""
        self._down()
        self.command().to_its_end(self.room.log)
        self._down()
        if (self.nodes.netboot.dest / "lab").exists():
            raise Left("DEST/lab")

    def _down(self) -> None:
        Command(words=("lab", "down", *self.nodes.at())).to_its_end(self.room.log)


class FleetServer:
    """`fleet serve`: what was answered is there after a kill."""

    name, weight, span, whole = "fleet", 5, 1.0, False

    def __init__(self, room: Room) -> None:
        self.room, self.home = room, room.place("serve")
        token = self.home / "netboot/state/yellow3/fleet-token"
        token.parent.mkdir(parents=True)
        token.write_text("ab" * 32 + "\n")
        (self.home / "node").mkdir()
        (self.home / "node/token").write_text("ab" * 32)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.reported = False

    def command(self) -> Command:
        """Serve, answer one report, and be killed in the middle of another."""
        return self._serve()

    def _serve(self) -> Command:
        words = ("fleet", "serve", "--listen", f"127.0.0.1:{self.port}", "--database", self.home / "fleet.db")
        return Command(words=(*words, "--dest", self.home / "netboot"))

    def check(self) -> None:
        if self.reported and "yellow3" not in self._listed():
            raise Loss("what was answered is forgotten")

    def _listed(self) -> list[str]:
        log = self.home / "listed"
        Command(words=("fleet", "list", "--json", "--database", self.home / "fleet.db")).to_its_end(log)
        text = log.read_text()
        return [row["node"] for row in json.loads(text[text.index("[") :])]

    def again(self) -> None:
        process = self._serve().start(self.room.log)
        try:
            until = time.monotonic() + LISTEN
            while "listening on" not in said(self.room.log):
                if time.monotonic() > until:
                    raise Loss(f"it does not serve again: {said(self.room.log)}")
                time.sleep(0.01)
            self._report()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
            ended(process, self.room.log, may=(143,))
        self.check()

    def _report(self) -> None:
        (self.home / "node/due").unlink(missing_ok=True)
        env = {
            "NODE_NAME": "yellow3",
            "FLEET_URL": f"http://127.0.0.1:{self.port}",
            "FLEET_IMAGE": "7721a68c6d09ba94" * 4,
            "FLEET_CA": "/nonexistent",
            "FLEET_MODELS": str(self.home / "node/models"),
            "RUNTIME_DIRECTORY": str(self.home / "node"),
            "CREDENTIALS_DIRECTORY": str(self.home / "node"),
        }
        done = run([AGENT, "report"], env=env, check=False, timeout=60)
        if done.returncode != 0:
            raise Loss(f"a report is not taken: {done.stdout}{done.stderr}")
        self.reported = True
