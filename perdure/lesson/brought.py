"""A lesson that was learnt elsewhere: a change and perhaps a word, remembered as if a lesson here had taught them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from perdure import method as methods
from perdure import plugins, seeds
from perdure.bases.backbone import Backbone
from perdure.bases.words import with_word, words_of
from perdure.errors import ModelError, PlanError
from perdure.lesson.examples import Encoded
from perdure.lesson.model import LessonModel
from perdure.lesson.train import Lesson
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Adapter, Context, Method, Wanted, Word
from perdure.plan import Plan


@dataclass(frozen=True)
class Brought:
    """What was learnt elsewhere. facts: where it comes from, for the record; `sha256` of the file is among them.

    fitted: network -> the change of each projection, raising ModelError where it does not fit.
    """

    facts: Mapping[str, Any]
    fitted: Callable[[nn.Module], Delta]
    word: Word | None = None


@dataclass(frozen=True)
class _Given:
    """`Weights` that are not trained."""

    given: Delta
    parameters: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def projections(self) -> Sequence[str]:
        return list(self.given)

    def named(self) -> Mapping[str, Tensor]:
        return self.parameters

    def change(self, projection: str) -> Tensor:
        return self.given[projection].matrix()

    def delta(self) -> Delta:
        return self.given


def refuse(name: str, method: Method) -> None:
    """Raise PlanError for a method that cannot take in what it has not trained itself."""
    if not method.consolidate.brings:
        able = [n for n in plugins.own(plugins.METHOD) if methods.get(n).consolidate.brings]
        raise PlanError(
            f"method {name} can remember only what its own lessons train, for what it carries is made of them; "
            f"teach it by pictures, or begin a model with one of {', '.join(able)}"
        )


def bring(
    backbone: Backbone, method: Method, memory: Memory, lesson: Lesson, plan: Plan, brought: Brought
) -> Memory:  # fmt: skip
    """The memory with what was brought, consolidated as a lesson's own change is; nothing is trained.

    What the method measures of a lesson (Fisher information, captions) it measures of the lesson's pictures, under the
    model with the change on top of the past. Raises ModelError where change or word does not fit the base.
    """
    draw = partial(seeds.generator, plan.seed, lesson.concept if plan.training.seed_per_lesson else "lesson")
    weights = _Given(check(backbone, brought))
    words = {token: partial(_same, word) for token, word in words_of(memory).items()}
    if brought.word is not None:
        words[lesson.token] = partial(_same, brought.word)
    shapes = backbone.projections(method.adapter.targets)
    assert isinstance(lesson.examples, Encoded)  # a backbone draws
    with backbone.speaking(words):
        past = method.consolidate.recall(memory, Wanted(lesson.concept))
        model = LessonModel(backbone, lesson.examples, past, plan, list(shapes), draw, brought.word is not None)
        context = Context(
            lesson.concept, lesson.number, plan.training.steps, lesson.phrase, lesson.token, model, draw,
            partial(seeds.generator, plan.seed, "common"), lesson.others,
        )  # fmt: skip
        with backbone.laid(past + weights.delta()):
            remembered = method.consolidate.remember(Adapter(weights), memory, context)
    return remembered if brought.word is None else with_word(remembered, lesson.token, brought.word)


def _same(word: Word) -> Word:
    return word


def check(backbone: Backbone, brought: Brought) -> Delta:
    """What was brought as a delta of the base. Raises ModelError where it, or its word, is for another base."""
    wanted = [encoder.get_input_embeddings().weight.shape[1] for encoder in backbone.vocabulary.encoders]
    if (word := brought.word) is not None:
        given = [word.vectors[number].shape[1] for number in sorted(word.vectors)]
        if sorted(word.vectors) != list(range(len(wanted))) or given != wanted:
            told = " and ".join(map(str, given))
            raise ModelError(f"the word is {told} wide, and the base reads words {' and '.join(map(str, wanted))} wide")
    return brought.fitted(backbone.network)
