"""Measured claims: each workload of a sitting measured once, judged claim by claim, and written down."""

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from tqdm import tqdm

from perf.app.side_by_side import baseline_recipe, compared
from perf.app.what import What, health, noted_load
from perf.commands import Command
from perf.errors import BaselineError, MeasureError
from perf.judge import verdicts
from perf.judge.duets import SESSION_BUDGET, DuetResult, as_claims
from perf.judge.stats import run_rate
from perf.judge.verdicts import Judgement, Verdict
from perf.measure.bench import SLICE_STEPS, measure
from perf.measure.sides import own_side, parse_recipe
from perf.printable import shown
from perf.records import baselines
from perf.records.baselines import Baseline
from perf.records.sessions import Session
from perf.records.wire import CaseSpec
from perf.report.bench import log_blocks
from perf.signals import stopped_by_signals

RUNS, RUNS_BEFORE_DUET = 6, 3
"""Fresh processes of each batch size; the fewest that can become a baseline where a duet compares the times."""

STEPS = 20  # of a run

WITH_BASELINE = ("never", "auto", "always")  # what --perf-duet takes beside a SPEC


class Bench:
    """One workload in a session: measured when the first test needs it, and compared side by side likewise.

    Raises BaselineError: its baseline, or a portable one, is damaged.
    """

    def __init__(
        self,
        what: What,  # the workload, the batch sizes that tests ask for, and how they are run
        *,
        num_runs: int | None,  # of each batch size; None for `RUNS`, or `RUNS_BEFORE_DUET` where a duet can decide
        num_steps: int | None,  # of each run; None for `STEPS`, or what a command's entry says
        compare: Path | None,  # a file to compare with; None for this machine's baselines
        # when to compare side by side: "never", "auto" (where stored times do not decide), "always"; or a SPEC
        duet: str,
        duet_threshold: float,  # the smallest change that matters side by side, a fraction
    ) -> None:
        self._what, self._num_runs, self._num_steps = what, num_runs, num_steps
        self._duet_mode, self._duet_threshold = duet, duet_threshold
        self.target = what.target
        self._baselines = shown(what.root / baselines.BASELINES_DIR)
        for path in (self._baselines / baselines.PORTABLE).glob("**/*.json"):
            baselines.load_result(path)
        path = what.baseline_path  # a workload whose id cannot name a file is refused before anything is measured
        # what times are compared with, if any
        self.baseline = baselines.load_session(compare) if compare else baselines.load_baseline(path)
        can_rerun = self.baseline is not None and not self.baseline.rerun_problem
        self._can_duet = duet not in WITH_BASELINE or (duet != "never" and can_rerun)  # if there is anything beside it
        self.session: Session | None = None  # once it is measured
        self.duet: DuetResult | None = None  # once sides are compared
        self.judgements: dict[tuple[str, int], Judgement] = {}  # by claim and batch size
        self.is_stopped = False  # whether a signal ended the measuring; the session has the runs until then
        self._problem = self._duet_problem = ""  # why measuring, and comparing, failed: neither is tried again

    def measure(self) -> Session:
        """Return what was measured, now or before. Raises MeasureError: nothing could be, now or before."""
        if self._problem:
            raise MeasureError(self._problem)
        if self.session is None:
            try:
                self.session = self._measured()
            except (MeasureError, BaselineError) as error:
                self._problem = str(error)
                raise
        return self.session

    def _measured(self) -> Session:
        """Measure as `perf.measure.bench.measure` does, in an order of slices that differs each time, and show it."""
        what, workload = self._what, self.target.workload
        steps = self._num_steps or (workload.num_steps if isinstance(workload, Command) else STEPS)
        rounds = self._num_runs or (RUNS_BEFORE_DUET if self._can_duet else RUNS)
        sizes = ", ".join(map(str, what.sizes))
        # A log in a file must show that it goes on, too.
        print(f"\n{self.target.id} at {sizes}: {rounds} runs each, of {steps} steps, in turns", flush=True)
        busy = noted_load()
        num_slices = rounds * len(what.sizes) * (1 if isinstance(workload, Command) else steps // SLICE_STEPS)
        # None: only on a terminal
        with tqdm(total=num_slices, unit="slice", leave=False, delay=1, disable=None) as bar, stopped_by_signals():
            session = measure(
                own_side(what.root, what.target.id, what.environ),
                {size: CaseSpec(global_batch_size=size, precision=what.precision or None) for size in what.sizes},
                num_rounds=rounds,
                num_steps=steps,
                rng=np.random.default_rng(),
                on_slice=bar.update,
                on_round=lambda found: self._show(bar, found, rounds),
            )
        self.is_stopped = len(next(iter(session.measurements.values())).runs) < rounds  # of each batch size as many
        print(f"\n{log_blocks(session)}\n")
        about, found = dict(workload.about), health(busy)
        return replace(session, sample=workload.sample, about=about, threshold=workload.threshold, health=found)

    def _show(self, bar: "tqdm[Any]", session: Session, rounds: int) -> None:
        """Print the rates of the last round, and after the first one the exact claims that fail: they are known now."""
        runs = {size: measurement.runs for size, measurement in session.measurements.items()}
        done = len(next(iter(runs.values())))
        rates = ", ".join(f"{size}: {run_rate(some[-1].timed_step_s, size):,.0f}" for size, some in runs.items())
        bar.write(f"run {done} of {rounds}: {rates} samples/sec", file=sys.stdout)
        for size, claim in product(runs, ("losses", "counters")) if done == 1 else ():
            if (found := self._exact(claim, size, session)).holds is False:
                bar.write(f"{size}: {claim} FAILED: {found.reason}", file=sys.stdout)
        sys.stdout.flush()

    def _sizes_to_duet(self, threshold: float) -> list[int]:
        session, mode, baseline = self.measure(), self._duet_mode, self.baseline
        if mode not in WITH_BASELINE:
            return list(session.measurements)
        # With "always", a baseline that cannot be run again is an error.
        if baseline is None or not (mode == "always" or self._can_duet) or verdicts.incomparable(session, baseline):
            return []
        common = [size for size in session.measurements if size in baseline.session.measurements]
        if mode == "always":
            return common
        rates = verdicts.judge_rates(session, baseline, threshold=threshold)
        undecided = [size for size in common if rates[size].verdict is Verdict.INCONCLUSIVE]
        # Of another training the times do not matter.
        return [size for size in undecided if self._exact("losses", size, session).holds is not False]

    def _compared(self, sizes: Sequence[int]) -> DuetResult:
        spec, what = self._duet_mode, replace(self._what, sizes=sizes)
        first = parse_recipe(["baseline:"] if spec in WITH_BASELINE else spec.split())
        if self.baseline and first.is_baseline:
            first = baseline_recipe(first, self.baseline)
        sides = first, parse_recipe(["self"])
        steps, option = self._num_steps, SESSION_BUDGET
        return compared(sides, what, threshold=self._duet_threshold, budget_option=option, command_steps=steps)

    def judge(self, claim: str, size: int, *, threshold: float) -> Judgement:
        """Return what becomes of a claim at a batch size, and keep it. Raises PerfError: what it needs is not there."""
        session = self.measure()
        if claim == "loss_decreases":
            found = verdicts.judge_loss_decreases(session.measurements[size])
        elif claim in ("losses", "counters"):
            found = self._exact(claim, size, session)
            if found.verdict is Verdict.NO_BASELINE and self._duet_mode not in WITH_BASELINE:
                found = self._by_duet(claim, size, found, threshold)
        else:
            is_scaling = claim == "scaling"
            stored = verdicts.judge_rates(session, self.baseline, threshold=threshold, is_scaling=is_scaling)
            found = self._by_duet(claim, size, stored[size], threshold)
            rate = self.judgements.get(("rate", size))
            if is_scaling and rate and rate.holds is False:  # one slowdown fails one claim
                found = replace(found, holds=None, reason="the rate of this batch size fails, which explains it")
        self.judgements[claim, size] = found
        return found

    def _exact(self, claim: str, size: int, session: Session) -> Judgement:
        judge = verdicts.judge_losses if claim == "losses" else verdicts.judge_counters
        return judge(session, size, baselines.find_expected(session, size, self.baseline, self._baselines))

    def expected(self, size: int) -> Baseline | None:
        """Return what the losses and counters of a batch size are compared with."""
        return baselines.find_expected(self.measure(), size, self.baseline, self._baselines)

    def _by_duet(self, claim: str, size: int, stored: Judgement, threshold: float) -> Judgement:
        """Return what becomes of a claim side by side; the `stored` judgement where it is not compared so.

        A duet that was not asked for in so many words does not fail a claim because it cannot be made, or finished.
        """
        is_asked = self._duet_mode != "auto"
        if self.duet is None:
            sizes = self._sizes_to_duet(threshold)
            if size not in sizes:
                return stored
            try:
                if not self._duet_problem:
                    self.duet = self._compared(sizes)
            except (MeasureError, BaselineError) as error:
                self._duet_problem = f"--perf-duet: {error}"
        if self.duet is None:
            if is_asked:
                return Judgement(holds=False, verdict=Verdict.INCONCLUSIVE, reason=self._duet_problem)
            return replace(stored, reason=f"{stored.reason}; {self._duet_problem}")
        found = as_claims(self.duet, size).get(claim, stored) if size in self.duet.work else stored
        if found.verdict is Verdict.INCONCLUSIVE and not is_asked:
            return replace(found, holds=None)
        return found
