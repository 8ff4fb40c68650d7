"""What the numbers say, in plain sentences."""

import math
from collections.abc import Callable

from perdure.compare import statistics
from perdure.compare.published import Beside, Line, Ranking
from perdure.compare.statistics import Difference, Spread
from perdure.compare.study import COMPARED, Study
from perdure.report.sentences import lacking
from perdure.report.summary import signed
from perdure.wording import listed, short_number

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
    """A published mean ± deviation as text; a dash where there is none."""
    if not math.isfinite(mean):
        return "–"
    return f"{short_number(mean)} ± {short_number(std)}" if math.isfinite(std) else short_number(mean)


def interval(difference: Difference) -> str:
    """A difference with its interval: +0.120 [+0.090, +0.150]."""
    if difference.interval in ("none", "point"):
        return signed(difference.mean)
    return f"{signed(difference.mean)} [{signed(difference.low)}, {signed(difference.high)}]"


def p_value(difference: Difference) -> str:
    """The corrected p as text, or why there is none."""
    if math.isfinite(difference.corrected):
        return f"{difference.corrected:.3f}"
    return f"none: {_orders(difference.n)}" if difference.n else "–"


def finding(study: Study, measure: str, figure: str) -> str:
    """What can and cannot be told apart by one figure: the row of the best mean against every other contender."""
    ranked = study.ranked(measure, figure)
    if not ranked:
        return "no method has a value."
    first = ranked[0]
    found = {b: d for a, b, d in study.differences(measure, figure) if a == first}
    if not found:
        return f"only {first} has a value, so there is nothing to compare."
    parts = [_part(first, verdict, found) for verdict in _SAID if any(d.verdict == verdict for d in found.values())]
    return f"{'; '.join(parts)}."


def _part(first: str, verdict: str, found: dict[str, Difference]) -> str:
    """All others of one verdict in one clause."""
    chosen = {other: d for other, d in found.items() if d.verdict == verdict}
    names = listed(list(chosen))
    if verdict in _BARE:
        return _BARE[verdict].format(first=first, names=names)
    if len(chosen) > MOST:
        told = names
    elif len(chosen) == 1:
        told = f"{names} {_numbers(next(iter(chosen.values())))}"
    else:
        told = listed([f"{other} ({_numbers(d).removeprefix('in ')})" for other, d in chosen.items()])
    few = f", too few to settle it ({too_few(next(iter(chosen.values())))})" if verdict in ("ahead", "behind") else ""
    return f"{first} {_SAID[verdict]} {told}{few}"


_SAID = {
    "better": "is better than", "ahead": "is ahead of", "open": "", "equal": "", "behind": "is behind",
    "worse": "is worse than", "unpaired": "",
}  # fmt: skip
"""Verdicts in the order in which they are told."""
_BARE = {
    "open": "{first} cannot be told apart from {names}",
    "equal": "{first} equals {names} in every order",
    "unpaired": "{first} shares no order and seed with {names}, so that these cannot be compared in pairs",
}


def _numbers(difference: Difference) -> str:
    first = difference.wins if difference.verdict in ("better", "ahead") else difference.n - difference.wins
    p = f", p = {p_value(difference)}" if math.isfinite(difference.corrected) else ""
    return f"in {first} of {_orders(difference.n)}, {interval(difference)}{p}"


def too_few(difference: Difference) -> str:
    """How many orders a verdict takes."""
    needed = statistics.least_orders(difference.comparisons)
    among = f" among {difference.comparisons} comparisons" if difference.comparisons > 1 else ""
    return f"a verdict{among} takes {needed}"


def _orders(n: int) -> str:
    return f"{n} order{'s' if n != 1 else ''}"


def setting(study: Study) -> str:
    """How many runs of what, and what mean and deviation run over."""
    count = {"runs": len(study.entries), "methods": len(study.rows), "orders": len(study.orders)}
    told = ", ".join(f"{n} {word if n != 1 else word[:-1]}" for word, n in count.items())
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) != 1 else ''}"
    return (
        f"{told}, {seeds}. Mean ± standard deviation (ddof = 1) over all runs of a method, orders and seeds together, "
        "which is no standard error. Tests and intervals run over the orders, each the mean of its seeds."
    )


def cautions(study: Study) -> list[str]:
    """What a reader must know before trusting the numbers."""
    told = [f"Left out, unfinished: {'; '.join(study.unfinished)}."] if study.unfinished else []
    old = [(row, wrong) for row in study.contenders for entry in study.of(row) for wrong in entry.run.outdated]
    told += [f"{row} {wrong}." for row, wrong in dict.fromkeys(old)]
    told += lacking([entry.run for row in study.rows for entry in study.of(row)[:1]])
    if study.murky:
        runs = [entry.run for row in study.murky for entry in study.of(row) if entry.run.murky]
        why = dict.fromkeys(d.told for r in runs for name in r.murky for d in r.doubts(r.lessons, name) if d.murk)
        told.append(
            f"Last scores of {len(runs)} of {len(study.entries)} runs prove nothing ({listed(list(study.murky))}), so "
            f"that nothing is marked as best: {'; '.join(list(why)[:MOST])}. Look at the pictures."
        )
    counts = {row: len(study.of(row)) for row in study.contenders}
    found = [d for m in study.primaries for f in COMPARED for *_, d in study.differences(m, f) if d.n and not d.enough]
    if found:
        fewest = min(found, key=lambda d: d.n)
        told.append(
            f"{_orders(fewest.n)}, whatever the seeds, settle{'s' if fewest.n == 1 else ''} nothing: the exact "
            f"sign-flip test cannot give less than p = {statistics.least_p(fewest.n):.3g} there; {too_few(fewest)}."
        )
    pairs = {frozenset(entry.pair for entry in study.of(row)) for row in study.contenders}
    if len(pairs) > 1:
        each = ", ".join(f"{row} {n}" for row, n in counts.items())
        told.append(
            f"The methods were not all run on the same orders and seeds (runs: {each}); differences use common pairs."
        )
    return told


def ranking(found: Ranking) -> str:
    """How the published means and those found here come, and what of that is settled here."""
    here = [method for tier in found.tiers for method in tier]
    means = "the same" if tuple(here) == found.there else ", ".join(here)
    settled = " > ".join(" ~ ".join(tier) for tier in found.tiers) if len(found.tiers) > 1 else "nothing"
    tau = f"{found.tau:.2f}".replace("-", "−") if math.isfinite(found.tau) else "undefined"
    return (
        f"{found.figure} by {found.measure}, means from best to worst: published {', '.join(found.there)}; "
        f"here {means} (Kendall's tau {tau} over {len(here)} methods); settled here: {settled}"
    )


def _variants(beside: Beside) -> str | None:
    """Which variants of methods the published rows are of; None where a method has only one."""
    if not beside.table.variants:
        return None
    told = listed([f"{method} with {beside.table.variant(method)}" for method in beside.table.variants])
    others = sorted(line.row for line in beside.lines if line.row and line.other)
    shown = f"; {listed(others)} {'is another variant' if len(others) == 1 else 'are other variants'}" if others else ""
    return f"The published rows are of {told}{shown}."


def line_name(beside: Beside, line: Line) -> str:
    """A published method with the variant that was published, or the row of another one."""
    if line.other:
        return f"{line.row} (not the published variant)"
    return (
        f"{line.method} ({beside.table.variant(line.method)})" if line.method in beside.table.variants else line.method
    )


def beside_sentences(beside: Beside) -> list[str]:
    """What the published numbers are of, and of which variants."""
    return [text for text in (_beside(beside), _variants(beside)) if text]


def _beside(beside: Beside) -> str:
    table = beside.table
    if beside.same:
        return f"Published for the protocol that this plan names ({table.title}): {table.source}; {table.deviation}."
    return (
        f"Another model and other data ({table.title}, base {table.base}): {table.source}; {table.deviation}. "
        "Only the order of the methods can be compared."
    )
