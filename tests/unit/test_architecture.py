"""The rules of docs/architecture.md that a reader of the tree relies on."""

import ast
import graphlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.run import run

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "builder"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Folders from the bottom up; "" is the ground, the modules beside them. A module imports from its own folder and from
# those before it.
FOLDERS = (
    "",
    "host",
    "documents",
    "modelstore",
    "firmware",
    "packages",
    "kubernetes",
    "emulation",
    "image",
    "inventory",
    "recipe",
    "monitoring",
    "fleet",
    "verify",
    "build",
    "netboot",
    "backup",
    "services",
    "lab",
    "cli",
)
OWN_PROGRAMS = {"chroot_init"}  # run by another Python as scripts, so they can import nothing of pibuild's
SPEAK = {*OWN_PROGRAMS, "__main__"}  # print beside the console: __main__ the version, for which it imports nothing
MODULE_LIST = ("<!-- modules: written by pytest --regenerate -->\n", "<!-- end of modules -->\n")

FORBIDDEN_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "core",
    "manager",
    "managers",
    "misc",
    "factory",
    "context",
}
MODULE_LINES = 450
FUNCTION_LINES = 60

# Addresses that name a format, a licence or an example. Where packages come from, the machine or the recipe says.
ALLOWED_ADDRESSES = re.compile(
    r"https?://(spdx\.org/|json-schema\.org/|([a-z0-9.-]+\.)?example(\.(com|org|net))?[/:\"'`\s)]|\{|127\.0\.0\.1|localhost)"
)
ADDRESS = re.compile(r"https?://[A-Za-z0-9][^\s\"'`<>)]*.?")


_PACKAGES = {".".join(path.parent.relative_to(PROJECT).parts) for path in PACKAGE.rglob("__init__.py")}


def _name(path: Path) -> str:
    """`builder/recipe/steps/files.py` → `steps.files`; a package is its own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _layer(module: str) -> int:
    """Return the place of a module's folder; whatever is beside the folders is the ground, `__main__` the roof."""
    folder, _, name = module.partition(".")
    if module == "__main__":
        return len(FOLDERS)
    return FOLDERS.index(folder) if name or folder in FOLDERS else 0


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield every module that a tree imports, wherever in it, with its line. `from builder import x` is `builder.x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module in _PACKAGES:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def _check(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_one_way(path: Path) -> None:
    importer = _name(path)
    wrong = []
    for imported, line in _imports(_check(path)):
        package, _, module = imported.partition(".")
        if package == "builder" and _layer(module) > _layer(importer) and module != "__version__":
            wrong.append(f"{path.name}:{line} imports {imported}, which stands above it")
    assert not wrong


def test_every_folder_has_its_place() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FOLDERS) - {""}
    tested = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert tested - {"golden"} <= folders


def _module_list() -> str:
    """Return what docs/architecture.md says of folders and modules: the first lines of their docstrings."""
    lines = []
    for folder in FOLDERS:
        home = PACKAGE / folder
        told = ast.get_docstring(_check(home / "__init__.py")) or ""
        lines.append(f"\n### builder/{folder}\n\n{told.partition(chr(10))[0]}\n" if folder else "")
        for path in sorted(home.rglob("*.py") if folder else home.glob("*.py")):
            if path.name != "__init__.py":
                first = (ast.get_docstring(_check(path)) or "").partition("\n")[0]
                lines.append(f"- `{path.relative_to(home).with_suffix('')}`: {first}")
    return "\n".join(lines).lstrip("\n") + "\n"


def test_the_documentation_lists_the_modules_there_are(golden: Callable[[Path, str], None]) -> None:
    path = PROJECT / "docs/architecture.md"
    text = path.read_text()
    begin, end = MODULE_LIST
    before, after = text.partition(begin)[0], text.partition(end)[2]
    golden(path, f"{before}{begin}\n{_module_list()}\n{end}{after}")


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        f"builder.{_name(path)}": {name for name, _ in _imports(_check(path)) if name.startswith("builder.")}
        for path in MODULES
    }
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(("library", "owner"), [("subprocess", "run.py"), ("rich", "console.py")])
def test_one_module_imports(library: str, owner: str) -> None:
    importers = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if any(name.partition(".")[0] == library for name, _ in _imports(_check(path)))
    }
    assert importers == {owner}


def test_one_module_says_how_ssh_is_run() -> None:
    said = re.compile(r"StrictHostKeyChecking|UserKnownHostsFile|BatchMode")
    assert [_name(path) for path in MODULES if said.search(path.read_text())] == ["host.ssh"]


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem not in SPEAK], ids=_name)
def test_only_the_console_prints_and_only_run_spawns(path: Path) -> None:
    wrong = []
    for node in ast.walk(_check(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "print" or called in ("click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"):
            wrong.append(f"{path.name}:{node.lineno} {called}: print through builder.console")
        if called in ("os.system", "os.popen") or called.startswith(("os.posix_spawn", "os.spawn")):
            wrong.append(f"{path.name}:{node.lineno} {called}: spawn through builder.run")
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_and_functions_stay_readable(path: Path) -> None:
    wrong = []
    lines = len(path.read_text().splitlines())
    if lines > MODULE_LINES:
        wrong.append(f"{path.name} has {lines} lines; split it along a seam (at most {MODULE_LINES})")
    for node in ast.walk(_check(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                wrong.append(f"{path.name}:{node.lineno} {node.name} has {length} lines (at most {FUNCTION_LINES})")
    assert not wrong


def test_modules_are_named_after_what_they_do() -> None:
    assert not {_name(path) for path in MODULES if FORBIDDEN_NAMES & set(re.split(r"[._]", _name(path)))}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(_check(path)), f"{path} has no docstring"


@pytest.mark.tools
def test_no_address_of_a_package_source_is_in_the_tree() -> None:
    """A machine's own sources, or the person's recipe, say where packages come from; `mirror: auto` asks the host."""
    tracked = run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "builder", "recipes", "overlays"], cwd=PROJECT
    ).stdout.split("\0")
    wrong: list[str] = []
    for name in filter(None, tracked):
        path = PROJECT / name
        if path.suffix not in (".py", ".yaml", ".j2", ".c", ".sh", ".txt", ".conf", "") or not path.is_file():
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if path.suffix == ".py" or _is_package_source(line):
                found = [address for address in ADDRESS.findall(line) if not ALLOWED_ADDRESSES.match(f"{address} ")]
                wrong.extend(f"{name}:{number} {address}" for address in found)
    assert not wrong


def _is_package_source(line: str) -> bool:
    """Whether a line of a recipe says where packages come from (an artifact's or image's own address is fine)."""
    return bool(re.search(r"\bmirror\b|\bURIs\b|^\s*-?\s*deb(-src)?\s|/(dists|pool)/|/simple/?\b", line))


def test_the_rules_catch_what_they_are_for(tmp_path: Path) -> None:
    module = _check_text(tmp_path, "from builder.cli import main\nimport builder.build.plan\nimport subprocess\n")
    names = [name for name, _ in _imports(module)]
    assert names == ["builder.cli.main", "builder.build.plan", "subprocess"]
    order = ("cli.main", "build.plan", "recipe.steps.files", "host.mounts", "run")
    assert sorted(order, key=_layer, reverse=True) == list(order)
    assert _layer("run") == _layer("errors") == 0
    assert _layer("__main__") > _layer("cli.main")
    assert not ALLOWED_ADDRESSES.match("http://packages.invalid/debian ")
    assert not ALLOWED_ADDRESSES.match("https://example.community/ ")
    assert ALLOWED_ADDRESSES.match("https://example.com/a.deb ")
    assert _is_package_source("deb http://packages.invalid trixie main")
    assert not _is_package_source("url: https://host.invalid/image.img.xz")


def _check_text(tmp_path: Path, text: str) -> ast.Module:
    file = tmp_path / "module.py"
    file.write_text(text)
    return _check(file)


def test_make_installs_the_package_of_every_tool_that_is_looked_for() -> None:
    installed = set(
        re.findall(r"[a-z0-9.+-]+", _makefile_variable("PACKAGES") + " " + _makefile_variable("TEST_PACKAGES"))
    )
    named = {
        package: f"{path.name}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(_check(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "find_tool"
        for keyword in node.keywords
        if keyword.arg == "package" and isinstance(keyword.value, ast.Constant)
        for package in str(keyword.value.value).split()
    }
    essential = {"apt", "coreutils", "findutils", "mount", "tar", "bash", "dpkg", "passwd"}
    assert not {package: where for package, where in named.items() if package not in installed | essential}


def _makefile_variable(name: str) -> str:
    text = (PROJECT / "Makefile").read_text().replace("\\\n", " ")
    found = re.search(rf"^{name} := (.*)$", text, re.MULTILINE)
    assert found
    return found[1]
