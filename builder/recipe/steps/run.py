"""Step kind `run`: a program or a shell script inside the root."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from builder.errors import Problem, StepError
from builder.recipe.steps.base import Place, Step, Target

_TRACE = "+pibuild: "
_TRACED = re.compile(r"\++pibuild: (.*)")
# The script is read whole before it begins, so that no program in it can read the rest of it from standard input.
# Tracing tells which command failed; dash knows no $LINENO.
_SHELL = ("/bin/sh", "-euc", f"PS4='{_TRACE}'; eval \"set -x; $(cat)\"")
_SHEBANG = re.compile(r"#!\s*(/bin/sh|/usr/bin/env\s+sh)(\s|$)")


def _environment_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(f"'{value}' is not the name of an environment variable")
    return value


class RunStep(Step):
    """Run a shell script (`/bin/sh -eu`) or one program inside the root.

    It has no network unless `network: true` says so, nothing on standard input, and `/` as its directory. A script
    ends with the first command that fails. What it downloads is neither locked nor verified: prefer the download step.

    ```yaml
    - run:
        script: |
          locale-gen
          update-ca-certificates
    - run:
        argv: [systemd-sysusers, /usr/lib/sysusers.d/report.conf]
        environment: {SYSTEMD_LOG_LEVEL: info}
        network: false
    ```
    """

    script: str | None = Field(default=None, description="A script for /bin/sh -eu.")
    argv: tuple[str, ...] | None = Field(default=None, min_length=1, description="A program and its arguments.")
    network: bool = Field(default=False, description="Let it use the network.")
    environment: dict[Annotated[str, AfterValidator(_environment_name)], str] = Field(
        default_factory=dict, description="Environment variables beside the usual."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.script is None) == (self.argv is None):
            raise ValueError("either script or argv says what to run" + (", not both" if self.argv else ""))
        return self

    def check(self, at: Place) -> list[Problem]:  # noqa: ARG002 - nothing depends on the place
        """Find an empty script and one that is for another interpreter."""
        if self.script is None:
            return []
        if not self.script.strip():
            return [Problem(message="run: the script is empty")]
        first = self.script.lstrip().splitlines()[0]
        if first.startswith("#!") and not _SHEBANG.match(first):
            hint = "put the program into the root with a files step, and run it with argv"
            return [Problem(message=f"run: a script is for /bin/sh, not for {first[2:].strip()}", hint=hint)]
        return []

    def inputs(self, at: Place) -> object:  # noqa: ARG002
        """Return nothing: the commands alone decide."""
        return None

    def apply(self, target: Target, at: Place) -> None:  # noqa: ARG002 - the target's errors know the place
        """Run it. A script's StepError names the command that failed."""
        if self.argv is not None:
            target.run(self.argv, network=self.network, env=self.environment)
            return
        script = (self.script or "").encode()
        try:
            target.run(_SHELL, network=self.network, env=self.environment, input=script)
        except StepError as error:
            raise StepError(_without_trace(error.message), hint=error.hint) from error


def _without_trace(message: str) -> str:
    """Return an error's message without the shell's trace, but for the last command of it: the one that failed."""
    lines = message.replace(shlex.join(_SHELL), "/bin/sh -eu script").splitlines()
    traced = [found[1] for line in lines if (found := _TRACED.fullmatch(line))]
    rest = [line for line in lines if not _TRACED.fullmatch(line)]
    return "\n".join([*rest[:1], *([f"the command that failed: {traced[-1]}"] if traced else []), *rest[1:]])
