"""Step arithmetic: how many optimizer steps are left, and at which of them to log or save."""

from perf.errors import RunFinishedError


def steps_to_run(
    *,
    global_step: int,
    num_steps: int | None = None,
    max_steps: int | None = None,
    num_epochs: int | None = None,
    steps_per_epoch: int | None = None,
    data_len: int | None = None,
    grad_accum_steps: int = 1,
) -> int:
    """Return how many optimizer steps a run starting at `global_step` still has to make; at least 1.

    It is the least of `num_steps`, `num_epochs` times the optimizer steps of an epoch, and `max_steps - global_step`.
    Where `data_len` is known, an epoch must have at least one optimizer step, whatever the limit is.

    Args:
        global_step: optimizer steps completed so far; 0 for a fresh run.
        num_steps: how many more steps to make.
        max_steps: the absolute step to stop at.
        num_epochs: how many passes over the data to make; needs a known `data_len`.
        steps_per_epoch: micro-batches that count as one epoch; None for all of the data.
        data_len: micro-batches in the data, or None when it has no end.
        grad_accum_steps: micro-batches per optimizer step.

    Raises:
        ValueError: an argument is not a positive integer, or the arguments contradict each other.
        RunFinishedError: `global_step` has reached `max_steps`.
    """
    _require_integer("global_step", global_step, least=0)
    for name, value in {
        "num_steps": num_steps,
        "max_steps": max_steps,
        "num_epochs": num_epochs,
        "steps_per_epoch": steps_per_epoch,
        "data_len": data_len,
        "grad_accum_steps": grad_accum_steps,
    }.items():
        if value is not None:
            _require_integer(name, value, least=1)
    if num_epochs is not None and num_steps is not None:
        raise ValueError(f"num_epochs={num_epochs} and num_steps={num_steps} exclude each other; give one of them")
    if num_steps is None and max_steps is None and num_epochs is None:
        raise ValueError("no limit given: one of num_steps, max_steps or num_epochs is needed")
    limits = [] if num_steps is None else [num_steps]
    if data_len is not None:
        epoch = data_len if steps_per_epoch is None else steps_per_epoch
        if epoch > data_len:
            raise ValueError(f"steps_per_epoch={epoch} exceeds the data: it has {data_len} micro-batches")
        if grad_accum_steps > epoch:
            raise ValueError(f"grad_accum_steps={grad_accum_steps} exceeds an epoch of {epoch} micro-batches")
        if num_epochs is not None:
            limits.append(num_epochs * (epoch // grad_accum_steps))
    elif num_epochs is not None:
        raise ValueError(
            f"num_epochs={num_epochs} needs data of a known length, and this data has no end; "
            "give num_steps or max_steps"
        )
    if max_steps is not None:
        if global_step >= max_steps:
            raise RunFinishedError(global_step=global_step, max_steps=max_steps)
        limits.append(max_steps - global_step)
    return min(limits)


def _require_integer(name: str, value: object, *, least: int) -> None:
    # bool is an int to Python, but max_steps=True is a mistake.
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}: an integer of at least {least} is needed")


def should_act(*, global_step: int, last_step: int, every: int | None) -> bool:
    """Tell whether something done `every` so many steps, and at the last one, is due after `global_step`."""
    return global_step == last_step or (every is not None and global_step % every == 0)
