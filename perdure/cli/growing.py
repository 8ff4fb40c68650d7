"""Commands on a model's chain of lessons: teach, score, undo, redo, accept, retry, drop."""

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.options import Device, Model, Overrides
from perdure.wording import name_from, printable

if TYPE_CHECKING:
    from perdure.lineage import Lineage
    from perdure.plan import Concept


class Kind(StrEnum):
    """Kinds of concepts."""

    subject = "subject"
    style = "style"


Images = Annotated[Path | None, typer.Argument(metavar="IMAGES", help="Folder of images; `refs/` in it is held out.")]
Prompt = Annotated[str, typer.Option(help="The prompt that will call it: a rare token and the class noun.")]
Gate = Annotated[
    float | None, typer.Option(help="Refuse the lesson (exit code 3) if an older concept's score falls by more.")
]
From = Annotated[Path | None, typer.Option("--from", help="A LoRA file that was trained elsewhere, instead of IMAGES.")]
Shown = Annotated[Path | None, typer.Option("--images", help="With --from: pictures to score it against.")]
Embedding = Annotated[Path | None, typer.Option(help="With --from: the embedding file of its word.")]
UnetOnly = Annotated[
    bool, typer.Option("--unet-only", help="With --from: leave out what the file changes of text encoders.")
]
Unscored = Annotated[bool, typer.Option("--no-scores", help="Draw without scoring; `perdure score` does it later.")]


def teach(
    model: Model,
    images: Images = None,
    prompt: Prompt = "",
    name: Annotated[str | None, typer.Option(help="The concept's name; the folder's or file's by default.")] = None,
    kind: Annotated[Kind, typer.Option(help="What is to be learnt of the images.")] = Kind.subject,
    token: Annotated[str, typer.Option(help="The rare token, or the style's words.")] = "",
    noun: Annotated[str, typer.Option("--class", help="The class noun.")] = "",
    references: Annotated[Path | None, typer.Option(help="Folder of held-out images to score against.")] = None,
    hold_out: Annotated[int, typer.Option(help="Hold out the last N images instead.")] = 0,
    file: From = None,
    shown: Shown = None,
    embedding: Embedding = None,
    unet_only: UnetOnly = False,
    max_forgetting: Gate = None,
    overrides: Overrides = None,
    no_scores: Unscored = False,
    device: Device = None,
) -> None:
    """Teach a model one more concept, or a classifier the classes of a folder; see what that did to the older ones.

    A lesson is taught with the settings that `perdure init --set` gave the model, and may have steps, learning rate,
    batch size and prior of its own: `--set training.steps=100`. Sampling and scoring stay the model's. With `--from`
    nothing is trained: what the file changes is the lesson.
    """
    from perdure import plan
    from perdure.plan import choice, tasks

    folder = _pictures(images, shown, file, [embedding, unet_only, references and file, hold_out and file], overrides)
    lineage, own = _opened(model), choice.of_lesson(overrides or ())
    called = _called(lineage, name, file or folder)
    given: dict[str, Any] = {"kind": kind.value, "token": token, "class": noun, "prompt": prompt, "hold_out": hold_out}
    if lineage.settings.get("task") == plan.CLASSIFICATION:
        given = {"kind": "classes", "hold_out": hold_out, **tasks.stored(folder)}
    held = {} if references is None else {"references": references}
    concept = plan.concept({"name": called, "images": folder, **given, **held}, where=f"teach {called}")
    _teach(lineage, concept, max_forgetting, device, own, (file, embedding, unet_only), not no_scores)


def _pictures(
    images: Path | None, shown: Path | None, file: Path | None, others: Sequence[object], overrides: Overrides
) -> Path:
    """The folder of a concept's pictures. Raises PlanError where there is none, or where options do not go together."""
    from perdure.errors import PlanError

    if file is None and (shown or any(others[:2])):
        raise PlanError("--images, --embedding and --unet-only go with --from FILE; pictures to learn from are IMAGES")
    if file is not None and (any(others[2:]) or overrides):
        raise PlanError(
            "with --from nothing is trained: --images are all held out, and --references, --hold-out and --set "
            "training... say nothing; leave them out"
        )
    if images is None and file is None:
        raise PlanError("give the concept's pictures: perdure teach MODEL IMAGES")
    found = shown or images
    if found is None or (shown and images):
        raise PlanError("give pictures of the concept to score it against, once: --images FOLDER")
    return found


def _opened(model: Path) -> "Lineage":
    from perdure.lineage import Lineage

    return Lineage(model)


def _called(lineage: "Lineage", name: str | None, path: Path) -> str:
    """The concept's name: the one given, else a folder's or file's. Raises LineageError where the model knows it."""
    from perdure.errors import LineageError

    own = path.absolute().name.removesuffix(".safetensors")
    called = name or name_from(own, otherwise=f"concept-{len(lineage.lessons) + 1}")
    if known := next((name for name in lineage.concepts if name.lower() == called.lower()), None):
        raise LineageError(
            f"{lineage.folder} already knows a concept {known!r}; choose another --name, or undo that lesson"
        )
    return called


def _teach(
    lineage: "Lineage", concept: "Concept", gate: float | None, device: str | None, own: Mapping[str, Any],
    given: tuple[Path | None, Path | None, bool], scoring: bool,
) -> None:  # fmt: skip
    """Teach, and show what came of it; `given`: LoRA file, embedding file, and whether text encoders are left out."""
    from perdure.cli import screen
    from perdure.photos import pictures

    screen.tell(pictures.notes([concept], lineage.plan().training))
    with screen.working("loading libraries"):
        from perdure import run as running
        from perdure.bases import reading
    _sure(reading.ordinary(lineage.plan(), concept))
    file, embedding, unet_only = given
    brought = None
    if file is not None:
        from perdure.export import bringing

        brought, notes = bringing.read(file, embedding, unet_only)
        screen.tell(notes)
    row = running.teach(lineage, concept, screen.watch(), gate, device, screen.tell, own, brought, scoring)
    screen.taught(lineage, row)


def _sure(told: str | None) -> None:
    """Ask whether to go on with what is told; where nobody can answer, only tell it."""
    from perdure.cli import screen

    if told is not None and sys.stdin.isatty():
        typer.confirm(f"{printable(told)}. Teach it so?", abort=True)
    elif told is not None:
        screen.tell([told])


def score(model: Model, device: Device = None) -> None:
    """Score the pictures that `perdure teach --no-scores` has drawn."""
    from perdure.cli import screen

    lineage = _opened(model)
    with screen.working("loading libraries"):
        from perdure import run as running
    count = running.score(lineage, screen.watch(), device)
    if count:
        screen.console.print(screen.log_table(lineage))
    screen.say(f"{count} {'cell' if count == 1 else 'cells'} of the score matrix scored" if count else "all is scored")


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
