"""Tables of publications beside one's own: same columns, same variants of methods, how the means come."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from perdure.compare import statistics
from perdure.compare.statistics import Spread
from perdure.compare.study import Study
from perdure.errors import PlanError, did_you_mean
from perdure.plan import catalogue, yaml_file
from perdure.score.matrix import Direction

FILE = "compare/published.yaml"
FIGURES = ("average", "running_average", "forgetting")
"""What the tables hold."""


@dataclass(frozen=True)
class Publication:
    """One published table. `forgetting`: which of perdure's figures its forgetting is; `variants`: method -> options of
    what was published, where these make a difference; `elsewhere`: rows of methods that are not here.
    """

    name: str
    title: str
    source: str
    base: str
    concepts: int
    deviation: str
    note: str
    forgetting: str
    variants: dict[str, dict[str, Any]]
    base_row: dict[str, dict[str, float]]
    methods: dict[str, dict[str, dict[str, float | list[float]]]]
    elsewhere: list[str] = field(default_factory=list)

    def value(self, method: str, measure: str, figure: str) -> tuple[float, float]:
        """(mean, deviation) of a method, NaN where not given; `figure` is one of FIGURES."""
        found = self.methods[method].get(measure, {}).get(figure)
        if isinstance(found, list):
            return float(found[0]), float(found[1])
        return (math.nan, math.nan) if found is None else (float(found), math.nan)

    def variant(self, method: str) -> str:
        """The published options of a method as text: "merge=factor_sum, orthogonality=column"."""
        return ", ".join(f"{key}={value}" for key, value in self.variants[method].items())

    def has(self, choice: Mapping[str, Any]) -> bool:
        """Whether a method with its options is what was published under its name."""
        variant = self.variants.get(choice["name"])
        if not variant:
            return True
        own = {o.name: o.default for o in catalogue.card(choice["name"]).options} | choice["options"]
        return all(own[key] == value for key, value in variant.items())

    def own_figure(self, figure: str) -> str:
        """The figure of a study that one of FIGURES is to be read beside."""
        return self.forgetting if figure == "forgetting" else figure


@dataclass(frozen=True)
class Ranking:
    """How the means come, best first, there and here, by one figure; `tau` is Kendall's of the means, in [-1, 1].

    `tiers`: the methods here, parted only where that is settled (`Study.tiers`).
    """

    measure: str
    figure: str
    there: tuple[str, ...]
    tiers: tuple[tuple[str, ...], ...]
    tau: float


@dataclass(frozen=True)
class Line:
    """A method: (mean, deviation) published and the spread found here, by column; None where there is none.

    `other`: the row here is of another variant than the published one, so that nothing published stands beside it.
    """

    method: str
    row: str | None
    cells: tuple[tuple[tuple[float, float], Spread | None], ...]
    other: bool = False


@dataclass(frozen=True)
class Beside:
    """A published table beside a study. `same`: whether the study's plan names it and has its base and number."""

    table: Publication
    same: bool
    columns: tuple[tuple[str, str], ...]
    """(measure, one of FIGURES)."""
    lines: tuple[Line, ...]
    rankings: tuple[Ranking, ...]


@cache
def _tables() -> dict[str, Publication]:
    data: dict[str, dict[str, Any]] = yaml_file.read_packaged(FILE)
    return {name: Publication(name=name, **entry) for name, entry in data.items()}


def get(name: str) -> Publication:
    """A published table by its name. Raises PlanError."""
    if name not in _tables():
        raise PlanError(f"no published protocol is called {name!r}{did_you_mean(name, _tables())}")
    return _tables()[name]


def protocol_of(study: Study) -> str | None:
    """The protocol that the plans of all runs name, if they name one, and the same."""
    told = [yaml_file.kept(entry.folder / "plan.yaml").get("protocol") for entry in study.entries]
    named = {name if isinstance(name, str) else None for name in told}
    return named.pop() if len(named) == 1 else None


def beside(study: Study, name: str | None = None) -> Beside | None:
    """The table asked for, or the one that the plans name, beside a study; None for neither. Raises PlanError."""
    planned = protocol_of(study)
    if name is None and (planned is None or planned not in _tables()):
        return None
    table = get(name or str(planned))
    columns = tuple((m, f) for f in FIGURES for m in study.measures if _gives(table, m, f))
    rows, others = _matching(study, table), _others(study, table)
    lines: list[Line] = []
    for method in [name for name, given in table.methods.items() if any(m in given for m, _ in columns)]:
        lines.append(Line(method, rows.get(method), _cells(study, table, method, rows.get(method), columns)))
        lines += [Line(method, row, _cells(study, table, None, row, columns), other=True)
                  for row, name in others.items() if name == method]  # fmt: skip
    rankings = [one for m, f in columns if (one := _ranking(study, table, rows, m, f))]
    return Beside(table, planned == table.name and _alike(study, table), columns, tuple(lines), tuple(rankings))


def _alike(study: Study, table: Publication) -> bool:
    runs = [entry.run for entry in study.entries]
    return all(r.lineage.settings["base"] == table.base and len(r.concepts) == table.concepts for r in runs)


def _gives(table: Publication, measure: str, figure: str) -> bool:
    return any(math.isfinite(table.value(method, measure, figure)[0]) for method in table.methods)


def _matching(study: Study, table: Publication) -> dict[str, str]:
    """Published method -> the one row here of the published variant; methods with several such rows are left out."""
    rows: dict[str, set[str]] = {}
    for entry in study.entries:
        if not entry.run.joint and table.has(entry.choice):
            rows.setdefault(entry.choice["name"], set()).add(entry.row)
    return {method: found.pop() for method, found in rows.items() if method in table.methods and len(found) == 1}


def _others(study: Study, table: Publication) -> dict[str, str]:
    """Rows here of other variants than the published ones -> the method."""
    entries = [entry for entry in study.entries if not entry.run.joint and not table.has(entry.choice)]
    return {entry.row: entry.choice["name"] for entry in entries if entry.choice["name"] in table.methods}


def _cells(
    study: Study, table: Publication, method: str | None, row: str | None, columns: Iterable[tuple[str, str]]
) -> tuple[tuple[tuple[float, float], Spread | None], ...]:
    nothing = (math.nan, math.nan)
    return tuple(
        (table.value(method, m, f) if method else nothing, study.spread(m, table.own_figure(f), row) if row else None)
        for m, f in columns
    )


def _ranking(study: Study, table: Publication, rows: dict[str, str], measure: str, figure: str) -> Ranking | None:
    """The order of the methods that both have; None below two."""
    pairs = {m: (table.value(m, measure, figure)[0], study.spread(measure, table.own_figure(figure), row).mean)
             for m, row in rows.items()}  # fmt: skip
    pairs = {m: both for m, both in pairs.items() if all(map(math.isfinite, both))}
    if len(pairs) < 2:
        return None
    there, here = ({m: both[k] for m, both in pairs.items()} for k in (0, 1))
    tau = statistics.kendall(list(there.values()), list(here.values()))
    methods = {rows[method]: method for method in pairs}
    tiers = study.tiers(measure, table.own_figure(figure), list(methods))
    ranked = _ranked(there, study.better(measure, table.own_figure(figure)))
    return Ranking(measure, figure, ranked, tuple(tuple(methods[row] for row in tier) for tier in tiers), tau)


def _ranked(values: dict[str, float], better: Direction) -> tuple[str, ...]:
    return tuple(sorted(values, key=values.__getitem__, reverse=better == "higher"))
