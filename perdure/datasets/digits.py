"""Handwritten digits (Alpaydin & Kaynak 1998), the 1,797 pictures of 8 x 8 that come with scikit-learn; no network.

Blown up to 64 px. The first half is to train on and the second to test on, as in scikit-learn's own example, so that
most who wrote the one did not write the other.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from perdure.datasets.dataset import Chosen, Copy, Dataset, Pick
from perdure.errors import DataError
from perdure.files import write_png
from perdure.progress import Watch

SIDE, LEVELS = 64, 16
"""Pixels a side, and levels of grey of the originals above 0."""


def _fetch(dataset: Dataset, scratch: Path, watch: Watch) -> Path:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits come with scikit-learn, which is missing: pip install 'perdure[digits]'.") from None
    found = load_digits()
    half = len(found.images) // 2
    with watch("drawing digits", len(found.images)) as advance:
        for number, (grey, label) in enumerate(zip(found.images, found.target, strict=True)):
            image = Image.fromarray(np.round(grey * (255 / LEVELS)).astype(np.uint8)).convert("RGB")
            side = "train" if number < half else "test"
            large = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            write_png(scratch / "digits" / side / str(int(label)) / f"{number:04d}.png", large)
            advance(1, "")
    return scratch / "digits"


def _choose(dataset: Dataset, copy: Copy, pick: Pick, watch: Watch) -> Chosen:
    files = sorted(path for side in ("train", "test") for path in (copy.folder / side).glob("[0-9]/[0-9]*.png"))
    if not files:
        raise DataError(f"{copy.named}: holds no {dataset.name} ({dataset.layout}); leave --from out.")
    return Chosen({path.relative_to(copy.folder).as_posix(): path for path in files}, {}, {})


DATASET = Dataset(
    name="digits",
    source="scikit-learn, load_digits",
    licence="CC BY 4.0 (UCI), BSD-3-Clause as it comes with scikit-learn",
    layout="train/0/0000.png and so on",
    choose=_choose,
    fetch=_fetch,
)
