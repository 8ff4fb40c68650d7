"""The world of the toybox: drawings of things in places, in styles, with captions.

Everything is drawn from descriptions: a `Scene` holds a `Thing`, a context, a style, a `Pose` and a seed, and
`draw` turns it into the same picture every time. What is random comes from a generator that the caller seeds.
"""

from perdure.toybox.world.accessories import SCORER_ACCESSORIES, SUBJECT_ACCESSORIES
from perdure.toybox.world.captions import VOCABULARY, caption, caption_full
from perdure.toybox.world.model import Ink, Pose, Scene, Thing
from perdure.toybox.world.patterns import SCORER_PATTERNS, SUBJECT_PATTERNS
from perdure.toybox.world.sampling import random_pose, random_scene, random_scorer_thing, random_thing
from perdure.toybox.world.scene import draw
from perdure.toybox.world.styles import HELD_OUT_STYLES, SEEN_STYLES, STYLES, Style
from perdure.toybox.world.subjects import StyleConcept, Subject, class_scenes, style_concepts, subjects
from perdure.toybox.world.vocabulary import CLASSES, COLOURS, CONTEXTS, PLAIN_PATTERNS, RARE_TOKENS

__all__ = [
    "CLASSES",
    "COLOURS",
    "CONTEXTS",
    "HELD_OUT_STYLES",
    "PLAIN_PATTERNS",
    "RARE_TOKENS",
    "SCORER_ACCESSORIES",
    "SCORER_PATTERNS",
    "SEEN_STYLES",
    "STYLES",
    "SUBJECT_ACCESSORIES",
    "SUBJECT_PATTERNS",
    "VOCABULARY",
    "Ink",
    "Pose",
    "Scene",
    "Style",
    "StyleConcept",
    "Subject",
    "Thing",
    "caption",
    "caption_full",
    "class_scenes",
    "draw",
    "random_pose",
    "random_scene",
    "random_scorer_thing",
    "random_thing",
    "style_concepts",
    "subjects",
]
