"""Commands on files for other tools: export, what."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import After, Device, Json
from perdure.errors import PlanError
from perdure.score.sources import HUB_ID


class Tool(StrEnum):
    """What the files are for."""

    comfyui = "comfyui"
    a1111 = "a1111"
    forge = "forge"
    invoke = "invoke"
    diffusers = "diffusers"
    folder = "folder"
    checkpoint = "checkpoint"
    hub = "hub"


class Dtype(StrEnum):
    """Kinds of numbers."""

    fp16 = "fp16"
    bf16 = "bf16"
    fp32 = "fp32"


def export(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="The model's folder.")] = None,
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="Folder to write into.")] = None,
    to: Annotated[Tool | None, typer.Option(help="What it is for; by default the file that most tools read.")] = None,
    after: After = None,
    only: Annotated[str | None, typer.Option(help="One concept's own change, where lessons are added.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Cut every change to this rank.")] = None,
    error: Annotated[float | None, typer.Option(help="Cut to the lowest ranks with this relative error.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="fp16 by default; a folder as the model is drawn.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="How many pictures the proof draws from each; 0: none.")] = 2,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    push: Annotated[str | None, typer.Option(help="Then upload it to this hub id (owner/name), private.")] = None,
    verify: Annotated[Path | None, typer.Option(help="Prove a file exported earlier, instead of writing one.")] = None,
    of: Annotated[Path | None, typer.Option("--model", help="The model's folder, for --verify.")] = None,
    device: Device = None,
) -> None:
    """Write a model as files that other tools load, and prove them before they are handed over.

    What is written is read back by another way, its weights compared, and the same seeds drawn from it and the memory.
    """
    folder = model or of
    if folder is None or (out is None) == (verify is None):
        raise PlanError("give a model and a folder: perdure export MODEL OUT; or --verify FILE --model MODEL")
    if push and not (to is Tool.hub and HUB_ID.fullmatch(push)):
        raise PlanError(f"--push {push!r}: give owner/name, and --to hub, whose files are uploaded; say both")
    if verify is not None:
        return _verify(folder, verify, pictures, device)
    from perdure.cli import screen
    from perdure.lineage import Lineage, history

    assert out is not None
    with screen.working("loading libraries"):
        from perdure.export import export as exporting
        from perdure.export.choosing import Wish
    number = history.numbered(lineage := Lineage(folder), after)
    wish = Wish(to.value if to else "", number, only, rank, error, dtype.value if dtype else None)
    handed = exporting.export(lineage, out, wish, force, pictures, device, screen.say)
    _tell(str(handed.proof), handed.proof.notes, handed.content.triggers)
    if push:
        screen.say(f"uploaded to {exporting.push(handed, push)}")


def _verify(model: Path, file: Path, pictures: int, device: str | None) -> None:
    from perdure.cli import screen
    from perdure.lineage import Lineage

    with screen.working("loading libraries"):
        from perdure.export import export as exporting
    proof, content = exporting.verify(Lineage(model), file, pictures, device)
    _tell(str(proof), proof.notes, content.triggers)
    if proof.failings:
        screen.say(f"{file} is not what the memory holds: {'; '.join(proof.failings)}")
        raise typer.Exit(1)


def _tell(proof: str, notes: tuple[str, ...], triggers: tuple[str, ...]) -> None:
    from perdure.cli import screen

    screen.say(f"proof: {proof}")
    screen.tell(notes)
    screen.say(f"trigger{'s' * (len(triggers) > 1)}: {', '.join(triggers)}")


def what(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA, embedding or checkpoint file.")],
    as_json: Json = False,
) -> None:
    """What a file of any tool is: kind, base, rank, key layout, who reads it, triggers, and what is wrong with it."""
    from perdure.cli import screen

    with screen.working("reading"):
        from perdure.export import what as looking

        found = looking.look(file)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
    else:
        for line in found.lines():
            screen.say(line)
