"""Two states of a model, or two models, beside each other: lessons, settings, weights, concepts, scores, pictures."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perdure import memory as memories
from perdure import method as methods
from perdure.bases.words import words_of
from perdure.compare.statistics import t_interval
from perdure.lineage import Lineage, history, taught
from perdure.lineage.agreement import completed
from perdure.lineage.rows import Cell, Row, taught_by
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Method, Wanted
from perdure.plan import portable
from perdure.report import states
from perdure.report.samples import Sheet


@dataclass(frozen=True)
class State:
    """A model as it was after a lesson (0: the base); `name`: as it was asked for."""

    name: str
    lineage: Lineage
    number: int

    @classmethod
    def of(cls, text: str) -> "State":
        """MODEL, or MODEL@LESSON with its number or its tag. Raises LineageError."""
        folder, at, after = text.rpartition("@")
        lineage = Lineage(folder if at and not Path(text).exists() else text)
        number = history.numbered(lineage, after) if str(lineage.folder) == str(Path(folder)) and at else None
        return cls(text, lineage, len(lineage.lessons) if number is None else number)

    @property
    def row(self) -> Row:
        """The row of that lesson."""
        return self.lineage.rows[self.number]

    @property
    def concepts(self) -> list[str]:
        """What it knew then."""
        return list(taught_by(self.lineage.lessons[: self.number]))

    def memory(self) -> Memory:
        """What it carried then. Raises LineageError."""
        return memories.load(self.row.memory, self.lineage.store) if self.number else Memory()

    def method(self) -> Method:
        """Its method. Raises PlanError where its file is gone."""
        return methods.of(self.lineage.plan().methods[0])


@dataclass(frozen=True)
class Weights:
    """Weight changes of two states: Frobenius norms of each and of their difference, their cosine; NaN where 0 / 0.

    `moved`: projections that either moves; `equal`: those that both move alike, bit for bit. `concept`: whose, where
    the method must be told which is meant.
    """

    concept: str
    a: float
    b: float
    apart: float
    cosine: float
    moved: int
    equal: int


@dataclass(frozen=True)
class Score:
    """One measure of one concept. `low`, `high`: t interval (95 %) of b - a over pictures of one prompt and noise.

    None where the pictures are not pairs, or the measure scores no single ones.
    """

    concept: str
    measure: str
    a: float
    b: float
    low: float | None
    high: float | None
    pictures: int


@dataclass(frozen=True)
class Diff:
    """All of it. `shared`: lessons that both have, from the first on; `settings`: the first that differs, in words."""

    names: tuple[str, str]
    lessons: tuple[int, int]
    shared: int
    settings: str
    concepts: tuple[list[str], list[str], list[str]]
    """In both, in the first alone, in the second alone."""
    weights: tuple[Weights, ...]
    words: list[str]
    """Tokens of learnt words that are not the same in both."""
    scores: tuple[Score, ...]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes null."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(one) for key, one in value.items()}
            if isinstance(value, list | tuple):
                return [plain(one) for one in value]
            return None if isinstance(value, float) and math.isnan(value) else value

        found: dict[str, Any] = plain(asdict(self))
        return found


def of(a: State, b: State) -> Diff:
    """Compare two states. Raises LineageError where one is damaged."""
    mine, theirs = (portable(completed(one.lineage)) for one in (a, b))
    told = "" if mine == theirs else taught.difference(mine, theirs, places=(f"in {a.name}", f"in {b.name}"))
    both = [name for name in a.concepts if name in b.concepts]
    alone, other_alone = ([name for name in one.concepts if name not in both] for one in (a, b))
    notes: list[str] = []
    weights, words = _weights(a, b, both, notes)
    shared = 0
    for one, other in zip(a.lineage.lessons[: a.number], b.lineage.lessons[: b.number], strict=False):
        if one.record["memory"] != other.record["memory"]:
            break
        shared += 1
    scores = tuple(score for name in both for score in _scores(name, a.row.cell(name), b.row.cell(name), notes))
    lessons = (a.number, b.number)
    return Diff((a.name, b.name), lessons, shared, told, (both, alone, other_alone), weights, words, scores, notes)


def drawn_by_both(a: State, b: State) -> Sheet:
    """Every concept of either, drawn by both; a state draws what it does not know where that was asked of it."""
    pairs = []
    for name in dict.fromkeys((*a.concepts, *b.concepts)):
        holder = b if name in b.concepts else a
        pairs.append(states.pair(holder.lineage, name, a.row.cell(name), b.row.cell(name)))
    heads = [f"{one.lineage.folder.absolute().name}@{one.number}" for one in (a, b)]
    return states.sheet(f"{a.name} and {b.name}", pairs, (heads[0], heads[1]))


def _weights(a: State, b: State, both: list[str], notes: list[str]) -> tuple[tuple[Weights, ...], list[str]]:
    if a.lineage.facts["base_identity"] != b.lineage.facts["base_identity"]:
        notes.append("they stand on different bases, so that their weight changes are not compared")
        return (), []
    sides = [(one.method(), one.memory()) for one in (a, b)]
    told = any(method.consolidate.knows != "nothing" for method, _ in sides)
    known = [words_of(memory) for _, memory in sides]
    words = [token for token in dict.fromkeys((*known[0], *known[1])) if not _alike(known, token)]
    return tuple(_between(sides, name) for name in (both if told else [""])), words


def _alike(known: list[Any], token: str) -> bool:
    """Whether a learnt word is the same in both."""
    if any(token not in words for words in known):
        return False
    one, other = (words[token] for words in known)
    return one.vectors.keys() == other.vectors.keys() and all(
        torch.equal(vectors, other.vectors[number]) for number, vectors in one.vectors.items()
    )


def _between(sides: list[tuple[Method, Memory]], concept: str) -> Weights:
    """One projection at a time, as matrices in float64."""
    deltas = [method.consolidate.recall(memory, Wanted(concept or None)) for method, memory in sides]
    sums, equal = np.zeros(4), 0
    names = list(dict.fromkeys((*deltas[0], *deltas[1])))
    for one, other in _matrices(deltas, names):
        sums += [
            float((x * y).sum()) for x, y in ((one, one), (other, other), (one - other, one - other), (one, other))
        ]
        equal += int(torch.equal(one, other))
    norms = np.sqrt(sums[:3])
    cosine = float(sums[3] / (norms[0] * norms[1])) if norms[0] and norms[1] else math.nan
    return Weights(concept, float(norms[0]), float(norms[1]), float(norms[2]), cosine, len(names), equal)


def _matrices(deltas: list[Delta], names: list[str]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for name in names:
        one, other = (delta[name].matrix().double() if name in delta else torch.zeros(()).double() for delta in deltas)
        yield (one + 0 * other, other + 0 * one)


def _scores(name: str, a: Cell | None, b: Cell | None, notes: list[str]) -> Iterator[Score]:
    if a is None or b is None:
        notes.append(f"{name} was not drawn by both after these lessons")
        return
    drawn = [[(image["prompt"], image["latent"]) for image in cell.record["images"]] for cell in (a, b)]
    for measure in (m for m in a.scores if m in b.scores):
        if a.record["measures"][measure].get("spec") != b.record["measures"][measure].get("spec"):
            notes.append(f"{name}: {measure} was taken with different models")
            continue
        each = [cell.record.get("each", {}).get(measure, []) for cell in (a, b)]
        low, high = None, None
        if drawn[0] == drawn[1] and len(each[0]) == len(each[1]) > 1:
            low, high, _ = t_interval(np.array(each[1]) - np.array(each[0]))
        yield Score(name, measure, a.scores[measure], b.scores[measure], low, high, len(drawn[1]))
