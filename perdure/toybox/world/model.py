"""The frozen descriptions that fix a picture completely: Ink, Thing, Pose and Scene."""

from dataclasses import dataclass

from perdure.toybox.world.vocabulary import Rgb


@dataclass(frozen=True)
class Ink:
    """A colour as drawn (RGB, 0..255) and the colour name that captions use for it."""

    name: str
    rgb: Rgb


@dataclass(frozen=True)
class Thing:
    """One individual object: everything about it that stays the same from picture to picture."""

    class_name: str
    primary: Ink
    secondary: Ink
    pattern_ink: Ink
    accent: Ink
    accent2: Ink
    shape: tuple[float, float] = (0.0, 0.0)  # proportions, each in [-1, 1]
    variant: int = 0  # 0..5: small differences of construction
    pattern: str = "none"
    accessory: str | None = None


@dataclass(frozen=True)
class Pose:
    """Where a thing stands; x and y in world units ([-1, 1] spans the picture, y grows downwards)."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 0.75
    rotation: float = 0.0  # radians
    flip: bool = False


@dataclass(frozen=True)
class Scene:
    """A thing in a context, drawn in a style; `seed` fixes what context and style leave to chance."""

    thing: Thing
    context: str
    style: str = "photo"
    pose: Pose = Pose()
    seed: int = 0
