"""Statistics over repeated runs: spread, effects of order and seed, paired differences, ranks. numpy and scipy only.

A *pair* names one repetition, (order, seed): methods are compared where they were run on the same pair, so that what
the order or the seed does to all of them cancels. Values are floats; NaN is "not measured", is left out, and every
result says how many values it rests on.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from perdure.matrix import Direction

Pair = tuple[Hashable, Hashable]
"""(order, seed)."""
LEVEL = 0.95
"""Confidence level of every interval."""
RESAMPLES = 9999
LEAST_PAIRS = 6
"""Fewest pairs that can settle anything: the least p of the exact sign-flip test, 2^(1 - n), is below 1 - LEVEL from
n = 6 on."""

Verdict = Literal["better", "worse", "ahead", "behind", "open", "equal", "unpaired"]


@dataclass(frozen=True)
class Spread:
    """Mean of n values and their standard deviation (ddof = 1; NaN below two values).

    `over_orders`: deviation (ddof = 1) of the orders' means over seeds; `over_seeds`: the other way round. Each needs
    two orders (seeds), all with the same seeds (orders); NaN otherwise.
    """

    n: int
    mean: float
    std: float
    over_orders: float
    over_seeds: float


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
    def shares(self) -> tuple[float, float, float]:
        """Shares of the total of order, seed and residual, in [0, 1]; NaN where nothing varies."""
        parts = (self.order, self.seed, self.residual)
        order, seed, residual = (part / self.total if self.total > 0 else math.nan for part in parts)
        return order, seed, residual

    @property
    def by_chance(self) -> tuple[float, float, float]:
        """The shares to be expected were there no effect of either: in proportion to the degrees of freedom."""
        order, seed, residual = (part / sum(self.freedom) for part in self.freedom)
        return order, seed, residual


@dataclass(frozen=True)
class Difference:
    """a - b over n common pairs: mean, confidence interval, test, and in how many pairs a is better.

    `interval`: "BCa", "percentile" (where BCa is degenerate), "point" (all differences are equal) or "none" (fewer
    than two pairs; low and high are NaN). `p`: of the exact sign-flip (randomisation) test that the mean is 0, two
    sides; NaN below two pairs. Bootstrap intervals are too narrow for few pairs, the test is exact for any number,
    so both have to agree before a difference counts as settled.
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

    @property
    def share(self) -> float:
        """Share of the pairs in which a is better, in [0, 1]; a tie counts half."""
        return (self.wins + self.ties / 2) / self.n if self.n else math.nan

    @property
    def verdict(self) -> Verdict:
        """`better` or `worse`: settled; `ahead` or `behind`: the same way in all of too few pairs; else open."""
        if self.n == 0:
            return "unpaired"
        if self.ties == self.n:
            return "equal"
        up = (self.mean > 0) == (self.better == "higher")
        if self.p < 1 - LEVEL and (self.low > 0 or self.high < 0):
            return "better" if up else "worse"
        if self.n < LEAST_PAIRS and self.wins in (0, self.n) and not self.ties:
            return "ahead" if up else "behind"
        return "open"


def spread(values: Mapping[Pair, float]) -> Spread:
    """Mean and deviations of one method's values by (order, seed)."""
    finite = {pair: value for pair, value in values.items() if math.isfinite(value)}
    found = np.array(list(finite.values()), dtype=np.float64)
    grid = _grid(finite)
    over_orders = over_seeds = math.nan
    if grid is not None:
        over_orders, over_seeds = _deviation(grid.mean(axis=1)), _deviation(grid.mean(axis=0))
    mean = float(found.mean()) if found.size else math.nan
    return Spread(found.size, mean, _deviation(found), over_orders, over_seeds)


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


def common(methods: Sequence[Mapping[Pair, float]]) -> tuple[list[Pair], np.ndarray]:
    """The pairs on which every method has a finite value, and the values, (pairs, methods)."""
    first, *others = methods
    shared = [
        p for p, v in first.items() if math.isfinite(v) and all(math.isfinite(o.get(p, math.nan)) for o in others)
    ]
    table = np.array([[method[pair] for method in methods] for pair in shared], dtype=np.float64)
    return shared, table.reshape(len(shared), len(methods))


def difference(a: Mapping[Pair, float], b: Mapping[Pair, float], better: Direction, seed: int = 0) -> Difference:
    """a - b over their common pairs: bootstrap interval of the mean (Efron 1987: BCa) and sign-flip test, seeded."""
    _, table = common([a, b])
    gaps = table[:, 0] - table[:, 1]
    ties = int((gaps == 0).sum())
    wins = int((gaps > 0).sum() if better == "higher" else (gaps < 0).sum())
    low, high, interval = _interval(gaps, seed)
    mean = float(gaps.mean()) if gaps.size else math.nan
    return Difference(gaps.size, mean, low, high, interval, _flipped(gaps, seed), wins, ties, better)


def ranks(table: np.ndarray, better: Direction) -> np.ndarray:
    """Rank of each method within each pair, (pairs, methods) -> the same; 1 is best, ties share their mean rank."""
    if not table.size:
        return np.empty_like(table)
    ranked: np.ndarray = stats.rankdata(-table if better == "higher" else table, axis=1)
    return ranked


def probability_best(table: np.ndarray, better: Direction, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each method has the best mean when the pairs are drawn anew with replacement.

    (pairs, methods) -> (methods,), summing to 1; methods that tie for the best share the draw. NaN without a pair.
    A share of bootstrap resamples, not a posterior; with a single pair it is 0 or 1 (or a tie) and says nothing.
    """
    pairs, methods = table.shape
    if not pairs:
        return np.full(methods, np.nan)
    drawn = np.random.default_rng(seed).multinomial(pairs, np.full(pairs, 1 / pairs), size=resamples) / pairs
    means = drawn @ (table if better == "higher" else -table)
    first = np.isclose(means, means.max(axis=1, keepdims=True), rtol=0, atol=1e-12)
    shares: np.ndarray = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares


def agreement(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of two rankings of the same methods, in [-1, 1]; NaN below two, or where one is all ties."""
    if len(a) < 2 or len(set(a)) < 2 or len(set(b)) < 2:
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


def _flipped(gaps: np.ndarray, seed: int) -> float:
    """p of the mean among all (at most RESAMPLES) ways to flip the differences' signs."""
    if gaps.size < 2:
        return math.nan
    found = stats.permutation_test(
        (gaps,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(seed)
    )
    return float(found.pvalue)


def _interval(gaps: np.ndarray, seed: int) -> tuple[float, float, str]:
    """(low, high, kind) of the mean's bootstrap interval."""
    if gaps.size < 2:
        return math.nan, math.nan, "none"
    if np.ptp(gaps) <= 1e-12 * max(1.0, float(np.abs(gaps).max())):
        return float(gaps.mean()), float(gaps.mean()), "point"
    for kind in ("BCa", "percentile"):
        found = stats.bootstrap(
            (gaps,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method=kind,
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        if math.isfinite(found.low) and math.isfinite(found.high):
            return float(found.low), float(found.high), kind
    raise AssertionError("a percentile interval of differing values is finite")
