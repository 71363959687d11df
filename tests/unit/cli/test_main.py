"""The command line: help, exit codes, and that no failure is a traceback."""

import errno
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from builder.cli import main as cli
from builder.cli.options import plain
from builder.errors import FetchError, HostError, InputError, Mark, PibuildError, Problem, StepError, VerdictError
from builder.run import run, spawn
from tests.clusters import LAB


def _walk(group: click.Group, *words: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield " ".join([*words, name]), command
        if isinstance(command, click.Group):
            yield from _walk(command, *words, name)


COMMANDS = dict(_walk(cli.pibuild))
REFERENCE = Path(__file__).parents[3] / "docs" / "commands.md"


@pytest.fixture
def failing() -> Iterator[Callable[[BaseException], None]]:
    """Give the group a command `fail` that raises what it is told to."""

    def add(error: BaseException) -> None:
        @cli.pibuild.command("fail")
        def fail() -> None:
            raise error

    yield add
    cli.pibuild.commands.pop("fail", None)
    assert "fail" not in cli.pibuild.commands


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_says_what_every_option_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command([*name.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert f"pibuild {name}" in said.split("Example:")[1]
    command = COMMANDS[name]
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    if " " not in name:
        assert len(command.get_short_help_str(limit=100)) <= 45  # or the list of commands cuts it off


@pytest.mark.parametrize("name", ["plan", "build", "lock", "inspect", "diff", "boot", "gc"])
def test_what_a_program_would_read_has_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in cli.pibuild.commands[name].params)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bild"], "No such command 'bild'"),
        (["build"], "Missing argument 'RECIPE'"),
        (["build", "x.yaml", "--set", "colour"], "'colour' is not name=value"),
        (["build", "x.yaml", "--attach", "nbd"], "'nbd' is not one of"),
        (["build", "x.yaml", "--artifacts", "/nonexistent"], "does not exist"),
        (["gc", "--keep-days", "-1"], "-1 is not in the range"),
        (["completion", "cmd.exe"], "'cmd.exe' is not one of"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError(Problem(message="no such key", mark=Mark(file=Path("a.yaml"), line=3, column=5))), 2),
        (HostError("mke2fs is not installed", hint="sudo apt-get install e2fsprogs"), 3),
        (StepError("a.yaml:3: false: exit code 1"), 4),
        (FetchError("no answer"), 5),
        (VerdictError("it does not boot"), 6),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_failure_is_a_message_and_its_exit_code(
    error: PibuildError, code: int, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert cli.run_command(["fail"]) == code
    shown = capsys.readouterr()
    assert shown.err == f"error: {error}\n"
    assert shown.out == ""


def test_a_bug_is_one_line_with_its_place(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(ZeroDivisionError("no [bold] idea"))
    assert cli.run_command(["fail"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: internal error: ZeroDivisionError: no [bold] idea (test_main.py:")
    assert "PIBUILD_DEBUG=1" in said
    assert "Traceback" not in said


def test_debug_shows_the_traceback(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIBUILD_DEBUG", "1")
    failing(KeyError("lost"))
    assert cli.run_command(["fail"]) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "KeyError: 'lost'" in said


def test_a_full_disk_names_the_file(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/var/cache/pibuild/tmp/x"))
    assert cli.run_command(["fail"]) == 3
    assert "/var/cache/pibuild/tmp/x: No space left on device" in capsys.readouterr().err


def test_ctrl_c_is_one_line(failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    failing(KeyboardInterrupt())
    assert cli.run_command(["fail"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.tools
def test_a_reader_that_goes_away_hears_nothing() -> None:
    shell = run(["sh", "-c", f"{sys.executable} -m builder schema | true; {sys.executable} -m builder --help | true"])
    assert (shell.stdout, shell.stderr) == ("", "")


@pytest.mark.tools
def test_a_kill_unwinds_as_ctrl_c_does(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from builder.cli import main as cli\n"
        "@cli.pibuild.command('wait')\n"
        "def wait():\n"
        "    try:\n"
        "        print('waiting', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('unwound', flush=True)\n"
        "sys.argv[1:] = ['wait']\n"
        "cli.main()\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as said, spawn([sys.executable, "-c", script], stdout=said) as process:
        while "waiting" not in log.read_text() and process.poll() is None:
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 143
    assert log.read_text() == "waiting\nunwound\n"


SLOW = {"pydantic", "requests", "rich", "yaml", "jinja2", "parted", "email", "importlib.metadata"}
MODULES = {f"builder.cli.{module}" for module, _ in cli.COMMANDS.values()}
STATIONS = {"builder.build.pipeline", "builder.verify.qemu", "builder.inventory.read", "builder.netboot.explode"}


def _imported(*arguments: str, env: dict[str, str] | None = None) -> set[str]:
    """Return the modules that the program imports to do what the arguments say."""
    timed = run([sys.executable, "-X", "importtime", "-m", "builder", *arguments], env=env)
    assert timed.stdout
    return {line.rpartition("|")[2].strip() for line in timed.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.tools
@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--version"], {"click", "dataclasses", "builder.cli"}),
        (["--help"], MODULES),
        (["completion", "bash"], {"builder.cli.node", "builder.cli.build"}),
        (["build", "--help"], {"builder.cli.node", "builder.cli.services"}),
        (["node", "list", "--help"], {"builder.cli.build", "builder.cli.services"}),
    ],
    ids=" ".join,
)
def test_it_starts_quickly_because_commands_import_their_own_stations(arguments: list[str], more: set[str]) -> None:
    assert not _imported(*arguments) & (SLOW | STATIONS | more)


@pytest.mark.tools
def test_completion_starts_quickly() -> None:
    words = {"_PIBUILD_COMPLETE": "bash_complete", "COMP_WORDS": "pibuild no", "COMP_CWORD": "1"}
    assert not _imported(env=words) & (SLOW | STATIONS | MODULES)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_of_commands_says_of_each_what_it_says_of_itself(name: str) -> None:
    assert cli.COMMANDS[name][1] == cli.pibuild.commands[name].get_short_help_str(limit=120)


def test_commands_and_options_are_completed() -> None:
    context = click.Context(cli.pibuild)
    found = [(item.value, item.help) for item in cli.pibuild.shell_complete(context, "in")]
    assert found == [("init", "Make a place to work."), ("inspect", "Show what is in an image.")]
    assert "--version" in [item.value for item in cli.pibuild.shell_complete(context, "--")]


@pytest.mark.tools
def test_commands_that_only_read_a_known_inventory_start_quickly(tmp_path: Path) -> None:
    own = {"PIBUILD_CACHE": str(tmp_path)}  # in the machine's, another inventory may take its place meanwhile
    for command in (["node", "list"], ["node", "list", "--json"], ["services", "render", "--role", "backup"]):
        arguments = [*command, "--cluster", str(LAB)]
        run([sys.executable, "-m", "builder", *arguments], env=own)  # from here on it is known
        assert not _imported(*arguments, env=own) & {*SLOW - {"jinja2"}, *STATIONS}
    compared = _imported("services", "diff", "--root", str(tmp_path), "--cluster", str(LAB), env=own)
    assert not compared & {*SLOW - {"jinja2"}, *STATIONS, "subprocess", "ctypes", "builder.services.check"}


@pytest.mark.tools
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["completion", shell]) == 0
    assert "_PIBUILD_COMPLETE" in capsys.readouterr().out


def test_schema_is_the_same_on_stdout_and_in_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "recipe.schema.json"
    assert cli.run_command(["schema"]) == 0
    assert cli.run_command(["schema", "-o", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(file.read_text())
    assert "layers" in file.read_text()


def test_settings_keep_what_comes_after_the_first_equals_sign() -> None:
    context = cli.pibuild.commands["plan"].make_context("plan", ["r.yaml", "--set", "a=b=c", "--set", "d="])
    assert context.params["settings"] == {"a": "b=c", "d": ""}


def test_plain_is_what_json_has() -> None:
    mark = Mark(file=Path("a"), line=1, column=2)
    assert plain({"set": {"b", "a"}, "mark": mark, "list": (mark,)}) == {
        "set": ["a", "b"],
        "mark": {"file": "a", "line": 1, "column": 2},
        "list": [{"file": "a", "line": 1, "column": 2}],
    }


def _reference() -> str:
    """Return docs/commands.md: every command with its words, its options and its example."""
    parts = ["# Commands\n\nWritten from the commands themselves: `pytest tests/unit/cli/test_main.py --regenerate`.\n"]
    for name, command in COMMANDS.items():
        arguments = " ".join(p.human_readable_name for p in command.params if isinstance(p, click.Argument))
        words = inspect.cleandoc(command.help or "")
        example = "\n".join(line.strip() for line in (command.epilog or "").splitlines()[2:])
        options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        rows = [f"| {_spelt(p)} | {p.help or ''}{_values(p)}{_default(p)} |" for p in options]
        parts.append(
            f"## pibuild {name} {arguments}".rstrip()
            + f"\n\n{words}\n"
            + ("\n| option | |\n| --- | --- |\n" + "\n".join(rows) + "\n" if rows else "")
            + f"\n```sh\n{example}\n```\n"
        )
    return "\n".join(parts)


def _spelt(option: click.Option) -> str:
    """Return every way to write an option: its short form, what turns it off, and what it takes."""
    metavar = f" {option.metavar}" if option.metavar else ""
    return ", ".join(f"`{name}{metavar}`" for name in (*option.opts, *option.secondary_opts))


def _values(option: click.Option) -> str:
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    return f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""


def _default(option: click.Option) -> str:
    if not option.show_default:
        return ""
    off = option.secondary_opts and not option.default
    default = (option.secondary_opts if off else option.opts)[0] if option.secondary_opts else option.default
    return f" Default: `{default}`."


def test_the_reference_says_what_the_commands_say(golden: Callable[[Path, str], None]) -> None:
    golden(REFERENCE, _reference())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "goldne"], "no recipe 'goldne'; did you mean 'golden'?"),
        (["plan", "nothing-like-it"], "name a file, or one of debian, golden, "),
        (["lock", "recipes/here/golden.yaml"], "hint: the one that comes with pibuild: pibuild lock golden"),
    ],
)
def test_a_recipe_that_is_neither_file_nor_name(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run_command(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_shipped_recipe_is_planned_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "golden").mkdir()  # a directory of that name is no recipe
    monkeypatch.setenv("PIBUILD_CACHE", str(tmp_path / "cache"))
    assert cli.run_command(["plan", "golden", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "golden"


def test_a_named_file_comes_before_a_shipped_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "golden").write_text("name: other\nbase: {bootstrap: {distribution: debian, suite: trixie}}\n")
    monkeypatch.setenv("PIBUILD_CACHE", str(tmp_path / "cache"))
    assert cli.run_command(["plan", "golden", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "other"
