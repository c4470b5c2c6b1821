"""How busy other programs, and other guests of the same host, keep this machine."""

from contextlib import suppress

import psutil

BUSY = 0.1  # the share of all cores from which on measuring is disturbed


def busy_share(seconds: float = 0.3) -> float:
    """Return the share of all cores' time that is in use, stolen time included.

    It looks for `seconds`, and is to be asked while nothing of ours runs.
    """
    return psutil.cpu_percent(seconds) / 100


def load_note(share: float) -> str:
    """Return a warning that other programs use the cores, or nothing."""
    if share < BUSY:
        return ""
    return f"Other programs use {share:.0%} of the cores: times will vary more. Stop them, or expect to need more time."


def health(share: float) -> dict[str, str | int]:
    """Return how the machine is now: `share` of `busy_share`, and the clock of its cores, where that is known."""
    found: dict[str, str | int] = {"cores in use before": f"{share:.0%}"}
    with suppress(OSError, NotImplementedError):
        if clocks := [core.current for core in psutil.cpu_freq(percpu=True)]:
            found["clock"] = f"{min(clocks):,.0f} to {max(clocks):,.0f} MHz"
    return found
