"""Commands that advise: advise."""

from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import Device, Overrides


def advise(
    concepts: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Holds one sub-folder of images per concept; or a plan file.")
    ],
    budget: Annotated[str, typer.Option(help="How long it may take: 90s, 20min, 2h.")] = "20min",
    methods: Annotated[str, typer.Option(help="Methods to choose from, comma-separated, the most wanted first.")] = "",
    base: Annotated[str | None, typer.Option(help="`toybox` (default), a hub id, or a local diffusers folder.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs and the advice.")] = Path("runs/advice"),
    overrides: Overrides = None,
    device: Device = None,
) -> None:
    """Which method suits your concepts: short runs of several within a time budget, and how sure the result is.

    Stop it and start it again as you like; the same command with a larger budget goes on with more rounds.
    """
    from perdure.advise import budget as spans
    from perdure.cli import screen
    from perdure.photos import pictures

    seconds = spans.parse(budget)
    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    with screen.working("loading libraries"):
        from perdure.advise import advise as advising
        from perdure.advise import asking, terminal
    plan = asking.plan_of(concepts, names, base, tuple(overrides or ()))
    screen.tell([*plan.notes, *pictures.notes(plan.concepts)])
    advice = advising.advise(plan, seconds, out, device, screen.watch(), screen.say)
    screen.console.print(terminal.table(advice.verdict))
    for line in (*terminal.footnotes(advice.verdict), advice.headline, advice.reason, *advice.cautions):
        screen.say(line)
    screen.say(f"advice: {advice.page.absolute().as_uri()}")
    for command in advice.next:
        screen.say(f"next: {command}")
