"""Commands on one model, or two: init, draw, log, fsck, remove, tag, branch, diff."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.options import After, Device, Json, Model, Overrides
from perdure.wording import name_from

if TYPE_CHECKING:
    from perdure.compare.diff import Diff


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
    Lineage.create(model, made, loading.known(made), loading.versions())
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
    after: After = None,
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
    from perdure.lineage import Lineage, history
    from perdure.plan import scenes

    if (scene is None) == (prompt == "") or (scene is not None and regions):
        raise PerdureError("give a PROMPT (with --region for parts of the picture) or a --scene file, not both")
    what = scenes.load(scene) if scene else scenes.of_texts(prompt, regions) if regions else prompt

    lineage = Lineage(model)
    number = history.numbered(lineage, after)
    out = out or files.free(Path("drawn.png"))
    if not overwrite and os.path.lexists(out):
        raise PerdureError(f"{out} is there already; choose another --out, or say --overwrite")
    with screen.working("loading libraries"):
        from perdure.bases import reading
        from perdure.drawing import draw
    texts = [what] if isinstance(what, str) else what.texts({name: lineage.concept(name) for name in lineage.concepts})
    screen.tell(reading.too_long(lineage.plan(), texts))
    draw.draw(lineage, what, out, count=count, seed=seed, after=number, concept=concept, device=device)
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


def remove(
    model: Model,
    concept: Annotated[str, typer.Argument(metavar="CONCEPT", help="Its name, as `perdure log` tells it.")],
    device: Device = None,
) -> None:
    """Take one concept out of a model: its lesson's own change, or by learning again what came after it.

    A new row tells so, with every concept drawn and scored; `undo` takes the removal back.
    """
    from perdure.cli import screen
    from perdure.lineage import Lineage

    lineage = Lineage(model)
    with screen.working("loading libraries"):
        from perdure import run as running
    row = running.remove(lineage, concept, screen.watch(), device)
    screen.removed(lineage, row)


def tag(
    model: Model,
    name: Annotated[str | None, typer.Argument(metavar="TAG", help="The name; all are listed without one.")] = None,
    after: After = None,
    delete: Annotated[bool, typer.Option("--delete", help="Take the name away; the lesson stays.")] = False,
) -> None:
    """Name a lesson (the last one by default); the name serves wherever `--after` does."""
    from perdure.cli import screen
    from perdure.errors import PlanError
    from perdure.lineage import Lineage, agreement, history

    lineage = Lineage(model)
    if name is None:
        if after is not None or delete:
            raise PlanError("--after and --delete need the name: perdure tag MODEL TAG")
        for known, one in history.tags(lineage).items():
            screen.say(f"{known}: lesson {one['lesson']}")
        return
    with agreement.writing(lineage):
        number = history.numbered(lineage, after)
        number = len(lineage.lessons) if number is None else number
        history.tag(lineage, name, None if delete else number)
    screen.say(f"{name} is no tag any more" if delete else f"lesson {number} is called {name}")


def branch(
    model: Model,
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of the new model.")],
    after: After = None,
) -> None:
    """Begin another model with the first lessons of this one, bit for bit; each goes on by itself."""
    from perdure.cli import screen
    from perdure.lineage import Lineage, branching, history

    lineage = Lineage(model)
    number = history.numbered(lineage, after)
    made = branching.branch(lineage, new, None, len(lineage.lessons) if number is None else number)
    count = len(made.lessons)
    lessons = f"{count} lesson{'s' * (count != 1)}"
    screen.say(f"{new} begins with {lessons} of {model}: {', '.join(made.concepts) or 'nothing yet'}")


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="MODEL, or MODEL@LESSON with its number or tag.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    out: Annotated[Path | None, typer.Option(help="Picture of every concept by both; diff.png by default.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two models, or two lessons of one: settings, weights, concepts, scores, pictures."""
    from perdure import files
    from perdure.cli import screen

    with screen.working("comparing"):
        from perdure.compare import diff as comparing
        from perdure.report import sheet

        one, other = comparing.State.of(a), comparing.State.of(b)
        found = comparing.of(one, other)
        shown = comparing.drawn_by_both(one, other)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
    else:
        _show(found)
    if shown.lines and (out is not None or not as_json):
        place = out or files.free(Path("diff.png"))
        typer.echo(f"pictures: {sheet.draw(shown, place)}", err=as_json)


def _show(found: "Diff") -> None:
    """Two states beside each other."""
    from perdure.cli import screen

    a, b = found.names
    both, first, second = (", ".join(names) or "none" for names in found.concepts)
    screen.say(f"{a} has {found.lessons[0]} lessons, {b} {found.lessons[1]}; the first {found.shared} are the same")
    screen.say(f"settings: {found.settings or 'the same'}")
    screen.say(f"concepts of both: {both}; of {a} alone: {first}; of {b} alone: {second}")
    for one in found.weights:
        whose = f" of {one.concept}" if one.concept else ""
        norms = f"norms {one.a:.4g} and {one.b:.4g}, of their difference {one.apart:.4g}, cosine {one.cosine:.2f}"
        screen.say(f"weight changes{whose}: {norms}; {one.equal} of {one.moved} moved projections are the same")
    if found.words:
        screen.say(f"learnt words that differ: {', '.join(found.words)}")
    if found.scores:
        screen.console.print(screen.scores_table(found))
    screen.tell(found.notes)
