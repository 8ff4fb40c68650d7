"""Captions of no concept in particular: what CNS calls a calibration set."""

from collections.abc import Sequence
from functools import cache
from importlib import resources

import numpy as np

from perdure.plan import EMBEDDED
from perdure.toybox import world


@cache
def captions(base: str) -> Sequence[str]:
    """160 diverse captions: of this project's own list, or, for an embedded base, in the words it was trained on."""
    if base not in EMBEDDED:
        own = resources.files("perdure.bases").joinpath("calibration.txt")
        return tuple(own.read_text(encoding="utf-8").splitlines())
    rng = np.random.default_rng(160)
    return tuple(world.caption_full(world.random_scene(rng)) for _ in range(160))
