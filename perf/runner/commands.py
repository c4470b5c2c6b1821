"""A process that runs a command when told to, and answers with what its log says, on our clock.

The process group, what the command starts in it and the folder of a run are removed by whoever started this process.
"""

import argparse
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec

from perf.commands import Command, find_command
from perf.errors import MeasureError, UsageError
from perf.logs.audit import printed_seconds
from perf.logs.parsing import LONGEST_LINE, DamagedLine, LogReader, find_format
from perf.logs.runlog import LoggedRun
from perf.printable import printable
from perf.records import wire
from perf.records.wire import Answer, Counted, Failed, Request, Stepped

POLL_S = 0.2  # how often it is looked at whether a silent command has ended; what it prints is read at once
FEWEST_LINES = 4  # step lines of a run: the first is warm-up
MOST_BYTES = 2**28  # what a run may print


def main() -> None:
    """Serve requests until the input ends."""
    parser = argparse.ArgumentParser(prog="perf.runner.commands", allow_abbrev=False)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--candidate-root", type=Path)
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    folders = [Path.cwd(), *filter(None, [arguments.candidate_root])]
    try:
        command, _ = find_command(arguments.workload, folders)
    except UsageError as error:
        _say(Failed(reason=str(error)))
        return
    _say(wire.Ready(protocol=wire.VERSION, can=("run", "count")))
    while line := sys.stdin.buffer.readline():
        request = msgspec.json.decode(line, type=Request)
        if request.do == "count":
            _say(_count(command, request.case.global_batch_size))
        else:
            _say(wire.Waiting(pid=os.getpid(), micro_batch_size=request.case.global_batch_size))
            while num_steps := int(sys.stdin.buffer.readline() or 0):
                try:
                    _say(_run(command, request, num_steps, arguments.python))
                except MeasureError as error:
                    _say(Failed(reason=str(error)))
        _say(wire.Ended(exit_code=0))


def _say(answer: Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


def _count(command: Command, global_batch_size: int) -> Counted:
    """Return what is known of a command without running it."""
    from perf.runner.machine import fingerprint  # imports torch, which a run does without

    facts = {"device": "", "precision": "", "micro_batch_size": global_batch_size}
    facts |= {"world_size": command.world_size_of(global_batch_size)}
    about = {f"workload.{name}": value for name, value in command.about.items()}
    return Counted(facts={**facts, **about}, fingerprint=fingerprint())


def _run(command: Command, request: Request, num_steps: int, python: str) -> Stepped:
    """Run a command once. Raises MeasureError: it failed, or what it printed is no whole log of one run."""
    size = request.case.global_batch_size
    places = {"global_batch_size": size, "world_size": command.world_size_of(size), "num_steps": num_steps}
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", **command.environ}  # lines must come when they are printed
    argv = command.argv({**places, "run_dir": request.run_dir, "python": python})
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0, env=environ
        )
    except OSError as error:
        raise MeasureError(f"{argv[0]}: could not be started: {error}") from None
    watched = _Watched(process, command)
    problem = watched.problem()
    runs = [run for run in (*watched.ended, watched.reader.current) if run and run.lines]
    lines = runs[0].lines if runs else []
    if not problem and watched.damaged:
        problem = f"printed a damaged line: {watched.damaged[0].reason}"
    elif not problem and len(runs) > 1:
        problem = f"printed the lines of {len(runs)} runs, and those of one are needed"
    elif not problem and len(lines) < FEWEST_LINES:
        found = f"{len(lines)} step lines in the format {command.format}, in {watched.num_lines} lines"
        problem = f"printed {found}, and {FEWEST_LINES} are needed: log more often, or name another format"
    if problem:
        last = " | ".join(watched.last)
        raise MeasureError(f"{problem}; its last lines: {last}" if last else f"{problem}; it printed nothing")
    if (bad := next((line for line in lines if not -1e9 < line.loss < 1e9), None)) is not None:
        raise MeasureError(f"step {bad.global_step}: the loss is {bad.loss}")
    steps = [line.global_step for line in lines]
    if lines[0].epoch is not None and num_steps % len(lines) == 0:  # whose lines do not say their step
        steps = [num_steps // len(lines) * step for step in steps]
        lines = [msgspec.structs.replace(line, global_step=step) for line, step in zip(lines, steps, strict=True)]
    return Stepped(
        marks=tuple(watched.marks),
        losses=tuple(line.loss for line in lines),
        lines=tuple(watched.kept),
        steps=tuple(steps),
        printed_s=printed_seconds(lines, size, (command.tokens_per_sample or 0) / command.world_size_of(size)),
    )


class _Watched:
    """What a command prints, line by line, with the time at which each of its step lines came."""

    def __init__(self, process: subprocess.Popen[bytes], command: Command) -> None:
        self.reader = LogReader([find_format(command.format)])
        self.marks = [time.perf_counter()]  # when it was started, and when each step line came
        self.kept: list[str] = []  # the step lines as printed
        self.last: deque[str] = deque(maxlen=3)
        self.num_lines = 0
        self.ended: list[LoggedRun] = []  # runs before the current one
        self.damaged: list[DamagedLine] = []
        self._process, self._command = process, command

    def problem(self) -> str:
        """Read until the command has ended; return why it failed, or nothing."""
        assert self._process.stdout
        output, began_s = self._process.stdout.fileno(), time.monotonic()
        os.set_blocking(output, False)
        heard_s, num_bytes, unread, is_over = began_s, 0, b"", False
        while True:
            # Whatever it has started may hold its output open: what counts is that it has ended itself.
            is_over = is_over or self._process.poll() is not None
            select.select([output], [], [], 0.0 if is_over else POLL_S)
            try:
                some = os.read(output, 2**16)
            except BlockingIOError:
                some = b""
            now_s = time.monotonic()
            if some:
                heard_s, num_bytes = now_s, num_bytes + len(some)
                *whole, unread = (unread + some).replace(b"\r", b"\n").split(b"\n")
                self._add(whole)
                unread = unread[: LONGEST_LINE + 1]
            elif is_over:
                self._add([unread])
                return self._how_it_ended()
            if num_bytes > MOST_BYTES:
                return f"printed more than {MOST_BYTES // 2**20} MiB, which no log of a few steps has; print less"
            if now_s - began_s > self._command.timeout_s:
                return f"did not end within timeout_s = {self._command.timeout_s:g} s"
            if now_s - heard_s > self._command.silence_s:
                return f"printed nothing for silence_s = {self._command.silence_s:g} s"

    def _add(self, lines: Sequence[bytes]) -> None:
        for line in filter(None, lines):
            text, self.num_lines = line.decode(errors="replace"), self.num_lines + 1
            before = self.reader.current.last_line if self.reader.current else None
            for found in self.reader.read(text):
                if isinstance(found, LoggedRun):
                    self.ended.append(found)
                else:
                    self.damaged.append(found)
            if self.reader.current and self.reader.current.last_line is not before:
                self.marks.append(max(time.perf_counter(), self.marks[-1] + 1e-9))
                self.kept.append(printable(text.strip()))
            if text.strip():
                self.last.append(printable(text.strip()[-200:]))

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        names = {-number: number.name for number in signal.Signals}
        return f"was ended by {names[code]}" if code in names else f"ended with exit code {code}" if code else ""
