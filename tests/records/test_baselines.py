"""Result and baseline files: read back as written, told apart when they are wrong, never half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_benchmark.storage.file import FileStorage

from perf.app.promotion import promote
from perf.errors import BaselineError
from perf.records import documents
from perf.records.baselines import (
    KEY,
    baseline_path,
    find_expected,
    load_baseline,
    load_result,
    load_session,
    result_json,
)
from perf.records.documents import write_json
from perf.records.sessions import Fingerprint, Session, configuration
from tests.judge.noise import COUNTERS, HERE, LOSSES
from tests.judge.test_commands import as_command
from tests.judge.test_verdicts import as_baseline, quiet

PROVENANCE = {"date": "2026-11-23T15:00:00+00:00", "command": "pytest", "commit": "a" * 40, "dirty": False}
ROOT = Path(__file__).parents[2]


def result(*sessions: Session, **provenance: Any) -> dict[str, Any]:
    """Return a result file's content, as pytest-benchmark and our hook write it."""
    measured = sessions or (quiet(),)
    return {
        "machine_info": dict(measured[0].fingerprint.hardware),
        "commit_info": {"id": "a" * 40, "dirty": False},
        "benchmarks": [],
        "datetime": "2026-11-23T15:00:00+00:00",
        "version": "5.3.1",
        KEY: json.loads(json.dumps(result_json(measured, {**PROVENANCE, **provenance}, {}))),
    }


def written(path: Path, content: Any) -> Path:
    """Write JSON to a file and return its path."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_session_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Nothing is lost or rounded on the way through a file."""
    path = written(tmp_path / "result.json", result())
    found = load_session(path)
    assert found.session == quiet()
    assert found.provenance == PROVENANCE


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not whole JSON"),
        ('{"stepmark": {"kind": "ses', "is not whole JSON"),
        ("\x80\x04K*.", "is not whole JSON"),
        ("[1, 2]", "holds a JSON list, and an object is needed"),
        ('{"benchmarks": []}', "has nothing of stepmark's"),
        ('{"stepmark": {"schema": 3}}', "at stepmark: Object missing required field `kind`"),
        ('{"stepmark": {"schema": 2}}', "has schema 2, this version reads 3; measure again, or use"),
        ('{"stepmark": {}, "stepmark": {}}', "is not whole JSON (has the key 'stepmark' twice); it was"),
        ('{"stepmark": {"seed": NaN}}', "found NaN, and a number within 64 bits is needed"),
        ('{"stepmark": {"seed": 1e400}}', "found 1e400, and a number within 64 bits is needed"),
        ('{"stepmark": {"seed": ' + "9" * 5000 + "}}", "found 99999999999999999999, and a number"),
        ('{"stepmark": {"seed": ' + "9" * 30 + "}}", "found 99999999999999999999, and a number"),
        ('{"stepmark": {"seed": [{"a": 1, "b": 2, "a": 3}]}}', "has the key 'a' twice"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", "is nested more than 32 levels deep"),
        ("[" * 100_000, "is not whole JSON"),
    ],
)
def test_files_that_are_not_ours_are_told_apart(tmp_path: Path, content: str, says: str) -> None:
    """Empty, cut off, pickled, foreign, of another version, ambiguous: each is named, with the file."""
    path = written(tmp_path / "result.json", content)
    with pytest.raises(BaselineError, match=r"result\.json") as error:
        load_session(path)
    assert says in str(error.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are errors of ours too."""
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(BaselineError, match="cannot be read"):
            load_session(path)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BaselineError, match=r"is not whole JSON .*'utf-8' codec"):
        load_session(binary)


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("fingerprint", "hardware", "cores"), None, "at stepmark.sessions[0].fingerprint.hardware[...]: Expected"),
        (("fingerprint", "hardware", "cores"), 64, "machine_info is not the hardware of the fingerprint"),
        (
            ("fingerprint", "hardware", "cores"),
            -2,
            "at stepmark: fingerprint.hardware: Expected `int` >= 1",
        ),
        (("fingerprint", "hardware", "cores"), 2.0, "at stepmark.sessions[0].fingerprint.hardware[...]"),
        (
            ("fingerprint", "hardware", "cpu"),
            "x" * 300,
            "fingerprint.hardware: Expected `str` of length <= 100 - at `cpu`",
        ),
        (("fingerprint", "software"), {"torch": "2.13.0"}, "missing required field `python`"),
        (("fingerprint", "software", "torch"), "/../../evil", "fingerprint.software: Expected `str` matching"),
        (("fingerprint", "software", "torch"), "2.13.0\n", "fingerprint.software: Expected `str` matching"),
        (("fingerprint", "software", "numpy"), "2.4 --index-url x", "fingerprint.software: Expected `str` matching"),
        (("fingerprint", "software", "threads"), True, "at stepmark.sessions[0].fingerprint.software[...]"),
        (("failures",), {"x": "y"}, "at key in stepmark.sessions[0].failures: Expected `int`, got `str`"),
        (
            ("measurements", "512", "runs", 2, "step_s", 3),
            -0.1,
            "at stepmark.sessions[0].measurements[...].runs[2].step_s[3]: Expected `float` >= 1e-09",
        ),
        (
            ("measurements", "512", "runs", 2, "step_s", 3),
            "0.1",
            "at stepmark.sessions[0].measurements[...].runs[2].step_s[3]: Expected `float`, got `str`",
        ),
        (
            ("measurements", "512", "runs", 2, "step_s", 3),
            10**18,
            "at stepmark.sessions[0].measurements[...].runs[2].step_s[3]",
        ),
        (
            ("measurements", "512", "runs", 2, "step_s", 3),
            10**400,
            "found 10000000000000000000, and a number within 64 bits is needed",
        ),
        (
            ("measurements", "512", "runs", 2, "step_s", 3),
            5e-324,
            "at stepmark.sessions[0].measurements[...].runs[2].step_s[3]",
        ),
        (
            ("measurements", "512", "runs", 2, "losses", 3),
            -1e300,
            "at stepmark.sessions[0].measurements[...].runs[2].losses[3]",
        ),
        (
            ("measurements", "512", "runs", 0, "warmup_steps"),
            20,
            "20 losses and 20 steps of warm-up do not fit together",
        ),
        (
            ("measurements", "512", "runs", 0, "warmup_steps"),
            1.0,
            "at stepmark.sessions[0].measurements[...].runs[0].warmup_steps: Expected `int`, got `float`",
        ),
        (
            ("measurements", "512", "runs", 0, "losses"),
            [1.0, 2.0, 3.0, 4.0],
            "4 losses and 20 times do not fit together",
        ),
        (("measurements", "512", "runs", 0, "step_s"), [0.1] * 21, "20 losses and 21 times do not fit together"),
        (("measurements", "512", "runs", 0, "step_s"), [], "pico: step_s: only a portable baseline has no times"),
        (("measurements", "512", "runs", 0, "scalars"), {"norm": [0.1]}, "20 losses and 1 norm do not fit together"),
        (
            ("measurements", "512", "runs", 0, "scalars"),
            {"norm": [1e40] * 20},
            "at stepmark.sessions[0].measurements[...].runs[0].scalars[...][0]",
        ),
        (
            ("measurements", "512", "runs"),
            [],
            "at stepmark.sessions[0].measurements[...].runs: Expected `array` of length >= 1",
        ),
        (
            ("measurements", "512", "runs", 0, "counters", "flops"),
            1.5,
            "at stepmark.sessions[0].measurements[...].runs[0].counters.flops",
        ),
        (
            ("measurements", "512", "runs", 0, "counters", "extra"),
            1,
            "measurements[...].runs[0].counters: Object contains unknown field `extra`",
        ),
        (("measurements", "512", "runs", 0, "counters"), {"ops": {"a": 1}}, "missing required field `flops`"),
        (("measurements", "512", "micro_batch_size"), 10**18, "micro_batch_size: Expected `int` <= 99999999"),
        (("measurements", "512", "micro_batch_size"), 500, "500 does not divide 512"),
        (
            ("measurements", "512", "global_batch_size"),
            1024,
            "found global_batch_size [1024, 1024, 2048] under [512, 1024, 2048]",
        ),
        (("measurements", "1" + "0" * 30), {}, "at key in stepmark.sessions[0].measurements"),
        (("measurements", "512\n"), {}, "at key in stepmark.sessions[0].measurements"),
        (("measurements",), {}, "at stepmark.sessions[0].measurements"),
        (("precision",), "fp64", "at stepmark.sessions[0].precision"),
        (("workload",), "../../etc", "at stepmark.sessions[0]: workload '../../etc-cpu-fp32'"),
        (("workload",), "pico\n", "at stepmark.sessions[0]: workload 'pico\\n-cpu-fp32'"),
        (("extra",), 1, "at stepmark.sessions[0]: Object contains unknown field `extra`"),
        (("seed",), 2**63, "at stepmark.sessions[0].seed"),
        (("sample",), "\x1b[2J", "at stepmark.sessions[0].sample"),
        (("about",), {"layers": {}}, "at stepmark.sessions[0].about[...]"),
        (("threshold",), 1.5, "at stepmark.sessions[0].threshold: Expected `float` < 1.0"),
        (("times_unfit",), "", "at stepmark.sessions[0]: Object contains unknown field `times_unfit`"),
        (("..", "schema"), 1.0, "at stepmark.schema: Expected `int`, got `float`"),
        (("..", "kind"), "duet", "at stepmark.kind: Invalid enum value 'duet'"),
        (("..", "kind"), "baseline", "has 1 sessions, 0 promotions; one, and some, are needed"),
        (("..", "sessions"), [], "at stepmark.sessions: Expected `array` of length >= 1"),
        (("..", "provenance", "commit"), "a\nb", "at stepmark.provenance.commit"),
        (("..", "provenance", "date"), "\x1b[2J", "at stepmark.provenance.date"),
        (("..", "extra"), 1, "at stepmark: Object contains unknown field `extra`"),
    ],
)
def test_an_edited_file_names_the_place(tmp_path: Path, keys: tuple[Any, ...], value: Any, says: str) -> None:
    """A wrong type, sign, length, name or an unknown field is refused where it stands."""
    content = result()
    place = content[KEY] if keys[0] == ".." else content[KEY]["sessions"][0]
    keys = keys[1:] if keys[0] == ".." else keys
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path = written(tmp_path / "result.json", content)
    with pytest.raises(BaselineError) as error:
        load_session(path)
    assert says in str(error.value)


@pytest.mark.parametrize("benchmarks", [None, {}, "x"])
def test_the_part_of_pytest_benchmark_is_a_list_and_is_not_read(tmp_path: Path, benchmarks: Any) -> None:
    """Another kind of value is refused; what is in the list is nobody's figures here."""
    assert load_session(written(tmp_path / "result.json", {**result(), "benchmarks": [1, {"stats": "x"}]}))
    with pytest.raises(BaselineError, match=r"result\.json: at the top: benchmarks is not a list"):
        load_session(written(tmp_path / "result.json", {**result(), "benchmarks": benchmarks}))


def test_a_repeated_key_is_found_in_linear_time() -> None:
    """An object of many keys takes as many comparisons, not their square: each name is hashed, and none is counted."""
    num_keys = 2000

    class Name(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Name.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Name(f"key {index}") for index in range(num_keys)]
    with pytest.raises(ValueError, match=f"has the key 'key {num_keys - 1}' twice"):
        documents._object([(name, 0) for name in [*names, Name(names[-1])]])
    assert Name.compared < 10 * num_keys


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of it comes into memory than a result could have."""
    monkeypatch.setattr(documents, "_MOST_BYTES", 1000)
    with pytest.raises(BaselineError, match="larger than 1,000 bytes"):
        load_session(written(tmp_path / "result.json", result()))


def test_all_runs_have_equally_many_steps(tmp_path: Path) -> None:
    """Losses are compared step by step."""
    content = result()
    run = content[KEY]["sessions"][0]["measurements"]["1024"]["runs"][5]
    for name in ("step_s", "losses"):
        run[name] = run[name][:-1]
    with pytest.raises(BaselineError, match="other steps of one run"):
        load_session(written(tmp_path / "result.json", content))


def test_batch_sizes_have_equally_many_runs(tmp_path: Path) -> None:
    """Scaling compares within rounds, so a file that lost a run of one batch size is refused."""
    content = result()
    del content[KEY]["sessions"][0]["measurements"]["1024"]["runs"][5]
    with pytest.raises(BaselineError, match="more runs of one batch size"):
        load_session(written(tmp_path / "result.json", content))


@given(st.integers(0, 10_000), st.booleans())
def test_damage_is_an_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, where: int, cut: bool) -> None:
    """A file cut or changed at any place gives a session or a BaselineError, never anything else."""
    text = json.dumps(result(msgspec.structs.replace(quiet(), measurements={512: quiet().measurements[512]})))
    where %= len(text)
    damaged = text[:where] if cut else text[:where] + "7" + text[where + 1 :]
    path = written(tmp_path_factory.mktemp("damage") / "result.json", damaged)
    with suppress(BaselineError):
        load_session(path)


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves the file before it, and nothing beside it."""
    path = written(tmp_path / "baseline.json", {"before": 1})

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"after": 2})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"after": float("nan")})
    assert json.loads(path.read_text()) == {"before": 1}
    assert list(tmp_path.iterdir()) == [path]


def promoted(tmp_path: Path, session: Session, reason: str = "why", **provenance: Any) -> list[Path]:
    """Promote a session into the baselines under `tmp_path`."""
    path = written(tmp_path / "result.json", result(session, **provenance))
    return promote(path, tmp_path / "baselines", reason=reason, date="2026-11-24T00:00:00+00:00")


def test_a_promoted_result_is_the_machines_baseline(tmp_path: Path) -> None:
    """It is found under the machine's slug, equal to what was measured, and pytest-benchmark can read it."""
    machine, portable = promoted(tmp_path, quiet())
    assert machine == baseline_path(tmp_path / "baselines", "pico-cpu-fp32", HERE)
    assert portable == baseline_path(tmp_path / "baselines", "pico-cpu-fp32", HERE, portable=True)
    assert load_session(machine).session == quiet()
    found = load_baseline(portable)
    assert found is not None
    assert set(found.session.measurements) == {512, 1024, 2048}
    [run] = found.session.measurements[512].runs
    assert (found.portable, run.counters, run.curves) == (True, COUNTERS, {"loss": LOSSES})
    assert "step_s" not in json.dumps(json.loads(portable.read_text())).replace('"step_s": []', "")
    storage = FileStorage(str(tmp_path / "baselines"), logger=None)
    [(_, document)] = storage.load(str(machine))
    assert document[KEY]["sessions"][0]["workload"] == "pico"


def test_promotions_are_logged_in_the_file(tmp_path: Path) -> None:
    """Each promotion adds an entry: when, why, at which commit, and which commit it replaced."""
    promoted(tmp_path, quiet(), "first")
    machine, *_ = promoted(tmp_path, quiet(0.1, 0.1, 0.1), "second", commit="b" * 40, dirty=True)
    log = load_session(machine).promotions
    assert [entry["reason"] for entry in log] == ["first", "second"]
    assert [entry["replaces"] for entry in log] == ["", "a" * 40]
    assert log[1]["dirty"] is True


def test_the_portable_baseline_changes_only_with_the_work(tmp_path: Path) -> None:
    """The same work, measured elsewhere with rounding of its own, leaves it alone; other work replaces it."""
    _, portable = promoted(tmp_path, quiet())
    before = portable.read_bytes()
    elsewhere = Fingerprint(hardware={**HERE.hardware, "cpu": "Other"}, software=HERE.software)
    rounded = msgspec.structs.replace(quiet(), fingerprint=elsewhere)
    assert len(promoted(tmp_path, rounded)) == 1
    assert portable.read_bytes() == before
    m = quiet().measurements
    runs = tuple(msgspec.structs.replace(r, counters=msgspec.structs.replace(COUNTERS, flops=1)) for r in m[512].runs)
    other = msgspec.structs.replace(quiet(), measurements={**m, 512: msgspec.structs.replace(m[512], runs=runs)})
    assert promoted(tmp_path, other)[1] == portable
    assert load_baseline(portable).session.measurements[512].runs[0].counters.flops == 1


@pytest.mark.parametrize("change", ["seed", "cut", "steps"])
def test_the_portable_baseline_changes_with_the_experiment(tmp_path: Path, change: str) -> None:
    """Another seed, another cut of the step or more steps than it has replace it, although work and losses agree."""

    def cut(session: Session, num_steps: int) -> Session:
        m = session.measurements[512]
        runs = [msgspec.structs.replace(r, losses=r.losses[:num_steps], step_s=r.step_s[:num_steps]) for r in m.runs]
        return msgspec.structs.replace(session, measurements={512: msgspec.structs.replace(m, runs=tuple(runs))})

    stored, now = cut(quiet(), 10), cut(quiet(), 20 if change == "steps" else 10)
    if change == "seed":
        now = msgspec.structs.replace(now, seed=1)
    elif change == "cut":
        smaller = msgspec.structs.replace(now.measurements[512], micro_batch_size=256)
        now = msgspec.structs.replace(now, measurements={512: smaller})
    assert len(promoted(tmp_path, stored)) == 2
    assert len(promoted(tmp_path, stored)) == 1
    assert len(promoted(tmp_path, now)) == 2


def test_a_damaged_baseline_stops_a_promotion_before_it_begins(tmp_path: Path) -> None:
    """Neither file is touched when one of them cannot be read."""
    machine, portable = promoted(tmp_path, quiet())
    before = machine.read_bytes()
    portable.write_text(portable.read_text()[:100])
    with pytest.raises(BaselineError, match="not whole JSON"):
        promoted(tmp_path, quiet(0.1, 0.1, 0.1))
    assert machine.read_bytes() == before


def test_two_workloads_of_one_name_have_baselines_of_their_own(tmp_path: Path) -> None:
    """A result of several workloads is promoted file by file; none takes another's place."""
    ids = ["pico", "a.py:pico", "b/a.py:pico", "b.a:pico"]
    sessions = [msgspec.structs.replace(quiet(0.01 * i), workload=name) for i, name in enumerate(ids)]
    content = {**result(*sessions), "benchmarks": [{"name": name, "stats": {}} for name in ids]}
    path = written(tmp_path / "result.json", content)
    assert [found.session for found in load_result(path)] == sessions
    with pytest.raises(BaselineError, match=r"has pico-cpu-fp32, a\.py:pico-cpu-fp32, .* one workload are needed"):
        load_session(path)
    files = promote(path, tmp_path / "baselines", reason="", date="2026-11-24")
    assert len(set(files)) == len(files) == 8
    for session in sessions:
        machine = baseline_path(tmp_path / "baselines", session.configuration, HERE)
        assert load_session(machine).session == session
        assert json.loads(machine.read_text())["benchmarks"] == []  # each step's time is in its session
        expected = find_expected(session, 512, None, tmp_path / "baselines")
        assert expected is not None
        assert expected.path == baseline_path(tmp_path / "baselines", session.configuration, HERE, portable=True)
    assert machine == tmp_path / "baselines" / HERE.slug / "b.a" / "pico-cpu-fp32.json"
    with pytest.raises(ValueError, match="has two of one workload"):
        result(quiet(), quiet(0.1))


def test_the_baseline_of_a_command_is_named_by_it_and_read_back(tmp_path: Path) -> None:
    """In a folder of its file, without a device or a precision, which nobody knows."""
    made = as_command(quiet())
    assert baseline_path(tmp_path, made.configuration, HERE) == tmp_path / HERE.slug / "stepmark.toml" / "bert.json"
    portable = baseline_path(tmp_path, made.configuration, HERE, portable=True)
    assert portable == tmp_path / "portable" / "stepmark.toml" / "bert-torch-2.13.0.json"
    path = written(tmp_path / "result.json", result(made))
    assert load_session(path).session == made
    promote(path, tmp_path / "baselines", reason="first", date="2026-11-24")
    found = load_baseline(baseline_path(tmp_path / "baselines", made.configuration, HERE))
    assert found is not None
    assert found.session == made


def test_nothing_is_promoted_if_one_workload_cannot_be(tmp_path: Path) -> None:
    """The reason names the workload."""
    path = written(
        tmp_path / "result.json", result(quiet(), msgspec.structs.replace(quiet(num_runs=2), workload="a.py:net"))
    )
    with pytest.raises(BaselineError, match=r"result\.json: a\.py:net: has 2 runs at 512"):
        promote(path, tmp_path / "baselines", reason="", date="2026-11-24")
    assert not (tmp_path / "baselines").exists()


@pytest.mark.parametrize(
    "workload",
    ["../x:net", "/a.py:net", "a/../b.py:net", "a/./b:net", "a//b:net", "..:net", "a b.py:net", "a:b/c", ":net",
     "a.py:", "a\\b.py:net", "\u00e4.py:net", "a.py:net\n", "x" * 201 + ":net", "a.py:" + "n" * 56, "a:b:c"],
)  # fmt: skip
def test_a_workload_whose_id_is_no_place_is_refused(tmp_path: Path, workload: str) -> None:
    """Before it is measured, where its baseline is looked for; and as a part of a session."""
    for portable in (False, True):
        with pytest.raises(BaselineError, match=r"^workload '.*rename it$"):
            baseline_path(tmp_path, configuration(workload, "cpu", "fp32"), HERE, portable=portable)
    with pytest.raises(ValueError, match="rename it"):
        msgspec.structs.replace(quiet(), workload=workload)


def test_what_a_workload_says_of_itself_is_kept_and_may_be_absent(tmp_path: Path) -> None:
    """Scalars, facts, the name of a sample and the threshold; a file without them has the defaults."""
    m = quiet().measurements
    norms = {"norm": tuple(float(step) for step in range(20))}
    runs = tuple(msgspec.structs.replace(run, scalars=norms) for run in m[512].runs)
    rich = msgspec.structs.replace(
        quiet(), measurements={**m, 512: msgspec.structs.replace(m[512], runs=runs)}, sample="tokens", threshold=0.02,
        about={"layers": [2, 4.5], "bias": False, "rate": 0.1, "depth": 3, "data": "synthetic", "cap": None},
    )  # fmt: skip
    content = result(rich)
    assert load_session(written(tmp_path / "result.json", content)).session == rich
    [stored] = content[KEY]["sessions"]
    for name in ("sample", "about", "threshold"):
        del stored[name]
    for measurement in stored["measurements"].values():
        for run in measurement["runs"]:
            del run["scalars"]
    assert load_session(written(tmp_path / "result.json", content)).session == quiet()


def test_reading_and_promoting_need_neither_torch_nor_scipy() -> None:
    """They start in a fraction of a second, also where torch is broken."""
    modules = "perf.app.promotion, perf.records.baselines"
    code = f"import sys, {modules}; print([name for name in ('torch', 'scipy') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "[]"


def unfit() -> list[tuple[Session, str]]:
    """Return sessions that are no baseline, and why."""
    whole = quiet()
    m = whole.measurements
    other_losses = (*LOSSES[:-1], 1.0)
    runs = m[512].runs
    return [
        (quiet(num_runs=2), "has 2 runs at 512, and 3 are needed"),
        (msgspec.structs.replace(whole, failures={4096: "run 1: Step=3: the loss is nan"}), "4096 failed"),
        (_replaced(whole, (*runs[:5], msgspec.structs.replace(runs[5], losses=other_losses))), "the same losses"),
        (
            _replaced(
                whole,
                (*runs[:5], msgspec.structs.replace(runs[5], counters=msgspec.structs.replace(COUNTERS, flops=1))),
            ),
            "the same work",
        ),
    ]


def _replaced(session: Session, runs: Any) -> Session:
    m = session.measurements
    return msgspec.structs.replace(session, measurements={**m, 512: msgspec.structs.replace(m[512], runs=runs)})


@pytest.mark.parametrize(("session", "says"), unfit())
def test_what_cannot_be_compared_with_is_not_promoted(tmp_path: Path, session: Session, says: str) -> None:
    """Too few runs, a failed batch size, runs that disagree: refused, and nothing is written."""
    with pytest.raises(BaselineError, match=says):
        promoted(tmp_path, session)
    assert not (tmp_path / "baselines").exists()


def test_promotion_loses_no_batch_size(tmp_path: Path) -> None:
    """A session of one batch size does not replace a baseline of three."""
    machine, _ = promoted(tmp_path, quiet())
    before = machine.read_bytes()
    alone = msgspec.structs.replace(quiet(), measurements={512: quiet().measurements[512]})
    with pytest.raises(BaselineError, match="also has 1024, 2048"):
        promoted(tmp_path, alone)
    assert machine.read_bytes() == before


def test_expectations_come_from_the_same_torch_first(tmp_path: Path) -> None:
    """The machine's baseline if the same torch made it, else the portable one, else the baseline's of another torch."""
    promoted(tmp_path, quiet())
    directory = tmp_path / "baselines"
    old = Fingerprint(hardware=HERE.hardware, software={**HERE.software, "torch": "2.12.0+cpu"})
    other_torch = as_baseline(msgspec.structs.replace(quiet(), fingerprint=old))
    here, elsewhere = as_baseline(quiet()), tmp_path / "none"

    def path(*arguments: Any) -> Path | None:
        found = find_expected(quiet(), 512, *arguments)
        return found.path if found else None

    assert path(here, directory) == here.path
    assert path(other_torch, directory) == baseline_path(directory, "pico-cpu-fp32", HERE, portable=True)
    assert path(None, directory) == baseline_path(directory, "pico-cpu-fp32", HERE, portable=True)
    assert path(other_torch, elsewhere) == other_torch.path
    assert path(None, elsewhere) is None
    build = as_baseline(msgspec.structs.replace(quiet(), fingerprint=Fingerprint(
        hardware=HERE.hardware, software={**HERE.software, "torch": f"{HERE.torch_release}+cu130"}
    )))  # fmt: skip
    assert path(build, directory) == build.path  # another build of the same release
    for change in ({"seed": 1}, {"precision": "bf16"}):
        assert path(as_baseline(msgspec.structs.replace(quiet(), **change)), elsewhere) is None


def moved(path: Path, name: str, **changes: Any) -> Path:
    """Copy a baseline to another place below the folder of baselines, with some fields changed."""
    place = path.parents[1] / name
    place.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(path.read_text())
    content[KEY]["sessions"][0].update(changes)
    return written(place, content)


def test_a_baseline_is_of_what_its_path_says(tmp_path: Path) -> None:
    """A file edited to another workload, device, precision, machine or torch, or moved, is refused.

    A result is anywhere.
    """
    machine, portable = promoted(tmp_path, quiet())
    for changes in ({"workload": "nano"}, {"workload": "a.py:pico"}, {"device": "cuda"}, {"precision": "bf16"}):
        for path in (machine, portable):
            edited = moved(path, f"{path.parent.name}/{path.name}", **changes)
            with pytest.raises(BaselineError, match=r": holds what belongs into "):
                load_result(edited)
        machine.unlink()
        portable.unlink()
        machine, portable = promoted(tmp_path, quiet())
    for name in ("other/pico-cpu-fp32.json", f"{HERE.slug}/nano-cpu-fp32.json", f"{HERE.slug}/a.py/pico-cpu-fp32.json"):
        with pytest.raises(BaselineError, match=rf"holds what belongs into {HERE.slug}/pico-cpu-fp32\.json"):
            load_session(moved(machine, name))
    for name in ("portable/nano-cpu-fp32-torch-2.13.0.json", "portable/pico-cpu-fp32-torch-2.14.0.json", "pico.json"):
        with pytest.raises(BaselineError, match=r"holds what belongs into portable/pico-cpu-fp32-torch-2\.13\.0"):
            load_result(moved(portable, name))
    assert load_session(written(tmp_path / "copy.json", result())).session == quiet()


def test_a_result_in_the_place_of_a_baseline_is_refused(tmp_path: Path) -> None:
    """Only promotion checks what a baseline needs, and logs it; a session that is not there is None."""
    path = baseline_path(tmp_path, "pico-cpu-fp32", HERE)
    assert load_baseline(path) is None
    path.parent.mkdir()
    written(path, result())
    with pytest.raises(BaselineError, match="is a result, and a baseline is needed"):
        load_baseline(path)


def test_every_stored_baseline_can_be_read() -> None:
    """What is in the repository passes its own checks, and belongs where it lies."""
    paths = list((ROOT / "baselines").rglob("*.json"))
    assert any(path.name.startswith("pico-cpu-fp32-torch-") for path in paths)
    for path in paths:
        found = load_baseline(path)
        assert found is not None
        assert found.portable == ("portable" in path.parts)
