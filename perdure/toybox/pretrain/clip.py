"""The small CLIP: contrastive over captions, and over short sentences that name one attribute each.

The short sentences are those of the zero-shot questions ("this is a dog"), so that each attribute is judged on its own.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from perdure.toybox.pretrain.contrast import distorted, paired_loss
from perdure.toybox.pretrain.data import HELD_OUT, TRAIN, Pictures
from perdure.toybox.pretrain.draws import Shuffle, torch_draws
from perdure.toybox.pretrain.files import log_line
from perdure.toybox.pretrain.precision import half_precision
from perdure.toybox.pretrain.recipe import Recipe
from perdure.toybox.pretrain.scorers import build_clip, embed, image_features, text_features
from perdure.toybox.pretrain.tokenizer import encode
from perdure.toybox.pretrain.trainer import Decay, Trainer, train_eagerly
from perdure.toybox.world import CLASSES, COLOURS, CONTEXTS, SEEN_STYLES, STYLES, Scene
from perdure.toybox.world.captions import with_article

#: Styles that show no colours, in which the colour of a thing cannot be asked for.
COLOURLESS = ("sketch", "old photo", "ink")
_MEASURED = 1024


@dataclass(frozen=True)
class Question:
    """A zero-shot question: one sentence for each possible answer."""

    name: str
    answers: tuple[str, ...]
    sentences: tuple[str, ...]

    def target(self, scene: Scene) -> int:
        """Index of the true answer for a scene, -1 where the picture cannot show it."""
        if self.name == "colour" and scene.style in COLOURLESS:
            return -1
        truth = {
            "class": scene.thing.class_name,
            "colour": scene.thing.primary.name,
            "context": scene.context,
            "style": scene.style,
        }[self.name]
        return self.answers.index(truth) if truth in self.answers else -1


_STYLE_NAMES = ("photo", *SEEN_STYLES)
QUESTIONS: tuple[Question, ...] = (
    Question("class", tuple(CLASSES), tuple(f"this is {with_article(name)}" for name in CLASSES)),
    Question("colour", tuple(COLOURS), tuple(f"this is {with_article(name)} one" for name in COLOURS)),
    Question("context", tuple(CONTEXTS), tuple(f"this is {name}" for name in CONTEXTS)),
    Question("style", _STYLE_NAMES, tuple(f"{STYLES[name].phrase} this" for name in _STYLE_NAMES)),
)


def train_clip(
    recipe: Recipe, work: Path, tokenizer: CLIPTokenizer, until: int | None = None, decay: Decay = None
) -> CLIPModel:
    """Train on the drawn pictures and their captions."""
    own = recipe.clip
    torch.manual_seed(recipe.seed + 1)
    model = build_clip(own, tokenizer)
    train_eagerly(model)
    trainer = Trainer(model, own.train, work / "clip")
    trainer.resume()
    trainer.plan_decay(decay)
    pictures = Pictures(work, recipe.seed, TRAIN, recipe.data)
    probe = Pictures(work, recipe.seed, HELD_OUT, recipe.data)
    order = Shuffle(recipe.seed, "clip/order", pictures.drawn())
    questions = [encode(tokenizer, list(question.sentences)) for question in QUESTIONS]
    last = trainer.last_step(until)
    while trainer.step < last:
        chosen = order.take(trainer.step * own.train.batch, own.train.batch)
        scenes = [pictures.scene(index) for index, _ in chosen]
        targets = [torch.tensor([question.target(scene) for scene in scenes]) for question in QUESTIONS]
        ids = encode(tokenizer, [pictures.caption(index, epoch) for index, epoch in chosen])
        draws = torch_draws(recipe.seed, "clip/distort", trainer.step)
        batch = distorted(pictures.tensor([index for index, _ in chosen]), draws, colour=0.04)
        trainer.optimise(_clip_loss(model, batch, ids, questions, targets))
        if trainer.step % own.train.measure_every == 0 or trainer.step == last:
            count = min(_MEASURED, probe.count)
            scenes = [probe.scene(index) for index in range(count)]
            log_line(work, "clip", step=trainer.step, **zero_shot(model, tokenizer, probe.tensor(range(count)), scenes))
            model.train()
        if trainer.step % own.train.save_every == 0 or trainer.step == last:
            trainer.save()
    return model


def _clip_loss(
    model: CLIPModel, pictures: Tensor, ids: Tensor, questions: list[Tensor], targets: list[Tensor]
) -> Tensor:
    """Captions against pictures, and every picture against the answers of every question."""
    with half_precision():
        images = image_features(model, pictures)
        texts = text_features(model, torch.cat([ids, *questions]))
    scale = model.logit_scale.exp().clamp(max=100)
    captions, *answers = torch.split(texts, [len(ids), *(len(question) for question in questions)])
    loss = paired_loss(images, captions, 1 / scale)
    for answer, target in zip(answers, targets, strict=True):
        loss = loss + F.cross_entropy(images @ answer.T * scale, target, ignore_index=-1)
    return loss


@torch.no_grad()
def zero_shot(model: CLIPModel, tokenizer: CLIPTokenizer, pictures: Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share of right answers in percent to each question, over the pictures that can show it."""
    return {
        name: 100 * float(right.double().mean())
        for name, right in answers_right(model, tokenizer, pictures, scenes).items()
    }


@torch.no_grad()
def answers_right(
    model: CLIPModel, tokenizer: CLIPTokenizer, pictures: Tensor, scenes: list[Scene]
) -> dict[str, Tensor]:
    """For each question, whether the answer was right for each picture that can show it (bool, one dimension)."""
    images = embed(model, pictures)
    found: dict[str, Tensor] = {}
    for question in QUESTIONS:
        target = torch.tensor([question.target(scene) for scene in scenes])
        texts = text_features(model, encode(tokenizer, list(question.sentences)))
        best = (images @ texts.T).argmax(dim=1)
        found[question.name] = (best == target)[target >= 0]
    return found
