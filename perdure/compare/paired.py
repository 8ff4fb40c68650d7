"""Methods compared in pairs over orders: differences, the exact sign-flip test, correction for many comparisons."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count
from typing import Literal

import numpy as np
from scipy import stats

from perdure.compare.statistics import LEVEL, RESAMPLES, Pair, common, t_interval
from perdure.score.matrix import Direction

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
    corrected = holm([1.0 if math.isnan(d.p) else d.p for d in found.values()])
    return {
        pair: replace(d, comparisons=len(found), corrected=math.nan if math.isnan(d.p) else p)
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
    """p corrected for their number m: the k-th smallest times m - k + 1, never below a smaller one's, at most 1."""
    order = np.argsort(p, kind="stable")
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
