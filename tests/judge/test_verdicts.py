"""Every verdict, on data with a known effect and with none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.judge.stats import FAMILY_ERROR, Effect
from perf.judge.verdicts import (
    Verdict,
    decide,
    judge_counters,
    judge_loss_decreases,
    judge_losses,
    judge_rates,
)
from perf.records.baselines import Baseline
from perf.records.sessions import Fingerprint, MeasuredRun, Session
from tests.judge.noise import COUNTERS, HERE, LOSSES, SIZES, STEP_S, session

judge_scaling = partial(judge_rates, is_scaling=True)
PATH = Path("baselines/somewhere/pico-cpu-fp32.json")


def as_baseline(measured: Session) -> Baseline:
    """Return a session as if it had been read back from a baseline file."""
    return Baseline(
        path=PATH,
        session=measured,
        provenance={"date": "2026-11-23", "command": "pytest", "commit": "0" * 40, "dirty": False},
        promotions=[],
    )


def quiet(*slower: float, spread: float = 0.002, num_runs: int = 6, seed: int = 0) -> Session:
    """Return a session of a machine with little noise; `slower` is by how much each batch size is, a fraction."""
    rng = np.random.default_rng(seed)
    times = np.array(STEP_S)[:, None, None] * np.exp(rng.normal(scale=spread, size=(3, num_runs, 1)))
    times = times * (1 + np.array(slower or (0, 0, 0)))[:, None, None] * np.ones(20)
    return session(times)


def verdicts(candidate: Session, baseline: Session, threshold: float = 0.05) -> list[Verdict | None]:
    """Return the verdicts on the rates, by batch size."""
    return [j.verdict for j in judge_rates(candidate, as_baseline(baseline), threshold=threshold).values()]


def test_on_a_quiet_machine_each_change_gets_its_verdict() -> None:
    """Slower, faster and equal are told apart, each at its own batch size."""
    found = verdicts(quiet(0.2, -0.2, 0.0, seed=1), quiet())
    assert found == [Verdict.REGRESSED, Verdict.IMPROVED, Verdict.UNCHANGED]


def test_a_change_below_the_threshold_is_no_change() -> None:
    """A slowdown that is certain but smaller than what matters is UNCHANGED; with a lower threshold it is REGRESSED."""
    assert verdicts(quiet(0.02, 0, 0, seed=1), quiet())[0] is Verdict.UNCHANGED
    assert verdicts(quiet(0.02, 0, 0, seed=1), quiet(), threshold=0.01)[0] is Verdict.REGRESSED


def test_not_significant_is_not_unchanged() -> None:
    """On a noisy machine the same code is INCONCLUSIVE, and the reason says what would be needed."""
    found = judge_rates(quiet(spread=0.08, seed=1), as_baseline(quiet(spread=0.08)), threshold=0.05)
    assert [judgement.verdict for judgement in found.values()] == [Verdict.INCONCLUSIVE] * 3
    assert all(judgement.holds is None for judgement in found.values())
    assert found[512].reason.endswith("would have shown; compare side by side: --perf-duet")


@pytest.mark.parametrize("seed", range(10))
def test_a_noisy_baseline_never_shows_that_nothing_changed(seed: int) -> None:
    """Where its rates spread by half, the same speed is INCONCLUSIVE, and half of it may be; neither is UNCHANGED."""
    baseline = quiet(spread=0.5, seed=seed)
    for spread in (0.002, 0.5):
        same, slower = (quiet(*[by] * 3, spread=spread, seed=seed + 100) for by in (0.0, 1.0))
        assert verdicts(same, baseline) == [Verdict.INCONCLUSIVE] * 3
        assert set(verdicts(slower, baseline)) <= {Verdict.INCONCLUSIVE, Verdict.REGRESSED}


effects = st.builds(
    Effect,
    effect_size=st.floats(-0.9, 2.0),
    low=st.floats(-0.9, 2.0),
    high=st.floats(-0.9, 2.0),
    p_value=st.floats(0.0, 1.0),
    minimal_detectable_effect=st.floats(0.001, 0.99),
)


@given(effects, st.floats(0.0, 1.0), st.floats(0.001, 0.5))
def test_no_verdict_without_its_ground(effect: Effect, p_in_family: float, threshold: float) -> None:
    """UNCHANGED needs an MDE within the threshold; a change needs a rejected p-value and an estimate beyond it."""
    verdict = decide(effect, p_in_family=p_in_family, threshold=threshold)
    if verdict is Verdict.UNCHANGED:
        assert effect.minimal_detectable_effect <= threshold
        assert -threshold < effect.low
        assert effect.high < threshold
    if verdict in (Verdict.REGRESSED, Verdict.IMPROVED):
        assert p_in_family <= FAMILY_ERROR
        assert abs(effect.effect_size) >= threshold
        assert (effect.effect_size < 0) == (verdict is Verdict.REGRESSED)


def test_without_a_baseline_there_is_no_verdict() -> None:
    """NO_BASELINE names the command that makes one."""
    for judge in (judge_rates, judge_scaling):
        found = judge(quiet(), None, threshold=0.05)
        assert {judgement.verdict for judgement in found.values()} == {Verdict.NO_BASELINE}
        assert "stepmark promote" in found[512].reason


def test_a_batch_size_that_the_baseline_lacks_has_no_baseline() -> None:
    """The others are judged; the missing one says what the baseline has."""
    candidate = quiet()
    lacking = msgspec.structs.replace(
        candidate, measurements={size: candidate.measurements[size] for size in (1024, 2048)}
    )
    found = judge_rates(candidate, as_baseline(lacking), threshold=0.05)
    assert found[512].verdict is Verdict.NO_BASELINE
    assert "it has 1024, 2048" in found[512].reason
    assert found[1024].verdict is Verdict.UNCHANGED


@pytest.mark.parametrize("field", list(HERE.hardware))
def test_other_hardware_is_not_comparable(field: str) -> None:
    """A baseline of another machine is refused, and the field that differs is named."""
    other = msgspec.structs.replace(quiet(), fingerprint=Fingerprint(
        hardware={**HERE.hardware, field: "other"}, software=HERE.software
    ))  # fmt: skip
    found = judge_rates(quiet(), as_baseline(other), threshold=0.05)
    assert {judgement.verdict for judgement in found.values()} == {Verdict.NOT_COMPARABLE}
    assert f"{field} other -> {HERE.hardware[field]}" in found[512].reason


def test_another_precision_is_not_comparable() -> None:
    """Times of bf16 are no baseline for fp32."""
    other = msgspec.structs.replace(quiet(), precision="bf16")
    assert "pico-cpu-bf16 -> pico-cpu-fp32" in judge_rates(quiet(), as_baseline(other), threshold=0.05)[512].reason


def test_another_micro_batch_size_is_not_comparable() -> None:
    """Another cut of the step is another experiment, at that batch size only."""
    other = quiet()
    changed = msgspec.structs.replace(other.measurements[1024], micro_batch_size=256)
    other = msgspec.structs.replace(other, measurements={**other.measurements, 1024: changed})
    found = [j.verdict for j in judge_rates(quiet(), as_baseline(other), threshold=0.05).values()]
    assert found == [Verdict.UNCHANGED, Verdict.NOT_COMPARABLE, Verdict.UNCHANGED]


def test_one_run_is_not_enough() -> None:
    """A run alone has no spread, so nothing can be said."""
    found = judge_rates(quiet(num_runs=1), as_baseline(quiet()), threshold=0.05)
    assert {judgement.verdict for judgement in found.values()} == {Verdict.INCONCLUSIVE}


def test_a_regression_is_explained_by_the_work_first() -> None:
    """Other operations come before other software, and other software before nothing."""
    slow, stored = quiet(0.3, 0.3, 0.3, seed=1), quiet()
    assert "same work, same software" in judge_rates(slow, as_baseline(stored), threshold=0.05)[512].reason
    upgraded = Fingerprint(hardware=HERE.hardware, software={**HERE.software, "numpy": "2.5.0"})
    slow = msgspec.structs.replace(slow, fingerprint=upgraded)
    assert "numpy 2.4.6 -> 2.5.0" in judge_rates(slow, as_baseline(stored), threshold=0.05)[512].reason
    more = msgspec.structs.replace(COUNTERS, ops={**COUNTERS.ops, "aten::copy_": 13})
    assert "+12 aten::copy_ per step" in judge_rates(
        _with_counters(slow, more), as_baseline(stored), threshold=0.05
    )[512].reason  # fmt: skip


def _with_counters(measured: Session, counters: object) -> Session:
    return msgspec.structs.replace(
        measured,
        measurements={
            size: msgspec.structs.replace(
                m, runs=tuple(msgspec.structs.replace(run, counters=counters) for run in m.runs)
            )
            for size, m in measured.measurements.items()
        },
    )


def test_scaling_flags_one_batch_size_alone() -> None:
    """Slower at one batch size and faster at another: the mean is fine, and scaling says which one fell behind."""
    found = judge_scaling(quiet(0.0, 0.0, 0.12, seed=1), as_baseline(quiet()), threshold=0.05)
    assert found[2048].verdict is Verdict.REGRESSED
    assert found[512].verdict is not Verdict.REGRESSED
    found = judge_scaling(quiet(0.3, 0.3, 0.3, seed=1), as_baseline(quiet()), threshold=0.05)
    assert {judgement.verdict for judgement in found.values()} == {Verdict.UNCHANGED}


def test_scaling_does_not_blame_those_that_others_left_behind() -> None:
    """One batch size got faster and nobody slower: it is IMPROVED, and no other is REGRESSED."""
    found = judge_scaling(quiet(0.0, 0.0, -0.12, seed=1), as_baseline(quiet()), threshold=0.05)
    assert found[2048].verdict is Verdict.IMPROVED
    assert {found[512].verdict, found[1024].verdict} == {Verdict.INCONCLUSIVE}
    assert "which got faster" in found[512].reason


def test_scaling_leaves_out_what_cannot_be_compared() -> None:
    """A batch size that is cut otherwise is NOT_COMPARABLE, and does not move the others' contrasts."""
    fast = quiet(0.0, 0.0, -0.2, seed=1)
    other = msgspec.structs.replace(fast.measurements[2048], micro_batch_size=1024)
    fast = msgspec.structs.replace(fast, measurements={**fast.measurements, 2048: other})
    found = [j.verdict for j in judge_scaling(fast, as_baseline(quiet()), threshold=0.05).values()]
    assert found == [Verdict.UNCHANGED, Verdict.UNCHANGED, Verdict.NOT_COMPARABLE]


def test_two_runs_far_apart_are_inconclusive() -> None:
    """So little data could show next to nothing, and the reason says so without a number nobody can use."""
    wild = quiet(spread=0.3, num_runs=2, seed=3)
    found = judge_rates(wild, as_baseline(quiet()), threshold=0.05)
    assert {judgement.verdict for judgement in found.values()} == {Verdict.INCONCLUSIVE}
    assert found[512].reason.endswith("compare side by side: --perf-duet")


def test_another_cut_of_the_step_fails_its_counters() -> None:
    """Stored counters of another micro-batch size are not passed over: the cut is the first thing that changed."""
    m = quiet().measurements
    other = msgspec.structs.replace(
        quiet(), measurements={**m, 512: msgspec.structs.replace(m[512], micro_batch_size=256)}
    )
    found = judge_counters(quiet(), 512, as_baseline(other))
    assert found.holds is False
    assert found.reason.startswith("micro_batch_size 256 -> 512")
    assert "mean difference" in judge_losses(quiet(), 512, as_baseline(other)).reason
    assert "equal to the last digit" in judge_losses(quiet(), 512, expected()).reason


def test_scaling_needs_company() -> None:
    """One batch size alone has no scaling; a baseline that shares one has none either."""
    alone = msgspec.structs.replace(quiet(), measurements={512: quiet().measurements[512]})
    assert judge_scaling(alone, as_baseline(quiet()), threshold=0.05)[512].verdict is Verdict.INCONCLUSIVE
    found = judge_scaling(quiet(), as_baseline(alone), threshold=0.05)
    assert {judgement.holds for judgement in found.values()} == {None}


def _with_losses(*losses: tuple[float, ...]) -> Session:
    measured = quiet(num_runs=len(losses))
    runs = tuple(
        msgspec.structs.replace(run, losses=values, step_s=run.step_s[: len(values)])
        for run, values in zip(measured.measurements[512].runs, losses, strict=True)
    )
    return msgspec.structs.replace(
        measured, measurements={512: msgspec.structs.replace(measured.measurements[512], runs=runs)}
    )


def test_the_loss_must_fall_in_every_run() -> None:
    """One run that does not learn is enough to fail."""
    assert judge_loss_decreases(_with_losses(LOSSES, LOSSES).measurements[512]).holds is True
    flat = tuple(7.6 + 0.01 * (-1) ** step for step in range(20))
    assert judge_loss_decreases(_with_losses(LOSSES, flat).measurements[512]).holds is False
    assert judge_loss_decreases(_with_losses(LOSSES[::-1]).measurements[512]).holds is False
    assert judge_loss_decreases(_with_losses(LOSSES[:5]).measurements[512]).holds is None


def expected(fingerprint: Fingerprint = HERE, *, portable: bool = False) -> Baseline:
    """Return a stored file that expects what the synthetic sessions do."""
    return msgspec.structs.replace(
        as_baseline(msgspec.structs.replace(quiet(), fingerprint=fingerprint)), portable=portable
    )


ELSEWHERE = Fingerprint(hardware={**HERE.hardware, "cpu": "Other"}, software=HERE.software)


def test_on_the_same_machine_and_software_losses_are_equal_to_the_last_digit() -> None:
    """A change in the last digit fails and names the step; elsewhere it is rounding."""
    changed = (*LOSSES[:6], np.nextafter(LOSSES[6], 0), *LOSSES[7:])
    assert judge_losses(_with_losses(LOSSES, LOSSES), 512, expected()).holds is True
    found = judge_losses(_with_losses(changed, changed), 512, expected())
    assert found.holds is False
    assert "Step=7" in found.reason
    assert judge_losses(_with_losses(changed, changed), 512, expected(ELSEWHERE)).holds is True
    assert judge_losses(_with_losses(changed, changed), 512, expected(portable=True)).holds is True


@pytest.mark.parametrize(("shift", "says"), [(0.05, "the loss is higher"), (-0.05, "the loss is lower")])
def test_elsewhere_losses_are_compared_statistically(shift: float, says: str) -> None:
    """A curve that lies off by more than the draw of batches explains fails, in either direction."""
    shifted = tuple(loss + shift for loss in LOSSES)
    found = judge_losses(_with_losses(shifted), 512, expected(ELSEWHERE))
    assert found.holds is False
    assert says in found.reason


def test_runs_with_different_losses_fail_without_any_baseline() -> None:
    """Two runs of one session that do not learn alike are told, with the first step that differs."""
    other = (*LOSSES[:9], LOSSES[9] + 1e-6, *LOSSES[10:])
    found = judge_losses(_with_losses(LOSSES, other), 512, None)
    assert found.holds is False
    assert "runs differ from step 10 on" in found.reason
    assert judge_losses(_with_losses(LOSSES, LOSSES), 512, None).verdict is Verdict.NO_BASELINE


def test_a_scalar_that_only_one_run_has_fails() -> None:
    """Whichever run it is."""
    session = _with_losses(LOSSES, LOSSES)
    first, second = session.measurements[512].runs
    more = msgspec.structs.replace(second, scalars={"norm": LOSSES})
    for runs in ((first, more), (more, first)):
        measurement = msgspec.structs.replace(session.measurements[512], runs=runs)
        found = judge_losses(msgspec.structs.replace(session, measurements={512: measurement}), 512, None)
        assert found.holds is False
        assert "the norm is" in found.reason


def test_counters_are_compared_exactly_and_by_name() -> None:
    """One copy more fails; what changed is named before how much it takes."""
    more = msgspec.structs.replace(COUNTERS, ops={**COUNTERS.ops, "aten::copy_": 2}, allocated_bytes=183_780_276)
    assert judge_counters(quiet(), 512, expected()).holds is True
    found = judge_counters(_with_counters(quiet(), more), 512, expected())
    assert found.holds is False
    assert found.reason.startswith("+1 aten::copy_, +4 allocated_bytes per step")


def test_runs_that_do_other_work_fail_without_any_baseline() -> None:
    """Counters must be the same in every process."""
    measured = quiet()
    runs = list(measured.measurements[512].runs)
    runs[3] = msgspec.structs.replace(runs[3], counters=msgspec.structs.replace(COUNTERS, host_syncs=1))
    measured = msgspec.structs.replace(
        measured, measurements={512: msgspec.structs.replace(measured.measurements[512], runs=tuple(runs))}
    )
    found = judge_counters(measured, 512, None)
    assert found.holds is False
    assert "the work of run 4 differs from run 1: +1 host_syncs" in found.reason


def test_python_calls_are_compared_for_one_python_only() -> None:
    """Another Python calls otherwise: the rest is still compared, and the reason says so."""
    measured = msgspec.structs.replace(
        _with_counters(quiet(), msgspec.structs.replace(COUNTERS, python_calls=9)), python="3.12"
    )
    found = judge_counters(measured, 512, expected())
    assert found.holds is True
    assert "Python calls not compared" in found.reason


def test_counters_of_another_torch_are_not_compared() -> None:
    """Another release may dispatch otherwise, so nothing is claimed; another build of the same release may not."""
    build = Fingerprint(hardware=HERE.hardware, software={**HERE.software, "torch": "2.13.0+cu130"})
    assert judge_counters(quiet(), 512, expected(build)).holds is True
    release = Fingerprint(hardware=HERE.hardware, software={**HERE.software, "torch": "2.14.0+cpu"})
    assert judge_counters(quiet(), 512, expected(release)).verdict is Verdict.NOT_COMPARABLE


def test_sizes_are_those_of_the_default_workload() -> None:
    """The synthetic sessions have the batch sizes that the tests name."""
    assert SIZES == (512, 1024, 2048)


def test_further_scalars_are_compared_like_losses() -> None:
    """Equal in all runs and to the stored ones, named where they are not, and missing on neither side."""
    norms = tuple(1.0 / step for step in range(1, 21))
    session = _replaced_runs(quiet(), lambda run: msgspec.structs.replace(run, scalars={"norm": norms}))
    known = as_baseline(session)
    assert judge_losses(session, 512, known).holds is True
    changed = (*norms[:3], 9.0, *norms[4:])
    other = _replaced_runs(session, lambda run: msgspec.structs.replace(run, scalars={"norm": changed}))
    found = judge_losses(session, 512, as_baseline(other))
    assert found.holds is False
    assert found.reason.startswith("Step=4: the norm is 0.25, and 9.0 in ")
    without = judge_losses(session, 512, expected())
    assert without.holds is False
    assert "the steps return loss, norm, and loss in " in without.reason
    runs = list(session.measurements[512].runs)
    runs[1] = msgspec.structs.replace(runs[1], scalars={"norm": (*norms[:5], 0.0, *norms[6:])})
    measurement = msgspec.structs.replace(session.measurements[512], runs=tuple(runs))
    session = msgspec.structs.replace(session, measurements={512: measurement})
    assert "runs differ from step 6 on: the norm is " in judge_losses(session, 512, known).reason


def _replaced_runs(session: Session, change: Callable[[MeasuredRun], MeasuredRun]) -> Session:
    return msgspec.structs.replace(
        session,
        measurements={
            size: msgspec.structs.replace(m, runs=tuple(map(change, m.runs)))
            for size, m in session.measurements.items()
        },
    )
