"""How often the scores of scenes find the truth on real drawings of two held-out subjects; see README.md."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from statistics import mean

from PIL import Image
from torch import Tensor

from perdure import score
from perdure.bases.outline import EMBEDDED
from perdure.drawing.scenes import pixels
from perdure.plan.scenes import columns, halves
from perdure.score import scenes
from perdure.score.measure import Measure
from perdure.toybox import world
from perdure.toybox.world import Pose, Subject

COUNT, PICTURES, SIDE = 6, 4, 64
"""Subjects, pictures of each pair, pixels a side."""


def drawn(left: Subject, right: Subject) -> Iterator[Image.Image]:
    """Two subjects side by side in a context that neither was trained on: the halves of two drawings of one place."""
    for scene in left.reference_scenes(PICTURES):
        halved = [
            world.draw(replace(scene, thing=one.thing, pose=Pose(x=x, y=0.1, scale=0.46, flip=scene.pose.flip)), SIDE)
            for one, x in ((left, -0.5), (right, 0.5))
        ]
        halved[0].paste(halved[1].crop((SIDE // 2, 0, SIDE, SIDE)), (SIDE // 2, 0))
        yield halved[0]


def measured(
    measure: Measure, features: dict[str, Tensor], pair: Sequence[Subject], asked: Sequence[str]
) -> list[float]:
    """`right` of a pair's drawings by their boxes and by halves, where the concepts `asked` for are looked for.

    Then the share of drawings whose second region is most like the second concept of all subjects.
    """
    images = list(drawn(*pair))
    boxes = [pixels(box, SIDE) for box in columns(2)]
    crops = {c: measure.features([scenes.crop(i, box) for i in images]) for c, box in zip(asked, boxes, strict=True)}
    whole = measure.features(images)
    found = [
        measure.features([scenes.crop(image, pixels(box, SIDE)) for box in halves(2)]) for image in images
    ]  # fmt: skip
    placed = scenes.regions(measure, crops, features, whole)
    matched = scenes.matched(measure, found, features, asked, whole)
    return [placed["right"], matched["right"], 1 - placed["confusion"][asked[1]]["share"]]


def main() -> None:
    """A line for each measure: both there; left and right exchanged; one of the two somebody else."""
    subjects = world.subjects(COUNT)
    for name, scorer in (("dino", "dino"), ("clip_i", "clip")):
        measure = score.load(name, str(EMBEDDED / "scorers" / scorer), "cpu")
        features = {s.name: measure.features([world.draw(r, SIDE) for r in s.reference_scenes()]) for s in subjects}
        both, swapped, other = [], [], []
        for one, two in permutations(subjects, 2):
            third = next(s for s in subjects if s not in (one, two))
            both.append(measured(measure, features, (one, two), (one.name, two.name)))
            swapped.append(measured(measure, features, (two, one), (one.name, two.name)))
            other.append(measured(measure, features, (one, third), (one.name, two.name)))
        for what, values in (("both there", both), ("exchanged", swapped), ("one is another", other)):
            print(name, what, *(f"{mean(column):.3f}" for column in zip(*values, strict=True)))


if __name__ == "__main__":
    main()
