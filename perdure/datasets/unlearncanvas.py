"""UnlearnCanvas (Zhang et al. 2024): the styles and pictures of it that arXiv 2410.04891 uses."""

from pathlib import Path

from perdure.datasets import fetching
from perdure.datasets.choosing import exactly
from perdure.datasets.dataset import Chosen, Copy, Dataset, Pick
from perdure.progress import Watch

STYLES = {
    "Byzantine": ("Butterfly", (19, 17, 13, 15, 9)),
    "Palette_Knife": ("Architectures", (12, 11, 20, 9, 2)), "Ink_Art": ("Flowers", (2, 17, 10, 4, 12)),
    "Blossom_Season": ("Flame", (20, 11, 7, 18, 2)), "Artist_Sketch": ("Statues", (8, 15, 11, 10, 16)),
    "Winter": ("Birds", (18, 11, 16, 12, 20)), "Dadaism": ("Human", (17, 4, 2, 14, 7)),
    "Dapple": ("Bears", (2, 15, 17, 11, 14)), "Meteor_Shower": ("Horses", (7, 16, 14, 4, 20)),
    "Pastel": ("Towers", (17, 7, 16, 19, 10)),
}  # fmt: skip
"""Styles of arXiv 2410.04891, each with its training object and the numbers of its five training pictures."""

STYLE_REFERENCES = (
    ("Cats", 1), ("Dogs", 4), ("Fishes", 13), ("Frogs", 11), ("Jellyfish", 5), ("Rabbits", 12),
    ("Sandwiches", 17), ("Sea", 1), ("Trees", 17), ("Waterfalls", 14),
)  # fmt: skip
"""(object, number) of the reference pictures, the same for every style."""

PICTURES = tuple(
    f"{style}/{thing}/{number}.jpg"
    for style, (own, numbers) in STYLES.items()
    for thing, number in (*((own, number) for number in numbers), *STYLE_REFERENCES)
)
NOTES = ("README.md", "LICENSE")


def _choose(dataset: Dataset, copy: Copy, pick: Pick, watch: Watch) -> Chosen:
    return exactly(copy, dataset, PICTURES, (), NOTES)


def _fetch(dataset: Dataset, scratch: Path, watch: Watch) -> Path:
    return fetching.hub_files(dataset, scratch, watch, frozenset(PICTURES))


DATASET = Dataset(
    name="unlearncanvas",
    source="https://huggingface.co/datasets/OPTML-Group/UnlearnCanvas",
    licence="see the data set's page",
    layout="STYLE/OBJECT/N.jpg, 10 styles: 5 pictures to train on and 10 references each",
    choose=_choose,
    wanted=frozenset((*PICTURES, *NOTES)).__contains__,
    fetch=_fetch,
)
