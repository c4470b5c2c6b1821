"""What a person reads in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from perf.train.config import RunConfig, RunPlan
from perf.train.data import Source
from perf.train.devices import World
from perf.train.loop import RunResult
from perf.train.runlog import ParsedLog, RunAudit


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, rule, *rows)
    )


def session_heading(config: RunConfig, source: Source, world: World) -> str:
    """Return what all runs of one command have in common."""
    threads = f", {torch.get_num_threads()} threads" if config.device.type == "cpu" else ""
    ranks = f", {world.size} ranks" if world.size > 1 else ""
    compiled = ", compiled" if config.compile_model else ""
    return (
        f"{config.workload.name}: {config.workload.why}\n{source.name} data, {config.device.type}{threads}{ranks}, "
        f"{config.precision}{compiled}, seed {config.seed}, torch {torch.__version__}"
    )


def run_heading(plan: RunPlan) -> str:
    """Return what one run is about to do."""
    cut = f"{plan.grad_accum_steps} micro-batch{'es' if plan.grad_accum_steps > 1 else ''} of {plan.micro_batch_size}"
    return "\n".join(
        [
            f"Global batch size {plan.config.global_batch_size} ({cut}), steps {plan.start_step + 1} to "
            f"{plan.last_step}, checkpoints in {plan.config.model_dir}",
            *(f"Note: {note}" for note in plan.notes),
        ]
    )


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


def stop_note(result: RunResult, not_started: Sequence[RunConfig]) -> str:
    """Return where an interrupted run stopped, and how to go on with it and with those that did not start."""
    config, last_step = result.plan.config, result.plan.last_step
    left = [config] if result.end_step < last_step else []
    sizes = " ".join(str(c.global_batch_size) for c in [*left, *not_started])
    without = (
        "" if config.start == "resume" else f", without --{'fresh' if config.start == 'fresh' else 'load weights'}"
    )
    how = f"; to go on: the same command with --global-batch-size {sizes}{without}" if sizes else ""
    return f"Stopped by request at step {result.end_step} of {last_step}{how}."


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
        return f"{title}: {'; '.join(audit.problems)}"
    size = f"global batch size {audit.global_batch_size}, " if audit.global_batch_size else ""
    started = f"resumed at step {audit.start_step}, " if audit.start_step else ""
    end = str(run.end) if run.end else "No end line: the run was cut off, or is still going."
    rows = [
        (
            str(check.line.global_step),
            f"{check.line.loss:.5f}",
            f"{check.line.global_rate:.2f}",
            f"{check.line.rate:.2f}",
            f"{check.recomputed_rate:.2f}",
            f"{check.line.rate - check.recomputed_rate:+.3f}",
            f"{check.rounding:.3f}",
            "yes" if check.agrees else "NO",
        )
        for check in audit.checks
    ]
    header = ("step", "loss", "global rate", "rate", "recomputed", "difference", "explained", "agrees")
    verdict = (
        f"Problems:\n{chr(10).join(f'  {problem}' for problem in audit.problems)}"
        if audit.problems
        else f"All {len(rows)} rates agree with the GlobalRate column within what rounding explains."
    )
    return f"{title}: {size}{started}{len(rows)} lines\n{table(header, rows)}\n{end}\n{verdict}"
