"""What a person reads in a terminal of training and of logs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from perf.logs.audit import RateCheck, RunAudit
from perf.logs.runlog import StartLine
from perf.printable import printable
from perf.train.config import RunConfig, RunPlan
from perf.train.data import Source
from perf.train.devices import World
from perf.train.loop import RunResult


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


def audit_report(audit: RunAudit, *, where: str = "") -> str:
    """Return what the audit of one run found; `where` names its log if there are several."""
    run = audit.run
    title = f"{printable(where)}: " if where else ""
    title += f"Run from line {run.first_line_number}"
    if run.refused:
        return (
            f"{title}: did not start. Its checkpoint stood at step {run.refused.global_step} and its target was step "
            f"{run.refused.max_steps}: it needed another directory, a higher target, or a fresh start."
        )
    evaluation = f", {run.num_evaluation_lines} of evaluation" if run.num_evaluation_lines else ""
    if not audit.checks:
        return f"{title}: no step line{evaluation}" + "".join(f"; {note}" for note in audit.notes)
    header = ("step", "loss", "global rate", "rate", "recomputed", "difference", "explained", "agrees")
    rows = [_audit_row(check) for check in audit.checks]
    num_lines = len(rows) + run.num_left_out
    return "\n".join(
        [
            f"{title}: {_audit_title(audit)}{num_lines} line{'s' if num_lines > 1 else ''}{evaluation}",
            table(header, rows),
            str(run.end) if run.end else "No end line: the run was cut off, or is still going.",
            _audit_verdict(audit),
            *(f"Note: {note}." for note in audit.notes),
        ]
    )


def _audit_title(audit: RunAudit) -> str:
    size = f"global batch size {audit.global_batch_size}" if audit.global_batch_size else ""
    if audit.start_is_certain:
        start = f"begun at step {audit.start_step}"
    else:
        start = f"if begun at step {audit.start_step}, which the lines do not tell"
    return f"{size}, {start}, " if size and audit.start_is_certain else f"{size} {start}, ".lstrip()


def _audit_row(check: RateCheck) -> tuple[str, ...]:
    line = check.line
    known = (str(line.global_step), _fixed(line.loss, 5), _fixed(line.global_rate, 2), _fixed(line.rate, 2))
    if check.recomputed_rate is None or check.explained is None:
        return (*known, "-", "-", "-", "?")
    return (
        *known,
        _fixed(check.recomputed_rate, 2),
        _fixed(line.rate - check.recomputed_rate, 3, sign="+"),
        _fixed(check.explained, 3),
        {True: "yes", False: "NO", None: "?"}[check.agrees],
    )


def _fixed(value: float, digits: int, *, sign: str = "") -> str:
    """Return a number with `digits` decimals, or, where that would fill the line, as a power of ten."""
    return f"{value:{sign}.{digits}f}" if abs(value) < 1e12 else f"{value:{sign}.5g}"


def _audit_verdict(audit: RunAudit) -> str:
    if audit.problems:
        return "\n".join(["Problems:", *(f"  {problem}" for problem in audit.problems)])
    unchecked = sum(check.agrees is None for check in audit.checks)
    rest = f"; {unchecked} could not be checked" if unchecked else ""
    return (
        f"{len(audit.checks) - unchecked} of {len(audit.checks)} rates agree with the GlobalRate column within what "
        f"rounding and the moments between readings of the clock explain{rest}."
    )
