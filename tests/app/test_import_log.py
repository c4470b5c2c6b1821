"""Reading logs as its user meets it: what is read, what is refused, and what the exit code says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from perf.app import import_log as logs
from perf.app.import_log import EXIT_AGREE, EXIT_DAMAGED, EXIT_DISAGREE
from perf.cli import EXIT_DONE, EXIT_USAGE, main
from perf.errors import EXIT_PROBLEM
from perf.printable import WIDTH
from tests.logs import published, wild
from tests.logs.mutations import healthy_log, mutated_log

NUM_MUTATIONS = int(os.environ.get("STEPMARK_MUTATIONS", "200"))


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_log(global_batch_size: int) -> list[str]:
    """Return one published run as a log."""
    return [str(line) for line in [*published.log_lines(global_batch_size), published.END_LINES[global_batch_size]]]


def write(name: str, lines: list[str]) -> str:
    """Write a log and return its name."""
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def false_rate(lines: list[str]) -> list[str]:
    """Return the 1024 run with a rate that does not follow."""
    return [line.replace("Rate=4841.61", "Rate=4941.61") for line in lines]


def cut_line(lines: list[str]) -> list[str]:
    """Return a run with a line cut short."""
    return [*lines[:7], lines[7][:40], *lines[8:]]


def test_the_exit_code_tells_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """0 where all agrees, 5 for a damaged line, 6 for a false rate, 3 for no log; of several 3, then 6, then 5."""
    good, damaged, false = run_log(1024), cut_line(run_log(1024)), false_rate(run_log(1024))
    assert (EXIT_AGREE, EXIT_DONE, EXIT_PROBLEM, EXIT_DAMAGED, EXIT_DISAGREE) == (0, 0, 3, 5, 6)
    assert main(["import-log", write("good.log", good)]) == 0
    assert main(["import-log", write("damaged.log", damaged)]) == 5
    assert main(["import-log", write("false.log", false)]) == 6
    assert main(["import-log", write("none.log", ["nothing of the kind"])]) == 3
    assert main(["import-log", write("both.log", cut_line(false))]) == 6
    assert main(["import-log", "good.log", "damaged.log"]) == 5
    assert main(["import-log", "damaged.log", "false.log", "good.log"]) == 6
    capsys.readouterr()
    assert main(["import-log", "none.log", "false.log", "damaged.log"]) == 3
    out, err = capsys.readouterr()
    assert "false.log: Run from line 1" in out
    assert "damaged.log: Line 8" in out
    assert err.count("\n") == 1
    assert "none.log: has no line in the format cerebras or" in err


def test_several_files_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Each run is shown with the name of its log, as text and as JSON, and a missing file hides no other."""
    files = [write("first.log", run_log(1024)), write("second.log", run_log(2048))]
    assert main(["import-log", *files]) == EXIT_AGREE
    out = capsys.readouterr().out
    assert "first.log: Run from line 1: global batch size 1024" in out
    assert "second.log: Run from line 1: global batch size 2048" in out
    assert main(["import-log", "--json", "missing.log", *files]) == EXIT_PROBLEM
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert [(run["file"], run["global_batch_size"]) for run in content["runs"]] == [
        ("first.log", 1024),
        ("second.log", 2048),
    ]
    assert "missing.log" in content["unread"][0]
    assert "missing.log" in err


def test_standard_input_is_read_until_it_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-` is standard input, which is still open afterwards; it may be empty."""
    with Path(write("piped.log", run_log(1024))).open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["import-log", "-"]) == EXIT_AGREE
        assert "Run from line 1: global batch size 1024, begun at step 0, 10 lines" in capsys.readouterr().out
        os.fstat(stdin.fileno())
        assert main(["import-log", "-"]) == EXIT_PROBLEM
        assert "standard input: has no line in the format" in capsys.readouterr().err


def test_a_carriage_return_ends_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar draws over itself; what it leaves in a file or a pipe are lines."""
    bar = "\r 50%|##  | 1/2 [00:01<00:01]"
    lines = [f"{{'loss': {loss}, 'epoch': {loss}}}" for loss in (1.5, 2.5)]
    Path("run.log").write_bytes(f"{bar}\r   {lines[0]}  {bar}\r   {lines[1]}{bar}\r\n".encode())
    assert main(["import-log", "run.log"]) == EXIT_AGREE
    by_file = capsys.readouterr().out
    assert "hf-trainer, 2 lines" in by_file
    with Path("run.log").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["import-log", "-"]) == EXIT_AGREE
    assert capsys.readouterr().out == by_file


def test_a_special_file_is_refused_unread(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A device, a pipe without a writer and a directory are refused at once; none of them is opened."""
    os.mkfifo("fifo")
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("opened"))
    for special in ("/dev/zero", "fifo", "."):
        assert main(["import-log", special]) == EXIT_PROBLEM
        err = capsys.readouterr().err
        assert f"{special}: is a directory, a device or a pipe, which may never end" in err
        assert err.count("\n") == 1


def test_what_a_log_says_does_not_reach_the_terminal_unescaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters of a damaged line and of a file's name are escaped, in reports and in errors."""
    evil = "\x1b]0;owned\x07Step=1, Loss=\x1b[2J\u202e\x9b31m"
    name = write("a\x1b[2Jb.log", [*run_log(1024), evil])
    empty = write("c\x07.log", ["nothing"])
    assert main(["import-log", name, empty]) == EXIT_PROBLEM
    out, err = capsys.readouterr()
    assert all(character.isprintable() or character == "\n" for character in out + err)
    assert r"a\x1b[2Jb.log: Line 12" in out
    assert r"\x1b]0;owned\x07Step=1" in out
    assert r"c\x07.log" in err


def test_damaged_lines_are_counted_where_they_are_too_many_to_show(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first are shown, and how many more there are is said."""
    monkeypatch.setattr(logs, "MOST_DAMAGED", 3)
    name = write("bad.log", ["Step=1, Loss=9.48"] * 10)
    assert main(["import-log", name]) == EXIT_DAMAGED
    out = capsys.readouterr().out
    assert "Line 3: " in out
    assert "Line 4: " not in out
    assert "7 more damaged lines are not shown." in out
    assert main(["import-log", "--json", name]) == EXIT_DAMAGED
    content = json.loads(capsys.readouterr().out)
    assert len(content["damaged_lines"]) == 3
    assert content["num_damaged_lines"] == 10


def test_a_healthy_log_with_evaluations_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    """What the mutations below begin with has nothing wrong; its evaluation lines are counted."""
    assert main(["import-log", write("run.log", healthy_log())]) == EXIT_AGREE
    assert capsys.readouterr().out.count("10 lines, 1 of\n  evaluation") == 2


@pytest.mark.parametrize("sample", wild.SAMPLES, ids=lambda sample: sample.source[-40:])
def test_a_log_of_any_stack_is_shown_within_80_columns(sample: wild.Sample, capsys: pytest.CaptureFixture[str]) -> None:
    """As a file and through a pipe, as text and as JSON; what is whole is never called damaged or false."""
    name = f"run.{'json' if sample.stack == wild.TRAINER_STATE else 'log'}"
    Path(name).write_text(sample.text, encoding="utf-8", newline="")
    code = main(["import-log", name])
    out, err = capsys.readouterr()
    assert sample.is_broken or code == (EXIT_AGREE if sample.num_runs else EXIT_PROBLEM)
    shown = [line for line in out.splitlines() if not line.startswith("Line ")]
    assert all(len(line) <= WIDTH for line in shown)
    assert (err == "") == (code != EXIT_PROBLEM)
    assert main(["import-log", "--json", name]) == code
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert sample.is_broken or sum(len(run["lines"]) for run in runs) == sample.num_lines


def test_a_format_is_a_name_or_a_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    """What it is not is said in one line that names what there is; a log without such lines is named."""
    name = write("run.log", ["step 1,000 loss 2.5", "noise", "step 1,010 loss nan", "step 1,020 loss much"])
    assert main(["import-log", name]) == EXIT_PROBLEM
    assert main(["import-log", "--format", "torchtitan", name]) == EXIT_PROBLEM
    assert "run.log: has no line in the format torchtitan, in UTF-8" in capsys.readouterr().err
    pattern = r"step (?P<global_step>[\d,]+) loss (?P<loss>\S+)"
    assert main(["import-log", "--format", pattern, name]) == EXIT_DAMAGED
    out = capsys.readouterr().out
    assert "2 lines" in out
    assert "1010      nan" in out
    assert "Line 4: could not convert string to float: 'much'" in out
    for wrong in ("nonsense", "(?P<loss>", r"(?P<los>\d)", r"step (?P<global_step>\d+)", ""):
        assert main(["import-log", "--format", wrong, name]) == EXIT_USAGE
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert f"--format {wrong!r}: " in err
        assert "cerebras, cerebras-tensorflow, hf-trainer, torchtitan, megatron or a pattern like" in err


def test_samples_that_contradict_the_batch_size_disagree(capsys: pytest.CaptureFixture[str]) -> None:
    """Megatron's lines say both; a batch that is ramped up lies between its first and its last size."""
    line = (
        " iteration {0:8d}/     100 | consumed samples: {1:12d} | elapsed time per iteration (ms): 100.0 |"
        " global batch size: {2:5d} | lm loss: 1.0E+00 |"
    )
    lines = [line.format(10, 160, 16), line.format(20, 400, 32), line.format(30, 720, 32)]
    assert main(["import-log", write("run.log", lines)]) == EXIT_AGREE
    assert main(["import-log", write("run.log", [*lines, line.format(40, 1041, 32)])]) == EXIT_DISAGREE
    assert "step 40: 321 samples since step 30, and 320 are needed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"log_history": [{"loss": 1.5, "epoch": 1.0, "step": 5}]}', EXIT_AGREE),
        ('{"loss": 1.5, "epoch": 1.0, "step": 5}\n{"loss": 1.4, "epoch": 2.0, "step": 10}', EXIT_AGREE),
        ('{"log_history": [{"loss": "x", "step": 5}]}', EXIT_DAMAGED),
        (
            '{"log_history": [{"loss": 1, "epoch": 1}, {"train_runtime": 1, "train_samples_per_second": 1e999}]}',
            EXIT_DAMAGED,
        ),
        ('{"log_history": [5]}', EXIT_PROBLEM),
        ('{"log_history": [', EXIT_PROBLEM),
        ('{"a": 1}', EXIT_PROBLEM),
    ],
)  # fmt: skip
def test_json_is_a_history_or_lines(text: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A trainer_state.json has a history; a file of JSON lines is a log as any other."""
    assert main(["import-log", write("some.json", [text])]) == code
    assert ("some.json: has no line" in capsys.readouterr().err) == (code == EXIT_PROBLEM)


def test_no_mutated_log_breaks_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Every one ends in a report without control characters or in one error line; JSON stays JSON."""
    for seed in range(NUM_MUTATIONS):
        name = "mutated.json" if b'"log_history"' in (log := mutated_log(seed)) else "mutated.log"
        Path(name).write_bytes(log)
        code = main(["import-log", name])
        out, err = capsys.readouterr()
        assert code in (EXIT_AGREE, EXIT_PROBLEM, EXIT_DAMAGED, EXIT_DISAGREE), seed
        assert all(character.isprintable() or character == "\n" for character in out + err), seed
        assert (err.count("\n"), "error: " in err) == ((1, True) if code == EXIT_PROBLEM else (0, False)), seed
        assert bool(out) == (code != EXIT_PROBLEM), seed
        assert main(["import-log", "--json", name]) == code, seed
        json.loads(capsys.readouterr().out)
