"""Commands that prepare: plan new, data get."""

from pathlib import Path
from typing import Annotated

import typer


def plan_new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Holds one sub-folder of images per concept.")],
    out: Annotated[Path, typer.Option(help="The plan file to write.")] = Path("plan.yaml"),
    base: Annotated[str, typer.Option(help="`toybox`, a hub id, or a local diffusers folder.")] = "toybox",
) -> None:
    """Write a plan from a folder of concepts; edit it, then check and run it."""
    from perdure import files, screen, sources
    from perdure.errors import PlanError

    if out.exists():
        raise PlanError(f"{out} exists; choose another --out")
    files.write_text(out, sources.plan_text(folder.absolute(), out.absolute().parent, base))
    screen.say(f"wrote {out}. Next: perdure check {out}; perdure run {out}")


def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="dreambooth or unlearncanvas")],
    source: Annotated[Path | None, typer.Option("--from", help="A local copy, instead of the public source.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that will hold the data sets.")] = Path("data"),
) -> None:
    """Fetch, verify and lay out a data set; never overwrites."""
    from perdure import datasets, screen

    got = datasets.get(name, out, source, screen.watch())
    screen.say(f"{got.folder}: {got.copied} files copied, {got.kept} were there already; all verified")
