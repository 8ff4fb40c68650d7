"""Views encoded, put together and drawn in batches: by hand, over a backbone that is arithmetic."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from perdure import seeds
from perdure.errors import TrainingError
from perdure.lesson import examples
from perdure.lesson.examples import Bucketed, ClassBatch, ClassExamples, Examples
from perdure.photos.pictures import Picture
from perdure.plan import Training


def draw(purpose, step):
    return seeds.generator(3, purpose, step)


class Arithmetic:
    """A backbone without a network: a latent is the first colour of every fourth pixel, a prompt its length."""

    side, device = 4, "cpu"

    def __init__(self):
        self.asked = []
        self.family = SimpleNamespace(sized=self.sized)

    def encode_images(self, pixels, generator):
        assert pixels.dtype == torch.float32 and pixels.shape[1] == 3
        return pixels[:, :1, ::4, ::4] + torch.randn(len(pixels), 1, 1, 1, generator=generator)

    def posterior(self, pixels):
        return pixels[:, :1, ::4, ::4], pixels[:, 1:2, ::4, ::4].exp()

    def encode_prompts(self, prompts):
        self.asked.append(list(prompts))
        return {"text": torch.tensor([[float(len(prompt))] for prompt in prompts])}

    @staticmethod
    def sized(condition, facts, size):
        return {**condition, "ids": torch.tensor([(*fact, *size) for fact in facts])}

    @staticmethod
    def noised(latents, condition, captions, generator, times):
        noise = torch.randn(latents.shape, generator=generator)
        return SimpleNamespace(latents=latents, condition=condition, captions=captions, noise=noise, times=times)

    @staticmethod
    def pixels(latents):
        return latents.shape[-2] * 4, latents.shape[-1] * 4

    @staticmethod
    def read(pictures, training):
        assert training == how(training.crop)
        return torch.stack([torch.full((3, 4, 4), n, dtype=torch.uint8) for n in pictures])

    @staticmethod
    def whole(pictures):
        return tuple(torch.full((3, 4, 4 + n), n, dtype=torch.uint8) for n in pictures)


def numbered(first, count, height=1, width=2, spread=False, dtype=torch.float32):
    """Examples whose latents, texts and captions are their own number."""
    numbers = torch.arange(float(first), first + count)
    latents = numbers.to(dtype).view(count, 1, 1, 1).expand(count, 2, height, width)
    text = {"text": numbers.view(count, 1, 1).expand(count, 3, 2), "pooled": -numbers.view(count, 1)}
    return Examples(latents, text, tuple(f"{first + k}" for k in range(count)), latents / 8 if spread else None)


def order(count, purpose, epoch):
    return torch.randperm(count, generator=draw(f"{purpose}order", epoch)).tolist()


# --- batches ----------------------------------------------------------------------------------------------------------


def same(batch, part, index, purpose, step, times):
    """A batch is of these views, with noise of its own, and with the spread of their latents where there is one."""
    latents = torch.stack([part.latents[k] for k in index])
    if part.deviation is not None:
        drawn = torch.randn(latents.shape, generator=draw(f"{purpose}posterior", step)).to(latents.dtype)
        latents = latents + torch.stack([part.deviation[k] for k in index]) * drawn
    assert batch.latents.dtype == part.latents.dtype and torch.equal(batch.latents, latents)
    assert batch.captions == [part.captions[k] for k in index] and batch.times == times
    assert torch.equal(batch.noise, torch.randn(latents.shape, generator=draw(f"{purpose}noise", step)))
    assert batch.condition.keys() == {"text", "pooled"}
    for name, rows in batch.condition.items():
        assert torch.equal(rows, torch.stack([part.condition[name][k] for k in index]))


@pytest.mark.parametrize("spread", [False, True])
def test_a_batch_goes_on_in_the_epochs_order_with_draws_of_its_purpose(spread):
    part = numbered(5, 5, spread=spread, dtype=torch.bfloat16)
    for purpose in ("", "prior "):
        shown = [view for epoch in range(3) for view in order(5, purpose, epoch)]
        for step in range(7):
            told = {"purpose": purpose, "times": "uniform"} if purpose else {}
            batch = part.batch(Arithmetic(), 2, draw, step, **told)
            same(batch, part, shown[2 * step : 2 * step + 2], purpose, step, "uniform" if purpose else "default")


def test_a_bucketed_batch_is_of_one_size_and_filled_up_with_the_first_again():
    """By a list of all batches of an epoch; the generator of its order draws each bucket's order, then theirs."""
    parts = (numbered(0, 3), numbered(3, 1, 2, 2, spread=True), numbered(4, 4, 2, 1))
    whole = Bucketed(parts)
    assert len(whole) == 8 and whole.captions == tuple("01234567")
    for purpose in ("", "prior "):
        for step in range(15):
            generator, batches = draw(f"{purpose}order", step // 5), []
            for part in parts:
                views = torch.randperm(len(part), generator=generator).tolist()
                if len(views) % 2:
                    views.append(views[0])
                batches += [(part, views[k : k + 2]) for k in range(0, len(views), 2)]
            part, index = batches[torch.randperm(5, generator=generator).tolist()[step % 5]]
            told = {"purpose": purpose, "times": "uniform"} if purpose else {}
            batch = whole.batch(Arithmetic(), 2, draw, step, **told)
            same(batch, part, index, purpose, step, "uniform" if purpose else "default")
    batch = Bucketed(parts[1:2]).batch(Arithmetic(), 3, draw, 0)
    assert batch.captions == ["3"] * 3


def test_other_pictures_are_told_what_the_first_is():
    told = numbered(7, 3).told(Arithmetic(), torch.zeros(4, 2, 1, 2))
    assert told["text"].shape == (4, 3, 2) and told["pooled"].shape == (4, 1)
    assert (told["text"] == 7).all() and (told["pooled"] == -7).all()


def test_other_pictures_among_buckets_are_told_that_they_are_whole():
    whole = Bucketed((numbered(7, 3), numbered(1, 1, 2, 2)))
    told = whole.told(Arithmetic(), torch.zeros(4, 2, 3, 5))
    assert told["text"].shape == (4, 3, 2) and (told["text"] == 7).all() and (told["pooled"] == -7).all()
    assert told["ids"].tolist() == [[12, 20, 0, 0, 12, 20]] * 4
    with pytest.raises(TrainingError, match=r"of one size; leave out training\.buckets"):
        _ = whole.latents


def test_all_of_a_set_goes_to_a_device():
    """`meta`, which is on every machine."""
    spread, plain = numbered(0, 2, spread=True), numbered(2, 3, 2, 2)
    there = Bucketed((spread, plain)).on("meta")
    assert there.captions == tuple("01234") and there.parts[1].deviation is None
    one = there.parts[0]
    for found, own in ((one.latents, spread.latents), (one.deviation, spread.deviation)):
        assert found.device.type == "meta" and found.shape == own.shape
    assert {name: tensor.shape for name, tensor in one.condition.items()} == {"text": (2, 3, 2), "pooled": (2, 1)}
    assert {tensor.device.type for tensor in one.condition.values()} == {"meta"} and plain.parts == (plain,)


# --- encoding ---------------------------------------------------------------------------------------------------------


SHAPES = ((60, 20), (32, 32), (20, 48), (33, 32))
"""Of photos (width, height)."""
BUCKETS = ((32, 8), (16, 16), (8, 32), (16, 16))
"""To which they are nearest, of the three that sides of 8 pixels have."""
CAPTIONS = ("a dog", "two dogs", "a red cat", "two dogs")


def photos():
    rng = np.random.default_rng(4)
    noise = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in SHAPES]
    return [Picture(Image.fromarray(pixels), caption) for pixels, caption in zip(noise, CAPTIONS, strict=True)]


def views_by_hand(how, owner, sizes):
    """size -> (pixels (3, h, w), caption, what is told), view by view, cut by Pillow."""
    found = {}
    for number, picture in enumerate(photos()):
        wide, high = size = sizes[number]
        scale = max(wide / picture.image.width, high / picture.image.height)
        sides = [math.floor(side * scale + 1e-9) for side in picture.image.size]
        small = picture.image.resize(sides, {"lanczos": 1, "bilinear": 2}[how.resize])
        for view in range(how.views):
            for mirrored in [False, True][: 1 + how.flip]:
                rng = np.random.default_rng(seeds.derive(9, owner, "crop", number, view))
                top, left = round((sides[1] - high) / 2), round((sides[0] - wide) / 2)
                if view > 0 or how.crop == "random":
                    top, left = int(rng.integers(sides[1] - high + 1)), int(rng.integers(sides[0] - wide + 1))
                shown = ImageOps.mirror(small) if mirrored else small
                pixels = torch.tensor(np.asarray(shown)[top : top + high, left : left + wide].transpose(2, 0, 1).copy())
                told = [picture.image.height, picture.image.width, top, left, high, wide]
                found.setdefault(size, []).append((pixels / 127.5 - 1, picture.caption, told))
    return found


def encoded_by_hand(part, views, generator, posterior):
    pixels = torch.stack([pixels for pixels, _, _ in views])
    if posterior == "each_step":
        torch.testing.assert_close(part.deviation, pixels[:, 1:2, ::4, ::4].exp())
        drawn = torch.zeros(len(views), 1, 1, 1)
    else:
        assert part.deviation is None
        drawn = torch.randn(len(views), 1, 1, 1, generator=generator)
    torch.testing.assert_close(part.latents, pixels[:, :1, ::4, ::4] + drawn, atol=1e-5, rtol=1e-5)
    assert part.captions == tuple(caption for _, caption, _ in views)
    assert part.condition["text"].tolist() == [[len(caption)] for _, caption, _ in views]
    assert part.condition["ids"].tolist() == [told for _, _, told in views]


CENTER = {"views": 2, "flip": True}
OWN = {"crop": "random", "views": 3, "resize": "bilinear", "posterior": "each_step", "seed_per_lesson": False}


@pytest.mark.parametrize(("changes", "owner"), [(CENTER, "dog"), (OWN, "lesson"), ({}, "dog")])
@pytest.mark.parametrize("bucketed", [False, True])
def test_every_view_is_cut_and_encoded_with_its_caption_and_its_sizes(changes, owner, bucketed):
    """Cuts belong to (owner, picture, view); one generator draws all latents, size by size; a prompt is read once."""
    how = Training(resolution=16, buckets=8 if bucketed else None, **changes)
    sizes = BUCKETS if bucketed else [(16, 16)] * 4
    views, backbone = views_by_hand(how, owner, sizes), Arithmetic()
    found = examples.encode(backbone, photos(), how, 9, "dog")
    generator = torch.Generator().manual_seed(seeds.derive(9, owner, "encode"))
    assert isinstance(found, Bucketed if bucketed else Examples) and len(found.parts) == len(views)
    for part, size in zip(found.parts, sorted(views), strict=True):
        encoded_by_hand(part, views[size], generator, how.posterior)
    assert backbone.asked == [list(dict.fromkeys(caption for _, caption, _ in views[s])) for s in sorted(views)]


# --- together ---------------------------------------------------------------------------------------------------------


def joined(found, parts):
    """The rows of `found` are those of all parts, one after another."""
    assert found.captions == tuple(caption for part in parts for caption in part.captions)
    for name in ("text", "pooled"):
        assert torch.equal(found.condition[name], torch.cat([part.condition[name] for part in parts]))
    assert torch.equal(found.latents, torch.cat([part.latents for part in parts]))
    if parts[0].deviation is None:
        assert found.deviation is None
    else:
        assert torch.equal(found.deviation, torch.cat([part.deviation for part in parts]))


@pytest.mark.parametrize("spread", [False, True])
def test_concepts_together_are_their_rows_one_after_another(spread):
    parts = [numbered(first, count, spread=spread) for first, count in ((4, 2), (0, 1), (7, 2))]
    joined(examples.together(parts), parts)


def test_buckets_together_are_those_of_each_size():
    first, second = numbered(0, 1, 2, 4, spread=True), numbered(1, 2, 2, 4, spread=True)
    third, fourth = numbered(3, 2, 4, 2), numbered(5, 1, 1, 8)
    found = examples.together([Bucketed((third, first)), Bucketed((second,)), Bucketed((fourth,))])
    assert [part.latents.shape[-2:] for part in found.parts] == [(1, 8), (2, 4), (4, 2)]
    for part, parts in zip(found.parts, ([fourth], [first, second], [third]), strict=True):
        joined(part, parts)


# --- of classes -------------------------------------------------------------------------------------------------------


def task(numbers, crop="center", flip=False):
    """A task's examples whose bytes are the pictures' numbers."""
    shown = [Picture(number, f"class {number}") for number in numbers]
    return examples.encode_classes(Arithmetic(), shown, how(crop, flip))


def how(crop="center", flip=False):
    return Training(resolution=32, crop=crop, flip=flip)


def test_pictures_of_a_task_are_read_once_and_whole_where_parts_are_cut(monkeypatch):
    squares, parts = task((2, 5)), task((2, 5), "resized")
    for found in (squares, parts):
        assert found.pictures[:, 0, 0, 0].tolist() == [2, 5] and found.captions == ("class 2", "class 5")
        assert found.side == 4 and len(found) == 2
    assert squares.whole == () and squares.training == how()
    assert [one.shape[-1] for one in parts.whole] == [6, 9] and parts.training == how("resized")
    monkeypatch.setattr(Arithmetic, "device", "meta")
    there = task((2, 5), "resized")
    assert {one.device.type for one in (there.pictures, *there.whole)} == {"meta"} and len(there.whole) == 2
    assert there.captions == parts.captions


def test_tasks_together_are_their_pictures_one_after_another():
    found = examples.together_classes([task((2, 5), "resized"), task((1, 7), "resized")])
    assert found.pictures[:, 0, 0, 0].tolist() == [2, 5, 1, 7] and [w.shape[-1] for w in found.whole] == [6, 9, 5, 11]
    assert found.captions == ("class 2", "class 5", "class 1", "class 7") and found.side == 4
    assert found.training == how("resized")
    alone = examples.together_classes([task((2,))])
    assert alone.whole == () and alone.captions == ("class 2",) and len(alone.pictures) == 1


def test_rows_of_a_batch_of_classes_keep_their_captions():
    some = ClassBatch(torch.arange(4).view(4, 1), tuple("abcd"))[1:3]
    assert some.pictures.tolist() == [[1], [2]] and some.captions == ("b", "c") and len(some) == 2


def smaller(high, wide):
    """Weights (side, pixels) of the antialiased bilinear filter: a triangle over each new pixel, its sum 1."""

    def along(pixels, side):
        scale = pixels / side
        reach = max(scale, 1.0)
        found = np.zeros((side, pixels))
        for row in range(side):
            for k in range(pixels):
                found[row, k] = max(0.0, 1 - abs(k + 0.5 - (row + 0.5) * scale) / reach)
        return found / found.sum(1, keepdims=True)

    return along(high, 4), along(wide, 4)


@pytest.mark.parametrize("purpose", ["", "test "])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", ["resized", "center"])
def test_a_step_cuts_and_mirrors_the_pictures_of_its_batch(crop, flip, purpose):
    """From the wholes where parts are cut, from the squares else; all draws of a batch are its step's."""
    random = torch.Generator().manual_seed(0)
    shapes = ((9, 14), (13, 8), (6, 6))
    whole = tuple(torch.randint(0, 256, (3, *shape), generator=random, dtype=torch.uint8) for shape in shapes)
    square = torch.randint(0, 256, (3, 3, 4, 4), generator=random, dtype=torch.uint8)
    own = ClassExamples(square, tuple("abc"), 4, Training(crop=crop, flip=flip), whole if crop == "resized" else ())
    shown = [view for epoch in range(9) for view in order(3, purpose, epoch)]
    for step in range(12):
        batch = own.batch(2, draw, step, purpose) if purpose else own.batch(2, draw, step)
        generator, index = draw(f"{purpose}cut", step), shown[2 * step : 2 * step + 2]
        assert batch.captions == tuple("abc"[k] for k in index) and batch.pictures.dtype == torch.uint8
        for found, k in zip(batch.pictures, index, strict=True):
            wanted = square[k].numpy().astype(float)
            if crop == "resized":
                top, left, high, wide = examples.random_part(*shapes[k], generator)
                rows, columns = smaller(high, wide)
                part = whole[k].numpy()[:, top : top + high, left : left + wide].astype(float)
                wanted = rows @ part @ columns.T
            if flip and float(torch.rand((), generator=generator)) < 0.5:
                wanted = wanted[:, :, ::-1]
            assert np.abs(found.numpy() - wanted).max() < 0.5 + 1e-4, "rounded, not cut off"


def test_parts_of_wholes_are_cut_of_squares_where_there_are_no_wholes():
    own = ClassExamples(torch.full((2, 3, 6, 6), 9, dtype=torch.uint8), ("a", "b"), 4, Training(crop="resized"))
    batch = own.batch(2, draw, 0)
    assert batch.pictures.shape == (2, 3, 4, 4) and (batch.pictures == 9).all()
