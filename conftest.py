"""The pytest edge: options, fixtures and hooks. What is measured and judged is decided in perf/."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pytest_benchmark.utils import safe_dumps

from perf.app.compare import baseline_recipe
from perf.app.progress import duet_shown, measure_shown
from perf.app.promotion import refusal
from perf.errors import BaselineError, MeasureError
from perf.judge.duets import DuetResult
from perf.judge.verdicts import Judgement, Verdict, incomparable
from perf.measure.runs import RunSpec
from perf.measure.sides import parse_recipe
from perf.records.baselines import (
    BASELINES_DIR,
    KEY,
    LATEST_RESULT,
    PORTABLE,
    Baseline,
    Expected,
    baseline_path,
    find_expected,
    load_baseline,
    load_result,
    load_session,
    result_json,
)
from perf.records.documents import read_json, write_json
from perf.records.published import PublishedRun, load_published
from perf.records.sessions import Session, configuration
from perf.report.bench import baseline_note, published_note, result_note, verdict_table
from perf.report.duet import duet_report
from perf.report.markdown import summary
from perf.runner.machine import fingerprint
from perf.signals import EXIT_STOPPED
from perf.train.devices import PRECISIONS, default_precision, resolve_device, resolve_precision
from perf.train.workloads import WORKLOADS, Workload, default_workload

SLICE_STEPS = 4
"""Steps between two pauses of a run; part of what is measured, since the first step of a slice finds cold caches."""

ENVIRON = dict(os.environ)  # of the measuring processes: as the user gave it, before tests set theirs


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what a session measures and how strict it is."""
    group = parser.getgroup("stepmark", "stepmark: training steps, measured and judged")
    group.addoption(
        "--perf-workload", choices=list(WORKLOADS), metavar="W",
        help="what to train: " + ", ".join(WORKLOADS) + " (default: pico on a CPU, bert-large-msl128 on a GPU)",
    )  # fmt: skip
    group.addoption(
        "--perf-runs", type=int, default=6, metavar="N",
        help="fresh processes for each batch size (default: 6); more find smaller changes",
    )  # fmt: skip
    group.addoption("--perf-steps", type=int, default=20, metavar="N", help="steps of each run (default: 20)")
    group.addoption(
        "--perf-precision", choices=PRECISIONS,
        help="default: fp32 on a CPU, so that the portable baselines hold on every one; auto on a GPU",
    )  # fmt: skip
    group.addoption(
        "--perf-require-baseline", action="store_true", help="a claim without a baseline to compare with fails"
    )
    group.addoption(
        "--perf-strict", action="store_true", help="every claim that could not be checked fails (INCONCLUSIVE too)"
    )
    group.addoption(
        "--perf-duet", action="store_true",
        help="judge times by running the baseline's commit again, side by side, and not by stored numbers",
    )  # fmt: skip
    parser.addini("perf_duet_budget", "seconds of --perf-duet for each batch size", default="60")
    parser.addini("perf_duet_threshold", "smallest change of a rate that matters side by side", default="0.02")
    parser.addini("perf_threshold", "smallest change of a rate that matters, a fraction", default="0.05")
    parser.addini("perf_scaling_threshold", "the same for scaling", default="0.05")


@dataclasses.dataclass(kw_only=True)
class Bench:
    """What one pytest session measures, and what became of it.

    Attributes:
        compare: what --benchmark-compare asked for: a file; None for this machine's baseline.
        asked: the options that make a session without a comparison a failure.
        session, baseline, judgements, published, duet: filled in as the tests run.
        saved: whether the result was.
        stopped: whether a signal ended the measuring.
        problem: why the session fails although no test did.
    """

    compare: Path | None
    asked: list[str]
    session: Session | None = None
    baseline: Baseline | None = None
    judgements: dict[tuple[str, int], Judgement] = dataclasses.field(default_factory=dict)
    published: list[PublishedRun] = dataclasses.field(default_factory=list)
    duet: DuetResult | None = None
    saved: bool = False
    stopped: bool = False
    problem: str = ""


BENCH = pytest.StashKey[Bench]()

SUMMARY = LATEST_RESULT.with_name("summary.md")

pytest_plugins = ["pytester"]  # the tests of this file run sessions of their own


def pytest_configure(config: pytest.Config) -> None:
    """Take over --benchmark-compare before pytest-benchmark, which only warns when there is nothing to compare with."""
    config.addinivalue_line(
        "markers", "perf(threshold=None): a claim about a measured session; `threshold`: smallest change that matters"
    )
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("pytest-benchmark is needed: pip install 'stepmark[tests]', without -p no:benchmark")
    wanted = config.option.benchmark_compare
    if config.option.benchmark_compare_fail and wanted == []:
        wanted = True
    names = ("benchmark_compare", "benchmark_compare_fail", "perf_require_baseline", "perf_strict", "perf_duet")
    asked = [f"--{name.replace('_', '-')}" for name in names if config.getoption(name) not in (None, [], False)]
    if asked and _in_parallel(config):
        raise pytest.UsageError(f"{asked[0]}: times are not measured under -n; leave -n out, or that option")
    if config.getoption("perf_runs") < 1:
        raise pytest.UsageError(f"--perf-runs {config.getoption('perf_runs')}: at least 1 is needed")
    if (steps := config.getoption("perf_steps")) < SLICE_STEPS or steps % SLICE_STEPS:
        raise pytest.UsageError(f"--perf-steps {steps}: a multiple of {SLICE_STEPS} is needed, the steps of a slice")
    for name in ("perf_threshold", "perf_scaling_threshold", "perf_duet_threshold"):
        _fraction(name, config.getini(name))
    _budget(config)
    bench = config.stash[BENCH] = Bench(compare=None, asked=asked)
    config.option.benchmark_compare = []
    saved_to = config.option.benchmark_json
    if saved_to and not Path(saved_to).parent.is_dir():
        raise pytest.UsageError(
            f"--benchmark-json={saved_to}: there is no folder {Path(saved_to).parent}; make it first"
        )
    if isinstance(wanted, str):
        bench.compare = _stored_file(config, wanted)
    if wanted != []:
        bench.baseline = _load_baseline(config, bench.compare)
        usable = bench.baseline and not bench.baseline.times_unfit
        if usable and read_json(bench.baseline.path)["machine_info"] == fingerprint().hardware:
            config.option.benchmark_compare = str(bench.baseline.path)  # for its table
    if not config.option.benchmark_compare:
        config.option.benchmark_compare_fail = None  # with nothing to compare it would only fail the summary


def _stored_file(config: pytest.Config, name: str) -> Path:
    with suppress(OSError):  # a name too long for a file
        if Path(name).is_file():
            return Path(name)
    folder = Path(config.getoption("benchmark_storage").removeprefix("file://"))
    found = sorted(folder.glob(f"**/{glob.escape(name)}*.json")) if name else []
    if not found:
        raise pytest.UsageError(
            f"--benchmark-compare={name}: is no file, and {folder} holds none of that number; "
            "without a value it compares with this machine's baseline"
        )
    return found[-1]


def _load_baseline(config: pytest.Config, path: Path | None) -> Baseline | None:
    """Return what to compare with: `path`, or else this machine's baseline if there is one."""
    device = resolve_device("auto")
    name = configuration(_workload(config).name, device.type, resolve_precision(_precision(config), device))
    try:
        return load_session(path) if path else load_baseline(baseline_path(_baselines(config), name, fingerprint()))
    except BaselineError as error:
        raise pytest.UsageError(str(error)) from None


def _baselines(config: pytest.Config) -> Path:
    """Return the folder of baselines, by the path that a reader has from here."""
    return Path(os.path.relpath(config.rootpath / BASELINES_DIR))


def _in_parallel(config: pytest.Config) -> bool:
    return config.getoption("dist", "no") != "no" or "PYTEST_XDIST_WORKER" in os.environ


def _workload(config: pytest.Config) -> Workload:
    name = config.getoption("perf_workload")
    return WORKLOADS[name] if name else default_workload(resolve_device("auto").type)


def _precision(config: pytest.Config) -> str:
    return config.getoption("perf_precision") or default_precision(resolve_device("auto").type)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a claim's tests: one for each batch size of the workload."""
    if metafunc.definition.get_closest_marker("perf") and "global_batch_size" in metafunc.fixturenames:
        metafunc.parametrize("global_batch_size", _workload(metafunc.config).global_batch_sizes)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is timed where it cannot be, and say so."""
    for item in items:
        for mark in item.iter_markers("perf"):
            if mark.args or set(mark.kwargs) - {"threshold"}:
                raise pytest.UsageError(f"{item.nodeid}: {mark} is not understood; write perf(threshold=0.02)")
    reason = None
    if _in_parallel(config):
        reason = "not timed under -n, where tests disturb each other; run: pytest tests/benchmarks"
    elif config.option.benchmark_disable and not config.option.benchmark_enable:
        reason = "not timed: --benchmark-disable"
    if reason:
        for item in items:
            if item.get_closest_marker("perf"):
                item.add_marker(pytest.mark.skip(reason=reason))  # timed tests would disturb each other, or are off


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find the baseline before anything is measured: a damaged one is told at once."""
    config, items = session.config, _to_run(session.items)
    if not items or config.option.collectonly:
        return
    try:
        (config.rootpath / SUMMARY).unlink(missing_ok=True)  # what is there afterwards is this session's
    except OSError as error:
        raise pytest.UsageError(f"{SUMMARY}: an earlier session's cannot be removed: {error}") from None
    if config.stash[BENCH].baseline is None:
        config.stash[BENCH].baseline = _load_baseline(config, None)
    folder = _baselines(config)
    try:
        config.stash[BENCH].published = load_published(folder)
        for path in (folder / PORTABLE).glob("**/*.json"):
            load_result(path)
    except BaselineError as error:
        raise pytest.UsageError(str(error)) from None


def _to_run(items: list[pytest.Item]) -> list[pytest.Item]:
    return [item for item in items if item.get_closest_marker("perf") and not item.get_closest_marker("skip")]


def _size(item: pytest.Item) -> int:
    return item.callspec.params["global_batch_size"]


@contextmanager
def _shown(config: pytest.Config) -> Iterator[None]:
    """Show what is printed inside, since it takes minutes, and end the session where a signal stops it."""
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        try:
            yield
        except KeyboardInterrupt:
            _stop(config)


def _stop(config: pytest.Config) -> NoReturn:
    """End the session with its summary, which pytest leaves out for a code of our own; that is set afterwards."""
    config.stash[BENCH].stopped = True
    pytest.exit("stopped by a signal while measuring")


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Session:
    """Everything measured in this session: each batch size that a selected test asks for."""
    config = request.config
    sizes = sorted({_size(item) for item in _to_run(request.session.items) if "global_batch_size" in item.fixturenames})
    if not sizes:
        pytest.fail("`measured` needs tests with @pytest.mark.perf and a global_batch_size", pytrace=False)
    steps = config.getoption("perf_steps")
    specs = [
        RunSpec(
            workload=_workload(config),
            global_batch_size=size,
            device="auto",
            precision=_precision(config),
            seed=0,
            num_steps=steps,
            slice_steps=SLICE_STEPS,
        )
        for size in sizes
    ]
    with _shown(config):
        problem = ""
        try:
            session = measure_shown(specs, num_rounds=config.getoption("perf_runs"), environ=ENVIRON)
        except MeasureError as error:
            problem = str(error)
    if problem:
        pytest.fail(problem, pytrace=False)
    config.stash[BENCH].session = session
    return session


@pytest.fixture(scope="session")
def baseline(pytestconfig: pytest.Config) -> Baseline | None:
    """What times are compared with, if there is anything."""
    return pytestconfig.stash[BENCH].baseline


@pytest.fixture(scope="session")
def duet(measured: Session, baseline: Baseline | None, pytestconfig: pytest.Config) -> DuetResult | None:
    """The promoted baseline's commit beside the working tree, with --perf-duet and where there is such a baseline."""
    if not pytestconfig.getoption("perf_duet") or baseline is None or incomparable(measured, baseline):
        return None
    both = [size for size in measured.measurements if size in baseline.session.measurements]
    if not both:
        return None
    problem = ""
    with _shown(pytestconfig):
        try:
            found = duet_shown(
                (baseline_recipe(parse_recipe(["baseline:"]), baseline), parse_recipe(["self"])),
                _workload(pytestconfig),
                both,
                precision=_precision(pytestconfig),
                threshold=_fraction("perf_duet_threshold", pytestconfig.getini("perf_duet_threshold")),
                budget_s=_budget(pytestconfig),
                environ=ENVIRON,
            )
        except (MeasureError, BaselineError) as error:
            problem = str(error)
    if problem:
        pytest.fail(f"--perf-duet: {problem}", pytrace=False)
    pytestconfig.stash[BENCH].duet = found
    if found.interrupted:  # what its pairs show is in the summary
        _stop(pytestconfig)
    return found


@pytest.fixture
def expected(
    measured: Session, baseline: Baseline | None, global_batch_size: int, pytestconfig: pytest.Config
) -> Expected | None:
    """What losses and counters are compared with, if there is anything."""
    try:
        return find_expected(measured, global_batch_size, baseline, _baselines(pytestconfig))
    except BaselineError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def settle(request: pytest.FixtureRequest) -> Callable[[Judgement], None]:
    """Turn what became of a claim into the test's outcome: passed if it holds, failed if not, skipped if unknown."""
    config = request.config

    def settle(judgement: Judgement) -> None:
        size = _size(request.node)
        config.stash[BENCH].judgements[judgement.claim, size] = judgement
        said = f"{judgement.verdict}: {judgement.reason}" if judgement.verdict else judgement.reason
        lacks_baseline = judgement.verdict in (Verdict.NO_BASELINE, Verdict.NOT_COMPARABLE)
        required = config.getoption("perf_strict") or (lacks_baseline and config.getoption("perf_require_baseline"))
        if judgement.holds is None and not required:
            pytest.skip(said)  # unknown is neither passed nor failed
        if not judgement.holds:
            pytest.fail(said, pytrace=False)

    return settle


@pytest.fixture
def rate_threshold(request: pytest.FixtureRequest) -> float:
    """The smallest change of a rate that matters: the test's own, or else that of pyproject.toml."""
    return _threshold(request, "perf_threshold")


@pytest.fixture
def scaling_threshold(request: pytest.FixtureRequest) -> float:
    """The same for scaling."""
    return _threshold(request, "perf_scaling_threshold")


def _threshold(request: pytest.FixtureRequest, name: str) -> float:
    found = [mark.kwargs["threshold"] for mark in request.node.iter_markers("perf") if "threshold" in mark.kwargs]
    return _fraction("perf(threshold=...)", found[0]) if found else _fraction(name, request.config.getini(name))


def _fraction(name: str, text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise pytest.UsageError(f"{name} = {text!r}: a fraction between 0 and 1 is needed, such as 0.05")
    return value


def _budget(config: pytest.Config) -> float:
    text = config.getini("perf_duet_budget")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < 1e6:
        raise pytest.UsageError(f"perf_duet_budget = {text!r}: seconds are needed, at least 1")
    return value


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Leave in pytest-benchmark's file only what makes times incomparable; the rest is in our part of it."""
    machine_info.clear()
    machine_info.update(fingerprint().hardware)


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Add the raw values and their provenance to pytest-benchmark's file, and keep a copy of the latest."""
    bench, commit = config.stash[BENCH], output_json["commit_info"]
    if bench.session is None:
        return
    duets = {bench.session.workload: bench.duet.as_json()} if bench.duet else {}
    output_json[KEY] = result_json([bench.session], _provenance(config, commit), duets)


def _provenance(config: pytest.Config, commit: dict[str, Any]) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["pytest", *config.invocation_params.args]),
        "commit": str(commit["id"]),
        "dirty": bool(commit["dirty"]),
    }


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Fail a session that was asked to compare and did not: green must mean that somebody looked."""
    bench, timed = session.config.stash[BENCH], session.config._benchmarksession
    if timed.benchmarks and bench.session:
        bench.problem = _save_result(session.config)
    else:
        timed.json = timed.save = timed.autosave = None  # nothing to save, which pytest-benchmark would warn of
    if session.exitstatus == pytest.ExitCode.INTERRUPTED:
        bench.problem = bench.problem or "stopped by a signal: what is missing was not measured"
    elif not bench.problem and not session.config.option.collectonly:
        bench.problem = _not_looked(session.config, bench)
    if bench.problem and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    yield
    if bench.stopped:
        session.exitstatus = EXIT_STOPPED


def _not_looked(config: pytest.Config, bench: Bench) -> str:
    """Return which comparison was asked for and not made, or nothing."""
    rates = [judgement for (claim, _), judgement in bench.judgements.items() if claim == "rate"]
    looked = [rate for rate in rates if rate.effect or (not bench.compare and rate.verdict is Verdict.NO_BASELINE)]
    if bench.asked and not looked:
        return f"{bench.asked[0]}: no rate was compared in this session, so it fails"
    if not config.getoption("perf_strict") or not bench.baseline:
        return ""
    lost = sorted(set(bench.baseline.session.measurements) - set(_workload(config).global_batch_sizes))
    sizes = ", ".join(map(str, lost))
    return f"--perf-strict: the baseline has {sizes}, and the workload no longer does: it fails" if lost else ""


def _save_result(config: pytest.Config) -> str:
    """Keep the session's result whole or not at all, as pytest-benchmark would write it; return what went wrong."""
    timed, hook = config._benchmarksession, config.hook
    output = hook.pytest_benchmark_generate_json(
        config=config,
        benchmarks=timed.benchmarks,
        include_data=True,
        machine_info=timed.get_machine_info(),
        commit_info=hook.pytest_benchmark_generate_commit_info(config=config),
    )
    hook.pytest_benchmark_update_json(config=config, benchmarks=timed.benchmarks, output_json=output)
    try:
        write_json(config.rootpath / LATEST_RESULT, json.loads(safe_dumps(output)))
    except OSError as error:
        return f"the result could not be kept: {error}"
    config.stash[BENCH].saved = True
    return ""


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Iterator[None]:
    """Print one line for each batch size, and what to do next: after pytest-benchmark, also when it fails the session."""
    try:
        return (yield)
    finally:
        if config.stash[BENCH].problem:
            terminalreporter.write_line(config.stash[BENCH].problem, red=True)
        if config.stash[BENCH].session:
            _summarize(terminalreporter, config, config.stash[BENCH].session)
            _write_summary(terminalreporter, config, config.stash[BENCH].session)


def _summarize(terminalreporter: pytest.TerminalReporter, config: pytest.Config, session: Session) -> None:
    bench = config.stash[BENCH]
    terminalreporter.section(f"stepmark: {session.configuration}")
    terminalreporter.write_line(verdict_table(session, bench.judgements))
    if bench.baseline:
        terminalreporter.write_line(f"baseline: {baseline_note(bench.baseline, session)}")
    if bench.duet:
        terminalreporter.write_line(f"\n{duet_report(bench.duet)}\n")
    if bench.published:
        terminalreporter.write_line(published_note(bench.published))
    if bench.saved:
        refused = refusal(Path(os.path.relpath(config.rootpath / LATEST_RESULT)), _baselines(config))
        terminalreporter.write_line(result_note(LATEST_RESULT, refused))


def _write_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config, session: Session) -> None:
    """Write the session as Markdown beside its result, and for GitHub where that asks for it."""
    bench = config.stash[BENCH]
    about = _provenance(config, config.hook.pytest_benchmark_generate_commit_info(config=config))
    first, *rest = summary(session, about, bench.judgements, bench.baseline, bench.duet, bench.problem)
    text = "\n".join([first, *rest])
    path = config.rootpath / SUMMARY
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
        if to := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(to).open("a", encoding="utf-8") as file:
                file.write(text + "\n")
    except OSError as error:
        terminalreporter.write_line(f"the summary could not be written: {error}", red=True)
    if "GITHUB_ACTIONS" in os.environ:
        for (claim, size), judgement in bench.judgements.items():
            if judgement.verdict is Verdict.INCONCLUSIVE and claim == "rate":
                terminalreporter.write_line(f"::warning::global batch size {size}: {judgement.reason}")
    terminalreporter.write_line(first.removeprefix("**").removesuffix("**"), bold=True)
