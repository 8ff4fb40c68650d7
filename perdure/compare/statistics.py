"""Statistics over repeated runs: spread, effects of order and seed, ranks. numpy and scipy only.

A *pair* names one repetition, (order, seed): methods are compared where they were run on the same pair, so that what
the order or the seed does to all of them cancels. Runs of one order are not independent of one another, whatever their
seeds, so tests and intervals take one value an order: the mean over its seeds. Values are floats; NaN is "not
measured", is left out, and every result says how many values it rests on.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count
from typing import Literal

import numpy as np
from scipy import stats

from perdure.score.matrix import Direction

Pair = tuple[Hashable, Hashable]
"""(order, seed)."""
LEVEL = 0.95
"""Confidence level of every interval."""
RESAMPLES = 9999


@dataclass(frozen=True)
class Spread:
    """Mean of n values and their standard deviation (ddof = 1; NaN below two values), orders and seeds together.

    `over_orders`: deviation (ddof = 1) of the orders' means over seeds; `over_seeds`: the other way round; `low`,
    `high`: t interval of the mean over the orders' means. Each needs two orders (seeds), all with the same seeds
    (orders); NaN otherwise.
    """

    n: int
    orders: int
    mean: float
    std: float
    over_orders: float
    over_seeds: float
    low: float
    high: float


@dataclass(frozen=True)
class Effects:
    """Two-way sums of squares without replication: total = order + seed + residual."""

    order: float
    seed: float
    residual: float
    orders: int
    seeds: int

    @property
    def total(self) -> float:
        """Sum of squares about the grand mean."""
        return self.order + self.seed + self.residual

    @property
    def freedom(self) -> tuple[int, int, int]:
        """Degrees of freedom of order, seed and residual."""
        return self.orders - 1, self.seeds - 1, (self.orders - 1) * (self.seeds - 1)

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Fractions of the total of order, seed and residual, in [0, 1]; NaN where nothing varies."""
        parts = (self.order, self.seed, self.residual)
        order, seed, residual = (part / self.total if self.total > 0 else math.nan for part in parts)
        return order, seed, residual

    @property
    def by_chance(self) -> tuple[float, float, float]:
        """The fractions to be expected were there no effect of either: in proportion to the degrees of freedom."""
        order, seed, residual = (part / sum(self.freedom) for part in self.freedom)
        return order, seed, residual


def spread(values: Mapping[Pair, float]) -> Spread:
    """Mean and deviations of one method's values by (order, seed)."""
    finite = {pair: value for pair, value in values.items() if math.isfinite(value)}
    found = np.array(list(finite.values()), dtype=np.float64)
    grid = _grid(finite)
    over_orders = over_seeds = low = high = math.nan
    if grid is not None:
        over_orders, over_seeds = _deviation(grid.mean(axis=1)), _deviation(grid.mean(axis=0))
        low, high, _ = t_interval(grid.mean(axis=1))
    mean, orders = float(found.mean()) if found.size else math.nan, len({order for order, _ in finite})
    return Spread(found.size, orders, mean, _deviation(found), over_orders, over_seeds, low, high)


def effects(values: Mapping[Pair, float]) -> Effects | None:
    """Effect of order against effect of seed; None unless each of two or more orders has each of two or more seeds.

    With x[o, s]: order = seeds * sum_o (mean_o - mean)^2, seed = orders * sum_s (mean_s - mean)^2, the residual is
    what neither explains (their interaction, and chance).
    """
    grid = _grid({pair: value for pair, value in values.items() if math.isfinite(value)})
    if grid is None or min(grid.shape) < 2:
        return None
    orders, seeds = grid.shape
    grand, by_order, by_seed = grid.mean(), grid.mean(axis=1, keepdims=True), grid.mean(axis=0, keepdims=True)
    order = seeds * float(np.square(by_order - grand).sum())
    seed = orders * float(np.square(by_seed - grand).sum())
    residual = float(np.square(grid - by_order - by_seed + grand).sum())
    return Effects(order, seed, residual, orders, seeds)


def common(methods: Sequence[Mapping[Pair, float]]) -> tuple[list[Hashable], np.ndarray]:
    """Orders in which all methods have finite values of the same seeds, and the means over these, (orders, methods)."""
    first, *others = methods
    shared = [
        p for p, v in first.items() if math.isfinite(v) and all(math.isfinite(o.get(p, math.nan)) for o in others)
    ]
    orders = list(dict.fromkeys(order for order, _ in shared))
    means = [[[m[pair] for pair in shared if pair[0] == order] for m in methods] for order in orders]
    table = np.array([[np.mean(values) for values in row] for row in means], dtype=np.float64)
    return orders, table.reshape(len(orders), len(methods))


def t_interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float, str]:
    """(low, high, kind) of the t interval of a mean."""
    if values.size < 2:
        return math.nan, math.nan, "none"
    if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return float(values.mean()), float(values.mean()), "point"
    found = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    return float(found.low), float(found.high), "t"


def ranks(table: np.ndarray, better: Direction) -> np.ndarray:
    """Rank of each method within each order, (orders, methods) -> the same; 1 is best, ties share their mean rank."""
    if not table.size:
        return np.empty_like(table)
    ranked: np.ndarray = stats.rankdata(-table if better == "higher" else table, axis=1)
    return ranked


def probability_best(table: np.ndarray, better: Direction, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each method has the best mean when the orders are drawn anew with replacement.

    (orders, methods) -> (methods,), summing to 1. NaN without an order. A share of bootstrap resamples, not a
    posterior; of few orders it is too sure of itself.
    """
    orders, methods = table.shape
    if not orders:
        return np.full(methods, np.nan)
    drawn = np.random.default_rng(seed).multinomial(orders, np.full(orders, 1 / orders), size=resamples) / orders
    return best_fractions(drawn @ (table if better == "higher" else -table))


def best_fractions(means: np.ndarray) -> np.ndarray:
    """Fraction of draws in which each method's mean is the highest, (draws, methods) -> (methods,); ties share one."""
    first = np.isclose(means, means.max(axis=1, keepdims=True), rtol=0, atol=1e-12)
    found: np.ndarray = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    return found


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of two rankings of the same methods, in [-1, 1]; NaN below two, or where one is all ties."""
    if len(a) < 2:  # of which scipy would warn
        return math.nan
    return float(stats.kendalltau(a, b).statistic)


def _grid(values: Mapping[Pair, float]) -> np.ndarray | None:
    """Values as (orders, seeds); None where a pair is missing."""
    orders, seeds = (list(dict.fromkeys(pair[axis] for pair in values)) for axis in (0, 1))
    if not values or len(values) < len(orders) * len(seeds):
        return None
    return np.array([[values[order, seed] for seed in seeds] for order in orders], dtype=np.float64)


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else math.nan


Verdict = Literal["better", "worse", "ahead", "behind", "open", "equal", "unpaired"]


@dataclass(frozen=True)
class Difference:
    """a - b over the n orders that both have, seeds averaged inside: mean, interval, test, in how many a is better.

    `interval`: "t" (of the mean, n - 1 degrees of freedom, not corrected), "point" (all differences are equal) or
    "none" (fewer than two orders; low and high are NaN). `p`: of the exact sign-flip (randomisation) test that the
    mean is 0, two sides; NaN below `least_orders()`, where it cannot come out small. `corrected`: the same after Holm
    for `comparisons` made at once. The interval assumes normal differences, the test does not, so both have to agree
    before a difference counts as settled.
    """

    n: int
    mean: float
    low: float
    high: float
    interval: str
    p: float
    wins: int
    ties: int
    better: Direction
    comparisons: int
    corrected: float

    @property
    def share(self) -> float:
        """Share of the orders in which a is better, in [0, 1]; a tie counts half."""
        return (self.wins + self.ties / 2) / self.n if self.n else math.nan

    @property
    def enough(self) -> bool:
        """Whether there are orders enough for anything to be settled among so many comparisons."""
        return self.n >= least_orders(self.comparisons)

    @property
    def verdict(self) -> Verdict:
        """`better` or `worse`: settled; `ahead` or `behind`: the same way in all of too few orders; else open."""
        if self.n == 0:
            return "unpaired"
        if self.ties == self.n:
            return "equal"
        up = (self.mean > 0) == (self.better == "higher")
        if self.corrected < 1 - LEVEL and (self.low > 0 or self.high < 0):
            return "better" if up else "worse"
        if not self.enough and self.wins in (0, self.n) and not self.ties:
            return "ahead" if up else "behind"
        return "open"


def least_p(orders: int) -> float:
    """The least p that the exact sign-flip test can give, two sides: all differences point the same way."""
    return 2.0 ** (1 - orders)


def least_orders(comparisons: int = 1) -> int:
    """Fewest orders with which anything can be settled: `least_p`, times the comparisons, is below 1 - LEVEL."""
    return next(n for n in count(2) if max(comparisons, 1) * least_p(n) < 1 - LEVEL)


def differences(
    methods: Mapping[str, Mapping[Pair, float]], better: Direction, seed: int = 0
) -> dict[tuple[str, str], Difference]:
    """Every two methods (a, b), in the order given: a - b, corrected for their number (Holm 1979)."""
    found = {(a, b): difference(methods[a], methods[b], better, seed) for a, b in combinations(methods, 2)}
    corrected = holm([d.p for d in found.values()])
    return {
        pair: replace(d, comparisons=len(found), corrected=p)
        for (pair, d), p in zip(found.items(), corrected, strict=True)
    }


def difference(a: Mapping[Pair, float], b: Mapping[Pair, float], better: Direction, seed: int = 0) -> Difference:
    """a - b over their common orders, as the only comparison; the seed is of the sign flips where not all are tried."""
    _, table = common([a, b])
    gaps = table[:, 0] - table[:, 1]
    ties = int((gaps == 0).sum())
    wins = int((gaps > 0).sum() if better == "higher" else (gaps < 0).sum())
    low, high, interval = t_interval(gaps)
    mean, p = float(gaps.mean()) if gaps.size else math.nan, _flipped(gaps, seed)
    return Difference(gaps.size, mean, low, high, interval, p, wins, ties, better, 1, p)


def holm(p: Sequence[float]) -> list[float]:
    """p corrected for their number m: the k-th smallest times m - k + 1, never below a smaller one's, at most 1.

    NaN, "not tested", stays NaN, and is one of the m.
    """
    order = np.argsort(p, kind="stable")  # NaN last
    steps = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    found: list[float] = corrected.tolist()
    return found


def _flipped(gaps: np.ndarray, seed: int) -> float:
    """p of the mean among all (at most RESAMPLES) ways to flip the differences' signs; NaN where that is no use."""
    if gaps.size < least_orders():
        return math.nan
    found = stats.permutation_test(
        (gaps,), np.mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)
