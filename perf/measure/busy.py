"""How busy other programs, and other guests of the same host, keep this machine."""

import time
from contextlib import suppress
from pathlib import Path

BUSY = 0.1  # the share of all cores from which on measuring is disturbed


def busy_share(seconds: float = 0.3) -> float | None:
    """Return the share of all cores' time that is in use, stolen time included; None where that is not known.

    It looks for `seconds`, and is to be asked while nothing of ours runs. Linux only.
    """
    try:
        before = _ticks()
        time.sleep(seconds)
        spent = [now - then for then, now in zip(before, _ticks(), strict=True)]
    except (OSError, ValueError):
        return None
    idle = spent[3] + spent[4]  # and waiting for a disk
    return 1 - idle / sum(spent) if sum(spent) else None


def load_note(share: float | None) -> str:
    """Return a warning that other programs use the cores, or nothing."""
    if share is None or share < BUSY:
        return ""
    return f"Other programs use {share:.0%} of the cores: times will vary more. Stop them, or expect to need more time."


def health(share: float | None) -> dict[str, str | int]:
    """Return how the machine is now: `share` of `busy_share`, and the clock of its cores; what is not known is missing.

    Linux only.
    """
    found: dict[str, str | int] = {} if share is None else {"cores in use before": f"{share:.0%}"}
    with suppress(OSError, ValueError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        if clocks:
            found["clock"] = f"{min(clocks):,.0f} to {max(clocks):,.0f} MHz"
    return found


def _ticks() -> list[int]:
    """Return what all cores together spent so far: user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
