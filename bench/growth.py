"""Does a lesson take longer the more were taught? Time, memory and size against their number; see README.md.

python bench/growth.py --lessons 50 --out growth.png
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import torch
from matplotlib.figure import Figure

from perdure import plan
from perdure.bases import loading
from perdure.drawing.tools import Tools
from perdure.lineage import Lineage
from perdure.run import drive


@dataclass
class Growth:
    """Of each lesson in turn: its seconds, bytes that the lineage stores, bytes of memory that the process holds."""

    seconds: list[float] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """Share of a typical lesson that each further lesson adds: a line through all but the first, which warms up,
        and the last, after which every concept is drawn.
        """
        rest = np.array(self.seconds[1:-1])
        return float(np.polyfit(np.arange(len(rest)), rest, 1)[0] / np.median(rest)) if len(rest) > 1 else 0.0


def made(lessons: int, steps: int, rows: str) -> plan.Plan:
    """A plan of drawn subjects, taught by merge_init; one small picture a cell."""
    concepts = [
        {
            "name": f"s{k}",
            "drawn": {"index": k % 20, "images": 3, "references": 3},
            "token": _token(k),
            "class": "thing",
        }
        for k in range(lessons)
    ]
    data = {
        "methods": ["merge_init"], "concepts": concepts, "scoring": {"subject": ["dino"], "drift": 0},
        "training": {"steps": steps, "batch_size": 1},
        "sampling": {
            "prompts": {"subject": ["a photo of a {concept}"], "style": ["{concept} image"]}, "images_per_prompt": 1,
            "steps": 1, "rows": "ends" if rows == "off" else rows,
        },
    }  # fmt: skip
    return plan.build(data)


def _token(number: int) -> str:
    return "q" + "".join(chr(ord("a") + digit) for digit in divmod(number, 26))


def measure(lessons: int, steps: int, rows: str) -> tuple[Growth, Growth]:
    """Teach one lesson after another to the embedded base: with the seconds of training alone, and of all."""
    wanted, alone, whole = made(lessons, steps, rows), Growth(), Growth()
    tools = Tools(wanted, loading.load(wanted.base, device="cpu"))
    with TemporaryDirectory() as folder:
        lineage = drive.open_or_create(Path(folder) / "model", wanted)

        def after() -> None:
            seconds = Lineage(lineage.folder).lessons[-1].record["seconds"]
            for grown, spent in ((alone, seconds["train"]), (whole, seconds["train"] + seconds["evaluate"])):
                grown.seconds.append(spent)
                grown.stored.append(lineage.nbytes)
                grown.resident.append(psutil.Process().memory_info().rss)

        drive.teach_plan(tools, lineage, lineage, after)
    return alone, whole


def plot(found: dict[str, Growth], out: Path) -> None:
    """Seconds of a lesson, size of the lineage and memory held, against the number of the lesson."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for name, grown in found.items():
        number = range(1, len(grown.seconds) + 1)
        axes[0].plot(number, grown.seconds, label=name)
        axes[1].plot(number, [value / 1e6 for value in grown.stored], label=name)
        axes[2].plot(number, [value / 1e6 for value in grown.resident], label=name)
    for axis, title in zip(axes, ("seconds of a lesson", "lineage, MB", "memory of the process, MB"), strict=True):
        axis.set(title=title, xlabel="lesson", ylim=(0, None))
    axes[0].legend()
    figure.savefig(out)


def main(words: list[str] | None = None) -> dict[str, Growth]:
    """Measure, print and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lessons", type=int, default=50)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("growth.png"))
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    few, own = measure(given.lessons, given.steps, "ends")
    _, every = measure(given.lessons, given.steps, "all")
    found = {"nothing: training alone": few, "its own concept": own, "every concept": every}
    print("drawn after a lesson      a further lesson adds   stored a lesson   memory, first to last")
    for name, grown in found.items():
        each = grown.stored[-1] / len(grown.stored) / 1e6
        held = f"{grown.resident[0] / 1e6:.0f} to {grown.resident[-1] / 1e6:.0f} MB"
        print(f"{name:26}{grown.slope:+8.1%} of a lesson   {each:8.2f} MB       {held}", flush=True)
    plot(found, given.out)
    return found


if __name__ == "__main__":
    main()
