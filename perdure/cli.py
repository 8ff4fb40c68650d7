"""The command line: thin, and quick to answer. Heavy imports are inside the commands."""

import json
import os
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.errors import PerdureError
from perdure.toybox.pretrain import cli as pretrain

if TYPE_CHECKING:
    from perdure.plan import Plan

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(
    name="perdure",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Teach one text-to-image diffusion model concept after concept, and see what each lesson cost.",
)
plan_app = typer.Typer(no_args_is_help=True, help="Write plans.")
data_app = typer.Typer(no_args_is_help=True, help="Fetch the data sets of the published protocols.")
toybox_app = typer.Typer(no_args_is_help=True, help="The embedded base: its world, and how it is pretrained.")
app.add_typer(plan_app, name="plan")
app.add_typer(data_app, name="data")
app.add_typer(toybox_app, name="toybox")
toybox_app.add_typer(pretrain.app, name="pretrain")


class Kind(StrEnum):
    """Kinds of concepts."""

    subject = "subject"
    style = "style"


Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key of the plan: training.steps=200.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best there is by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
PlanFile = Annotated[Path, typer.Argument(help="A plan file, or the name of a ready plan (`demo`).", metavar="PLAN")]
Model = Annotated[Path, typer.Argument(help="The model's folder.", metavar="MODEL")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="Where the plan's images lie, instead of its `data`.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("runs"),
    overrides: Overrides = None,
) -> None:
    """Watch a small model learn and forget: the embedded base, on this machine, in a few minutes."""
    _run(_plan(Path("demo"), overrides), out / "demo", None)


@app.command()
def run(
    plan: PlanFile,
    out: Annotated[Path | None, typer.Option(help="Folder for the result; runs/<plan> by default.")] = None,
    overrides: Overrides = None,
    data: DataFolder = None,
    device: Device = None,
) -> None:
    """Run a plan: every method on every concept, scores, report. Continues where it was stopped."""
    loaded = _plan(plan, overrides, data)
    _run(loaded, out or Path("runs") / loaded.name, device)


@app.command()
def check(plan: PlanFile, overrides: Overrides = None, data: DataFolder = None) -> None:
    """Check a plan and every image it names, and say what it would do. Trains nothing."""
    from perdure import pictures, screen
    from perdure.errors import PlanError

    loaded = _plan(plan, overrides, data)
    problems = pictures.check(loaded.concepts)
    if problems:
        raise PlanError(problems)
    shown = [(concept, pictures.of(concept)) for concept in loaded.sequence]
    screen.console.print(screen.concepts_table(loaded, shown))
    screen.say(screen.amount(loaded))


@app.command()
def init(
    model: Model,
    base: Annotated[str, typer.Option(help="`toybox`, a hub id, or a local diffusers folder.")] = "toybox",
    method: Annotated[str, typer.Option(help="How lessons are kept apart; see `perdure methods`.")] = "merge_init",
    overrides: Overrides = None,
) -> None:
    """Begin a new model: a folder that will hold its lessons."""
    from perdure import plan, screen, yaml_file

    name = plan.name_from(model.absolute().name)
    data = yaml_file.override({"name": name, "base": base, "method": method}, tuple(overrides or ()))
    made = plan.build(data, where="perdure init")
    with screen.working("looking at the base"):
        from perdure.backbones import loading
        from perdure.lineage import Lineage

        loading.load(made.base, made.training.precision, "cpu", made.vae)
    Lineage.create(model, made, loading.identity(made.base, made.vae), loading.versions())
    screen.say(f"{model} is ready. Next: perdure teach {model} IMAGES --prompt 'a photo of zwz dog'")


@app.command()
def teach(
    model: Model,
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images; `refs/` in it is held out.")],
    prompt: Annotated[str, typer.Option(help="The prompt that will call it: a rare token and the class noun.")] = "",
    name: Annotated[str | None, typer.Option(help="The concept's name; the folder's by default.")] = None,
    kind: Annotated[Kind, typer.Option(help="What is to be learnt of the images.")] = Kind.subject,
    token: Annotated[str, typer.Option(help="The rare token, or the style's words.")] = "",
    noun: Annotated[str, typer.Option("--class", help="The class noun.")] = "",
    references: Annotated[Path | None, typer.Option(help="Folder of held-out images to score against.")] = None,
    hold_out: Annotated[int, typer.Option(help="Hold out the last N images instead.")] = 0,
    max_forgetting: Annotated[
        float | None, typer.Option(help="Refuse the lesson (exit code 3) if an older concept's score falls by more.")
    ] = None,
    device: Device = None,
) -> None:
    """Teach a model one more concept, and see what that did to the older ones."""
    from perdure import plan, screen
    from perdure.errors import LineageError
    from perdure.lineage import Lineage

    lineage = Lineage(model)
    called = name or plan.name_from(images.absolute().name)
    if called in lineage.concepts:
        raise LineageError(f"{model} already knows a concept {called!r}; choose another --name, or undo that lesson")
    given: dict[str, Any] = {"kind": kind.value, "token": token, "class": noun, "prompt": prompt, "hold_out": hold_out}
    if references is not None:
        given["references"] = references
    concept = plan.concept({"name": called, "images": images, **given}, where=f"teach {called}")
    with screen.working("loading libraries"):
        from perdure import run as running
    row = running.teach(lineage, concept, screen.watch(), max_forgetting, device)
    screen.console.print(screen.log_table(lineage))
    spent = row.record["seconds"]
    screen.say(f"lesson {row.number} took {spent['train']:.0f} s of training and {spent['evaluate']:.0f} s of scoring")


@app.command()
def draw(
    model: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    out: Annotated[Path, typer.Option(help="The picture file (PNG).")] = Path("drawn.png"),
    count: Annotated[int, typer.Option(min=1, help="How many images, side by side.")] = 4,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    after: Annotated[int | None, typer.Option(min=0, help="As the model was after this lesson (0: the base).")] = None,
    concept: Annotated[str | None, typer.Option(help="For methods that must be told which concept is meant.")] = None,
    device: Device = None,
) -> None:
    """Draw with a model, as it is now or as it was after an earlier lesson."""
    from perdure import screen
    from perdure.lineage import Lineage

    lineage = Lineage(model)
    with screen.working("loading libraries"):
        from perdure import drawing
    drawing.draw(lineage, prompt, out, count=count, seed=seed, after=after, concept=concept, device=device)
    screen.say(f"wrote {out}")


@app.command()
def log(model: Model, as_json: Json = False) -> None:
    """The chain of lessons: scores now and when learnt, forgetting, bytes, seconds."""
    from perdure import screen
    from perdure.lineage import Lineage

    lineage = Lineage(model)
    if as_json:
        typer.echo(json.dumps(screen.log_entries(lineage), indent=1))
    elif lineage.lessons:
        screen.console.print(screen.log_table(lineage))
    else:
        screen.say(f"{model} has learnt nothing yet. Next: perdure teach {model} IMAGES --prompt 'a photo of zwz dog'")


@app.command()
def undo(model: Model) -> None:
    """Take back the last lesson; the model is again what it was before."""
    from perdure import screen
    from perdure.lineage import Lineage

    lineage = Lineage(model)
    with lineage.locked():
        row = lineage.undo()
    screen.say(f"lesson {row.number} ({', '.join(row.concepts)}) is undone; lessons left: {len(lineage.lessons)}")


@app.command()
def methods(
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/methods.md.")] = False,
) -> None:
    """The methods: each is four choices, read from its file."""
    from dataclasses import asdict

    from perdure import catalogue, screen

    cards = [catalogue.card(name) for name in catalogue.methods()]
    if as_json:
        typer.echo(json.dumps([asdict(card) for card in cards], indent=1))
    elif markdown:
        from perdure import pages

        typer.echo(pages.methods_table(cards))
    else:
        screen.console.print(screen.methods_table(cards))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model's folder, or a run's with several.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; the folder itself by default.")] = None,
) -> None:
    """Write report.html, scores.csv and table.tex again."""
    _report(folder, out or folder)


@app.command()
def analyse(model: Model, as_json: Json = False) -> None:
    """How the lessons' updates meet in the weights: sign conflicts, cosines, shared subspaces and entries."""
    from perdure import screen
    from perdure.lineage import Lineage

    lineage = Lineage(model)
    with screen.working("comparing updates"):
        from perdure import analysis

        found = analysis.analyse(lineage)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
        return
    for measure, matrix in found.pairs.items():
        screen.console.print(screen.pairs_table(measure, found.concepts, matrix))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, device, what is missing, and what would be downloaded."""
    from perdure import screen

    with screen.working("looking around"):
        from perdure import doctor as examination

        findings = examination.examine()
    if as_json:
        typer.echo(json.dumps(findings, indent=1))
    else:
        screen.console.print(screen.findings_table(findings))


@plan_app.command("new")
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


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="dreambooth or unlearncanvas")],
    source: Annotated[Path | None, typer.Option("--from", help="A local copy, instead of the public source.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that will hold the data sets.")] = Path("data"),
) -> None:
    """Fetch, verify and lay out a data set; never overwrites."""
    from perdure import datasets, screen

    got = datasets.get(name, out, source, screen.watch())
    screen.say(f"{got.folder}: {got.copied} files copied, {got.kept} were there already; all verified")


@toybox_app.command("draw")
def toybox_draw(
    out: Annotated[Path, typer.Option(help="Folder for the sheets.")] = Path("toybox"),
) -> None:
    """Draw sheets of the world: classes, contexts, styles, subjects."""
    from perdure import screen
    from perdure.evaluate import write_png
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


# --- helpers -------------------------------------------------------------------------------------------------------


def _plan(path: Path, overrides: list[str] | None, data: Path | None = None) -> "Plan":
    from perdure import plan

    found = path if path.exists() or path.suffix else plan.ready(path.name)
    extra = [f"data={json.dumps(str(data.absolute()))}"] if data is not None else []
    return plan.load(found, (*(overrides or ()), *extra))


def _run(loaded: "Plan", out: Path, device: str | None) -> None:
    from perdure import screen
    from perdure.errors import PlanError

    if not loaded.concepts:
        raise PlanError(f"plan {loaded.name!r} has no concepts to teach")
    screen.say(f"{loaded.name}: {screen.amount(loaded)}")
    with screen.working("loading libraries"):
        from perdure import run as running
    screen.say(f"report, growing with every lesson: {(out / 'report.html').absolute().as_uri()}")
    running.run(loaded, out, screen.watch(), device, after_lesson=partial(_build_report, out, out))
    _report(out, out)


def _report(folder: Path, out: Path) -> None:
    from perdure import screen

    screen.say(f"report: {_build_report(folder, out).absolute().as_uri()}")


def _build_report(folder: Path, out: Path) -> Path:
    """The report of a model, or of all models in a folder that have learnt anything, in the order of their making."""
    from perdure import report as reports
    from perdure.errors import LineageError
    from perdure.lineage import Lineage

    single = (folder / "lineage.json").is_file()
    marks = [folder / "lineage.json"] if single else sorted(folder.glob("*/lineage.json"), key=_age)
    taught = [lineage for mark in marks if (lineage := Lineage(mark.parent)).lessons]
    if not taught:
        raise LineageError(f"{folder} holds no perdure model that has learnt anything (lineage.json in it or below it)")
    return reports.build(taught, out, title=folder.name)


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns


def main() -> None:
    """Entry point: errors that the user can mend become one sentence and an exit code."""
    try:
        app()
    except PerdureError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            typer.echo("stopped; the same command continues where it was", err=True)
        raise
    except Exception as error:
        if os.environ.get("PERDURE_DEBUG"):
            raise
        typer.echo(f"error: {type(error).__name__}: {error} (set PERDURE_DEBUG=1 to see where)", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
