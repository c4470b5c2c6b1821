"""Try the example as its user would: a session, a baseline, a second session, a used directory, a duet of two layouts.

``python try_it.py VENDOR/bin`` with stepmark's Python; the folder is that of a Python with cerebras-pytorch. Everything
happens in a project of its own, in a temporary folder. The exit code is 0 if all of it went as it should.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE, VENDOR = Path(__file__).resolve().parent, Path(sys.argv[1]).resolve()
# The model and its data are this checkout's; "python" is the vendor's.
ENVIRON = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "PATH": f"{VENDOR}{os.pathsep}{os.environ['PATH']}"}
SESSION = ["-m", "pytest", "stepmark.toml", "--perf-runs", "4"]


def run(*arguments: str, codes: tuple[int, ...] = (0,)) -> None:
    """Run stepmark's Python, and end everything with an exit code that is not expected."""
    print("\n$ python", *arguments, flush=True)
    code = subprocess.run([sys.executable, *arguments], env=ENVIRON, check=False).returncode
    if code not in codes:
        sys.exit(f"exit code {code}, and {' or '.join(map(str, codes))} is needed")


def used_directory() -> None:
    """Train twice in one directory: the second run must end with the vendor's own error."""
    command = [str(VENDOR / "python"), "run.py", "--max-steps", "20", "--model-dir", "used"]
    print("\n$ " + " ".join(command[1:]) + "    # twice", flush=True)
    subprocess.run(command, env=ENVIRON, check=True)
    second = subprocess.run(command, env=ENVIRON, capture_output=True, text=True, check=False)
    error = (second.stderr.strip().splitlines() or ["no error"])[-1]
    if second.returncode == 0 or error != "RuntimeError: Initial global step 20 already exceeds max step 20.":
        sys.exit(f"second run: exit code {second.returncode}, {error}; the vendor's step error is needed")
    print(f"second run: {error}")


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    for name in ("run.py", "stepmark.toml"):
        shutil.copy(HERE / name, name)
    who = ["-c", "user.name=stepmark", "-c", "user.email=stepmark@localhost", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "--message", "the example"]):
        subprocess.run(["git", *arguments], check=True)
    run(*SESSION)
    run("-m", "perf", "promote", "--reason", "first")
    run(*SESSION, "--benchmark-compare", "--perf-duet", "never", codes=(0, 1))  # 1: the machine is not steady enough
    used_directory()
    layouts = ["--baseline", "self", "--candidate", "self", "env:MICRO_BATCH_SIZE=32"]
    size = ["--workload", "stepmark.toml:bert-cs", "--global-batch-size", "128", "--budget", "4m"]
    run("-m", "perf", "duet", *layouts, *size, codes=(0, 1, 4))  # whatever the layouts are
