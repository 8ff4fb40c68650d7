"""What an analysis found, as plain values: pooled over layers, per kind of layer, per layer; and its file. No torch."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perdure import files, records
from perdure.errors import LineageError
from perdure.lineage import Lineage

ALL = "all"
SELECTIVE = 0.9
"""Methods that move less than this share of their weights in some lesson choose them."""
MARKS = {
    "q": r"\.(to_q|(add_)?q_proj)$", "k": r"\.(to_k|(add_)?k_proj)$", "v": r"\.(to_v|(add_)?v_proj)$",
    "out": r"\.(to_out(\.0)?|to_add_out|o_proj|out_proj)$", "down": r"^down_blocks\.", "mid": r"^mid_block\.",
    "up": r"^up_blocks\.",
}  # fmt: skip
"""Kinds of layers by their names as diffusers or transformers writes them."""
KINDS = ("self", "cross", *MARKS)
"""All kinds: `cross` is what reads text, by the base's family, `self` any other attention."""
CROSS = r".*\.attn2\..*"
"""What reads text in UNets."""


@dataclass(frozen=True)
class PairFigure:
    """A figure of a pair of lessons i (row) and j (column); u_i is the update of lesson i."""

    meaning: str
    formula: str
    source: str = ""
    signed: bool = False


PAIR_FIGURES = {
    "sign conflict": PairFigure(
        "share of the weights that both lessons moved which they moved in opposite directions",
        "#{u_i u_j < 0} / #{u_i ≠ 0 and u_j ≠ 0}",
        "the study of arXiv 2410.04891 on single updates",
    ),
    "overturned": PairFigure(
        "share of all weights that lesson i had moved one way and that stood the other way after lesson j (i < j), "
        "seen from before lesson i",
        "#{u_i (u_i + ... + u_j) < 0} / #weights",
        "sign conflicts in the code of arXiv 2410.04891",
    ),
    "cosine": PairFigure(
        "cosine of two updates, each as one long vector; below 0 one undoes part of the other",
        "<u_i, u_j> / (|u_i| |u_j|)",
        signed=True,
    ),
    "input overlap": PairFigure(
        "how far the inputs that two updates listen to are the same: mean squared cosine of the principal angles "
        "between their leading input directions, mean over layers",
        "|V_i' V_j|² / k, V the leading right singular vectors",
        "Björck & Golub 1973",
    ),
    "output overlap": PairFigure(
        "the same for the outputs that they write to",
        "|U_i' U_j|² / k, U the leading left singular vectors",
        "Björck & Golub 1973",
    ),
    "shared entries": PairFigure(
        "share of the weights that lesson i moved which lesson j moved, too",
        "#{u_i ≠ 0 and u_j ≠ 0} / #{u_i ≠ 0}",
        "overlap of selections, as in CNS, arXiv 2510.02296",
    ),
}
"""Every figure of pairs, in the order in which they are shown. T lessons give a matrix (T, T)."""


@dataclass(frozen=True)
class Part:
    """Some layers taken together. `norms`: Frobenius norm of each update (T,); `moved`: share of weights moved (T,)."""

    weights: int
    norms: np.ndarray
    moved: np.ndarray
    pairs: Mapping[str, np.ndarray]
    """Measure -> (T, T); NaN where there is nothing to compare."""

    @property
    def rms(self) -> np.ndarray:
        """Root mean square of each update's entries (T,): norms of parts of different size, made comparable."""
        size: np.ndarray = self.norms / math.sqrt(max(self.weights, 1))
        return size

    def between(self, measure: str) -> float:
        """Mean over all pairs of different lessons; NaN where there is none."""
        values = self.off_diagonal(measure)
        values = values[np.isfinite(values)]
        return float(values.mean()) if values.size else float("nan")

    def off_diagonal(self, measure: str) -> np.ndarray:
        """The values of all pairs of different lessons (T (T - 1),), NaN among them."""
        matrix = self.pairs[measure]
        values: np.ndarray = matrix[~np.eye(len(matrix), dtype=bool)]
        return values

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes null."""
        pairs = {measure: _plain(matrix) for measure, matrix in self.pairs.items()}
        moved = _plain(self.moved)
        return {
            "weights": self.weights, "norms": _plain(self.norms), "rms": _plain(self.rms), "moved": moved,
            "pairs": pairs,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Part":
        """Inverse of `as_json`."""
        pairs = {measure: np.array(matrix, dtype=float) for measure, matrix in data["pairs"].items()}
        return cls(data["weights"], np.array(data["norms"], dtype=float), np.array(data["moved"], dtype=float), pairs)


@dataclass(frozen=True)
class Analysis:
    """Lessons compared. `parts`: "all" and each kind of layer there is; `layers`: each projection (not in the file)."""

    lessons: tuple[str, ...]
    memories: tuple[str, ...]
    """Digests of the memories compared: another lineage, or one that has gone on, has others."""
    apart: bool
    """Whether the method keeps each concept's change apart, so that updates do not follow upon one another."""
    parts: Mapping[str, Part]
    chance: Mapping[str, float]
    """What random updates would give, where that is known: measure -> value."""
    selection: Mapping[str, Mapping[str, float]]
    """What the method noted of its own choice of weights: concept -> share by its name."""
    layers: Mapping[str, Part] = field(default_factory=dict)
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of each layer (not in the file)."""

    @property
    def selective(self) -> bool:
        """Whether some lesson left a tenth of the weights as they were: such a method chooses what it moves."""
        return bool((self.parts[ALL].moved < SELECTIVE).any())

    @property
    def telling(self) -> list[str]:
        """Measures that have something to say: entries are all shared where all are moved."""
        taken = [m for m in PAIR_FIGURES if np.isfinite(self.parts[ALL].between(m))]
        return [m for m in taken if m != "shared entries" or self.selective]

    def as_json(self) -> dict[str, Any]:
        """Plain values, per layer as well where they are known."""
        whole: dict[str, Any] = {
            "format": records.ANALYSIS_FORMAT,
            "lessons": list(self.lessons),
            "memories": list(self.memories),
            "apart": self.apart,
            "chance": {measure: _plain(np.array(value)) for measure, value in self.chance.items()},
            "selection": {concept: dict(facts) for concept, facts in self.selection.items()},
            "parts": {name: part.as_json() for name, part in self.parts.items()},
        }
        return whole | ({"layers": {n: part.as_json() for n, part in self.layers.items()}} if self.layers else {})

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Pairs (i, j) of different lessons, i < j."""
        return ((i, j) for i in range(len(self.lessons)) for j in range(i + 1, len(self.lessons)))


def kinds_of(projection: str, cross: str = CROSS) -> list[str]:
    """The kinds that a projection belongs to: "down_blocks.1 ... attn2.to_k" is cross, k and down.

    cross: regular expression of the whole names of layers that read text.
    """
    attends = re.search(r"\.attn\d?\.|^(layers|noise_refiner|context_refiner)\.\d+\.attention\.", projection)
    role = ["cross"] if re.fullmatch(cross, projection) else ["self"] if attends else []
    return role + [kind for kind, mark in MARKS.items() if re.search(mark, projection)]


def write(lineage: Lineage, found: Analysis) -> Path:
    """Keep an analysis beside its lineage, without the single layers. Raises PerdureError where that cannot be."""
    path = lineage.folder / records.ANALYSIS_FILE
    record = {key: value for key, value in found.as_json().items() if key != "layers"}
    files.write_text(path, json.dumps(record, allow_nan=False) + "\n")
    return path


def read(lineage: Lineage) -> Analysis | None:
    """The analysis kept beside a lineage; None where there is none, or where it is of other lessons or damaged."""
    path = lineage.folder / records.ANALYSIS_FILE
    try:
        data = records.read(path, records.Analysis, records.ANALYSIS_FORMAT)
    except LineageError:
        return None
    size = len(data["lessons"])
    whole = all(_fits(part, size) for part in data["parts"].values()) and ALL in data["parts"]
    if not whole or data["memories"] != digests(lineage):
        return None
    parts = {name: Part.from_json(part) for name, part in data["parts"].items()}
    lessons, memories = tuple(data["lessons"]), tuple(data["memories"])
    chance = {measure: value for measure, value in data["chance"].items() if value is not None}
    return Analysis(lessons, memories, data["apart"], parts, chance, data["selection"])


def _fits(part: Mapping[str, Any], size: int) -> bool:
    """Whether a part holds every measure, of all lessons."""
    rows = [part["norms"], part["moved"], *(row for matrix in part["pairs"].values() for row in matrix)]
    pairs = part["pairs"]
    return pairs.keys() >= PAIR_FIGURES.keys() and all(len(of_each) == size for of_each in (*rows, *pairs.values()))


def digests(lineage: Lineage) -> list[str]:
    """Digest of the memory after each lesson, as recorded."""
    return [row.record["memory"] for row in lineage.lessons]


def names(lineage: Lineage) -> list[str]:
    """What each lesson is called in figures."""
    return [row.concepts[0] if len(row.concepts) == 1 else row.name for row in lineage.lessons]


def _plain(array: np.ndarray) -> Any:
    """Nested lists of numbers with six digits; null for NaN."""
    if array.ndim:
        return [_plain(part) for part in array]
    return float(f"{float(array):.6g}") if np.isfinite(array) else None


def selection_of(facts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What a memory's facts say of selections: CNS's `neurons`, the `density` of STAMINA's masks."""
    densities = {concept: {"density": share} for concept, share in facts.get("density", {}).items()}
    return {**densities, **{concept: dict(own) for concept, own in facts.get("neurons", {}).items()}}
