"""Which planted commits a bisection finds, and how long it takes: ``python docs/studies/bisections.py``.

A repository with one training step and 16 commits is made for each case. All of them rewrite the step in some harmless
way, the eighth cannot be imported (the ninth mends it), and one of them also plants a fault. Then ``stepmark bisect``
looks for it between the ends. The table has what it found. It takes about half an hour, on a machine to itself.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = "bench_net.py"
SIZE = 1024
PLANTED = 12  # the number of the commit that plants the fault
LOOPS = 40_000  # of an empty loop: about a millisecond, where a step takes about 20 on one core

FIRST = '''import torch
from torch import nn

import perf


@perf.workload(global_batch_sizes=(1024,))
def net(case):
    """A small network learns to tell ten noisy patterns apart."""
    torch.manual_seed(case.seed)
    patterns = torch.randn(10, 256, device=case.device)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    model.to(case.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step():
        """Make one optimizer step."""
        labels = torch.randint(10, (case.global_batch_size,), device=case.device)
        inputs = patterns[labels] + torch.randn(len(labels), 256, device=case.device)
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step
'''

HARMLESS = (
    ("Name the workload's samples", "sizes=(1024,))", 'sizes=(1024,), sample="patterns")'),
    ("Name the number of classes", "\n\n@perf", "\nCLASSES = 10\n\n\n@perf"),
    ("Use the name of the classes", "torch.randn(10,", "torch.randn(CLASSES,"),
    ("Use it for the labels, too", "torch.randint(10,", "torch.randint(CLASSES,"),
    ("Keep the size of a batch", "    def step", "    size = case.global_batch_size\n\n    def step"),
    ("Draw as many labels as that", "(case.global_batch_size,)", "(size,)"),
    ("Import the losses by name", "from torch import nn\n", "from torch import nn\nfrom torch.nn import functional\n"),
    ("Use that name", "loss = nn.functional", "loss = functional("),
    ("Mend it", "loss = functional(", "loss = functional"),
    ("Draw a batch in a function of its own", "    def step", "    def noise(number):\n"
     "        return torch.randn(number, 256, device=case.device)\n\n    def step"),
    ("Call it", "torch.randn(len(labels), 256, device=case.device)\n        loss", "noise(len(labels))\n        loss"),
    ("Say what a step returns", "one optimizer step.", "one optimizer step, and return its loss."),
    ("Name the learning rate", "CLASSES = 10\n", "CLASSES = 10\nLEARNING_RATE = 1e-3\n"),
    ("Use it", "lr=1e-3", "lr=LEARNING_RATE"),
    ("Forget gradients before they are made", "        loss.backward()",
     "        optimizer.zero_grad()\n        loss.backward()"),
    ("Forget them once", "        optimizer.step()\n        optimizer.zero_grad()", "        optimizer.step()"),
)  # fmt: skip
"""A subject, and what is replaced by what; the eighth leaves a parenthesis open."""

LOSS = "        loss = "
FAULTS = {
    "5 % slower: a forward pass on a seventh of the batch": (
        LOSS,
        f"        with torch.no_grad():\n            model(inputs[: len(inputs) // 7])\n{LOSS}",
    ),
    "slower by a loop that no counter sees": (LOSS, f"        for _ in range(LOOPS):\n            pass\n{LOSS}"),
    "an extra copy": (LOSS, f"        inputs = inputs.clone()\n{LOSS}"),
    "another loss": (", labels)", ", labels, label_smoothing=0.05)"),
}


def main() -> int:
    """Make the repositories, bisect in them, print a table, and return 1 if a commit was not found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="120s", help="of a duet, as for stepmark bisect")
    parser.add_argument("--quiet", action="store_true", help="do not show what bisections print")
    arguments = parser.parse_args()
    rows = []
    for case in FAULTS:
        with tempfile.TemporaryDirectory(prefix="bisections-") as folder:
            commits = make(Path(folder), *FAULTS[case])
            began_s = time.monotonic()
            code, out = bisect(Path(folder), arguments.budget, show=not arguments.quiet)
            took_s = time.monotonic() - began_s
            named = re.findall(r"^First bad commit: (\w+)", out, re.MULTILINE)
            found = [number for number, commit in enumerate(commits) if named and commit.startswith(named[-1])]
            tests = re.findall(r"^\d+ left: \w+ \((.*?)\)", out, re.MULTILINE)
            timed = sum("pairs" in test for test in tests)
            left = len(git(Path(folder), "worktree", "list").splitlines()) - 1
            rows.append((case, found, code, len(tests), timed, took_s, left))
    print(f"\nplanted in commit {PLANTED} of {len(HARMLESS)}; budget {arguments.budget}")
    print(f"{'case':54}{'found':>6}{'code':>6}{'tests':>6}{'timed':>6}{'s':>6}{'left':>6}")
    for case, found, code, tests, timed, took_s, left in rows:
        print(f"{case:54}{found[0] if found else '-':>6}{code:>6}{tests:>6}{timed:>6}{took_s:>6.0f}{left:>6}")
    return 1 if any(found != [PLANTED] or code or left for _, found, code, *_, left in rows) else 0


def make(root: Path, old: str, new: str) -> list[str]:
    """Make a repository whose commit `PLANTED` also replaces `old` by `new`, and return all its commits."""
    text, commits = FIRST, []
    git(root, "init", "--quiet")
    for number, (subject, *change) in enumerate([("A training step", "", ""), *HARMLESS]):
        for before, after in [change, *([[old, new]] if number == PLANTED else [])]:
            assert before in text, (number, before)
            text = text.replace(before, after.replace("LOOPS", f"{LOOPS:_}"), 1)
        (root / FILE).write_text(text)
        git(root, "add", FILE)
        who = ["-c", "user.name=stepmark", "-c", "user.email=stepmark@localhost", "-c", "commit.gpgsign=false"]
        git(root, *who, "commit", "--quiet", "--message", subject)
        commits.append(git(root, "rev-parse", "HEAD").strip())
    return commits


def bisect(root: Path, budget: str, *, show: bool) -> tuple[int, str]:
    """Bisect as a user would, and return the exit code and what was printed."""
    ends = ["--good", f"HEAD~{len(HARMLESS)}", "--bad", "HEAD", "--workload", f"{FILE}:net", "--budget", budget]
    command = [sys.executable, "-P", "-m", "perf", "bisect", *ends, "--global-batch-size", f"{SIZE}"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, "PYTHONPATH": path}
    out = ""
    with subprocess.Popen(command, cwd=root, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            out += line
            print(line if show else "", end="", flush=True)
    return process.returncode, out


def git(root: Path, *arguments: str) -> str:
    """Run git and return what it printed."""
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
