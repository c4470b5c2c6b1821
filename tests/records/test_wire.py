"""Messages of sides: those of other commits are understood, malformed ones are one error."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import random
from typing import Any

import pytest

from perf.app.compare import exit_code
from perf.errors import MeasureError
from perf.records.wire import (
    VERSION,
    PhaseTime,
    SideSpec,
    SideWork,
    read_attributed,
    read_counted,
    read_ready,
    read_stepped,
    read_waiting,
    request,
)
from perf.report.duet import duet_report, headline
from perf.train.workloads import BERT_CONFIGS, BertConfig
from tests.report.test_duet import WORK, duet

READY: dict[str, Any] = {"event": "ready", "protocol": VERSION, "can": ["run", "count", "attribute"]}
WAITING: dict[str, Any] = {"event": "waiting", "pid": 4711, "step_s": 0.1, "losses": [7.6, 7.5]}
STEPPED: dict[str, Any] = {"event": "stepped", "marks": [1.0, 1.1, 1.2], "losses": [7.4, 7.3]}
COUNTED: dict[str, Any] = {
    "event": "counted",
    "counters": {"ops": {"aten::mm": 26}, "flops": 7, "host_syncs": 0},
    "device": "cpu",
    "precision": "fp32",
    "micro_batch_size": 512,
    "workload": {"name": "pico", "dropout": 0.1, "global_batch_sizes": [512, 1024]},
    "python": "3.11",
    "fingerprint": {"hardware": {"cores": 2}, "software": {"torch": "2.13.0"}},
}
ROW: dict[str, Any] = {"phase": "forward", "operation": "aten::mm float32", "count": 26.0, "seconds": 0.01}
ATTRIBUTED: dict[str, Any] = {"event": "attributed", "rows": [ROW]}

MUTATIONS = int(os.environ.get("STEPMARK_MUTATIONS", "400"))


def read(answer: dict[str, Any]) -> object:
    """Return what an answer of any kind says."""
    return {
        "ready": read_ready,
        "waiting": read_waiting,
        "stepped": read_stepped,
        "counted": lambda counted: read_counted(counted, (7.6,)),
        "attributed": read_attributed,
    }[answer["event"]](answer)


def test_answers_are_read() -> None:
    """Each kind, whole."""
    assert read(READY) == {"run", "count", "attribute"}
    assert read_waiting(WAITING).losses == (7.6, 7.5)
    assert read(STEPPED) == ((1.0, 1.1, 1.2), (7.4, 7.3))
    assert read(ATTRIBUTED) == [PhaseTime(**ROW)]
    counted = read_counted(COUNTED, (7.6,))
    assert counted.counters["ops"] == {"aten::mm": 26}
    assert counted.facts["workload.dropout"] == 0.1
    assert counted.software == {"torch": "2.13.0"}


@pytest.mark.parametrize("answer", [READY, WAITING, STEPPED, COUNTED, ATTRIBUTED], ids=lambda answer: answer["event"])
def test_a_field_more_is_ignored(answer: dict[str, Any]) -> None:
    """A later commit may say more."""
    more = {**answer, "later": {"field": [1, None]}}
    if answer is COUNTED:
        more["counters"] = {**COUNTED["counters"], "later": {"aten::mm": 1}}
        more["workload"] = {**COUNTED["workload"], "later": {"a": ["b"]}}
    if answer is ATTRIBUTED:
        more["rows"] = [{**ROW, "later": 1}]
    assert read(more) == read(answer)


@pytest.mark.parametrize(
    "change", [{"pid": 2**40}, {"pid": 1}, {"pid": True}, {"step_s": 1e-310}, {"step_s": 0.0}, {"step_s": 1e9}]
)
def test_a_run_that_nobody_could_wait_for_is_refused(change: dict[str, Any]) -> None:
    """A process that cannot be, or steps that take no time or for ever."""
    with pytest.raises(MeasureError, match=f"said 'waiting' with {next(iter(change))} = "):
        read({**WAITING, **change})


def test_a_later_version_is_understood_and_an_earlier_one_refused() -> None:
    """From `VERSION` on the meaning of a message does not change."""
    assert read({**READY, "protocol": VERSION + 5})
    with pytest.raises(
        MeasureError, match=rf"speaks version {VERSION - 1} of the wire, and {VERSION} or later is needed"
    ):
        read({**READY, "protocol": VERSION - 1})


def test_what_an_earlier_side_does_not_tell_is_absent() -> None:
    """Recorded without a counter, without the workload and without a fingerprint: read, and nothing made up."""
    older = {name: value for name, value in COUNTED.items() if name not in ("workload", "fingerprint", "python")}
    older["counters"] = {"ops": {"aten::mm": 26}, "flops": 7}
    found = read_counted(older, (7.6,))
    assert "host_syncs" not in found.counters
    assert found.facts == {"device": "cpu", "precision": "fp32", "micro_batch_size": 512}
    assert found.software == {}


def test_a_request_is_read_as_it_was_made(workload: BertConfig) -> None:
    """By a side of the same commit."""
    spec = SideSpec(workload=workload, global_batch_size=16, num_threads=1)
    asked = json.loads(request("run", spec, layout=3))
    assert (asked["do"], asked["layout"]) == ("run", 3)
    assert SideSpec.from_json(asked["spec"]) == spec


def test_a_workload_of_an_earlier_commit_has_this_one_s_values_where_it_lacks_a_field() -> None:
    """If it is known here by name; else it is refused by name and field."""
    data = {"name": "pico", "hidden_size": 48}
    found = BertConfig.from_json(data)
    assert (found.hidden_size, found.num_layers) == (48, BERT_CONFIGS["pico"].num_layers)
    with pytest.raises(ValueError, match="workload 'mine': has no why, which is needed here"):
        BertConfig.from_json({"name": "mine"})


NASTY: list[Any] = [
    None, True, -1, 0, 1, 2**70, 10**400, 1.5, 1e308, -1e308, math.nan, math.inf, "", "7", "x\n\x1b[2J", [], [[]], {}, {"a": {}},
    {"x\n\x1b[2J": 1}, {"ops": {"\x1b[2J": 1}}, {"y" * 10**6: 0}, [1, "2"], [None], [math.nan], list(range(5)), {"ops": 3}, {"ops": {"a": -1}}, [{}], [{"phase": 1}],
]  # fmt: skip


def mutated(rng: random.Random, answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer with one to three places lost, replaced by something nasty, or filled with another's."""
    found = copy.deepcopy(answer)
    for _ in range(rng.randint(1, 3)):
        place: Any = found
        while True:
            keys = [key for key in place if key != "event"] if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.6:
                place = place[key]
            elif rng.random() < 0.2:
                del place[key]
                break
            else:
                place[key] = copy.deepcopy(rng.choice(NASTY))
                break
    return found


QUIET = duet({512: 0.0})


def read_or_refusal(answer: dict[str, Any]) -> object:
    """Return what an answer says, or the error that refuses it."""
    try:
        return read(answer)
    except MeasureError as error:
        return error


def test_mutated_answers_are_read_or_refused() -> None:
    """Never a traceback of ours; what is read has only finite numbers."""
    rng = random.Random(1)
    refused = 0
    for _ in range(MUTATIONS):
        found = read_or_refusal(mutated(rng, rng.choice([READY, WAITING, STEPPED, COUNTED, ATTRIBUTED])))
        if isinstance(found, MeasureError):
            refused += 1
            assert len(str(found)) < 300
            assert str(found).isprintable()
        else:
            assert not any(word in repr(found) for word in ("nan", "inf,", "inf)", "inf]", "inf}"))
        if isinstance(found, SideWork):  # a report can be made of whatever was read
            result = dataclasses.replace(QUIET, work={512: (WORK, found)})
            assert all(line.isprintable() for line in [headline(result), *duet_report(result).splitlines()])
            exit_code(result)
    assert MUTATIONS / 4 < refused < MUTATIONS
