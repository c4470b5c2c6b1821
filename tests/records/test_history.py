"""The history: sessions read back as written, none lost among writers, and nothing of others taken for one."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perf.errors import BaselineError
from perf.records.baselines import KEY, result_json
from perf.records.history import alike, keep, load_history
from tests.judge.test_verdicts import quiet

MADE = {"date": "2026-11-23T15:00:00+00:00", "command": "pytest", "commit": "a" * 40, "dirty": False}


def result(**made: Any) -> dict[str, Any]:
    """Return what a night could leave."""
    session = quiet()
    said = {"title": session.configuration, "answer": {"verdict": "REGRESSED", "sentence": "slow"}, "sections": []}
    kept: Any = result_json([session], {**MADE, **made}, {}, [said])
    return {"machine_info": session.fingerprint.hardware, "benchmarks": [], KEY: kept}


def keep_many(folder: Path, ready: Any, writer: int) -> None:
    """Keep 20 sessions of one second, as soon as the other writer is there too."""
    ready.wait()
    for number in range(20):
        keep(folder, result(command=f"{writer} {number}"))


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Two processes of the same second and commit: each of their sessions is whole and there."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    writers = [context.Process(target=keep_many, args=(tmp_path, ready, i)) for i in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = {one.provenance["command"] for one in load_history(tmp_path)}
    assert found == {f"{writer} {number}" for writer in range(2) for number in range(20)}
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())


def test_a_session_is_read_back_with_its_verdict(tmp_path: Path) -> None:
    """All of it, the raw values too; the file says when and at which commit."""
    path = keep(tmp_path / "new" / "folder", result())
    assert path.name.startswith(f"20261123T150000Z-{'a' * 12}-")
    (one,) = load_history(path.parent)
    assert (one.path, one.session, one.verdict) == (path, quiet(), "REGRESSED")


def test_the_oldest_comes_first_whatever_its_time_zone(tmp_path: Path) -> None:
    """By the moment, not by the text."""
    dates = ["2026-11-23T20:00:00+00:00", "2026-11-23T21:30:00+02:00", "2026-11-22T23:00:00-05:00"]
    for date in dates:
        keep(tmp_path, result(date=date))
    assert [one.provenance["date"] for one in load_history(tmp_path)] == [dates[2], dates[1], dates[0]]


def test_without_a_folder_there_is_no_history(tmp_path: Path) -> None:
    """And none is made."""
    assert load_history(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("commit", ["", "../../etc", "unversioned"])
def test_a_commit_cannot_leave_the_folder(tmp_path: Path, commit: str) -> None:
    """Only letters and digits of it are in the name of a file, which is found again."""
    assert keep(tmp_path, result(commit=commit)).parent == tmp_path
    assert len(load_history(tmp_path)) == 1


def test_only_the_same_experiment_is_alike(tmp_path: Path) -> None:
    """Other configurations, other hardware and sessions with fewer batch sizes are in the folder, not in the trend."""
    keep(tmp_path, result())
    history, session = load_history(tmp_path), quiet()
    assert alike(history, session) == history
    assert alike(history, msgspec.structs.replace(session, precision="bf16")) == []
    hardware = {**session.fingerprint.hardware, "cores": 64}
    other = msgspec.structs.replace(session.fingerprint, hardware=hardware)
    assert alike(history, msgspec.structs.replace(session, fingerprint=other)) == []
    more = {**session.measurements, 4096: msgspec.structs.replace(session.measurements[2048], global_batch_size=4096)}
    assert alike(history, msgspec.structs.replace(session, measurements=more)) == []
    fewer = {512: session.measurements[512]}
    assert alike(history, msgspec.structs.replace(session, measurements=fewer)) == history


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stepmark": {}, "benchmarks": []}'])
def test_what_is_no_session_is_told_with_its_file(tmp_path: Path, text: str) -> None:
    """Damaged or foreign: never skipped, and what to do is said."""
    keep(tmp_path, result())
    path = keep(tmp_path, result())
    path.write_text(text)
    with pytest.raises(BaselineError) as error:
        load_history(tmp_path)
    assert str(error.value).startswith(f"{path}: ")
    assert any(advice in str(error.value) for advice in ("delete it", "name another file", "make one with"))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """What JSON cannot hold is an error of the writer's, and no file."""
    with pytest.raises(ValueError, match="JSON"):
        keep(tmp_path, {**result(), "more": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_verdict_has_no_line_of_its_own(tmp_path: Path) -> None:
    """A hostile one is refused, as all text of a file is that could reach a terminal."""
    path = keep(tmp_path, result())
    document = json.loads(path.read_text())
    document[KEY]["reports"][0]["answer"]["verdict"] = "\x1b[2J"
    path.write_text(json.dumps(document))
    with pytest.raises(BaselineError, match="verdict"):
        load_history(tmp_path)
