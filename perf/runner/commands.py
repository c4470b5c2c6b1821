"""A process that runs a command when told to, and answers with what its log says, on our clock.

The process group, what the command starts in it and the folder of a run are removed by whoever started this process.
"""

import argparse
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from perf.commands import Command, find_command
from perf.errors import MeasureError
from perf.logs.audit import printed_seconds
from perf.logs.parsing import LONGEST_LINE, DamagedLine, LogReader, find_format, rank_of
from perf.logs.runlog import LoggedRun
from perf.printable import printable
from perf.records import wire
from perf.records.wire import Answer, Counted, Failed, Request, Stepped

POLL_S = 0.2  # how often it is looked at whether a silent command has ended; what it prints is read at once
LAST_S = 1.0  # what comes so long after its end is read, where what it has started holds its output open
FEWEST_LINES = 4  # step lines of a run: the first is warm-up
MOST_LINES = 10_000  # step lines of a run
# What a run may print: so much, where each line counts as `LINE_BYTES` more, for the time it takes to read.
MOST_BYTES, LINE_BYTES = 2**28, 2**8
# Step lines that came together were held back, if they tell of more time than `HELD_S`, for which a machine may let
# this process wait; where they do not tell it, if they came after `LATE_S`.
HELD_S, LATE_S = 0.5, 5.0


def main() -> None:
    """Serve one request, and go on until the command's output has ended."""
    parser = argparse.ArgumentParser(prog="perf.runner.commands", allow_abbrev=False)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--candidate-root", type=Path)
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    command, _ = find_command(arguments.workload, [Path.cwd(), *filter(None, [arguments.candidate_root])])
    folder = Path(arguments.workload.rpartition(":")[0]).parent
    if not folder.is_dir():
        _say(Failed(reason=f"has no folder {folder}, where the command is to be started; use a later commit"))
        return
    os.chdir(folder)
    _say(wire.Ready(protocol=wire.VERSION, can=("run", "count")))
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)
    size = request.case.global_batch_size
    if request.do == "count":
        _say(_count(command, size))
        _say(wire.Ended(exit_code=0))
        return
    _say(wire.Waiting(pid=os.getpid(), micro_batch_size=size))
    places = {"global_batch_size": size, "world_size": command.world_size_of(size), "run_dir": request.run_dir}
    _run(command, {**places, "num_steps": int(sys.stdin.buffer.readline()), "python": arguments.python})


def _say(answer: Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


def _count(command: Command, size: int) -> Counted:
    from perf.runner.machine import fingerprint  # imports torch, which a run does without

    facts = {"device": "", "precision": "", "micro_batch_size": size, "world_size": command.world_size_of(size)}
    about = {f"workload.{name}": value for name, value in command.about.items()}
    return Counted(facts={**facts, **about}, fingerprint=fingerprint())


def _run(command: Command, places: Mapping[str, Any]) -> None:
    argv = command.argv(places)
    environ = {"PYTHONUNBUFFERED": "1", **os.environ}  # lines must come when they are printed
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0, env=environ
        )
    except OSError as error:
        _say(Failed(reason=f"run: {argv[0]} could not be started: {error.strerror}; name a program that can be"))
        return
    log = _Log(process, command)
    try:
        log.read()
        _say(_stepped(log, command, places))
    except MeasureError as error:
        last = f"its last lines: {printable(' | '.join(log.last))}" if log.last else "it printed nothing"
        _say(Failed(reason=f"{error}; {last}"))
    log.drain()


def _stepped(log: "_Log", command: Command, places: Mapping[str, Any]) -> Stepped:
    """Return what a command printed. Raises MeasureError: it is no whole log of one run, or came too late."""
    # The lowest of the ranks that print step lines, whichever comes first: their losses need not be the same.
    ranks = [
        (not one.came, not one.found, int(re.sub(r"\D", "", name)[-9:] or -1), name) for name, one in log.ranks.items()
    ]
    rank = log.ranks[min(ranks, default=[""])[-1]]
    runs = [one for one in (*rank.found, rank.reader.current) if isinstance(one, LoggedRun) and one.lines]
    lines = runs[0].lines if runs else []
    begins = bool(lines) and lines[0].global_step == 0  # what is printed before the first step is of the start
    lines, came = lines[begins:], rank.came[begins:]
    if damaged := [one for one in rank.found if isinstance(one, DamagedLine)]:
        raise MeasureError(f"printed a damaged line: {damaged[0].reason}")
    if len(runs) > 1:
        raise MeasureError(f"printed the lines of {len(runs)} runs, and those of one are needed")
    if not FEWEST_LINES <= len(lines) <= MOST_LINES:
        advice = f"and {FEWEST_LINES} to {MOST_LINES:,} are needed: log more or less often, or name another format"
        raise MeasureError(f"printed {len(lines)} step lines in the format {command.format}, {advice}")
    if (bad := next((line for line in lines if not -1e9 < line.loss < 1e9), None)) is not None:
        raise MeasureError(f"step {bad.global_step}: the loss is {bad.loss}, and a finite one is needed")
    size, steps = places["global_batch_size"], [line.global_step for line in lines]
    says_step = "global_step" in find_format(command.format).patterns["step"].groupindex and lines[0].epoch is None
    if steps == [*range(1, len(lines) + 1)] and not says_step:
        if places["num_steps"] % len(lines):
            found = f"{len(lines)} lines that do not say their step, of {places['num_steps']} steps"
            raise MeasureError(f"printed {found}; let each be of as many steps (no logging_first_step)")
        steps = [places["num_steps"] // len(lines) * step for step in steps]
        lines = [msgspec.structs.replace(line, global_step=step) for line, step in zip(lines, steps, strict=True)]
    printed_s = printed_seconds(lines, size, (command.tokens_per_sample or 0) / places["world_size"])
    marks, num_reads = [log.began_s, *(mark for mark, _, _ in came)], len({read for _, read, _ in came})
    made_s = sum(printed_s[1:]) if printed_s else LATE_S * (num_reads == 1)
    most = (
        4 if marks[-1] - marks[1] < 0.9 * made_s else 16
    )  # step lines of a read: late ones, or ones that came in turn
    if len(lines) >= most * num_reads and HELD_S < made_s < marks[-1] - marks[0]:
        problem = f"its {len(lines)} step lines came in {num_reads} pieces, so when each was printed is not known"
        raise MeasureError(f"{problem}: flush its output after each line, or try stdbuf -oL")
    return Stepped(
        marks=tuple(marks),
        losses=tuple(line.loss for line in lines),
        lines=tuple(line for _, _, line in came),
        steps=tuple(steps),
        printed_s=printed_s,
    )


class _Rank(Struct, kw_only=True):
    """What one rank prints."""

    reader: LogReader
    found: list[LoggedRun | DamagedLine] = []  # the runs before the current one, and lines of none
    came: list[tuple[float, int, str]] = []  # of each step line when it came, by which read of the output, and itself


class _Log:
    """What a command prints, line by line."""

    def __init__(self, process: "subprocess.Popen[bytes]", command: Command) -> None:
        assert process.stdout
        self._process, self._command, self._output = process, command, process.stdout.fileno()
        self.began_s, self._num_lines, self._num_reads = time.perf_counter(), 0, 0
        self._form = form = find_format(command.format)
        self.ranks = defaultdict[str, _Rank](lambda: _Rank(reader=LogReader([form])))  # by what stands before its lines
        self.last: deque[str] = deque(maxlen=3)

    def read(self) -> None:
        """Read until the command has ended. Raises MeasureError: it failed, or went on for too long."""
        heard_s, over_s, num_bytes, unread, problem = self.began_s, math.inf, 0, b"", ""
        while not problem:
            is_over = self._process.poll() is not None  # looked at first: what it has printed is there to be read
            some = self._some()
            now_s = time.perf_counter()
            over_s = min(over_s, now_s) if is_over else over_s
            if some:
                heard_s, num_bytes = now_s, num_bytes + len(some)
                *whole, unread = (unread + some).replace(b"\r", b"\n").split(b"\n")
                self._add(whole)
                unread = unread[: LONGEST_LINE + 1]
            elif some == b"":  # it is closed
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(POLL_S)
            if is_over and (some == b"" or now_s > over_s + LAST_S):
                code, names = self._process.returncode, {-number: number.name for number in signal.Signals}
                problem = (
                    f"was ended by {names[code]}" if code in names else f"ended with exit code {code}" if code else ""
                )
                break
            if num_bytes + LINE_BYTES * self._num_lines > MOST_BYTES:
                problem = f"printed {num_bytes:,} bytes, more than a log of a few steps has; print less"
            if now_s - self.began_s > self._command.timeout_s:
                problem = f"did not end within timeout_s = {self._command.timeout_s:g} s; give it more time"
            if now_s - heard_s > self._command.silence_s:
                problem = f"printed nothing for silence_s = {self._command.silence_s:g} s; give it more time"
        self._add([unread])
        if problem:
            raise MeasureError(problem)

    def drain(self) -> None:
        """Read to the end: what is asked to end may have to print something before it does."""
        while self._some() != b"":
            pass

    def _some(self) -> bytes | None:
        """Return what comes within `POLL_S`: None where nothing does, nothing where nothing can any more."""
        ready = select.select([self._output, sys.stdin], [], [], POLL_S)[0]
        if sys.stdin in ready:  # whoever has started this process is no more
            os.killpg(0, signal.SIGTERM)
        return os.read(self._output, 2**16) if self._output in ready else None

    def _add(self, lines: Sequence[bytes]) -> None:
        self._num_reads += 1
        for line in filter(None, lines):
            text, self._num_lines = line.decode(errors="replace"), self._num_lines + 1
            rank = self.ranks[rank_of(text, self._form)]
            before = rank.reader.current.last_line if rank.reader.current else None
            rank.found += rank.reader.read(text)
            if rank.reader.current and rank.reader.current.last_line is not before and len(rank.came) <= MOST_LINES:
                rank.came.append((time.perf_counter(), self._num_reads, printable(text.strip())[:1000]))
            if text.strip():
                self.last.append(text.strip()[-120:])
