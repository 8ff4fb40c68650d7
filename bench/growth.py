"""Does a lesson take longer the more were taught, or a run of a sweep the more were done? See README.md.

python bench/growth.py --lessons 50 --runs 64 --out growth.png
"""

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch
from matplotlib.figure import Figure

from perdure import plan, sweep
from perdure.bases import loading
from perdure.drawing import evaluate
from perdure.drawing.tools import Tools
from perdure.run import drive
from perdure.sweep import grid
from perdure.sweep.local import Local

NOTHING, OWN, EVERY = "nothing", "its own concept", "every concept"
"""What is drawn and scored after each lesson."""


@dataclass
class Growth:
    """Of each lesson or run in turn: seconds of the processor, bytes that are stored then and bytes of memory held."""

    seconds: list[float] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)

    @property
    def even(self) -> list[float]:
        """All seconds but the first, which warms up, and the last, after which every concept is drawn."""
        return self.seconds[1:-1]

    def share(self, degree: int = 1) -> tuple[float, float]:
        """What each further lesson adds, as a share of a typical one, and its standard error: of a line through the
        seconds, or, by degree 2, the coefficient of the square of the lesson's number beside a line.
        """
        return coefficient(np.array(self.even) / np.median(self.even), degree)


def coefficient(values: Sequence[float] | np.ndarray, degree: int) -> tuple[float, float]:
    """The leading coefficient of a polynomial by least squares over 0, 1, 2, ..., and its standard error."""
    number = np.arange(len(values))
    powers = np.vander(number, degree + 1)
    found, *_ = np.linalg.lstsq(powers, np.array(values), rcond=None)
    left = np.array(values) - powers @ found
    spread = left @ left / max(len(values) - degree - 1, 1) * np.linalg.pinv(powers.T @ powers)
    return float(found[0]), float(np.sqrt(spread[0, 0]))


def data(lessons: int, steps: int, rows: str, method: str) -> dict[str, Any]:
    """A plan of drawn subjects; one small picture a cell."""
    concepts = [
        {
            "name": f"s{k}",
            "drawn": {"index": k % 20, "images": 3, "references": 3},
            "token": _token(k),
            "class": "thing",
        }
        for k in range(lessons)
    ]
    return {
        "methods": [method], "concepts": concepts, "scoring": {"subject": ["dino"], "drift": 0},
        "training": {"steps": steps, "batch_size": 1},
        "sampling": {
            "prompts": {"subject": ["a photo of a {concept}"], "style": ["{concept} image"]}, "images_per_prompt": 1,
            "steps": 1, "rows": rows,
        },
    }  # fmt: skip


def _token(number: int) -> str:
    return "q" + "".join(chr(ord("a") + digit) for digit in divmod(number, 26))


def lessons(count: int, steps: int, drawn: str, method: str) -> Growth:
    """Teach one lesson after another to the embedded base; `drawn`: NOTHING, OWN or EVERY."""
    wanted, grown = plan.build(data(count, steps, "all" if drawn == EVERY else "ends", method)), Growth()
    tools = Tools(wanted, loading.load(wanted.base, device="cpu"))
    with TemporaryDirectory() as folder:
        lineage = drive.open_or_create(Path(folder) / "model", wanted)
        clock = time.process_time()

        def after() -> None:
            nonlocal clock
            grown.seconds.append(time.process_time() - clock)
            grown.stored.append(lineage.nbytes)
            grown.resident.append(psutil.Process().memory_info().rss)
            clock = time.process_time()

        def none(*_: object) -> None:
            """In place of what is not measured."""

        with ExitStack() as patches:
            patches.enter_context(
                mock.patch.object(drive, "compare_lessons", none)
            )  # once a run, after the last lesson
            if drawn == NOTHING:
                patches.enter_context(mock.patch.object(evaluate, "row", none))
            drive.teach_plan(tools, lineage, lineage, after)
    return grown


def runs(count: int, steps: int, method: str) -> tuple[Growth, Growth]:
    """A sweep of so many runs of two lessons, on one worker: of the worker, and of the sweep's own process."""
    asked = {"plan": data(2, steps, "all", method), "axes": {"seeds": list(range(count))}}
    worker, own = Growth(), Growth()
    with TemporaryDirectory() as folder:
        todo = sweep.task(grid.build(asked), Path(folder) / "sweep")
        before = [0.0, time.process_time()]

        def show(moment: sweep.Moment) -> None:
            done = sum(status.state == "done" for status in moment.statuses.values())
            if done <= len(worker.seconds):
                return
            theirs = psutil.Process().children(recursive=True)
            spent = [sum(sum(one.cpu_times()[:2]) for one in theirs), time.process_time()]
            held = [sum(one.memory_info().rss for one in theirs), psutil.Process().memory_info().rss]
            for grown, now, then, bytes_ in zip((worker, own), spent, before, held, strict=True):
                grown.seconds.append(now - then)
                grown.resident.append(bytes_)
            before[:] = spent

        failed = [one for one in sweep.carry_out(todo, Local(todo.root, 1, "cpu"), show) if one.state != "done"]
        assert not failed, failed
    return worker, own


def plot(found: dict[str, Growth], swept: dict[str, Growth], out: Path) -> None:
    """Seconds of a lesson, memory held and size of the lineage against the number of the lesson; the same of runs."""
    panels = [
        (title, what, {name: values for name, values in own if values})
        for some, what in ((found, "lesson"), (swept, "run"))
        for title, own in (
            (f"processor seconds of a {what}", [(name, grown.seconds) for name, grown in some.items()]),
            ("memory of the process, MB", [(n, [value / 1e6 for value in g.resident]) for n, g in some.items()]),
            ("lineage, MB", [(n, [value / 1e6 for value in g.stored]) for n, g in some.items()]),
        )
        if any(values for _, values in own)
    ]
    figure = Figure(figsize=(4 * len(panels), 3.4), layout="constrained")
    for axes, (title, what, lines) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for name, values in lines.items():
            axes.plot(range(1, len(values) + 1), values, label=name)
        top = max(max(values) for values in lines.values())
        axes.set(title=title, xlabel=what, ylim=(0, 1.08 * top))
        axes.legend(title="drawn" if what == "lesson" else None)
    figure.savefig(out)


def main(words: list[str] | None = None) -> tuple[dict[str, Growth], dict[str, Growth]]:
    """Measure, print and plot; the numbers lie beside the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lessons", type=int, default=50)
    parser.add_argument("--runs", type=int, default=64, help="of the sweep; 0 for none")
    parser.add_argument("--drawn", nargs="*", default=[NOTHING, OWN, EVERY], help="some of these")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--method", default="merge_init")
    parser.add_argument("--out", type=Path, default=Path("growth.png"))
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    found: dict[str, Growth] = {}
    swept: dict[str, Growth] = {}

    def keep() -> None:
        numbers = {name: asdict(grown) for name, grown in (found | swept).items()}
        given.out.with_suffix(".json").write_text(json.dumps(numbers))

    print("drawn after a lesson   s, median   a further one adds, of it   square             stored   memory held")
    for drawn in given.drawn:
        found[drawn] = grown = lessons(given.lessons, given.steps, drawn, given.method)
        _tell(drawn, grown)
        keep()
    if given.runs:
        swept |= zip(("the worker", "the sweep"), runs(given.runs, given.steps, given.method), strict=True)
        print("of a run of a sweep")
    for name, grown in swept.items():
        _tell(name, grown)
    keep()
    plot(found, swept, given.out)
    return found, swept


def _tell(name: str, grown: Growth) -> None:
    line, square = (f"{value:+.2%} +- {error:.2%}" for value, error in (grown.share(1), grown.share(2)))
    stored = f"{grown.stored[-1] / len(grown.stored) / 1e6:.2f} MB" if grown.stored else "-"
    first, last = (f"{grown.resident[k] / 1e6:.0f}" for k in (1, -1))
    print(
        f"{name:20}{np.median(grown.even):12.3f}{line:>24}{square:>22}{stored:>12}   {first} to {last} MB", flush=True
    )


if __name__ == "__main__":
    main()
