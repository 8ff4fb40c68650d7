"""Commands on a model's chain of lessons: undo, redo, accept, retry, drop."""

from typing import Annotated

import typer

from perdure.cli.options import Device, Model, Overrides


def undo(model: Model) -> None:
    """Take back the last lesson; the model is again what it was before. It is kept until the next lesson: `redo`."""
    from perdure.cli import screen
    from perdure.lineage import Lineage, agreement, history

    lineage = Lineage(model)
    with agreement.writing(lineage):
        row = history.undo(lineage)
    screen.say(
        f"lesson {row.number} ({row.title}) is undone; lessons left: {len(lineage.lessons)}; "
        f"until the next lesson `perdure redo {model}` puts it back"
    )


def redo(model: Model) -> None:
    """Put back the lesson that was undone last."""
    from perdure.cli import screen
    from perdure.lineage import Lineage, agreement, history

    lineage = Lineage(model)
    with agreement.writing(lineage):
        row = history.redo(lineage)
    screen.say(f"lesson {row.number} ({row.title}) is back")
    screen.console.print(screen.log_table(lineage))


def accept(model: Model) -> None:
    """Take the lesson that its gate refused all the same."""
    from perdure.cli import screen
    from perdure.lineage import Lineage, agreement, history

    lineage = Lineage(model)
    with agreement.writing(lineage):
        row = history.accept(lineage)
    screen.say(f"lesson {row.number} ({row.title}) is accepted, though it was refused: {row.refusal}")
    screen.console.print(screen.log_table(lineage))


def retry(
    model: Model,
    overrides: Overrides = None,
    max_forgetting: Annotated[
        float | None, typer.Option(help="The gate; by default the one that refused the lesson.")
    ] = None,
    device: Device = None,
) -> None:
    """Teach the refused lesson again from the same start, with other settings (`--set training.steps=100`).

    Without a refused lesson, the one that was undone last.
    """
    from perdure.cli import screen
    from perdure.lineage import Lineage
    from perdure.plan import choice

    lineage, own = Lineage(model), choice.of_lesson(overrides or ())
    with screen.working("loading libraries"):
        from perdure import run as running
    row = running.retry(lineage, screen.watch(), max_forgetting, device, screen.tell, own)
    screen.taught(lineage, row)


def drop(model: Model) -> None:
    """Drop the refused lesson, and those that were undone, which are kept beside the model until the next lesson."""
    from perdure.cli import screen
    from perdure.lineage import Lineage, agreement, history

    lineage = Lineage(model)
    with agreement.writing(lineage):
        rows = history.drop(lineage)
    for row in rows:
        screen.say(f"dropped: lesson {row.number} ({row.title})")
