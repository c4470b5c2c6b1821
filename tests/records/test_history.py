"""The store: one file for each session, whole or not there; nothing of others is lost, or taken for an entry."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from perf.errors import BaselineError
from perf.records.history import append, load
from tests.report.test_history import entry


def _append_many(place: Path, first: int) -> None:
    for day in range(first, first + 10):
        append(place, entry(day, "UNCHANGED"))


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Of the same minute, too."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(tmp_path / "here", 1)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = list(load(tmp_path / "here").values())
    assert len(found) == 20
    assert [one.provenance["date"] for one in found] == sorted(one.provenance["date"] for one in found)


@pytest.mark.parametrize("content", ["{", "{}", '{"schema": 1, "more": 2}', "[]", '{"schema": 2}'])
def test_what_is_no_entry_is_told(content: str, tmp_path: Path) -> None:
    """With its file; it is not skipped."""
    append(tmp_path, entry(1, "UNCHANGED"))
    odd = tmp_path / "odd.json"
    odd.write_text(content)
    with pytest.raises(BaselineError, match=str(odd)):
        load(tmp_path)


def test_an_entry_is_read_back(tmp_path: Path) -> None:
    """As it was, hostile or not; without a folder there is no history."""
    assert load(tmp_path / "none") == {}
    hostile = entry(1, "UNCHANGED <b>")
    path = append(tmp_path, hostile)
    assert load(tmp_path) == {path: hostile}
