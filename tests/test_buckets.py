"""Aspect-ratio buckets: the sizes, the cut, batches of one size, and lessons beside a plain loop of diffusers."""

import itertools
import math
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import planned
from PIL import Image
from test_optimizing import spied
from test_train import Stop
from twins.plain import Plain

from perdure import images, method, plan, report, seeds
from perdure.bases import loading
from perdure.errors import PlanError, TrainingError
from perdure.lesson import examples
from perdure.lesson.model import LessonModel
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.photos import buckets, pictures
from perdure.photos.pictures import Picture
from perdure.plan import Concept, Training

SHAPES = ((50, 30), (30, 50), (33, 32), (128, 32), (52, 31))
"""Of photos; the first and the last go into one bucket."""
SIZES = {(50, 30): (40, 24), (30, 50): (24, 40), (33, 32): (32, 32), (128, 32): (64, 16), (52, 31): (40, 24)}


def training(**changes):
    usual = {"resolution": 32, "buckets": 8, "steps": 7, "batch_size": 2, "learning_rate": 1e-2, "weight_decay": 0.1}
    return Training(**{**usual, **changes})


def photos(seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    noise = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in shapes]
    return [Picture(Image.fromarray(pixels), f"a photo of zwz dog {k}") for k, pixels in enumerate(noise)]


@pytest.fixture(scope="module")
def backbone(pico_xl):
    return loading.load(str(pico_xl), device="cpu")


@pytest.fixture(scope="module")
def lesson(backbone):
    return Lesson("dog", 1, examples.encode(backbone, photos(), training(), 0, "dog"))


# --- sizes and the cut ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resolution", "multiple"), [(1024, 64), (512, 64), (32, 8), (64, 64)])
def test_sizes_are_the_longest_that_fit_into_the_area(resolution, multiple):
    sides = range(multiple, 4 * resolution + 1, multiple)
    fitting = [(a, b) for a, b in itertools.product(sides, sides) if a * b <= resolution**2 and a <= b]
    longest = {a: max(b for c, b in fitting if c == a) for a, _ in fitting if a <= resolution}
    wanted = {size for a, b in longest.items() if b <= 4 * a for size in ((a, b), (b, a))}
    found = buckets.sizes(resolution, multiple)
    assert set(found) == wanted and len(found) == len(wanted) and found[0] == (resolution, resolution)


def test_sizes_of_sdxl_are_in_its_own_list():
    """Some of the list in appendix I of its paper."""
    known = {(1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (1344, 768), (768, 1344), (2048, 512)}
    assert known < set(buckets.sizes(1024, 64))


def test_a_picture_goes_to_the_nearest_ratio():
    rng = np.random.default_rng(0)
    for width, height in rng.integers(10, 4000, (200, 2)).tolist():
        gaps = {size: abs(math.log2(width * size[1] / (height * size[0]))) for size in buckets.sizes(1024, 64)}
        assert gaps[buckets.nearest((width, height), 1024, 64)] == pytest.approx(min(gaps.values()))
        assert buckets.nearest((width, height), 1024, None) == (1024, 1024)


@pytest.mark.parametrize(("shape", "size"), [*SIZES.items(), ((31, 90), (16, 64)), ((40, 32), (32, 32))])
def test_the_middle_is_cut(shape, size):
    """As large as covers the size, and as much left out on either side; what is told is where it begins."""
    image = photos(shapes=(shape,))[0].image
    scale = max(size[0] / shape[0], size[1] / shape[1])
    whole = image.resize([math.floor(side * scale + 1e-9) for side in shape], Image.Resampling.LANCZOS)
    left, top = (round((whole.size[k] - size[k]) / 2) for k in (0, 1))
    crop = images.fitted(image, size)
    assert np.array_equal(np.asarray(crop.image), np.asarray(whole)[top : top + size[1], left : left + size[0]])
    assert crop.corner == (top, left) and crop.original_size == shape[::-1] and 0 in crop.corner
    shares = buckets.kept(shape, size)
    assert shares == pytest.approx([min(1, size[k] / (shape[k] * scale)) for k in (0, 1)])


def test_what_a_picture_loses_is_told(tmp_path):
    """A panorama loses half in a square, and little in the nearest size."""
    for picture, name in ((photos(shapes=((100, 50),))[0], "a.png"), (photos(shapes=((40, 40),))[0], "b.png")):
        picture.image.save(tmp_path / name)
    concept = Concept.model_validate({"name": "dog", "images": str(tmp_path), "token": "zwz", "class": "dog"})
    (told,) = pictures.notes([concept])
    assert "middle square" in told and "a.png (50%)" in told
    assert pictures.notes([concept], training()) == []
    (told,) = pictures.notes([concept], training(buckets=16, resolution=16))
    assert "nearest size" in told and "a.png (50%)" in told


def test_the_report_frames_what_is_trained_on():
    assert report._frame((192, 96), 32, None) == "width:50.0%;height:50.0%"
    assert report._frame((192, 192), 32, None) == report._frame((160, 96), 32, 8) == ""
    assert report._frame((192, 96), 32, 8) == "width:83.3%;height:50.0%"  # cut to 40 x 24


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batches_are_of_one_size_and_every_picture_comes_once_an_epoch(backbone, lesson):
    """Five pictures in four buckets, two a batch: four batches an epoch, three of them filled up with the same."""
    draw = partial(seeds.generator, 0, "dog")
    epochs = [[lesson.examples.batch(backbone, 2, draw, 4 * epoch + k) for k in range(4)] for epoch in range(3)]
    for batches in epochs:
        seen = Counter(caption for batch in batches for caption in batch.captions)
        assert {k: seen[f"a photo of zwz dog {k}"] for k in range(5)} == {0: 1, 1: 2, 2: 2, 3: 2, 4: 1}
    orders = {tuple(batch.latents.shape for batch in batches) for batches in epochs}
    assert len(orders) > 1, "another order of the buckets each epoch"


def test_sdxl_is_told_the_sizes_of_each_picture(backbone, lesson):
    """Height and width of the photo, where the cut begins, height and width of the cut."""
    told = {
        c: ids.tolist()
        for part in lesson.examples.parts
        for c, ids in zip(part.captions, part.condition["time_ids"], strict=True)
    }
    for number, shape in enumerate(SHAPES):
        crop = images.fitted(photos()[number].image, SIZES[shape])
        assert told[f"a photo of zwz dog {number}"] == [*shape[::-1], *crop.corner, *SIZES[shape][::-1]]
    sides = {tuple(backbone.pixels(part.latents)) for part in lesson.examples.parts}
    assert sides == {size[::-1] for size in SIZES.values()}


def test_other_pictures_are_told_as_whole(backbone, lesson):
    """What a method draws and rehearses is a square, whatever the lesson's first picture is."""
    model = LessonModel(backbone, lesson.examples, Delta(), planned(training()), [], partial(seeds.generator, 0, "dog"))
    drawn = torch.zeros(2, 4, backbone.latent_side(32), backbone.latent_side(32))
    batch = model.batch_of(drawn, ["a dog", "a cat"], "rehearse", 0)
    assert batch.condition["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 2


def test_concepts_together_share_sizes(backbone, lesson):
    other = examples.encode(backbone, photos(1, SHAPES[:2]), training(), 0, "cat")
    both = examples.together([lesson.examples, other])
    assert len(both) == 7 and len(both.parts) == 4
    assert sorted(both.captions) == sorted((*lesson.examples.captions, *other.captions))


# --- lessons ----------------------------------------------------------------------------------------------------------


def by_hand(plain, how, owner, seed):
    """The batches of a lesson, from photos on: resized, cut, encoded, chosen and noised by plain loops."""
    vae, captions, views = plain.pipe.vae, [], {}
    steps = plain.noising.config.num_train_timesteps
    for number, picture in enumerate(photos(seed)):
        width, height = SIZES[picture.image.size]
        scale = max(width / picture.image.width, height / picture.image.height)
        sides = [math.floor(side * scale + 1e-9) for side in picture.image.size]
        top, left = round((sides[1] - height) / 2), round((sides[0] - width) / 2)
        small = np.asarray(picture.image.resize(sides, Image.Resampling.LANCZOS))
        pixels = torch.tensor(small[top : top + height, left : left + width] / 127.5 - 1, dtype=torch.float32)
        ids = [*picture.image.size[::-1], top, left, height, width]
        views.setdefault((width, height), []).append((pixels.permute(2, 0, 1), number, ids))
        captions.append(picture.caption)
    generator, parts = torch.Generator().manual_seed(seeds.derive(0, owner, "encode")), []
    for size in sorted(views):
        with torch.no_grad():
            dists = [vae.encode(pixels[None]).latent_dist for pixels, _, _ in views[size]]
        drawn = [d.mean + d.std * torch.randn(d.mean.shape, generator=generator) for d in dists]
        scaled = [latent[0] * vae.config.scaling_factor for latent in drawn]
        parts.append([(latent, number, ids) for latent, (_, number, ids) in zip(scaled, views[size], strict=True)])
    for step in range(how.steps):
        counts = [math.ceil(len(part) / how.batch_size) for part in parts]
        generator = seeds.generator(0, owner, "order", step // sum(counts))
        orders = [torch.randperm(len(part), generator=generator).tolist() for part in parts]
        turn = int(torch.randperm(sum(counts), generator=generator)[step % sum(counts)])
        bucket = next(k for k in range(len(parts)) if turn < sum(counts[: k + 1]))
        begun = (turn - sum(counts[:bucket])) * how.batch_size
        chosen = [parts[bucket][orders[bucket][(begun + k) % len(parts[bucket])]] for k in range(how.batch_size)]
        latents, noising = torch.stack([latent for latent, _, _ in chosen]), seeds.generator(0, owner, "noise", step)
        yield SimpleNamespace(
            latents=latents, noise=torch.randn(latents.shape, generator=noising),
            timesteps=torch.randint(0, steps, (how.batch_size,), generator=noising),
            captions=[captions[number] for _, number, _ in chosen],
            condition={"time_ids": torch.tensor([ids for _, _, ids in chosen], dtype=torch.float32)},
        )  # fmt: skip


def test_three_lessons_are_those_of_a_plain_loop(pico_xl, backbone):
    """Against diffusers' own network and torch's own AdamW: merge_init over three concepts of five photos."""
    plain, how, memory, past = Plain(pico_xl), training(), Memory(), {}
    for number, owner in enumerate(("dog", "cat", "clock")):
        chosen, seen = spied(method.get("merge_init", {"rank": 2}))
        encoded = examples.encode(backbone, photos(number), how, 0, owner)
        memory = learn(backbone, chosen, memory, Lesson(owner, number + 1, encoded), planned(how))
        factors = [p.clone().requires_grad_() for p in seen["start"]]
        pairs = list(zip(plain.base, zip(factors[::2], factors[1::2], strict=True), strict=True))
        descent = torch.optim.AdamW(factors, lr=how.learning_rate, weight_decay=how.weight_decay)
        for batch in by_hand(plain, how, owner, number):
            moved = {name: past.get(name, 0) + b @ a for name, (a, b) in pairs}
            (plain.predict(moved, batch) - batch.noise).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(factors, how.max_grad_norm)
            descent.step()
            descent.zero_grad()
        past = {name: (past.get(name, 0) + b @ a).detach() for name, (a, b) in pairs}
        for name, change in memory.delta().items():
            torch.testing.assert_close(change.matrix(), past[name], atol=2e-5, rtol=2e-3)


def test_a_lesson_goes_on_after_a_stop_with_the_same_bits(backbone, lesson, tmp_path):
    how, path = planned(training(checkpoint_every=2)), tmp_path / "checkpoint.safetensors"
    chosen = method.get("merge_init", {"rank": 2})
    whole = learn(backbone, chosen, Memory(), lesson, how)

    def stop(done):
        if done.step == 5:
            raise Stop

    with pytest.raises(Stop):
        learn(backbone, chosen, Memory(), lesson, how, stop, path)
    assert learn(backbone, chosen, Memory(), lesson, how, checkpoint=path).digest == whole.digest


@pytest.mark.parametrize("family", ["sd3", "flux", "flux2_klein", "z_image", "pixart_alpha", "pixart_sigma"])
def test_networks_of_all_families_take_every_shape(family, folders):
    """A lesson of one step in each bucket."""
    backbone = loading.load(folders(family), device="cpu")
    multiple = max(8, int(backbone.pipe.vae_scale_factor) * backbone.units.multiple)
    how = training(resolution=4 * multiple, buckets=multiple, steps=4)
    encoded = examples.encode(backbone, photos(), how, 0, "dog")
    shapes = {tuple(part.latents.shape[-2:]) for part in encoded.parts}
    assert len(shapes) > 2 and any(a != b for a, b in shapes)
    memory = learn(backbone, method.get("merge_init", {"rank": 2}), Memory(), Lesson("dog", 1, encoded), planned(how))
    assert all(change.matrix().isfinite().all() for change in memory.delta().values())


def test_what_cannot_be_is_refused(backbone, lesson, plan_data):
    replay = planned(training()).model_copy(update={"methods": plan.build({"methods": ["replay"]}).methods})
    with pytest.raises(TrainingError, match="method 'replay': pictures are kept by this method, all of one size"):
        learn(backbone, method.get("replay", {}), Memory(), lesson, replay)
    data = {**plan_data, "training": {**plan_data["training"], "buckets": 24}}
    with pytest.raises(PlanError, match=r"buckets: 24 does not divide training\.resolution, 32"):
        plan.build(data)
    with pytest.raises(PlanError, match=r"training\.buckets is not for classifiers"):
        plan.build({"task": "classification", "base": "toybox-vit", "methods": ["naive"], "training": {"buckets": 8}})


def test_without_buckets_a_plan_is_what_it_was(plan_data):
    assert "buckets" not in plan.build(plan_data).training.model_dump(mode="json")
