"""The audit of a training log."""

from perf.logs.audit import RateCheck, RunAudit
from perf.printable import printable, wrapped
from perf.report.sections import number, text_table


def audit_report(audit: RunAudit, *, where: str = "") -> str:
    """Return the audit of one run; `where` names its log if there are several."""
    run = audit.run
    title = f"{f'{printable(where)}: ' if where else ''}Run from line {run.first_line_number}"
    if run.refused:
        return (
            f"{title}: did not start: its checkpoint was at step {run.refused.global_step} and its last step "
            f"{run.refused.max_steps}; it needed a different directory, more steps, or a fresh start."
        )
    evaluation = f", {run.num_evaluation_lines} of evaluation" if run.num_evaluation_lines else ""
    if not audit.checks:
        return f"{title}: no step line{evaluation}" + "".join(f"; {note}" for note in audit.notes)
    header = ("step", "loss", "global rate", "rate", "recomputed", "difference", "explained", "agrees")
    size = f"global batch size {audit.global_batch_size}, " if audit.global_batch_size else ""
    begun = f"{'begun' if audit.start_is_certain else 'assumed to begin'} at step {audit.start_step}"
    num_lines = len(audit.checks) + run.num_left_out
    unchecked = sum(check.agrees is None for check in audit.checks)
    rest = f"; {unchecked} could not be checked" if unchecked else ""
    agreement = (
        f"{len(audit.checks) - unchecked} of {len(audit.checks)} rates agree with the GlobalRate column within what "
        f"rounding and the time between readings of the clock explain{rest}."
    )
    verdict = ["Problems:", *(f"- {problem}" for problem in audit.problems)] if audit.problems else [agreement]
    parts = [
        f"{title}: {size}{begun}, {num_lines} line{'s' if num_lines > 1 else ''}{evaluation}",
        text_table(header, [_audit_row(check) for check in audit.checks]),
        str(run.end) if run.end else "No end line: the run was cut off, or is still running.",
        *map(wrapped, [*verdict, *(f"Note: {note}." for note in audit.notes)]),
    ]
    return "\n".join(parts)


def _audit_row(check: RateCheck) -> tuple[str, ...]:
    line, rate = check.line, check.recomputed_rate
    printed = [number(line.loss, ".5f"), number(line.global_rate, ".2f"), number(line.rate, ".2f")]
    compared = ["-", "-", "-", "?"]
    if rate is not None and check.explained is not None:
        agrees = {True: "yes", False: "NO", None: "?"}[check.agrees]
        compared = [number(rate, ".2f"), number(line.rate - rate, "+.3f"), number(check.explained, ".3f"), agrees]
    return (number(line.global_step, "d"), *printed, *compared)
