"""The command line: thin, and quick to answer. Heavy imports are inside the commands."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.errors import PerdureError

if TYPE_CHECKING:
    from perdure.lineage import Lineage
    from perdure.plan import Plan

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

Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key of the plan: training.steps=200.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps; the best there is by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
PlanFile = Annotated[Path, typer.Argument(help="A plan file, or the name of a ready plan (`demo`).", metavar="PLAN")]
Model = Annotated[Path, typer.Argument(help="The model's folder.", metavar="MODEL")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="Where the plan's images lie, instead of its own `data`.")]


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
    from rich.table import Table

    from perdure import pictures
    from perdure.errors import PlanError

    loaded = _plan(plan, overrides, data)
    problems = pictures.check(loaded.concepts)
    if problems:
        raise PlanError(problems)
    table = Table(title=f"{loaded.name} on {loaded.base}, fingerprint {loaded.fingerprint()}")
    for column in ("#", "concept", "kind", "training prompt", "images", "held out"):
        table.add_column(column)
    for number, concept in enumerate(loaded.sequence, start=1):
        own = pictures.of(concept)
        held_out = str(len(own.references)) if own.held_out else "none: training images serve"
        table.add_row(str(number), concept.name, concept.kind, own.training[0].caption, str(len(own.training)), held_out)
    _console().print(table)
    _console().print(_amount(loaded))


@app.command()
def init(
    model: Model,
    base: Annotated[str, typer.Option(help="`toybox`, a hub id, or a local diffusers folder.")] = "toybox",
    method: Annotated[str, typer.Option(help="How lessons are kept apart; see `perdure methods`.")] = "merge_init",
    overrides: Overrides = None,
) -> None:
    """Begin a new model: a folder that will hold its lessons."""
    from perdure import plan, yaml_file
    from perdure.backbones import loading
    from perdure.lineage import Lineage

    data = yaml_file.override({"name": _name(model.name), "base": base, "method": method}, tuple(overrides or ()))
    made = plan.build(data, where="perdure init")
    with _working("looking at the base"):
        identity, versions = loading.identity(made.base), loading.versions()
        loading.load(made.base, "fp32", "cpu", made.vae)
    Lineage.create(model, made, identity, versions)
    _console().print(f"{model} is ready. Next: perdure teach {model} IMAGES --prompt 'a photo of zwz dog'")


@app.command()
def teach(
    model: Model,
    images: Annotated[Path, typer.Argument(help="Folder with images of the concept; `refs/` in it is held out.")],
    prompt: Annotated[str, typer.Option(help="The prompt that will call it: a rare token and the class noun.")] = "",
    name: Annotated[str | None, typer.Option(help="The concept's name; the folder's by default.")] = None,
    kind: Annotated[str, typer.Option(help="subject or style")] = "subject",
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
    from perdure import plan
    from perdure.errors import LineageError
    from perdure.lineage import Lineage

    lineage = Lineage(model)
    given = {"kind": kind, "token": token, "class": noun, "prompt": prompt, "hold_out": hold_out}
    if references is not None:
        given["references"] = references.absolute()
    called = name or _name(images.absolute().name)
    if called in lineage.concepts:
        raise LineageError(f"{model} already knows a concept {called!r}; choose another --name, or undo the lesson first")
    taught = [lineage.concept_facts(c)["concept"] for c in lineage.concepts]
    concept = {"name": called, "images": images.absolute(), **given}
    made = plan.build({**lineage.settings, "concepts": [*taught, concept]}, where=f"teach {called}")

    from perdure import run as running

    row = running.teach(lineage, made.concepts[-1], _watch(), max_forgetting, device)
    _console().print(_log_table(lineage))
    seconds = row.record["seconds"]
    _console().print(f"lesson {row.number} took {seconds['train']:.0f} s of training and {seconds['evaluate']:.0f} s of scoring")


@app.command()
def draw(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    out: Annotated[Path, typer.Option(help="The picture file (PNG).")] = Path("drawn.png"),
    count: Annotated[int, typer.Option(min=1, help="How many images, side by side.")] = 4,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    after: Annotated[int | None, typer.Option(min=0, help="As the model was after this lesson (0: the base).")] = None,
    concept: Annotated[str | None, typer.Option(help="For methods that must be told which concept is meant.")] = None,
    device: Device = None,
) -> None:
    """Draw with a model, as it is now or as it was after an earlier lesson."""
    from perdure.lineage import Lineage

    lineage = Lineage(model)

    from perdure import drawing

    drawing.draw(lineage, prompt, out, count=count, seed=seed, after=after, concept=concept, device=device)
    _console().print(f"wrote {out}")


@app.command()
def log(model: Model, as_json: Json = False) -> None:
    """The chain of lessons: scores now and when learnt, forgetting, bytes, seconds."""
    from perdure.lineage import Lineage

    lineage = Lineage(model)
    if as_json:
        typer.echo(json.dumps(_log(lineage), indent=1))
    else:
        _console().print(_log_table(lineage))


@app.command()
def undo(model: Model) -> None:
    """Take back the last lesson; the model is again what it was before."""
    from perdure.lineage import Lineage

    lineage = Lineage(model)
    with lineage.locked():
        row = lineage.undo()
    _console().print(f"lesson {row.number} ({', '.join(row.concepts)}) is undone; {len(lineage.lessons)} lessons remain")


@app.command()
def methods(
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/methods.md.")] = False,
) -> None:
    """The methods: each is four choices, read from its file."""
    from dataclasses import asdict

    from rich.table import Table

    from perdure import catalogue

    cards = [catalogue.card(name) for name in catalogue.methods()]
    if as_json:
        typer.echo(json.dumps([asdict(card) for card in cards], indent=1))
        return
    if markdown:
        from perdure import method

        typer.echo(method.table(cards))
        return
    table = Table(show_lines=True)
    for column in ("method", "what it does", "adapter", "start", "guard", "consolidate", "options"):
        table.add_column(column, no_wrap=column == "method")
    for card in cards:
        options = "\n".join(f"{o.name}={o.default}" for o in card.options)
        table.add_row(card.name, card.summary, card.adapter, card.start, card.guard, card.consolidate, options)
    _console().print(table)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A model's folder, or a run's folder with several.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; the folder itself by default.")] = None,
) -> None:
    """Write report.html, scores.csv and table.tex again."""
    _report(folder, out or folder)


@app.command()
def analyse(model: Model, as_json: Json = False) -> None:
    """How the lessons' updates meet in the weights: sign conflicts, cosines, shared subspaces and entries."""
    from rich.table import Table

    from perdure.lineage import Lineage

    lineage = Lineage(model)
    with _working("comparing updates"):
        from perdure import analysis

        found = analysis.analyse(lineage)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
        return
    for measure, matrix in found.pairs.items():
        table = Table(title=f"{measure} of the updates (rows with columns)")
        for column in ("", *found.concepts):
            table.add_column(column, justify="right")
        for name, row in zip(found.concepts, matrix, strict=True):
            table.add_row(name, *(f"{value:.3f}" for value in row))
        _console().print(table)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, device, what is missing, and what would be downloaded."""
    from rich.table import Table

    with _working("looking around"):
        from perdure import doctor as examination

        findings = examination.examine()
    if as_json:
        typer.echo(json.dumps(findings, indent=1))
        return
    table = Table(show_header=False)
    for key, value in findings.items():
        text = value if isinstance(value, str) else ", ".join(f"{k} {v}" for k, v in value.items())
        table.add_row(key, text)
    _console().print(table)


@plan_app.command("new")
def plan_new(
    folder: Annotated[Path, typer.Argument(help="A folder with one sub-folder of images per concept.")],
    out: Annotated[Path, typer.Option(help="The plan file to write.")] = Path("plan.yaml"),
    base: Annotated[str, typer.Option(help="`toybox`, a hub id, or a local diffusers folder.")] = "toybox",
) -> None:
    """Write a plan from a folder of concepts; edit it, then check and run it."""
    from perdure import files, sources
    from perdure.errors import PlanError

    if out.exists():
        raise PlanError(f"{out} exists; choose another --out")
    files.write_text(out, sources.plan_text(folder.absolute(), out.absolute().parent, base))
    _console().print(f"wrote {out}. Next: perdure check {out}; perdure run {out}")


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="dreambooth or unlearncanvas")],
    source: Annotated[Path | None, typer.Option("--from", help="A local copy, instead of the public source.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that will hold the data sets.")] = Path("data"),
) -> None:
    """Fetch, verify and lay out a data set; never overwrites."""
    from perdure import datasets

    got = datasets.get(name, out, source, _watch())
    _console().print(f"{got.folder}: {got.copied} files copied, {got.kept} were there already; all verified")


@toybox_app.command("draw")
def toybox_draw(
    out: Annotated[Path, typer.Option(help="Folder for the sheets.")] = Path("toybox"),
) -> None:
    """Draw sheets of the world: classes, contexts, styles, subjects."""
    from perdure import files
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
    files.sweep(out)
    _console().print(f"wrote {', '.join(pictures)} to {out}")


# --- helpers -------------------------------------------------------------------------------------------------------


def _plan(path: Path, overrides: list[str] | None, data: Path | None = None) -> "Plan":
    from perdure import plan

    found = path if path.exists() or path.suffix else plan.ready(path.name)
    extra = [f"data={data.absolute()}"] if data is not None else []
    return plan.load(found, (*(overrides or ()), *extra))


def _run(loaded: "Plan", out: Path, device: str | None) -> None:
    from perdure.errors import PlanError

    if not loaded.concepts:
        raise PlanError(f"plan {loaded.name!r} has no concepts to teach")
    console = _console()
    console.print(f"[bold]{loaded.name}[/bold]: {_amount(loaded)}")
    with _working("loading libraries"):
        from perdure import run as running
    console.print(f"report, growing with every lesson: {(out / 'report.html').absolute().as_uri()}")
    running.run(loaded, out, _watch(), device, after_lesson=lambda: _build_report(out, out))
    _report(out, out)


def _report(folder: Path, out: Path) -> None:
    _console().print(f"report: {_build_report(folder, out).absolute().as_uri()}")


def _build_report(folder: Path, out: Path) -> Path:
    """The report of a model, or of all models in a folder that have learnt anything, in the order of their making."""
    from perdure import report as reports
    from perdure.errors import LineageError
    from perdure.lineage import Lineage

    single = (folder / "lineage.json").is_file()
    marks = [folder / "lineage.json"] if single else sorted(folder.glob("*/lineage.json"), key=lambda p: p.stat().st_mtime_ns)
    taught = [lineage for mark in marks if (lineage := Lineage(mark.parent)).lessons]
    if not taught:
        raise LineageError(f"{folder} holds no perdure model that has learnt anything (lineage.json in it or below it)")
    return reports.build(taught, out, title=folder.name)


def _amount(plan: "Plan") -> str:
    runs = len(plan.methods) + plan.joint
    lessons = len(plan.methods) * len(plan.concepts) + plan.joint
    return (
        f"{len(plan.concepts)} concepts, {runs} runs ({', '.join(m.label for m in plan.methods)}"
        f"{', joint' if plan.joint else ''}), {lessons} lessons of {plan.training.steps} steps"
    )


def _log(lineage: "Lineage") -> list[dict[str, Any]]:
    """One entry a lesson and concept: scores by measure, when learnt and now."""
    rows = lineage.lessons
    entries = []
    for row in rows:
        for concept in row.concepts:
            learnt, now = row.cell(concept), rows[-1].cell(concept)
            then, latest = learnt.scores if learnt else {}, now.scores if now else {}
            entries.append(
                {
                    "lesson": row.number,
                    "concept": concept,
                    "method": row.record["method"]["label"],
                    "learnt": then,
                    "now": latest,
                    "forgotten": {m: then[m] - latest[m] for m in then if m in latest},
                    "bytes": row.record["bytes"],
                    "seconds": row.record["seconds"],
                }
            )
    return entries


def _log_table(lineage: "Lineage") -> Any:
    from rich.table import Table

    table = Table(title=f"{lineage.facts['name']} on {lineage.settings['base']}")
    for column in ("#", "concept", "method", "measure", "learnt", "now", "change", "carries", "seconds"):
        table.add_column(column, justify="left" if column in ("concept", "method", "measure") else "right")
    for entry in _log(lineage):
        for number, (measure, value) in enumerate(entry["learnt"].items()):
            change = -entry["forgotten"].get(measure, 0.0)
            colour = "red" if change < -0.02 else "green" if change > 0.02 else "dim"
            first = number == 0
            table.add_row(
                str(entry["lesson"]) if first else "",
                entry["concept"] if first else "",
                entry["method"] if first else "",
                measure,
                f"{value:.3f}",
                f"{entry['now'].get(measure, float('nan')):.3f}",
                f"[{colour}]{change:+.3f}[/{colour}]",
                _bytes(entry["bytes"]["carried"]) if first else "",
                f"{entry['seconds']['train']:.0f}" if first else "",
            )
    return table


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_-" else "-" for c in text).strip("-_") or "model"


def _console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=True)


def _watch() -> Any:
    from perdure import progress

    return progress.on(_console())


def _working(what: str) -> Any:
    return _console().status(f"{what} ...")


def main() -> None:
    """Entry point: errors that the user can mend become one sentence and an exit code."""
    try:
        app()
    except PerdureError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command continues where it was", err=True)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("PERDURE_DEBUG"):
            raise
        typer.echo(f"error: {type(error).__name__}: {error} (set PERDURE_DEBUG=1 to see where)", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
