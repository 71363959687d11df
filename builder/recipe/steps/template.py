"""Step kind `template`: a file rendered from a Jinja2 template."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes
from pydantic import Field

from builder.documents.spelling import did_you_mean
from builder.errors import Mark, Problem, StepError
from builder.host.templates import environment
from builder.recipe.steps.base import Place, Step, Target
from builder.recipe.steps.fields import (
    Mode,
    Owner,
    TargetPath,
    default_mode,
    is_executable,
    source_path,
    source_problem,
)
from builder.recipe.steps.rootfiles import RootFiles

_GUARDS = {"defined", "undefined", "default", "d"}  # tests and filters that are there for undefined names


class TemplateStep(Step):
    """Render a Jinja2 template with the recipe's variables and put the text into the root.

    A variable that is not defined is an error at its place in the template. `{% include %}` finds the files beside the
    template. Line ends are kept, blocks on lines of their own leave no empty lines (trim_blocks, lstrip_blocks).

    ```yaml
    - template:
        source: ../overlays/templates/chrony.conf.j2   # relative to this recipe file
        path: /etc/chrony/chrony.conf
        variables: {servers: [192.168.1.1]}            # beside, and before, the recipe's variables
        owner: root:root
        mode: '0644'
    ```
    """

    source: str = Field(description="The template, relative to the recipe file.")
    path: TargetPath = Field(description="Where the text goes: an absolute path in the root.")
    variables: dict[str, Any] = Field(default_factory=dict, description="Variables beside the recipe's.")
    owner: Owner = Field(default="root:root", description="`user:group` as the root knows them.")
    mode: Mode | None = Field(
        default=None, description="Quoted octal mode. Default: '0755' for an executable template, else '0644'."
    )

    def check(self, at: Place) -> list[Problem]:
        """Find a missing template, wrong syntax and undefined variables."""
        missing = source_problem(at, self.source)
        if missing:
            return [missing]
        template = source_path(at, self.source)
        return list(_problems(template, {**at.variables, **self.variables}))

    def inputs(self, at: Place) -> object:
        """Return the digest of the rendered text, and the executable bit."""
        return [hashlib.sha256(self._text(at)).hexdigest(), is_executable(source_path(at, self.source))]

    def apply(self, target: Target, at: Place) -> None:
        """Write the rendered text."""
        files = RootFiles(target, at)
        default = default_mode(executable=is_executable(source_path(at, self.source)))
        mode = default if self.mode is None else int(self.mode, 8)
        files.write(self.path, self._text(at), owner=files.owner(self.owner), mode=mode)

    def _text(self, at: Place) -> bytes:
        template, variables = source_path(at, self.source), {**at.variables, **self.variables}
        problem = next(_problems(template, variables), None)
        if problem:
            raise StepError(f"{at.mark}: {problem.mark}: {problem.message}", hint=problem.hint)
        return environment(template.parent).get_template(template.name).render(variables).encode()


def _problems(template: Path, variables: Mapping[str, object]) -> Iterator[Problem]:
    """Yield what keeps a template from being rendered: all undefined names, else the first failure."""
    rendering = environment(template.parent)
    tree = None
    try:
        tree = rendering.parse(template.read_text(), filename=str(template))
        rendering.get_template(template.name).render(variables)
    except jinja2.UndefinedError as error:
        undefined = list(_undefined(tree, variables, template)) if tree else []
        failed = _failure(error, template)
        if not any(problem.mark and failed.mark and problem.mark.line == failed.mark.line for problem in undefined):
            yield failed
        yield from undefined
    except jinja2.TemplateSyntaxError as error:
        message, _, more = (error.message or "wrong syntax").removesuffix(".").partition(". ")
        mark = Mark(file=Path(error.filename or template), line=error.lineno, column=1)
        yield Problem(message=f"template: {message[:1].lower()}{message[1:]}", mark=mark, hint=more)
    except jinja2.TemplateNotFound as error:
        yield Problem(message=f"template: no such template: {error.name}", mark=_failure(error, template).mark)
    except UnicodeDecodeError:
        yield Problem(message="template: not UTF-8 text", mark=Mark(file=template, line=1, column=1))
    except Exception as error:  # noqa: BLE001 - whatever an expression of the template's raises is the template's fault
        yield _failure(error, template)


def _undefined(tree: nodes.Template, variables: Mapping[str, object], template: Path) -> Iterator[Problem]:
    unknown = meta.find_undeclared_variables(tree) - set(variables)
    guarded = {
        name.name
        for guard in (*tree.find_all(nodes.Test), *tree.find_all(nodes.Filter))
        if guard.name in _GUARDS
        for name in guard.find_all(nodes.Name)
    }
    first: dict[str, int] = {}
    for name in tree.find_all(nodes.Name):
        first.setdefault(name.name, name.lineno)
    for unguarded in sorted(unknown - guarded, key=lambda name: first[name]):
        near = did_you_mean(unguarded, variables).removeprefix("; ")
        yield Problem(
            message=f"template: '{unguarded}' is not defined",
            mark=Mark(file=template, line=first[unguarded], column=1),
            hint=near or "declare it under variables, in the recipe or in this step",
        )


def _failure(error: Exception, template: Path) -> Problem:
    """Return a failure with the innermost line of a template of that directory; Jinja2 rewrites the traceback so."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if Path(frame.filename).parent == template.parent]
    file, line = (Path(inside[-1].filename), inside[-1].lineno or 1) if inside else (template, 1)
    return Problem(message=f"template: {error}", mark=Mark(file=file, line=line, column=1))
