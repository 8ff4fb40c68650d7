"""MMD: distance of two sets of pictures in CLIP ViT-B/32 features, times 1000 (C-LoRA, Smith et al. 2024:
A_mmd, F_mmd).

Against the real pictures, averaged over concepts after the last lesson, it is A_mmd. Against the pictures
generated right after a concept's own lesson it is F_mmd, drift, in which a model that never learnt anything
scores a perfect 0: read it beside A_mmd only. Both of its sets come of the same noise, place by place.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from perdure.score import encoders
from perdure.score.measure import Measure
from perdure.score.preprocess import CLIP_224

MODEL = "openai/clip-vit-base-patch32"
EMBEDDED = "clip"
FEWEST = 2


def load(source: str | Path | None = None, device: str = "cpu") -> Measure:
    """MMD x 1000, lower is better (below 0 by chance); `source`: hub id or folder of a CLIPModel."""
    encoder = encoders.load_clip(source or MODEL, device, CLIP_224)
    return Measure(
        name="mmd",
        direction="lower",
        range=(-float("inf"), float("inf")),
        against="references",
        spec={
            **encoder.spec,
            "features": "projected image features, not normalised",
            "averaging": "unbiased squared MMD, kernel (x.y/d + 1)^3, x 1000",
        },
        encode_images=encoder.raw_images,
        compare=mmd,
        shift=partial(mmd, paired=True),
    )


def mmd(x: Tensor, y: Tensor, paired: bool = False) -> float:
    """1000 x the unbiased squared MMD of x (m, d) and y (n, d) under k(x, y) = (x.y/d + 1)^3.

    KID's estimator (Binkowski et al. 2018): 1/(m(m-1)) sum_{i!=j} k(x_i,x_j) + 1/(n(n-1)) sum_{i!=j}
    k(y_i,y_j) - 2/(mn) sum k(x_i,y_j). `paired`: x_i and y_i are drawn from the same noise, and no draw is compared
    with itself in the last sum either (Gretton et al. 2012, lemma 6), so that sets which are the same are at 0.
    ValueError for fewer than two pictures on a side.
    """
    m, n = len(x), len(y)
    if min(m, n) < 2:
        raise ValueError(f"mmd needs two pictures or more on each side, not {m} and {n}")
    k_xx, k_yy, k_xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within = (k_xx.sum() - k_xx.trace()) / (m * (m - 1)) + (k_yy.sum() - k_yy.trace()) / (n * (n - 1))
    pairs = k_xy.diagonal() if paired else k_xy.new_zeros(0)
    return float(1000 * (within - 2 * (k_xy.sum() - pairs.sum()) / (m * n - len(pairs))))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.to(torch.float64), y.to(torch.float64)
    return (x @ y.T / x.shape[1] + 1) ** 3
