"""Commands on the embedded base's world: toybox draw."""

from pathlib import Path
from typing import Annotated

import typer


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
