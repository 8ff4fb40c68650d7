"""The finding in plain words, from the numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from perdure.report.reading import Run, figures, primaries
from perdure.wording import listed

LEAST_GAIN = 0.005
"""Mean gain of a lesson (in units of the measure) below which a share of it would be noise."""
FOREIGN = "foreign"
SHOWN = 6
"""Doubts about single scores that are told at the head of a page."""
CLOSE = 0.05
"""Shares that differ by less are called too close to tell apart from one run."""


@dataclass(frozen=True)
class Finding:
    """The page's first lines. `doubts`: what does not hold, a sentence each."""

    headline: str
    explanation: str
    caution: str
    doubts: tuple[str, ...] = ()


def retained(run: Run) -> float:
    """Share of the gain on earlier concepts that is still there: (final - base) / (learnt - base).

    Gains of the concepts of one measure (their kind's first) are summed before dividing, so that a concept
    that hardly rose above the base cannot dominate; several measures are averaged, weighted by their
    concepts. The last concept does not count: nothing came after it. Only what holds counts: a concept whose score
    right after its own lesson proves nothing is left out, and one whose last score does has kept nothing. NaN where
    nothing was gained, or there is no earlier concept that counts.
    """
    if run.joint or run.lessons < 2:
        return float("nan")
    shares, weights = [], []
    for measure in primaries([run]):
        earlier = [
            j
            for j, name in enumerate(run.concepts[:-1])
            if run.primary(name) == measure and not run.doubts(j + 1, name)
        ]
        if not earlier:
            continue
        sign = 1.0 if run.direction(measure) == "higher" else -1.0
        S = sign * run.scores[measure]
        base, final = S[0, earlier], S[-1, earlier]
        lost = [bool(run.doubts(run.lessons, run.concepts[j])) for j in earlier]
        final = np.where(lost, np.minimum(final, base), final)
        gained = float(np.sum([S[j + 1, j] for j in earlier] - base))
        if not gained >= LEAST_GAIN * len(earlier):
            return float("nan")
        shares.append(float(np.sum(final - base)) / gained)
        weights.append(len(earlier))
    return float(np.average(shares, weights=weights)) if shares else float("nan")


def doubted(runs: Sequence[Run]) -> tuple[str, ...]:
    """What does not hold, a sentence each: of scorers first, then of the pictures and scores that count most."""
    foreign = {name: d.told for run in runs for name in run.concepts for d in run.doubts(0, name) if d.kind == FOREIGN}
    told = [f"{listed([n for n in foreign if foreign[n] == why])}: {why}" for why in dict.fromkeys(foreign.values())]
    if told:
        told[-1] += "; their scores prove nothing, look at the pictures"
    places = dict.fromkeys(
        (run.label, name, row) for run in runs for name in run.concepts for row in _counting(run, name)
    )
    by = {run.label: run for run in runs}
    found = [
        f"{label}, {name} after lesson {row}: {'; '.join(why)}"
        for label, name, row in places
        if (why := [d.told for d in by[label].doubts(row, name) if d.kind != FOREIGN])
    ]
    more = [f"the same kind of thing {len(found) - SHOWN} times more"] if len(found) > SHOWN else []
    return tuple(f"Does not hold: {sentence}." for sentence in (*told, *found[:SHOWN], *more))


def _counting(run: Run, concept: str) -> tuple[int, int]:
    """The lessons after which a concept's score counts most: its own, and the last."""
    return run.own_row(concept), run.lessons


def finding(runs: Sequence[Run]) -> Finding:
    """The headline of one or several runs of one plan."""
    taught = [run for run in runs if not run.joint and run.lessons >= 2]
    shares = {run.label: retained(run) for run in taught}
    known = {label: share for label, share in shares.items() if math.isfinite(share)}
    doubts = doubted(runs)
    if not known:
        return Finding(_without_shares(runs), "", _caution(runs, known), doubts)
    contenders = [run.label for run in taught if not run.bound]
    measures = " and ".join(primaries(taught))
    explanation = (
        f"Gained: how far a concept's score ({measures}) rose above the untouched base in its own lesson. "
        "Kept: how much of that was still there after the last lesson, summed over all concepts "
        "but the last one."
    )
    lost = [run.label for run in taught if run.whole and not math.isfinite(shares[run.label])]
    if lost:
        explanation += f" No share is given for {listed(lost)}: its lessons hardly rose above the base, or do not hold."
    close = {label: share for label, share in known.items() if label in contenders}
    if doubts:
        explanation += " A score that does not hold counts for nothing."
    sentence = _kept_sentence(taught, known)
    return Finding(sentence, explanation + _joint_sentence(runs), _caution(runs, close), doubts)


def lacking(runs: Sequence[Run]) -> tuple[str, ...]:
    """What is not known of runs of which not every cell, or not every picture, was drawn."""
    known = ("noises", "confidence", "half_width")
    asked = [cell.record.get("budget", {}) for run in runs for cell in run.cells.values()]
    budgets = [one for one in asked if set(known) <= one.keys()]
    told = []
    if budgets:
        drawn, least = [one["noises"] for one in budgets], min(one["confidence"] for one in budgets)
        wide = [one["half_width"] for one in budgets if one["half_width"] is not None]
        told.append(
            f"Cells were drawn until their mean by the first measure was known (sampling.budget): {min(drawn)} to "
            f"{max(drawn)} pictures a prompt, means known to ± {max(wide, default=math.nan):.3f} or better at "
            f"{least:.0%} each; other measures may be known less well."
        )
    labels = [run.label for run in runs if run.ends and not run.joint]
    if not labels:
        return tuple(told)
    return (
        *told,
        f"Of {listed(labels)} only each lesson's own cell and the last row were drawn (sampling.rows: ends). So there "
        "is no average along the way, no forward transfer and no curve of a concept; forgetting is the fall since the "
        "own lesson, and a concept that was better in between has forgotten more.",
    )


def shared(runs: Sequence[Run]) -> tuple[str, ...]:
    """What of runs was taken over from others, a sentence each."""
    told = []
    for run in runs:
        each = [row.record["shared"] for row in run.rows[1:] if "shared" in row.record]
        trained = [one["trained"] for one in each if "trained" in one]
        parts = [f"the adapter of {one} taken over" for one in trained]
        cells = sum(len(one.get("cells", ())) for one in each)
        parts += [f"{cells} {'cell' if cells == 1 else 'cells'} linked"] if cells else []
        if parts:
            told.append(f"Of {run.label}: {listed(parts)}; its seconds are what that took where it was done.")
    return tuple(told)


def _kept_sentence(taught: Sequence[Run], shares: dict[str, float]) -> str:
    lengths = {run.lessons for run in taught if run.label in shares}
    if len(lengths) > 1:
        parts = [f"{r.label} ({r.lessons} lessons) kept {_share(shares[r.label])}" for r in taught if r.label in shares]
        return f"So far, of what was gained on earlier concepts: {'; '.join(parts)}."
    lessons = lengths.pop()
    labels = list(shares)
    if len(labels) > 4:
        low, high = min(labels, key=shares.__getitem__), max(labels, key=shares.__getitem__)
        return (
            f"After {lessons} lessons, between {_share(shares[low])} ({low}) and {_share(shares[high])} "
            f"({high}) was left of what had been gained on earlier concepts."
        )
    first, *rest = labels
    kept = _share(shares[first])
    sentence = f"After {lessons} lessons, {first} kept {kept} of what it had gained on earlier concepts"
    return "; ".join([sentence, *(f"{label} kept {_share(shares[label])}" for label in rest)]) + "."


def _without_shares(runs: Sequence[Run]) -> str:
    begun = [run for run in runs if run.lessons]
    if not begun:
        return "No lesson has finished yet."
    if all(run.joint for run in begun):
        run = begun[0]
        values = [f"{figures(run, m)['average']:.3f} ({m})" for m in primaries([run])]
        number = len(run.concepts)
        return f"Taught all {number} concepts at once, the model scores {' and '.join(values)} on average."
    if all(run.murky for run in begun):
        return "Nothing can be said of what was kept: the scores do not hold."
    if all(run.lessons == 1 for run in begun):
        return f"One lesson so far ({begun[0].concepts[0]}): nothing could have been forgotten yet."
    if not any(run.whole for run in begun):
        return "What was kept is known after the last lesson: until then only what a lesson taught is drawn."
    return "The lessons hardly raised any concept above the untouched base, so there was little to forget."


def _joint_sentence(runs: Sequence[Run]) -> str:
    joint = next((run for run in runs if run.joint and run.scores), None)
    if joint is None:
        return ""
    values = [f"{figures(joint, m)['average']:.3f} ({m})" for m in primaries([joint])]
    return f" Taught all concepts at once, the same base reaches an average of {' and '.join(values)}."


def _caution(runs: Sequence[Run], shares: dict[str, float]) -> str:
    unfinished = [f"{r.label} has {len(r.concepts)} of {r.planned}" for r in runs if len(r.concepts) < r.planned]
    text = f"Unfinished, concepts taught so far: {'; '.join(unfinished)}. " if unfinished else ""
    if not any(run.lessons >= 2 for run in runs):
        return text.strip()
    text += "One seed, one order"
    ranked = sorted(shares, key=lambda label: shares[label], reverse=True)
    groups = [ranked[:1]]
    for above, label in pairwise(ranked):
        if shares[above] - shares[label] < CLOSE:
            groups[-1].append(label)
        else:
            groups.append([label])
    tied = [listed(group) for group in groups if len(group) > 1]
    if tied:
        return text + f": too little to tell apart {', or '.join(tied)}."
    return text + ": another seed or order would give other numbers; small differences mean nothing."


def _share(share: float) -> str:
    return "none" if share <= 0 else f"{100 * share:.0f} %"
