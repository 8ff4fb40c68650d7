"""CelebA-HQ (Karras et al. 2018; Lee et al. 2020): people who have pictures enough in a local copy.

The concepts of C-LoRA (arXiv 2304.06027) and STAMINA (arXiv 2311.18763) are people of it, and which ones is not public.
Its licence forbids passing the pictures on, and the identities come from the CelebA team on request, so a copy is
needed: the pictures (`CelebA-HQ-img/N.jpg`) and who is on them, either as one file (`CelebA-HQ-identity.txt`, lines
`N.jpg IDENTITY`) or as the two official ones: `CelebA-HQ-to-CelebA-mapping.txt` (columns idx, orig_idx, orig_file) and
CelebA's `identity_CelebA.txt` (lines `000001.jpg IDENTITY`). People are taken by rising identity, and of each the
pictures by rising number: the same copy gives the same concepts. A list of identities is taken in its own order.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from perdure.datasets.choosing import Group, below, enough
from perdure.datasets.dataset import Chosen, Copy, Dataset, Pick
from perdure.errors import DataError
from perdure.progress import Watch

IDENTITIES = "CelebA-HQ-identity.txt"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
ORIGINAL = "identity_CelebA.txt"
PICTURES = "CelebA-HQ-img"


def _choose(dataset: Dataset, copy: Copy, pick: Pick, watch: Watch) -> Chosen:
    folders = [folder for folder in below(copy.folder, 2) if folder.is_dir() and (folder / PICTURES).is_dir()]
    if not folders:
        raise DataError(f"{copy.named}: holds no {dataset.name} ({dataset.layout}).")
    people: dict[str, list[int]] = {}
    for number, identity in _identities(copy):
        people.setdefault(identity, []).append(number)
    unknown = [name for name in pick.only if name not in people]
    if unknown:
        raise DataError(f"{copy.named}: there is no identity {unknown[0]!r} among {len(people)}; they are numbers.")
    names = pick.only or sorted(people, key=int)
    groups: Iterator[Group] = ((name, _present(folders[0] / PICTURES, people[name])) for name in names)
    return enough(dataset, copy, groups, pick, "face", "person", watch)


def _identities(copy: Copy) -> Iterator[tuple[int, str]]:
    """(number of the picture, identity), from whichever of the files are there."""
    own, mapping, original = (_find(copy, name) for name in (IDENTITIES, MAPPING, ORIGINAL))
    if own is not None:
        return ((int(Path(picture).stem), identity) for picture, identity in _pairs(own, r"(\d+\.\w+)\s+(\d+)"))
    if mapping is None or original is None:
        raise DataError(
            f"{copy.named}: does not say who is on the pictures: put {IDENTITIES} there, or {MAPPING} (of "
            f"CelebAMask-HQ) and {ORIGINAL} (of CelebA)."
        )
    known = dict(_pairs(original, r"(\d+\.\w+)\s+(\d+)"))
    pairs = _pairs(mapping, r"(\d+)\s+\d+\s+(\d+\.\w+)", header=True)
    return ((int(number), known[file]) for number, file in pairs if file in known)


def _find(copy: Copy, name: str) -> Path | None:
    return next((folder / name for folder in below(copy.folder, 2) if (folder / name).is_file()), None)


def _pairs(path: Path, pattern: str, header: bool = False) -> list[tuple[str, str]]:
    """The two groups of the pattern in every line. DataError naming the first line that is another."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    found = []
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(pattern, line.strip())
        if match is not None:
            found.append((match[1], match[2]))
        elif line.strip() and not (header and number == 1):
            raise DataError(f"{path}: line {number} is not one of this table ({line.strip()[:60]!r}).")
    return found


def _present(folder: Path, numbers: list[int]) -> Iterator[Path]:
    """Those of the pictures that are there."""
    for number in sorted(numbers):
        names = (f"{number}.jpg", f"{number}.png", f"{number:05d}.jpg", f"{number:05d}.png")
        if file := next((folder / name for name in names if (folder / name).is_file()), None):
            yield file


DATASET = Dataset(
    name="celeba-hq",
    source="https://github.com/switchablenorms/CelebAMask-HQ",
    licence="non-commercial research only; copies may not be passed on outside of one's own organisation",
    layout=f"{PICTURES}/N.jpg, with {IDENTITIES} or {MAPPING} and {ORIGINAL}",
    choose=_choose,
    closed="celeba-hq: its licence does not allow passing it on, and which people the papers used is not public: get "
    "it as https://github.com/switchablenorms/CelebAMask-HQ says, the identities from the CelebA team, put both into "
    "one folder, and name it with --from.",
    picked=True,
)
