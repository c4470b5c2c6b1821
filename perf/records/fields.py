"""What the fields of a kept record may hold; msgspec refuses the rest when a file is read."""

import re
from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
BatchSize = Annotated[int, Meta(ge=1, le=99_999_999)]
Times = Annotated[tuple[Annotated[float, Meta(ge=1e-9, le=1e6)], ...], Meta(max_length=10**6)]
Losses = Annotated[tuple[Annotated[float, Meta(ge=-1e9, le=1e9)], ...], Meta(min_length=4, max_length=10**6)]
Scalars = Annotated[tuple[Annotated[float, Meta(ge=-1e39, le=1e39)], ...], Meta(max_length=10**6)]
Fraction = Annotated[float, Meta(gt=0, lt=1)]

Word = Annotated[str, Meta(pattern=r"^[ -~]{0,200}\Z")]  # printable ASCII in one line

Sentence = Annotated[str, Meta(pattern=r"^[ -~]{0,1000}\Z")]
Text = Annotated[str, Meta(max_length=100_000)]  # anything, so it is escaped where it is shown
MOST_REASON = 1000  # characters of the reason for a promotion

Reason = Annotated[str, Meta(max_length=MOST_REASON)]
Release = Annotated[str, Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,99}\Z")]
Fact = Text | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
About = Text | bool | int | float | Annotated[list[int | float], Meta(max_length=1000)] | None
"""What a workload says of itself; bool comes before int."""

Device = Annotated[str, Meta(pattern=r"^(cpu|cuda)\Z")]
Precision = Annotated[str, Meta(pattern=r"^(fp32|bf16)\Z")]

_PART = r"(?!\.{1,2}[/:])[A-Za-z0-9._-]+"
_CONFIGURATION = re.compile(rf"(?:(?=.{{1,200}}:){_PART}(?:/{_PART})*:)?[A-Za-z0-9_][A-Za-z0-9_-]{{0,63}}")


def name_problem(configuration: str) -> str:
    """Return why a configuration, such as "sub/bench_net.py:net-cpu-fp32", cannot name a file; or nothing."""
    if _CONFIGURATION.fullmatch(configuration):
        return ""
    return (
        f"workload {configuration[:100]!r}: its name needs at most 50 letters, digits, _ and -, and its file or "
        "module, "
        "before the colon, at most 200 letters, digits and . _ - /, relative and without a part . or ..; rename it"
    )
