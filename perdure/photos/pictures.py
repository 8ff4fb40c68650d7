"""Pictures of a concept: what is trained on, what it is scored against, and what each is called."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image

from perdure import images, score
from perdure.errors import ImageError, PlanError
from perdure.photos import buckets, captions
from perdure.plan import Drawn, Plan, Training, folders, tasks
from perdure.plan.concept import Concept
from perdure.toybox import world
from perdure.wording import fill, mentions, some, squeeze

Source = Path | world.Scene
"""What a picture is read or drawn from."""
CUT = 0.3
"""Share of a picture beyond which it is told that it is cut off (taste): 3:2 loses a third, 4:3 a quarter."""


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
    labels: tuple[str, ...] = ()
    """Of classes: which one each reference shows; the captions of the training images say the same of them."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of classes: the digest of each one's pictures alone."""


@dataclass(frozen=True)
class Contents:
    """What the pictures of one concept are, with none of them decoded or drawn.

    captions: of the training images, in order. references: how many are held out. notes: what lies beside the images
    and was left out, and which images have no caption where others have one; a sentence each.
    """

    captions: tuple[str, ...]
    references: int
    notes: tuple[str, ...]


def of(concept: Concept) -> Pictures:
    """Read or draw a concept's pictures. Raises ImageError for the first file that cannot be used."""
    if concept.classes:
        return _of_classes(concept)
    if concept.drawn is not None:
        training, references = _drawn(concept)
    else:
        train_files, reference_files = files_of(concept)
        captioned = _captioned(concept, train_files, captions.of(train_files))
        training = tuple(Picture(images.read_image(f), caption) for f, caption in captioned)
        references = tuple(images.read_image(f) for f in reference_files)
    held_out = bool(references)
    return Pictures(training, references or tuple(p.image for p in training), held_out, _digest(training, references))


def contents(concept: Concept, training: Training | None = None) -> Contents:
    """Look at a concept's pictures. Raises ImageError or PlanError for what cannot be used, but does not decode any.

    training: by which they will be taught; squares by default.
    """
    if concept.classes:
        sides = _labelled(concept)
        return Contents(tuple(label for _, label in sides[0]), len(sides[1]), ())
    if concept.drawn is not None:
        scenes, references = _scenes(concept)
        return Contents(tuple(caption for _, caption in scenes), len(references), ())
    train_files, reference_files = files_of(concept)
    written = captions.of(train_files)
    notes = [*_left_out(concept), *_bare(concept, train_files, written), *_named(concept, train_files, written)]
    notes += _cut(train_files, training)
    told = tuple(caption for _, caption in _captioned(concept, train_files, written))
    return Contents(told, len(reference_files), tuple(notes))


def notes(concepts: Iterable[Concept], training: Training | None = None) -> list[str]:
    """What was left out or added, a sentence each; nothing on concepts that cannot be used, which `check` names."""
    told = []
    for concept in concepts:
        try:
            told += [f"concept {concept.name!r}: {note}" for note in contents(concept, training).notes]
        except (ImageError, PlanError):
            continue
    return told


def check(concepts: Iterable[Concept], plans: Collection[Plan] = ()) -> list[str]:
    """Everything wrong with what some concepts are trained on, one sentence each; nothing is kept in memory.

    plans: by which they will be taught and scored.
    """
    priors = [prior for plan in plans for prior in plan.priors]
    problems = []
    for concept in concepts:
        if not concept.noun and any("{class}" in prior.prompt for prior in priors):
            problems.append(
                f"concept {concept.name!r}: prior preservation draws images of its class, and it has none; give it a "
                "`class`, or write training.prior.prompt without {class}"
            )
        try:
            own = contents(concept)
            files = files_of(concept) if concept.drawn is None else ()
        except (ImageError, PlanError) as error:
            problems.append(f"concept {concept.name!r}: {error}")
            continue
        told = [*_too_few(concept, own, plans), *(problem for some in files for problem in images.check_images(some))]
        problems += [f"concept {concept.name!r}: {problem}" for problem in told]
    return problems


def _too_few(concept: Concept, own: Contents, plans: Iterable[Plan]) -> list[str]:
    """What measures of sets of pictures lack, a sentence each."""
    told = {}
    for plan in plans:
        sides = {
            "drawn (sampling.images_per_prompt)": len(plan.prompts_for(concept)) * plan.sampling.images_per_prompt,
            "to compare with": own.references or len(own.captions),
        }
        for measure in () if concept.classes else plan.measures_for(concept):
            least = score.card(plan.scoring.source(measure)).fewest
            few = [f"{count} {side}" for side, count in sides.items() if count < least]
            if few:
                told[measure] = f"{measure} needs {least} pictures or more on each side; there is {' and '.join(few)}"
    return list(told.values())


def files_of(concept: Concept) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The training files and the held-out reference files of a concept."""
    if concept.classes:
        each = tasks.files(concept).values()
        return sum((training for training, _ in each), ()), sum((test for _, test in each), ())
    if isinstance(concept.images, tuple):
        files, beside = concept.images, None
    else:
        assert concept.images is not None  # Concept checks that images or drawn is given
        files, beside = folders.list_images(concept.images), concept.images / folders.REFERENCES
    if isinstance(concept.references, tuple):
        return files, concept.references
    if concept.references is not None:
        return files, folders.list_images(concept.references)
    if beside is not None and beside.is_dir():
        return files, folders.list_images(beside)
    if concept.hold_out >= len(files):
        raise PlanError(
            f"hold_out is {concept.hold_out}, but there are only {len(files)} images; leave at least one to train on"
        )
    cut = len(files) - concept.hold_out
    return files[:cut], files[cut:]


def _of_classes(concept: Concept) -> Pictures:
    """The pictures of a task."""
    training, test = ([(_picture(source), label) for source, label in side] for side in _labelled(concept))
    shown = tuple(Picture(image, label) for image, label in training)
    every = (*shown, *(Picture(image, label) for image, label in test))
    each = {name: _digest(tuple(one for one in every if one.caption == name), ()) for name in concept.classes}
    labels = tuple(label for _, label in test)
    return Pictures(shown, tuple(image for image, _ in test), True, _digest(every, ()), labels, each)


_drawing = lru_cache(maxsize=2048)(world.draw)  # asked for by every lesson and run of a sweep; 25 MB at most


def _picture(source: Source) -> Image.Image:
    return images.read_image(source) if isinstance(source, Path) else _drawing(source)


def _labelled(concept: Concept) -> tuple[list[tuple[Source, str]], list[tuple[Source, str]]]:
    """What a task is trained and tested on, each with its class: one of each class, then the next of each."""
    if concept.drawn is None:
        each: dict[str, tuple[Sequence[Source], Sequence[Source]]] = dict(tasks.files(concept).items())
    else:
        each = {name: _renditions(concept.drawn, name) for name in concept.classes}
    training, test = (_in_turn({name: own[side] for name, own in each.items()}) for side in (0, 1))
    return training, test


def _in_turn(each: dict[str, Sequence[Source]]) -> list[tuple[Source, str]]:
    most = max(map(len, each.values()))
    return [(own[number], name) for number in range(most) for name, own in each.items() if number < len(own)]


def _renditions(drawn: Drawn, name: str) -> tuple[list[world.Scene], list[world.Scene]]:
    return (
        world.class_scenes(name, drawn.images, False, drawn.split, drawn.index),
        world.class_scenes(name, drawn.references, True, drawn.split, drawn.index),
    )


def _left_out(concept: Concept) -> list[str]:
    """What lies in the concept's folders and is not used."""
    own = concept.images if isinstance(concept.images, Path) else None
    beside = [own / folders.REFERENCES] if own and (own / folders.REFERENCES).is_dir() else []
    held_out = [concept.references] if isinstance(concept.references, Path) else beside
    notes = []
    if own:
        found = folders.listing(own, apart=held_out)
        notes += [*found.left_out, *captions.unread(found.pictures, found.texts)]
    for folder in held_out:
        notes += folders.listing(folder).left_out
    return notes


def _bare(concept: Concept, files: Sequence[Path], written: dict[Path, str]) -> list[str]:
    """The pictures that have no caption, where others have one."""
    bare = [file for file in files if file not in written]
    if not written or not bare:
        return []
    return [f"{bare[0].parent}: no caption, and trained with {concept.prompt!r}: {some(file.name for file in bare)}"]


def _named(concept: Concept, files: Sequence[Path], written: dict[Path, str]) -> list[str]:
    """The pictures whose captions do not call the concept, so that its phrase is put in front."""
    silent = [file for file in files if file in written and not _calls(concept, _filled(concept, written[file]))]
    if not silent:
        return []
    begin = f"captions without {concept.token or concept.phrase!r} begin with {concept.phrase + ', '!r}"
    return [f"{silent[0].parent}: {begin} in training: {some(file.name for file in silent)}"]


def _cut(files: Sequence[Path], training: Training | None) -> list[str]:
    """The pictures of which much is lost where they are cut to squares, or to the nearest size."""
    shapes = {file: images.shape_of(file) for file in files}
    side, multiple = (training.resolution, training.buckets) if training else (1, None)
    lost = {f: 1 - min(buckets.kept(s, buckets.nearest(s, side, multiple))) for f, s in shapes.items() if s}
    much = [f"{file.name} ({share:.0%})" for file, share in lost.items() if share > CUT]
    if not much:
        return []
    part = "square" if multiple is None else "part, of the nearest size,"
    told = f"the middle {part} is trained on; of these much is left out, crop them if the subject is at the side"
    return [f"{files[0].parent}: {told}: {some(much)}"]


def _captioned(concept: Concept, files: Iterable[Path], written: dict[Path, str]) -> list[tuple[Path, str]]:
    """Each file with its caption: what is written for it, else the concept's prompt."""
    return [(file, _caption(concept, written.get(file))) for file in files]


def _caption(concept: Concept, written: str | None) -> str:
    """A caption with its placeholders filled; the phrase is put in front where a caption does not mention it."""
    if written is None:
        return concept.prompt
    caption = _filled(concept, written)
    return caption if _calls(concept, caption) else f"{concept.phrase}, {caption}"


def _filled(concept: Concept, written: str) -> str:
    return squeeze(fill(written, token=concept.token, noun=concept.noun))


def _calls(concept: Concept, caption: str) -> bool:
    return mentions(caption, concept.token or concept.phrase)


def _scenes(concept: Concept) -> tuple[list[tuple[world.Scene, str]], list[world.Scene]]:
    """The training scenes of a toybox concept with their captions, and its reference scenes."""
    drawn = concept.drawn
    assert drawn is not None
    if drawn.what == "style":
        style = world.style_concepts(drawn.index + 1)[drawn.index]
        scenes, references = style.training_scenes(drawn.images), style.reference_scenes(drawn.references)
        told = [squeeze(fill(concept.prompt, token=concept.token, noun=scene.thing.class_name)) for scene in scenes]
    else:
        subject = world.subjects(drawn.index + 1, split=drawn.split)[drawn.index]
        scenes, references = subject.training_scenes(drawn.images), subject.reference_scenes(drawn.references)
        told = [concept.prompt] * len(scenes)
    return list(zip(scenes, told, strict=True)), list(references)


def _drawn(concept: Concept) -> tuple[tuple[Picture, ...], tuple[Image.Image, ...]]:
    """The pictures of a toybox concept."""
    scenes, references = _scenes(concept)
    training = tuple(Picture(_drawing(scene), caption) for scene, caption in scenes)
    return training, tuple(map(_drawing, references))


def _digest(training: tuple[Picture, ...], references: tuple[Image.Image, ...]) -> str:
    digest = hashlib.sha256()
    for caption, image in [*((p.caption, p.image) for p in training), *(("reference", image) for image in references)]:
        digest.update(f"{caption}{image.size}".encode() + image.tobytes())
    return digest.hexdigest()[:16]
