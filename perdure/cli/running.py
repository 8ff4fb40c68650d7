"""Commands that carry out plans: demo, run, check."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.looking import build_report, write_report
from perdure.cli.options import DataFolder, Device, Json, Overrides, PlanFile, Track

if TYPE_CHECKING:
    from perdure.photos.pictures import Contents
    from perdure.plan import Concept, Plan

FEW = 5
"""Notes on the images that a run shows."""
SHARE, FIRST = 0.05, 2.0
"""How much of a run's time its report may take while lessons go on, and seconds that the first is taken to need."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("runs"),
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Methods side by side; one a core by default.")] = None,
) -> None:
    """Watch a small model learn and forget: the embedded base, on this machine, in a minute or two."""
    _run(load_plan(Path("demo"), overrides), out / "demo", None, workers=workers)


def run(
    plan: PlanFile,
    out: Annotated[Path | None, typer.Option(help="Folder for the result; runs/<plan> by default.")] = None,
    overrides: Overrides = None,
    data: DataFolder = None,
    device: Device = None,
    track: Track = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Methods side by side, each in a process of its own with one thread.")
    ] = 1,
) -> None:
    """Run a plan: every method on every concept, scores, report. Continues where it was stopped."""
    loaded = load_plan(plan, overrides, data)
    _run(loaded, out or Path("runs") / loaded.name, device, track or [], workers)


def check(plan: PlanFile, overrides: Overrides = None, data: DataFolder = None, as_json: Json = False) -> None:
    """Check a plan and every image it names, and say what it would do. Trains nothing."""
    from perdure.bases import reading
    from perdure.cli import fitting, screen
    from perdure.errors import PlanError
    from perdure.photos import pictures
    from perdure.plan import workload

    loaded = load_plan(plan, overrides, data)
    read = reading.check((run, ()) for run in loaded.runs)
    problems = [*pictures.check(loaded.concepts, [loaded]), *read.problems]
    if problems:
        raise PlanError(problems)
    shown = [(concept, pictures.contents(concept, loaded.training)) for concept in loaded.sequence]
    if as_json:
        typer.echo(json.dumps({**described(loaded, shown, read.notes), "memory": fitting.described(loaded)}, indent=1))
        return
    screen.console.print(screen.concepts_table(loaded, shown))
    screen.say(f"{screen.amount(loaded)}; {workload.of(loaded).images:,} evaluation images")
    fitting.show(loaded)
    screen.tell([*loaded.notes, *read.notes, *pictures.notes(loaded.sequence, loaded.training)])


def described(plan: "Plan", shown: Sequence[tuple["Concept", "Contents"]], notes: Sequence[str] = ()) -> dict[str, Any]:
    """What a plan would do, as plain values: identity, runs, concepts in order with what their pictures are, totals.

    notes: on the plan as a whole, beside its own.
    """
    from perdure.plan import workload

    concepts = [
        {
            "name": concept.name,
            "kind": concept.kind,
            "captions": list(dict.fromkeys(own.captions)),
            "training_images": len(own.captions),
            "reference_images": own.references,
            "notes": list(own.notes),
        }
        for concept, own in shown
    ]
    return {
        "name": plan.name,
        "base": plan.base,
        "fingerprint": plan.fingerprint(),
        "runs": [choice.label for choice in plan.methods] + ["joint"] * plan.joint,
        "notes": [*plan.notes, *notes],
        "concepts": concepts,
        **asdict(workload.of(plan)),
    }


def load_plan(path: Path, overrides: list[str] | None, data: Path | None = None) -> "Plan":
    """A plan file, or a ready plan by its name, with the overrides of the command line. Raises PlanError."""
    from perdure import plan

    found = path if os.path.exists(path) or path.suffix else plan.ready(path.name)
    extra = [f"data={json.dumps(str(data.absolute()))}"] if data is not None else []
    loaded = plan.load(found, (*(overrides or ()), *extra))
    _look_for_data(loaded)
    return loaded


def _look_for_data(loaded: "Plan") -> None:
    """One sentence where the whole data set is missing, instead of one a concept. Raises PlanError."""
    from perdure.datasets import DATASETS
    from perdure.errors import PlanError

    folder = loaded.data
    if folder is None or folder.is_dir() or not any(str(folder) in str(concept.images) for concept in loaded.concepts):
        return
    get = f"`perdure data get {folder.name}` lays it out below the working folder; " if folder.name in DATASETS else ""
    raise PlanError(f"data: {folder}: there is no such folder; {get}--data names another")


def _run(loaded: "Plan", out: Path, device: str | None, track: Sequence[str] = (), workers: int | None = None) -> None:
    """`workers`: None for one method a core."""
    from perdure.cli import screen
    from perdure.errors import PlanError
    from perdure.photos import pictures

    if not loaded.concepts:
        raise PlanError(f"plan {loaded.name!r} has no concepts to teach")
    screen.say(f"{loaded.name}: {screen.amount(loaded)}")
    screen.tell([*loaded.notes, *pictures.notes(loaded.sequence, loaded.training)], most=FEW)
    with screen.working("loading libraries"):
        from perdure import run as running
        from perdure.run import helpers
        from perdure.sweep.local import cores
    if told := helpers.words(loaded):
        screen.say(told)
    screen.say(f"report, while lessons go on and at the end: {(out / 'report.html').absolute().as_uri()}")
    tell = partial(screen.tell, most=FEW)
    workers = cores() if workers is None else workers
    grown = _sparing(partial(build_report, out, out))
    try:
        running.run(loaded, out, screen.watch(), device, grown, track, tell, workers)
    except KeyboardInterrupt:
        screen.say(f"`perdure report {out}` shows the lessons so far")
        raise
    write_report(out, out)


def _sparing(build: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> Callable[[], None]:
    """Builds a report, asked after each lesson, where that adds at most `SHARE` to the time since the one before."""
    last, cost = clock(), FIRST

    def after_lesson() -> None:
        nonlocal last, cost
        if cost <= SHARE * ((began := clock()) - last):
            build()
            last = clock()
            cost = last - began

    return after_lesson
