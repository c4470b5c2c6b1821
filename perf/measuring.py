"""The hooks of a pytest session that measures; they are registered in no other one."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec
import pytest
from msgspec.structs import replace

from perf.app.bench import WITH_BASELINE, Bench
from perf.app.promotion import refusal
from perf.app.report import history_folder, keep_page, publish
from perf.app.what import What, here
from perf.errors import PerfError, UsageError
from perf.judge.verdicts import Verdict
from perf.measure.sides import parse_recipe
from perf.parsers import fraction, seconds
from perf.plugin import ENVIRON, STATE, WorkloadNode, batch_size, parsed, target_of
from perf.printable import shown, wrapped
from perf.records import baselines
from perf.records.baselines import Baseline, Provenance
from perf.records.documents import write_json
from perf.records.history import alike, keep, load_history
from perf.records.sessions import Session
from perf.report.answers import of_session
from perf.report.bench import result_note, session_report
from perf.report.sections import Report, as_text
from perf.signals import EXIT_STOPPED

T = TypeVar("T")

REPORT = baselines.LATEST_RESULT.with_suffix("")  # the page and the summary of a session are beside its result


class Measuring:
    """Measures for the tests of one session that need it, its `items`, and writes down what becomes of them.

    Raises pytest.UsageError: nothing can be measured as asked; a damaged baseline is told before anything is.
    """

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        compare = config.stash[STATE].compare  # [] without --benchmark-compare, True for this machine's baselines
        self._config, self._asked = config, config.stash[STATE].asked
        self._baselines = shown(config.rootpath / baselines.BASELINES_DIR)
        self._saved = self._stopped = False
        self._problem = ""
        self._folder = history_folder()  # None without a history
        self._kept: Path | None = None  # this session's file in it
        self._reports: list[Report] = []  # what is to be said of each workload, once the tests have run
        self._thresholds: dict[str, float] = {}  # of stored rates, by workload
        saved_to = config.option.benchmark_json
        if saved_to and not Path(saved_to).parent.is_dir():
            raise pytest.UsageError(f"--benchmark-json={saved_to}: there is no folder {Path(saved_to).parent}")
        self._file = self._stored_file(compare) if isinstance(compare, str) else None
        duet = config.getoption("perf_duet") or ("never" if compare in ([], None) else "auto")
        try:
            if duet not in WITH_BASELINE and parse_recipe(duet.split()).is_baseline:
                raise ValueError("write always to compare with the baseline")
        except ValueError as error:
            raise pytest.UsageError(f"--perf-duet={duet}: never, auto, always or a SPEC is needed: {error}") from None
        try:
            by_id: dict[str, list[pytest.Item]] = {}
            for item in items:
                if batch_size(item):
                    by_id.setdefault(target_of(item).id, []).append(item)
            self.benches = {name: self._bench(some, duet) for name, some in by_id.items()}  # by the workload's id
            self._history = load_history(self._folder) if self._folder else []
            for suffix in (".html", ".md"):  # what is there afterwards is this session's
                (config.rootpath / REPORT.with_suffix(suffix)).unlink(missing_ok=True)
        except (PerfError, UsageError, OSError) as error:
            raise pytest.UsageError(str(error)) from None

    def _stored_file(self, name: str) -> Path:
        """Return the file that --benchmark-compare names: a path, or the number of one that pytest-benchmark keeps."""
        config: Any = self._config
        storage = config._benchmarksession.storage  # pytest-benchmark's
        with suppress(ValueError):  # a path of many folders, and no file
            if name and (found := storage.query(name)):
                return shown(found[-1])
        raise pytest.UsageError(f"--benchmark-compare={name}: is no file, and {storage} holds none of that number")

    def _bench(self, items: list[pytest.Item], duet: str) -> Bench:
        config, target = self._config, target_of(items[0])
        what = What(
            root=config.rootpath,
            target=target,
            sizes=sorted({batch_size(item) or 0 for item in items}),
            precision=config.getoption("perf_precision") or target.workload.precision,
            budget_s=parsed("perf_duet_budget", config.getini("perf_duet_budget"), seconds),
            environ=ENVIRON,
        )
        timed = [item for item in items if "benchmark" in getattr(item, "fixturenames", ())]  # the claims of rates
        return Bench(
            what,
            num_runs=config.getoption("perf_runs"),
            num_steps=config.getoption("perf_steps"),
            compare=self._file,
            duet=duet,
            duet_threshold=min(self._threshold(item, "perf_duet_threshold") for item in timed or items),
        )

    def _threshold(self, item: pytest.Item, name: str) -> float:
        """Return the smallest change that matters: the nearest mark's, the workload's own, or the configuration's."""
        for node in reversed(item.listchain()):
            for mark in node.own_markers:
                if mark.name == "perf" and "threshold" in mark.kwargs:
                    return parsed("perf(threshold=...)", mark.kwargs["threshold"], fraction)
            if isinstance(node, WorkloadNode) and node.target.workload.threshold:
                return node.target.workload.threshold
        return target_of(item).workload.threshold or parsed(name, self._config.getini(name), fraction)

    def shown(self, act: Callable[[], T]) -> T:
        """Do what takes minutes: its output is shown, an error of ours fails the test, a signal ends the session."""
        with self._config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            try:
                return act()
            except KeyboardInterrupt:
                self._stop()
            except PerfError as error:
                raise pytest.fail.Exception(str(error), pytrace=False) from None

    def measured(self, bench: Bench) -> Session:
        """Return what was measured of a workload, now or before; a signal ends the session with what there is."""
        is_new = bench.session is None
        session = self.shown(bench.measure)
        if is_new:
            self._save()  # what was measured must survive what comes after
        if bench.is_stopped:
            self._stop()
        return session

    def _stop(self) -> NoReturn:
        """End the session with its summary, which pytest leaves out for a code of our own; that is set afterwards."""
        self._stopped = True
        pytest.exit("stopped by a signal while measuring")

    def settle(self, item: pytest.Item, bench: Bench, claim: str, size: int) -> None:
        """Turn what becomes of a claim into the test's outcome."""
        config = self._config
        threshold = self._threshold(item, "perf_scaling_threshold" if claim == "scaling" else "perf_threshold")
        if claim == "rate":
            self._thresholds[bench.target.id] = threshold
        judgement = self.shown(lambda: bench.judge(claim, size, threshold=threshold))
        if bench.duet and bench.duet.interrupted:  # what its pairs show is in the summary
            self._stop()
        said = f"{judgement.verdict}: {judgement.reason}" if judgement.verdict else judgement.reason
        lacks_baseline = judgement.verdict in (Verdict.NO_BASELINE, Verdict.NOT_COMPARABLE)
        required = config.getoption("perf_strict") or (lacks_baseline and config.getoption("perf_require_baseline"))
        if judgement.holds is None and (not required or judgement.verdict is Verdict.NOT_MEASURED):
            pytest.skip(said)  # unknown is neither passed nor failed
        if not judgement.holds:
            bench.judgements[claim, size] = replace(judgement, holds=False)  # also what an option requires
            pytest.fail(said, pytrace=False)

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        """Leave in pytest-benchmark's file only what makes times incomparable; the rest is in our part of it."""
        machine_info.clear()
        machine_info.update(here().hardware)

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        """Add the raw values and their provenance to pytest-benchmark's file."""
        if self._measured():
            output_json[baselines.KEY] = self._stored()

    def _stored(self) -> dict[str, Any]:
        duets = {bench.target.id: bench.duet.as_json() for bench in self._measured() if bench.duet}
        sessions = [bench.measure() for bench in self._measured()]
        return baselines.result_json(sessions, self._provenance(), duets, msgspec.to_builtins(self._reports))

    def _measured(self) -> list[Bench]:
        return [bench for bench in self.benches.values() if bench.session]

    def _provenance(self) -> Provenance:
        commit = self._config.hook.pytest_benchmark_generate_commit_info(config=self._config)
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["pytest", *map(str, self._config.invocation_params.args)]),
            "commit": str(commit["id"]),
            "dirty": bool(commit["dirty"]),
        }

    def _save(self, *, is_whole: bool = False) -> None:
        """Keep the session's result, whole or not at all; in the history only that of a whole session."""
        content = {"machine_info": here().hardware, "benchmarks": [], baselines.KEY: self._stored()}
        try:
            write_json(self._config.rootpath / baselines.LATEST_RESULT, content)
            self._saved = True
            if self._folder and is_whole:
                self._kept = keep(self._folder, content)
        except OSError as error:
            self._problem = f"the result could not be kept: {error}"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Fail a session that was asked to compare and did not: green must mean that somebody looked."""
        if session.exitstatus == pytest.ExitCode.INTERRUPTED:
            by = " by a signal" if self._stopped else ""
            self._problem = self._problem or f"stopped{by}: what is missing was not measured"
        self._problem = self._problem or self._not_looked()
        if self._measured():
            self._reports = list(map(self._report, self._measured()))
            self._save(is_whole=session.exitstatus != pytest.ExitCode.INTERRUPTED)
        if self._problem and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield
        if self._stopped:
            session.exitstatus = EXIT_STOPPED

    def _report(self, bench: Bench) -> Report:
        session, provenance = bench.measure(), self._provenance()
        answer = of_session(session, bench.judgements, bench.baseline, bench.duet, self._problem)
        now = Baseline(
            path=self._config.rootpath / baselines.LATEST_RESULT,
            session=session,
            provenance=provenance,
            verdict=answer.verdict,
        )
        return session_report(
            session,
            provenance=provenance,
            judgements=bench.judgements,
            baseline=bench.baseline,
            expected={size: bench.expected(size) for size in session.measurements},
            duet=bench.duet,
            answer=answer,
            threshold=self._thresholds.get(bench.target.id, 0.0),  # 0: no rate was judged
            more=[section for some in self._config.hook.pytest_stepmark_sections(session=session) for section in some],
            past=[*alike(self._history, session), now] if self._folder else [],
        )

    def _not_looked(self) -> str:
        rates = [found for bench in self.benches.values() for (c, _), found in bench.judgements.items() if c == "rate"]
        expected = [Verdict.LOSSES_DIFFER] if self._file else [Verdict.LOSSES_DIFFER, Verdict.NO_BASELINE]
        looked = [rate for rate in rates if rate.effect or rate.verdict in expected]
        if self._asked and not looked:
            return f"{self._asked[0]}: no rate was compared in this session, so it fails"
        for bench in self.benches.values() if self._config.getoption("perf_strict") else ():
            stored = bench.baseline.session.measurements if bench.baseline else {}
            if lost := sorted(stored.keys() - bench.target.workload.global_batch_sizes):
                sizes = ", ".join(map(str, lost))
                return f"--perf-strict: the baseline has {sizes}, and the workload no longer does: it fails"
        return ""

    @pytest.hookimpl(wrapper=True, trylast=True)  # inside pytest's own, whose short summary comes last
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        """Print one line for each batch size and what to do next, after pytest-benchmark, also when that fails."""
        try:
            return (yield)
        finally:
            self._summarize(terminalreporter)

    def _summarize(self, terminalreporter: pytest.TerminalReporter) -> None:
        root, write = self._config.rootpath, terminalreporter.write_line
        if self._problem:
            write(self._problem, red=True)
        if not self._reports:
            return
        for report in self._reports:
            terminalreporter.section(f"stepmark: {report.title}")
            write(wrapped(report.answer.line), bold=True, red=report.is_bad)
            write(wrapped(f"Next: {report.answer.next_step}"))
            write(f"\n{as_text(report.sections)}")
        if self._saved:
            refused = refusal(shown(root / baselines.LATEST_RESULT), self._baselines)
            write(wrapped(result_note(baselines.LATEST_RESULT, refused)))
        try:
            for line in publish(self._reports, self._stored(), shown(root / REPORT)):
                write(line)
            if self._kept:
                write(f"history: {keep_page(root / REPORT.with_suffix('.html'), self._kept)}")
        except OSError as error:
            write(f"the page could not be written: {error}", red=True)
