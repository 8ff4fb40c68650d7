"""One of several training processes: `python -m perdure.toybox.pretrain.worker MEETING RANK COUNT JSON`.

The JSON object names its arguments: recipe, seed, work folder, parts, until, decay; with parts it is the flow's turn.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from perdure.toybox.pretrain.processes import end_with_the_parent, join


def main(meeting: str, rank: str, count: str, order: str) -> None:
    """Join the others and train the generator."""
    end_with_the_parent()
    join(Path(meeting), int(rank), int(count))
    from perdure.toybox.pretrain.base import train_base
    from perdure.toybox.pretrain.flow import train_flow
    from perdure.toybox.pretrain.recipe import RECIPES
    from perdure.toybox.pretrain.tokenizer import build_tokenizer
    from perdure.toybox.world import VOCABULARY

    wanted = json.loads(order)
    recipe = replace(RECIPES[wanted["recipe"]], seed=wanted["seed"], processes=int(count))
    decay = tuple(wanted["decay"]) if wanted["decay"] else None
    work, tokenizer, until = Path(wanted["work"]), build_tokenizer(VOCABULARY), wanted["until"]
    if wanted["parts"] is None:
        train_base(recipe, work, tokenizer, until, decay)
    else:
        train_flow(recipe, work, tokenizer, Path(wanted["parts"]), until, decay)


if __name__ == "__main__":
    main(*sys.argv[1:])
