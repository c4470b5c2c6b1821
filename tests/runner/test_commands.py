"""Commands that do what they should, and what they should not: one clear line each, and nothing is left of them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from perf.errors import MeasureError
from perf.measure.bench import measure
from perf.measure.runners import MARK, run_command
from perf.measure.sides import own_side, parse_recipe, prepared
from perf.records.wire import CaseSpec, Stepped
from perf.runner import commands
from perf.signals import EXIT_STOPPED
from tests.repositories import git

ROOT = Path(__file__).parents[2]

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

    def write(self, code: str = "", *, run: str = "{python} train.py", **entry: str) -> None:
        """Write a Python script, and the entry that runs it or another command; its fields are written as TOML."""
        (self.root / "train.py").write_text(STEPS + code)
        fields = {"global_batch_sizes": "[64]", **entry}
        table = [f"run = '''{run}'''", *(f"{name} = {value}" for name, value in fields.items())]
        (self.root / "stepmark.toml").write_text("\n".join(["[command.it]", *table]))

    def run(self, code: str = "", *, environ: Mapping[str, str] | None = None, size: int = 64, **entry: str) -> Stepped:
        """Run what `write` writes."""
        self.write(code, **entry)
        side = own_side(self.root, "stepmark.toml:it", {**os.environ, **(environ or {})})
        return run_command(side, CaseSpec(global_batch_size=size), 8)

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
        ("print('x' * 2**21, end='')", "printed a damaged line: longer than 1,048,576 characters, so it was not read"),
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


def test_what_an_entry_sets_goes_before_all_else(project: Project) -> None:
    """Also before what lets lines come when they are printed."""
    code = "assert (os.environ['A'], os.environ['PYTHONUNBUFFERED']) == ('of the entry', ''); steps()"
    project.write(code, environ="{A = 'of the entry', PYTHONUNBUFFERED = ''}")
    side = own_side(project.root, "stepmark.toml:it", {**os.environ, "A": "of the user"})
    assert run_command(side, CaseSpec(global_batch_size=64), 8).losses


# In the place of Slurm: tasks that another machine runs, of which nothing but `srun` knows.
SRUN = """#!{python}
import os, signal, subprocess, sys
count, label, *command = sys.argv[1:]
assert label == "--label"
count = int(count.removeprefix("--ntasks="))
environ = {{name: value for name, value in os.environ.items() if name != "STEPMARK_RUN"}}
tasks = [
    subprocess.Popen(
        command,
        env={{**environ, "SLURM_PROCID": str(rank), "SLURM_NTASKS": str(count)}},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for rank in range(count)
]
def ask(*_):
    for task in tasks:
        task.terminate()
    for task in tasks:
        task.wait()
    os._exit(143)
signal.signal(signal.SIGTERM, ask)
while lines := [(rank, line) for rank, task in reversed([*enumerate(tasks)]) if (line := task.stdout.readline())]:
    for rank, line in lines:
        print(f"{{rank}}: {{line}}", end="")
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.fixture
def slurm(project: Project, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The entry of a command that `srun` starts."""
    bin_ = project.root / "bin"
    bin_.mkdir()
    (bin_ / "srun").write_text(SRUN.format(python=sys.executable))
    (bin_ / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    run = "srun --ntasks={world_size} --label {python} train.py {global_batch_size}"
    return {"run": run, "global_batch_sizes": "[64, 128]", "world_sizes": "[1, 2]"}


def test_slurm_starts_the_ranks_of_a_command(project: Project, slurm: dict[str, str]) -> None:
    """The lowest rank's lines are the run's, whichever comes first; tokens/sec are those of one rank."""
    code = """
rank = int(os.environ["SLURM_PROCID"])
assert int(os.environ["SLURM_NTASKS"]) == int(sys.argv[1]) / 64
for step in range(1, 9):
    print(f"step: {step}  loss: {step + rank / 10}  tps: 1,000")
"""
    for size in (64, 128):
        found = project.run(code, size=size, format="'torchtitan'", tokens_per_sample="100", **slurm)
        assert found.steps == tuple(range(1, 9))
        assert found.losses == tuple(range(1, 9))
        assert found.lines[0] == "0: step: 1  loss: 1.0  tps: 1,000"
        assert found.printed_s == pytest.approx((6.4,) * 8)


def test_a_rank_that_fails_fails_the_run(project: Project, slurm: dict[str, str]) -> None:
    """With the launcher's exit code, and the last lines of all."""
    code = "steps()\nif os.environ['SLURM_PROCID'] == '1': print('no memory'); sys.exit(9)"
    found = project.error(code, size=128, **slurm)
    assert found.startswith("ended with exit code 9; its last lines: ")
    assert found.endswith("1: no memory")


def test_a_launcher_is_asked_to_end_its_ranks(project: Project, slurm: dict[str, str]) -> None:
    """It passes on what it is asked; nobody else knows of them."""
    code = """
def asked(*_):
    open("asked" + os.environ["SLURM_PROCID"], "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, asked)
print("hello")
signal.pause()
"""
    assert project.error(code, size=128, silence_s="0.5", **slurm).startswith("printed nothing for silence_s = 0.5 s")
    assert all((project.root / f"asked{rank}").exists() for rank in range(2))


@pytest.mark.parametrize(
    ("began", "step_s", "pieces", "rate", "problem"),
    [
        # When the first line came, seconds between two, step lines of a read, what they say, and the problem.
        (9.0, 1e-5, 8, 64.0, "its 8 step lines came in 1 pieces, so when each was printed is not known: flush its "),
        (9.0, 1e-5, 4, 64.0, "its 8 step lines came in 2 pieces, "),
        (9.0, 1e-5, 1, 64.0, ""),  # each came when it was printed
        (9.0, 1e-5, 8, 6400.0, ""),  # quick steps on a busy machine
        (9.0, 1.0, 8, 64.0, ""),  # it was not read for a while
        (0.1, 1e-5, 8, 64.0, ""),  # the rates cannot be true
        (9.0, 1.0, 32, 64.0, "its 32 step lines came in 1 pieces, "),  # a piece from time to time
        (9.0, 1e-5, 8, None, "its 8 step lines came in 1 pieces, "),
        (9.0, 1e-5, 4, None, ""),
        (0.1, 1e-5, 8, None, ""),
    ],
)
def test_output_that_was_held_back_is_told(
    monkeypatch: pytest.MonkeyPatch, began: float, step_s: float, pieces: int, rate: float | None, problem: str
) -> None:
    """Lines that come together, and later than they say, have no time."""
    command = commands.Command(run="x", global_batch_sizes=(64,), format=r"(?P<loss>\d)(?: at (?P<rate>\S+))?")
    now_s = [0.0]
    monkeypatch.setattr(commands, "time", SimpleNamespace(perf_counter=lambda: now_s[-1]))
    process: Any = SimpleNamespace(stdout=SimpleNamespace(fileno=lambda: -1))
    log = commands._Log(process, command)
    for number in range(max(8, pieces)):
        now_s.append(began + step_s * number)
        log._num_reads -= number % pieces > 0
        log._add([b"1" if rate is None else f"{number % 10} at {rate}".encode()])
    places = {"global_batch_size": 64, "world_size": 1, "num_steps": max(8, pieces)}
    with pytest.raises(MeasureError) if problem else nullcontext() as error:
        assert len(commands._stepped(log, command, places).losses) == 8
    assert str(error.value if error else "").startswith(problem)


class Signal:
    """A named pipe by which a command says that it runs."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._file = os.open(path, os.O_RDWR)
        self.code = f"with open({str(path)!r}, 'w') as file: file.write('x')\nsignal.pause()"

    def wait(self, process: subprocess.Popen[str]) -> None:
        """Wait until the command runs; `process` runs it."""
        while not select.select([self._file], [], [], 0.1)[0]:
            assert process.poll() is None, process.communicate()
        os.read(self._file, 1)
        os.close(self._file)


def tool(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start Python, in a process group of its own as a shell would."""
    command = [sys.executable, *arguments]
    pipe = subprocess.PIPE
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}  # no worker of this session
    environ |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(root.parent / "temporary")}
    return subprocess.Popen(command, cwd=root, env=environ, stdout=pipe, stderr=pipe, text=True, process_group=0)


@pytest.mark.parametrize(
    "arguments", [("pytest", "-p", "perf.plugin", "stepmark.toml"), ("perf", "duet", "--workload", "stepmark.toml:it")]
)
def test_ctrl_c_ends_everything(project: Project, tmp_path: Path, arguments: Sequence[str]) -> None:
    """While a command runs: with the exit code of all that is stopped."""
    running = Signal(tmp_path / "fifo")
    project.write(running.code)
    git(project.root, "init", "--quiet")
    for content in ("first", "second"):
        (project.root / "file").write_text(content)
        git(project.root, "add", ".")
        git(project.root, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", content)
    process = tool(project.root, "-m", *arguments)
    running.wait(process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == EXIT_STOPPED, out + err
    assert "Traceback" not in out + err


@LINUX
def test_a_command_does_not_outlive_who_has_started_it(project: Project, tmp_path: Path) -> None:
    """When that is killed, and can end nothing."""
    running = Signal(tmp_path / "fifo")
    project.write(running.code)
    code = """
import os
from pathlib import Path
from perf.measure.runners import run_command
from perf.measure.bench import measure
from perf.measure.sides import own_side, parse_recipe, prepared
from perf.records.wire import CaseSpec
run_command(own_side(Path.cwd(), "stepmark.toml:it", os.environ), CaseSpec(global_batch_size=64), 8)
"""
    process = tool(project.root, "-c", code)
    running.wait(process)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) == 2
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(started, timeout=100)[1]
    for folder in (tmp_path / "temporary").iterdir():
        folder.rmdir()


def test_a_command_is_started_in_the_folder_of_its_file(tmp_path: Path) -> None:
    """Wherever the root of its project is; a checkout without that folder is told."""
    inner = tmp_path / "sub"
    inner.mkdir()
    (inner / "stepmark.toml").write_text('[command.net]\nrun = "{python} here.py"\nglobal_batch_sizes = [8]\n')
    lines = [f"Step={n}, Loss={9 - n}.0, Rate=8.00 samples/sec, GlobalRate=8.00 samples/sec" for n in range(1, 5)]
    (inner / "here.py").write_text("\n".join(f"print({line!r})" for line in lines))
    side = own_side(tmp_path, "sub/stepmark.toml:net", os.environ)
    assert run_command(side, CaseSpec(global_batch_size=8), 4).losses == (8.0, 7.0, 6.0, 5.0)
    other = msgspec.structs.replace(side, root=inner)
    with pytest.raises(MeasureError, match=r"has no folder sub"):
        run_command(other, CaseSpec(global_batch_size=8), 4)


@pytest.mark.parametrize(("num_lines", "steps"), [(4, (2, 4, 6, 8)), (8, tuple(range(1, 9))), (5, None)])
def test_lines_that_do_not_say_their_step_are_of_as_many_steps(
    project: Project, num_lines: int, steps: tuple[int, ...] | None
) -> None:
    """Of the eight that were asked for; where that is no whole number, they are refused."""
    code, pattern = f"for n in range({num_lines}): print('loss', 9 - n)", r"'loss (?P<loss>\S+)'"
    if steps is None:
        assert "lines that do not say their step" in project.error(code, format=pattern)
    else:
        assert project.run(code, format=pattern).steps == steps


def test_what_is_printed_before_the_first_step_is_of_the_start(project: Project) -> None:
    """A line of step 0 is no log window."""
    found = project.run("steps(0, 2, 4, 6, 8)")
    assert found.steps == (2, 4, 6, 8)
    assert len(found.marks) == 5


def test_a_number_that_begins_a_line_is_no_rank_where_the_pattern_needs_it(project: Project) -> None:
    """As in "10: loss 3.2", whose number is the step."""
    pattern = r"'(?P<global_step>\d+): loss (?P<loss>\S+)'"
    assert project.run("for n in range(1, 9): print(f'{n}: loss {9 - n}')", format=pattern).steps == tuple(range(1, 9))


def test_the_setting_of_a_side_comes_before_the_entrys(project: Project) -> None:
    """And the entry's before the user's."""
    project.write(
        "import os; print(os.environ['ONE'], os.environ['TWO']); sys.exit(1)", environ="{ ONE = '1', TWO = '1' }"
    )
    user = {**os.environ, "ONE": "0", "TWO": "0"}
    recipe = parse_recipe(["self", "env:TWO=2"])
    with (
        prepared(recipe, "candidate", project.root, "stepmark.toml:it", user) as side,
        pytest.raises(MeasureError, match=r"its last lines: 1 2$"),
    ):
        run_command(side, CaseSpec(global_batch_size=64), 8)


def test_a_side_whose_file_of_commands_is_damaged_is_named(project: Project) -> None:
    """So that a bisection can skip such a commit."""
    (project.root / "stepmark.toml").write_text("[")
    side = prepared(parse_recipe(["self"]), "candidate", project.root, "stepmark.toml:it", os.environ)
    with pytest.raises(MeasureError, match=r"^candidate side \(self\): .*stepmark.toml"), side:
        pass


def test_runs_that_log_other_steps_fail_their_batch_size(project: Project, tmp_path: Path) -> None:
    """Told with the rounds so far, and not when all is put together."""
    project.write(f"""
first = not os.path.exists({str(tmp_path / "second")!r})
open({str(tmp_path / "second")!r}, "w").close()
steps(*((2, 4, 6, 8) if first else (1, 2, 3, 4)))
""")
    side = own_side(project.root, "stepmark.toml:it", os.environ)
    cases = {64: CaseSpec(global_batch_size=64)}
    with pytest.raises(MeasureError, match=r"run 2: its lines are of other steps than those of run 1"):
        measure(side, cases, num_rounds=2, num_steps=8, rng=np.random.default_rng())
