"""How often change points in a history of nights are found, near their place, and found where there are none.

Run with ``python -m docs.studies.changes`` at the root of the repository: about 4 minutes of one core, and the same
figures on any machine. Nothing is measured here: nights are made up, with 2 % of noise and steps of 3 %.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from perf.judge.changes import NEAR, Change, find_changes, pooled
from perf.judge.stats import FloatArray
from perf.report.sections import markdown_table

NIGHTS, NOISE, STEP = 60, 0.02, 0.03
WILD_STEP = 0.3  # by how much, as a logarithm, a wild night is slower
CHANGED_SINCE = (2, 3, 4, 5, 8, 12)  # nights with a new level at the end of a history
FIRST_LOOK = 3  # nights, when one looks every night


def main() -> None:
    """Print one table for each question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=200, help="with a step, of each kind; five times as many without")
    count = parser.parse_args().series
    rng = np.random.default_rng(20261125)
    header = ("step at night", "series", "within five nights", "not found", "other points")
    header += ("in its interval", "interval (mean)", "most probable split within five", "given the levels, the best")
    print(markdown_table(header, [placed(rng, at, sizes, count) for sizes in (1, 3) for at in (15, 30, 45)]), "\n")
    header = ("nights since a step, of 60", *map(str, CHANGED_SINCE))
    print(markdown_table(header, [found_soon(rng, sizes, count) for sizes in (1, 3)]), "\n")
    header = ("without a step", "histories", "with a point", "points", "points in 1000 nights")
    rows = [without(rng, f"{n} nights", n, noise, 5 * count) for n in (10, 20, NIGHTS, 365)]
    rows += [without(rng, name, NIGHTS, made, 5 * count) for name, made in ODD.items()]
    rows += [every_night(rng, count)]
    print(markdown_table(header, rows), "\n")
    header = ("nights, a step of 30 % in the middle", "found")
    print(markdown_table(header, [short(rng, n, count) for n in (3, 4, 5, 6, 8, 10, 12)]), "\n")
    print(markdown_table(("a slow phase of 60 nights", "both ends within five nights", "nothing"), phases(rng, count)))


def noise(rng: np.random.Generator, nights: int) -> FloatArray:
    """Return independent noise, logarithms."""
    return rng.normal(scale=NOISE, size=nights)


def remembering(memory: float) -> Callable[[np.random.Generator, int], FloatArray]:
    """Return a source of noise of which a share goes on to the next night: AR(1)."""

    def made(rng: np.random.Generator, nights: int) -> FloatArray:
        values = noise(rng, nights)
        for night in range(1, nights):
            values[night] = memory * values[night - 1] + np.sqrt(1 - memory**2) * values[night]
        return values

    return made


def wild(rng: np.random.Generator, nights: int) -> FloatArray:
    """Return noise with one wild night."""
    values = noise(rng, nights)
    values[rng.integers(nights)] -= WILD_STEP
    return values


def wild_at_last(rng: np.random.Generator, nights: int) -> FloatArray:
    """Return noise whose last night is wild."""
    values = noise(rng, nights)
    values[-1] -= WILD_STEP
    return values


def often_wild(rng: np.random.Generator, nights: int) -> FloatArray:
    """Return noise in which each night is wild with a probability of 5 %."""
    return np.asarray(noise(rng, nights) - WILD_STEP * (rng.random(nights) < 0.05))


def heavy(rng: np.random.Generator, nights: int) -> FloatArray:
    """Return noise of Student's t with 3 degrees of freedom, of the same variance."""
    return np.asarray(NOISE / np.sqrt(3) * rng.standard_t(3, size=nights))


ODD = {
    "60, one of them wild": wild,
    "60, the last one wild": wild_at_last,
    "60, 5 % of them wild": often_wild,
    "60, heavy tails": heavy,
    "60, AR(1) of 0.2": remembering(0.2),
    "60, AR(1) of 0.5": remembering(0.5),
}


def stepping(rng: np.random.Generator, at: int, sizes: int, nights: int = NIGHTS, step: float = STEP) -> FloatArray:
    """Return the mean logarithms of several batch sizes with independent noise, and a step that all share."""
    logs = rng.normal(scale=NOISE, size=(sizes, nights))
    logs[:, at:] += np.log1p(-step)
    return np.log(pooled(np.exp(logs)))  # type: ignore[arg-type]  # rows of an array are sequences


def changes(logs: FloatArray) -> list[Change]:
    """Return what is found in one series."""
    return find_changes({"rate": np.exp(logs).tolist()})


def is_near(found: Sequence[Change], at: int) -> bool:
    """Return whether one of the points is near a place."""
    return any(abs(change.index - at) <= NEAR for change in found)


def placed(rng: np.random.Generator, at: int, sizes: int, count: int) -> list[str]:
    """Return the row of a step at one night; the last two cells know that there is exactly one step."""
    series = [stepping(rng, at, sizes) for _ in range(count)]
    found = [changes(logs) for logs in series]
    single = [one[0] for one in found if len(one) == 1]
    near = sum(is_near(one, at) for one in found)
    other = sum(map(len, found)) - near
    covered = np.mean([change.earliest <= at <= change.latest for change in single])
    width = np.mean([change.latest - change.earliest + 1 for change in single])
    variance = NOISE**2 / sizes
    splits = [abs(_weights(logs, variance)[0] - at) <= NEAR for logs in series]
    bound = [abs(_weights(logs, variance)[1] - at) <= NEAR for logs in series]
    cells = [f"night {at}", f"{sizes} pooled" if sizes > 1 else "1", f"{near} of {count}"]
    cells += [str(sum(not one for one in found)), str(other), f"{covered:.0%}", f"{width:.1f} nights"]
    return [*cells, f"{sum(splits)}", f"{sum(bound)}"]


def _weights(logs: FloatArray, variance: float) -> tuple[int, int]:
    """Return the most probable split, and the centre of the most probable eleven nights for who knows both levels."""
    places = np.arange(2, len(logs) - 1)
    sums = np.cumsum(logs - logs.mean())[places - 1]
    split = int(places[np.argmax(sums**2 / (places * (len(logs) - places)))])
    cost = [np.sum(logs[:k] ** 2) + np.sum((logs[k:] - np.log1p(-STEP)) ** 2) for k in places]
    chances = np.exp((np.min(cost) - cost) / 2 / variance)
    near = np.abs(places[:, None] - places) <= NEAR
    return split, int(places[np.argmax(near @ chances)])


def found_soon(rng: np.random.Generator, sizes: int, count: int) -> list[str]:
    """Return in how many histories a step is found, near its place, so many nights after it."""
    cells = []
    for since in CHANGED_SINCE:
        at = NIGHTS - since
        cells.append(f"{sum(is_near(changes(stepping(rng, at, sizes)), at) for _ in range(count))} of {count}")
    return [f"{sizes} series{', pooled' if sizes > 1 else ''}", *cells]


def without(
    rng: np.random.Generator, name: str, nights: int, made: Callable[[np.random.Generator, int], FloatArray], count: int
) -> list[str]:
    """Return the row of a kind of noise without a step."""
    return _false_points(name, [len(changes(made(rng, nights))) for _ in range(count)], nights)


def every_night(rng: np.random.Generator, count: int) -> list[str]:
    """Return the row of somebody who looks every night: each other place that is ever shown is a point."""
    totals = []
    for _ in range(count):
        logs = noise(rng, NIGHTS)
        looks = [changes(logs[:n]) for n in range(FIRST_LOOK, NIGHTS + 1)]
        shown: list[int] = []
        for change in (change for look in looks for change in look):
            if all(abs(change.index - other) > NEAR for other in shown):
                shown.append(change.index)
        totals.append(len(shown))
    return _false_points("60, looked at every night", totals, NIGHTS)


def _false_points(name: str, totals: Sequence[int], nights: int) -> list[str]:
    points, some = sum(totals), sum(total > 0 for total in totals)
    return [
        name,
        str(len(totals)),
        f"{some / len(totals):.1%}",
        str(points),
        f"{points / len(totals) / nights * 1000:.2f}",
    ]


def short(rng: np.random.Generator, nights: int, count: int) -> list[str]:
    """Return in how many short histories a large step is found."""
    found = [changes(stepping(rng, nights // 2, 1, nights, 0.3)) for _ in range(count)]
    return [str(nights), f"{sum(map(bool, found))} of {count}"]


def phases(rng: np.random.Generator, count: int) -> list[list[str]]:
    """Return the rows of slowdowns that went away again; one split cannot see them."""
    rows = []
    for begin, end, sizes in ((25, 35, 1), (22, 37, 1), (25, 35, 3), (22, 37, 3)):
        found = []
        for _ in range(count):
            logs = noise(rng, NIGHTS) / np.sqrt(sizes)
            logs[begin:end] += np.log1p(-STEP)
            found.append(changes(logs))
        both = sum(is_near(one, begin) and is_near(one, end) for one in found)
        name = f"nights {begin} to {end - 1}, {sizes} series{', pooled' if sizes > 1 else ''}"
        rows.append([name, f"{both} of {count}", str(sum(not one for one in found))])
    return rows


if __name__ == "__main__":
    main()
