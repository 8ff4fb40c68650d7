"""Statistics over orders and seeds, against scipy's own calls, formulas by hand and counting by brute force."""

import math
import warnings
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from perdure.compare import statistics

GRID = {
    (o, s): v for o, row in zip("abc", [[1.0, 2.0], [3.0, 5.0], [8.0, 6.0]], strict=True) for s, v in enumerate(row)
}


def test_spread_says_over_what():
    found = statistics.spread(GRID)
    values = [1.0, 2.0, 3.0, 5.0, 8.0, 6.0]
    mean = sum(values) / 6
    assert (found.n, found.mean) == (6, pytest.approx(mean))
    assert found.std == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 5))
    by_order, by_seed = [1.5, 4.0, 7.0], [4.0, 13 / 3]
    assert found.over_orders == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in by_order) / 2))
    assert found.over_seeds == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in by_seed) / 1))
    holed = statistics.spread({**GRID, ("a", 0): math.nan})
    assert holed.n == 5 and holed.mean == pytest.approx(24 / 5) and math.isnan(holed.over_orders)
    twin = stats.ttest_1samp(by_order, 0).confidence_interval(0.95)  # of the mean, over the orders
    assert (found.orders, found.low, found.high) == (3, pytest.approx(twin.low), pytest.approx(twin.high))
    one, none = statistics.spread({("a", 0): 2.0}), statistics.spread({})
    assert (one.n, one.mean, none.n) == (1, 2.0, 0) and math.isnan(one.std) and math.isnan(none.mean)


def test_two_way_squares_by_hand():
    found = statistics.effects(GRID)
    grand, by_order, by_seed = 25 / 6, [1.5, 4.0, 7.0], [4.0, 13 / 3]
    assert found.order == pytest.approx(2 * sum((m - grand) ** 2 for m in by_order))
    assert found.seed == pytest.approx(3 * sum((m - grand) ** 2 for m in by_seed))
    assert found.total == pytest.approx(sum((v - grand) ** 2 for v in GRID.values()))
    assert found.freedom == (2, 1, 2) and found.by_chance == (0.4, 0.2, 0.4)
    assert sum(found.fractions) == pytest.approx(1)
    assert statistics.effects({**GRID, ("a", 0): math.nan}) is None
    assert statistics.effects({pair: v for pair, v in GRID.items() if pair[1] == 0}) is None
    assert all(map(math.isnan, statistics.effects(dict.fromkeys(GRID, 1.0)).fractions))


def by_order(values, seeds=1):
    """One value an order; with more seeds each order's values lie evenly about it."""
    shifts = np.linspace(-1, 1, seeds) if seeds > 1 else [0.0]
    return {(order, seed): float(v + shift) for order, v in enumerate(values) for seed, shift in enumerate(shifts)}


A, B = [0.9, 0.7, 0.8, 0.95, 0.6, 0.85, 0.75, 0.9], [0.5, 0.4, 0.5, 0.5, 0.3, 0.4, 0.35, 0.6]


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_difference_is_over_orders_with_seeds_averaged_inside(seeds):
    found = statistics.difference(by_order(A, seeds), by_order(B, seeds), "higher")
    twin = stats.ttest_rel(A, B).confidence_interval(0.95)
    assert (found.n, found.wins, found.ties, found.share) == (8, 8, 0, 1.0), "seeds make no further orders"
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(A) - np.mean(B), twin.low, twin.high))
    assert found.interval == "t" and found.p == pytest.approx(2 / 2**8) and found.verdict == "better"
    assert statistics.difference(by_order(A, seeds), by_order(B, seeds), "lower").verdict == "worse"
    assert statistics.difference(by_order(B, seeds), by_order(A, seeds), "higher").share == 0


def test_an_order_in_which_both_are_equal_is_won_by_neither():
    one, two = by_order([0.5, 0.7, 0.2]), by_order([0.5, 0.4, 0.6])
    for better in ("higher", "lower"):
        found = statistics.difference(one, two, better)
        assert (found.n, found.wins, found.ties) == (3, 1, 1)
    assert statistics.difference(one, by_order([0.5, 0.9, 0.2]), "lower").wins == 1


def test_only_seeds_in_common_are_averaged():
    a, b = {("x", 0): 1.0, ("x", 1): 9.0, ("y", 0): 2.0, ("z", 1): 3.0}, {("x", 0): 0.5, ("y", 0): 1.0, ("z", 0): 5.0}
    found = statistics.difference(a, b, "higher")
    assert (found.n, found.mean) == (2, pytest.approx((0.5 + 1.0) / 2))
    orders, table = statistics.common([a, b])
    assert orders == ["x", "y"] and table.tolist() == [[1.0, 0.5], [2.0, 1.0]]


def flips(gaps):
    """p of the sign-flip test, two sides, by trying every way to flip."""
    sums = [sum(s * g for s, g in zip(signs, gaps, strict=True)) for signs in product((1, -1), repeat=len(gaps))]
    above = np.mean([s >= sum(gaps) - 1e-12 for s in sums])
    below = np.mean([s <= sum(gaps) + 1e-12 for s in sums])
    return min(1.0, 2 * min(above, below))


@pytest.mark.parametrize(
    "gaps", [[3.0, -1.0, 2.0, 2.5, -0.5, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -0.5], [-1.0] * 5 + [2.0]]
)
def test_sign_flips_are_counted_exactly(gaps):
    found = statistics.difference(by_order(gaps), by_order([0] * len(gaps)), "higher")
    assert found.p == pytest.approx(flips(gaps))


def test_of_many_orders_some_flips_are_tried_and_a_seed_repeats_them():
    """Of 14 orders there are 16384 ways to flip, more than are tried: p is near the exact one, and the seed's own."""
    gaps = np.random.default_rng(5).normal(0.02, 0.1, 14)
    sums = np.array(list(product((1, -1), repeat=14))) @ gaps
    exact = 2 * min((sums >= gaps.sum() - 1e-12).mean(), (sums <= gaps.sum() + 1e-12).mean())
    a, b = by_order(gaps), by_order([0.0] * 14)
    first, again, other = (statistics.difference(a, b, "higher", seed).p for seed in (3, 3, 4))
    assert first == again != other and [first, other] == pytest.approx([exact] * 2, abs=0.03) and exact > 0.1
    assert statistics.difference(a, b, "higher") == statistics.difference(a, b, "higher", 0)
    for seeds in ((), (3,)):
        assert statistics.differences({"a": a, "b": b}, "higher", *seeds) == {
            ("a", "b"): statistics.difference(a, b, "higher", *seeds)
        }


def test_below_six_orders_there_is_no_p():
    """Of four orders, the published protocol's number, even a difference that never varies has p = .125."""
    for n in range(2, 6):
        found = statistics.difference(by_order([0.5 + k / 9 for k in range(n)], 2), by_order([0.0] * n, 2), "higher")
        assert math.isnan(found.p) and math.isnan(found.corrected) and found.verdict == "ahead" and not found.enough
        assert statistics.least_p(n) == flips([1.0] * n) > 0.05
    assert statistics.least_p(4) == 0.125 and found.low > 0, "the interval alone does not settle it"
    assert [statistics.least_orders(m) for m in (0, 1, 2, 3, 6, 15)] == [6, 6, 7, 7, 8, 10]
    assert all(m * flips([1.0] * n) < 0.05 for m, n in ((1, 6), (3, 7), (6, 8))) and 6 * flips([1.0] * 7) > 0.05


def test_holm_is_the_closed_test():
    """Holm's corrected p of a hypothesis: the largest Bonferroni p over all sets of hypotheses that hold it."""
    for p in ([0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.9], [0.02], [0.03, 0.01, 1.0, 0.01, 0.2]):
        sets = [s for size in range(1, len(p) + 1) for s in combinations(range(len(p)), size)]
        closed = [max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(len(p))]
        assert statistics.holm(p) == pytest.approx(closed)
    assert statistics.holm([]) == []
    assert statistics.holm([math.nan, 0.25, 0.01, math.nan]) == pytest.approx(
        [math.nan, 0.75, 0.04, math.nan], nan_ok=True
    )


def test_differences_are_corrected_for_their_number():
    rng = np.random.default_rng(0)
    methods = {name: by_order(rng.normal(mean, 0.1, 9)) for name, mean in (("a", 1.0), ("b", 0.6), ("c", 0.55))}
    methods["d"] = {(order, 0): 0.5 for order in range(3)}
    found = statistics.differences(methods, "higher")
    assert list(found) == list(combinations("abcd", 2)) and {d.comparisons for d in found.values()} == {6}
    known = {pair: d for pair, d in found.items() if "d" not in pair}
    for (a, b), d in known.items():
        alone = statistics.difference(methods[a], methods[b], "higher")
        assert (d.p, d.mean, d.low) == (alone.p, alone.mean, alone.low) and d.p < d.corrected
    assert found["a", "b"].corrected == pytest.approx(6 * min(d.p for d in known.values()))
    assert found["a", "b"].verdict == "better" and math.isnan(found["a", "d"].corrected)


def flipped_pairs(gaps, signs):
    """p of the sign-flip test over all runs, as if these were independent: many experiments (trials, runs) at once."""
    sums, seen = gaps @ signs.T, gaps.sum(axis=1, keepdims=True)
    return (np.abs(sums) >= np.abs(seen) - 1e-12).mean(axis=1)


@pytest.mark.parametrize(("orders", "trials"), [(4, 200), (8, 200)])
def test_effects_of_orders_alone_make_no_winner(orders, trials):
    """Equal methods whose scores move with the order, two seeds each; some pair "better" in at most 5 % of the trials.

    Runs taken for independent and pairs not corrected, as `compare` once had it, give several times as many.
    """
    rng = np.random.default_rng(1)
    x = rng.normal(0, 0.05, (trials, 3, orders, 1)) + rng.normal(0, 0.005, (trials, 3, orders, 2))
    signs = np.array(list(product((1, -1), repeat=2 * orders)) if orders == 4 else rng.choice((1, -1), (2000, 16)))
    naive = [flipped_pairs((x[:, a] - x[:, b]).reshape(trials, -1), signs) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert (np.min(naive, axis=0) < 0.05).mean() > 0.2

    def settles(scores):
        methods = {name: {(o, s): float(own[o, s]) for o in range(orders) for s in (0, 1)}
                   for name, own in zip("abc", scores, strict=True)}  # fmt: skip
        return any(d.verdict in ("better", "worse") for d in statistics.differences(methods, "higher").values())

    rate = np.mean([settles(scores) for scores in x])
    assert rate <= (0.0 if orders == 4 else 0.05)


def test_degenerate_differences_say_so():
    nan = math.nan
    cases = {
        (): ("none", "unpaired"), (0.5,): ("none", "ahead"), (-0.5, -0.25): ("t", "behind"),
        (0.25,) * 4: ("point", "ahead"), (0.25,) * 6: ("point", "better"), (0.0, 0.0): ("point", "equal"),
        (0.5, -0.5, 0.5): ("t", "open"), (nan, 0.5): ("none", "ahead"),
    }  # fmt: skip
    for gaps, (interval, verdict) in cases.items():
        found = statistics.difference(by_order(gaps), by_order([0.0] * len(gaps)), "higher")
        assert (found.interval, found.verdict) == (interval, verdict), gaps
        assert found.n == sum(not math.isnan(g) for g in gaps)
    point = statistics.difference(by_order([0.25] * 4), by_order([0.0] * 4), "higher")
    assert point.low == point.high == point.mean == 0.25
    none = statistics.difference({("a", 0): 1.0}, {("a", 1): 1.0}, "higher")
    assert none.verdict == "unpaired" and math.isnan(none.share)


def test_what_cannot_be_computed_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pairs, n in (({}, 0), ({("a", 0): 2.0}, 1), ({("a", 0): math.nan}, 0)):
            found = statistics.spread(pairs)
            assert found.n == n and all(map(math.isnan, (found.std, found.over_orders, found.low, found.high)))
            pair = statistics.difference(pairs, {("a", 0): 1.0}, "higher")
            assert (pair.n, pair.interval, pair.comparisons) == (n, "none", 1) and math.isnan(pair.p)
        assert all(math.isnan(statistics.kendall(*both)) for both in (([], []), ([1], [1]), ([1, 1], [1, 2])))
        assert math.isnan(statistics.kendall([1, 2], [3, 3]))


def test_one_comparison_needs_no_more_orders_than_one():
    found = statistics.difference(by_order([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]), by_order([0.0] * 6), "higher")
    assert (found.comparisons, found.enough, found.verdict) == (1, True, "better") and found.p == found.corrected


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.5, 0.5 + 0.5e-12], "point"), ([0.5, 0.5 + 1.5e-12], "t"),  # at most a millionth of a millionth of 1
        ([1000, 1000 + 5e-10], "point"), ([1000, 1000 + 2e-9], "t"), ([-1000, 5e-10 - 1000], "point"),  # of the largest
    ],
)  # fmt: skip
def test_differences_that_differ_by_rounding_alone_are_a_point(values, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's own, of nearly equal values
        assert statistics.t_interval(np.array(values, dtype=float))[2] == kind


def test_ranks_and_the_chance_of_being_best():
    table = np.array([[0.9, 0.5, 0.5], [0.8, 0.9, 0.1], [0.9, 0.1, 0.25]])
    assert statistics.ranks(table, "higher").tolist() == [[1, 2.5, 2.5], [2, 1, 3], [1, 3, 2]]
    assert statistics.ranks(table, "lower").tolist() == [[3, 1.5, 1.5], [2, 3, 1], [3, 1, 2]]
    best = statistics.probability_best(table, "higher")
    # b beats a only where the second pair is drawn three times: gaps of a are .4, -.1, .8
    assert best == pytest.approx([26 / 27, 1 / 27, 0], abs=0.01)
    shares = [0.0, 0.0, 0.0]
    for rows in product(table, repeat=3):
        sums = [round(sum(row[m] for row in rows), 9) for m in range(3)]
        for m in range(3):
            shares[m] += (sums[m] == min(sums)) / sums.count(min(sums)) / 27
    assert shares[0] == 0 < min(shares[1:])
    assert statistics.probability_best(table, "lower") == pytest.approx(shares, abs=0.01)
    first, again, other = (statistics.probability_best(table, "higher", seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(best, first) and np.array_equal(first, again) and not np.array_equal(first, other)
    assert statistics.probability_best(np.ones((4, 2)), "higher") == pytest.approx([0.5, 0.5])
    assert np.isnan(statistics.probability_best(np.empty((0, 2)), "higher")).all()
    assert statistics.ranks(np.empty((0, 2)), "higher").shape == (0, 2)


def test_only_rounding_makes_means_equal():
    means = np.array([[1.0, 1.000001], [0.0, 5e-10], [1.0, 1.0 + 1e-13], [0.3, 0.2]])  # b, b, both, a
    assert statistics.best_fractions(means).tolist() == [1.5 / 4, 2.5 / 4]


def test_kendalls_tau_by_counting():
    there, here = [4, 3, 2, 1], [4, 2, 3, 1]  # one of six pairs is turned
    assert statistics.kendall(there, here) == pytest.approx((5 - 1) / 6)
    assert statistics.kendall([1, 2], [2, 1]) == -1 and math.isnan(statistics.kendall([1], [1]))
