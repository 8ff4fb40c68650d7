"""A start for the text encoder: before it meets a picture it learns what captions say.

From every position behind the last word, linear heads read off style, class, colour, pattern and context ("unsaid"
where the caption is silent). It takes a minute, needs no pictures, and spares the generator many images: a text encoder
that starts from random weights is shaped only by what trickles through the cross-attention.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from perdure.toybox.pretrain.base import build_base
from perdure.toybox.pretrain.draws import numpy_draws
from perdure.toybox.pretrain.files import log_line
from perdure.toybox.pretrain.precision import half_precision
from perdure.toybox.pretrain.recipe import Recipe
from perdure.toybox.pretrain.tokenizer import encode
from perdure.toybox.pretrain.trainer import Decay, Trainer, train_eagerly
from perdure.toybox.world import CLASSES, COLOURS, CONTEXTS, PLAIN_PATTERNS, SEEN_STYLES, STYLES, caption, random_scene

#: What the heads tell apart; the last answer of each is "unsaid".
_STYLES = ("photo", *SEEN_STYLES)
ANSWERS: dict[str, tuple[str, ...]] = {
    "style": tuple(STYLES[name].phrase for name in _STYLES),
    "class": tuple(CLASSES),
    "colour": tuple(COLOURS),
    "pattern": tuple(PLAIN_PATTERNS[1:]),
    "context": tuple(CONTEXTS),
}


class Reader(nn.Module):
    """The text encoder with one linear head a question; only the encoder is kept."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        width = text_encoder.config.hidden_size
        self.heads = nn.ModuleDict({f"{name}_head": nn.Linear(width, len(a) + 1) for name, a in ANSWERS.items()})

    def forward(self, ids: Tensor, targets: dict[str, Tensor], end: int) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy over questions and closing positions, and the share of right answers."""
        states = self.text_encoder(ids).last_hidden_state.float()
        closing = ids == end
        losses, right = [], []
        for name, target in targets.items():
            logits = self.heads[f"{name}_head"](states)[closing]
            wanted = target[:, None].expand_as(ids)[closing]
            losses.append(F.cross_entropy(logits, wanted))
            right.append((logits.argmax(-1) == wanted).double().mean())
        return torch.stack(losses).sum(), torch.stack(right).mean()


def said(text: str) -> dict[str, int]:
    """For each question the answer that a caption gives; the number of answers where it gives none."""
    style = next((i for i, phrase in enumerate(ANSWERS["style"]) if text.startswith(phrase)), len(_STYLES))
    found = {"style": style}
    rest = text[len(ANSWERS["style"][style]) :] if style < len(_STYLES) else text
    place = next((i for i, context in enumerate(CONTEXTS) if rest.endswith(context)), len(CONTEXTS))
    if place < len(CONTEXTS):
        rest = rest[: -len(CONTEXTS[place])]
    for name in ("class", "colour", "pattern"):
        answers = ANSWERS[name]
        found[name] = next((i for i, word in enumerate(answers) if f" {word} " in f" {rest.strip()} "), len(answers))
    return found | {"context": place}


def train_words(
    recipe: Recipe, work: Path, tokenizer: CLIPTokenizer, until: int | None = None, decay: Decay = None
) -> CLIPTextModel:
    """Train a text encoder to the end of the schedule and return it."""
    own = recipe.words
    torch.manual_seed(recipe.seed + 5)
    text_encoder = build_base(recipe.base, recipe.autoencoder.latent_channels, tokenizer).text_encoder
    reader = Reader(text_encoder)
    train_eagerly(text_encoder)
    trainer = Trainer(reader, own, work / "words")
    trainer.resume()
    trainer.plan_decay(decay)
    last = trainer.last_step(until)
    while trainer.step < last:
        texts = [_text(recipe, trainer.step, i) for i in range(own.batch)]
        answers = [said(text) for text in texts]
        targets = {name: torch.tensor([answer[name] for answer in answers]) for name in ANSWERS}
        with half_precision():
            loss, right = reader(encode(tokenizer, texts), targets, tokenizer.eos_token_id)
        trainer.optimise(loss)
        if trainer.step % own.measure_every == 0 or trainer.step == last:
            log_line(work, "words", step=trainer.step, loss=float(loss.detach()), right=float(right))
        if trainer.step % own.save_every == 0 or trainer.step == last:
            trainer.save()
    return text_encoder


def _text(recipe: Recipe, step: int, place: int) -> str:
    """A caption of a scene that is never drawn; sometimes the empty one, as in guidance."""
    rng = numpy_draws(recipe.seed, "words", step, place)
    if rng.random() < recipe.base.caption_drop:
        return ""
    return caption(random_scene(rng, photo_share=recipe.data.photo_share), rng)
