"""Show what a user will see: plant a slowdown and another training in a copy of the template, and find both."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from perf.app.init import TEMPLATE
from perf.errors import EXIT_PROBLEM, MeasureError
from perf.measure.sides import HOME
from perf.signals import hold_signals, stopped_by_signals

FILE = "bench_demo.py"
SIZE, BUDGET_S = 1024, 40

LOSS = "        loss = nn.functional"
SLOWER = "        with torch.no_grad():\n            model(inputs[: len(inputs) // 7])\n"
"""A forward pass on a seventh of the batch: about a twentieth of a step."""

OTHER_RATE = "lr=1.1e-3"


def demo() -> int:
    """Make a project, plant two faults one after the other, and return the exit code: 0 if both were found.

    Raises:
        MeasureError: git is missing, or the planted faults were not found.
    """
    from perf.app.duet import EXIT_DIFFERS

    began_s = time.monotonic()
    whole = TEMPLATE.read_text(encoding="utf-8").replace("FILE", FILE)
    with stopped_by_signals(), TemporaryDirectory(prefix="stepmark-demo-") as folder:
        root = Path(folder)
        (root / FILE).write_text(whole, encoding="utf-8")
        print(f"A project with one training step ({FILE}) and one commit is made in {root}.")
        _run(["git", "init", "--quiet"], root)
        _run(["git", "add", FILE], root)
        who = ["-c", "user.name=stepmark", "-c", "user.email=stepmark@localhost", "-c", "commit.gpgsign=false"]
        _run(["git", *who, "commit", "--quiet", "--message", "a training step"], root)
        codes = []
        for title, faulty in (
            ("1. A line that makes the step about 5 % slower, not committed:", whole.replace(LOSS, SLOWER + LOSS)),
            ("2. Instead, another learning rate, which changes the losses:", whole.replace("lr=1e-3", OTHER_RATE)),
        ):
            (root / FILE).write_text(faulty, encoding="utf-8")
            print(f"\n{title}\n\n$ git diff --unified=0", flush=True)
            _run(["git", "--no-pager", "diff", "--unified=0", "--no-color"], root)
            arguments = ["duet", "--global-batch-size", f"{SIZE}", "--budget", f"{BUDGET_S}s"]
            print(f"\n$ stepmark {' '.join(arguments)}", flush=True)
            codes.append(_run([sys.executable, "-P", "-m", "perf", *arguments], root, may_differ=True))
    if codes != [EXIT_DIFFERS] * 2:
        if EXIT_PROBLEM in codes:
            raise MeasureError("a duet of the demo could not be made; see above")
        found = codes.count(EXIT_DIFFERS)
        raise MeasureError(
            f"{found} of 2 planted faults were found; stop other programs (stepmark doctor), and try again"
        )
    print(f"\nBoth were found, in {time.monotonic() - began_s:.0f} s. Next, with your own step: stepmark init")
    return 0


def _run(command: Sequence[str], root: Path, *, may_differ: bool = False) -> int:
    """Run a command in the project with its output shown, and return its exit code."""
    home = "" if HOME.name in ("site-packages", "dist-packages") else str(HOME)
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    with ExitStack() as stack:
        try:
            with hold_signals():
                process = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": path})
                stack.callback(process.wait)
                stack.callback(process.terminate)
        except OSError as error:
            raise MeasureError(f"{command[0]} could not be started: {error}; install it") from None
        code = process.wait()
    if code and not may_differ:
        raise MeasureError(f"{' '.join(command)}: failed with exit code {code}")
    return code
