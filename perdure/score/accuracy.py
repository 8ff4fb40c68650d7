"""Accuracy of a classifier: what was taken for what, and the figures of class-incremental learning under their names.

a[t, i] is the accuracy on task i's test pictures after task t, both from 1; n[i] how many these are. `class_il`: the
model chooses among all classes seen so far; `task_il`: among those of the picture's own task (mammoth's terms).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from perdure.score.matrix import Formula

CLASS_IL, TASK_IL = "class_il", "task_il"
MEASURES = (CLASS_IL, TASK_IL)
SPEC = {
    CLASS_IL: "accuracy; the model chooses among all classes seen so far, and is not told the task",
    TASK_IL: "accuracy; the model chooses among the classes of the picture's own task",
}
Counts = Mapping[str, Mapping[str, int]]
"""Class -> what its test pictures were taken for -> how many."""


def counts(truth: Sequence[str], taken_for: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many pictures of each class were taken for each."""
    found: dict[str, dict[str, int]] = {name: {} for name in dict.fromkeys(truth)}
    for own, other in zip(truth, taken_for, strict=True):
        found[own][other] = found[own].get(other, 0) + 1
    return found


def of(counted: Counts) -> float:
    """The share of pictures that were taken for what they are, in [0, 1]."""
    right = sum(taken.get(name, 0) for name, taken in counted.items())
    return right / size(counted)


def size(counted: Counts) -> int:
    """How many pictures there were."""
    return sum(sum(taken.values()) for taken in counted.values())


def last(S: np.ndarray, n: Sequence[int]) -> float:
    """A_N: accuracy over all test pictures after the last task; of a row with gaps NaN. S (rows, N): row 0 the base."""
    return _pooled(S[-1], n, len(n) if _joint(S) else S.shape[0] - 1)


def incremental(S: np.ndarray, n: Sequence[int]) -> float:
    """Average incremental accuracy: mean over t of the accuracy over all classes seen at t. NaN for a joint run."""
    if _joint(S) or S.shape[0] < 2:
        return float("nan")
    return float(np.mean([_pooled(S[t], n, t) for t in range(1, S.shape[0])]))


def forgetting_per_step(S: np.ndarray) -> float:
    """F_N as CODA-Prompt's code counts it: mean drop from one task to the next, over earlier tasks, over steps.

    1/(N-1) sum_{t>=2} 1/(t-1) sum_{i<t} (a[t-1,i] - a[t,i]). NaN with fewer than two tasks.
    """
    drops = [float(np.mean(S[t - 1, : t - 1] - S[t, : t - 1])) for t in range(2, S.shape[0])]
    return float(np.mean(drops)) if drops else float("nan")


def forgetting_own(S: np.ndarray) -> float:
    """F_N of the textbook: 1/(N-1) sum_{i<N} (a[i,i] - a[N,i]), which is backward transfer with the other sign."""
    N = S.shape[0] - 1
    drops = [S[i, i - 1] - S[N, i - 1] for i in range(1, N)]
    return float(np.mean(drops)) if drops else float("nan")


def figures(S: np.ndarray, n: Sequence[int]) -> dict[str, float]:
    """The figures that an accuracy has otherwise than other measures, or alone."""
    return {
        "average": last(S, n),
        "running_average": incremental(S, n),
        "forgetting_per_step": forgetting_per_step(S),
        "forgetting_own": forgetting_own(S),
    }


def _pooled(row: np.ndarray, n: Sequence[int], seen: int) -> float:
    return float(np.average(row[:seen], weights=n[:seen])) if seen else float("nan")


def _joint(S: np.ndarray) -> bool:
    return bool(S.shape[0] == 2 and S.shape[1] > 1)


FORMULAS: dict[str, Formula] = {
    "average": Formula("A_N = Σ_i n[i] a[N,i] / Σ_i n[i]", "CODA-Prompt (Smith et al. 2023)", "higher"),
    "running_average": Formula(
        "(1/N) Σ_t Σ_{i≤t} n[i] a[t,i] / Σ_{i≤t} n[i]",
        "average incremental accuracy, Rebuffi et al. 2017; PILOT",
        "higher",
    ),
    "forgetting": Formula("(1/(N−1)) Σ_{i<N} [max_t a[t,i] − a[N,i]]", "mammoth, PILOT", "lower"),
    "forgetting_per_step": Formula(
        "(1/(N−1)) Σ_{t≥2} (1/(t−1)) Σ_{i<t} (a[t−1,i] − a[t,i])", "code of CODA-Prompt", "lower"
    ),
    "forgetting_own": Formula("(1/(N−1)) Σ_{i<N} (a[i,i] − a[N,i])", "textbook; −backward transfer", "lower"),
}
"""What the figures of tables are, where the measure is an accuracy."""
