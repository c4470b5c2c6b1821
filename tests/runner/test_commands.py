"""Commands that do what they should, and what they should not: one clear line each, and nothing is left of them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from perf.errors import MeasureError
from perf.measure.runners import MARK, run_command
from perf.measure.sides import own_side
from perf.records.wire import CaseSpec, Stepped

LINUX = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes in /proc")

# What a script of a test begins with: a function that prints a step line.
STEPS = """
import os, signal, subprocess, sys, time

def line(step, loss=1.0, end="\\n", rate=1e9):
    print(f"Step={step}, Loss={loss:.5f}, Rate={rate:.2f} samples/sec, GlobalRate={rate:.2f} samples/sec", end=end)

def steps(*numbers):
    for step in numbers or range(1, 9):
        line(step)

"""


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look for processes and folders after each test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TEST_OF", str(tmp_path))
    yield
    assert not left(tmp_path)
    assert not [*(tmp_path / "temporary").iterdir()]


def left(path: Path) -> list[list[str]]:
    """Return what a test has started and is still there, whatever became of its parents."""
    there = psutil.process_iter(["environ", "cmdline", "pid"])
    ours = [one.info for one in there if (one.info["environ"] or {}).get("TEST_OF") == str(path)]
    return [one["cmdline"] for one in ours if one["pid"] != os.getpid()]


class Project:
    """A folder with a command."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.root.mkdir()

    def run(
        self, code: str = "", *, run: str = "{python} train.py", environ: Mapping[str, str] | None = None, **entry: str
    ) -> Stepped:
        """Run a Python script, or another command; fields of its entry are written as TOML."""
        (self.root / "train.py").write_text(STEPS + code)
        fields = {"global_batch_sizes": "[64]", **entry}
        table = [f"run = '''{run}'''", *(f"{name} = {value}" for name, value in fields.items())]
        (self.root / "stepmark.toml").write_text("\n".join(["[command.it]", *table]))
        side = own_side(self.root, "stepmark.toml:it", {**os.environ, **(environ or {})})
        return run_command(side, CaseSpec(global_batch_size=64), 8)

    def error(self, code: str = "", **entry: str) -> str:
        """Return the error of a command that fails: a line of a few hundred characters."""
        with pytest.raises(MeasureError) as error:
            self.run(code, **entry)
        text = str(error.value)
        assert text.isprintable()
        assert len(text) < 600
        return text


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A folder with a command."""
    return Project(tmp_path)


def test_a_run_is_its_step_lines(project: Project) -> None:
    """With their losses and steps, and a time for each."""
    found = project.run("print('hello'); steps(2, 4, 6, 8); print('Processed 512 sample(s) in 1.000000000 seconds.')")
    assert found.steps == (2, 4, 6, 8)
    assert found.losses == (1.0,) * 4
    assert len(found.marks) == 5
    assert found.lines[0].startswith("Step=2, Loss=1.00000, ")
    assert found.printed_s == pytest.approx((128e-9,) * 4)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("steps(); sys.exit(3)", "ended with exit code 3; its last lines: Step=6, "),
        ("steps(); raise ValueError('of the user')", "ended with exit code 1; its last lines: "),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV; it printed nothing"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL; it printed nothing"),
        ("", "printed 0 step lines in the format cerebras, and 4 to 10,000 are needed: log more or less often, or"),
        ("steps(1, 2, 3)", "printed 3 step lines in the format cerebras, and 4 to 10,000 are needed"),
        ("steps(*range(1, 10_100))", "printed 10099 step lines"),
        ("print('\\x1b[2J\\u202e\\0')", "or name another format; its last lines: \\x1b[2J\\u202e\\x00"),
        ("sys.stdout.buffer.write(bytes(range(256)) * 999)", "printed 0 step lines"),
        ("print('x' * 2**21, end='')", "printed a damaged line: longer than 1,048,576 characters, so it was not read: "),
        ("steps(); print('x' * 2**21); steps()", "printed a damaged line: longer than 1,048,576 characters"),
        ("steps(); line(9, end=' '); line(10)", "printed a damaged line: looks like a line of a training log but is"),
        ("steps(1, 2); line(3, float('nan')); steps(4, 5)", "step 3: the loss is nan, and a finite one is needed; its"),
        ("steps(1, 2); line(3, float('inf')); steps(4, 5)", "step 3: the loss is inf, and a finite one is needed; its"),
        ("steps(1, 2, 3, 4); steps(1, 2, 3, 4)", "printed the lines of 2 runs, and those of one are needed; its last"),
    ],
)  # fmt: skip
def test_what_a_command_did_wrong_is_told(project: Project, code: str, problem: str) -> None:
    """In one line, with its last ones where it printed some."""
    assert problem in project.error(code)


@pytest.mark.parametrize("close", ["pass", "os.close(1); os.close(2)"])
def test_a_silent_command_is_given_up(project: Project, close: str) -> None:
    """Also where nothing can come any more."""
    found = project.error(f"print('hello'); {close}\nsignal.pause()", silence_s="0.5")
    assert found == "printed nothing for silence_s = 0.5 s; give it more time; its last lines: hello"


@pytest.mark.parametrize("end", ["", "\\n"])
def test_a_command_without_an_end_is_given_up(project: Project, end: str) -> None:
    """However much it prints."""
    found = project.error(f"while True: print('on and on', end='{end}')", timeout_s="0.5")
    assert found.startswith("did not end within timeout_s = 0.5 s; give it more time; its last lines: ")


@pytest.mark.parametrize("run", ["yes", "cat /dev/zero"])
def test_a_command_that_floods_is_ended(project: Project, run: str) -> None:
    """Long before its time is over, however long its lines are."""
    assert "bytes, more than a log of a few steps has; print less; its last lines: " in project.error(run=run)


def test_one_that_ignores_being_asked_is_killed(project: Project) -> None:
    """And so is what it has started."""
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\nprint('hello')\nsignal.pause()"
    assert project.error(code, silence_s="0.5").startswith("printed nothing for silence_s = 0.5 s")


def test_a_command_is_asked_before_it_is_killed(project: Project) -> None:
    """What it prints then, however much, keeps it from nothing."""
    code = """
def asked(*_):
    print("x" * 2**20, flush=True)
    open("asked", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, asked)
print("hello")
signal.pause()
"""
    assert project.error(code, silence_s="0.5").startswith("printed nothing for silence_s = 0.5 s")
    assert (project.root / "asked").exists()


@LINUX
@pytest.mark.parametrize("leave", ["pass", "os.setsid()", "os.setsid(); os.fork() and os._exit(0)"])
def test_what_a_command_leaves_is_no_failure_and_is_ended(project: Project, leave: str) -> None:
    """Children in its group, in a session of their own, and daemons; all hold its output open."""
    code = f"""
steps()
read, write = os.pipe()
if not os.fork():
    {leave}
    os.write(write, b"x")
    signal.pause()
os.read(read, 1)
"""
    assert project.run(code).steps == tuple(range(1, 9))


def test_what_is_left_may_print_on_and_on(project: Project) -> None:
    """A command's end is its own."""
    code = "steps(); sys.stdout.flush()\nif not os.fork():\n    while True: print('on and on')"
    assert project.run(code).steps == tuple(range(1, 9))


@pytest.mark.parametrize("end", ["", "sys.exit(1)"])
def test_a_run_has_a_folder_that_is_removed(project: Project, end: str) -> None:
    """It is empty, and it is removed with all that is in it, also after a failure."""
    code = f"""
folder = sys.argv[1]
assert not os.listdir(folder)
os.makedirs(folder + "/of/a/run")
open(folder + "/of/a/run/file", "w").close()
os.chmod(folder + "/of/a", 0)
open("folder", "w").write(folder)
steps()
{end}
"""
    run = "{python} train.py {run_dir}"
    if end:
        assert project.error(code, run=run).startswith("ended with exit code 1")
    else:
        project.run(code, run=run)
    assert not Path((project.root / "folder").read_text()).exists()


def test_a_command_has_no_input(project: Project) -> None:
    """It does not wait for what nobody writes."""
    assert project.run("assert sys.stdin.read() == ''; steps()").losses


def test_a_program_that_cannot_be_started_is_told(project: Project) -> None:
    """By its name, and why."""
    assert project.error(run="no-such-program --x") == (
        "run: no-such-program could not be started: No such file or directory; name a program that can be"
    )
    (project.root / "train.sh").write_text("true")
    assert project.error(run="./train.sh").startswith("run: ./train.sh could not be started: Permission denied; ")


def test_arguments_are_as_a_shell_would_split_them(project: Project) -> None:
    """Quotes, spaces, braces and what is filled in; no shell sees them."""
    code = "assert sys.argv[1:] == ['a b', '{\"x\": 64}', '$HOME;', '*', 'n=8'], sys.argv\nsteps()"
    run = """{python} train.py 'a b' '{{"x": {global_batch_size}}}' $HOME\\; "*" n={num_steps}"""
    assert project.run(code, run=run).losses


def test_a_command_has_the_environment_that_the_user_has(project: Project) -> None:
    """Besides our mark, that lines come when they are printed, and what its entry sets."""
    code = """
import json
json.dump(dict(os.environ), open("environ.json", "w"))
steps()
"""
    ours = {"PYTHONPATH": "/nowhere", "PYTHONHASHSEED": "7", "WORLD_SIZE": "3"}
    project.run(code, environ=ours)
    found = json.loads((project.root / "environ.json").read_text())
    added = {name for name in found if found[name] != {**os.environ, **ours}.get(name)}
    assert added <= {MARK, "PYTHONUNBUFFERED", "LC_CTYPE"}  # LC_CTYPE: of Python itself, where there is no locale
    assert {**os.environ, **ours}.keys() <= found.keys()
