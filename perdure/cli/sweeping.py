"""Commands on grids: sweep, sweep status."""

import json
import os
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from perdure.cli.options import DataFolder, Device, Json, Overrides

if TYPE_CHECKING:
    from perdure.sweep import Moment, Task
    from perdure.sweep.engine import Engine
    from perdure.sweep.status import Paces, RunStatus

    Make = Callable[[Path], Engine]

RUN = "run"
FAILED = 2
"""Exit code where a run has failed."""


class Group(TyperGroup):
    """`perdure sweep GRID` is `perdure sweep run GRID`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the usual command in front of what is none."""
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        parsed: list[str] = super().parse_args(ctx, args if named or not args else [RUN, *args])
        return parsed


class Engines(StrEnum):
    """Where runs are carried out."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


GridFile = Annotated[Path, typer.Argument(metavar="GRID", help="A grid file, or the name of a ready grid.")]
EngineName = Annotated[Engines, typer.Option("--engine", help="This machine, a Ray cluster, or Slurm.")]
Slurm = Annotated[
    list[str] | None, typer.Option("--slurm", help="Slurm: partition=gpu, time=600 (minutes), gpus=1, ...")
]


def sweep(
    grid: GridFile,
    engine: EngineName = Engines.local,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs; runs/<grid> by default.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Local: processes; one a device, or a core.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    overrides: Overrides = None,
    data: DataFolder = None,
    device: Device = None,
    address: Annotated[str | None, typer.Option(help="Ray: of a cluster; one is started here by default.")] = None,
    cpus: Annotated[float | None, typer.Option(help="Ray: CPUs for a run; 1 by default.")] = None,
    gpus: Annotated[float | None, typer.Option(help="Ray: GPUs for a run; 1 by default if there are any.")] = None,
    slurm: Slurm = None,
) -> None:
    """Run a grid: methods x orders x seeds x any key of a plan. Continues where it was stopped."""
    from perdure import sweep
    from perdure.cli import screen
    from perdure.plan import yaml_file
    from perdure.sweep import grid as grids
    from perdure.sweep import view

    extra = [f"data={json.dumps(str(data.absolute()))}"] if data is not None else []
    loaded = grids.load(grids.find(grid), (*(overrides or ()), *extra))
    root = out or Path("runs") / loaded.name
    todo = sweep.task(loaded, root.absolute())
    sweep.check(todo)
    for line in view.amount(todo).splitlines():
        screen.say(line)
    parameters = yaml_file.override({**loaded.slurm}, tuple(slurm or ()))
    make = partial(_engine, engine, todo, device, workers, (address, cpus, gpus), parameters)
    if dry_run:
        _foretell(todo, make)
        return
    statuses = _carry_out(todo, make) if todo.stretches else list(todo.read().values())
    screen.say(f"results: {root.absolute()}. Next: perdure compare {root}")
    _complain(statuses)


def sweep_status(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A sweep's folder.")], as_json: Json = False
) -> None:
    """How far a sweep is, whoever works on it: read from its lineages."""
    from perdure import sweep
    from perdure.cli import screen
    from perdure.errors import LineageError
    from perdure.sweep import grid as grids
    from perdure.sweep import places, status, view

    if not os.path.isfile(places.grid_file(folder)):
        raise LineageError(f"{folder} is not a sweep's folder (no grid.yaml); make one with `perdure sweep GRID`")
    loaded = grids.load(places.grid_file(folder))
    todo = sweep.task(loaded, folder.absolute())
    statuses = todo.read()
    if as_json:
        typer.echo(json.dumps(status.as_json(loaded, list(statuses.values())), indent=1))
        return
    screen.console.print(view.table(sweep.Moment(statuses, status.seconds_left(todo.stretches, statuses, 1))))
    for one in statuses.values():
        if one.state == "failed":
            screen.say(f"{one.name}: {one.problem}")


def _foretell(todo: "Task", make: "Make") -> None:
    """Say what would be done and how long it would take; nothing is left in the sweep's folder."""
    from perdure.cli import screen
    from perdure.sweep import view

    with TemporaryDirectory(prefix="perdure-") as nowhere:
        engine, _, moment = _timed(todo, make, Path(nowhere))
        engine.close()
    screen.console.print(view.table(moment))


def _carry_out(todo: "Task", make: "Make") -> "list[RunStatus]":
    from perdure import sweep
    from perdure.cli import screen
    from perdure.sweep import view

    engine, measured, _ = _timed(todo, make, todo.root)
    with view.showing(screen.console) as show:
        return sweep.carry_out(todo, engine, show, measured)


def _timed(todo: "Task", make: "Make", root: Path) -> "tuple[Engine, Paces, Moment]":
    """The engine, what lessons cost on it, and how things stand; says how long the sweep will take."""
    from perdure import sweep
    from perdure.cli import screen
    from perdure.sweep import view

    with screen.working("measuring how long it will take"):
        engine = make(root)
        measured = sweep.paces(todo, engine)
    moment = sweep.moment(todo, engine, measured)
    screen.say(view.estimate(moment, engine.slots))
    return engine, measured, moment


def _engine(
    name: Engines, todo: "Task", device: str | None, workers: int | None, ray: tuple[Any, ...], slurm: dict[str, Any],
    root: Path,
) -> "Engine":  # fmt: skip
    """The engine that was asked for, its own files below `root`."""
    from perdure.errors import PlanError

    try:
        if name is Engines.ray:
            from perdure.sweep.on_ray import OnRay

            address, cpus, gpus = ray
            return OnRay(address, device, cpus, gpus)
        if name is Engines.slurm:
            from perdure.sweep.on_slurm import OnSlurm

            return OnSlurm(root, slurm, device)
    except ImportError as error:
        raise PlanError(f"--engine {name} needs {error.name}; install it with: pip install 'perdure[{name}]'") from None
    from perdure.sweep import local

    return local.Local(root, local.workers(workers, device, len(todo.grid.runs)), device)


def _complain(statuses: "list[RunStatus]") -> None:
    failed = [one for one in statuses if one.state == "failed"]
    for one in failed:
        typer.echo(f"failed: {one.name}: {one.problem}", err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(statuses)} runs failed; the same command tries them again", err=True)
        raise typer.Exit(FAILED)


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of models, runs or sweeps.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; the folder itself by default, `compare` for several.")
    ] = None,
    measure: Annotated[str | None, typer.Option(help="Only this measure: clip_i, dino, csd, ...")] = None,
    beside: Annotated[
        str | None, typer.Option(help="A published protocol to print beside; the one that the plan names by default.")
    ] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Also write all charts as SVG files, for papers.")] = False,
    as_json: Json = False,
) -> None:
    """Compare methods over orders and seeds: means, paired differences, figures, tables."""
    from perdure.cli import screen

    with screen.working("comparing"):
        from perdure import compare as comparison
        from perdure.compare import page, published, study, tables

        found = study.of(folders, measure)
        table = published.beside(found, beside)
        target = out or (folders[0] if len(folders) == 1 else Path("compare"))
        path = comparison.write(found, target, " + ".join(folder.absolute().name for folder in folders), table)
        drawn = page.write(found, target / "figures") if figures else []
    if as_json:
        typer.echo(json.dumps(comparison.as_json(found, table), indent=1))
        return
    for shown in found.primaries:
        screen.console.print(tables.main_table(found, shown))
    if table:
        screen.console.print(tables.published_table(table))
    for sentence in tables.conclusions(found, table):
        screen.say(sentence)
    screen.say(f"compare: {path.absolute().as_uri()}")
    if drawn:
        screen.say(f"figures: {len(drawn)} charts in {drawn[0].parent}")
