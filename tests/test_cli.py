"""The command line as its user meets it: output, exit codes, one-line errors."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perf.app.import_log import EXIT_DISAGREE
from perf.cli import EXIT_DONE, EXIT_USAGE, main
from perf.errors import EXIT_PROBLEM
from perf.parsers import seconds
from perf.signals import EXIT_STOPPED, STOPS
from perf.train.trainer import Trainer
from tests.logs import published
from tests.measure.test_runners import interrupted_inside_popen
from tests.repositories import left

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
EXIT_CODES = {"duet": {0, 1, 4}, "--benchmark-compare": {1}}  # of commands that find something; others end with 0
MODULES = {"stepmark": "perf", "pytest": "pytest"}

SMALL = ["--micro-batch-size", "8", "--max-steps", "4", "--log-steps", "2"]


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test where its runs/ disturb nobody."""
    monkeypatch.chdir(tmp_path)


def only_line(text: str) -> str:
    """Return the one line that a refused command prints."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_three_batch_sizes_make_three_runs_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Log lines, an end line and a checkpoint for each size, then one table row for each."""
    assert main(["train", "--global-batch-size", "32", "8", "16", *SMALL]) == EXIT_DONE
    out = capsys.readouterr().out
    assert re.findall(r"^Step=(\d+), Loss=\d\.\d{5}, Rate=", out, flags=re.MULTILINE) == ["2", "4"] * 3
    totals = re.findall(r"^Processed (\d+) sample\(s\) in ([\d.]+) seconds", out, flags=re.MULTILINE)
    assert [samples for samples, _ in totals] == ["128", "32", "64"]
    for size in (8, 16, 32):
        assert Path(f"runs/pico/gbs-{size}/step-00000004").exists()
    table = out.splitlines()[-5:]
    assert table[0].split()[0] == "size"
    assert "vs 8" in table[0]
    rows = [row.split() for row in table[2:]]
    assert [row[:3] for row in rows] == [["32", "4", "128"], ["8", "4", "32"], ["16", "4", "64"]]
    rates = [int(samples) / float(seconds) for samples, seconds in totals]
    for row, rate in zip(rows, rates, strict=True):
        assert float(row[4].replace(",", "")) == pytest.approx(rate, abs=0.051)
        assert float(row[5].rstrip("x")) == pytest.approx(rate / rates[1], abs=0.0051)


def test_the_reference_failure_and_the_ways_out(capsys: pytest.CaptureFixture[str]) -> None:
    """512 after 1024, in small: exit 3 in the same directory, and fine by default, fresh, or with a higher target."""
    same = ["train", *SMALL, "--model-dir", "here", "--global-batch-size"]
    assert main([*same, "16"]) == EXIT_DONE
    capsys.readouterr()
    assert main([*same, "8"]) == EXIT_PROBLEM
    captured = capsys.readouterr()
    assert captured.out == ""
    error = only_line(captured.err)
    assert error.startswith("stepmark train: error: Initial global step 4 already exceeds max step 4. ")
    for part in ("here/step-00000004", "global_batch_size 16 -> 8", "--model-dir", "--max-steps", "--fresh"):
        assert part in error
    assert main(["train", *SMALL, "--global-batch-size", "8"]) == EXIT_DONE
    assert main([*same, "16", "--max-steps", "6"]) == EXIT_DONE
    assert "resuming from here/step-00000004" in capsys.readouterr().out
    assert main([*same, "8", "--max-steps", "9"]) == EXIT_PROBLEM
    assert "written by another configuration: global_batch_size 16 -> 8" in only_line(capsys.readouterr().err)
    assert main([*same, "8", "--load", "weights"]) == EXIT_DONE
    assert main([*same, "8", "--fresh"]) == EXIT_DONE


def test_a_finished_run_started_again_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to do, and how to go on; the exit code is not 0, since no run was made."""
    same = ["train", *SMALL, "--global-batch-size", "8"]
    assert main(same) == EXIT_DONE
    capsys.readouterr()
    assert main(same) == EXIT_PROBLEM
    captured = capsys.readouterr()
    assert captured.out == ""
    assert only_line(captured.err) == (
        "stepmark train: error: nothing to do at global batch size 8: runs/pico/gbs-8/step-00000004 has all 4 steps; "
        "to go on, give a higher --max-steps; to start over, give --fresh"
    )


def test_no_run_starts_when_one_of_them_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    """A finished run among several is told before the others spend any time."""
    assert main(["train", *SMALL, "--global-batch-size", "8"]) == EXIT_DONE
    capsys.readouterr()
    assert main(["train", *SMALL, "--global-batch-size", "16", "8"]) == EXIT_PROBLEM
    assert capsys.readouterr().out == ""
    assert not list(Path("runs/pico/gbs-16").iterdir())


@pytest.mark.parametrize(
    "same", [["--global-batch-size", "8", "8"], ["--global-batch-size", "8", "16", "--model-dir", "x"]]
)
def test_no_two_runs_of_a_command_share_a_directory(same: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A size twice, or one directory for two sizes: told before any run starts."""
    assert main(["train", *SMALL, *same]) == EXIT_PROBLEM
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "another run is using it; wait for its end, or give each its own --model-dir" in only_line(captured.err)


def test_ctrl_c_ends_the_whole_command_and_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second of three runs: exit 130, and the sizes named go on from where they stood."""
    real = Trainer.step

    def step(self: Trainer) -> Tensor:
        loss = real(self)
        if (self.global_step, self.data_position) == (2, 2 * 16):
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(Trainer, "step", step)
    assert main(["train", "--global-batch-size", "8", "16", "24", *SMALL, "--fresh"]) == EXIT_STOPPED
    out = capsys.readouterr().out
    assert out.splitlines()[-3:] == [
        "Global batch size 16 was stopped at step 2 of 4.",
        "To continue it: the same command with --global-batch-size 16 and, instead of any",
        "  other limit, --fresh or --load, --max-steps 4.",
    ]
    monkeypatch.setattr(Trainer, "step", real)
    assert main(["train", "--global-batch-size", "16", "24", *SMALL]) == EXIT_DONE
    assert "steps 3 to 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--global-batch-size", "8", "--micro-batch-size", "3"], "--micro-batch-size 3 does not divide the 8 samples"),
        (["--seed", str(2**63)], "seed=9223372036854775808: at most"),
        (["--global-batch-size", "8", "--model-dir", "a\0b"], "null byte"),
        pytest.param(
            ["--device", "cuda"],
            "sees no GPU; use --device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there"),
        ),
    ],
)
def test_wrong_usage_exits_2_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments that cannot work together are refused with both named."""
    assert main(["train", *arguments]) == EXIT_USAGE
    assert message in only_line(capsys.readouterr().err)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it loads its compiler
def test_a_model_that_torch_cannot_compile_exits_3_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler's pages of output become the line that says what it was."""
    import torch._dynamo.exc

    def broken(self: Trainer) -> None:
        raise torch._dynamo.exc.InternalTorchDynamoError("No working C++ compiler found\nand pages more")

    monkeypatch.setattr(Trainer, "warm_up", broken)
    assert main(["train", "--global-batch-size", "8", *SMALL, "--compile"]) == EXIT_PROBLEM
    error = only_line(capsys.readouterr().err)
    assert "--compile: torch could not compile the model (No working C++ compiler found); mend" in error


def test_a_later_run_that_fails_does_not_hide_what_was_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory at the second size: one line, exit 3, and the table of the first."""
    real = Trainer.step

    def step(self: Trainer) -> Tensor:
        if self.data_position == 0 and self._case.global_batch_size == 16:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return real(self)

    monkeypatch.setattr(Trainer, "step", step)
    assert main(["train", "--global-batch-size", "8", "16", *SMALL]) == EXIT_PROBLEM
    captured = capsys.readouterr()
    assert "out of memory" in only_line(captured.err)
    assert "use a smaller --micro-batch-size" in captured.err
    assert captured.out.splitlines()[-1].split()[:3] == ["8", "4", "32"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-steps", "0"],
        ["--seed", "-1"],
        ["--keep-checkpoints", "-1"],
        ["--global-batch-size", "0"],
        ["--micro-batch-size", "0"],
        ["--log-steps", "0"],
        ["--checkpoint-steps", "0"],
        ["--global-batch-size", "many"],
        ["--max-steps", "5", "--num-steps", "5"],
        ["--max-steps", "1_0"],
        ["--fres"],
    ],
)
def test_arguments_that_argparse_refuses_exit_2_too(arguments: list[str]) -> None:
    """Numbers are checked when they are read, and limits exclude each other."""
    with pytest.raises(SystemExit) as caught:
        main(["train", *arguments])
    assert caught.value.code == EXIT_USAGE


def test_a_directory_that_cannot_be_written_exits_3_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An operating-system error is one line as well."""
    Path("file").touch()
    assert main(["train", *SMALL, "--global-batch-size", "8", "--model-dir", "file/below"]) == EXIT_PROBLEM
    assert "file/below" in only_line(capsys.readouterr().err)


def published_log() -> list[str]:
    """Return the published run as a log."""
    return [
        *(str(line) for size in (1024, 2048) for line in [*published.log_lines(size), published.END_LINES[size]]),
        "RuntimeError: Initial global step 1000 already exceeds max step 1000.",
    ]


def test_import_log_agrees_with_the_published_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs that agree and one that did not start; as a table, and as JSON."""
    Path("run.log").write_text("\n".join(published_log()), encoding="utf-8")
    assert main(["import-log", "run.log"]) == EXIT_DONE
    out = capsys.readouterr().out
    assert out.count("10 of 10 rates agree with the GlobalRate column") == 2
    assert "Run from line 1: global batch size 1024, begun at step 0, 10 lines" in out
    assert "Run from line 23: did not start: its checkpoint was at step 1000" in out
    assert main(["import-log", "run.log", "--json"]) == EXIT_DONE
    content = json.loads(capsys.readouterr().out)
    assert [run["global_batch_size"] for run in content["runs"]] == [1024, 2048, None]
    assert [len(run["lines"]) for run in content["runs"]] == [10, 10, 0]
    assert all(line["agrees"] for run in content["runs"] for line in run["lines"])
    assert content["runs"][0]["lines"][0]["loss"] == 9.48438


def test_import_log_shows_the_place_of_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """A false rate and a cut line are both shown with their place."""
    lines = published_log()
    lines[4] = lines[4].replace("Rate=4841.61", "Rate=4941.61")
    lines[7] = lines[7][:40]
    Path("run.log").write_text("\n".join(lines), encoding="utf-8")
    assert main(["import-log", "run.log"]) == EXIT_DISAGREE
    out = capsys.readouterr().out
    assert "Step=500: Rate=4941.61 printed, 4841.6" in out
    assert "Line 8: looks like a line of a training log but is not one whole line" in out


def test_import_log_knows_where_our_own_resumed_runs_began(capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped off the log grid, resumed, and logged into one file: three runs, each from its own step, all agree."""
    log = ""
    for target in ("7", "10", "25"):
        arguments = ["--micro-batch-size", "8", "--max-steps", target, "--log-steps", "5"]
        assert main(["train", "--global-batch-size", "8", *arguments]) == EXIT_DONE
        log += "".join(line + "\n" for line in capsys.readouterr().out.splitlines() if "Processed" not in line)
    Path("own.log").write_text(log, encoding="utf-8")
    assert main(["import-log", "own.log", "--json"]) == EXIT_DONE
    content = json.loads(capsys.readouterr().out)
    assert [run["start_step"] for run in content["runs"]] == [0, 7, 10]
    assert [[line["global_step"] for line in run["lines"]] for run in content["runs"]] == [[5, 7], [10], [15, 20, 25]]
    assert all(line["agrees"] for run in content["runs"] for line in run["lines"])


def test_import_log_writes_valid_json_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    """NaN is no JSON: it becomes null."""
    step_line = "Step=1, Loss=nan, Rate=1.00 samples/sec, GlobalRate=1.00 samples/sec\n"
    Path("nan.log").write_text(step_line + "Processed 8 sample(s) in nan seconds.\n", encoding="utf-8")
    assert main(["import-log", "nan.log", "--json"]) == EXIT_DISAGREE
    content = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert content["runs"][0]["lines"][0]["loss"] is None
    assert content["runs"][0]["end"] == {"samples": 8, "seconds": None}


def test_import_log_reads_what_train_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The project's own output passes its own audit, batch sizes included."""
    assert main(["train", "--global-batch-size", "8", "16", *SMALL, "--log-steps", "1"]) == EXIT_DONE
    Path("own.log").write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["import-log", "own.log", "--json"]) == EXIT_DONE
    content = json.loads(capsys.readouterr().out)
    assert [run["global_batch_size"] for run in content["runs"]] == [8, 16]
    assert content["damaged_lines"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing of the kind\n", "has no line in the format cerebras"),
        (b"", "has no line in the format cerebras"),
        ("Step=1, Loss=1.0, Rate=1.0 samples/sec".encode("utf-16"), "in UTF-8; give a training log"),
        (bytes(range(256)), "has no line in the format cerebras"),
    ],
)
def test_import_log_refuses_what_is_no_log(content: bytes, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without a single line of a run is an error, not an empty success."""
    Path("run.log").write_bytes(content)
    assert main(["import-log", "run.log"]) == EXIT_PROBLEM
    assert message in only_line(capsys.readouterr().err)


def test_workloads_fit_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Words are not broken at 80 columns, in help neither."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["workloads"]) == EXIT_DONE
    for command in ("duet", "train"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_commands_are_listed_with_what_they_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file's name those of both places at the root, with it those of any; a damaged one is told."""
    entry = "command.NAME]\nrun = 'bash NAME.sh'\nglobal_batch_sizes = [8]\n"
    Path("stepmark.toml").write_text("[" + entry.replace("NAME", "one"))
    Path("pyproject.toml").write_text("[tool.stepmark." + entry.replace("NAME", "two"))
    assert main(["workloads"]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "stepmark.toml:one (stepmark.toml), batch sizes 8\n  bash one.sh\n" in out
    assert "pyproject.toml:two (pyproject.toml), batch sizes 8\n  bash two.sh\n" in out
    Path("other.toml").write_text("[" + entry.replace("NAME", "three"))
    Path("stepmark.toml").write_text("[command.one]\nrun = 'bash one.sh'\n")
    assert main(["workloads", "other.toml"]) == EXIT_DONE
    assert "other.toml:three" in capsys.readouterr().out
    assert main(["workloads", "other.toml", "stepmark.toml"]) == EXIT_USAGE
    error = only_line(capsys.readouterr().err)
    assert "stepmark.toml: [command.one]" in error
    assert "missing required field `global_batch_sizes`" in error


def test_help_says_how_to_use_several_devices_and_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """What one needs to start is in the help."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "torchrun" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Exit codes: 0 done, 1 something is slower" in capsys.readouterr().out


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("side", [1, 2])
def test_a_duet_that_is_stopped_leaves_nothing_behind(
    repository: Path,
    number: signal.Signals,
    side: int,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped while a side is being started: no process, no worktree, no folder, no traceback; exit code 130."""
    monkeypatch.chdir(repository)
    started = itertools.count(1)

    def when(command: Sequence[str]) -> bool:
        return "perf.runner" in command and next(started) == side

    with interrupted_inside_popen(number, when) as made:
        command = ["duet", "--baseline", "git:HEAD~1", "--candidate", "git:HEAD", "--global-batch-size", "8"]
        assert main(command) == EXIT_STOPPED
        assert [process.returncode for process in made] == [-signal.SIGKILL]
    assert left(repository) == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["--baseline", "HEAD", "--candidate", "self"], EXIT_USAGE, "'HEAD': is no SPEC; one is needed: self"),
        (["--baseline", "git:nonesuch", "--candidate", "self"], EXIT_PROBLEM, "baseline side (git:nonesuch): git -C "),
        (["--baseline", "baseline:", "--candidate", "self"], EXIT_PROBLEM, "this machine has no baseline of "),
    ],
)
def test_a_duet_that_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    repository: Path,
    arguments: list[str],
    code: int,
    problem: str,
) -> None:
    """A SPEC that is none is wrong usage; a side that cannot be made is a problem, and named."""
    monkeypatch.chdir(repository)
    assert main(["duet", *arguments]) == code
    assert problem in only_line(capsys.readouterr().err)


def test_a_time_is_in_seconds_or_minutes() -> None:
    """What counts is the time and not the number."""
    assert [seconds(text) for text in ("1", "90s", "5m", "0.5m")] == [1.0, 90.0, 300.0, 30.0]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--threshold", "0"), ("--threshold", "2 %"), ("--threshold", "200%"), ("--budget", "0.01m"), ("--budget", "2h")],
)
def test_a_duet_refuses_numbers_that_are_none(capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    """The value is shown, and how to write it."""
    with pytest.raises(SystemExit) as stop:
        main(["duet", "--baseline", "self", "--candidate", "self", option, value])
    assert stop.value.code == EXIT_USAGE
    assert f"{value!r} is no" in capsys.readouterr().err


BENCH = """import perf
@perf.workload(global_batch_sizes=(8, 16))
def net(case):
    "A small one."
"""


def test_workloads_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """The built-in ones, and those of the project's files, also from a folder below.

    A file that is none is told last.
    """
    Path("pyproject.toml").touch()
    Path("bench_net.py").write_text(BENCH)
    Path("below").mkdir()
    os.chdir("below")
    assert main(["workloads"]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "pico (built in), batch sizes 512, 1024, 2048\n" in out
    assert out.endswith("bench_net.py:net (../bench_net.py), batch sizes 8, 16\n  A small one.\n")
    Path("broken.py").write_text("import nonesuch")
    Path("empty.py").touch()
    Path("notes.txt").write_text("some words")
    for name, problem in (
        ("broken.py", "cannot be imported: ModuleNotFoundError: No module named 'nonesuch'"),
        ("empty.py", "has no workload"),
        ("notes.txt", "cannot be imported: SyntaxError"),
        ("none.py", "cannot be imported: FileNotFoundError"),
    ):
        assert main(["workloads", name]) == EXIT_USAGE
        assert f"{name}: {problem}" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pic", "'pic': is none of pico, "),
        ("bench_net.py:nett", "bench_net.py has no workload nett (there are net)"),
        ("bench_net.py:os", "has no workload os (there are net)"),
        ("nonesuch.py:net", "workload file nonesuch.py: is not in "),
        ("no.such:net", "no.such: cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_workload_that_is_none_is_wrong_usage(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for every command, with what is near."""
    Path("bench_net.py").write_text(BENCH)
    assert main(["duet", "--workload", name]) == EXIT_USAGE
    assert message in only_line(capsys.readouterr().err)


def test_train_takes_built_in_workloads_only(capsys: pytest.CaptureFixture[str]) -> None:
    """It saves checkpoints and knows its data."""
    assert main(["train", "--workload", "nan"]) == EXIT_USAGE
    assert "--workload nan: only pico, " in only_line(capsys.readouterr().err)


def test_runs_are_in_the_projects_root_and_messages_name_the_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever below it the command is given, and as it was called."""
    Path("setup.cfg").touch()
    Path("a/b").mkdir(parents=True)
    os.chdir("a/b")
    monkeypatch.setattr("sys.argv", ["/usr/bin/stepmark", "train"])
    assert main(["train", "--global-batch-size", "8", *SMALL]) == EXIT_DONE
    assert Path("../../runs/pico/gbs-8").is_dir()
    assert main(["promote"]) == EXIT_PROBLEM
    assert only_line(capsys.readouterr().err).startswith("stepmark promote: error: ")


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """Return each command of the blocks of a console, and the lines that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def shape(text: str) -> str:
    """Return text in one line, without its numbers: those are measured."""
    return re.sub(r"[-+]?\d[\d,.]*", "#", " ".join(text.split()))


def test_the_tutorial_shows_what_happens(tmp_path: Path) -> None:
    """Each line that it shows is in the output, in order; only numbers may be others, and budgets are smaller here."""
    names = {"NAME": "A", "EMAIL": "a@example.org"}
    author = {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in names.items()}
    quick = {"PYTEST_ADDOPTS": "--perf-runs 3 --perf-steps 8 --perf-duet=never", "COLUMNS": "80"}
    quick["CUDA_VISIBLE_DEVICES"] = ""  # it was written on a CPU
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GITHUB_"))}
    folder = tmp_path
    followed = commands_of(TUTORIAL.read_text(encoding="utf-8"))
    assert len(followed) > 10
    for command, shown in followed:
        line = re.sub(r"^(stepmark|pytest)\b", lambda tool: f"{sys.executable} -m {MODULES[tool[0]]}", command)
        done = subprocess.run(
            ["bash", "-c", line.replace("60s", "1s").replace("compare", "compare --perf-runs 1")],
            cwd=folder, env={**outside, **author, **quick}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if "git init" in command:
            folder = tmp_path / "net"
        codes = next((codes for word, codes in EXIT_CODES.items() if word in command), {0})
        assert done.returncode in codes, f"{command}\n{done.stdout}\n{done.stderr}"
        rest = shape(done.stdout)
        for expected in shown:
            assert shape(expected) in rest, f"{command}: {expected!r} is not in\n{done.stdout}"
            rest = rest.partition(shape(expected))[2]
