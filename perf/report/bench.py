"""What a person reads in a terminal of a benchmark session: logs, verdicts, where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean

from perf.judge.stats import POWER, run_rate
from perf.judge.verdicts import Judgement
from perf.printable import printable
from perf.records.baselines import Baseline
from perf.records.fingerprint import differences
from perf.records.published import PublishedRun
from perf.records.sessions import Session
from perf.report.terminal import table


def log_blocks(session: Session) -> str:
    """Return the log of the first run of each batch size, and how the others went."""
    blocks = []
    for size, measurement in session.measurements.items():
        first, *others = measurement.runs
        heading = (
            f"Global batch size {size}, micro-batches of {measurement.micro_batch_size}, run 1 of {1 + len(others)}"
        )
        alike = "with the same losses" if all(run.losses == first.losses for run in others) else "WITH OTHER LOSSES"
        more = [f"({len(others)} more run{'s' if len(others) > 1 else ''} {alike})"] if others else []
        blocks.append("\n".join([heading, *first.lines, *more]))
    blocks += [f"Global batch size {size}: not measured: {reason}" for size, reason in session.failures.items()]
    return "\n\n".join(blocks)


def warmup_note(session: Session) -> str:
    """Return how many steps at the front of the runs were left out of the times, and why."""
    dropped = [run.warmup_steps for m in session.measurements.values() for run in m.runs]
    return (
        f"warm-up: {sum(dropped)} steps left out of the times (at most {max(dropped)} of a run), slower than the run's "
        "later half explains"
    )


def verdict_table(session: Session, judgements: Mapping[tuple[str, int], Judgement]) -> str:
    """Return one line for each batch size; arguments as in `verdict_rows`."""
    notes = (
        "samples/sec at the lower quartile of each run's step times, mean of runs; could show: the smallest slowdown "
        f"told from none {POWER:.0%} of the time"
    )
    return f"{table(VERDICT_HEADER, verdict_rows(session, judgements), left={'why'})}\n({notes})"


VERDICT_HEADER = (
    "batch size", "samples/sec", "change", "95 % interval", "could show", "verdict",
    "scaling", "counters", "loss", "why",
)  # fmt: skip


def verdict_rows(session: Session, judgements: Mapping[tuple[str, int], Judgement]) -> list[tuple[str, ...]]:
    """Return the cells under `VERDICT_HEADER`, a row for each batch size.

    Args:
        session: what was measured.
        judgements: by claim ("rate", "scaling", "counters", "losses", "fall") and batch size.
    """
    rows = []
    for size, measurement in session.measurements.items():
        rate = judgements.get(("rate", size))
        effect = rate.effect if rate else None
        rows.append(
            (
                str(size),
                f"{geometric_mean(run_rate(run.timed_step_s, size) for run in measurement.runs):,.0f}",
                f"{effect.effect_size:+.1%}" if effect else "-",
                f"{effect.low:+.1%} to {effect.high:+.1%}" if effect else "-",
                f"{effect.minimal_detectable_effect:.0%}" if effect else "-",
                str(rate.verdict) if rate else "not judged",
                _word(judgements.get(("scaling", size))),
                _word(judgements.get(("counters", size))),
                _word(judgements.get(("fall", size)), judgements.get(("losses", size))),
                _why(size, judgements),
            )
        )
    for size, reason in session.failures.items():
        rows.append((str(size), "-", "-", "-", "-", "NOT MEASURED", "-", "-", "-", reason))
    return sorted(rows, key=lambda row: int(row[0]))


def _word(*found: Judgement | None) -> str:
    """Return the worst of what became of some claims, in a word."""
    outcomes = [judgement.holds if judgement else None for judgement in found]
    return "FAILED" if False in outcomes else "-" if None in outcomes else "ok"


def _why(size: int, judgements: Mapping[tuple[str, int], Judgement]) -> str:
    """Return the reason that matters most: of what failed, exact claims first; else of the verdict on the rate."""
    for claim in ("fall", "losses", "counters", "rate", "scaling"):
        judgement = judgements.get((claim, size))
        if judgement and judgement.holds is False:
            return judgement.reason if claim == "rate" else f"{claim}: {judgement.reason}"
    rate = judgements.get(("rate", size))
    return rate.reason if rate else ""


def baseline_note(baseline: Baseline, session: Session) -> str:
    """Return where the baseline comes from, what software changed since, and what it has that was not measured."""
    made = f"{baseline.path}, measured {baseline.provenance['date']} at {baseline.provenance['commit'][:12]}"
    parts = [f"{made}{' (dirty)' if baseline.provenance['dirty'] else ''}"]
    changed = differences(baseline.session.fingerprint.software, session.fingerprint.software)
    parts.append(f"software changed since: {', '.join(changed)}" if changed else "same software")
    if baseline.times_unfit:
        parts.append(f"times unfit: {printable(baseline.times_unfit)}")
    if missing := sorted(set(baseline.session.measurements) - {*session.measurements, *session.failures}):
        parts.append(f"NOT MEASURED NOW: {', '.join(map(str, missing))}")
    return "\n  ".join(parts)


def result_note(result: Path, refusal: str) -> str:
    """Return how the result of a session becomes a baseline, or why it cannot."""
    if refusal:
        return f"result: {result}; it cannot become this machine's baseline: {refusal}"
    return f"result: {result}; to make it this machine's baseline: python -m perf promote --reason TEXT"


def promotion_note(result: Baseline, written: Sequence[Path]) -> str:
    """Return what was promoted to where, and what it is good for."""
    provenance = result.provenance
    lines = [f"{result.path}, measured {provenance['date']} at commit {provenance['commit'][:12]}, is now"]
    lines += [f"  {path}" for path in written]
    if unfit := result.session.times_unfit:
        lines.append(f"Times unfit: {unfit}. Rates will be NO_BASELINE; work and losses are compared.")
    if problem := result.rerun_problem:
        lines.append(
            f"It {problem}, so it cannot be run again: --perf-duet and baseline: will refuse it. To use them, commit, "
            "measure and promote again."
        )
    elif unfit:
        lines.append("Compare times side by side: --perf-duet.")
    return "\n".join([*lines, "Review the change and commit it."])


def published_note(runs: Sequence[PublishedRun]) -> str:
    """Return published runs of other machines in a line each."""
    lines = []
    for run in runs:
        what = f"{run.samples_per_sec:,.0f} samples/sec" if run.samples_per_sec else f"did not run ({run.failure})"
        where = f"{run.workload} on {run.machine}, global batch size {run.global_batch_size}"
        lines.append(printable(f"reference: {where}: {what}"))
    return "\n".join(lines)
