"""What the numbers say, in plain sentences."""

import math
from collections.abc import Callable, Sequence

from perdure.compare.published import Beside, Order
from perdure.compare.statistics import LEAST_PAIRS, Difference, Spread
from perdure.compare.study import Study
from perdure.report.summary import signed
from perdure.report.svg import short_number

MOST = 3
"""Methods up to which a sentence carries their numbers."""


def plus_minus(spread: Spread, show: Callable[[float], str]) -> str:
    """Mean ± deviation as text; the mean alone below two values."""
    if not math.isfinite(spread.mean):
        return "–"
    if not math.isfinite(spread.std):
        return show(spread.mean)
    return f"{show(spread.mean)} ± {show(spread.std).lstrip('+')}"


def published(mean: float, std: float) -> str:
    """A published mean ± deviation as text."""
    return f"{short_number(mean)} ± {short_number(std)}" if math.isfinite(std) else short_number(mean)


def interval(difference: Difference) -> str:
    """A difference with its interval: +0.120 [+0.090, +0.150]."""
    if difference.interval in ("none", "point"):
        return signed(difference.mean)
    return f"{signed(difference.mean)} [{signed(difference.low)}, {signed(difference.high)}]"


def finding(study: Study, measure: str, figure: str) -> str:
    """What can and cannot be told apart by one figure: the best row against every other contender."""
    ranked = study.ranked(measure, figure)
    if not ranked:
        return "no method has a value."
    best, *others = ranked
    if not others:
        return f"only {best} has a value, so there is nothing to compare."
    found = {other: study.difference(measure, figure, best, other) for other in others}
    parts = [_part(best, verdict, found) for verdict in _SAID if any(d.verdict == verdict for d in found.values())]
    return f"{'; '.join(parts)}."


def _part(best: str, verdict: str, found: dict[str, Difference]) -> str:
    """All others of one verdict in one clause."""
    chosen = {other: d for other, d in found.items() if d.verdict == verdict}
    names = listed(list(chosen))
    if verdict in _BARE:
        return _BARE[verdict].format(best=best, names=names)
    if len(chosen) > MOST:
        told = names
    elif len(chosen) == 1:
        told = f"{names} {_numbers(next(iter(chosen.values())))}"
    else:
        told = listed([f"{other} ({_numbers(d).removeprefix('in ')})" for other, d in chosen.items()])
    return f"{best} {_SAID[verdict]} {told}" + (
        ", too few pairs to settle it" if verdict in ("ahead", "behind") else ""
    )


_SAID = {
    "better": "is better than", "ahead": "is ahead of", "open": "", "equal": "", "behind": "is behind",
    "worse": "is worse than", "unpaired": "",
}  # fmt: skip
"""Verdicts in the order in which they are told."""
_BARE = {
    "open": "{best} cannot be told apart from {names}",
    "equal": "{best} equals {names} in every pair",
    "unpaired": "{best} shares no order and seed with {names}, so that these cannot be compared in pairs",
}


def _numbers(difference: Difference) -> str:
    first = difference.wins if difference.verdict in ("better", "ahead") else difference.n - difference.wins
    pairs = "pair" if difference.n == 1 else "pairs"
    return f"in {first} of {difference.n} {pairs}, {interval(difference)}"


def setting(study: Study) -> str:
    """How many runs of what, and what mean and deviation run over."""
    count = {"runs": len(study.entries), "methods": len(study.rows), "orders": len(study.orders)}
    told = ", ".join(f"{n} {word if n != 1 else word[:-1]}" for word, n in count.items())
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) != 1 else ''}"
    return (
        f"{told}, {seeds}. Mean ± standard deviation (ddof = 1) over a method's runs, one for each order and seed; "
        "a deviation is not a standard error."
    )


def cautions(study: Study) -> list[str]:
    """What a reader must know before trusting the numbers."""
    told = [f"Left out, unfinished: {'; '.join(study.unfinished)}."] if study.unfinished else []
    counts = {row: len(study.of(row)) for row in study.contenders}
    if len(counts) > 1 and min(counts.values()) < LEAST_PAIRS:
        told.append(
            f"With fewer than {LEAST_PAIRS} pairs nothing can be settled: of n pairs, two equal methods differ the "
            "same way in all with probability 2^(1 − n)."
        )
    pairs = {frozenset(entry.pair for entry in study.of(row)) for row in study.contenders}
    if len(pairs) > 1:
        each = ", ".join(f"{row} {n}" for row, n in counts.items())
        told.append(
            f"The methods were not all run on the same orders and seeds (runs: {each}); differences use common pairs."
        )
    return told


def order_sentence(order: Order) -> str:
    """How two orders of methods agree."""
    same = "the same order" if order.here == order.there else f"here {' > '.join(order.here)}"
    tau = f"{order.tau:.2f}".replace("-", "−") if math.isfinite(order.tau) else "undefined"
    return (
        f"{order.figure} by {order.measure}, best first: published {' > '.join(order.there)}; {same} "
        f"(Kendall's tau {tau} over {len(order.here)} methods)"
    )


def beside_sentence(beside: Beside) -> str:
    """What the published numbers are of."""
    table = beside.table
    if beside.same:
        return f"Published for the protocol that this plan names ({table.title}): {table.source}; {table.spread}."
    return (
        f"Another model and other data ({table.title}, base {table.base}): {table.source}; {table.spread}. "
        "Only the order of the methods can be compared."
    )


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
