"""Colour: how alike the colours of two sets of pictures are, without any model.

Swain & Ballard: Color indexing, 1991: the intersection of colour histograms, here of 4 x 4 x 4 bins.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perdure.score.measure import Measure

BINS = 4


def load(source: str | Path | None = None, device: str = "cpu") -> Measure:
    """Colour in [0, 1], higher is better; there is no model to name or to put on a device."""
    return Measure(
        name="colour",
        direction="higher",
        range=(0.0, 1.0),
        against="references",
        spec={"model": "none", "features": f"histogram of {BINS}^3 RGB bins", "averaging": "all pairs, intersection"},
        encode_images=histograms,
        compare=intersection,
        among=among,
    )


def histograms(images: Sequence[Image.Image]) -> Tensor:
    """The share of pixels in each bin of RGB, (n, BINS^3); rows sum to 1."""
    rows = []
    for image in images:
        bins = np.asarray(image.convert("RGB"), np.int64).reshape(-1, 3) * BINS // 256
        rows.append(np.bincount(bins @ (BINS**2, BINS, 1), minlength=BINS**3) / len(bins))
    return torch.from_numpy(np.stack(rows)).float()


def intersection(generated: Tensor, references: Tensor) -> float:
    """Mean over all pairs of the sum of the smaller shares; (m, d) and (n, d)."""
    return float(torch.minimum(generated[:, None], references[None]).sum(-1).mean())


def among(references: Tensor) -> float:
    """The same of pairs of different rows (n, d)."""
    likeness, count = torch.minimum(references[:, None], references[None]).sum(-1), len(references)
    return float((likeness.sum() - likeness.diagonal().sum()) / (count * (count - 1)))
