"""Random things and scenes: those of pretraining, and those on which the scorer is trained."""

from collections.abc import Sequence

from numpy.random import Generator

from perdure.toybox.world.accessories import SCORER_ACCESSORIES
from perdure.toybox.world.contexts import vary
from perdure.toybox.world.model import Ink, Pose, Scene, Thing
from perdure.toybox.world.patterns import SCORER_PATTERNS
from perdure.toybox.world.styles import SEEN_STYLES
from perdure.toybox.world.vocabulary import CLASSES, COLOURS, CONTEXTS

#: Colours that are hard to tell apart at a glance, never put next to each other on one thing.
_TOO_CLOSE = frozenset(
    frozenset(pair.split())
    for pair in (
        "red orange", "orange yellow", "red brown", "purple blue", "green teal", "blue teal", "black brown",
        "white gray", "brown gray", "brown purple", "orange brown", "black purple", "white yellow",
        "pink white",
    )
)  # fmt: skip


def choose(rng: Generator, options: Sequence[str]) -> str:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def random_ink(rng: Generator, apart_from: Sequence[Ink] = (), spread: float = 12.0) -> Ink:
    """A shade of a named colour that is told apart from the given inks at a glance."""
    taken = {ink.name for ink in apart_from}
    free = [
        name
        for name in COLOURS
        if name not in taken and not any(frozenset((name, other)) in _TOO_CLOSE for other in taken)
    ]
    name = choose(rng, free)
    return Ink(name, vary(rng, COLOURS[name], spread))


def random_thing(
    rng: Generator,
    class_name: str | None = None,
    *,
    patterns: Sequence[str] = ("none", "none", "none", "striped", "spotted"),
    accessory: str | None = None,
) -> Thing:
    """A thing of random colours and proportions; the defaults are those of pretraining."""
    primary = random_ink(rng)
    secondary = random_ink(rng, [primary])
    accent = random_ink(rng, [primary])
    return Thing(
        class_name=class_name or choose(rng, CLASSES),
        primary=primary,
        secondary=secondary,
        pattern_ink=random_ink(rng, [primary]),
        accent=accent,
        accent2=random_ink(rng, [accent]),
        shape=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))),
        variant=int(rng.integers(6)),
        pattern=choose(rng, patterns),
        accessory=accessory,
    )


def random_scorer_thing(rng: Generator) -> Thing:
    """A thing for training the scorer: often with a pattern and an accessory, never those of the subjects."""
    accessory = choose(rng, SCORER_ACCESSORIES) if rng.random() < 0.7 else None
    return random_thing(rng, patterns=("none", "striped", "spotted", *SCORER_PATTERNS), accessory=accessory)


def random_pose(rng: Generator) -> Pose:
    """A pose that keeps the thing inside the picture."""
    return Pose(
        x=float(rng.uniform(-0.14, 0.14)),
        y=float(rng.uniform(-0.05, 0.1)),
        scale=float(rng.uniform(0.62, 0.9)),
        rotation=float(rng.normal(0, 0.09)),
        flip=bool(rng.random() < 0.5),
    )


def random_seed(rng: Generator) -> int:
    """A seed for a scene."""
    return int(rng.integers(2**62))


def random_scene(
    rng: Generator,
    *,
    styles: Sequence[str] = SEEN_STYLES,
    photo_share: float = 0.55,
    thing: Thing | None = None,
) -> Scene:
    """A scene of pretraining: a photo with probability `photo_share`, else one of `styles` at random."""
    photo = not styles or rng.random() < photo_share
    return Scene(
        thing=thing or random_thing(rng),
        context=choose(rng, CONTEXTS),
        style="photo" if photo else choose(rng, styles),
        pose=random_pose(rng),
        seed=random_seed(rng),
    )
