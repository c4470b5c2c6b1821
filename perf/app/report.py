"""Make pages of results that are there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from perf.app.publish import publish
from perf.errors import BaselineError
from perf.finding import find_root
from perf.printable import emphasized, shown, wrapped
from perf.records.baselines import KEY, LATEST_RESULT
from perf.records.documents import ADVICE, read_json
from perf.report.model import Report
from perf.report.sections import as_text


def report(*, runs: Sequence[Path]) -> int:
    """Print what each result says, write its page beside it, and return the exit code.

    `runs` are files of a session, or of ``duet --json``; without any, the latest session's.

    Raises:
        BaselineError: a file is not there, damaged, or not one of ours.
        OSError: a page could not be written.
    """
    for path in runs or [shown(find_root()) / LATEST_RESULT]:
        raw: Any = read_json(path).get(KEY)
        try:
            found = msgspec.convert(raw["reports"] if isinstance(raw, dict) else None, list[Report])
        except (KeyError, msgspec.ValidationError) as error:
            raise BaselineError(f"{path}: has no whole report ({error}); {ADVICE}") from None
        if not found:
            raise BaselineError(f"{path}: says nothing yet: its session was ended early; measure again")
        for one in found:
            print(f"{one.title}\n{emphasized(wrapped(one.answer.line), is_bad=one.is_bad)}")
            print(f"{wrapped(f'Next: {one.answer.next_step}')}\n\n{as_text(one.sections)}\n")
        print("\n".join(publish(found, raw, path.with_suffix(""))))
    return 0
