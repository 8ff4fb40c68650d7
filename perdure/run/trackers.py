"""What a run tells trackers: TensorBoard, Weights & Biases, Trackio. Accelerate speaks to each of them.

`train.jsonl` and `scores.csv` are written whether or not anybody tracks. A tracker that cannot be started stops the run
before anything is trained; one that fails later is dropped with a warning, and training goes on.
"""

import importlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker
from PIL import Image

from perdure import files, records
from perdure.errors import PlanError, did_you_mean
from perdure.lesson.train import Done
from perdure.lineage import Lineage, exports
from perdure.lineage.rows import Cell, Row
from perdure.plan import Plan, describe, portable, workload

log = logging.getLogger(__name__)

NAMES = ("tensorboard", "wandb", "trackio")
OWN_ERRORS = {"wandb": ("wandb", "Error"), "trackio": ("httpx", "HTTPError")}
"""What a tracker's library raises beside the errors of Python: (module, name)."""
ADVICE = {"wandb": "log in with `wandb login`, keep it on this machine with WANDB_MODE=offline, or "}
ROWS, COLUMNS, SIDE = 6, 4, 192
"""Most prompts and latents on a sheet of samples, and the most pixels that an image has a side there."""


@dataclass
class Tracker:
    """The trackers that follow one lineage; nobody by default."""

    steps: int = 0
    """Steps of each lesson: a lineage is one run, whose steps go on from lesson to lesson."""
    following: dict[str, Any] = field(default_factory=dict)

    def step(self, lesson: int, done: Done) -> None:
        """One training step of a lesson (from 1); what its loss is the sum of, where that is more than one part."""
        parts = {f"train/{name}": part for name, part in done.parts.items() if len(done.parts) > 1}
        values = {"train/loss": done.loss, "train/learning_rate": done.rate, **parts}
        self._tell(values, (lesson - 1) * self.steps + done.step)

    def lesson(self, lineage: Lineage, row: Row) -> None:
        """Scores and samples of every concept after a lesson, and what the base scored on those just taught."""
        if not self.following:
            return
        at = row.number * self.steps
        names = sorted(folder.name for folder in (row.folder / "cells").iterdir())
        cells = {name: cell for name in names if (cell := row.cell(name))}
        before = {name: cell for name in row.concepts if (cell := lineage.base_row.cell(name))}
        scores = {f"score/{measure}/{name}": v for name, cell in cells.items() for measure, v in cell.scores.items()}
        scores |= {f"base/{measure}/{name}": v for name, cell in before.items() for measure, v in cell.scores.items()}
        self._tell(scores, at)
        for name, cell in cells.items():
            self._show(f"samples/{name}", sheet(cell), at)

    def _tell(self, values: dict[str, float], at: int) -> None:
        self._each(lambda name, tracker: tracker.log(values, step=at))

    def _show(self, what: str, pixels: np.ndarray, at: int) -> None:
        def show(name: str, tracker: Any) -> None:
            if name == "trackio":  # accelerate's class does not take images, the library does
                tracker.log({what: importlib.import_module("trackio").Image(pixels)}, step=at)
            else:
                tracker.log_images({what: pixels[None]}, step=at, **_layout(name))

        self._each(show)

    def _each(self, act: Callable[[str, Any], None]) -> None:
        for name, tracker in list(self.following.items()):
            try:
                act(name, tracker)
            except failures(name) as error:
                del self.following[name]
                log.warning("%s failed (%s); training goes on without it, see train.jsonl", name, _first_line(error))


@contextmanager
def following(names: Sequence[str], plan: Plan, lineage: Lineage) -> Iterator[Tracker]:
    """The trackers of these names, started if the lineage has lessons left. Raises PlanError where one cannot be."""
    tracker = Tracker(max(workload.lengths(plan)))
    try:
        for name in names if len(lineage.concepts) < len(plan.sequence) else ():
            tracker.following[name] = _started(name, plan, lineage)
        yield tracker
    finally:
        for name, one in tracker.following.items():
            with suppress(*failures(name)):
                one.finish()


NOBODY = Tracker()
"""No tracker follows."""


def check(names: Sequence[str]) -> None:
    """Raises PlanError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in NAMES:
            raise PlanError(f"no tracker {name!r}{did_you_mean(name, NAMES)}")
        if find_spec(name) is None:
            raise PlanError(f"{name} is not installed; pip install 'perdure[{name}]', or leave out --track {name}")


def _started(name: str, plan: Plan, lineage: Lineage) -> Any:
    label, folder = lineage.folder.name, lineage.folder.parent
    try:
        if name == "tensorboard":
            tracker = TensorBoardTracker(label, logging_dir=str(folder / "tensorboard"))
        elif name == "wandb":
            own = identity(lineage)
            tracker = WandBTracker(plan.name, name=label, id=own, resume="allow", dir=str(folder))
        else:
            tracker = TrackioTracker(plan.name, name=f"{label}-{identity(lineage)}", resume="allow", embed=False)
        tracker.start()
        if name != "tensorboard" or not lineage.lessons:  # it would add the same settings again as another run
            tracker.store_init_configuration(configuration(plan))
    except failures(name) as error:
        raise PlanError(
            f"{name} cannot be started ({_first_line(error).rstrip('.')}), and nothing was trained; "
            f"{ADVICE.get(name, '')}leave out --track {name}"
        ) from None
    return tracker


def identity(lineage: Lineage) -> str:
    """8 hex digits by which trackers know a lineage again, kept in its folder; another after that was deleted."""
    path = lineage.folder / "tracking.json"
    if not path.is_file():
        files.write_json(path, {"id": uuid.uuid4().hex[:8]})
    return str(records.read(path, exports.Tracking)["id"])


def failures(name: str) -> tuple[type[Exception], ...]:
    """What may go wrong in a tracker without being a mistake of ours: network, login, disk, its own refusals."""
    usual = (OSError, RuntimeError, ValueError)
    if name not in OWN_ERRORS:
        return usual
    module, error = OWN_ERRORS[name]
    return *usual, getattr(importlib.import_module(module), error)


def configuration(plan: Plan) -> dict[str, str | int | float | bool]:
    """The resolved plan as flat keys: `training.steps`; lists as JSON; no paths of this machine."""
    own = {"name": plan.name, "concepts": [describe(concept) for concept in plan.sequence]}

    def flat(value: Any, at: str) -> Iterator[tuple[str, str | int | float | bool]]:
        if isinstance(value, dict) and value:
            for key, part in value.items():
                yield from flat(part, f"{at}.{key}".lstrip("."))
        else:
            yield at, value if isinstance(value, str | int | float | bool) else json.dumps(value)

    return dict(flat({**portable(plan.settings()), **own, "fingerprint": plan.fingerprint()}, ""))


def sheet(cell: Cell) -> np.ndarray:
    """Some samples of a cell as one picture (h, w, 3), 8 bit: a row for each prompt, a column for each latent."""
    wanted = [image for image in cell.record["images"] if image["latent"] < COLUMNS]
    prompts = list(dict.fromkeys(image["prompt"] for image in wanted))[:ROWS]
    shown: dict[tuple[int, int], Image.Image] = {}
    for image in wanted:
        if image["prompt"] in prompts:
            picture = files.read_png(files.within(cell.folder, image["file"]))
            picture.thumbnail((SIDE, SIDE))
            shown[prompts.index(image["prompt"]), image["latent"]] = picture
    width, height = next(iter(shown.values())).size
    columns = 1 + max(column for _, column in shown)
    whole = Image.new("RGB", (width * columns, height * len(prompts)), "white")
    for (row, column), picture in shown.items():
        whole.paste(picture, (column * width, row * height))
    return np.asarray(whole)


def _layout(name: str) -> dict[str, str]:
    return {"dataformats": "NHWC"} if name == "tensorboard" else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
