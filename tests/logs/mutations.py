"""Logs damaged in every way that files are: a function of a seed, so that a failure can be repeated."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.logs import published, wild

_EVALUATION = (
    "2025-01-02 03:04:05,006 INFO:   | Eval Device=CSX, GlobalStep=1000, Batch=100, Loss=5.92817, "
    "Rate=1172.36 samples/sec, GlobalRate=1170.91 samples/sec, LoopTimeRemaining=0:00:00, TimeRemaining=0:00:00"
)
_NUMBERS = (
    "nan", "inf", "-inf", "-1", "0", "0.00", "1e999", "1e-999", "9" * 15, "9" * 16, "1" * 5000, "0." + "0" * 400 + "1",
    "\u0663\u0664", "\uff11\uff12", "1_000", "0x10", "1e5", ".", "",
)  # fmt: skip
_NAMES = (
    "Step=", "Loss=", " Rate=", "GlobalRate=", "Processed ", " in ", "'loss': ", "'loss': '", "'epoch': ", "'step': ",
    "'global_step/max_steps': '", "step: ", "loss: ", "loss:  ", "tps: ", "iteration       ", "samples:     ", "(ms): ",
    "(s): ", "size:    ", "seconds ", "loss\": ", "step\": ", "train_runtime\": ", "global batch size ", "loss = ", "(",
)  # fmt: skip
_TEXTS = (
    "\x1b]0;title\x07", "\x1b[2J", "\x1b[" + "0" * 3000, "\0", "\x85", "\u2028", "\u202e", "\r", "\b" * 5, "\ufeff",
    "Step=", "Loss=", "Processed ", " sample(s) in ", "| Eval ", "Global batch size 8, steps 0 to 0", "GlobalStep=7",
    "Global batch size 0, steps 7 to 9", "Initial global step 5 already exceeds max step 5.", ", TimeRemaining>0:07:35",
    "{", "}", "{'loss': 1, ", "iteration 5/ 9 |", "step: 7  loss: 1", "'", "\\", "[", "null", "| lm loss: nan",
)  # fmt: skip


def healthy_log() -> list[str]:
    """Return the published log with an evaluation in it."""
    lines = []
    for size in (1024, 2048):
        lines += [f"INFO:   | Train Device=CSX, {line}" for line in published.log_lines(size)]
        lines += [_EVALUATION, str(published.END_LINES[size])]
    return lines


def mutated_log(seed: int) -> bytes:
    """Return a log, the published one or one of another stack, with one to six mutations drawn by `seed`."""
    draw = random.Random(seed)
    lines = draw.choice([healthy_log(), draw.choice(wild.SAMPLES).text.split("\n")])
    for _ in range(draw.randint(1, 6)):
        if not lines:
            break
        draw.choice(_MUTATIONS)(lines, draw)
    content = bytearray("\n".join(lines).encode("utf-8", errors="surrogatepass"))
    for _ in range(draw.choice([0, 0, 1, 10])):
        if content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def _replace_in_a_line(change: Callable[[str, random.Random], str]) -> Callable[[list[str], random.Random], None]:
    def mutate(lines: list[str], draw: random.Random) -> None:
        number = draw.randrange(len(lines))
        lines[number] = change(lines[number], draw)

    return mutate


def _cut(line: str, draw: random.Random) -> str:
    return line[: draw.randint(0, len(line))]


def _insert(line: str, draw: random.Random) -> str:
    place = draw.randint(0, len(line))
    return line[:place] + draw.choice(_TEXTS) + line[place:]


def _other_number(line: str, draw: random.Random) -> str:
    name = draw.choice([name for name in _NAMES if name in line] or ["Step="])
    head, found, rest = line.partition(name)
    return head + found + draw.choice(_NUMBERS) + rest.lstrip("0123456789.") if found else line


def _lengthen(line: str, draw: random.Random) -> str:
    return line + draw.choice(["0123456789", "Step=1 Loss= ", "| ", "\x1b[", " ", "-"]) * draw.randint(100, 5000)


def _duplicate(lines: list[str], draw: random.Random) -> None:
    lines.insert(draw.randint(0, len(lines)), draw.choice(lines))


def _drop(lines: list[str], draw: random.Random) -> None:
    start = draw.randrange(len(lines))
    del lines[start : start + draw.randint(1, 12)]


def _reorder(lines: list[str], draw: random.Random) -> None:
    draw.shuffle(lines)


def _interleave(lines: list[str], draw: random.Random) -> None:
    half = len(lines) // 2
    both = [lines[:half], lines[half:]]
    lines[:] = [both[draw.randrange(2)].pop(0) for _ in range(len(lines)) if both[0] and both[1]] + both[0] + both[1]


def _join(lines: list[str], draw: random.Random) -> None:
    number = draw.randrange(len(lines))
    lines[number : number + 2] = ["".join(lines[number : number + 2])]


_MUTATIONS = [
    *(_replace_in_a_line(change) for change in (_cut, _insert, _other_number, _other_number, _lengthen)),
    _duplicate,
    _drop,
    _reorder,
    _interleave,
    _join,
]
