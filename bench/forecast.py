"""Which older concepts a lesson endangers, and which order of concepts is best: forecast and measured; see README.md.

python bench/forecast.py FOLDER...     # folders of finished models, or with such in them: orders and seeds of one sweep

A forecast sees what is there before a lesson: the memory, the lessons' own changes (which the lineage keeps), the kept
features of references, and the new photos; no old photo. It is worth something where it ranks the older concepts by
what the lesson then costs them better than two guesses: that the concept taught last suffers most, and that the most
alike does. Neither forecast nor planner is a command of perdure before that is shown.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from perdure import memory as memories
from perdure import seeds
from perdure.analysis.updates import difference
from perdure.bases import loading
from perdure.bases.words import words_of
from perdure.cli.looking import taught_in
from perdure.compare.statistics import t_interval
from perdure.drawing.judging import kept_features
from perdure.drawing.tools import Tools
from perdure.lesson import examples
from perdure.lesson.model import LessonModel
from perdure.lineage import Lineage
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Wanted
from perdure.report import reading

BATCHES, SIZE = 8, 4
"""Noised batches of the new photos that gradients and activations are means over, and their size."""
GUESSES = ("last", "alike")
FORECASTS = ("against", "overlap", "response")
MOST = 7
"""Concepts up to which the planner tries every order."""


@dataclass(frozen=True)
class Probe:
    """What the new photos do to the model before the lesson: gradient (out, in) and norms of the inputs (in,)."""

    gradient: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]

    @property
    def size(self) -> float:
        """Norm of the whole gradient."""
        return math.sqrt(sum(float(g.double().square().sum()) for g in self.gradient.values()))


def probe(tools: Tools, lineage: Lineage, memory: Memory, name: str) -> Probe:
    """The new concept `name` seen by the model with a memory; nothing is trained."""
    plan, backbone, method = tools.plan, tools.backbone, tools.method
    concept = lineage.concept(name)
    encoded = examples.encode(backbone, tools.pictures(concept).training, plan.training, plan.seed, name)
    projections = list(backbone.projections(method.adapter.targets))
    past = method.consolidate.recall(memory, Wanted(name))
    known = {token: partial(lambda word: word, word) for token, word in words_of(memory).items()}
    draw = partial(seeds.generator, plan.seed, f"forecast {name}")
    model = LessonModel(backbone, encoded, past, plan, projections, draw)
    with backbone.speaking(known), backbone.laid(past):
        batches = model.batches("forecast", BATCHES, SIZE)
        found = [model.gradients(partial(model.loss, batch)) for batch in batches]
        norms = [model.input_norms(batch) for batch in batches]
    return Probe(
        {p: torch.stack([g[p].cpu() for g in found]).mean(dim=0) for p in projections},
        {p: torch.stack([n[p].cpu() for n in norms]).mean(dim=0) for p in projections},
    )


def carried(tools: Tools, lineage: Lineage, upto: int) -> dict[str, Mapping[str, Tensor]]:
    """Concept -> what its own lesson changed, (out, in) by projection, of the first `upto` lessons of one concept."""
    rules, before, found = tools.method.consolidate, Delta(), {}
    for row in lineage.lessons[:upto]:
        memory = memories.load(row.memory, lineage.store)
        after = rules.recall(memory, Wanted(row.name))
        moved = {p: difference(before.get(p), after.get(p)) for p in after}
        found[row.name] = {p: u.rows(0, u.shape[0]).float() for p, u in moved.items() if u is not None}
        before = after if rules.knows == "nothing" else Delta()
    return found


def dangers(new: Probe, changes: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, float]]:
    """Forecast -> older concept -> danger, more is worse.

    against: cosine of the gradient with the concept's change; a step goes against the gradient, so that above 0 it
    takes the change back. overlap: share of the gradient's energy inside the change's row and column spaces. response:
    norm of what the change answers to the new photos' inputs, over the change's norm.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in FORECASTS}
    for concept, change in changes.items():
        shared = [(new.gradient[p], moved, new.inputs[p]) for p, moved in change.items() if p in new.gradient]
        own = math.sqrt(sum(float(moved.square().sum()) for _, moved, _ in shared)) or math.inf
        product = sum(float((gradient * moved).sum()) for gradient, moved, _ in shared)
        inside = sum(float(within(gradient, moved).square().sum()) for gradient, moved, _ in shared)
        answer = sum(float((moved * inputs).square().sum()) for _, moved, inputs in shared)
        found["against"][concept] = product / (own * (new.size or math.inf))
        found["overlap"][concept] = inside / (new.size**2 or math.inf)
        found["response"][concept] = math.sqrt(answer) / own
    return found


def within(gradient: Tensor, change: Tensor, energy: float = 0.99) -> Tensor:
    """The part U U' G V V' of a gradient inside the spaces of a change's leading directions, those of its energy."""
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    squares = s.square().cumsum(0) / s.square().sum().clamp(min=1e-300)
    kept = int((squares < energy).sum()) + 1
    left, right = u[:, :kept], vh[:kept]
    return left @ (left.T @ gradient @ right.T) @ right


def guesses(tools: Tools, lineage: Lineage, older: Sequence[str], new: str) -> dict[str, dict[str, float]]:
    """Trivial forecasts: `last`: the later taught the worse; `alike`: the more the references score one another."""
    concept = lineage.concept(new)
    measure = tools.identity(concept)
    found = {"last": {name: float(k) for k, name in enumerate(older)}}
    if measure is not None:
        own = kept_features(tools, lineage, concept, measure, "references")
        sign = 1.0 if measure.direction == "higher" else -1.0
        features = {n: kept_features(tools, lineage, lineage.concept(n), measure, "references") for n in older}
        found["alike"] = {name: sign * measure.compare(own, rows) for name, rows in features.items()}
    return found


def drops(run: reading.Run, number: int, older: Sequence[str]) -> dict[str, float]:
    """What lesson `number` cost each older concept by its first measure; above 0 is harm."""
    found = {}
    for name in older:
        measure = run.primary(name)
        sign = -1.0 if measure is not None and run.direction(measure) == "lower" else 1.0
        found[name] = sign * (run.score(measure, number - 1, name) - run.score(measure, number, name))
    return found


def rank_correlation(forecast: Mapping[str, float], real: Mapping[str, float]) -> float:
    """Spearman's rho over the concepts of both; NaN for fewer than two, or where one side is constant."""
    names = [name for name in forecast if math.isfinite(real.get(name, math.nan))]
    values = np.array([[forecast[n], real[n]] for n in names])
    if len(names) < 2 or (np.ptp(values, axis=0) == 0).any():
        return math.nan
    return float(stats.spearmanr(values[:, 0], values[:, 1]).statistic)


def lessons(tools: Tools, lineage: Lineage) -> Iterator[dict[str, float]]:
    """For each lesson with two or more older concepts: forecast -> rank correlation with what it then cost them."""
    (run,) = reading.read([lineage])
    for row in lineage.lessons:
        older = [name for earlier in lineage.lessons[: row.number - 1] for name in earlier.concepts]
        if len(older) < 2 or len(row.concepts) != 1:
            continue
        before = memories.load(lineage.lessons[row.number - 2].memory, lineage.store)
        new = probe(tools, lineage, before, row.name)
        told = {**dangers(new, carried(tools, lineage, row.number - 1)), **guesses(tools, lineage, older, row.name)}
        real = drops(run, row.number, older)
        yield {name: rank_correlation(forecast, real) for name, forecast in told.items()}


# --- the order planner -----------------------------------------------------------------------------------------------


def pairs(tools: Tools, lineage: Lineage) -> dict[tuple[str, str], float]:
    """(later, earlier) -> danger of the later lesson for the earlier concept, from gradients on the untouched base.

    The later gradient's part inside the spaces of the earlier one, by its size: not the same both ways.
    """
    probes = {name: probe(tools, lineage, Memory(), name) for name in lineage.concepts}
    return {
        (late, early): math.sqrt(
            sum(float(within(g, probes[early].gradient[p], 0.9).square().sum()) for p, g in new.gradient.items())
        )
        for late, new in probes.items() for early in probes if early != late
    }  # fmt: skip


def cost(danger: Mapping[tuple[str, str], float], order: Sequence[str]) -> float:
    """The danger of an order: of each lesson for every concept before it."""
    return sum(danger[late, early] for k, late in enumerate(order) for early in order[:k])


def planned(danger: Mapping[tuple[str, str], float], concepts: Sequence[str]) -> tuple[str, ...]:
    """The order of least danger: of all orders up to `MOST` concepts, else the best pair by pair."""
    if len(concepts) <= MOST:
        return min(permutations(concepts), key=lambda order: cost(danger, order))
    key = {c: sum(danger[c, o] - danger[o, c] for o in concepts if o != c) for c in concepts}
    return tuple(sorted(concepts, key=key.__getitem__, reverse=True))  # who harms most, and suffers least, first


# --- the measurement -------------------------------------------------------------------------------------------------


def table(found: Sequence[Sequence[Mapping[str, float]]]) -> list[str]:
    """Lines of the table: rank correlations, a mean over lineages of means over lessons; and beside each guess."""
    names = (*GUESSES, *FORECASTS)
    means = {n: np.array([_mean([lesson.get(n, math.nan) for lesson in one]) for one in found]) for n in names}
    lines = ["| forecast | rho | above `last` [95 %] | above `alike` [95 %] | beats both |", "|---|---|---|---|---|"]
    for name in names:
        gaps = [means[name] - means[guess] for guess in GUESSES]
        spans = [t_interval(gap[np.isfinite(gap)])[:2] for gap in gaps]
        told = [f"{_mean(g):+.2f} [{low:+.2f}, {high:+.2f}]" for g, (low, high) in zip(gaps, spans, strict=True)]
        verdict = "–" if name in GUESSES else "yes" if all(low > 0 for low, _ in spans) else "no"
        lines.append(f"| {name} | {_mean(means[name]):+.2f} | {' | '.join(told)} | {verdict} |")
    return lines


def _mean(values: Sequence[float] | np.ndarray) -> float:
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else math.nan


def orders(tools: Tools, lineages: Sequence[Lineage]) -> list[str]:
    """How the planner's cost of each lineage's order goes with what was forgotten; and the order that it would take."""
    danger = pairs(tools, lineages[0])
    alike = [one for one in lineages if set(one.concepts) == set(lineages[0].concepts)]
    real = {}
    for run in reading.read(alike):
        measure = run.primary(run.concepts[0]) or ""
        real[str(run.lineage.folder)] = reading.figures(run, measure)["forgetting"]
    forecast = {str(one.folder): cost(danger, one.concepts) for one in alike}
    rho = rank_correlation(forecast, real)
    best = planned(danger, lineages[0].concepts)
    return [f"orders: rho of forecast and forgetting {rho:+.2f} over {len(alike)} models; planned: {' → '.join(best)}"]


def main() -> None:
    """Measure on the models of some folders, all of one plan but for order and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    lineages = [one for folder in parser.parse_args().folders for one in taught_in(folder)]
    backbone = loading.of(lineages[0].plan())
    each = [Tools(one.plan(), backbone) for one in lineages]
    print("\n".join(table([list(lessons(t, one)) for t, one in zip(each, lineages, strict=True)])))
    print("\n".join(orders(each[0], lineages)))


if __name__ == "__main__":
    main()
