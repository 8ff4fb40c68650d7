"""The score matrix S -> average, forgetting, transfer ...: one formula a function, each with its source.

S is an array (rows, T): S[0] is the untouched base, S[i, j] the score of concept j (column, from 0) after
lesson i, so that concept j is learnt in lesson j + 1. NaN where not measured. An unfinished run has fewer
rows than T + 1 (or trailing rows of NaN): every figure then counts the lessons so far, n. A joint run, all
concepts learnt at once, has two rows and T columns, all measured: figures about a sequence are NaN there.
(After the first lesson of a sequence that also scores concepts to come, pass S[:2, :1], lest it be taken for
a joint run.)

Formulas are written with the papers' letters: R[k,j], score on concept j after lesson k, both from 1; R[0,j]
the base. Higher is taken for better; `summary` turns the sign of a measure where lower is better. What a
missing entry leaves undefined is NaN, never silently dropped; only the best-so-far of forgetting looks past
lessons that were not measured.
"""

from typing import Literal, NamedTuple

import numpy as np

Direction = Literal["higher", "lower"]


def _rows(S: np.ndarray) -> np.ndarray:
    """S as float64 without trailing rows of NaN; ValueError for a shape that is no score matrix."""
    S = np.array(S, dtype=np.float64)
    if S.ndim != 2 or S.shape[1] == 0 or not 1 <= S.shape[0] <= S.shape[1] + 1:
        raise ValueError(f"a score matrix has T columns and 1 to T + 1 rows (row 0: the base), not shape {S.shape}")
    measured = np.flatnonzero(~np.isnan(S).all(axis=1))
    return S[: measured.max(initial=0) + 1]


def is_joint(S: np.ndarray) -> bool:
    """Whether S is a joint run: base and one more row, which holds all of several concepts."""
    S = _rows(S)
    return S.shape[0] == 2 and S.shape[1] > 1 and bool(np.isfinite(S[1]).all())


def _sequence(S: np.ndarray) -> tuple[np.ndarray, int]:
    """(R, n): what the n lessons so far measured, R of shape (n + 1, n); n = 0 for a joint run."""
    S = _rows(S)
    n = 0 if is_joint(S) else S.shape[0] - 1
    return S[: n + 1, :n], n


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if values.size else float("nan")


def final(S: np.ndarray) -> np.ndarray:
    """Last measured scores of the concepts learnt so far, (n,); all T of a joint run."""
    S = _rows(S)
    return S[-1].copy() if is_joint(S) else S[-1, : S.shape[0] - 1].copy()


def average(S: np.ndarray) -> float:
    """Average score after the last lesson: (1/T) sum_j R[T,j]. Higher is better.

    arXiv 2410.04891 (section 3); Lopez-Paz & Ranzato 2017 (ACC). NaN before the first lesson.
    """
    return _mean(final(S))


def running_average(S: np.ndarray) -> float:
    """Average score along the way: (1/T) sum_k (1/k) sum_{j<=k} R[k,j]. Higher is better.

    "Average incremental accuracy", Rebuffi et al. 2017 (iCaRL). NaN for a joint run.
    """
    R, n = _sequence(S)
    return _mean(np.array([np.mean(R[k, :k]) for k in range(1, n + 1)]))


def _drops(S: np.ndarray) -> np.ndarray:
    """Best since its own lesson minus final, per concept, (n,); the last one is 0 by definition."""
    R, n = _sequence(S)
    return np.array([np.fmax.reduce(R[j + 1 :, j]) - R[n, j] for j in range(n)])


def forgetting(S: np.ndarray) -> float:
    """Average forgetting: (1/(T-1)) sum_{j<T} [ max_{j<=k<=T} R[k,j] - R[T,j] ]. Lower is better, never
    below 0.

    arXiv 2410.04891 (section 3), whose max over all k needs scores from before a concept was learnt; here,
    as in its code, k >= j. Chaudhry et al. 2018 leave k = T out, so that theirs is negative where a concept
    improved. NaN with fewer than two lessons: there is nothing yet that could be forgotten.
    """
    return _mean(_drops(S)[:-1])


def forgetting_reference(S: np.ndarray) -> float:
    """Average forgetting over all T: (1/T) sum_{j<=T} [ max_{j<=k<=T} R[k,j] - R[T,j] ]. Lower is better.

    As the published code of arXiv 2410.04891 computes it: the last term is always 0, so this is (T-1)/T times
    `forgetting`. 0 after one lesson.
    """
    return _mean(_drops(S))


def backward_transfer(S: np.ndarray) -> float:
    """BWT: (1/(T-1)) sum_{j<T} ( R[T,j] - R[j,j] ). Higher is better; negative is forgetting.

    Lopez-Paz & Ranzato 2017 (GEM). Equals -`forgetting` where every concept was best right after its own
    lesson.
    """
    R, n = _sequence(S)
    return _mean(np.array([R[n, j] - R[j + 1, j] for j in range(n - 1)]))


def forward_transfer(S: np.ndarray) -> float:
    """FWT: (1/(T-1)) sum_{j>=2} ( R[j-1,j] - R[0,j] ). Higher is better.

    Lopez-Paz & Ranzato 2017 (GEM). Needs each concept's score just before its lesson; NaN where not measured.
    """
    R, n = _sequence(S)
    return _mean(np.array([R[j, j] - R[0, j] for j in range(1, n)]))


def learning(S: np.ndarray) -> float:
    """Learning (plasticity): (1/T) sum_j R[j,j], the score right after a concept's own lesson. Higher is
    better.

    The mean of "learning accuracy", Riemer et al. 2019 (MER).
    """
    R, n = _sequence(S)
    return _mean(np.array([R[j + 1, j] for j in range(n)]))


def retention(S: np.ndarray) -> float:
    """Retention (stability): (1/(T-1)) sum_{j<T} R[T,j] / R[j,j]. Higher is better, 1 keeps all.

    A ratio: only for measures whose zero means "nothing". NaN where a score right after learning is not
    above 0.
    """
    R, n = _sequence(S)
    learnt = np.array([R[j + 1, j] for j in range(n - 1)])
    kept = np.divide(R[n, : n - 1], learnt, out=np.full_like(learnt, np.nan), where=learnt > 0)
    return _mean(kept)


def intransigence(S: np.ndarray, reference: np.ndarray) -> float:
    """Intransigence: (1/T) sum_j ( R*[j] - R[j,j] ), what was left unlearnt. Lower is better.

    Chaudhry et al. 2018. `reference` (T,): R*, scores of one adapter a concept, or of a joint run
    (`final(joint)`).
    """
    R, n = _sequence(S)
    R_star = np.asarray(reference, dtype=np.float64)
    if R_star.shape != (_rows(S).shape[1],):
        raise ValueError(f"reference needs one score a concept, shape ({_rows(S).shape[1]},), not {R_star.shape}")
    return _mean(np.array([R_star[j] - R[j + 1, j] for j in range(n)]))


def gain_over_base(S: np.ndarray) -> float:
    """Gain over the base: (1/T) sum_j ( R[T,j] - R[0,j] ), what the lessons added. Higher is better."""
    last = final(S)
    return _mean(last - _rows(S)[0, : last.size])


def shift(D: np.ndarray) -> float:
    """Shift, F_mmd where the measure is MMD: (1/(T-1)) sum_{j<T} D[T,j]. Lower is better.

    D (rows, T): D[i, j] is the distance of concept j's pictures after lesson i from those drawn right after its own
    lesson; the last row counts. Smith et al. 2024 (C-LoRA) and STAMINA. A model that never learnt anything does not
    shift: read it beside the average. NaN where not measured, and with fewer than two concepts.
    """
    return _mean(np.asarray(D, dtype=np.float64)[-1, :-1])


class Formula(NamedTuple):
    """A row of the table in the documentation."""

    formula: str
    source: str
    direction: Direction


FORMULAS: dict[str, Formula] = {
    "average": Formula("(1/T) Σ_j R[T,j]", "arXiv 2410.04891; Lopez-Paz & Ranzato 2017", "higher"),
    "running_average": Formula("(1/T) Σ_k (1/k) Σ_{j≤k} R[k,j]", "Rebuffi et al. 2017", "higher"),
    "forgetting": Formula(
        "(1/(T−1)) Σ_{j<T} [max_{j≤k≤T} R[k,j] − R[T,j]]",
        "arXiv 2410.04891; after Chaudhry et al. 2018, who leave k = T out",
        "lower",
    ),
    "forgetting_reference": Formula(
        "(1/T) Σ_{j≤T} [max_{j≤k≤T} R[k,j] − R[T,j]]", "published code of arXiv 2410.04891", "lower"
    ),
    "backward_transfer": Formula("(1/(T−1)) Σ_{j<T} (R[T,j] − R[j,j])", "Lopez-Paz & Ranzato 2017", "higher"),
    "forward_transfer": Formula("(1/(T−1)) Σ_{j≥2} (R[j−1,j] − R[0,j])", "Lopez-Paz & Ranzato 2017", "higher"),
    "learning": Formula("(1/T) Σ_j R[j,j]", "Riemer et al. 2019", "higher"),
    "retention": Formula("(1/(T−1)) Σ_{j<T} R[T,j] / R[j,j]", "ours", "higher"),
    "intransigence": Formula("(1/T) Σ_j (R*[j] − R[j,j])", "Chaudhry et al. 2018", "lower"),
    "shift": Formula("(1/(T−1)) Σ_{j<T} D[T,j]", "F_mmd of Smith et al. 2024 (C-LoRA, STAMINA)", "lower"),
    "gain_over_base": Formula("(1/T) Σ_j (R[T,j] − R[0,j])", "ours", "higher"),
}


def summary(
    S: np.ndarray,
    direction: Direction = "higher",
    reference: np.ndarray | None = None,
    distances: np.ndarray | None = None,
) -> dict[str, float]:
    """Every figure of FORMULAS by name; `intransigence` only with a `reference` (T,), `shift` only with `distances`.

    `direction` is the measure's. Where lower scores are better, averages keep their sign, while differences
    are turned so that they read as ever (forgetting above 0 is harm, gain above 0 is good), and retention, a
    ratio, is NaN.
    """
    S = _rows(S)
    sign = {"higher": 1.0, "lower": -1.0}[direction]
    figures = {
        "average": average(S),
        "running_average": running_average(S),
        "forgetting": forgetting(sign * S),
        "forgetting_reference": forgetting_reference(sign * S),
        "backward_transfer": backward_transfer(sign * S),
        "forward_transfer": forward_transfer(sign * S),
        "learning": learning(S),
        "retention": retention(S) if direction == "higher" else float("nan"),
        "gain_over_base": gain_over_base(sign * S),
    }
    if distances is not None:
        figures["shift"] = shift(distances)
    if reference is not None:
        figures["intransigence"] = intransigence(sign * S, sign * np.asarray(reference, dtype=np.float64))
    return figures
