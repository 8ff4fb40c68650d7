"""Commands that compare: compare."""

import json
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import Json


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of models, runs or sweeps.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; the folder itself by default, `compare` for several.")
    ] = None,
    measure: Annotated[str | None, typer.Option(help="Only this measure: clip_i, dino, csd, ...")] = None,
    beside: Annotated[
        str | None, typer.Option(help="A published protocol to print beside; the one that the plan names by default.")
    ] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Also write all charts as SVG files, for papers.")] = False,
    as_json: Json = False,
) -> None:
    """Compare methods over orders and seeds: means, paired differences, figures, tables."""
    from perdure.cli import screen

    with screen.working("comparing"):
        from perdure import compare as comparison
        from perdure.compare import album, published, study, terminal

        found = study.of(folders, measure)
        table = published.beside(found, beside)
        target = out or (folders[0] if len(folders) == 1 else Path("compare"))
        path = comparison.write(found, target, " + ".join(folder.absolute().name for folder in folders), table)
        drawn = album.write(found, target / "figures") if figures else []
    if as_json:
        typer.echo(json.dumps(comparison.as_json(found, table), indent=1))
        return
    for shown in found.primaries:
        screen.console.print(terminal.main_table(found, shown))
    if table:
        screen.console.print(terminal.published_table(table))
    for sentence in terminal.sentences(found, table):
        screen.say(sentence)
    screen.say(f"compare: {path.absolute().as_uri()}")
    if drawn:
        screen.say(f"figures: {len(drawn)} charts in {drawn[0].parent}")
