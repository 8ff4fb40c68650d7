"""Commands on grids: sweep, sweep status."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from perdure.cli.options import DataFolder, Device, Json, Overrides

if TYPE_CHECKING:
    from perdure.sweep import Task
    from perdure.sweep.engine import Engine

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
    from perdure import screen, sweep, yaml_file
    from perdure.sweep import grid as grids
    from perdure.sweep import view

    extra = [f"data={json.dumps(str(data.absolute()))}"] if data is not None else []
    loaded = grids.load(grids.find(grid), (*(overrides or ()), *extra))
    root = out or Path("runs") / loaded.name
    todo = sweep.task(loaded, root.absolute())
    sweep.check(todo)
    screen.say(view.amount(todo))
    if dry_run:
        screen.console.print(view.table(sweep.Moment(todo.read(), None)))
        return
    if todo.orders:
        parameters = yaml_file.override({**loaded.slurm}, tuple(slurm or ()))
        with screen.working("loading libraries"):
            chosen = _engine(engine, todo, device, workers, (address, cpus, gpus), parameters)
        screen.say(view.estimate(todo, todo.read(), chosen.slots))
        with view.showing(screen.console) as show:
            statuses = sweep.carry_out(todo, chosen, show)
    else:
        statuses = list(todo.read().values())
    screen.say(f"results: {root.absolute()}. Next: perdure compare {root}")
    _complain(statuses)


def sweep_status(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A sweep's folder.")], as_json: Json = False
) -> None:
    """How far a sweep is, whoever works on it: read from its lineages."""
    from perdure import screen, sweep
    from perdure.errors import LineageError
    from perdure.sweep import grid as grids
    from perdure.sweep import places, status, view

    if not places.grid_file(folder).is_file():
        raise LineageError(f"{folder} is not a sweep's folder (no grid.yaml); make one with `perdure sweep GRID`")
    loaded = grids.load(places.grid_file(folder))
    todo = sweep.task(loaded, folder.absolute())
    statuses = todo.read()
    if as_json:
        typer.echo(json.dumps(status.as_json(loaded, list(statuses.values())), indent=1))
        return
    screen.console.print(view.table(sweep.Moment(statuses, status.seconds_left(todo.orders, statuses, 1))))
    for one in statuses.values():
        if one.state == "failed":
            screen.say(f"{one.name}: {one.problem}")


def _engine(
    name: Engines, todo: "Task", device: str | None, workers: int | None, ray: tuple[Any, ...], slurm: dict[str, Any]
) -> "Engine":
    from perdure.errors import PlanError

    try:
        if name is Engines.ray:
            from perdure.sweep.on_ray import OnRay

            address, cpus, gpus = ray
            return OnRay(address, device, cpus, gpus)
        if name is Engines.slurm:
            from perdure.sweep.on_slurm import OnSlurm

            return OnSlurm(todo.root, slurm, device)
    except ImportError as error:
        raise PlanError(f"--engine {name} needs {error.name}; install it with: pip install 'perdure[{name}]'") from None
    from perdure.sweep import local

    return local.Local(todo.root, local.workers(workers, device, len(todo.grid.runs)), device)


def _complain(statuses: list[Any]) -> None:
    failed = [one for one in statuses if one.state == "failed"]
    for one in failed:
        typer.echo(f"failed: {one.name}: {one.problem}", err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(statuses)} runs failed; the same command tries them again", err=True)
        raise typer.Exit(FAILED)
