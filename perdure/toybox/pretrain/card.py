"""The model card of the shipped folder, written from the recipe and the measured figures."""

import json
from pathlib import Path
from typing import Any

from perdure.files import read_json
from perdure.toybox.pretrain.export import seconds_spent
from perdure.toybox.pretrain.photos import HELD_OUT_PHOTOS, TRAINING_PHOTOS
from perdure.toybox.pretrain.recipe import LATENT_SIDE, PROMPT_LENGTH, Recipe
from perdure.toybox.world import CLASSES, COLOURS, CONTEXTS, HELD_OUT_STYLES, SEEN_STYLES

_TEXT = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# Toybox base

A small text-to-image model (64 x 64 px) with three small judges, trained from nothing on pictures drawn in code. It is
a test bed for continual personalisation: real in every part, and small enough for two CPU cores.

```python
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained("weights")
pipeline("a photo of a red teapot on the beach", num_inference_steps=20, guidance_scale=3.5).images[0]
```

## What is in it
| part | class | role |
|---|---|---|
| `vae` | AutoencoderTiny | 64 px to 16 x 16 latents of {latent_channels} channels |
| `text_encoder`, `tokenizer` | CLIPTextModel, CLIPTokenizer | one token a known word, others fall to letters |
| `unet` | UNet2DConditionModel | {channels} channels, self- and cross-attention at 8 x 8 and 4 x 4 |
| `scheduler` | DDIMScheduler | v-prediction, cosine schedule, trailing steps |
| `scorers/clip` | CLIPModel | pictures against captions |
| `scorers/dino` | ViTModel | tells individuals apart (class token of the last hidden state) |
| `scorers/csd` | CLIPVisionModelWithProjection | tells styles apart (`image_embeds`) |

All files are float16 safetensors; they load as float32 unless asked otherwise.

## Data
{count:,} scenes of {classes} classes in {contexts} contexts and {colours} colours, {photo_share:.0%} as plain
photos, the rest in the styles {seen}.
Captions are drawn anew in every epoch; 12 % carry a meaningless rare token. Prompts hold {prompt_length} tokens.
Never shown: the styles {held_out};
nor the patterns and accessories of the subjects for personalisation. The autoencoder and the style encoder also saw
random filters (colour maps, screens, cells, lines, grain): generic textures, none of the held-out styles as such.

The autoencoder alone also saw crops of real photos of the DreamBooth data set: {training_photos}.
Held out of it: {held_out_photos}.

## Training
Muon for matrices and kernels, AdamW for the rest; bfloat16 arithmetic, float32 weights. UNet and text encoder together:
{images:,} images in {steps:,} steps of {batch}, nearly clean time steps weighted down, 10 % of captions dropped,
averaged weights.
{history}
Seconds of wall clock, on two CPU cores that they shared: {seconds}.

## Figures
{figures}

## Limits
It knows the toy world and nothing else: {classes} classes, one thing in a picture, no people, no text. Fine detail is
soft, and textures finer than two pixels are lost. The judges were trained in the same world: they rank pictures of it,
and say little about real photos.
"""

_FLOW_TEXT = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# Toyflow

A small rectified-flow transformer (64 x 64 px) of Stable Diffusion 3's form, in the world of the toybox base, trained
from nothing on pictures drawn in code: what methods do on transformers can be seen on two CPU cores.

```python
from diffusers import StableDiffusion3Pipeline
pipeline = StableDiffusion3Pipeline.from_pretrained("flow", text_encoder_3=None, tokenizer_3=None)
pipeline("a photo of a red teapot on the beach", num_inference_steps=20, guidance_scale=3.5,
         max_sequence_length=0).images[0]
```

Without a third encoder diffusers adds 256 rows of zeros to every prompt, which the transformer has learnt to read past;
`max_sequence_length=0` leaves them out and saves most of the time.

## What is in it
| part | class | role |
|---|---|---|
| `vae` | AutoencoderTiny | the toybox base's: 64 px to 16 x 16 latents of {latent_channels} channels |
| `text_encoder`, `text_encoder_2` | CLIPTextModelWithProjection | the toybox base's, twice; projects by the identity |
| `transformer` | SD3Transformer2DModel | {layers} blocks, {width} wide, {tokens} picture tokens |
| `scheduler` | FlowMatchEulerDiscreteScheduler | no shift |

All files are float16 safetensors; they load as float32 unless asked otherwise. Data and judges are the toybox base's.

## Training
Velocity of a straight path, times a sigmoid of normal numbers, {drop:.0%} of captions dropped; Muon for matrices, AdamW
for the rest; averaged weights. {images:,} images in {steps:,} steps of {batch}; autoencoder and text encoder frozen.
{history}
Mean squared error of the velocity on held-out pictures at the end: {held_out:.3f}.

## Figures
{figures}

## Limits
As the toybox base: one thing in a picture, {classes} classes, no people, no text. Edges and small parts are softer than
there.
"""

#: What the code cannot tell about the shipped run.
HISTORY_FILE = "history.txt"


def model_card(figures: dict[str, Any], work: Path) -> str:
    """The card in Markdown; what differs from the recipe in code is read from `history.txt` in the work folder."""
    recipe = Recipe()
    pointer = work / "base" / "latest.json"
    state = read_json(work / "base" / "state" / read_json(pointer)["state"] / "state.json")
    batch = recipe.base.train.batch * state["processes"]
    history = work / HISTORY_FILE
    return _TEXT.format(
        latent_channels=recipe.autoencoder.latent_channels,
        prompt_length=PROMPT_LENGTH,
        channels="-".join(map(str, recipe.base.channels)),
        count=recipe.data.count,
        classes=len(CLASSES),
        contexts=len(CONTEXTS),
        colours=len(COLOURS),
        photo_share=recipe.data.photo_share,
        seen=", ".join(SEEN_STYLES),
        held_out=", ".join(HELD_OUT_STYLES),
        training_photos=", ".join(TRAINING_PHOTOS),
        held_out_photos=", ".join(HELD_OUT_PHOTOS),
        images=state["step"] * batch,
        steps=state["step"],
        batch=batch,
        history=history.read_text(encoding="utf-8").strip() if history.exists() else "",
        seconds=", ".join(f"{name} {round(value)}" for name, value in seconds_spent(work).items()),
        figures=_figure_lines(figures),
    )


def flow_card(figures: dict[str, Any], work: Path) -> str:
    """The transformer's card in Markdown; what differs from the recipe is read from the work folder, as there."""
    recipe, folder = Recipe(), work / "flow"
    state = read_json(folder / "state" / read_json(folder / "latest.json")["state"] / "state.json")
    batch = recipe.flow.train.batch * state["processes"]
    history = work / HISTORY_FILE
    last = (work / "flow.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return _FLOW_TEXT.format(
        latent_channels=recipe.autoencoder.latent_channels,
        layers=recipe.flow.layers,
        width=recipe.flow.heads * recipe.flow.head_width,
        tokens=(LATENT_SIDE // 2) ** 2,
        drop=recipe.flow.caption_drop,
        images=state["step"] * batch,
        steps=state["step"],
        batch=batch,
        history=history.read_text(encoding="utf-8").strip() if history.exists() else "",
        held_out=json.loads(last)["held_out"],
        figures="\n".join(_generated_lines(figures["base"])) if figures else "Not measured.",
        classes=len(CLASSES),
    )


def _generated_lines(base: dict[str, Any]) -> list[str]:
    """What the judge of captions finds on generated pictures and on real drawings."""
    return [
        f"| zero-shot by the toy CLIP, % right | {base['prompts']} generated | real drawings of the same scenes |",
        "|---|---|---|",
        *(
            f"| {name} | {base['generated'][name]:.1f} | {base['real_drawings'][name]:.1f} |"
            for name in base["generated"]
        ),
        "",
        f"Generated with {base['steps']} steps, guidance {base['guidance']}. "
        "Colour is not asked of styles that show none.",
    ]


def _figure_lines(figures: dict[str, Any]) -> str:
    if not figures:
        return "Not measured."
    autoencoder, base, scorers = figures["autoencoder"], figures["base"], figures["scorers"]
    lines = [
        "| autoencoder | PSNR, dB |",
        "|---|---|",
        f"| held-out drawings, seen styles | {autoencoder['held_out_drawings']:.1f} |",
        f"| held-out drawings, plain photos only | {autoencoder['by_seen_style']['photo']:.1f} |",
        f"| held-out styles | {autoencoder['held_out_styles']:.1f} |",
    ]
    if "photos_held_out" in autoencoder:
        lines.append(f"| real photos at 64 px, held out | {autoencoder['photos_held_out']:.1f} |")
    lines += [
        "",
        f"| zero-shot by `scorers/clip`, % right | {base['prompts']} generated "
        "| real drawings of the same scenes | 1024 other real drawings |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {base['generated'][name]:.1f} | {base['real_drawings'][name]:.1f} | {figures['clip'][name]:.1f} |"
        for name in base["generated"]
    ]
    lines += [
        "",
        f"Generated with {base['steps']} DDIM steps, guidance {base['guidance']}. "
        "Colour is not asked of styles that show none.",
        "",
        "| judge | AUC | after a round trip through the autoencoder |",
        "|---|---|---|",
        f"| `dino`, same subject against others | {scorers['dino']['auc']:.4f} "
        f"| {scorers['dino_round_trip']['auc']:.4f} |",
        f"| `dino`, against others of its class | {scorers['dino']['auc_same_class']:.4f} "
        f"| {scorers['dino_round_trip']['auc_same_class']:.4f} |",
        f"| `csd`, same held-out style against others | {scorers['csd']:.4f} | {scorers['csd_round_trip']:.4f} |",
        f"| `clip`, same subject against others | {scorers['clip_same_subject']:.4f} | |",
    ]
    return "\n".join(lines)
