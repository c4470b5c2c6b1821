"""Time the training kernel beside Hugging Face's, in turns, in one process: ``python -m docs.studies.kernels``.

Both train the same weights on the same batch with the same optimizer; before anything is timed, their losses are
compared. Each round times one step of each, in random order, so that a machine that changes its speed changes both.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from perf.report.sections import text_table
from perf.train.data import Batch, SyntheticLanguage
from perf.train.devices import keep_freed_memory, resolve_device, resolve_precision, synchronize
from perf.train.kernel import BertForPreTraining, accumulate_gradients, learning_rate, make_optimizer, train_step
from perf.train.workloads import BERT_CONFIGS, BertConfig
from tests.huggingface import plain_loss, plain_model

WARM_UP_ROUNDS = 3


def main() -> None:
    """Compare the kernels on each workload and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workload", nargs="+", choices=BERT_CONFIGS, default=["pico", "nano", "tiny"], metavar="W")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="timed steps of each kernel (default: 30)")
    arguments = parser.parse_args()
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    keep_freed_memory()
    print(f"{device.type}, {torch.get_num_threads()} threads, {precision}, torch {torch.__version__}, "
          f"{arguments.rounds} rounds in turns; samples/sec, median [10th to 90th percentile]")  # fmt: skip
    rows = []
    for name in arguments.workload:
        workload = BERT_CONFIGS[name]
        ours, theirs = _timed_steps(workload, device, precision, arguments.rounds)
        ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
        rows.append(
            (
                name,
                str(workload.micro_batch_size),
                _spread([workload.micro_batch_size / s for s in ours], ",.0f"),
                _spread([workload.micro_batch_size / s for s in theirs], ",.0f"),
                _spread(ratios, ".2f"),
            )
        )
    print(text_table(("workload", "batch", "stepmark", "Hugging Face", "times as fast (paired)"), rows))


def _timed_steps(
    workload: BertConfig, device: torch.device, precision: str, num_rounds: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of each timed step, ours and theirs, round by round."""
    size = workload.micro_batch_size
    batch = SyntheticLanguage(workload, seed=0).batch(position=0, num_samples=size).to(device)
    torch.manual_seed(0)
    ours = BertForPreTraining(workload).to(device)
    theirs = plain_model(workload, ours).to(device)
    _require_same_loss(workload, ours, theirs, batch)
    optimizer = make_optimizer(ours, workload)
    plain_optimizer = torch.optim.AdamW(theirs.parameters(), lr=workload.learning_rate, weight_decay=0.01)

    def our_step() -> None:
        train_step(
            ours,
            optimizer,
            batch,
            micro_batch_size=size,
            precision=precision,
            lr=learning_rate(workload, 1),
            max_grad_norm=workload.max_grad_norm,
        )

    def their_step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = plain_loss(theirs, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), workload.max_grad_norm)
        plain_optimizer.step()
        plain_optimizer.zero_grad()

    seconds: dict[Callable[[], None], list[float]] = {our_step: [], their_step: []}
    order = random.Random(0)
    for _ in range(WARM_UP_ROUNDS + num_rounds):
        for step in order.sample(list(seconds), len(seconds)):
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            seconds[step].append(time.perf_counter() - start)
    return seconds[our_step][WARM_UP_ROUNDS:], seconds[their_step][WARM_UP_ROUNDS:]


def _require_same_loss(workload: BertConfig, ours: BertForPreTraining, theirs: nn.Module, batch: Batch) -> None:
    """Compare the losses without dropout, in fp32."""
    ours.eval()
    theirs.eval()
    our_loss = accumulate_gradients(ours, batch, micro_batch_size=len(batch), precision="fp32").item()
    their_loss = plain_loss(theirs, batch).item()
    if abs(our_loss - their_loss) > 1e-4 * their_loss:
        raise AssertionError(f"{workload.name}: our loss is {our_loss}, theirs {their_loss}: not the same work")
    ours.zero_grad(set_to_none=True)
    ours.train()
    theirs.train()


def _spread(values: Sequence[float], style: str) -> str:
    tenths = statistics.quantiles(values, n=10)
    return f"{statistics.median(values):{style}} [{tenths[0]:{style}} to {tenths[-1]:{style}}]"


if __name__ == "__main__":
    main()
