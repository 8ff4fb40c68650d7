"""Pictures of a concept: what is trained on, what it is scored against, and what each is called."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from perdure import images
from perdure.errors import ImageError, PlanError
from perdure.sections import Concept
from perdure.toybox import world
from perdure.wording import fill, squeeze

REFERENCES = "refs"
"""Name of the sub-folder of a concept's images that holds its held-out references."""


@dataclass(frozen=True)
class Picture:
    """One RGB image and the caption it is trained with."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Pictures:
    """The pictures of one concept. `held_out` is False where the training images have to serve as references."""

    training: tuple[Picture, ...]
    references: tuple[Image.Image, ...]
    held_out: bool
    digest: str
    """16 hex digits over captions and pixels of the training images and the references."""


def of(concept: Concept) -> Pictures:
    """Read or draw a concept's pictures. Raises ImageError for the first file that cannot be used."""
    if concept.drawn is not None:
        training, references = _drawn(concept)
    else:
        train_files, reference_files = files_of(concept)
        training = tuple(Picture(images.read_image(f), caption) for f, caption in _captioned(concept, train_files))
        references = tuple(images.read_image(f) for f in reference_files)
    held_out = bool(references)
    return Pictures(training, references or tuple(p.image for p in training), held_out, _digest(training, references))


def check(concepts: Iterable[Concept]) -> list[str]:
    """Everything wrong with the image files of some concepts, one sentence each; nothing is kept in memory."""
    problems = []
    for concept in concepts:
        if concept.drawn is not None:
            continue
        try:
            train_files, reference_files = files_of(concept)
            _captioned(concept, train_files)
        except (ImageError, PlanError) as error:
            problems.append(f"concept {concept.name!r}: {error}")
            continue
        problems += [f"concept {concept.name!r}: {p}" for p in images.check_images((*train_files, *reference_files))]
    return problems


def files_of(concept: Concept) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The training files and the held-out reference files of a concept."""
    if isinstance(concept.images, tuple):
        files, beside = concept.images, None
    else:
        assert concept.images is not None  # Concept checks that images or drawn is given
        files, beside = images.list_images(concept.images), concept.images / REFERENCES
    if isinstance(concept.references, tuple):
        return files, concept.references
    if concept.references is not None:
        return files, images.list_images(concept.references)
    if beside is not None and beside.is_dir():
        return files, images.list_images(beside)
    if concept.hold_out >= len(files):
        raise PlanError(
            f"hold_out is {concept.hold_out}, but there are only {len(files)} images; leave at least one to train on"
        )
    cut = len(files) - concept.hold_out
    return files[:cut], files[cut:]


def _captioned(concept: Concept, files: tuple[Path, ...]) -> list[tuple[Path, str]]:
    """Each file with its caption: `.txt` beside it, else metadata.jsonl, else the concept's prompt."""
    metadata = {folder: images.read_metadata(folder) for folder in {f.parent for f in files}}
    return [(f, _caption(concept, images.caption_of(f) or metadata[f.parent].get(f.name))) for f in files]


def _caption(concept: Concept, written: str | None) -> str:
    """A caption with its placeholders filled; the phrase is put in front where a caption does not mention it."""
    if written is None:
        return concept.prompt
    caption = " ".join(fill(written, token=concept.token, noun=concept.noun).split())
    calls = concept.token or concept.phrase
    return caption if calls.lower() in caption.lower() else f"{concept.phrase}, {caption}"


def _drawn(concept: Concept) -> tuple[tuple[Picture, ...], tuple[Image.Image, ...]]:
    """The pictures of a toybox concept."""
    drawn = concept.drawn
    assert drawn is not None
    if drawn.what == "style":
        style = world.style_concepts(drawn.index + 1)[drawn.index]
        scenes, references = style.training_scenes(drawn.images), style.reference_scenes(drawn.references)
        captions = [squeeze(fill(concept.prompt, token=concept.token, noun=scene.thing.class_name)) for scene in scenes]
    else:
        subject = world.subjects(drawn.index + 1, split=drawn.split)[drawn.index]
        scenes, references = subject.training_scenes(drawn.images), subject.reference_scenes(drawn.references)
        captions = [concept.prompt] * len(scenes)
    training = tuple(Picture(world.draw(s), c) for s, c in zip(scenes, captions, strict=True))
    return training, tuple(world.draw(scene) for scene in references)


def _digest(training: tuple[Picture, ...], references: tuple[Image.Image, ...]) -> str:
    digest = hashlib.sha256()
    for caption, image in [*((p.caption, p.image) for p in training), *(("reference", image) for image in references)]:
        digest.update(f"{caption}{image.size}".encode() + image.tobytes())
    return digest.hexdigest()[:16]
