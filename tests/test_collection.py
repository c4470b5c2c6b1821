"""Workloads in a user's own files, collected and selected as pytest's own tests are."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest

import perf.app.bench
from perf.app.promotion import promote
from perf.app.what import What
from perf.judge.duets import DuetResult
from perf.measure.sides import Recipe, Side
from perf.records.baselines import load_result, load_session
from perf.records.sessions import Session
from perf.records.wire import CaseSpec
from tests.judge.test_verdicts import quiet
from tests.report.test_duet import duet
from tests.test_edge import Project, here

NET = """
import perf

@perf.workload(global_batch_sizes=(512, 1024), threshold={threshold})
def net(case):
    "Two sizes that cost nothing."
    return lambda: 1.0

@perf.workload(global_batch_sizes=(2048,))
def wide(case):
    return lambda: 1.0
"""
COMMANDS = """
[command.shell]
run = "{python} train.py {global_batch_size} {num_steps}"
global_batch_sizes = [512, 1024]
num_steps = 12

[command.wide]
run = "bash train.sh"
global_batch_sizes = [2048]
"""
CLAIMS = ("loss_decreases", "losses", "counters", "rate", "scaling")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A user's project with two workloads in a file, and nothing of this one's."""
    project = Project(pytester, monkeypatch)
    for path in pytester.path.iterdir():
        if path.name != "baselines":
            path.rename(path.with_name(f".{path.name}"))
    (pytester.path / "pytest.ini").write_text("[pytest]\n")
    write(project)
    project.arguments = ("-p", "perf.plugin")
    monkeypatch.setattr("perf.report.page.as_svg", lambda plot: "<svg></svg>")  # drawing takes a second
    return project


def write(project: Project, threshold: float | None = None) -> None:
    """Write the file with the two workloads."""
    (project.pytester.path / "bench_net.py").write_text(NET.format(threshold=threshold))


def ids(found: pytest.RunResult) -> list[str]:
    """Return the tests that were listed."""
    return [line for line in found.outlines if "::" in line]


def test_a_file_on_the_command_line_has_a_test_for_each_claim_and_size(project: Project) -> None:
    """Ids are those of a class; without the file's name nothing is collected."""
    listed = ids(project.run("bench_net.py", "--co", "-q"))
    net = [f"bench_net.py::net::test_{claim}[{size}]" for claim in CLAIMS for size in (512, 1024)]
    assert listed == net + [f"bench_net.py::wide::test_{claim}[2048]" for claim in CLAIMS]
    assert project.measured == []
    assert project.run("--co", "-q").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert ids(project.run("-o", "python_files=bench_*.py", "--co", "-q")) == listed


@pytest.mark.parametrize(
    ("arguments", "measured"),
    [
        (["bench_net.py"], [("bench_net.py:net", [512, 1024]), ("bench_net.py:wide", [2048])]),
        (["bench_net.py::net"], [("bench_net.py:net", [512, 1024])]),
        (["bench_net.py::net::test_rate[512]"], [("bench_net.py:net", [512])]),
        (["bench_net.py", "-k", "wide and counters"], [("bench_net.py:wide", [2048])]),
        (["bench_net.py", "-m", "perf", "--deselect", "bench_net.py::wide"], [("bench_net.py:net", [512, 1024])]),
        (["bench_net.py", "-m", "not perf"], []),
        (["bench_net.py", "-x", "--perf-require-baseline", "-k", "counters"], [("bench_net.py:net", [512, 1024])]),
    ],
)
def test_only_what_is_selected_is_measured_and_once(
    project: Project, arguments: list[str], measured: list[tuple[str, list[int]]]
) -> None:
    """Names, -k, -m, --deselect and -x; each workload once."""
    project.run(*arguments)
    assert project.measured == measured


def test_names_in_reports_are_those_of_a_class(project: Project) -> None:
    """In -v and in the JUnit file, whatever a project calls its own tests; both workloads are in the summary."""
    project.is_named_by_side = True
    found = project.run("bench_net.py", "-v", "--junitxml=junit.xml", "-o", "python_functions=check_*")
    found.assert_outcomes(passed=3, skipped=12)
    found.stdout.fnmatch_lines(["bench_net.py::net::test_losses[[]512] SKIPPED*", "*stepmark: *", "*stepmark: *"])
    cases = list(ET.parse(project.pytester.path / "junit.xml").getroot().iter("testcase"))
    assert {case.get("classname") for case in cases} == {"bench_net.net", "bench_net.wide"}
    assert cases[0].get("name") == "test_loss_decreases[512]"


def test_an_imported_workload_belongs_to_the_module_that_defines_it(project: Project) -> None:
    """An alias is no second workload either; what a function of another module makes belongs to who asked for it."""
    source = "from bench_net import net\nimport factory\nmade = factory.make()\nalias = made\n"
    (project.pytester.path / "bench_more.py").write_text(source)
    (project.pytester.path / "factory.py").write_text(
        "import perf\ndef make():\n"
        "    @perf.workload(global_batch_sizes=(8,))\n    def inner(case): ...\n    return inner\n"
    )
    listed = ids(project.run("bench_net.py", "bench_more.py", "-k", "rate", "--co", "-q"))
    assert listed == [
        "bench_net.py::net::test_rate[512]",
        "bench_net.py::net::test_rate[1024]",
        "bench_net.py::wide::test_rate[2048]",
        "bench_more.py::made::test_rate[8]",
    ]


@pytest.mark.parametrize(
    ("own", "mark", "num_failed"), [(None, "", 0), (0.01, "", 2), (None, "1%", 2), (0.01, "50%", 2), (0.5, "1%", 0)]
)
def test_the_nearest_threshold_counts(project: Project, own: float | None, mark: str, num_failed: int) -> None:
    """A workload's own before its module's mark, and both before the configuration's."""
    path = project.write(here(quiet()), project.pytester.path / "before.json")
    project.give = lambda: here(quiet(0.03, 0.03, 0.03, seed=1))
    write(project, own)
    if mark:
        file = project.pytester.path / "bench_net.py"
        file.write_text(f"import pytest\npytestmark = pytest.mark.perf(threshold={mark!r})\n{file.read_text()}")
    found = project.run("bench_net.py::net", "-k", "rate", f"--benchmark-compare={path}")
    assert found.parseoutcomes().get("failed", 0) == num_failed


def test_a_file_that_cannot_name_a_baseline_is_refused_before_it_is_measured(project: Project) -> None:
    """Whatever it is compared with."""
    path = project.write(here(quiet()), project.pytester.path / "before.json")
    (project.pytester.path / "bench_net.py").rename(project.pytester.path / "bench net.py")
    found = project.run("bench net.py", f"--benchmark-compare={path}")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*workload 'bench net.py:*its name needs*"])
    assert project.measured == []


def test_a_workload_by_its_id(project: Project) -> None:
    """Claims without a workload measure the one of --perf-workload; a name that is none is told with what is near."""
    (project.pytester.path / "test_it.py").write_text(
        "from perf.claims import Claims\nclass TestIt(Claims):\n    pass\n"
    )
    project.run("test_it.py", "--perf-workload=bench_net.py:wide")
    assert project.measured == [("bench_net.py:wide", [2048])]
    for name, near in (
        ("pic", "is none of pico, "),
        ("bench_net.py:nett", "(there are net, wide)"),
        ("bench_x.py:net", "is not in"),
    ):
        found = project.run("test_it.py", f"--perf-workload={name}")
        assert found.ret == pytest.ExitCode.USAGE_ERROR
        found.stderr.fnmatch_lines([f"*--perf-workload: *{near}*"])


def test_a_stop_during_the_duet_keeps_what_was_measured(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is written before the duet starts, and the threshold of the duet is the workload's own."""
    write(project, 0.01)
    named = here(quiet())
    path = project.write(named, project.pytester.path / "before.json")
    project.give = lambda: named
    thresholds = []

    def compared(
        recipes: tuple[Recipe, Recipe], what: What, *, threshold: float, budget_option: str, command_steps: int | None
    ) -> DuetResult:
        thresholds.append(threshold)
        assert load_session(project.pytester.path / "runs" / "bench.json").session.measurements
        raise KeyboardInterrupt

    monkeypatch.setattr("perf.app.bench.compared", compared)
    found = project.run("bench_net.py::net", "--perf-duet", f"--benchmark-compare={path}")
    assert found.ret == 130
    assert thresholds == [0.01]
    assert set(load_session(project.pytester.path / "runs" / "bench.json").session.measurements) == {512, 1024}


def test_warnings_name_the_workload(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """On GitHub, where several workloads have the same batch sizes."""
    named = msgspec.structs.replace(here(quiet()), workload="bench_net.py:net")
    path = project.write(named, project.pytester.path / "before.json")
    project.give = lambda: named
    few = duet(dict.fromkeys((512, 1024), 0.0), num_pairs=5)
    monkeypatch.setattr("perf.app.bench.compared", lambda *arguments, **options: few)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    found = project.run("bench_net.py::net", "--perf-duet", f"--benchmark-compare={path}", "-k", "rate")
    found.stdout.fnmatch_lines(["::warning title=bench_net.py%3Anet-cpu-fp32::512: *"])


def test_without_pytest_benchmark_only_claims_fail(project: Project) -> None:
    """One line that says what is missing; other tests run."""
    (project.pytester.path / "test_other.py").write_text("def test_other():\n    pass\n")
    project.run("test_other.py", "-p", "no:benchmark").assert_outcomes(passed=1)
    found = project.run("bench_net.py", "-p", "no:benchmark")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*bench_net.py::net::*: needs pytest-benchmark; leave -p no:benchmark out*"])


FOREIGN = """
import pytest

@pytest.fixture
def measured():
    return 7

@pytest.mark.perf("mine", tries=3)
def test_speed(benchmark, measured):
    benchmark(lambda: measured)
"""


def test_a_project_without_workloads_is_left_alone(project: Project) -> None:
    """Its own mark and fixture of our names, its comparisons, saved files and exit codes: as without this plugin."""
    (project.pytester.path / "test_speed.py").write_text(FOREIGN)
    runs = ["--benchmark-max-time=0.01", "--benchmark-min-rounds=2", "-W", "ignore"]
    found = project.run("test_speed.py", *runs, "--benchmark-compare")
    found.assert_outcomes(passed=1)
    assert found.ret == 0  # a first comparison only warns
    project.run("test_speed.py", *runs, "--benchmark-autosave")
    [saved] = (project.pytester.path / ".benchmarks").rglob("0001_*.json")
    content = json.loads(saved.read_text())
    assert "python_version" in content["machine_info"]
    assert "stepmark" not in content
    found = project.run("test_speed.py", *runs, "--benchmark-compare=0001", "--benchmark-json=mine.json")
    assert found.ret == 0
    found.stdout.fnmatch_lines_random(["*test_speed (0001_*", "*test_speed (NOW)*"])
    found.stderr.fnmatch_lines(["Comparing against benchmarks from: *0001_*"])
    found = project.run(
        "test_speed.py", *runs, "--benchmark-compare=0001", "--benchmark-compare-fail=max:0.0000000001%", "-k", "speed"
    )
    assert "no rate was compared" not in found.stdout.str()
    assert not (project.pytester.path / "runs").exists()
    assert project.measured == []


def test_ones_own_test_is_about_the_workload_of_its_file(project: Project) -> None:
    """Where the file has one workload; of several, and of none, it is about what --perf-workload names."""
    path = project.pytester.path / "bench_own.py"
    own = "def test_mine(perf_measurement, global_batch_size):\n    assert perf_measurement.runs\n"
    path.write_text(NET.format(threshold=None).partition("@perf.workload(global_batch_sizes=(2048,))")[0] + own)
    project.run("bench_own.py", "-k", "mine").assert_outcomes(passed=2)
    path.write_text(NET.format(threshold=None) + own)
    project.run("bench_own.py", "-k", "mine", "--perf-workload=bench_own.py:wide").assert_outcomes(passed=1)
    assert project.measured == [("bench_own.py:net", [512, 1024]), ("bench_own.py:wide", [2048])]


def test_a_session_of_two_workloads_is_written_down(project: Project) -> None:
    """Each has its lines in the summary, and its session in the result, which promotion keeps apart."""
    project.is_named_by_side = True
    project.give = lambda: here(quiet(seed=1))
    project.run("bench_net.py")
    text = Path(project.pytester.path / "runs" / "bench.md").read_text()
    assert text.count("| size | samples/sec |") == 2
    found = load_result(project.pytester.path / "runs" / "bench.json")
    assert [one.session.workload for one in found] == ["bench_net.py:net", "bench_net.py:wide"]
    written = promote(project.pytester.path / "runs" / "bench.json", project.baselines, reason="", date="2026-11-24")
    places = [str(path.relative_to(project.baselines)).partition("/")[2] for path in written]
    assert places == [
        "bench_net.py/net-cpu-fp32.json",
        "bench_net.py/net-cpu-fp32-torch-2.13.0.json",
        "bench_net.py/wide-cpu-fp32.json",
        "bench_net.py/wide-cpu-fp32-torch-2.13.0.json",
    ]
    assert [load_result(path)[0].session.workload for path in written[::2]] == ["bench_net.py:net", "bench_net.py:wide"]


def test_a_file_of_commands_is_collected_where_it_is_named(project: Project) -> None:
    """All of it, or an entry or a claim by its id; a project's folder alone does not run what may take hours."""
    file = project.pytester.path / "stepmark.toml"
    file.write_text(COMMANDS)
    listed = ids(project.run("stepmark.toml", "--co", "-q"))
    shell = [f"stepmark.toml::shell::test_{claim}[{size}]" for claim in CLAIMS for size in (512, 1024)]
    assert listed == shell + [f"stepmark.toml::wide::test_{claim}[2048]" for claim in CLAIMS]
    for folder in ([], ["."]):
        assert project.run(*folder, "--co", "-q").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert project.measured == []
    project.run("stepmark.toml::shell")
    project.run("stepmark.toml::shell::test_rate[1024]")
    project.run("stepmark.toml", "-k", "wide and counters")
    shell_id = "stepmark.toml:shell"
    assert project.measured == [(shell_id, [512, 1024]), (shell_id, [1024]), ("stepmark.toml:wide", [2048])]


def test_a_command_by_its_id(project: Project) -> None:
    """As for every workload: Claims of a test module measure the entry that --perf-workload names."""
    (project.pytester.path / "stepmark.toml").write_text(COMMANDS)
    (project.pytester.path / "test_it.py").write_text("from perf.claims import Claims\nclass TestIt(Claims): ...\n")
    project.run("test_it.py", "--perf-workload=stepmark.toml:wide")
    assert project.measured == [("stepmark.toml:wide", [2048])]
    found = project.run("test_it.py", "--perf-workload=stepmark.toml:wid")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*--perf-workload: *has no command wid (there are shell, wide)*"])


def test_commands_in_the_projects_own_configuration(project: Project) -> None:
    """The tool table of pyproject.toml, whose other tables are not ours."""
    table = COMMANDS.replace("[command", "[tool.stepmark.command")
    (project.pytester.path / "pyproject.toml").write_text(f"[project]\nname = 'mine'\n{table}")
    listed = ids(project.run("pyproject.toml::wide", "--co", "-q"))
    assert listed == [f"pyproject.toml::wide::test_{claim}[2048]" for claim in CLAIMS]


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("[command.shell]", "[command.shell", "*stepmark.toml: *(at line 2, column *"),
        (
            "num_steps = 12",
            "num_step = 12",
            "*stepmark.toml: [[]command.shell]: has 'num_step', and what it may have is *",
        ),
        ("num_steps = 12", "num_steps = 0", "*stepmark.toml: [[]command.shell] num_steps: *>= 1*"),
        ("{num_steps}", "{steps}", "*stepmark.toml: [[]command.shell]*run: has {steps}, and what is filled in is *"),
        ("[command.shell]", "[commands.shell]", "*stepmark.toml: *commands*"),
    ],
    ids=["no TOML", "unknown field", "no number of steps", "unknown placeholder", "other table"],
)
def test_what_is_no_file_of_commands_is_one_error(project: Project, before: str, after: str, says: str) -> None:
    """Which file, which entry and what is wrong with it; nothing is measured, and no traceback is shown."""
    (project.pytester.path / "stepmark.toml").write_text(COMMANDS.replace(before, after))
    found = project.run("stepmark.toml")
    found.assert_outcomes(errors=1)
    assert found.ret == pytest.ExitCode.INTERRUPTED
    found.stdout.fnmatch_lines([says])
    found.stdout.no_fnmatch_line("*Traceback*")
    assert project.measured == []


def test_a_run_of_a_command_has_the_steps_of_its_entry_or_of_the_option(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--perf-steps counts for every workload of a session; without it each has its own number."""
    (project.pytester.path / "stepmark.toml").write_text(COMMANDS)
    measure, steps = perf.app.bench.measure, []

    def spied(side: Side, cases: dict[int, CaseSpec], **options: Any) -> Session:
        steps.append((side.workload, options["num_steps"]))
        return measure(side, cases, **options)

    monkeypatch.setattr("perf.app.bench.measure", spied)
    project.run("stepmark.toml", "-k", "rate")
    project.run("stepmark.toml::shell", "-k", "rate", "--perf-steps=8")
    assert steps == [("stepmark.toml:shell", 12), ("stepmark.toml:wide", 20), ("stepmark.toml:shell", 8)]


def test_a_command_has_no_precision_to_choose(project: Project) -> None:
    """Nobody but the command could obey: wrong usage, before anything is measured."""
    (project.pytester.path / "stepmark.toml").write_text(COMMANDS)
    found = project.run("stepmark.toml::shell", "--perf-precision=bf16")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*stepmark.toml:shell: is a command, whose precision and mode are its own; leave *"])
    assert project.measured == []
