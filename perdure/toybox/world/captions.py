"""Plain-language captions of scenes, and the list of all words that captions and prompts use."""

from numpy.random import Generator

from perdure.toybox.world.accessories import SCORER_ACCESSORIES, SUBJECT_ACCESSORIES
from perdure.toybox.world.model import Scene
from perdure.toybox.world.patterns import SCORER_PATTERNS, SUBJECT_PATTERNS
from perdure.toybox.world.sampling import choose
from perdure.toybox.world.styles import STYLES
from perdure.toybox.world.vocabulary import RARE_TOKENS, build_vocabulary

COLOUR_SHARE = 0.85
PATTERN_SHARE = 0.85
CONTEXT_SHARE = 0.88
RARE_SHARE = 0.12
IMAGE_OF_SHARE = 0.2

#: Every word of captions and evaluation prompts, lower-case and sorted; rare tokens included.
VOCABULARY: tuple[str, ...] = build_vocabulary(
    (
        *(f"{style.name} {style.phrase}" for style in STYLES.values()),
        *SUBJECT_PATTERNS, *SCORER_PATTERNS, *SUBJECT_ACCESSORIES, *SCORER_ACCESSORIES,
    )
)  # fmt: skip


def with_article(words: str) -> str:
    """The words after "a" or "an"; rare tokens always take "a", as in personalisation prompts."""
    first = words.split()[0]
    vowel = first[0] in "aeiou" and first not in RARE_TOKENS
    return f"{'an' if vowel else 'a'} {words}"


def _join(scene: Scene, words: list[str], context: bool, image_of: bool = False) -> str:
    lead = f"{STYLES[scene.style].name} image of" if image_of else STYLES[scene.style].phrase
    sentence = f"{lead} {with_article(' '.join([*words, scene.thing.class_name]))}"
    return f"{sentence} {scene.context}" if context else sentence


def caption(scene: Scene, rng: Generator) -> str:
    """A caption that leaves some things unsaid and sometimes carries a rare token, which means nothing.

    A share of them says "sketch image of a dog" instead of "a sketch of a dog": the form of style prompts.
    """
    words: list[str] = []
    if rng.random() < RARE_SHARE:
        words.append(choose(rng, RARE_TOKENS))
    if rng.random() < COLOUR_SHARE:
        words.append(scene.thing.primary.name)
    if scene.thing.pattern != "none" and rng.random() < PATTERN_SHARE:
        words.append(scene.thing.pattern)
    context = rng.random() < CONTEXT_SHARE
    return _join(scene, words, context, image_of=rng.random() < IMAGE_OF_SHARE)


def caption_full(scene: Scene) -> str:
    """The caption that states colour, pattern, class and context, without a rare token."""
    words = [scene.thing.primary.name]
    if scene.thing.pattern != "none":
        words.append(scene.thing.pattern)
    return _join(scene, words, context=True)
