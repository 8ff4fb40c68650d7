"""What each method's lessons cost beside naive's, measured turn by turn in one process; see README.md."""

from statistics import median

import torch

from perdure import plan
from perdure.bases import loading
from perdure.drawing.tools import Tools
from perdure.plan import catalogue
from perdure.run import pace
from perdure.run.pace import Pace

TURNS = 3
PLAIN = "naive"


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    made = plan.build({"methods": list(catalogue.methods()), "concepts": {"toybox": {"subjects": 2}}})
    backbone = loading.load(made.base, device="cpu")
    own = {choice.label: made.narrowed(choice) for choice in made.methods}
    found: dict[str, list[Pace]] = {label: [] for label in own}
    for _ in range(TURNS + 1):
        for label, narrowed in own.items():
            found[label].append(pace.of(Tools(narrowed, backbone), drawing=False))
    print(f"{'':24}a step   before and after the steps, in steps of {PLAIN}")
    for label, turns in found.items():
        pairs = list(zip(turns, found[PLAIN], strict=True))[1:]  # the first turn warms up
        step = median(one.step / plain.step for one, plain in pairs)
        beside = median((one.lesson - plain.lesson) / plain.step for one, plain in pairs)
        print(f"{label:24}{step:6.2f}   {beside:+.0f}")


if __name__ == "__main__":
    main()
