"""The toy world: pure drawing, truthful captions, and subjects and styles that pretraining never shows."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from perdure.toybox import world
from perdure.toybox.world import sheets
from perdure.toybox.world.model import Ink, Pose, Scene, Thing

SEED = 5


def _thing(class_name: str = "dog", **changes: object) -> Thing:
    red, blue, gray = Ink("red", (214, 48, 49)), Ink("blue", (50, 100, 215)), Ink("gray", (140, 142, 148))
    thing = Thing(class_name, red, blue, pattern_ink=gray, accent=blue, accent2=gray)
    return replace(thing, **changes)  # type: ignore[arg-type]


def _scene(**changes: object) -> Scene:
    return replace(Scene(_thing(), "on the grass", seed=3), **changes)  # type: ignore[arg-type]


def _pixels(scene: Scene, size: int = 64) -> np.ndarray:
    return np.asarray(world.draw(scene, size), dtype=np.float32)


def _assert_all_differ(scenes: list[Scene], least: float) -> None:
    """Every two pictures differ by at least `least` of 255 on the mean."""
    pictures = [_pixels(scene) for scene in scenes]
    for (i, first), (j, second) in combinations(enumerate(pictures), 2):
        assert np.abs(first - second).mean() > least, (scenes[i], scenes[j])


def test_sizes_of_the_world() -> None:
    assert (len(world.CLASSES), len(world.COLOURS), len(world.CONTEXTS)) == (15, 12, 12)
    assert len(world.SEEN_STYLES) >= 10 and len(world.HELD_OUT_STYLES) >= 10
    assert set(world.STYLES) == {"photo", *world.SEEN_STYLES, *world.HELD_OUT_STYLES}
    assert not set(world.SEEN_STYLES) & set(world.HELD_OUT_STYLES)


@pytest.mark.parametrize("style", world.STYLES)
def test_drawing_is_pure_in_every_style(style: str) -> None:
    scene = _scene(style=style)
    first = world.draw(scene)
    assert (first.mode, first.size) == ("RGB", (64, 64))
    np.random.seed(0)  # a global state that must not matter
    assert first.tobytes() == world.draw(scene).tobytes()
    assert first.tobytes() != world.draw(replace(scene, seed=4)).tobytes()


@pytest.mark.parametrize("size", [16, 37, 100, 256])
def test_any_size_works_and_shows_the_same(size: int) -> None:
    for style in world.STYLES:
        assert world.draw(_scene(style=style), size).size == (size, size)
    large = np.asarray(world.draw(_scene(), size).resize((16, 16)), dtype=np.float32)
    small = np.asarray(world.draw(_scene(), 64).resize((16, 16)), dtype=np.float32)
    assert np.abs(large - small).mean() < 8


@pytest.mark.parametrize("style", world.STYLES)
def test_style_scale_follows_size(style: str) -> None:
    """The mean colour of a style hardly depends on the size of the picture."""
    small, large = (_pixels(_scene(style=style), size).mean(axis=(0, 1)) for size in (64, 256))
    assert np.abs(small - large).max() < 22


def test_classes_contexts_and_styles_are_distinct() -> None:
    _assert_all_differ([_scene(thing=_thing(name)) for name in world.CLASSES], 3)
    _assert_all_differ([_scene(context=name) for name in world.CONTEXTS], 12)
    _assert_all_differ([_scene(style=name) for name in world.STYLES], 8)


def test_patterns_and_accessories_are_distinct() -> None:
    patterns = (*world.PLAIN_PATTERNS, *world.SUBJECT_PATTERNS, *world.SCORER_PATTERNS)
    _assert_all_differ([_scene(thing=_thing(pattern=name)) for name in patterns], 0.8)
    accessories = (*world.SUBJECT_ACCESSORIES, *world.SCORER_ACCESSORIES)
    _assert_all_differ([_scene(thing=_thing(accessory=name)) for name in accessories], 0.4)


def test_thing_posed_outside_leaves_the_context() -> None:
    picture = _pixels(_scene(pose=Pose(x=9.0)))
    assert np.array_equal(picture, _pixels(_scene(pose=Pose(x=9.0), thing=_thing("cat"))))


def test_random_scenes_stay_inside_pretraining() -> None:
    rng = np.random.default_rng(SEED)
    scenes = [world.random_scene(rng) for _ in range(2000)]
    assert {scene.thing.class_name for scene in scenes} == set(world.CLASSES)
    assert {scene.context for scene in scenes} == set(world.CONTEXTS)
    assert {scene.style for scene in scenes} == {"photo", *world.SEEN_STYLES}
    assert {scene.thing.pattern for scene in scenes} == set(world.PLAIN_PATTERNS)
    assert all(scene.thing.accessory is None for scene in scenes)
    assert all(0.62 <= scene.pose.scale <= 0.9 for scene in scenes)
    assert np.mean([scene.style == "photo" for scene in scenes]) == pytest.approx(0.55, abs=0.05)


def test_random_scenes_follow_their_generator() -> None:
    one, same, other = (world.random_scene(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_full_caption_states_everything() -> None:
    striped = _thing("stuffed animal", pattern="striped")
    assert world.caption_full(_scene(thing=striped)) == "a photo of a red striped stuffed animal on the grass"
    orange = _thing("vase", primary=Ink("orange", (240, 140, 40)))
    scene = _scene(thing=orange, style="pixel art")
    assert world.caption_full(scene) == "pixel art of an orange vase on the grass"


def test_captions_leave_out_and_insert_at_the_stated_rates() -> None:
    rng = np.random.default_rng(SEED)
    scene = _scene(thing=_thing(pattern="spotted"))
    captions = [world.caption(scene, rng).split() for _ in range(3000)]
    rates = {word: np.mean([word in caption for caption in captions]) for word in ("red", "spotted", "grass", "dog")}
    expected = {"red": 0.85, "spotted": 0.85, "grass": 0.88, "dog": 1.0}
    assert rates == pytest.approx(expected, abs=0.03)
    rare = [set(caption) & set(world.RARE_TOKENS) for caption in captions]
    assert np.mean([bool(tokens) for tokens in rare]) == pytest.approx(0.12, abs=0.03)


def test_vocabulary_covers_captions_and_prompts() -> None:
    rng = np.random.default_rng(SEED)
    words = {word for _ in range(1000) for word in world.caption(world.random_scene(rng), rng).split()}
    prompts = [world.style_concepts(3)[2].prompt(_scene()), "a dog in a purple wizard outfit", "in a jail"]
    prompts += [
        "in a police outfit",
        "wearing a santa hat",
        "looking into a mirror",
        "policeman",
        "eiffel tower",
    ]
    words |= {word for prompt in prompts for word in prompt.split()}
    words |= {word for name in (*world.CLASSES, *world.HELD_OUT_STYLES) for word in name.split()}
    assert words <= set(world.VOCABULARY)
    assert list(world.VOCABULARY) == sorted(set(world.VOCABULARY))


def test_rare_tokens_mean_nothing() -> None:
    tokens = world.RARE_TOKENS
    assert len(set(tokens)) == len(tokens) >= 60
    assert {"sks", "zwz", "sbu", "uwu", "pdw", "twt", "zsn", "ofl", "psq", "cws"} <= set(tokens)
    for token in tokens:
        assert 3 <= len(token) <= 4 and token.isalpha() and token.islower()
        assert not any(token in word and token != word for word in world.VOCABULARY), token


@pytest.mark.parametrize("split", ["test", "dev"])
def test_subjects_are_distinct_and_unseen(split: str) -> None:
    made = world.subjects(60, split=split)  # type: ignore[arg-type]
    for key in ("name", "token", "thing", "seed"):
        assert len({getattr(subject, key) for subject in made}) == 60, key
    assert {subject.class_name for subject in made[:15]} == set(world.CLASSES)
    for subject in made:
        assert subject.thing.pattern in world.SUBJECT_PATTERNS
        assert subject.thing.accessory in world.SUBJECT_ACCESSORIES
        assert subject.thing.class_name == subject.class_name
        assert subject.prompt == f"a photo of a {subject.token} {subject.class_name}"
    assert world.subjects(7, split=split) == made[:7]  # type: ignore[arg-type]


def test_families_of_attributes_are_disjoint() -> None:
    families = (world.PLAIN_PATTERNS, world.SUBJECT_PATTERNS, world.SCORER_PATTERNS)
    assert all(not set(one) & set(other) for one, other in combinations(families, 2))
    assert not set(world.SUBJECT_ACCESSORIES) & set(world.SCORER_ACCESSORIES)
    rng = np.random.default_rng(SEED)
    things = [world.random_scorer_thing(rng) for _ in range(300)]
    assert {thing.pattern for thing in things} == {*world.PLAIN_PATTERNS, *world.SCORER_PATTERNS}
    assert {thing.accessory for thing in things} == {None, *world.SCORER_ACCESSORIES}


def test_splits_share_no_combination() -> None:
    test, dev = (
        {(s.class_name, s.thing.pattern, s.thing.accessory) for s in world.subjects(70, seed=seed, split=split)}
        for seed, split in ((0, "test"), (1, "dev"))
    )
    assert not test & dev


def test_more_subjects_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="token"):
        world.subjects(len(world.RARE_TOKENS) + 1)


def test_subject_scenes_for_training_and_reference_are_disjoint() -> None:
    for subject in world.subjects(15):
        training, references = subject.training_scenes(), subject.reference_scenes()
        assert (len(training), len(references)) == (5, 12)
        scenes = training + references
        assert {scene.thing for scene in scenes} == {subject.thing}
        assert {scene.style for scene in scenes} == {"photo"}
        assert len({scene.seed for scene in scenes}) == 17
        assert len({scene.context for scene in training}) == 5
        assert not {scene.context for scene in training} & {scene.context for scene in references}


def test_style_concepts_show_a_held_out_style_on_many_things() -> None:
    concepts = world.style_concepts(10)
    assert len({concept.style for concept in concepts}) == 10
    for concept in concepts:
        training, references = concept.training_scenes(), concept.reference_scenes()
        assert (len(training), len(references)) == (5, 12)
        assert {scene.style for scene in training + references} == {concept.style}
        assert concept.style in world.HELD_OUT_STYLES
        assert len({scene.thing.class_name for scene in training}) == 5
        assert len({scene.context for scene in training}) == 5
        assert len({scene.thing for scene in training + references}) == 17
    prompt = concepts[0].prompt(_scene(style=concepts[0].style))
    assert prompt == "stained glass image of a dog"


def test_sheets_hold_their_pictures() -> None:
    images = [world.draw(_scene(), 16)] * 5
    page = sheets.sheet(images, columns=3, scale=2, labels=["one", "two"])
    assert page.height == 2 * (32 + 2) + 2
    assert sheets.class_sheet(columns=1, size=16).height == 15 * 34 + 2
    assert sheets.context_sheet(columns=1, size=16).height == 12 * 34 + 2
    assert sheets.style_sheet(columns=1, size=16).height == len(world.STYLES) * 34 + 2
    assert sheets.subject_sheet(world.subjects(2), 2, 2, size=16).height == 2 * 34 + 2
