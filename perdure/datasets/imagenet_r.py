"""ImageNet-R (Hendrycks et al. 2021): 200 classes as art, cartoons, toys ..., in the split of rehearsal-free papers.

24,000 pictures to train on and 6,000 to test on. The split is that of CODA-Prompt, which InfLoRA and others share as
lists: `imagenet-r_train.yaml` and `imagenet-r_test.yaml`, with lines that end in `imagenet-r/n02128757/sculpture_4.jpg`
(`utils/splits/` of https://github.com/liangyanshuo/InfLoRA). A copy holds the pictures and both lists.
"""

import re

from perdure.datasets.choosing import below
from perdure.datasets.dataset import Chosen, Copy, Dataset, Pick
from perdure.errors import DataError
from perdure.progress import Watch
from perdure.wording import some

LISTS = {"train": "imagenet-r_train.yaml", "test": "imagenet-r_test.yaml"}
LISTED = re.compile(r"(n\d{8})/([A-Za-z0-9][\w.-]*\.\w+)['\"]?\s*$", re.MULTILINE)
"""The end of a line of a list: the class and the file."""


def _choose(dataset: Dataset, copy: Copy, pick: Pick, watch: Watch) -> Chosen:
    sides = {side: _listed(copy, file) for side, file in LISTS.items()}
    if both := sorted(sides["train"] & sides["test"]):
        raise DataError(f"{copy.named}: both lists name {'/'.join(both[0])}; take the lists from one place.")
    if alone := sorted({name for name, _ in sides["train"]} ^ {name for name, _ in sides["test"]}):
        raise DataError(f"{copy.named}: class {alone[0]} is in one of the two lists only; take both from one place.")
    listed = [(name, file) for own in sides.values() for name, file in own]
    root = next((f for f in below(copy.folder, 2) if any((f / name).is_dir() for name, _ in listed[:1])), copy.folder)
    if missing := sorted(f"{name}/{file}" for name, file in listed if not (root / name / file).is_file()):
        told = f"{len(missing)} of {len(listed)} pictures of {dataset.name} are missing"
        raise DataError(f"{copy.named}: {told}: {some(missing, 5)}.")
    pictures = {
        f"{side}/{name}/{file}": root / name / file for side, own in sides.items() for name, file in sorted(own)
    }
    return Chosen(pictures, {}, {})


def _listed(copy: Copy, name: str) -> set[tuple[str, str]]:
    """(class, file) of every picture of a list. DataError where there is none."""
    path = next((folder / name for folder in below(copy.folder, 2) if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"{copy.named}: holds no {name}, which says how it is split; put it beside the pictures.")
    try:
        found = {(own, file) for own, file in LISTED.findall(path.read_text(encoding="utf-8"))}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    if not found:
        raise DataError(f"{path}: lists no picture; a line ends in n02128757/sculpture_4.jpg, for one.")
    return found


def _wanted(path: str) -> bool:
    return path in LISTS.values() or re.fullmatch(r"n\d{8}/[A-Za-z0-9][\w.-]*\.\w+", path) is not None


DATASET = Dataset(
    name="imagenet-r",
    source="https://github.com/hendrycks/imagenet-r",
    licence="none is given for the data set; each picture has its own",
    layout="n02128757/sculpture_4.jpg and so on, with imagenet-r_train.yaml and imagenet-r_test.yaml",
    choose=_choose,
    wanted=_wanted,
    closed="imagenet-r: get the pictures as https://github.com/hendrycks/imagenet-r says, put imagenet-r_train.yaml "
    "and imagenet-r_test.yaml (utils/splits of https://github.com/liangyanshuo/InfLoRA) beside them, and name that "
    "folder with --from.",
)
