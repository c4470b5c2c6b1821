"""What the report of the reference workload has besides: the published run."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.errors import BaselineError
from perf.records.sessions import Session
from perf.report.sections import Section
from tests.benchmarks.reference import load_published, published_sections

BASELINES = Path(__file__).parents[2] / "baselines"


def pytest_sessionstart() -> None:
    """Tell a damaged table before anything is measured."""
    try:
        load_published(BASELINES)
    except BaselineError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_stepmark_sections(session: Session) -> list[Section]:
    """Show the published run beside the workloads that it is about: those of this repository."""
    return [] if ":" in session.workload else published_sections(load_published(BASELINES), session)
