"""Native programs beside emulated ones: what authors see, what stands in and what must not, and what a crash says."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.emulation.log import read_log, sum_up
from builder.run import run
from tests.system.conftest import Small
from tests.system.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.needs("private-binfmt")]

ARM64, X86_64 = 0xB7, 0x3E  # e_machine of linux/elf-em.h, the byte at 18
# qemu-user shows a program its own file there; a native program reads what the kernel says
MACHINE = "head -c 19 /proc/self/exe | tail -c 1"


@pytest.fixture
def engine(small: Small, tmp_path: Path) -> Engine:
    """An engine that has the layers of the small recipe."""
    return small.engine.beside(tmp_path)


def layer_of(engine: Engine, recipe: Path, name: str, *words: str) -> Path:
    """Build a recipe; return what one of its layers adds."""
    report = engine.build(*words, recipe=recipe)
    keys = {layer["name"]: layer["key"] for layer in report["layers"]}
    return engine.cache / "layers" / str(keys[name]) / "fs"


def write_script(engine: Engine, name: str, *scripts: str) -> Path:
    """Write a recipe whose layer `tried` runs scripts, each a step of its own."""
    steps = "".join(f"      - run:\n          script: |\n{indented(script)}" for script in scripts)
    return engine.write(f"{name}.yaml", f"layers:\n  - name: tried\n    steps:\n{steps}")


def indented(script: str) -> str:
    return "".join(f"            {line}\n" for line in script.splitlines())


def test_programs_run_natively_and_the_machine_is_arm64_to_an_author(engine: Engine, tmp_path: Path) -> None:
    script = (
        f"mkdir /srv/tried\n{MACHINE} >/srv/tried/head\nuname -m >/srv/tried/uname\narch >/srv/tried/arch\n"
        "dpkg --print-architecture >/srv/tried/dpkg\nperl -e 'use Config; print $Config{archname}' >/srv/tried/perl\n"
        "dpkg-deb --version >/dev/null; bash -c 'echo $MACHTYPE' >/srv/tried/bash\n"
    )
    log = tmp_path / "log"
    recipe = write_script(engine, "seen", script)
    tried = layer_of(engine, recipe, "tried", "--offline", "--debug-emulation", str(log)) / "srv/tried"
    assert (tried / "head").read_bytes() == bytes([X86_64])
    assert {path.name: path.read_text().strip() for path in tried.iterdir() if path.name != "head"} == {
        "uname": "aarch64",
        "arch": "aarch64",
        "dpkg": "arm64",
        "perl": "aarch64-linux-gnu-thread-multi",
        "bash": "aarch64-unknown-linux-gnu",
    }
    ways = {(cost.program, cost.how) for cost in sum_up(read_log(log))}
    assert {
        ("/usr/bin/head", "native"),
        ("/usr/bin/uname", "qemu"),
        ("/usr/bin/arch", "qemu"),
        ("/usr/bin/perl", "qemu"),
        ("/usr/bin/bash", "qemu"),
        ("/usr/bin/dpkg", "native"),
    } <= ways


def test_with_full_emulation_no_program_runs_natively(engine: Engine) -> None:
    recipe = write_script(engine, "full", f"{MACHINE} >/srv/head")
    assert (layer_of(engine, recipe, "tried", "--offline", "--emulation", "full") / "srv/head").read_bytes() == bytes(
        [ARM64]
    )


def test_a_program_that_an_author_replaced_is_the_authors(engine: Engine) -> None:
    """Within the step its time tells, later its content does."""
    replaced = (
        "touch -r /usr/bin/sed /tmp/before\ncp /usr/bin/echo /usr/bin/sed.new\nmv /usr/bin/sed.new /usr/bin/sed\n"
        "sed within >/srv/within\ntouch -r /tmp/before /usr/bin/sed\n"
        "dpkg-divert --quiet --local --rename --add /usr/bin/cut\ncp /usr/bin/echo /usr/bin/cut\n"
    )
    recipe = write_script(engine, "replaced", replaced, "sed after >/srv/after\ncut diverted >/srv/diverted\n")
    tried = layer_of(engine, recipe, "tried", "--offline") / "srv"
    assert [(tried / name).read_text() for name in ("within", "after", "diverted")] == [
        "within\n",
        "after\n",
        "diverted\n",
    ]


@pytest.mark.parametrize("way", ["native-tools", "full"])
def test_a_crash_of_the_emulator_names_the_program_and_what_to_do(engine: Engine, way: str) -> None:
    recipe = write_script(engine, f"crash-{way}", "ls / >/dev/null\nbash -c 'kill -SEGV $$; :'\n")
    done = engine.run("--offline", "--emulation", way, recipe=recipe)
    assert done.returncode == 4, done.stderr
    hint = done.stderr[done.stderr.index("hint:") :]
    assert "qemu-user crashed in " in hint
    assert "bash" in hint
    assert "qemu-user-static" in hint


@pytest.mark.parametrize("way", ["native-tools", "full"])
def test_a_run_step_stays_in_its_root(engine: Engine, tmp_path: Path, way: str) -> None:
    """The known way out of a chroot, and what runs the step's programs: another program shows where it lies."""
    escape = (
        'mkdir "/sub"; chroot "/sub"; chdir ".." for 1 .. 40; chroot ".";'
        f'open F, ">", "{tmp_path}/escaped" and print F "out" and close F;'
    )
    mounted = (
        "perl -e 'sleep 9' &\nsleep 0.3\nexec 3</proc/$!/exe\nkill -9 $!\n"
        "id=$(sed -n 's/^mnt_id:\\t*//p' /proc/self/fdinfo/3)\n"
        'grep "^$id " /proc/self/mountinfo | cut -d" " -f6 | cut -d, -f1 >/srv/said\n'
    )
    script = f"{mounted}perl -e '{escape}'\n"
    recipe = write_script(engine, f"escape-{way}", script)
    said = layer_of(engine, recipe, "tried", "--offline", "--emulation", way) / "srv/said"
    assert not (tmp_path / "escaped").exists()
    assert said.read_text() == "ro\n"


def test_a_step_compiles_and_loads_arm64_code(engine: Engine) -> None:
    script = """\
mkdir /srv/c; cd /srv/c
cat >lib.c <<'END'
#include <sys/utsname.h>
int answer(void) { struct utsname u; uname(&u); return u.machine[0]; }
END
cat >main.c <<'END'
#include <dlfcn.h>
int main(void) {
    int (*f)(void) = (int (*)(void))dlsym(dlopen("./lib.so", RTLD_NOW), "answer");
    return f() != 'a';
}
END
gcc -shared -fPIC -o lib.so lib.c
gcc -o main main.c
./main
"""
    layer = "layers:\n  - name: tried\n    steps:\n      - packages: {install: [gcc, libc6-dev]}\n"
    recipe = engine.write("compiled.yaml", f"{layer}      - run:\n          script: |\n{indented(script)}")
    built = layer_of(engine, recipe, "tried") / "srv/c"
    assert {(built / name).read_bytes()[18] for name in ("lib.so", "main")} == {ARM64}


def test_python_s_byte_code_is_compiled_natively(engine: Engine, tmp_path: Path) -> None:
    """By whichever way packages call the compiler; anything else that Python runs is emulated."""
    packages = "layers:\n  - name: python\n    steps:\n      - packages: {install: [python3]}\n"
    asks = "      - run: {script: 'python3 -c \"import platform; print(platform.machine())\" >/srv/machine'}\n"
    recipe = engine.write("python.yaml", f"{packages}  - name: asked\n    steps:\n{asks}")
    log = tmp_path / "log"
    installed = layer_of(engine, recipe, "python", "--debug-emulation", str(log))
    ran = {(cost.how, cost.count) for cost in sum_up(read_log(log)) if "/python3." in cost.program}
    assert {how for how, _ in ran} == {"native", "qemu"}
    assert ("qemu", 1) in ran
    assert (layer_of(engine, recipe, "asked", "--offline") / "srv/machine").read_text() == "aarch64\n"
    compiled = list(installed.rglob("*.pyc"))
    assert len(compiled) > 100
    assert {path.name.split(".")[-2] for path in compiled} == {"cpython-313"}


def test_nothing_of_the_mechanism_is_in_an_image(small: Small) -> None:
    layers = [small.engine.cache / "layers" / layer["key"] / "fs" for layer in small.report["layers"]]
    assert small.report["emulation"] == "native-tools"
    machines = set()
    for layer in layers:
        for name in ("run/pibuild", "lib64", "usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/sbin/policy-rc.d"):
            assert not (layer / name).is_symlink(), f"{layer}: {name}"
            assert not (layer / name).exists(), f"{layer}: {name}"
        for path in layer.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    head = file.read(20)
                if head[:4] == b"\x7fELF":
                    machines.add(head[18])
    assert machines == {ARM64}


def test_the_launcher_compiles_without_a_warning(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "builder/emulation/launcher.c"
    words: list[str | Path] = [
        "gcc",
        "-O2",
        "-static",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        tmp_path / "launcher",
        source,
    ]
    assert run(words, check=False).stderr == ""


def test_both_ways_make_the_same_tree(engine: Engine, small: Small) -> None:
    report = engine.build("--offline", "--verify-emulation")
    assert report["differences"] == []
    assert report["published"]["digest"] == small.digest
    assert not engine.scraps
