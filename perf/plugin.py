"""The pytest plugin: options, collection and fixtures. A session without a measured claim is left as it is."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from perf.claims import Claims, Judge
from perf.errors import UsageError
from perf.finding import Found, commands_in, find, workloads_in
from perf.parsers import AUTO, DEFAULT, WORKLOAD, fraction, positive, steps
from perf.seam import PRECISIONS, Workload
from perf.train.workloads import default_workload

if TYPE_CHECKING:
    from perf.app.bench import Bench
    from perf.measuring import Measuring
    from perf.records.sessions import Measurement, Session
    from perf.report.sections import Section

ENVIRON = dict(os.environ)  # of the measuring processes: as the user gave it, before tests set theirs

OWN_FIXTURE = "perf_bench"
"""What every test of ours needs, directly or not; foreign tests may have our marks and our other names."""

IN_PARALLEL = "not timed under -n, where tests disturb each other; run: pytest without -n"


@dataclass(kw_only=True, slots=True)
class State:
    """What is known of a session before anything is measured."""

    # compare, compare_fail: pytest-benchmark's options, held back until it is known whose they are
    compare: Any
    compare_fail: Any
    asked: list[str]  # the given options that make a session without a comparison a failure
    seen: bool = False  # whether there are claims, also if none is to be run


STATE = pytest.StashKey[State]()
MEASURING: pytest.StashKey[Measuring] = pytest.StashKey()  # the hooks of a session that measures; absent in all others


class Hooks:
    """What a conftest or a plugin may add."""

    def pytest_stepmark_sections(self, session: Session) -> list[Section]:  # type: ignore[empty-body]  # never called
        """Return what the report of a measured workload is to show besides."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Let others add to reports."""
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what a session measures and how strict it is."""
    option = parser.getgroup("stepmark", "stepmark: training steps, measured and judged").addoption
    option("--perf-workload", metavar="W", help=f"what Claims without one measure: {WORKLOAD} (default: {DEFAULT})")
    option("--perf-runs", type=positive, metavar="N", help="processes of a batch size (default: 6, or 3 before a duet)")
    option("--perf-steps", type=steps, metavar="N", help="steps of each run (default: 20, or a command's num_steps)")
    option("--perf-precision", choices=PRECISIONS, help=f"default: the workload's ({AUTO})")
    option("--perf-require-baseline", action="store_true", help="a claim without a baseline to compare with fails")
    option("--perf-strict", action="store_true", help="every claim that could not be checked fails (INCONCLUSIVE too)")
    option(
        "--perf-duet",
        metavar="WHEN",
        nargs="?",
        const="always",
        help="compare side by side with the baseline's commit: never, always (without a value), or auto: where stored "
        "times do not decide (default with --benchmark-compare); or a SPEC, such as git:main, to compare with that and "
        "without a baseline",
    )
    parser.addini("perf_duet_budget", "time of --perf-duet for each batch size, such as 90s or 5m", default="60s")
    parser.addini("perf_duet_threshold", "smallest change of a rate that matters side by side", default="2%")
    parser.addini("perf_threshold", "smallest change of a rate that matters, such as 5% or 0.05", default="5%")
    parser.addini("perf_scaling_threshold", "the same for scaling", default="5%")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hold back what --benchmark-compare asks for until it is known whether this session has claims."""
    config.addinivalue_line(
        "markers", "perf(threshold=0.02): a claim about a measured session; `threshold`: smallest change that matters"
    )
    compare = config.getoption("benchmark_compare", None)
    compare_fail = config.getoption("benchmark_compare_fail", None)
    given = {
        "--benchmark-compare": compare,
        "--benchmark-compare-fail": compare_fail,
        "--perf-require-baseline": config.getoption("perf_require_baseline"),
        "--perf-strict": config.getoption("perf_strict"),
        "--perf-duet": config.getoption("perf_duet") not in (None, "auto", "never"),
    }
    asked = [name for name, value in given.items() if value not in (None, [], False)]
    config.stash[STATE] = State(compare=compare, compare_fail=compare_fail, asked=asked)
    own = [name for name in asked if name.startswith("--perf")]
    if own and in_parallel(config):
        raise pytest.UsageError(f"{own[0]}: times are not measured under -n; leave -n out, or that option")
    if not in_parallel(config):  # where it would compare nothing
        config.option.benchmark_compare, config.option.benchmark_compare_fail = [], None


def in_parallel(config: pytest.Config) -> bool:
    """Return whether tests of this session run beside each other."""
    return config.getoption("dist", "no") != "no" or "PYTEST_XDIST_WORKER" in os.environ


def parsed(name: str, value: object, parse: Callable[[str], float]) -> float:
    """Return a value of the configuration or of a mark. Raises pytest.UsageError: it is none."""
    try:
        return parse(str(value))
    except argparse.ArgumentTypeError as error:
        raise pytest.UsageError(f"{name} = {value!r}: {error}") from None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Tell a wrong workload or a wrong threshold before anything is collected."""
    config = session.config
    for name in ("perf_threshold", "perf_scaling_threshold", "perf_duet_threshold"):
        parsed(name, config.getini(name), fraction)
    if config.getoption("perf_workload"):
        _chosen(config)


@functools.lru_cache(maxsize=1)  # a session imports its file once
def _chosen(config: pytest.Config) -> Found:
    from perf.train.devices import resolve_device

    try:
        name = config.getoption("perf_workload") or default_workload(resolve_device("auto").type)
        return find(name, config.rootpath)
    except UsageError as error:
        raise pytest.UsageError(f"--perf-workload: {error}") from None


class WorkloadNode(pytest.Class):
    """A workload in a module, collected as a class of `perf.claims.Claims`."""

    def __init__(self, *, target: Found, **options: Any) -> None:
        super().__init__(**options)
        self.target = target

    def _getobj(self) -> type:
        workload = self.target.workload
        module = workload.build.__module__ if isinstance(workload, Workload) else Claims.__module__
        about = {"__module__": module, "__doc__": workload.why or None}
        return type(self.name, (Claims,), about)

    def funcnamefilter(self, name: str) -> bool:
        """Return whether a name is a claim's, whatever a project calls its own tests."""
        return name.startswith("test_")


class CommandFile(pytest.Module):
    """A file with a table of commands, collected as workloads."""

    def _getobj(self) -> object:
        return sys.modules[Claims.__module__]

    def collect(self) -> Iterator[WorkloadNode]:
        """Yield each command."""
        try:
            found = commands_in(self.path, self.config.rootpath)
        except UsageError as error:
            raise self.CollectError(str(error)) from None
        for target in found:
            yield WorkloadNode.from_parent(self, name=target.id.rpartition(":")[2], target=target)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> CommandFile | None:
    """Collect a file of commands that is named on the command line."""
    if file_path.suffix != ".toml" or not parent.session.isinitpath(file_path):
        return None
    return CommandFile.from_parent(parent, path=file_path)


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> list[pytest.Collector] | None:
    """Collect each workload in the module that defines it."""
    if type(obj) is not Workload or not isinstance(collector, pytest.Module):
        return None
    target = workloads_in(collector.obj, collector.config.rootpath).get(name)
    return [WorkloadNode.from_parent(collector, name=name, target=target)] if target else []


def target_of(node: pytest.Item) -> Found:
    """Return the workload that a test is about: its own, the only one of its file, or what --perf-workload names."""
    if own := node.getparent(WorkloadNode):
        return own.target
    module = node.getparent(pytest.Module)
    if module and not node.config.getoption("perf_workload"):
        beside = [*workloads_in(module.obj, node.config.rootpath).values()]
        if len(beside) == 1:
            return beside[0]
    return _chosen(node.config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a claim's tests: one for each batch size of the workload."""
    if {OWN_FIXTURE, "global_batch_size"} <= set(metafunc.fixturenames):
        metafunc.parametrize("global_batch_size", target_of(metafunc.definition).workload.global_batch_sizes)


def is_ours(item: pytest.Item) -> bool:
    """Return whether a test needs something measured."""
    return OWN_FIXTURE in getattr(item, "fixturenames", ())


def batch_size(item: pytest.Item) -> int | None:
    """Return the global batch size of a test; None for one without."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("global_batch_size") if callspec else None


@pytest.hookimpl(tryfirst=True)  # before tests are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is timed where it cannot be, and say so."""
    ours = [item for item in items if is_ours(item)]
    config.stash[STATE].seen |= bool(ours)
    for item in ours:
        for mark in item.iter_markers("perf"):
            if mark.args or set(mark.kwargs) - {"threshold"}:
                raise pytest.UsageError(f"{item.nodeid}: {mark} is not understood; write perf(threshold=0.02)")
        if in_parallel(config):
            item.add_marker(pytest.mark.skip(reason=IN_PARALLEL))  # its times would mean nothing
        elif config.getoption("benchmark_disable", False) and not config.getoption("benchmark_enable", False):
            item.add_marker(pytest.mark.skip(reason="not timed: --benchmark-disable"))  # as the user asked


def pytest_collection_finish(session: pytest.Session) -> None:
    """Prepare what is to be measured, or give pytest-benchmark its options back."""
    config = session.config
    state = config.stash[STATE]
    items = [item for item in session.items if is_ours(item) and not item.get_closest_marker("skip")]
    timed: Any = getattr(config, "_benchmarksession", None)  # pytest-benchmark sets it
    if items and not config.option.collectonly:
        if timed is None:
            raise pytest.UsageError(f"{items[0].nodeid}: needs pytest-benchmark; leave -p no:benchmark out")
        if state.compare_fail:
            raise pytest.UsageError("--benchmark-compare-fail: verdicts judge here; leave it out, see perf_threshold")
        from perf.measuring import Measuring

        config.stash[MEASURING] = Measuring(config, items)
        config.pluginmanager.register(config.stash[MEASURING], "stepmark-measuring")
    elif not items and not in_parallel(config) and (state.compare or state.compare_fail):
        config.option.benchmark_compare = timed.compare = state.compare
        config.option.benchmark_compare_fail = timed.compare_fail = state.compare_fail
        timed.handle_loading()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Fail a session that was asked to compare claims and measured none: green must mean that somebody looked."""
    config = session.config
    state = config.stash[STATE]
    timed: Any = getattr(config, "_benchmarksession", None)
    if state.seen and timed and not timed.benchmarks:
        timed.json = timed.save = timed.autosave = None  # nothing to save, which pytest-benchmark would warn of
    reporter = config.pluginmanager.getplugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    seen = state.seen or any(IN_PARALLEL in str(report.longrepr) for report in skipped)  # by workers of pytest-xdist
    asked = [name for name in state.asked if seen or name.startswith("--perf")]
    is_over = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if asked and is_over and MEASURING not in config.stash and not config.option.collectonly:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if reporter:
            reporter.write_line(f"\n{asked[0]}: no rate was compared in this session, so it fails", red=True)
    yield


@pytest.fixture
def perf_bench(request: pytest.FixtureRequest) -> Bench:
    """What the test's workload is measured and judged by."""
    measuring = request.config.stash.get(MEASURING, None)
    bench = measuring.benches.get(target_of(request.node).id) if measuring else None
    if bench is None:
        pytest.fail("`measured` needs tests with a global_batch_size in this session", pytrace=False)
    return bench


@pytest.fixture
def measured(perf_bench: Bench, request: pytest.FixtureRequest) -> Session:
    """Everything measured of the test's workload: each batch size that a selected test asks for."""
    return request.config.stash[MEASURING].measured(perf_bench)


@pytest.fixture
def perf_measurement(measured: Session, global_batch_size: int) -> Measurement:
    """The runs at the test's batch size."""
    if global_batch_size in measured.failures:
        pytest.fail(f"global batch size {global_batch_size}: {measured.failures[global_batch_size]}", pytrace=False)
    return measured.measurements[global_batch_size]


@pytest.fixture
def perf_judge(perf_bench: Bench, perf_measurement: Measurement, request: pytest.FixtureRequest) -> Judge:
    """Turn what becomes of a claim into the test's outcome: passed if it holds, failed if not, skipped if unknown."""
    measuring = request.config.stash[MEASURING]
    return lambda claim: measuring.settle(request.node, perf_bench, claim, perf_measurement.global_batch_size)
