"""Measured claims: each workload of a sitting measured once, judged claim by claim, and written down."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.app.machine import Here
from perf.app.side_by_side import What, baseline_recipe, compared
from perf.errors import BaselineError, MeasureError, UsageError
from perf.finding import Found
from perf.project import shown
from perf.signals import stopped_by_signals

if TYPE_CHECKING:
    from perf.judge.duets import DuetResult
    from perf.judge.verdicts import Judgement
    from perf.records.baselines import Baseline, Provenance
    from perf.records.sessions import MeasuredRun, Session

SUMMARY = Path("runs") / "summary.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What all workloads of a sitting have in common.

    Attributes:
        root: of the project.
        here: this machine.
        environ: of the measuring processes: as the user gave it, before tests set theirs.
        precision: what was asked for; None for the workload's.
        num_runs: fresh processes of each batch size.
        num_steps: steps of each run.
        compare: a file to compare with; None for this machine's baselines.
        duet_budget_s: of a comparison side by side, for each batch size; None for no such comparison.
    """

    root: Path
    here: Here
    environ: Mapping[str, str]
    precision: str | None
    num_runs: int
    num_steps: int
    compare: Path | None
    duet_budget_s: float | None

    @property
    def baselines(self) -> Path:
        """The folder of baselines, by the path that a reader has from here."""
        return shown(self.root / "baselines")


class Bench:
    """One workload in a sitting: measured when the first test needs it, and compared side by side likewise.

    Args:
        target: the workload.
        sizes: the global batch sizes that tests ask for.
        settings: of the sitting.
        duet_threshold: the smallest change that matters side by side, a fraction.

    Attributes:
        baseline: what times are compared with, if there is anything.
        session: what was measured, once it is.
        duet: the comparison side by side, once there is one.
        judgements: by claim and batch size.

    Raises:
        BaselineError: its baseline, or a portable one, is damaged.
    """

    def __init__(self, target: Found, sizes: Sequence[int], settings: Settings, duet_threshold: float) -> None:
        self.target, self.sizes, self._settings, self._duet_threshold = target, sizes, settings, duet_threshold
        self._precision = settings.precision or target.workload.precision
        self.baseline = self._find_baseline()
        self.session: Session | None = None
        self.duet: DuetResult | None = None
        self.judgements: dict[tuple[str, int], Judgement] = {}
        self._problems: dict[str, str] = {}

    def _find_baseline(self) -> Baseline | None:
        from perf.records.baselines import PORTABLE, baseline_path, load_baseline, load_result, load_session
        from perf.records.sessions import configuration

        here, folder = self._settings.here, self._settings.baselines
        for path in (folder / PORTABLE).glob("**/*.json"):
            load_result(path)
        name = configuration(self.target.id, here.device, here.resolved(self._precision))
        if self._settings.compare:
            return load_session(self._settings.compare)
        return load_baseline(baseline_path(folder, name, here.fingerprint))

    def measure(self) -> Session:
        """Return what was measured, now or before.

        Raises:
            MeasureError: nothing could be, now or before.
        """
        if self.session is None:
            self._raise_again("measure")
            try:
                self.session = self._measured()
            except MeasureError as error:
                self._problems["measure"] = str(error)
                raise
        return self.session

    def _raise_again(self, what: str) -> None:
        if what in self._problems:
            raise MeasureError(self._problems[what])

    def _measured(self) -> Session:
        """Measure as `perf.measure.bench.measure` does, in an order of slices that differs each time, and show it."""
        import numpy as np
        from tqdm import tqdm

        from perf.judge.fitness import with_fitness
        from perf.judge.stats import run_rate
        from perf.measure.bench import SLICE_STEPS, measure
        from perf.measure.sides import own_side
        from perf.records.wire import CaseSpec
        from perf.report.bench import log_blocks, warmup_note

        rounds, steps = self._settings.num_runs, self._settings.num_steps
        sizes = ", ".join(map(str, self.sizes))
        # A log in a file must show that it goes on, too.
        print(f"\n{self.target.id} at {sizes}: {rounds} fresh processes each, {steps} steps, in turns", flush=True)
        num_done = 0
        num_slices = rounds * len(self.sizes) * steps // SLICE_STEPS
        # None: only on a terminal
        with tqdm(total=num_slices, unit="slice", leave=False, delay=1, disable=None) as bar, stopped_by_signals():

            def on_round(runs: Mapping[int, MeasuredRun]) -> None:
                nonlocal num_done
                num_done += 1
                rates = (f"{size}: {run_rate(run.timed_step_s, size):,.0f}" for size, run in runs.items())
                bar.write(f"run {num_done} of {rounds}: {', '.join(rates)} samples/sec", file=sys.stdout)
                sys.stdout.flush()

            session = measure(
                own_side(self._settings.root, self.target.id, self._settings.environ),
                {size: CaseSpec(global_batch_size=size, precision=self._precision) for size in self.sizes},
                num_rounds=rounds,
                num_steps=steps,
                rng=np.random.default_rng(),
                on_slice=bar.update,
                on_round=on_round,
            )
        print(f"\n{log_blocks(session)}\n\n{warmup_note(session)}\n")
        workload = self.target.workload
        return replace(
            with_fitness(session), sample=workload.sample, about=dict(workload.about), threshold=workload.threshold
        )

    @property
    def wants_duet(self) -> bool:
        """Whether a comparison side by side was asked for, can be made, and has not been."""
        from perf.judge.verdicts import incomparable

        asked = self._settings.duet_budget_s is not None and self.duet is None
        return asked and bool(self.baseline and not incomparable(self.measure(), self.baseline) and self._common())

    def _common(self) -> list[int]:
        return [size for size in self.measure().measurements if size in self._stored()]

    def _stored(self) -> Mapping[int, object]:
        return self.baseline.session.measurements if self.baseline else {}

    def side_by_side(self) -> DuetResult | None:
        """Return the comparison of the baseline's commit with the working tree, made now or before; None without one.

        Raises:
            MeasureError: a side could not be made or run, now or before, or the baseline cannot be run again.
        """
        from perf.measure.sides import parse_recipe

        budget_s, settings = self._settings.duet_budget_s, self._settings
        if self.wants_duet and self.baseline and budget_s is not None:
            self._raise_again("duet")
            asked = What(
                root=settings.root,
                here=settings.here,
                target=self.target,
                sizes=self._common(),
                precision=self._precision,
                budget_s=budget_s,
                environ=settings.environ,
            )
            try:
                first = baseline_recipe(parse_recipe(["baseline:"]), self.baseline, settings.here)
                self.duet = compared((first, parse_recipe(["self"])), asked, threshold=self._duet_threshold)
            except (MeasureError, BaselineError) as error:
                self._problems["duet"] = f"--perf-duet: {error}"
                self._raise_again("duet")
        return self.duet

    def judge(self, claim: str, size: int, *, threshold: float) -> Judgement:
        """Return what becomes of a claim at a batch size, and keep it.

        Raises:
            PerfError: nothing can be said: what is needed could not be measured, or is damaged.
        """
        from perf.judge import verdicts
        from perf.judge.duets import as_claims
        from perf.records.baselines import find_expected

        session = self.measure()
        if claim == "loss_decreases":
            found = verdicts.judge_loss_decreases(session.measurements[size])
        else:
            expected = find_expected(session, size, self.baseline, self._settings.baselines)
            duet = None if claim == "counters" else self.side_by_side()
            claims = as_claims(duet, size) if duet and size in duet.work else {}
            if claim in claims:
                found = claims[claim]
            elif claim in ("losses", "counters"):
                judge_exact = verdicts.judge_losses if claim == "losses" else verdicts.judge_counters
                found = judge_exact(session, size, expected)
            else:
                judge = verdicts.judge_rates if claim == "rate" else verdicts.judge_scaling
                found = judge(session, self.baseline, threshold=threshold)[size]
        self.judgements[claim, size] = found
        return found

    def lost_sizes(self) -> list[int]:
        """Return the batch sizes that the baseline has and the workload no longer does."""
        return sorted(set(self._stored()) - set(self.target.workload.global_batch_sizes))

    def table_problem(self) -> str:
        """Return why pytest-benchmark cannot compare with the baseline in its own table; "" where it can."""
        if self.baseline is None:
            return f"{self.target.id} has no baseline here"
        if self.baseline.times_unfit:
            return f"{self.baseline.path} has no times fit to compare with ({self.baseline.times_unfit})"
        same = self.baseline.session.fingerprint.hardware == self._settings.here.fingerprint.hardware
        return "" if same else f"{self.baseline.path} is of another machine"


def stored_file(name: str, storage: str) -> Path:
    """Return the file that --benchmark-compare names: a path, or the number of one in pytest-benchmark's storage.

    Raises:
        UsageError: there is none.
    """
    with suppress(OSError):  # a name too long for a file
        if Path(name).is_file():
            return Path(name)
    folder = Path(storage.removeprefix("file://"))
    found = sorted(folder.glob(f"**/{glob.escape(name)}*.json")) if name else []
    if not found:
        raise UsageError(
            f"--benchmark-compare={name}: is no file, and {folder} holds none of that number; "
            "without a value it compares with this machine's baseline"
        )
    return found[-1]


def stored_json(benches: Sequence[Bench], provenance: Provenance) -> dict[str, Any]:
    """Return what this project adds to pytest-benchmark's file: every session that was measured, and its duet."""
    from perf.records.baselines import result_json

    sessions = [bench.session for bench in benches if bench.session]
    return result_json(sessions, provenance, {bench.target.id: bench.duet.as_json() for bench in benches if bench.duet})


def terminal_summary(bench: Bench) -> str:
    """Return one line for each batch size of a workload, what it was compared with, and the duet."""
    from perf.judge.duets import SESSION_BUDGET
    from perf.report.bench import baseline_note, verdict_table
    from perf.report.duet import duet_report

    assert bench.session is not None
    parts = [verdict_table(bench.session, bench.judgements)]
    parts += [f"baseline: {baseline_note(bench.baseline, bench.session)}"] if bench.baseline else []
    parts += [f"\n{duet_report(bench.duet, budget_option=SESSION_BUDGET)}\n"] if bench.duet else []
    return "\n".join(parts)


def write_summary(benches: Sequence[Bench], provenance: Mapping[str, Any], problem: str, root: Path) -> list[str]:
    """Write a sitting as Markdown beside its result, and for GitHub where that asks for it; return the headlines.

    Raises:
        OSError: it cannot be written.
    """
    from perf.report.summary import summary

    parts = []
    for bench in benches:
        if bench.session:
            first, *rest = summary(bench.session, provenance, bench.judgements, bench.baseline, bench.duet, problem)
            failed = any(judgement.holds is False for judgement in bench.judgements.values())
            parts.append((not failed, first, "\n".join([first, *rest]) + "\n"))
    parts.sort(key=lambda part: part[0])  # what failed comes first
    text = "\n".join(part for _, _, part in parts)
    path = root / SUMMARY
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if to := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(to).open("a", encoding="utf-8") as file:
            file.write(text)
    return [first.removeprefix("**").removesuffix("**") for _, first, _ in parts]
