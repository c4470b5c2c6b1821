"""Measured claims: each workload of a sitting measured once, judged claim by claim, and written down."""

from __future__ import annotations

import glob
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.app.side_by_side import baseline_recipe, compared
from perf.app.what import What
from perf.errors import BaselineError, MeasureError, UsageError
from perf.project import shown
from perf.signals import stopped_by_signals

if TYPE_CHECKING:
    from perf.judge.duets import DuetResult
    from perf.judge.verdicts import Judgement
    from perf.records.baselines import Baseline, Provenance
    from perf.records.sessions import MeasuredRun, Session
    from perf.report.answers import Answer

SUMMARY = Path("runs") / "summary.md"

RUNS, RUNS_BEFORE_DUET = 6, 3
"""Fresh processes of each batch size; the fewest that can become a baseline where a duet compares the times."""

WITH_BASELINE = ("never", "auto", "always")
"""What --perf-duet takes beside a SPEC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the workloads of a session are measured and compared.

    Attributes:
        num_runs: fresh processes of each batch size; None for `RUNS`, or `RUNS_BEFORE_DUET` where a duet can decide.
        num_steps: steps of each run.
        compare: a file to compare with; None for this machine's baselines.
        duet: when the working tree is compared side by side: "never"; "auto": where stored times do not decide;
            "always"; or the SPEC of what to compare it with.
    """

    num_runs: int | None
    num_steps: int
    compare: Path | None
    duet: str


class Bench:
    """One workload in a session: measured when the first test needs it, and compared side by side likewise.

    Args:
        what: the workload, the batch sizes that tests ask for, and how they are run.
        settings: of the session.
        duet_threshold: the smallest change that matters side by side, a fraction.

    Attributes:
        target: the workload.
        baseline: what times are compared with, if there is anything.
        session: what was measured, once it is.
        duet: the comparison side by side, once there is one.
        judgements: by claim and batch size.
        is_stopped: whether a signal ended the measuring; the session has the runs until then.

    Raises:
        BaselineError: its baseline, or a portable one, is damaged.
    """

    def __init__(self, what: What, settings: Settings, duet_threshold: float) -> None:
        from perf.records.baselines import BASELINES_DIR

        self._what, self._settings, self._duet_threshold = what, settings, duet_threshold
        self.target = what.target
        self._baselines = shown(what.root / BASELINES_DIR)
        self.baseline = self._find_baseline()
        self.session: Session | None = None
        self.duet: DuetResult | None = None
        self.judgements: dict[tuple[str, int], Judgement] = {}
        self.is_stopped = False
        self._problems: dict[str, str] = {}

    def _find_baseline(self) -> Baseline | None:
        from perf.records.baselines import PORTABLE, load_result, load_session

        for path in (self._baselines / PORTABLE).glob("**/*.json"):
            load_result(path)
        return load_session(self._settings.compare) if self._settings.compare else self._what.load_baseline()

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
        from perf.measure.busy import busy_share, load_note
        from perf.measure.sides import own_side
        from perf.records.wire import CaseSpec
        from perf.report.bench import log_blocks, warmup_note
        from perf.report.sections import duration

        what = self._what
        rounds = self._settings.num_runs or (RUNS_BEFORE_DUET if self._can_duet() else RUNS)
        steps, sizes = self._settings.num_steps, ", ".join(map(str, what.sizes))
        # A log in a file must show that it goes on, too.
        print(f"\n{self.target.id} at {sizes}: {rounds} fresh processes each, {steps} steps, in turns", flush=True)
        if note := load_note(busy_share()):
            print(note, flush=True)
        num_done, began_s = 0, time.monotonic()
        num_slices = rounds * len(what.sizes) * steps // SLICE_STEPS
        # None: only on a terminal
        with tqdm(total=num_slices, unit="slice", leave=False, delay=1, disable=None) as bar, stopped_by_signals():

            def on_round(runs: Mapping[int, MeasuredRun]) -> None:
                nonlocal num_done
                num_done += 1
                rates = (f"{size}: {run_rate(run.timed_step_s, size):,.0f}" for size, run in runs.items())
                left_s = (rounds - num_done) * (time.monotonic() - began_s) / num_done
                left = f" (about {duration(left_s)} left)" if num_done < rounds else ""
                bar.write(f"run {num_done} of {rounds}{left}: {', '.join(rates)} samples/sec", file=sys.stdout)
                sys.stdout.flush()

            session = measure(
                own_side(what.root, what.target.id, what.environ),
                {size: CaseSpec(global_batch_size=size, precision=what.precision) for size in what.sizes},
                num_rounds=rounds,
                num_steps=steps,
                rng=np.random.default_rng(),
                on_slice=bar.update,
                on_round=on_round,
            )
        self.is_stopped = min(len(m.runs) for m in session.measurements.values()) < rounds
        print(f"\n{log_blocks(session)}\n\n{warmup_note(session)}\n")
        workload = self.target.workload
        return replace(
            with_fitness(session), sample=workload.sample, about=dict(workload.about), threshold=workload.threshold
        )

    def _can_duet(self) -> bool:
        """Return whether there is anything to compare with side by side."""
        if self._settings.duet in ("auto", "always"):
            return self.baseline is not None and not self.baseline.rerun_problem
        return self._settings.duet != "never"

    def _sizes_to_duet(self, threshold: float) -> list[int]:
        """Return the batch sizes to compare side by side."""
        from perf.judge.verdicts import Verdict, incomparable, judge_rates

        session, mode = self.measure(), self._settings.duet
        if mode not in WITH_BASELINE:
            return list(session.measurements)
        if mode == "never" or self.baseline is None or incomparable(session, self.baseline):
            return []
        common = [size for size in session.measurements if size in self._stored()]
        if mode == "always":
            return common
        if self.baseline.rerun_problem:
            return []
        rates = judge_rates(session, self.baseline, threshold=threshold)
        # Of another training the times do not matter.
        open_ = (Verdict.INCONCLUSIVE, Verdict.NO_BASELINE)
        return [
            size for size in common if rates[size].verdict in open_ and self._exact("losses", size).holds is not False
        ]

    def _stored(self) -> Mapping[int, object]:
        return self.baseline.session.measurements if self.baseline else {}

    def side_by_side(self, threshold: float) -> DuetResult | None:
        """Return the comparison with the working tree, made now or before; None where there is none.

        Args:
            threshold: the smallest change of a stored rate that matters, a fraction.

        Raises:
            MeasureError: a side could not be made or run, now or before, or the baseline cannot be run again.
        """
        from perf.judge.duets import SESSION_BUDGET
        from perf.measure.recipes import parse_recipe

        spec, what = self._settings.duet, self._what
        if self.duet is None and (sizes := self._sizes_to_duet(threshold)):
            self._raise_again("duet")
            try:
                if spec in WITH_BASELINE:
                    assert self.baseline is not None
                    first = baseline_recipe(parse_recipe(["baseline:"]), self.baseline, what.here)
                else:
                    first = parse_recipe(spec.split())
                asked = replace(what, sizes=sizes)
                found = compared((first, parse_recipe(["self"])), asked, threshold=self._duet_threshold)
                self.duet = replace(found, budget_option=SESSION_BUDGET)
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

        session = self.measure()
        if claim == "loss_decreases":
            found = verdicts.judge_loss_decreases(session.measurements[size])
        elif claim in ("losses", "counters"):
            found = self._exact(claim, size)
            if found.verdict is verdicts.Verdict.NO_BASELINE and self._settings.duet not in WITH_BASELINE:
                found = self._by_duet(claim, size, threshold) or found
        else:
            judge = verdicts.judge_rates if claim == "rate" else verdicts.judge_scaling
            found = self._by_duet(claim, size, threshold) or judge(session, self.baseline, threshold=threshold)[size]
        self.judgements[claim, size] = found
        return found

    def _exact(self, claim: str, size: int) -> Judgement:
        """Return what becomes of the losses or the counters, compared with stored ones."""
        from perf.judge.verdicts import judge_counters, judge_losses
        from perf.records.baselines import find_expected

        expected = find_expected(self.measure(), size, self.baseline, self._baselines)
        return (judge_losses if claim == "losses" else judge_counters)(self.measure(), size, expected)

    def _by_duet(self, claim: str, size: int, threshold: float) -> Judgement | None:
        """Return what becomes of a claim side by side; None where it is not compared so.

        A duet that was not asked for in so many words does not fail a claim because it cannot be made.
        """
        from perf.judge.duets import as_claims
        from perf.judge.verdicts import Judgement, Verdict

        try:
            duet = self.side_by_side(threshold)
        except MeasureError as error:
            if self._settings.duet != "auto" or size not in self._sizes_to_duet(threshold):
                raise
            return Judgement(holds=None, verdict=Verdict.INCONCLUSIVE, reason=str(error))
        return as_claims(duet, size)[claim] if duet and size in duet.work else None

    def lost_sizes(self) -> list[int]:
        """Return the batch sizes that the baseline has and the workload no longer does."""
        return sorted(set(self._stored()) - set(self.target.workload.global_batch_sizes))


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


def answer(bench: Bench, problem: str) -> Answer:
    """Return the most important result of a workload; `problem` is why the session fails although no claim does."""
    from perf.report.answers import of_session

    assert bench.session is not None
    return of_session(bench.session, bench.judgements, bench.baseline, bench.duet, problem)


def details(bench: Bench) -> str:
    """Return one line for each batch size of a workload, what it was compared with, and the duet."""
    from perf.report.bench import baseline_note, verdict_section
    from perf.report.duet import duet_sections
    from perf.report.sections import as_text

    assert bench.session is not None
    duet = duet_sections(bench.duet) if bench.duet else []
    parts = [as_text([verdict_section(bench.session, bench.judgements), *duet])]
    parts += [f"baseline: {baseline_note(bench.baseline, bench.session)}"] if bench.baseline else []
    return "\n".join(parts)


def write_summary(benches: Sequence[Bench], provenance: Mapping[str, Any], problem: str, root: Path) -> None:
    """Write a session as Markdown beside its result, and for GitHub where that asks for it; what failed comes first.

    Raises:
        OSError: it cannot be written.
    """
    from perf.report.bench import summary

    def is_fine(bench: Bench) -> bool:
        return all(judgement.holds is not False for judgement in bench.judgements.values())

    text = "\n".join(
        summary(bench.session, provenance, bench.judgements, bench.baseline, bench.duet, answer(bench, problem))
        for bench in sorted(benches, key=is_fine)
        if bench.session
    )
    path = root / SUMMARY
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if to := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(to).open("a", encoding="utf-8") as file:
            file.write(text)
