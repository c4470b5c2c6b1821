"""The measured claims of the workload that --perf-workload names; see docs/claims.md for what their outcomes mean."""

from __future__ import annotations

from perf.claims import Claims


class TestTraining(Claims):
    """One test for each claim and batch size."""
