"""From finished rounds to a verdict: which method has the highest average, how often when the data are drawn anew.

A score x[r, c, m]: concept c after the last lesson of round r with method m, by the first measure of the concept's
kind, turned so that higher is better. Rounds (their order and seed) and concepts are crossed: every round teaches the
same concepts. Both are drawn anew, independently of one another (the pigeonhole bootstrap, Owen 2007, Annals of Applied
Statistics 1(2)), so that scores which share a round or a concept stay together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from perdure.compare import statistics
from perdure.compare.statistics import LEVEL, RESAMPLES, Pair
from perdure.lineage import Lineage
from perdure.report import reading, summary
from perdure.report.reading import Run
from perdure.report.sentences import doubted
from perdure.score import matrix

LEAST_ROUNDS, LEAST_SCORES = 2, 6
"""Fewest rounds that say anything about order and seed, and fewest scores by which methods can be told apart at all."""
BEHIND = 0.1
"""How far behind the leader a cheaper method may be to be named beside it, as a share of what the leader gained over
the base (taste): few data leave much within noise.
"""

Kind = Literal["clear", "likely", "undecided", "nothing learnt", "unscored", "unsound"]


@dataclass(frozen=True)
class Standing:
    """A method over all rounds. `best`: share of resamples in which its mean is best; `beaten`: in which the leader's
    is better (NaN for the leader); `above`: in which it is better than the untouched base; `gap`, `low`, `high`: how
    far it is behind the leader, and the middle 95 % of that over resamples; `settled`: whether the rounds alone,
    paired and corrected, settle that the leader's is better; `rounds`: its averages."""

    label: str
    average: float
    forgetting: float
    learning: float
    best: float
    beaten: float
    above: float
    gap: float
    low: float
    high: float
    settled: bool
    rounds: tuple[float, ...]
    carried: float
    seconds: float
    strict: bool
    knows: str
    breach: str

    @property
    def price(self) -> tuple[bool, float, float]:
        """What makes one of two equals the cheaper: within the rules, fewer bytes (two digits), fewer seconds."""
        return not (self.strict and self.knows == "nothing"), float(f"{self.carried:.1e}"), self.seconds


@dataclass(frozen=True)
class Verdict:
    """`standings`: highest average first; `tied`: those within noise of the leader; `choice`: the method to take."""

    kind: Kind
    standings: tuple[Standing, ...]
    tied: tuple[str, ...]
    choice: str | None
    rounds: int
    concepts: tuple[str, ...]
    base: float
    measures: Mapping[str, str]
    """Concept -> measure."""
    lower: bool
    """Whether a measure is better when lower: its scores are shown with the sign turned."""
    not_held_out: tuple[str, ...]
    """Concepts whose training images had to serve as references."""
    unsound: tuple[str, ...] = ()
    """What speaks against last scores that mean nothing, a sentence each."""

    @property
    def leader(self) -> Standing:
        """The highest average."""
        return self.standings[0]

    @property
    def enough(self) -> bool:
        """Whether there are rounds and concepts enough to call anything likely."""
        return enough(self.rounds, len(self.concepts))

    def standing(self, label: str) -> Standing:
        """That of one method."""
        return next(s for s in self.standings if s.label == label)

    @property
    def cheaper(self) -> Standing | None:
        """The cheapest that costs less than the leader, is within noise of it and behind by no more than `BEHIND`."""
        near = BEHIND * (self.leader.average - self.base)
        tied = [self.standing(label) for label in self.tied] if self.enough else []
        cheap = [s for s in tied if s.price < self.leader.price and s.gap <= near]
        return min(cheap, key=lambda s: s.price, default=None)


def enough(rounds: int, concepts: int) -> bool:
    """Whether there are rounds and scores enough to tell methods apart."""
    return rounds >= LEAST_ROUNDS and rounds * concepts >= LEAST_SCORES


def of(rounds: Sequence[Mapping[str, Lineage]]) -> Verdict:
    """The verdict of complete rounds, each method -> its finished lineage."""
    runs = [{label: reading.read([lineage])[0] for label, lineage in one.items()} for one in rounds]
    labels, first = list(runs[0]), next(iter(runs[0].values()))
    concepts = tuple(sorted(first.concepts))
    measures = {name: first.primary(name) or "" for name in concepts}
    scores = {label: [_scores(one[label]) for one in runs] for label in labels}
    finals = np.array(
        [[_last(one[label], scores[label][r], concepts) for label in labels] for r, one in enumerate(runs)]
    )
    x = finals.transpose(0, 2, 1)  # (rounds, concepts, methods)
    base = np.array([_scores(first)[0, first.concepts.index(name)] for name in concepts])
    lead = int(x.mean(axis=(0, 1)).argmax())
    best, settled = resampled(x), _settled(x, lead)
    columns = np.broadcast_to(base[None, :, None], (len(runs), len(concepts), 1))
    standings = [
        _standing(
            label, [one[label] for one in runs], scores[label], float(best[m]),
            math.nan if m == lead else float(resampled(x[:, :, [lead, m]])[0]),
            float(resampled(np.concatenate([x[:, :, [m]], columns], axis=2))[0]),
            x[:, :, lead] - x[:, :, m], settled[m],
        )
        for m, label in enumerate(labels)
    ]  # fmt: skip
    standings.sort(key=lambda s: (s.label != labels[lead], -s.average))
    kind, tied, choice = judge(standings, len(runs), len(concepts))
    unsound = doubted([run for one in runs for run in one.values() if run.murky])
    if unsound:
        kind, tied, choice = "unsound", (), None
    elif not all(measures.values()):
        kind, tied, choice = "unscored", (), None
    lower = any(first.direction(measure) == "lower" for measure in measures.values())
    bare = tuple(name for name in concepts if not first.facts[name]["held_out"])
    return Verdict(
        kind, tuple(standings), tied, choice, len(runs), concepts, float(base.mean()), measures, lower, bare, unsound
    )  # fmt: skip


def judge(standings: Sequence[Standing], rounds: int, concepts: int) -> tuple[Kind, tuple[str, ...], str | None]:
    """(kind, methods within noise of the leader, the one to take); the leader stands first, and is the one to take.

    Within noise: the interval of the paired difference from the leader (`interval`) holds zero. Where there are too
    few rounds and concepts to tell, all are.
    Simulated with equal methods (deviations: round 0.5, concept 1, noise 1; 2 to 6 rounds, 3 to 5 concepts, 300 trials
    each), some method passes as more than noise in 1 to 4 % of trials of two, and in none of trials of six.
    """
    leader, *others = standings
    if not leader.above >= LEVEL:
        return "nothing learnt", (), None
    if not enough(rounds, concepts):
        return "undecided", tuple(s.label for s in others), leader.label
    if within := tuple(s.label for s in others if not s.low > 0):
        return "undecided", within, leader.label
    return "clear" if all(s.settled for s in others) else "likely", (), leader.label


def resampled(x: np.ndarray) -> np.ndarray:
    """How often each method has the best mean when concepts and rounds are drawn anew with replacement.

    (rounds, concepts, methods) -> (methods,), summing to 1. With one round only the concepts are drawn.
    """
    return statistics.best_fractions(_drawn(x))


def interval(gaps: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the mean of paired differences (rounds, concepts), both drawn anew with replacement."""
    low, high = np.quantile(_drawn(gaps[:, :, None])[:, 0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _drawn(x: np.ndarray) -> np.ndarray:
    """Means (draws, methods) of scores (rounds, concepts, methods) with rounds and concepts drawn anew."""
    generator = np.random.default_rng(0)
    rounds, concepts = (generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n for n in x.shape[:2])
    drawn: np.ndarray = np.einsum("br,bc,rcm->bm", rounds, concepts, x, optimize=True)
    return drawn


def _settled(x: np.ndarray, lead: int) -> list[bool]:
    """Whether the leader is better than each method for these concepts: paired over the rounds, corrected (Holm)."""
    order = sorted(range(x.shape[2]), key=lambda m: m != lead)
    methods: dict[str, dict[Pair, float]] = {
        str(m): {(r, 0): float(value) for r, value in enumerate(x[:, :, m].mean(axis=1))} for m in order
    }
    found = statistics.differences(methods, "higher")
    return [m != lead and found[str(lead), str(m)].verdict == "better" for m in range(x.shape[2])]


def _scores(run: Run) -> np.ndarray:
    """S of a run, each column by the first measure of its concept's kind; higher is better."""
    S = np.full((len(run.rows), len(run.concepts)), np.nan)
    for j, name in enumerate(run.concepts):
        measure = run.primary(name)
        if measure is not None:
            S[:, j] = run.scores[measure][:, j] * (-1 if run.direction(measure) == "lower" else 1)
    return S


def _last(run: Run, S: np.ndarray, concepts: Sequence[str]) -> list[float]:
    return [float(S[-1, run.concepts.index(name)]) for name in concepts]


def _standing(
    label: str, runs: Sequence[Run], scores: Sequence[np.ndarray], best: float, beaten: float, above: float,
    gaps: np.ndarray, settled: bool,
) -> Standing:  # fmt: skip
    """A method's figures, means over rounds."""
    averages = tuple(matrix.average(S) for S in scores)
    costs, rules = [summary.costs(run) for run in runs], runs[-1].rules
    return Standing(
        label, float(np.mean(averages)), float(np.mean([matrix.forgetting(S) for S in scores])),
        float(np.mean([matrix.learning(S) for S in scores])), best, beaten, above, float(gaps.mean()), *interval(gaps),
        settled, averages,
        float(np.mean([cost["carried"] for cost in costs])), float(np.mean([cost["seconds"] for cost in costs])),
        rules.strict, rules.knows, rules.breach,
    )  # fmt: skip
