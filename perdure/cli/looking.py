"""Commands that look: methods, report, analyse, doctor."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.options import Json, Model
from perdure.errors import PerdureError

if TYPE_CHECKING:
    from perdure.analysis.record import Analysis
    from perdure.lineage import Lineage
    from perdure.plan.catalogue import MethodCard

FITTING = 10
"""Lessons whose pairs fit into a terminal of 80 columns."""


def methods(
    which: Annotated[
        list[str] | None,
        typer.Argument(metavar="[METHOD]...", help="Names, or files (./mine/o_lora.py); all by default."),
    ] = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/methods.md.")] = False,
) -> None:
    """The methods: each is four choices, read from its file."""
    from dataclasses import asdict

    from perdure import plugins
    from perdure.cli import screen
    from perdure.plan import catalogue

    cards = []
    for name in which or (plugins.own(plugins.METHOD) if markdown else catalogue.methods()):
        try:
            cards.append(catalogue.card(name))
        except PerdureError as error:
            if which:
                raise
            typer.echo(f"left out: {error}", err=True)  # of an installed package
    if as_json:
        typer.echo(json.dumps([asdict(card) for card in cards], indent=1))
    elif markdown:
        typer.echo(methods_markdown(cards))
    else:
        screen.console.print(screen.methods_table(cards))


def trust(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of a method, measure or base family.")],
) -> None:
    """Let models that name these files run them; your own plans' files are trusted already. Read them first."""
    from perdure import plugins

    for file in files:
        plugins.trust(source := plugins.find(plugins.METHOD, file.stem, file))
        typer.echo(f"{source.path}: trusted as it stands now")


def methods_markdown(cards: Sequence["MethodCard"]) -> str:
    """The methods as a Markdown table: the four choices as written in the files, and what each declares."""
    from perdure import method

    rows = ["| method | adapter | start | guard | consolidate | knows | strict |", "|---|---|---|---|---|---|---|"]
    for card in cards:
        declared = method.get(card.file or card.name).consolidate
        choices = " | ".join(f"`{choice}`" for choice in (card.adapter, card.start, card.guard, card.consolidate))
        rows.append(f"| {card.name} | {choices} | {declared.knows} | {'yes' if declared.strict else 'no'} |")
    return "\n".join(rows)


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model's folder, or a run's with several.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; the folder itself by default.")] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Also write all figures as pictures, for papers.")] = False,
) -> None:
    """Write report.html, scores.csv and table.tex again."""
    write_report(folder, out or folder)
    if figures:
        from perdure.cli import screen
        from perdure.report import papers as drawn

        written = drawn.write(taught_in(folder), (out or folder) / "figures")
        screen.say(f"figures: {len(written)} pictures in {(out or folder) / 'figures'}")


def analyse(
    model: Model,
    out: Annotated[Path | None, typer.Option(help="Folder for figures and CSV tables, layer by layer.")] = None,
    as_json: Json = False,
) -> None:
    """How the lessons' updates meet in the weights: norms, sign conflicts, cosines, shared subspaces and entries.

    What is found is kept in the model's folder (analysis.json), where `perdure report` shows it.
    """
    from perdure.cli import screen
    from perdure.lineage import Lineage
    from perdure.progress import silent

    lineage = Lineage(model)
    with screen.working("loading libraries"):
        from perdure import records
        from perdure.analysis import analyse as analysing
        from perdure.analysis import record
        from perdure.bases import families
        from perdure.plan import FamilyChoice
    choice = records.made(lineage.settings.get("family"), FamilyChoice | None, lineage.folder / "lineage.json")
    cross = families.reads_text(lineage.settings["base"], choice)
    found = analysing.analyse(lineage, silent if as_json else screen.watch(), cross)
    try:
        record.write(lineage, found)
    except PerdureError as error:  # a model that may only be read can still be looked at
        typer.echo(f"not kept for the report: {error}", err=True)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
    else:
        _show(found)
    if out is not None:
        from perdure.report import weights_papers

        weights_papers.write(found, out)
        typer.echo(f"figures and tables: {out.absolute()}", err=as_json)


def _show(found: "Analysis") -> None:
    from perdure.cli import screen

    screen.console.print(screen.updates_table(found))
    if len(found.lessons) < 2:
        screen.say("one lesson: there is nothing to compare it with yet")
        return
    whole = found.parts["all"]
    for measure in found.telling if len(found.lessons) <= FITTING else ():
        screen.console.print(screen.pairs_table(measure, found.lessons, whole.pairs[measure]))
    screen.console.print(screen.kinds_table(found))
    if len(found.lessons) > FITTING:
        screen.say(f"pairs of {len(found.lessons)} lessons do not fit a terminal; see --out FOLDER or --json")


def doctor(as_json: Json = False) -> None:
    """Versions, device, what is missing, and what would be downloaded."""
    from perdure.cli import screen

    with screen.working("looking around"):
        from perdure.cli import doctor as examination

        findings = examination.examine()
    if as_json:
        typer.echo(json.dumps(findings, indent=1))
    else:
        screen.console.print(screen.findings_table(findings))


def write_report(folder: Path, out: Path) -> None:
    """Build the report, and say where it is."""
    from perdure.cli import screen

    screen.say(f"report: {build_report(folder, out).absolute().as_uri()}")


def build_report(folder: Path, out: Path) -> Path:
    """The report of a model, or of all models in a folder that have learnt anything."""
    from perdure import report as reports

    return reports.build(taught_in(folder), out, title=folder.name)


def taught_in(folder: Path) -> list["Lineage"]:
    """A model, or all models in a folder that have learnt anything, in the order of their making."""
    from perdure.errors import LineageError
    from perdure.lineage import Lineage

    single = os.path.isfile(folder / "lineage.json")
    below = folder.glob("*/lineage.json") if os.path.isdir(folder) else ()
    marks = [folder / "lineage.json"] if single else sorted(below, key=_age)
    taught = [lineage for mark in marks if (lineage := Lineage(mark.parent)).lessons]
    if not taught:
        raise LineageError(f"{folder} holds no perdure model that has learnt anything (lineage.json in it or below it)")
    return taught


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns
