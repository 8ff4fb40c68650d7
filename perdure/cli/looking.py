"""Commands that look: methods, report, analyse, doctor."""

import json
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import Json, Model


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


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model's folder, or a run's with several.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; the folder itself by default.")] = None,
) -> None:
    """Write report.html, scores.csv and table.tex again."""
    write_report(folder, out or folder)


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


def write_report(folder: Path, out: Path) -> None:
    """Build the report, and say where it is."""
    from perdure import screen

    screen.say(f"report: {build_report(folder, out).absolute().as_uri()}")


def build_report(folder: Path, out: Path) -> Path:
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
