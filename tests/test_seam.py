"""The seam refuses what could not be measured or kept, where it is written."""

from __future__ import annotations

from typing import Any

import pytest

import perf


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("global_batch_sizes", ()),
        ("global_batch_sizes", (8, 8)),
        ("global_batch_sizes", (8, 0)),
        ("micro_batch_size", 0),
        ("micro_batch_size", True),
        ("precision", "fp16"),
        ("threshold", 2),
        ("sample", "W\xf6rter"),
        ("sample", "a\nb"),
        ("about", {"gr\xf6\xdfe": 1}),
    ],
)
def test_a_workload_names_the_argument_that_cannot_be(argument: str, value: Any) -> None:
    """With its value and what is needed."""
    with pytest.raises(ValueError, match=rf"^workload net: {argument}=.*: .* needed$"):

        @perf.workload(**{"global_batch_sizes": (8,), argument: value})
        def net(case: perf.Case) -> Any:
            raise NotImplementedError


def test_what_builds_no_step_is_told() -> None:
    """A forgotten `return step` is the usual reason."""

    @perf.workload(global_batch_sizes=(8,))
    def net(case: Any) -> Any:
        return None

    with pytest.raises(TypeError, match="workload net: returned NoneType, and a callable is needed: `return step`"):
        net(perf.Case(global_batch_size=8, micro_batch_size=8))
