"""How many pictures a cell needs: until its mean score is known to a stated half-width, looked at a few times only.

A look is an interval of Student's t over the starting noises: the score of one is the mean over the prompts, which are
fixed, so noises are independent draws and prompts are not. With K looks each has the error (1 - confidence) / K, so
that by Bonferroni all intervals hold together, and that at which drawing stops holds whenever it stops (Pocock 1977
spends the error evenly too; his bounds are a little closer). For normal scores the confidence is at least what is said.
"""

import numpy as np
from scipy import stats


def looks(first: int, most: int) -> list[int]:
    """Numbers of noises after which is looked: `first`, twice as many, and so on, and `most`."""
    found = []
    while first < most:
        found.append(first)
        first *= 2
    return [*found, most]


def half_width(scores: np.ndarray, looks: int, confidence: float) -> float:
    """Half the interval of the mean of scores (n,), one a noise, at one of so many looks; inf for fewer than two."""
    if len(scores) < 2:
        return float("inf")
    quantile = stats.t.ppf(1 - (1 - confidence) / looks / 2, len(scores) - 1)
    return float(quantile * np.std(scores, ddof=1) / len(scores) ** 0.5)
