"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key of the plan: training.steps=200.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; the best there is by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
PlanFile = Annotated[Path, typer.Argument(help="A plan file, or the name of a ready plan (`demo`).", metavar="PLAN")]
Model = Annotated[Path, typer.Argument(help="The model's folder.", metavar="MODEL")]
After = Annotated[
    str | None, typer.Option(metavar="LESSON", help="As the model was after this lesson: number or tag (0: the base).")
]
DataFolder = Annotated[Path | None, typer.Option("--data", help="Where the plan's images lie, instead of its `data`.")]
Track = Annotated[
    list[str] | None, typer.Option("--track", help="Follow it in tensorboard, wandb or trackio; can be repeated.")
]
