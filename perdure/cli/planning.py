"""Commands that prepare: plan new, data get."""

import os
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import Device, Overrides


def plan_new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Holds one sub-folder of images per concept.")],
    out: Annotated[Path, typer.Option(help="The plan file to write.")] = Path("plan.yaml"),
    base: Annotated[
        str, typer.Option(help="`toybox`, a hub id, a local diffusers folder or a checkpoint file.")
    ] = "toybox",
) -> None:
    """Write a plan from a folder of concepts; edit it, then check and run it."""
    from perdure import files, plan
    from perdure.cli import screen
    from perdure.errors import PlanError
    from perdure.plan import sources, yaml_file

    if os.path.exists(out):
        raise PlanError(f"{out} exists; choose another --out")
    text = sources.folder_plan(folder.absolute(), out.absolute().parent, base)
    plan.build(yaml_file.parse(text, str(out))[0], out.absolute().parent, where=str(folder))  # refuses what check would
    files.write_text(out, text)
    screen.tell(sources.notes_on(folder.absolute()))
    screen.say(f"wrote {out}. Next: perdure check {out}; perdure run {out}")


def data_get(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="dreambooth, unlearncanvas, customconcept101, landmarks, celeba-hq, imagenet-r, digits",
        ),
    ],
    source: Annotated[Path | None, typer.Option("--from", help="A local copy, instead of the public source.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that will hold the data sets.")] = Path("data"),
    concepts: Annotated[
        int | None, typer.Option(min=1, help="landmarks, celeba-hq: how many are taken, by rising id; 25 by default.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="landmarks, celeba-hq: how many pictures each must have; 15 by default.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="landmarks, celeba-hq: this id, instead (repeat it for more)."),
    ] = None,
) -> None:
    """Fetch, verify and lay out a data set; never overwrites.

    customconcept101 is 3.4 GB. landmarks, celeba-hq and imagenet-r cannot be fetched: give a copy with --from. digits
    come with scikit-learn. Fetching was only tried against stand-ins for the servers; --from was tried.
    """
    from perdure import datasets
    from perdure.cli import screen

    given = {"concepts": concepts, "images": images, "only": tuple(dict.fromkeys(only or ())) or None}
    asked = {key: value for key, value in given.items() if value is not None}
    pick = datasets.Pick(**asked) if asked else None  # type: ignore[arg-type]
    got = datasets.get(name, out, source, screen.watch(), pick)
    screen.say(f"{got.folder}: {got.copied} files copied, {got.kept} were there already; all verified")


def advise(
    concepts: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Holds one sub-folder of images per concept; or a plan file.")
    ],
    budget: Annotated[str, typer.Option(help="How long it may take: 90s, 20min, 2h.")] = "20min",
    methods: Annotated[str, typer.Option(help="Methods to choose from, comma-separated, the most wanted first.")] = "",
    base: Annotated[
        str | None, typer.Option(help="`toybox` (default), a hub id, a local folder or a checkpoint file.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs and the advice.")] = Path("runs/advice"),
    overrides: Overrides = None,
    device: Device = None,
) -> None:
    """Which method suits your concepts: short runs of several within a time budget, and how sure the result is.

    Stop it and start it again as you like; the same command with a larger budget goes on with more rounds.
    """
    from perdure.advise import design
    from perdure.cli import screen
    from perdure.photos import pictures

    seconds = design.seconds_of(budget)
    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    with screen.working("loading libraries"):
        from perdure.advise import advise as advising
        from perdure.advise import asking, page
    plan = asking.plan_of(concepts, names, base, tuple(overrides or ()))
    screen.tell([*plan.notes, *pictures.notes(plan.concepts, plan.training)])
    advice = advising.advise(plan, seconds, out, device, screen.watch(), screen.say)
    screen.console.print(page.table(advice.verdict))
    for line in (*page.footnotes(advice.verdict), advice.headline, advice.reason, *advice.cautions):
        screen.say(line)
    screen.say(f"advice: {advice.page.absolute().as_uri()}")
    for command in advice.next:
        screen.say(f"next: {command}")


def toybox_draw(
    out: Annotated[Path, typer.Option(help="Folder for the sheets.")] = Path("toybox"),
) -> None:
    """Draw sheets of the world: classes, contexts, styles, subjects."""
    from perdure.cli import screen
    from perdure.files import write_png
    from perdure.toybox import world
    from perdure.toybox.world import sheets

    pictures = {
        "classes": sheets.class_sheet(),
        "contexts": sheets.context_sheet(),
        "styles-seen": sheets.style_sheet(world.SEEN_STYLES),
        "styles-held-out": sheets.style_sheet(world.HELD_OUT_STYLES),
        "subjects": sheets.subject_sheet(world.subjects(10)),
    }
    for name, picture in pictures.items():
        write_png(out / f"{name}.png", picture)
    screen.say(f"wrote {', '.join(pictures)} to {out}")
