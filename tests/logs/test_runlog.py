"""Rate and GlobalRate follow the published rules; log lines survive formatting and parsing, and none is lost."""

from __future__ import annotations

import contextlib
import io
import math
import re
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.logs import parsing, runlog
from perf.logs.parsing import DamagedLine, Format, parse_line, parse_log, read_lines
from perf.logs.runlog import EndLine, EvaluationLine, LoggedRun, LogLine, Mark, Rates, RefusedStart, StartLine
from tests.logs import published


def runs_of(lines: Iterable[str]) -> list[LoggedRun]:
    """Return the runs of a log without damaged lines."""
    found = list(parse_log(lines))
    runs = [one for one in found if isinstance(one, LoggedRun)]
    assert len(runs) == len(found)
    return runs


finite = st.floats(0, 1e9)
log_lines = st.builds(
    LogLine,
    global_step=st.integers(1, 10**9),
    loss=finite | st.just(math.inf) | st.just(math.nan),
    rate=finite,
    global_rate=finite,
)
prefixes = st.sampled_from(
    [
        "",
        "2024-03-14 03:20:31,277 INFO:   ",
        "| Train Device=CSX, ",
        "2024-03-14 03:20:31,277 INFO:   | Train Device=xla:0, ",
        "[rank0] | Train Device=cpu, ",
        "INFO:root:",
        "[default0]:",
        "\ufeff",
        "\x1b[32m",
        "\x1b[K\x1b[1;31m| Train Device=cpu, ",
        " 10%|#   | 6/60 [00:08<00:34,  1.57step/s]",
    ]
)
tails = st.sampled_from(["", ", LoopTimeRemaining=0:07:35, TimeRemaining>0:07:35", "  ", "\x1b[0m", " (eta 5s)", '"}'])


@given(line=log_lines, prefix=prefixes, tail=tails)
def test_a_step_line_round_trips_in_every_known_dress(line: LogLine, prefix: str, tail: str) -> None:
    """Parsing what was formatted gives the same values, to the printed digits, whatever stands around it."""
    parsed = parse_line(f"{prefix}{line}{tail}\n")
    assert isinstance(parsed, LogLine)
    assert str(parsed) == str(line)
    assert parsed.global_step == line.global_step
    assert parsed.rate == pytest.approx(line.rate, abs=0.005001, rel=1e-15)


@given(end=st.builds(EndLine, samples=st.integers(0, 10**12), seconds=st.floats(0, 1e6)))
def test_an_end_line_round_trips(end: EndLine) -> None:
    """Samples come back exactly, seconds to the nanosecond."""
    parsed = parse_line(f"2024-03-14 03:20:31,277 INFO:   {end}")
    assert isinstance(parsed, EndLine)
    assert parsed.samples == end.samples
    assert parsed.seconds == pytest.approx(end.seconds, abs=1e-9)


def test_lines_are_printed_as_published() -> None:
    """The format is the reference's to the character."""
    assert str(published.log_lines(2048)[0]) == (
        "Step=100, Loss=9.48438, Rate=6858.71 samples/sec, GlobalRate=6858.72 samples/sec"
    )
    assert str(published.END_LINES[2048]) == "Processed 2048000 sample(s) in 304.240142671 seconds."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Compiling the model. This may take a few minutes.",
        "Saved checkpoint model_dir/checkpoint_100.mdl at global step 100",
        "WARNING: Step sizes differ; the Rate may vary",
        "Loss=1.0",
    ],
)
def test_other_lines_say_nothing(text: str) -> None:
    """Compilation notes, checkpoints and warnings are passed over."""
    assert parse_line(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Step=100, Loss=9.48438, Rate=6858.71 samples/s",
        "Step=100, Loss=9.48",
        "Step=100, Loss=abc, Rate=1.00 samples/sec, GlobalRate=1.00 samples/sec",
        "\x1b[32mStep=100, Loss=9.48",
        "Step=1, Loss=1.0, Rate=1.0 samples/sec, GlobalRate=1.0 samples/secStep=2, Loss=1.0, Rate=1",
        "Step=1" + "0" * 400 + ", Loss=1.0, Rate=1.0 samples/sec, GlobalRate=1.0 samples/sec",
        "Processed 2048000 sample(s) in 304.2",
        "Processed 2" + "0" * 400 + " sample(s) in 3.0 seconds.",
        "Step=1 Loss= " * 10_000,
    ],
    ids=lambda text: text[:30],
)
def test_a_damaged_line_is_told_and_not_passed_over(text: str) -> None:
    """What has the marks of a line of the log but is cut, garbled, doubled or absurd is an error that shows it."""
    with pytest.raises(ValueError, match="not one whole line"):
        parse_line(text)
    (damaged,) = parse_log(["noise", text])
    assert isinstance(damaged, DamagedLine)
    assert damaged.number == 2
    assert text[-10:] in damaged.reason or text[:5] in damaged.reason or "Step=" in damaged.reason


@given(text=st.text(st.sampled_from("Step=LosRatGbl,. 0123samples/ec\x1b[m|")) | st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    """Whatever stands in a log, parsing it says something about steps, says nothing, or tells damage."""
    list(parse_log(text.splitlines()))


def test_lines_of_an_evaluation_are_not_training() -> None:
    """They have steps and rates of their own, in both known formats.

    A path with that word in it makes no evaluation.
    """
    line = published.log_lines(1024)[0]
    assert parse_line(f"2024-03-14 03:20:31,277 INFO:   | Eval Device=CSX, {line}") == EvaluationLine(
        global_step=100, loss=9.48438
    )
    assert parse_line(
        "2025-01-02 03:04:05,006 INFO:   | Eval Device=CSX, GlobalStep=1000, Batch=100, Loss=5.92817, "
        "Rate=1172.36 samples/sec, GlobalRate=1170.91 samples/sec, LoopTimeRemaining=0:00:00, TimeRemaining=0:00:00"
    ) == EvaluationLine(global_step=1000, batch=100, loss=5.92817)
    assert parse_line(f"/data/eval/run.py INFO {line}") == line
    with pytest.raises(ValueError, match="not one whole line"):
        parse_line("| Eval Device=CSX, GlobalStep=1000, Batch=100, Loss=5.9")


def test_lines_of_another_program_are_no_damage() -> None:
    """PyTorch/XLA's examples print lines that look like it; words such as these stand in no whole line of ours."""
    assert (
        parse_line("| Training Device=xla:0/3 Epoch=1 Step=280 Loss=0.05 Rate=523.61 GlobalRate=486.54 Time=1") is None
    )


@pytest.mark.parametrize(
    "end",
    [
        "Training Complete. Completed 64 sample(s) in 2.5 seconds.",
        "Training completed successfully! Processed 64 sample(s) in 2.5 seconds.",
        "INFO:   Processed 64 training sample(s) in 2.5 seconds",
    ],
)
def test_ends_of_every_release_are_read(end: str) -> None:
    """With and without a sentence before, the word "training" and a period; cut before that, they are damaged."""
    assert parse_line(end) == EndLine(samples=64, seconds=2.5)
    with pytest.raises(ValueError, match="not one whole line"):
        parse_line(end.rstrip(".").removesuffix("s"))


def test_evaluations_part_no_run() -> None:
    """They are counted in the run that they interrupt, also before its first line and with steps that do not rise."""
    lines = [str(line) for line in [*published.log_lines(1024), published.END_LINES[1024]]]
    evaluation = "| Eval Device=CSX, GlobalStep=7, Batch=1, Loss=1, Rate=1 samples/sec, GlobalRate=1 samples/sec"
    (run,) = runs_of([evaluation, *lines[:4], evaluation, evaluation.replace("Batch=1", "Batch=2"), *lines[4:]])
    assert (len(run.lines), run.num_evaluation_lines, run.first_line_number) == (10, 3, 1)
    assert run.end == published.END_LINES[1024]


@pytest.mark.parametrize("word", ["", "training "])
def test_both_end_lines_are_read(word: str) -> None:
    """Newer releases say that the samples were training samples."""
    assert (
        parse_line(f"INFO:   Processed 2048000 {word}sample(s) in 304.240142671 seconds.") == published.END_LINES[2048]
    )


def test_a_remaining_time_is_remembered() -> None:
    """A step line with a tail says so."""
    line = str(published.log_lines(1024)[0])
    for tail in (", LoopTimeRemaining=0:07:35, TimeRemaining>0:07:35", ", TimeRemaining=0:07:35"):
        (run,) = runs_of([line + tail])
        assert run.lines[0].has_tail
    (run,) = runs_of([line])
    assert not run.lines[0].has_tail


@pytest.mark.parametrize("length", [30_000, parsing.LONGEST_LINE - 100])
@pytest.mark.parametrize(
    ("head", "repeated"),
    [
        ("Step=1, Loss=", "1"),
        ("Step=1, Loss=1.0, Rate=", "1"),
        ("Step=1, Loss=1.", "1"),
        ("Step=1, Loss=1e", "1"),
        ("Processed 1 sample(s) in ", "1"),
        ("", "Step=1, Loss=1.0, Rate=1.0 samples/sec, GlobalRate="),
        ("Step=1, Loss=", "Step=1"),
        ("Step=1 Loss=1 ", "| "),
        ("Step=1 Loss=1 |", " "),
        ("Step=1 Loss=1 \x1b[", "1;"),
        ("Step=1 Loss=1 ", "\x1b["),
        ("Processed  sample(s)", "Processed 1 sample(s) in 1"),
    ],
)
def test_no_line_makes_the_parser_backtrack(head: str, repeated: str, length: int) -> None:
    """A hostile line of any length is told as damaged; with patterns that backtrack this test would not end."""
    with pytest.raises(ValueError, match="not one whole line"):
        parse_line(head + repeated * (length // len(repeated)))


@pytest.mark.parametrize("form", parsing.FORMATS.values(), ids=parsing.FORMATS)
@pytest.mark.parametrize(
    "repeated",
    [
        "{'loss': ", "{'loss': 1, ", "{'loss': 1, 'epoch': 1, ", "'loss': 1, ", "{'eval_loss': ",
        "{'train_runtime': 1, ", "{", "step: ", "step: 1 loss: ", "step: 1/1 = 1",
        "validate step: 1 ", "tps: ", "iteration ", "iteration 1/ ",
        "iteration 1/1 | ", "iteration 1/1 | lm loss", "elapsed time per iteration (ms): ",
        "validation loss at iteration ", "global step 1: loss = ", "| Eval ",
        "| Eval Device=CSX, Step=", "Completed 1 sample(s) in ", "Training Device=",
        "Total train batch size ", "1", " ", "'", "| ", "\x1b[",
    ],
)  # fmt: skip
def test_no_line_makes_a_format_backtrack(form: Format, repeated: str) -> None:
    """Fragments of lines, repeated: with patterns that backtrack this test would not end."""
    for head in ("", "{'loss': 1, 'epoch': 1, ", "iteration 1/1 | lm loss: 1 "):
        with contextlib.suppress(ValueError):
            form.parse(head + repeated * (parsing.LONGEST_LINE // 4 // len(repeated)))


def test_every_repetition_in_the_patterns_is_possessive() -> None:
    """What a pattern took it never gives back, so a search cannot try the same digits again and again."""
    patterns = [value for value in vars(parsing).values() if isinstance(value, re.Pattern)]
    patterns += [pattern for form in parsing.FORMATS.values() for pattern in form.patterns.values()]
    assert len(patterns) == 18
    for pattern in patterns:
        for repetition in re.finditer(r"(?<!\\)(?:\\d|\]|\\s)(?:[*+?]|\{\d+,\d+\})(.?)", pattern.pattern):
            assert repetition[1] == "+", (pattern.pattern, repetition[0])


def test_a_line_that_is_too_long_is_damaged_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of such a line only the beginning is read; the lines around it are what they were, and counted right."""
    monkeypatch.setattr(parsing, "LONGEST_LINE", 200)
    lines = [str(line) for line in published.log_lines(1024)]
    text = "\n".join([lines[0], "x" * 150, "y" * 5000, lines[1], "z" * 201])
    pieces = list(read_lines(io.StringIO(text)))
    assert len(pieces) == 5
    assert max(map(len, pieces)) == 201
    long, last, run = parse_log(pieces)
    assert isinstance(long, DamagedLine)
    assert (long.number, "longer than 200 characters" in long.reason) == (3, True)
    assert isinstance(last, DamagedLine)
    assert last.number == 5
    assert isinstance(run, LoggedRun)
    assert [line.global_step for line in run.lines] == [100, 200]


def test_a_run_is_given_away_as_soon_as_it_has_ended() -> None:
    """The parser reads no further than it must, so a log of any length is audited run by run."""
    lines = [str(line) for line in [*published.log_lines(1024), published.END_LINES[1024]]]

    def log() -> Iterator[str]:
        yield from lines
        yield lines[0]
        pytest.fail("read on before the first run was given away")

    run = next(parse_log(log()))
    assert isinstance(run, LoggedRun)
    assert run.end == published.END_LINES[1024]


def test_a_run_keeps_a_bounded_number_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines beyond the limit are counted, and the last one is known."""
    monkeypatch.setattr(runlog, "MOST_LINES", 4)
    (run,) = runs_of(str(line) for line in published.log_lines(1024))
    assert [line.global_step for line in run.lines] == [100, 200, 300, 400]
    assert (run.num_left_out, run.last_line) == (6, published.log_lines(1024)[-1])


def test_the_memory_of_the_parser_does_not_grow_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise, damaged lines and whole runs pass through; what is kept at any moment is less than a few runs."""
    monkeypatch.setattr(runlog, "MOST_LINES", 50)
    lines = [str(line) for line in [*published.log_lines(1024), published.END_LINES[1024]]]

    def log() -> Iterator[str]:
        for _ in range(300):
            yield "noise " * 4000
            yield "Step=1, Loss=" + "9" * 300
            yield from lines
        for step in range(5000):
            yield f"Step={step}, Loss=1.0, Rate=1.0 samples/sec, GlobalRate=1.0 samples/sec"
            yield f"Step={step}, Loss="

    tracemalloc.start()
    try:
        num_found = sum(1 for _ in parse_log(log()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_found == 300 + 300 + 5000 + 1
    assert peak < 1_000_000  # of 8 MB; other threads of a test worker may allocate, too


def test_runs_part_where_the_step_does_not_rise() -> None:
    """Without end lines, a step that does not rise begins another run."""
    lines = [str(line) for line in published.log_lines(1024)]
    runs = runs_of(lines[:4] + lines[2:])
    assert [[line.global_step for line in run.lines] for run in runs] == [
        [100, 200, 300, 400],
        list(range(300, 1001, 100)),
    ]
    assert [run.first_line_number for run in runs] == [1, 5]


def test_our_own_heading_begins_a_run_and_says_where() -> None:
    """Printed by one half of the project, read by the other."""
    start = StartLine(global_batch_size=512, first_step=8, last_step=40)
    lines = [str(line) for line in published.log_lines(1024)]
    runs = runs_of([*lines[:2], f"{start} (1 micro-batch of 512 each), checkpoints in x", *lines[2:]])
    assert [run.start for run in runs] == [None, start]
    assert [len(run.lines) for run in runs] == [2, 8]


def test_repeated_lines_count_once() -> None:
    """Two handlers print each line twice; that is one run."""
    lines = [str(line) for line in [*published.log_lines(1024), published.END_LINES[1024]]]
    (run,) = runs_of(line for line in lines for _ in range(2))
    assert (run.lines, run.end) == (published.log_lines(1024), published.END_LINES[1024])


def test_a_line_after_a_damaged_one_is_known() -> None:
    """A gap in the log is remembered, since a rate after it cannot be recomputed."""
    lines = [str(line) for line in published.log_lines(1024)]
    lines[3] = lines[3][:40]
    (run,) = (found for found in parse_log(lines) if isinstance(found, LoggedRun))
    assert run.after_gap == {500}


def test_a_refusal_is_a_run_of_its_own() -> None:
    """The reference's third run is found though it never logged a step."""
    lines = [str(line) for line in published.log_lines(1024)]
    runs = runs_of([*lines, "RuntimeError: Initial global step 1000 already exceeds max step 1000."])
    assert [run.refused for run in runs] == [None, RefusedStart(global_step=1000, max_steps=1000)]


@pytest.mark.parametrize("global_batch_size", [1024, 2048])
def test_published_rates_come_back(global_batch_size: int) -> None:
    """Fed the times that follow from the GlobalRate column, the tracker returns every published Rate within 0.02."""
    lines = published.log_lines(global_batch_size)
    assert len(lines) == 10
    zero = Mark(samples=0, time_s=0.0)
    rates = Rates(began=zero, latest=zero)
    for line in lines:
        samples = line.global_step * global_batch_size
        rates = rates.at(Mark(samples=samples, time_s=samples / line.global_rate))
        assert rates.rate == pytest.approx(line.rate, abs=0.02)
        assert rates.global_rate == pytest.approx(line.global_rate, abs=1e-6)


@pytest.mark.parametrize("global_batch_size", [1024, 2048])
def test_published_totals_come_back(global_batch_size: int) -> None:
    """The last GlobalRate is the processed samples over the seconds they took, within 0.01."""
    end = published.END_LINES[global_batch_size]
    assert end.samples / end.seconds == pytest.approx(published.log_lines(global_batch_size)[-1].global_rate, abs=0.01)


def test_the_first_rate_is_the_first_windows_and_later_ones_are_smoothed() -> None:
    """Worked by hand: windows of 10 and 20 samples/sec give 10, then 0.6 x 20 + 0.4 x 10 = 16."""
    began = Mark(samples=100, time_s=5.0)
    first = Rates(began=began, latest=began).at(Mark(samples=110, time_s=6.0))
    assert (first.rate, first.global_rate) == (10.0, 10.0)
    second = first.at(Mark(samples=130, time_s=7.0))
    assert second.rate == pytest.approx(16.0)
    assert second.global_rate == pytest.approx(15.0)
    assert first.rate == 10.0, "asking for the next rates must not change these"


def test_a_clock_that_stands_still_is_refused() -> None:
    """No rate is made up from a window without length."""
    began = Mark(samples=0, time_s=1.0)
    rates = Rates(began=began, latest=began)
    with pytest.raises(ValueError, match=r"must advance.*1\.0 s, then 1\.0 s"):
        rates.at(Mark(samples=8, time_s=1.0))


def test_a_step_line_without_a_loss_says_nothing() -> None:
    """Where a pattern does not demand one."""
    form = parsing.find_format(r"step (?P<global_step>\d+)(?: loss (?P<loss>\S+))?")
    assert form.parse("step 5") is None
    assert form.parse("step 5 loss 2.5") == LogLine(global_step=5, loss=2.5)
