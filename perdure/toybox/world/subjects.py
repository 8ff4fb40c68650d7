"""What is taught: fixed individuals, held-out styles, and classes as renditions, each with its pictures."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from perdure.toybox.world.accessories import SUBJECT_ACCESSORIES
from perdure.toybox.world.model import Scene, Thing
from perdure.toybox.world.patterns import SUBJECT_PATTERNS
from perdure.toybox.world.sampling import choose, random_pose, random_seed, random_thing
from perdure.toybox.world.styles import HELD_OUT_STYLES, SEEN_STYLES, STYLES
from perdure.toybox.world.vocabulary import CLASSES, CONTEXTS, RARE_TOKENS

Split = Literal["test", "dev"]
_SPLITS: tuple[Split, ...] = ("test", "dev")
_TRAINING, _REFERENCE = 0, 1
_TRAINING_CONTEXTS = 5


@dataclass(frozen=True)
class Subject:
    """One individual with attributes that pretraining never showed, and the rare token that names it."""

    name: str
    thing: Thing
    token: str
    class_name: str
    seed: int

    @property
    def prompt(self) -> str:
        """The prompt of its training pictures."""
        return f"a photo of a {self.token} {self.class_name}"

    def training_scenes(self, count: int = 5) -> list[Scene]:
        """Photos to learn from, in the first five of the subject's own order of contexts."""
        return self._scenes(count, _TRAINING)

    def reference_scenes(self, count: int = 12) -> list[Scene]:
        """Photos to compare with, in the other seven contexts and other poses."""
        return self._scenes(count, _REFERENCE)

    def _scenes(self, count: int, stream: int) -> list[Scene]:
        order = np.random.default_rng([self.seed, 2]).permutation(len(CONTEXTS))
        own = order[:_TRAINING_CONTEXTS] if stream == _TRAINING else order[_TRAINING_CONTEXTS:]
        rng = np.random.default_rng([self.seed, stream])
        return [
            Scene(self.thing, CONTEXTS[own[i % len(own)]], "photo", random_pose(rng), random_seed(rng))
            for i in range(count)
        ]


def _combinations(class_index: int, split: Split) -> list[tuple[str, str]]:
    """The (pattern, accessory) pairs of a class in a split: test and dev share out a checkerboard."""
    parity = _SPLITS.index(split)
    return [
        (pattern, accessory)
        for i, pattern in enumerate(SUBJECT_PATTERNS)
        for j, accessory in enumerate(SUBJECT_ACCESSORIES)
        if (i + j + class_index) % 2 == parity
    ]


def _least_used(rng: Generator, pairs: list[tuple[str, str]], used: list[tuple[str, str]]) -> tuple[str, str]:
    """A pair whose pattern and accessory occurred least among `used`, ties broken at random."""
    patterns, accessories = [pair[0] for pair in used], [pair[1] for pair in used]
    cost = [patterns.count(p) + accessories.count(a) + 9 * used.count((p, a)) for p, a in pairs]
    best = [pair for pair, value in zip(pairs, cost, strict=True) if value == min(cost)]
    return best[int(rng.integers(len(best)))]


def subjects(count: int, seed: int = 0, split: Split = "test") -> list[Subject]:
    """`count` distinct subjects; a longer list begins with the shorter one of the same seed and split.

    The classes take turns, each in its place of a random order. No test subject shares all of class, pattern
    and accessory with a dev subject.
    """
    if count > len(RARE_TOKENS):
        raise ValueError(f"at most {len(RARE_TOKENS)} subjects: each needs a token of its own")
    rng = np.random.default_rng([seed, _SPLITS.index(split), 7])
    order = rng.permutation(len(CLASSES))
    tokens = RARE_TOKENS if split == "test" else RARE_TOKENS[::-1]
    used: list[tuple[str, str]] = []
    made: list[Subject] = []
    for number in range(count):
        class_index = int(order[number % len(CLASSES)])
        class_name = CLASSES[class_index]
        mine = {(s.thing.pattern, s.thing.accessory) for s in made if s.class_name == class_name}
        free = [pair for pair in _combinations(class_index, split) if pair not in mine]
        pattern, accessory = _least_used(rng, free, used)
        used.append((pattern, accessory))
        thing = random_thing(rng, class_name, patterns=(pattern,), accessory=accessory)
        name = f"{class_name} {number + 1}".replace(" ", "_")
        made.append(Subject(name, thing, tokens[number], class_name, random_seed(rng)))
    return made


@dataclass(frozen=True)
class StyleConcept:
    """A held-out style to learn from pictures of ordinary things."""

    name: str
    style: str
    seed: int

    def prompt(self, scene: Scene) -> str:
        """The prompt of one of its pictures, which names the style and the class of the thing."""
        return f"{STYLES[self.style].name} image of a {scene.thing.class_name}"

    def training_scenes(self, count: int = 5) -> list[Scene]:
        """Pictures to learn from: different things in different contexts."""
        return self._scenes(count, _TRAINING)

    def reference_scenes(self, count: int = 12) -> list[Scene]:
        """Pictures to compare with: other things, of the other classes first."""
        return self._scenes(count, _REFERENCE)

    def _scenes(self, count: int, stream: int) -> list[Scene]:
        order = np.random.default_rng([self.seed, 2])
        classes, contexts = order.permutation(len(CLASSES)), order.permutation(len(CONTEXTS))
        if stream == _REFERENCE:
            classes, contexts = np.roll(classes, -_TRAINING_CONTEXTS), np.roll(contexts, -_TRAINING_CONTEXTS)
        rng = np.random.default_rng([self.seed, stream])
        return [
            Scene(
                random_thing(rng, CLASSES[classes[i % len(classes)]]),
                CONTEXTS[contexts[i % len(contexts)]],
                self.style,
                random_pose(rng),
                random_seed(rng),
            )
            for i in range(count)
        ]


def style_concepts(count: int = len(HELD_OUT_STYLES), seed: int = 0) -> list[StyleConcept]:
    """The first `count` held-out styles as concepts to personalise on."""
    if count > len(HELD_OUT_STYLES):
        raise ValueError(f"at most {len(HELD_OUT_STYLES)} style concepts")
    names = HELD_OUT_STYLES[:count]
    return [StyleConcept(name.replace(" ", "_"), name, seed * 1000 + i) for i, name in enumerate(names)]


def class_scenes(class_name: str, count: int, test: bool = False, split: Split = "test", index: int = 0) -> list[Scene]:
    """Renditions of a class: things of it in all contexts and styles, to learn from or, other ones, to test on.

    The styles are the held-out ones, which no embedded model saw, or in the split `dev` the seen ones. A longer list
    begins with the shorter one of the same class, split and index.
    """
    styles = HELD_OUT_STYLES if split == "test" else SEEN_STYLES
    stream = _REFERENCE if test else _TRAINING
    rng = np.random.default_rng([index, CLASSES.index(class_name), _SPLITS.index(split), stream, 11])
    return [
        Scene(
            thing=random_thing(rng, class_name),
            context=choose(rng, CONTEXTS),
            style=choose(rng, styles),
            pose=random_pose(rng),
            seed=random_seed(rng),
        )
        for _ in range(count)
    ]
