"""One of several training processes: `python -m perdure.toybox.pretrain.worker MEETING RANK COUNT JSON`.

The JSON object names its arguments: recipe, seed, work folder, until, decay.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from .processes import join


def main(meeting: str, rank: str, count: str, order: str) -> None:
    """Join the others and train the generator."""
    join(Path(meeting), int(rank), int(count))
    from perdure.toybox.world import VOCABULARY

    from .base import train_base
    from .recipe import RECIPES
    from .tokenizer import build_tokenizer

    wanted = json.loads(order)
    recipe = replace(RECIPES[wanted["recipe"]], seed=wanted["seed"], processes=int(count))
    decay = tuple(wanted["decay"]) if wanted["decay"] else None
    train_base(recipe, Path(wanted["work"]), build_tokenizer(VOCABULARY), wanted["until"], decay)


if __name__ == "__main__":
    main(*sys.argv[1:])
