"""The command line: thin, and quick to answer. Heavy imports are inside the commands."""

import os
import sys

import typer

from perdure.cli import exporting, growing, looking, modelling, planning, running, sweeping
from perdure.errors import PerdureError
from perdure.toybox.pretrain import cli as pretrain
from perdure.wording import printable

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(
    name="perdure",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Teach one text-to-image diffusion model concept after concept, and see what each lesson cost.",
)
for command in (
    running.demo, running.run, running.check, planning.advise,
    modelling.init, growing.teach, growing.score, modelling.draw, modelling.log, modelling.fsck,
    growing.undo, growing.redo, growing.accept, growing.retry, growing.drop,
    modelling.remove, modelling.tag, modelling.branch, modelling.diff,
    exporting.export, exporting.what,
    looking.methods, looking.trust, looking.report, sweeping.compare, looking.analyse, looking.doctor,
):  # fmt: skip
    app.command()(command)

plan_app = typer.Typer(no_args_is_help=True, help="Write plans.")
plan_app.command("new")(planning.plan_new)
data_app = typer.Typer(no_args_is_help=True, help="Fetch the data sets of the published protocols.")
data_app.command("get")(planning.data_get)
toybox_app = typer.Typer(no_args_is_help=True, help="The embedded base: its world, and how it is pretrained.")
toybox_app.command("draw")(planning.toybox_draw)
toybox_app.add_typer(pretrain.app, name="pretrain")
sweep_app = typer.Typer(cls=sweeping.Group, no_args_is_help=True, help="`perdure sweep GRID`: run a grid.")
sweep_app.command(sweeping.RUN)(sweeping.sweep)
sweep_app.command("status")(sweeping.sweep_status)
app.add_typer(sweep_app, name="sweep")
app.add_typer(plan_app, name="plan")
app.add_typer(data_app, name="data")
app.add_typer(toybox_app, name="toybox")


FULL = (
    "the memory of the device does not suffice; lower training.batch_size, training.resolution or sampling.batch_size, "
    "set training.gradient_checkpointing or training.precision: bf16, or close other programs"
)


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: Python's and numpy's own error, or torch's, which is told by its class or words."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def main() -> None:
    """Entry point: errors that the user can mend become one sentence and an exit code."""
    try:
        app()
    except PerdureError as error:
        for line in str(error).split("\n"):
            typer.echo(f"error: {printable(line)}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            typer.echo("stopped; the same command continues where it was", err=True)
        raise
    except Exception as error:
        if os.environ.get("PERDURE_DEBUG"):
            raise
        if _out_of_memory(error):
            typer.echo(f"error: {FULL}", err=True)
            sys.exit(1)
        told = printable(f"{type(error).__name__}: {error}")
        typer.echo(f"error: {told} (set PERDURE_DEBUG=1 to see where)", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
