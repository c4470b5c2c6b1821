"""Train twice in one directory: the second run must end with the vendor's own error, not train nothing and succeed.

Run with the Python that has cerebras-pytorch.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as model_dir:
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--max-steps", "20", "--model-dir", model_dir]
    subprocess.run(command, check=True)
    second = subprocess.run(command, capture_output=True, text=True)

error = second.stderr.strip().splitlines()[-1] if second.stderr.strip() else ""
if second.returncode == 0 or error != "RuntimeError: Initial global step 20 already exceeds max step 20.":
    sys.exit(f"second run: exit code {second.returncode}, {error or 'no error'}; the vendor's step error was needed")
print(f"second run: {error}")
