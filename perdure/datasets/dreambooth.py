"""DreamBooth's thirty subjects (Ruiz et al., CVPR 2023), 4 to 6 photos each."""

from perdure.datasets import fetching
from perdure.datasets.choosing import exactly
from perdure.datasets.dataset import Chosen, Copy, Dataset, Pick
from perdure.progress import Watch

SUBJECTS = {
    "backpack": 6, "backpack_dog": 5, "bear_plushie": 5, "berry_bowl": 6, "can": 6, "candle": 5, "cat": 5,
    "cat2": 5, "clock": 6, "colorful_sneaker": 5, "dog": 5, "dog2": 6, "dog3": 6, "dog5": 5, "dog6": 5,
    "dog7": 5, "dog8": 5, "duck_toy": 4, "fancy_boot": 6, "grey_sloth_plushie": 5, "monster_toy": 5,
    "pink_sunglasses": 6, "poop_emoji": 5, "rc_car": 5, "red_cartoon": 4, "robot_toy": 5,
    "shiny_sneaker": 6, "teapot": 5, "vase": 6, "wolf_plushie": 5,
}  # fmt: skip
"""DreamBooth's subjects and how many photos each has."""

PICTURES = tuple(f"{name}/{number:02d}.jpg" for name, count in SUBJECTS.items() for number in range(count))
TEXTS = ("prompts_and_classes.txt",)
NOTES = ("references_and_licenses.txt", "LICENSE.md", "LICENSE")


def _choose(dataset: Dataset, copy: Copy, pick: Pick, watch: Watch) -> Chosen:
    return exactly(copy, dataset, PICTURES, TEXTS, NOTES)


DATASET = Dataset(
    name="dreambooth",
    source="https://github.com/google/dreambooth/archive/refs/heads/main.zip",
    licence="CC-BY-4.0; some photos from Unsplash under its licence: see references_and_licenses.txt",
    layout="SUBJECT/NN.jpg, 30 subjects",
    choose=_choose,
    wanted=frozenset((*PICTURES, *TEXTS, *NOTES)).__contains__,
    fetch=fetching.archive,
)
