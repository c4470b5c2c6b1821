"""Every table fits a terminal, text and Markdown say the same, and importing reports costs neither torch nor scipy."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from perf.app.import_log import audit_report
from perf.app.train import run_table
from perf.judge.attribution import Contribution, PhaseDifference
from perf.judge.duets import Decisions, as_claims
from perf.judge.verdicts import CLAIMS, Judgement, Verdict, judge_rates, mean_rate
from perf.logs.audit import audit_run
from perf.logs.parsing import parse_log, read_lines
from perf.logs.runlog import LoggedRun
from perf.printable import WIDTH, wrapped
from perf.records.sessions import Pair, Session
from perf.records.wire import STEP_PHASES
from perf.report.answers import of_duet, of_session
from perf.report.bench import verdict_section
from perf.report.duet import duet_sections, duet_text
from perf.report.sections import NONE, Answer, Report, Section, as_markdown, as_text, percent, text_table
from tests.judge.noise import LOSSES, SIZES, session
from tests.judge.test_commands import as_command
from tests.judge.test_verdicts import as_baseline, quiet
from tests.report.nights import report_of
from tests.report.test_duet import EXTRA_PRODUCTS, SLOWER, duet

ROOT = Path(__file__).parents[2]
LONG = "aten::_scaled_dot_product_flash_attention_for_cpu_backward float32"


def markdown_of(*sections: Section) -> str:
    """Return sections as Markdown, in a report that says little else."""
    answer = Answer(verdict="UNCHANGED", sentence="no change", next_step="nothing to do")
    return as_markdown(Report(title="net", about="today", answer=answer, sections=sections), "net.html")


def widest(text: str) -> int:
    """Return the length of the longest line."""
    return max(map(len, text.splitlines()))


@pytest.mark.parametrize("factor", [1.0, 1e-9, 1e12])
def test_a_benchs_table_fits_a_terminal(factor: float) -> None:
    """Realistic rates, and rates whose numbers would be wide; with long reasons, which stand below it."""
    rng = np.random.default_rng(0)
    spread = rng.normal(scale=1.0 if factor != 1.0 else 0.1, size=(3, 2, 1))
    wild = session(factor * np.exp(spread) * np.ones(20))
    judgements = {
        ("rate", size): msgspec.structs.replace(judgement, reason=" ".join([judgement.reason] * 5))
        for size, judgement in judge_rates(wild, as_baseline(quiet(num_runs=2)), threshold=0.05).items()
    }
    wild = msgspec.structs.replace(wild, failures={4096: "run 1: " + "out of memory " * 20})
    assert widest(as_text([verdict_section(wild, judgements)])) <= WIDTH


@pytest.mark.parametrize(("effect", "noise"), [(-0.05, 0.001), (-20.0, 5.0), (20.0, 0.0), (0.0, 3.0)])
@pytest.mark.parametrize("seconds", [1.0, 1e-9, 1e9])
def test_a_duets_tables_fit_a_terminal(effect: float, noise: float, seconds: float) -> None:
    """Realistic and extreme changes, times and counts, and names of operations of any length."""
    rng = np.random.default_rng(0)
    decisions = Decisions([1024], threshold=0.02, budget_s=10.0)
    pairs = [
        Pair(global_batch_size=1024, start=start, ended_s=start + 1.0, effect=float(value), baseline=run, candidate=run)
        for start in range(10)
        for value in effect + noise * rng.normal(size=2)
        for run in [((0.0, seconds),)]
    ]
    for start in range(10):
        decisions.add([pair for pair in pairs if pair.start == start and decisions.undecided], ended_s=start + 1.0)
    rows = [
        msgspec.structs.replace(
            EXTRA_PRODUCTS, operation=LONG * times, candidate_s=seconds, candidate_count=1e9 * seconds
        )
        for times in (1, 5)
    ]
    phases = [PhaseDifference(phase=phase, baseline_s=seconds, candidate_s=2 * seconds) for phase in STEP_PHASES]
    found = msgspec.structs.replace(
        SLOWER, pairs=pairs, judgements=decisions.judgements, phases={1024: phases}, contributions={1024: rows}
    )
    text = duet_text(found)
    assert widest(text) <= WIDTH
    assert ".." in text


@pytest.mark.parametrize("value", [1.0, 1e15, 1e-15])
def test_the_tables_of_training_and_of_logs_fit_a_terminal(value: float) -> None:
    """Realistic and extreme numbers."""
    plan: Any = SimpleNamespace(config=SimpleNamespace(global_batch_size=65536))
    result: Any = SimpleNamespace(
        losses=[value, value],
        totals=SimpleNamespace(samples=1 + int(value * 100), seconds=value**-1),
    )
    assert widest(run_table([plan, plan], [result, result])) <= WIDTH
    line = "Step={0}, Loss={1:.5f}, Rate={1:.2f} samples/sec, GlobalRate={1:.2f} samples/sec"
    log = [line.format(step, value) for step in (100, 200, 10**14)]
    audits = [
        audit_run(run) for run in parse_log(read_lines(io.StringIO("\n".join(log)))) if isinstance(run, LoggedRun)
    ]
    assert all(widest(audit_report(audit)) <= WIDTH for audit in audits)
    assert audits


def test_a_table_that_is_too_wide_loses_the_middle_of_its_words() -> None:
    """Numbers are never cut; the beginning and the end of a name stay."""
    text = text_table(("operation", "n"), [("a" * 90 + "b" * 90, "12345")], left={"operation"})
    last = text.splitlines()[-1]
    assert len(last) == WIDTH
    assert last.startswith("aaa")
    assert last.endswith("bbb  12345")
    assert ".." in last
    assert text_table(("operation",), [("short",)], left={"operation"}).splitlines()[-1] == "short"


def test_text_and_markdown_have_the_same_rows_and_notes() -> None:
    """Each cell and each note of a section is in both; a column without a value, and its legend, are in neither."""
    section = Section(
        title="Title", header=("a", "b", "empty"), rows=[("1", "x", NONE), ("2", NONE, NONE)],
        notes=["a note"], legend={"a": "first", "empty": "nothing"},
    )  # fmt: skip
    assert as_text([section]) == "Title\na  b\n-  -\n1  x\n2  -\na note\n(a: first)"
    assert "\n\nTitle\n\n| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | - |\n\n- a note\n- (a: first)\n\n" in markdown_of(
        section
    )
    for shown in [verdict_section(quiet(), {}), *duet_sections(SLOWER)]:
        _, rows, notes = shown.shown()
        text, markdown = as_text([shown]).split(), markdown_of(shown)
        for part in [*notes, *itertools.chain.from_iterable(rows)]:
            assert part in markdown
            assert all(word in text for word in part.split())


def test_lines_are_wrapped_by_words() -> None:
    """What follows the first line is indented; a word is never cut."""
    assert wrapped("word " * 30).splitlines()[1].startswith("  word")
    assert wrapped("x" * 200) == "x" * 200
    assert wrapped("two\nlines") == "two\nlines"


def failed(claim: str) -> Judgement:
    """Return a claim that does not hold."""
    return Judgement(holds=False, reason=f"the reason of {claim}")


def test_claims_have_one_order() -> None:
    """The first line names the first claim that fails, and reasons below the table come in the same order."""
    night = msgspec.structs.replace(quiet(), measurements={512: quiet().measurements[512]})
    for index, claim in enumerate(CLAIMS):
        judgements = {(claim, 512): failed(claim) for claim in reversed(CLAIMS[index:])}
        assert of_session(night, judgements, None, None, "").line.startswith(f"FAILED: {claim} at 512: ")
    judgements = {(claim, 512): failed(claim) for claim in reversed(CLAIMS)}
    notes = verdict_section(night, judgements).notes
    shown = [note.removeprefix("512: ").split()[0].rstrip(":") for note in notes]
    assert shown == [claim for claim in CLAIMS if claim != "scaling"]  # the rate explains it
    assert verdict_section(night, {("scaling", 512): failed("scaling")}).notes == [
        "512: scaling FAILED: the reason of scaling"
    ]


def test_what_is_unknown_is_not_said_to_hold() -> None:
    """With every rate UNCHANGED and counters that could not be compared, the first line and the table say so."""
    rates = {("rate", size): Judgement(holds=True, reason="", verdict=Verdict.UNCHANGED) for size in SIZES}
    unknown = {("counters", 512): Judgement(holds=None, reason="", verdict=Verdict.NO_BASELINE)}
    assert of_session(quiet(), rates, None, None, "").line == "UNCHANGED: no claim fails at 512, 1024, 2048"
    assert of_session(quiet(), {**rates, **unknown}, None, None, "").line.endswith("2048; unknown: counters")
    assert "1 unknown" in as_text([verdict_section(quiet(), {**rates, **unknown})])


def test_a_stored_rate_does_not_stand_beside_the_change_of_a_duet() -> None:
    """The session's table has its rate and the verdict; the change is in the duet's table, with the rates it is of."""
    night: Session = quiet()
    claims = {(name, size): claim for size in (512, 1024) for name, claim in as_claims(SLOWER, size).items()}
    section = verdict_section(night, claims)
    header, rows, notes = section.shown()
    assert header == ["size", "samples/sec", "verdict", "other claims"]
    assert [row[2] for row in rows] == ["UNCHANGED", "REGRESSED", "not judged"]
    assert not any("significantly slower" in note for note in notes)


def test_a_table_calls_samples_what_the_workload_calls_them() -> None:
    """In a session's table and below a duet's."""
    night = msgspec.structs.replace(quiet(), sample="tokens")
    assert verdict_section(night, {}).header[1] == "tokens/sec"
    assert "(tokens/sec: lower quartile" in as_text([verdict_section(night, {})])
    assert "candidate: tokens/sec" in as_text(duet_sections(msgspec.structs.replace(SLOWER, sample="tokens")))


def test_rates_of_a_session_have_the_ratio_that_its_change_says() -> None:
    """The rate of a table and the change beside it are of one estimator."""
    candidate, baseline = quiet(0.2, -0.1, 0.0, spread=0.05, seed=1), quiet(spread=0.05)
    for size, judgement in judge_rates(candidate, as_baseline(baseline), threshold=0.05).items():
        assert judgement.effect
        ratio = mean_rate(candidate.measurements[size]) / mean_rate(baseline.measurements[size])
        assert judgement.effect.effect_size == pytest.approx(ratio - 1)


def contribution(operation: str, difference_s: float) -> Contribution:
    """Return a significant row."""
    return msgspec.structs.replace(
        EXTRA_PRODUCTS, operation=operation, baseline_s=0.01, candidate_s=0.01 + difference_s
    )


@pytest.mark.parametrize(
    ("rows", "forward_s", "named"),
    [
        ([contribution("a", 0.005)], 0.004, "5 more a per step in forward (kernel.py:81)"),
        ([contribution("a", 0.005)], -0.0004, None),  # the phase is faster
        ([contribution("a", -0.005)], -0.004, None),  # faster, and the rate is slower
        ([contribution("a", -0.006), contribution("b", 0.005)], 0.004, "5 more b per step in forward (kernel.py:81)"),
    ],
)
def test_the_headline_does_not_contradict_the_phases(
    rows: list[Contribution], forward_s: float, named: str | None
) -> None:
    """An operation is named as a part of a slowdown only if it and its phase are slower, too."""
    phases = [PhaseDifference(phase="forward", baseline_s=0.04, candidate_s=0.04 + forward_s)]
    found = msgspec.structs.replace(duet({1024: -0.1}), phases={1024: phases}, contributions={1024: rows})
    assert of_duet(found).line.endswith(f": {named or 'same work, same software'}")


def test_a_slowdown_is_not_explained_by_what_got_faster_elsewhere() -> None:
    """Where the difference was located at a batch size that is faster, its operations say nothing of the slower one."""
    faster = [PhaseDifference(phase="forward", baseline_s=0.04, candidate_s=0.03)]
    found = duet({512: 0.12, 1024: -0.1})
    found = msgspec.structs.replace(found, phases={512: faster}, contributions={512: [contribution("a", -0.01)]})
    assert of_duet(found).line.endswith("(512 IMPROVED): same work, same software")


def test_a_change_that_is_none_has_no_largest_part() -> None:
    """Where the change does not matter, no operation is named, whatever the attribution found."""
    phases = [PhaseDifference(phase="forward", baseline_s=0.04, candidate_s=0.05)]
    found = msgspec.structs.replace(
        duet({1024: -0.005}), phases={1024: phases}, contributions={1024: [contribution("a", 0.01)]}
    )
    assert "kernel.py" not in of_duet(found).line


def test_importing_reports_imports_neither_torch_nor_scipy() -> None:
    """All modules of perf.report, with all that they import."""
    modules = [f"perf.report.{path.stem}" for path in (ROOT / "perf" / "report").glob("[a-z]*.py")]
    code = f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'scipy'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.05, "+5.0%"), (-9.5, "-950.0%"), (10.0, ">1000%"), (np.inf, ">1000%"), (-np.inf, "<-1000%")],
)
def test_a_fraction_that_is_far_off_is_only_said_to_be(fraction: float, text: str) -> None:
    """In either direction; a loss may go from 0 to below."""
    assert percent(fraction, "+") == text


def test_a_command_has_its_clock_its_ranks_and_no_work() -> None:
    """A log that disagrees is a warning, too; ranks are beside the fewest, here and in the baseline."""
    made = as_command(quiet(), lambda run: msgspec.structs.replace(run, printed_s=(20 * run.step_s[-1],) * len(LOSSES)))
    worlds = {512: 1, 1024: 2, 2048: 4}
    measurements = {
        size: msgspec.structs.replace(one, world_size=worlds[size]) for size, one in made.measurements.items()
    }
    ranks = msgspec.structs.replace(made, measurements=measurements)
    report = report_of(ranks, {}, baseline=as_baseline(ranks))
    text = as_text(report.sections)
    disagrees = "DISAGREES with our clock: the rates in its log are"
    assert disagrees in " ".join(text.split())
    assert [disagrees in warning for warning in report.warnings] == [True] * 3
    rows = {
        cells[0]: cells[1:] for cells in map(str.split, text.partition("Scaling over ranks")[2].splitlines()) if cells
    }
    assert rows["512"] == ["1", "-", "-", "-", "-"]
    for size, efficiency in (("1024", 50), ("2048", 25)):
        assert float(rows[size][1].rstrip("%")) == pytest.approx(efficiency, abs=1)
        assert rows[size][1:5] == rows[size][5:9]
    (work,) = [section for section in report.sections if section.title == "Work of a step"]
    assert work.notes == ["not measured: a log does not tell what a step does"]
    assert "Scaling over ranks" not in as_text(report_of(made, {}).sections)
