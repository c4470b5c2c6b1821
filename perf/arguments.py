"""What values look like, on command lines and in configuration files alike."""

import argparse
import re
from functools import partial


def _integer(text: str, *, least: int) -> int:
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
    return int(text)


positive = partial(_integer, least=1)
not_negative = partial(_integer, least=0)


def steps(text: str) -> int:
    """Return a number of steps that fill whole slices."""
    value = positive(text)
    if value % 4:  # perf.measure.bench.SLICE_STEPS, whose import takes too long here
        raise argparse.ArgumentTypeError(f"{text!r}: a multiple of 4 is needed, the steps of a slice")
    return value


def fraction(text: str) -> float:
    """Return a fraction between 0 and 1, written as such or in percent."""
    match = re.fullmatch(r"(\d*\.?\d+(?:e-?\d{1,3})?)(%?)", text, re.ASCII)
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no fraction between 0 and 1, such as 2% or 0.02")
    return value


def seconds(text: str) -> float:
    """Return a time of at least 1 s, in seconds or minutes."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([sm]?)", text, re.ASCII)
    value = float(match[1]) * (60 if match[2] == "m" else 1) if match else 0.0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no time of at least 1 s, such as 90s or 5m")
    return value
