"""`perdure toybox pretrain`: the stages of the recipe, the figures, the export. Heavy imports wait for a command."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Train the embedded base from nothing, on pictures drawn in code.", no_args_is_help=True)

Work = Annotated[Path, typer.Option(help="Folder for pictures, latents, checkpoints and logs.")]
Photos = Annotated[Path | None, typer.Option(help="DreamBooth's dataset folder, for the autoencoder.")]
Until = Annotated[int | None, typer.Option(help="Stop after this step; a later run goes on from there.")]
DecayFrom = Annotated[int | None, typer.Option(help="First step of the final decay of the learning rate.")]
DecaySteps = Annotated[int | None, typer.Option(help="Length of that decay; training ends with it.")]
DEFAULT_WORK = Path("toybox-pretrain")
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"


@app.command()
def stage(
    name: Annotated[
        str, typer.Argument(help="draw, autoencoder, latents, decoder, clip, instance, style, words, base or flow.")
    ],
    work: Work = DEFAULT_WORK,
    photos: Photos = None,
    until_step: Until = None,
    decay_from: DecayFrom = None,
    decay_steps: DecaySteps = None,
    processes: Annotated[int, typer.Option(help="Processes of one thread each, for drawing, base and flow.")] = 2,
    parts: Annotated[
        Path | None, typer.Option(help="For latents and flow: the exported base whose autoencoder and text they use.")
    ] = None,
) -> None:
    """Run one stage; it resumes where it stopped and does nothing when it is finished."""
    from dataclasses import replace

    from perdure.toybox.pretrain.recipe import Recipe
    from perdure.toybox.pretrain.stages import FLOW_STAGES, STAGES, run_stage

    if name not in (*STAGES, *FLOW_STAGES):
        raise typer.BadParameter(f"{name!r} is not a stage; choose from {', '.join((*STAGES, FLOW_STAGES[-1]))}")
    if name == "flow" and parts is None:
        parts = WEIGHTS
    if (decay_from is None) != (decay_steps is None):
        raise typer.BadParameter("--decay-from and --decay-steps go together")
    decay = None if decay_from is None or decay_steps is None else (decay_from, decay_steps)
    _use_one_thread()
    run_stage(name, replace(Recipe(), processes=processes), work, photos, until_step, decay, parts)


@app.command("all")
def run_all(
    work: Work = DEFAULT_WORK,
    photos: Photos = None,
    budget: Annotated[
        int | None, typer.Option(help="Steps of the base; its decay then takes the last quarter.")
    ] = None,
    target: Annotated[Path, typer.Option(help="Where the finished folder goes.")] = Path("toybox-weights"),
) -> None:
    """The whole recipe: every stage, the export, the figures."""
    from perdure.toybox.pretrain.recipe import Recipe
    from perdure.toybox.pretrain.stages import STAGES, run_stage

    _use_one_thread()
    for name in STAGES:
        cut = budget is not None and name == "base"
        decay = (budget - budget // 4, budget // 4) if cut and budget is not None else None
        run_stage(name, Recipe(), work, photos, None, decay)
    _package(work, photos, target, evaluated=True)


@app.command("rewind")
def rewind_base(name: Annotated[str, typer.Argument(help="base or flow.")] = "base", work: Work = DEFAULT_WORK) -> None:
    """Set a generator back to its checkpoint from before the final decay, to train it further from there."""
    from perdure.toybox.pretrain.stages import rewind

    if name not in ("base", "flow"):
        raise typer.BadParameter(f"{name!r} cannot be rewound; choose from base, flow")
    typer.echo(f"{name}: at step {rewind(work / name, 'before-decay')} again")


@app.command("export")
def export_weights(
    work: Work = DEFAULT_WORK,
    photos: Photos = None,
    target: Annotated[Path, typer.Option(help="Where the folder goes; an old one is replaced.")] = WEIGHTS,
    evaluated: Annotated[bool, typer.Option(help="Measure it too; figures and sheets land in the work folder.")] = True,
) -> None:
    """Write the shipped folder: pipeline, scorers, model card, figures, checksums."""
    _use_one_thread()
    _package(work, photos, target, evaluated)


@app.command("export-flow")
def export_transformer(
    work: Work = DEFAULT_WORK,
    parts: Annotated[Path, typer.Option(help="The exported base that lends autoencoder, text and judges.")] = WEIGHTS,
    target: Annotated[Path, typer.Option(help="Where the folder goes; an old one is replaced.")] = Path("toyflow"),
    evaluated: Annotated[bool, typer.Option(help="Measure it too; figures and sheet land in the work folder.")] = True,
    steps: Annotated[int, typer.Option(help="Sampling steps of the figures.")] = 20,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance of the figures.")] = 3.5,
) -> None:
    """Write the flow's folder: a pipeline of Stable Diffusion 3's form, model card, figures, checksums."""
    from perdure.toybox.pretrain.card import flow_card
    from perdure.toybox.pretrain.evaluate import Sampling
    from perdure.toybox.pretrain.export import export_flow, size_in_bytes
    from perdure.toybox.pretrain.recipe import Recipe

    _use_one_thread()
    export_flow(Recipe(), work, parts, target)
    if evaluated:
        figures = _measure_flow(target, parts, work / "flow-figures", Sampling(steps, guidance))
        export_flow(Recipe(), work, parts, target, flow_card(figures, work), figures)
    typer.echo(f"{target}: {size_in_bytes(target) / 1e6:.1f} MB")


@app.command()
def evaluate(
    weights: Annotated[Path, typer.Option(help="An exported folder.")] = WEIGHTS,
    photos: Photos = None,
    out: Annotated[Path, typer.Option(help="Where figures.json and the sheets go.")] = Path("toybox-figures"),
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance.")] = 3.5,
) -> None:
    """Measure an exported folder and draw its sheets."""
    from perdure.toybox.pretrain.evaluate import Sampling

    _use_one_thread()
    _measure(weights, photos, out, Sampling(steps, guidance))


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # fastest for nets this small, and the same bits on every machine


def _measure(weights: Path, photos: Path | None, out: Path, sampling: Any) -> dict[str, Any]:
    from perdure.files import write_png
    from perdure.toybox.pretrain.data import to_pixels
    from perdure.toybox.pretrain.evaluate import all_figures
    from perdure.toybox.world.sheets import paired_sheet

    figures, made, pairs = all_figures(weights, photos, sampling)
    write_png(out / "reconstructions.png", paired_sheet(to_pixels(pairs[0]), to_pixels(pairs[1])))
    return _told(figures, made, out)


def _measure_flow(folder: Path, judges: Path, out: Path, sampling: Any) -> dict[str, Any]:
    from perdure.toybox.pretrain.evaluate import flow_figures

    return _told(*flow_figures(folder, judges, sampling), out)


def _told(figures: dict[str, Any], made: Any, out: Path) -> dict[str, Any]:
    """Write and print the figures, and write the sheet of the first pictures with their prompts."""
    import json

    from perdure.files import write_json, write_png
    from perdure.toybox.pretrain.data import to_pixels
    from perdure.toybox.pretrain.evaluate import held_out_scenes
    from perdure.toybox.world import caption_full
    from perdure.toybox.world.sheets import labelled_sheet

    write_json(out / "figures.json", figures)
    prompts = [caption_full(scene) for scene in held_out_scenes(64)]
    write_png(out / "samples.png", labelled_sheet(to_pixels(made[:64]), prompts))
    typer.echo(json.dumps(figures, indent=2))
    return figures


def _package(work: Path, photos: Path | None, target: Path, evaluated: bool) -> None:
    from perdure.toybox.pretrain.card import model_card
    from perdure.toybox.pretrain.evaluate import Sampling
    from perdure.toybox.pretrain.export import export, seconds_spent, size_in_bytes
    from perdure.toybox.pretrain.recipe import Recipe

    draft = work / "export"
    export(Recipe(), work, draft)
    figures = _measure(draft, photos, work / "figures", Sampling()) if evaluated else {}
    export(Recipe(), work, target, model_card(figures, work), {**figures, "seconds": seconds_spent(work)})
    typer.echo(f"{target}: {size_in_bytes(target) / 1e6:.1f} MB")
