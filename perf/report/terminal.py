"""What a person reads in a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean

import torch

from perf.judge.baselines import Baseline, PublishedRun
from perf.judge.stats import POWER, run_rate
from perf.judge.verdicts import Judgement
from perf.measure.fingerprint import differences
from perf.measure.marks import Session
from perf.train.audit import RateCheck, RunAudit
from perf.train.config import RunConfig, RunPlan
from perf.train.data import Source
from perf.train.devices import World
from perf.train.loop import RunResult
from perf.train.runlog import ParsedLog, StartLine


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str] = ()) -> str:
    """Return a table with columns aligned to the right, except those named in `left`."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]

    def line(row: Sequence[str]) -> str:
        cells = zip(header, row, widths, strict=True)
        return "  ".join(cell.ljust(w) if name in left else cell.rjust(w) for name, cell, w in cells).rstrip()

    return "\n".join(line(row) for row in (header, rule, *rows))


def session_heading(config: RunConfig, source: Source, world: World) -> str:
    """Return what all runs of one command have in common."""
    num_threads = torch.get_num_threads()
    threads = f", {num_threads} thread{'s' if num_threads > 1 else ''}" if config.device.type == "cpu" else ""
    ranks = f", {world.size} ranks" if world.size > 1 else ""
    compiled = ", compiled" if config.compile_model else ""
    return (
        f"{config.workload.name}: {config.workload.why}\n{source.name} data, {config.device.type}{threads}{ranks}, "
        f"{config.precision}{compiled}, seed {config.seed}, torch {torch.__version__}"
    )


def run_heading(plan: RunPlan) -> str:
    """Return what one run is about to do."""
    config = plan.config
    start = StartLine(
        global_batch_size=config.global_batch_size, first_step=plan.start_step + 1, last_step=plan.last_step
    )
    many = "es" if plan.grad_accum_steps > 1 else ""
    where = f", checkpoints in {config.model_dir}" if config.keep_checkpoints else ", no checkpoints"
    heading = f"{start} ({plan.grad_accum_steps} micro-batch{many} of {plan.micro_batch_size} each){where}"
    return "\n".join([heading, *(f"Note: {note}" for note in plan.notes)])


def run_table(results: Sequence[RunResult]) -> str:
    """Return one row for each run: how much it did, how fast, and how the loss moved."""
    rate_of = {result.plan.config.global_batch_size: _rate(result) for result in results}
    smallest = rate_of[min(rate_of)]
    header = (
        "global batch size", "steps", "samples", "seconds", "samples/sec",
        f"vs {min(rate_of)}", "first loss", "last loss",
    )  # fmt: skip
    rows = [
        (
            str(result.plan.config.global_batch_size),
            str(len(result.losses)),
            f"{result.totals.samples:,}",
            f"{result.totals.seconds:.1f}",
            f"{_rate(result):,.1f}",
            f"{_rate(result) / smallest:.2f}x",
            f"{result.losses[0]:.4f}",
            f"{result.losses[-1]:.4f}",
        )
        for result in results
    ]
    return table(header, rows)


def stop_note(result: RunResult, not_started: Sequence[RunPlan]) -> str:
    """Return where an interrupted run stopped, how to go on with it, and what was not started."""
    config, last_step = result.plan.config, result.plan.last_step
    lines = [f"Global batch size {config.global_batch_size} was stopped at step {result.end_step} of {last_step}."]
    if result.checkpoint is None:
        lines.append("No checkpoint was kept, so it cannot go on from there.")
    elif result.end_step < last_step:
        without = {"resume": "", "fresh": ", without --fresh", "weights": ", without --load weights"}[config.start]
        lines.append(
            f"To go on with it: the same command with --global-batch-size {config.global_batch_size} and, instead of "
            f"any other limit, --max-steps {last_step}{without}."
        )
    if not_started:
        lines.append(f"Not started: {', '.join(str(plan.config.global_batch_size) for plan in not_started)}.")
    return "\n".join(lines)


def _rate(result: RunResult) -> float:
    return result.totals.samples / result.totals.seconds


def audit_report(audits: Sequence[RunAudit], log: ParsedLog) -> str:
    """Return what the audit of a log found: a paragraph for each run, then the lines that could not be read."""
    parts = [_audit_paragraph(audit) for audit in audits]
    parts += [f"Line {number}: {reason}" for number, reason in log.damaged]
    return "\n\n".join(parts)


def _audit_paragraph(audit: RunAudit) -> str:
    run = audit.run
    title = f"Run from line {run.first_line_number}"
    if run.refused:
        return (
            f"{title}: did not start. Its checkpoint stood at step {run.refused.global_step} and its target was step "
            f"{run.refused.max_steps}: it needed another directory, a higher target, or a fresh start."
        )
    if not audit.checks:
        return f"{title}: {'; '.join(audit.problems) or 'no step line'}"
    header = ("step", "loss", "global rate", "rate", "recomputed", "difference", "explained", "agrees")
    rows = [_audit_row(check) for check in audit.checks]
    end = str(run.end) if run.end else "No end line: the run was cut off, or is still going."
    return f"{title}: {_audit_title(audit)}{len(rows)} lines\n{table(header, rows)}\n{end}\n{_audit_verdict(audit)}"


def _audit_title(audit: RunAudit) -> str:
    size = f"global batch size {audit.global_batch_size}" if audit.global_batch_size else ""
    if audit.start_is_certain:
        start = f"begun at step {audit.start_step}"
    else:
        start = f"if begun at step {audit.start_step}, which the lines do not tell"
    return f"{size}, {start}, " if size and audit.start_is_certain else f"{size} {start}, ".lstrip()


def _audit_row(check: RateCheck) -> tuple[str, ...]:
    line = check.line
    known = (str(line.global_step), f"{line.loss:.5f}", f"{line.global_rate:.2f}", f"{line.rate:.2f}")
    if check.recomputed_rate is None:
        return (*known, "-", "-", "-", "?")
    difference = line.rate - check.recomputed_rate
    return (
        *known,
        f"{check.recomputed_rate:.2f}",
        f"{difference:+.3f}",
        f"{check.rounding:.3f}",
        "yes" if check.agrees else "NO",
    )


def _audit_verdict(audit: RunAudit) -> str:
    if audit.problems:
        return "\n".join(["Problems:", *(f"  {problem}" for problem in audit.problems)])
    unchecked = sum(check.agrees is None for check in audit.checks)
    rest = (
        f"; {unchecked} could not be checked (a line before is missing, or rounding hides the time)"
        if unchecked
        else ""
    )
    return (
        f"{len(audit.checks) - unchecked} of {len(audit.checks)} rates agree with the GlobalRate column within what "
        f"rounding explains{rest}."
    )


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
        f"warm-up: {sum(dropped)} steps left out, at most {max(dropped)} of a run: at its front, slower than its later "
        "half explains"
    )


def verdict_table(session: Session, judgements: Mapping[tuple[str, int], Judgement]) -> str:
    """Return one line for each batch size.

    Args:
        session: what was measured.
        judgements: by claim ("rate", "scaling", "counters", "losses", "fall") and batch size.
    """
    header = (
        "batch size", "samples/sec", "change", "95 % interval", "could show", "verdict",
        "scaling", "counters", "loss", "why",
    )  # fmt: skip
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
    notes = (
        "samples/sec at the lower quartile of each run's step times, mean of runs; could show: the smallest slowdown "
        f"found {POWER:.0%} of the time"
    )
    return f"{table(header, rows, left={'why'})}\n({notes})"


def _word(*found: Judgement | None) -> str:
    """Return the worst of what became of some claims, in a word."""
    outcomes = [judgement.holds if judgement else None for judgement in found]
    return "FAILED" if False in outcomes else "-" if None in outcomes else "ok"


def _why(size: int, judgements: Mapping[tuple[str, int], Judgement]) -> str:
    """Return the reason that matters most: of what failed, exact claims first; else of the verdict on the rate."""
    for claim in ("fall", "losses", "counters"):
        judgement = judgements.get((claim, size))
        if judgement and judgement.holds is False:
            return f"{claim}: {judgement.reason}"
    for claim in ("rate", "scaling"):
        judgement = judgements.get((claim, size))
        if judgement and (judgement.holds is False or claim == "rate"):
            return judgement.reason if claim == "rate" else f"scaling: {judgement.reason}"
    return ""


def baseline_note(baseline: Baseline, session: Session) -> str:
    """Return where the baseline comes from, what software changed since, and what it has that was not measured."""
    made = f"{baseline.path}, measured {baseline.provenance['date']} at {baseline.provenance['commit'][:12]}"
    parts = [f"{made}{' (dirty)' if baseline.provenance['dirty'] else ''}"]
    changed = differences(baseline.session.fingerprint.software, session.fingerprint.software)
    parts.append(f"software changed since: {', '.join(changed)}" if changed else "same software")
    if missing := sorted(set(baseline.session.measurements) - set(session.measurements)):
        parts.append(f"NOT MEASURED NOW: {', '.join(map(str, missing))}")
    return "\n  ".join(parts)


def promotion_note(result: Baseline, written: Sequence[Path]) -> str:
    """Return what was promoted to where."""
    provenance = result.provenance
    dirty = ", with uncommitted changes: nobody else can run it again" if provenance["dirty"] else ""
    lines = [f"{result.path}, measured {provenance['date']} at commit {provenance['commit'][:12]}{dirty}, is now"]
    return "\n".join([*lines, *(f"  {path}" for path in written), "Review the change and commit it."])


def published_note(runs: Sequence[PublishedRun]) -> str:
    """Return published runs of other machines in a line each."""
    lines = []
    for run in runs:
        what = f"{run.samples_per_sec:,.0f} samples/sec" if run.samples_per_sec else f"did not run ({run.failure})"
        lines.append(f"reference: {run.workload} on {run.machine}, global batch size {run.global_batch_size}: {what}")
    return "\n".join(lines)
