"""What a stopped duet or bench leaves: ``python docs/studies/stops.py --stops 100``, on Linux, in this checkout.

Each command is stopped so many times, when the first measuring process has appeared or a little later, by INT as a
terminal sends it (to the process group) and by INT and TERM as ``kill`` does; with sides that work, and with sides
that never read their input. Nothing may be left: no process, no worktree, no temporary file; the exit code is 130,
without a traceback.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "STOPS_STUDY"
MOMENTS_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
SIGNALS = ("INT to the group", "INT", "TERM")
SIDES = ("working", "deaf")
TIMEOUT_S = 300.0

DEAF = "#!/bin/sh\nwhile :; do sleep 1; done\n"
DEAF_RUNNER = """
import os, sys
if "perf.runner" in sys.orig_argv:
    os.execv("/bin/sh", ["/bin/sh", "-c", "while :; do sleep 1; done", "perf.runner"])
"""


def main() -> int:
    """Stop both commands, print a table of what was left, and return 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=100, metavar="N", help="of each command (default: 100)")
    stops = parser.parse_args().stops
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child would inherit that it is ignored
    cases = list(itertools.product(SIDES, MOMENTS_S, SIGNALS))
    random.Random(0).shuffle(cases)  # a few stops are of all kinds, too
    problems: dict[tuple[str, str, float, str], list[str]] = {}
    for number in range(stops):
        for command in ("duet", "bench"):
            case = (command, *cases[number % len(cases)])
            found = stop(*case)
            problems.setdefault(case, []).append(found)
            if found:
                print(f"{case}: {found}", flush=True)
    print("stops that left something / stops, by milliseconds after the first measuring process was seen")
    print(f"{'command':8} {'sides':8} {'ms':>4}  " + "  ".join(f"{name:>16}" for name in SIGNALS))
    for command, sides, moment_s in itertools.product(("duet", "bench"), SIDES, MOMENTS_S):
        cells = []
        for name in SIGNALS:
            found = problems.get((command, sides, moment_s, name), [])
            cells.append(f"{sum(map(bool, found))} / {len(found)}")
        print(f"{command:8} {sides:8} {1e3 * moment_s:4.0f}  " + "  ".join(f"{cell:>16}" for cell in cells))
    bad = sum(bool(found) for case in problems.values() for found in case)
    print(f"{bad} of {sum(map(len, problems.values()))} stops left something")
    return 1 if bad else 0


def stop(command: str, sides: str, moment_s: float, how: str) -> str:
    """Start a command, stop it, and return what was left or wrong, or nothing."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="stops-") as folder:
        temporary = Path(folder, "temporary")
        temporary.mkdir()
        # Importing torch makes its own folder of a fixed name among the temporary ones.
        cache = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
        environ = {**os.environ, **cache, MARK: mark, "TMPDIR": str(temporary)}
        arguments = arguments_of(command, sides, Path(folder), environ)
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        found = []
        try:
            wait_for_a_side(process)
            time.sleep(moment_s)
            if how == "INT to the group":
                os.killpg(process.pid, signal.SIGINT)
            else:
                process.send_signal(signal.Signals[f"SIG{how}"])
            out, errors = process.communicate(timeout=TIMEOUT_S)
            if process.returncode != 130:
                found.append(f"exit code {process.returncode}: {errors[-200:]!r}")
            if "Traceback" in out + errors:
                found.append(f"a traceback: {(out + errors)[-500:]!r}")
        except (subprocess.TimeoutExpired, RuntimeError) as error:
            found.append(str(error))
        found += [f"process {pid} ({cmdline(pid)})" for pid in marked(mark)]
        found += [f"temporary {path.name}" for path in temporary.iterdir()]
        listed = subprocess.run(
            ["git", "worktree", "list"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        found += [f"worktree {line}" for line in listed.splitlines() if folder in line]
        for pid in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
        return "; ".join(found)


def arguments_of(command: str, sides: str, folder: Path, environ: dict[str, str]) -> list[str]:
    """Return the arguments of Python that start a command, with sides that work or that never read their input."""
    if command == "bench":
        if sides == "deaf":
            (folder / "sitecustomize.py").write_text(DEAF_RUNNER)
            environ["PYTHONPATH"] = str(folder)
        return ["-m", "pytest", "tests/benchmarks", "-p", "no:cacheprovider", "--perf-runs", "2"]
    python = []
    if sides == "deaf":
        (folder / "python").write_text(DEAF)
        (folder / "python").chmod(0o755)
        python = [f"python:{folder / 'python'}"]
    return ["-m", "perf", "duet", "--baseline", "self", *python, "--candidate", "git:HEAD", *python]


def wait_for_a_side(process: subprocess.Popen[str]) -> None:
    """Return as soon as a command has a measuring process."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline_s = time.monotonic() + TIMEOUT_S
    while not any("perf.runner" in cmdline(int(pid)) for pid in children.read_text().split()):
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"no measuring process appeared (exit code {process.returncode})")
        time.sleep(0.0005)


def cmdline(pid: int) -> str:
    """Return the command line of a process, or nothing if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def marked(mark: str) -> list[int]:
    """Return the living processes that descend from a command; one that has ended has no environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
