"""Messages of runners: those of other commits are understood, malformed ones are one error."""

from __future__ import annotations

import copy
import json
import math
import os
import random
from typing import Any

import msgspec
import pytest

from perf.errors import MeasureError
from perf.judge.duets import loss_problem
from perf.records.wire import (
    VERSION,
    Attributed,
    CaseSpec,
    Counted,
    PhaseTime,
    Ready,
    Request,
    SideWork,
    Stepped,
    Waiting,
    decode,
    side_work,
)
from perf.report.answers import of_duet
from perf.report.duet import duet_text
from tests.report.test_duet import WORK, duet

FINGERPRINT = {"hardware": {"cores": 2}, "software": {"torch": "2.13.0"}}
READY: dict[str, Any] = {"event": "ready", "protocol": VERSION, "can": ["run", "count", "attribute"]}
WAITING: dict[str, Any] = {"event": "waiting", "pid": 4711, "step_s": 0.1, "losses": [7.6, 7.5]}
STEPPED: dict[str, Any] = {
    "event": "stepped",
    "marks": [1.0, 1.1, 1.2],
    "losses": [7.4, 7.3],
    "scalars": {"grad_norm": [1.0, 0.9]},
    "lines": ["Step=2"],
}
COUNTED: dict[str, Any] = {
    "event": "counted",
    "counters": {"ops": {"aten::mm": 26}, "flops": 7, "host_syncs": 0},
    "facts": {"device": "cpu", "precision": "fp32", "micro_batch_size": 512, "workload.dropout": 0.1},
    "python": "3.11",
    "fingerprint": FINGERPRINT,
}
ROW: dict[str, Any] = {"phase": "forward", "operation": "aten::mm float32", "count": 26.0, "seconds": 0.01}
ATTRIBUTED: dict[str, Any] = {"event": "attributed", "rows": [ROW]}
ALL = [READY, WAITING, STEPPED, COUNTED, ATTRIBUTED]
KINDS: dict[str, type[msgspec.Struct]] = {
    "ready": Ready,
    "waiting": Waiting,
    "stepped": Stepped,
    "counted": Counted,
    "attributed": Attributed,
}

MUTATIONS = int(os.environ.get("STEPMARK_MUTATIONS", "400"))


def read(answer: dict[str, Any]) -> Any:
    """Return what an answer of any kind says."""
    return decode(json.dumps(answer).encode(), KINDS[answer["event"]])


def test_answers_are_read() -> None:
    """Each kind, whole."""
    assert read(READY).can == ("run", "count", "attribute")
    assert read(WAITING).losses == (7.6, 7.5)
    assert read(STEPPED).marks == (1.0, 1.1, 1.2)
    assert read(STEPPED).scalars == {"grad_norm": (1.0, 0.9)}
    assert read(ATTRIBUTED).rows == (PhaseTime(**ROW),)
    counted = side_work(read(COUNTED), (7.6,), {})
    assert counted.counters["ops"] == {"aten::mm": 26}
    assert counted.facts["workload.dropout"] == 0.1
    assert counted.software == {"torch": "2.13.0"}


@pytest.mark.parametrize("answer", ALL, ids=lambda answer: answer["event"])
def test_a_field_more_is_ignored(answer: dict[str, Any]) -> None:
    """A later commit may say more."""
    more = copy.deepcopy(answer) | {"later": {"field": [1, None]}}
    if "fingerprint" in more:
        more["fingerprint"]["later"] = {}
    if "rows" in more:
        more["rows"][0]["later"] = 1
    assert read(more) == read(answer)


def test_what_has_a_form_that_is_not_known_here_is_left_out() -> None:
    """A counter or a fact of a later commit need not be a number or a name."""
    later = copy.deepcopy(COUNTED)
    later["counters"]["by_stream"] = {"aten::mm": 1}
    later["facts"]["workload.schedule"] = {"a": ["b"]}
    assert side_work(read(later), (), {}) == side_work(read(COUNTED), (), {})
    later["counters"]["ops"], later["facts"]["precision"] = 3, ["fp32", "bf16"]
    found = side_work(read(later), (7.6,), {})
    assert "ops" not in found.counters
    assert "precision" not in found.facts
    odd = side_work(read({**COUNTED, "facts": {"precision": [1, 2]}}), (7.6,), {})
    assert loss_problem((odd, odd)) == ""


@pytest.mark.parametrize(
    ("answer", "change"),
    [
        (WAITING, {"pid": 2**40}),
        (WAITING, {"pid": 1}),
        (WAITING, {"pid": True}),
        (WAITING, {"step_s": 1e-310}),
        (WAITING, {"step_s": 0.0}),
        (WAITING, {"step_s": 1e9}),
        (STEPPED, {"marks": [1.0]}),
        (STEPPED, {"marks": [1.0, 1.0]}),
        (STEPPED, {"losses": ["7"]}),
        (ATTRIBUTED, {"rows": []}),
        (ATTRIBUTED, {"rows": [{**ROW, "phase": "\x1b[2J"}]}),
    ],
)
def test_what_cannot_be_is_refused_by_name(answer: dict[str, Any], change: dict[str, Any]) -> None:
    """A process that cannot be, steps that take no time or for ever, marks that do not ascend; the field is named."""
    with pytest.raises(MeasureError, match=rf"^said b.*(\$\.{next(iter(change))}|marks that do not|names that do not)"):
        read({**answer, **change})


def test_another_version_is_understood() -> None:
    """From `VERSION` on the meaning of a message does not change; who reads it refuses an earlier one."""
    assert read({**READY, "protocol": VERSION + 5}).protocol == VERSION + 5
    assert read({"event": "ready"}).protocol < VERSION


def test_what_an_earlier_side_does_not_say_is_absent() -> None:
    """Recorded without a counter, without facts of the workload and without a fingerprint.

    Read, and nothing made up.
    """
    older = {"event": "counted", "counters": {"ops": {"aten::mm": 26}, "flops": 7}, "facts": {"device": "cpu"}}
    found = side_work(read(older), (7.6,), {})
    assert "host_syncs" not in found.counters
    assert found.facts == {"device": "cpu"}
    assert found.software == {}
    assert found.python == ""


def test_a_request_is_read_as_it_was_made() -> None:
    """By a runner of the same commit.

    One of another ignores what it does not know, and has defaults for what is missing.
    """
    request = Request(do="run", case=CaseSpec(global_batch_size=16, precision="bf16"), layout=3, warmup_steps=2)
    line = msgspec.json.encode(request)
    assert msgspec.json.decode(line, type=Request) == request
    other = json.loads(line) | {"deadline_s": 7}
    del other["num_threads"], other["case"]["seed"]
    assert msgspec.json.decode(json.dumps(other), type=Request) == request


NASTY: list[Any] = [
    None, True, -1, 0, 1, 2**70, 10**400, 1.5, 1e308, -1e308, math.nan, math.inf, "", "7", "x\n\x1b[2J", [], [[]], {},
    {"a": {}},
    {"x\n\x1b[2J": 1}, {"ops": {"\x1b[2J": 1}}, {"y" * 10**6: 0},
    [1, "2"], [None], [math.nan], list(range(5)),
    {"ops": 3}, {"ops": {"a": -1}}, [{}], [{"phase": 1}],
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
    """Never a traceback of ours; a report can be made of whatever was read."""
    rng = random.Random(1)
    refused = 0
    for _ in range(MUTATIONS):
        found = read_or_refusal(mutated(rng, rng.choice(ALL)))
        if isinstance(found, MeasureError):
            refused += 1
            continue
        if isinstance(found, Counted):
            work: SideWork = side_work(found, (7.6,), {})
            assert not any(word in repr(work) for word in ("nan", "inf,", "inf)", "inf]", "inf}"))
            result = msgspec.structs.replace(QUIET, work={512: (WORK, work)})
            assert all(line.isprintable() for line in [of_duet(result).line, *duet_text(result).splitlines()])
        else:
            assert not any(word in repr(found) for word in ("nan", "inf,", "inf)", "inf]", "inf}"))
    assert MUTATIONS / 4 < refused < MUTATIONS
