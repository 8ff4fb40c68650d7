"""CustomConcept101 (Kumari et al., CVPR 2023): 101 concepts, 3 to 15 photos each.

The authors' archive is `benchmark_dataset.zip`: one folder a concept, files named as their photographers named them.
They are numbered here in natural order. Concepts, class nouns and the order of both are those of the `dataset.json`
that stands beside the authors' code; its text prompts are not taken.
"""

from pathlib import PurePosixPath

from perdure import images
from perdure.datasets import fetching
from perdure.datasets.choosing import CONCEPT, within
from perdure.datasets.dataset import Chosen, Copy, Dataset, Pick
from perdure.errors import DataError
from perdure.plan.folders import list_images
from perdure.progress import Watch
from perdure.wording import some

CONCEPTS = {
    "scene_barn": "barn", "actionfigure_1": "action figure", "scene_castle": "castle",
    "wearable_sunglasses2": "sunglasses", "things_cup2": "cup", "transport_tank": "tank",
    "wearable_jacket2": "jacket", "wearable_glasses": "glasses", "things_keychain1": "keychain",
    "decoritems_vase2": "vase", "furniture_chair1": "chair", "transport_car10": "car", "things_cup3": "cup",
    "plushie_cow": "cow plushie", "transport_car4": "car", "transport_car3": "car", "transport_bike": "bike",
    "transport_car2": "car", "toy_unicorn": "toy", "transport_car5": "car", "luggage_purse1": "purse",
    "wearable_sunglasses1": "sunglasses", "luggage_backpack1": "backpack", "plushie_panda": "panda plushie",
    "plushie_lobster": "lobster plushie", "scene_waterfall": "waterfall", "flower_2": "flower",
    "instrument_1": "guitar amplifier", "pet_dog1": "dog", "things_bottle1": "bottle",
    "things_corkscrew": "corkscrew", "plushie_penguin": "penguin plushie", "wearable_shoes2": "shoes",
    "toy_gnome": "toy gnome", "plushie_dice": "dice", "furniture_sofa1": "sofa", "things_headphone1": "headphone",
    "furniture_sofa2": "sofa", "plushie_bunny": "bunny plushie", "jewelry_earring": "earrings", "pet_cat1": "cat",
    "pet_cat6": "cat", "decoritems_houseplant1": "houseplant", "things_cup1": "cup", "furniture_chair2": "chair",
    "toy_bear": "bear", "plushie_tortoise": "tortoise plushie", "furniture_chair3": "chair",
    "actionfigure_2": "action figure", "transport_motorbike1": "motorbike", "decoritems_lamp1": "lamp",
    "plushie_happysad": "plushie", "transport_car9": "car", "transport_car7": "car", "plushie_2": "pokemon plushie",
    "toy_tablechair": "kids table chair", "transport_car6": "car", "jewelry_ring": "ring", "transport_car8": "car",
    "instrument_music1": "guitar", "plushie_sadangry": "plushie", "plushie_pink": "plushie", "flower_1": "flower",
    "pet_cat7": "cat", "pet_dog3": "dog", "luggage_purse2": "purse", "plushie_teddybear": "teddybear",
    "transport_car1": "car", "things_helmet": "helmet", "wearable_shoes1": "shoes",
    "things_headphone2": "headphone", "toy_pikachu1": "pokemon toy", "wearable_jacket1": "jacket",
    "luggage_purse3": "purse", "decoritems_woodenpot": "wooden pot", "luggage_purse4": "purse", "pet_dog2": "dog",
    "pet_cat3": "cat", "pet_cat4": "cat", "things_book": "book", "plushie_unicorn": "unicorn plushie",
    "scene_lighthouse": "lighthouse", "pet_cat5": "cat", "pet_cat2": "cat", "scene_canal": "canal scene",
    "transport_car11": "car", "scene_sculpture1": "sculpture", "dish_1": "dish", "actionfigure_3": "figurine",
    "scene_garden": "garden", "decoritems_houseplant2": "houseplant", "furniture_table1": "table",
    "decoritems_houseplant3": "houseplant", "instrument_music2": "guitar", "instrument_music3": "violin",
    "things_book2": "book", "pet_dog4": "dog", "dish_2": "dish", "person_1": "person", "person_2": "person",
    "person_3": "person",
}  # fmt: skip
"""Folder of the archive -> class noun."""

FEWEST = 3
"""Photos of the smallest concepts."""


def _choose(dataset: Dataset, copy: Copy, pick: Pick, watch: Watch) -> Chosen:
    root = within(dataset, copy, tuple(CONCEPTS))
    missing = [concept for concept in CONCEPTS if not (root / concept).is_dir()]
    if missing:
        raise DataError(
            f"{copy.named}: {len(missing)} of {len(CONCEPTS)} concepts of {dataset.name} are missing: "
            f"{some(missing, 5)}."
        )
    found = {concept: list_images(root / concept) for concept in CONCEPTS}
    if few := [concept for concept, files in found.items() if len(files) < FEWEST]:
        raise DataError(f"{copy.named}: fewer than {FEWEST} pictures of {some(few, 5)}; this copy is not whole.")
    return Chosen(
        pictures={
            f"{concept}/{number:02d}{file.suffix.lower()}": file
            for concept, files in found.items()
            for number, file in enumerate(files)
        },
        files={},
        texts={f"{concept}/{CONCEPT}": f"class: {noun}\n" for concept, noun in CONCEPTS.items()},
    )


def _wanted(tail: str) -> bool:
    """Whether a path is that of a picture in a concept's folder."""
    path = PurePosixPath(tail)
    picture = path.suffix[1:].lower() in images.EXTENSIONS and not path.name.startswith(".")
    return picture and len(path.parts) == 2 and path.parts[0] in CONCEPTS


DATASET = Dataset(
    name="customconcept101",
    source="https://huggingface.co/datasets/nupurkmr9/custom-diffusion/resolve/main/benchmark_dataset.zip",
    licence="photos from Unsplash under its licence, the authors' own CC BY-SA 4.0, flowers from Wikimedia, Flickr and "
    "Pixabay; see github.com/adobe-research/custom-diffusion, customconcept101",
    layout="benchmark_dataset.zip, or its folders CONCEPT/*.jpg, 101 concepts",
    choose=_choose,
    wanted=_wanted,
    fetch=fetching.hub_archive,
)
