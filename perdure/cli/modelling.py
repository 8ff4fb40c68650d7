"""Commands on one model: init, draw, log, fsck."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import Device, Json, Model, Overrides
from perdure.wording import name_from


def init(
    model: Model,
    base: Annotated[
        str, typer.Option(help="`toybox`, a hub id, a local diffusers folder, or a checkpoint file.")
    ] = "toybox",
    method: Annotated[str, typer.Option(help="How lessons are kept apart; see `perdure methods`.")] = "merge_init",
    overrides: Overrides = None,
) -> None:
    """Begin a new model: a folder that will hold its lessons."""
    from perdure.cli import screen
    from perdure.plan import yaml_file

    name = name_from(model.absolute().name)
    data = yaml_file.override({"name": name, "base": base, "method": method}, tuple(overrides or ()))
    with screen.working("looking at the base"):
        from perdure.bases import first_look, loading
        from perdure.lineage import Lineage

        made, told = first_look.plan_of(data)
    screen.tell(told)
    with screen.working("trying the base"):
        load, where = loading.how(made)
        first_look.try_out(load(*where), made.base)
    Lineage.create(model, made, loading.identity(made.base, made.vae), loading.versions())
    screen.say(f"{model} is ready. Next: perdure teach {model} IMAGES --prompt 'a photo of zwz dog'")


def draw(
    model: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw; not with --scene.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="The picture file: .png, .jpg or .webp; drawn.png, drawn-2.png ... by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    count: Annotated[int, typer.Option(min=1, help="How many images, side by side.")] = 4,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    after: Annotated[int | None, typer.Option(min=0, help="As the model was after this lesson (0: the base).")] = None,
    concept: Annotated[str | None, typer.Option(help="For methods that must be told which concept is meant.")] = None,
    scene: Annotated[Path | None, typer.Option(help="A file (JSON or YAML) with a picture's regions.")] = None,
    regions: Annotated[
        list[str] | None, typer.Option("--region", help="x0,y0,x1,y1: prompt, in fractions, y down; can be repeated.")
    ] = None,
    device: Device = None,
) -> None:
    """Draw with a model, as it is now or as it was after an earlier lesson."""
    from perdure import files
    from perdure.cli import screen
    from perdure.errors import PerdureError
    from perdure.lineage import Lineage
    from perdure.plan import scenes

    if (scene is None) == (prompt == "") or (scene is not None and regions):
        raise PerdureError("give a PROMPT (with --region for parts of the picture) or a --scene file, not both")
    what = scenes.load(scene) if scene else scenes.of_texts(prompt, regions) if regions else prompt

    lineage = Lineage(model)
    out = out or files.free(Path("drawn.png"))
    if not overwrite and os.path.lexists(out):
        raise PerdureError(f"{out} is there already; choose another --out, or say --overwrite")
    with screen.working("loading libraries"):
        from perdure.bases import reading
        from perdure.drawing import draw
    texts = [what] if isinstance(what, str) else what.texts({name: lineage.concept(name) for name in lineage.concepts})
    screen.tell(reading.too_long(lineage.plan(), texts))
    draw.draw(lineage, what, out, count=count, seed=seed, after=after, concept=concept, device=device)
    screen.say(f"wrote {out}")


def log(model: Model, as_json: Json = False) -> None:
    """The chain of lessons: scores now and when learnt, forgetting, bytes, seconds."""
    from perdure.cli import screen
    from perdure.lineage import Lineage, history

    lineage = Lineage(model)
    if as_json:
        typer.echo(json.dumps(screen.log_entries(lineage), indent=1))
    elif lineage.lessons or history.beside(lineage):
        screen.console.print(screen.log_table(lineage))
        screen.notes_of(lineage)
    else:
        screen.say(f"{model} has learnt nothing yet. Next: perdure teach {model} IMAGES --prompt 'a photo of zwz dog'")


def fsck(
    model: Model,
    mend: Annotated[bool, typer.Option("--mend", help="Put right what can be made again from the rest.")] = False,
    as_json: Json = False,
) -> None:
    """Check every file of a model: what is damaged, and what to do. Exit code 1 where damage is left."""
    from perdure.cli import screen

    with screen.working("loading libraries"):
        from perdure.lineage import fsck as checking
    found = checking.examine(model, mend)
    left = [finding for finding in found if finding.damage and not finding.mended]
    if as_json:
        typer.echo(json.dumps([finding.as_json() for finding in found], indent=1))
    else:
        for finding in found:
            kind = "mended" if finding.mended else "damage" if finding.damage else "leftover"
            screen.say(f"{kind}: {finding.file}: {finding.what}; {finding.remedy}")
        screen.say(f"{model}: {len(left)} damaged" if left else f"{model} is whole")
    if left:
        raise typer.Exit(1)
