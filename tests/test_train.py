"""One lesson: the loop, its schedule, its batches, and going on after a stop."""

import math
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import planned
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from perdure import method, seeds
from perdure.bases import loading
from perdure.errors import TrainingError
from perdure.lesson import examples
from perdure.lesson.examples import Examples
from perdure.lesson.optimizing import learning_rate, steps_done
from perdure.lesson.train import Done, Lesson, learn
from perdure.memory import Memory
from perdure.method import Protection
from perdure.parts.guard import every, nothing
from perdure.photos.pictures import Picture
from perdure.plan import Performance, Prior, Training


@pytest.fixture(scope="module")
def backbone(pico):
    return loading.load(str(pico), device="cpu")


def training(**changes):
    return Training(**{"resolution": 32, "steps": 6, "batch_size": 2, "learning_rate": 1e-2, **changes})


def pictures(count=3, seed=0, size=(40, 32)):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, size[1], size[0], 3), dtype=np.uint8)
    return [
        Picture(Image.fromarray(pixels), f"a photo of zwz {word}")
        for pixels, word in zip(noise, "dog cat clock".split(), strict=False)
    ]


@pytest.fixture(scope="module")
def lesson(backbone):
    return Lesson("dog", 1, examples.encode(backbone, pictures(), training(), 0, "dog"))


NAIVE = method.get("naive", {"rank": 2})


# --- the published protocol, to the letter ---------------------------------------------------------------------------


def test_latents_drawn_at_each_step_are_the_posterior_sampled_anew(pico, backbone):
    """Beside the autoencoder of diffusers: over many steps each example has its mean and its deviation."""
    vae = AutoencoderKL.from_pretrained(pico, subfolder="vae")
    how = training(posterior="each_step", resize="bilinear")
    encoded = examples.encode(backbone, pictures(), how, 0, "dog")
    small = pictures()[1].image.resize((40, 32), Image.Resampling.BILINEAR).crop((4, 0, 36, 32))
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        own = vae.encode(pixels).latent_dist
    draw = partial(seeds.generator, 0, "dog")
    batches = [encoded.batch(backbone, 3, draw, step) for step in range(400)]
    where = [next(row for row in range(3) if b.captions[row].endswith("cat")) for b in batches]
    drawn = torch.stack([b.latents[row] for b, row in zip(batches, where, strict=True)])
    scale = vae.config.scaling_factor
    torch.testing.assert_close(encoded.latents[1:2], own.mean * scale, atol=1e-5, rtol=1e-4)
    away = (drawn - own.mean * scale) / (own.std * scale)
    assert abs(float(away.mean())) < 0.01 and abs(float(away.std()) - 1) < 0.01
    again = encoded.batch(backbone, 3, draw, 7)
    assert torch.equal(again.latents, batches[7].latents) and torch.equal(again.noise, batches[7].noise)


def test_images_are_made_smaller_by_the_filter_of_the_plan(backbone):
    large = [Picture(p.image.resize((90, 70), Image.Resampling.NEAREST), p.caption) for p in pictures()]
    latents = [examples.encode(backbone, large, training(resize=r), 0, "dog").latents for r in ("lanczos", "bilinear")]
    assert not torch.allclose(*latents)


def test_8_bit_adamw_goes_on_after_a_stop(backbone, lesson, tmp_path):
    """Steps up to a stop and the rest have the bits of a lesson that ran through; its moments really are bytes."""
    pytest.importorskip("bitsandbytes.optim", reason="bitsandbytes is not installed")
    how = training(optimizer="adamw_8bit", checkpoint_every=2)
    chosen, path = method.get("merge_init", {"rank": 128}), tmp_path / "checkpoint.safetensors"
    whole = learn(backbone, chosen, Memory(), lesson, planned(how))

    def watch(done):
        if done.step == 5:
            raise Stop

    with pytest.raises(Stop):
        learn(backbone, chosen, Memory(), lesson, planned(how), watch, path)
    assert steps_done(path) == 4
    assert learn(backbone, chosen, Memory(), lesson, planned(how), checkpoint=path).digest == whole.digest
    assert torch.uint8 in {tensor.dtype for name, tensor in load_file(path).items() if name.endswith("state1")}
    assert learn(backbone, chosen, Memory(), lesson, planned(training())).digest != whole.digest


def test_8_bit_adamw_without_its_library_is_refused(backbone, lesson, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(TrainingError, match="pip install"):
        learn(backbone, NAIVE, Memory(), lesson, planned(training(optimizer="adamw_8bit")))


# --- the loop ------------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("name", ["merge_init", "merge_ortho"])
def test_n_steps_are_k_steps_and_the_rest(backbone, lesson, tmp_path, stop, name):
    """A lesson that goes on from its checkpoint gives the bits of one that ran through, schedule and all."""
    chosen, path = method.get(name, {"rank": 2}), tmp_path / "checkpoint.safetensors"
    how = training(checkpoint_every=2, schedule="cosine", warmup=2)
    seen: list[tuple[int, float]] = []
    whole = learn(backbone, chosen, Memory(), lesson, planned(how), lambda done: seen.append((done.step, done.loss)))

    def watch(done):
        if done.step == stop:
            raise Stop

    with pytest.raises(Stop):
        learn(backbone, chosen, Memory(), lesson, planned(how), watch, path)
    done = steps_done(path)
    assert done == (stop - 1) // 2 * 2  # the stop comes before the step's own checkpoint
    again: list[tuple[int, float]] = []
    torch.rand(7)  # the global generator's state must not matter
    rest = learn(backbone, chosen, Memory(), lesson, planned(how), lambda d: again.append((d.step, d.loss)), path)
    assert rest.digest == whole.digest
    assert again == seen[done:]


def test_a_lesson_saved_by_the_clock_goes_on_with_the_same_bits(backbone, lesson, tmp_path):
    path, how = tmp_path / "checkpoint.safetensors", planned(training(schedule="cosine"))
    always = how.model_copy(update={"performance": Performance(checkpoint_seconds=1e-9)})
    whole = learn(backbone, NAIVE, Memory(), lesson, how)

    def watch(done):
        if done.step == 4:
            raise Stop

    with pytest.raises(Stop):
        learn(backbone, NAIVE, Memory(), lesson, always, watch, path)
    assert steps_done(path) == 3 and always.fingerprint() == how.fingerprint()
    assert learn(backbone, NAIVE, Memory(), lesson, always, checkpoint=path).digest == whole.digest


def test_no_checkpoint_unless_asked_for(backbone, lesson, tmp_path):
    learn(backbone, NAIVE, Memory(), lesson, planned(training()), checkpoint=tmp_path / "c.safetensors")
    assert list(tmp_path.iterdir()) == [] and steps_done(tmp_path / "c.safetensors") == 0


def test_the_global_generator_is_left_alone(backbone, lesson):
    before = torch.get_rng_state()
    learn(backbone, NAIVE, Memory(), lesson, planned(training(steps=1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_learning_lowers_the_loss(backbone, lesson):
    def loss():
        generator = torch.Generator().manual_seed(1)
        batches = [lesson.examples.batch(backbone, 3, lambda purpose, step: generator, 0) for _ in range(8)]
        with torch.no_grad():
            return float(sum(backbone.loss(batch) for batch in batches) / 8)

    before = loss()
    memory = learn(backbone, NAIVE, Memory(), lesson, planned(training(steps=60, batch_size=3)))
    with backbone.laid(memory.delta()):
        after = loss()
    assert after < 0.97 * before
    assert loss() == before  # nothing of the lesson is left in the base


def test_more_steps_carry_further(backbone, lesson):
    sizes = [learn(backbone, NAIVE, Memory(), lesson, planned(training(steps=n))).delta() for n in (1, 4)]
    norms = [sum(float(change.matrix().norm()) for change in delta.values()) for delta in sizes]
    assert 0 < norms[0] < norms[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_lesson(backbone, lesson, monkeypatch, bad):
    memory = learn(backbone, NAIVE, Memory(), lesson, planned(training(steps=1)))
    digest, real, calls = memory.digest, backbone.error, []

    def error(batch, predicted, min_snr):
        calls.append(1)
        return real(batch, predicted, min_snr) * (bad if len(calls) == 3 else 1)

    monkeypatch.setattr(backbone, "error", error)
    with pytest.raises(
        TrainingError, match=r"lesson 1 \(dog\) diverged: the loss is (nan|inf) at step 3; the memory is as it was"
    ):
        learn(backbone, NAIVE, memory, lesson, planned(training()))
    assert memory.digest == digest
    assert not any("lora" in name for name, _ in backbone.network.named_parameters())


def test_an_update_that_is_not_finite_is_not_remembered(backbone, lesson):
    reckless = training(steps=1).model_copy(update={"learning_rate": math.inf})
    with pytest.raises(TrainingError, match=r"diverged: A of \S+ is not finite after step 1; the memory is as it was"):
        learn(backbone, NAIVE, Memory(), lesson, planned(reckless))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_names_its_weight(backbone, lesson, bad):
    """Before anything moves by it; clipping would have spoilt all the others with it."""
    held = []

    def guard(adapter, memory, context):
        held.extend(adapter.parameters())

        def project():
            if len(steps) == 1:
                held[5].grad[0, 0] = bad

        return Protection(project=project)

    steps: list[int] = []
    chosen = replace(NAIVE, guard=guard)
    with pytest.raises(TrainingError) as caught:
        learn(backbone, chosen, Memory(), lesson, planned(training()), lambda done: steps.append(done.step))
    name = list(backbone.projections("attention"))[2]  # pairs A, B
    assert f"the gradient of B of {name} is not finite or too large at step 2" in str(caught.value)
    assert all(parameter.isfinite().all() for parameter in held)


def test_a_weight_that_is_not_finite_is_named_before_the_loss_it_spoils(backbone, lesson):
    held = []

    def guard(adapter, memory, context):
        held.extend(adapter.parameters())
        return Protection()

    def spoil(done):
        if done.step == 2:
            held[0].data[0, 0] = math.nan

    with pytest.raises(TrainingError, match=r"diverged: A of \S+ is not finite after step 2;"):
        learn(backbone, replace(NAIVE, guard=guard), Memory(), lesson, planned(training(steps=9)), spoil)


def test_a_real_divergence_is_noticed(backbone, lesson):
    with pytest.raises(TrainingError, match=r"smaller training\.learning_rate"):
        learn(backbone, NAIVE, Memory(), lesson, planned(training(learning_rate=1e25, steps=20)))


def test_guards_are_heard(backbone, lesson):
    """A penalty adds to the loss; a projection has the last word on gradients."""
    losses: list[float] = []

    def watch(done):
        losses.append(done.loss)

    def strict(adapter, memory, context):
        def project():
            for parameter in adapter.parameters():
                parameter.grad.zero_()

        return Protection(project=project)

    def dear(adapter, memory, context):
        return Protection(penalties={"five": lambda step: torch.tensor(5.0)})

    for guard in (nothing, dear, strict):
        chosen = replace(method.get("merge_init", {"rank": 2}), guard=guard)
        memory = learn(backbone, chosen, Memory(), lesson, planned(training(steps=1, weight_decay=0)), watch)
        moved = any(float(change.matrix().abs().max()) > 0 for change in memory.delta().values())
        assert moved == (guard is not strict)
    assert losses[1] == pytest.approx(losses[0] + 5) and losses[2] == losses[0]


def test_what_a_loss_is_the_sum_of_is_told_apart(backbone, lesson):
    """The denoising loss and each penalty under its name, also where guards are put together or called alike."""

    def priced(name, price):
        return lambda adapter, memory, context: Protection(penalties={name: lambda step: torch.tensor(price)})

    seen: dict[str, Done] = {}
    for label, guard in {"free": nothing, "dear": every(priced("dear", 5.0), every(priced("dear", 0.25)))}.items():
        chosen = replace(method.get("merge_init", {"rank": 2}), guard=guard)
        learn(backbone, chosen, Memory(), lesson, planned(training(steps=1)), lambda d, at=label: seen.update({at: d}))
    assert seen["free"].parts == {"denoising": seen["free"].loss}
    assert seen["dear"].parts == {"denoising": seen["free"].loss, "dear": 5.0, "dear 2": 0.25}
    assert seen["dear"].loss == pytest.approx(seen["free"].loss + 5.25)


def test_nothing_of_a_lesson_stays_with_the_accelerator(backbone, lesson):
    learn(backbone, NAIVE, Memory(), lesson, planned(training(steps=1)))
    assert backbone.accelerator._optimizers == []


# --- schedule ------------------------------------------------------------------------------------------------------


def test_constant_and_warmup():
    assert [learning_rate(training(), step) for step in (0, 5)] == [1e-2, 1e-2]
    warm = training(warmup=4)
    assert [learning_rate(warm, step) for step in range(6)] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_cosine():
    how = training(schedule="cosine", steps=12, warmup=2)
    rates = [learning_rate(how, step) for step in range(12)]
    assert rates[1] == rates[2] == 1e-2 and rates[7] == pytest.approx(0.5e-2)
    assert rates[2:] == sorted(rates[2:], reverse=True) and 0 < rates[-1] < 0.03 * 1e-2
    assert learning_rate(training(schedule="cosine", steps=2, warmup=5), 1) == pytest.approx(0.4e-2)


def test_rates_reach_the_optimizer(backbone, lesson, monkeypatch):
    used = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a, **k: used.append(self.param_groups[0]["lr"]) or real(self, *a, **k)
    )
    how = training(schedule="cosine", warmup=2, steps=5)
    learn(backbone, NAIVE, Memory(), lesson, planned(how))
    assert used == [learning_rate(how, step) for step in range(5)]


# --- batches and seeds ---------------------------------------------------------------------------------------------


def numbered(count):
    """Examples whose latents are their own number."""
    latents = torch.arange(float(count)).reshape(count, 1, 1, 1).expand(count, 4, 2, 2)
    return Examples(latents, {"text": torch.zeros(count, 1)}, ("",) * count)


@pytest.mark.parametrize(("count", "size"), [(6, 2), (5, 2), (3, 4), (1, 3)])
def test_every_view_once_an_epoch(backbone, count, size):
    draw = lambda purpose, step: seeds.generator(0, "dog", purpose, step)  # noqa: E731
    shown = [
        int(row[0, 0, 0]) for step in range(15) for row in numbered(count).batch(backbone, size, draw, step).latents
    ]
    epochs = [shown[start : start + count] for start in range(0, len(shown) - count + 1, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert count < 5 or len({tuple(epoch) for epoch in epochs}) > 1  # in another order each time


def drawn(backbone, monkeypatch, lesson, how, seed=0):
    """What a lesson draws: the start of the adapter, and each batch's noise and timesteps."""
    batches, real = [], backbone.error
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "error", lambda batch, *rest: batches.append(batch) or real(batch, *rest))
        memory = learn(backbone, method.get("merge_init", {"rank": 2}), Memory(), lesson, planned(how, seed))
    noise = torch.stack([torch.cat([batch.noise.flatten(), batch.timesteps.float()]) for batch in batches])
    return noise, memory


def test_seeds_belong_to_the_lesson_or_to_all(backbone, lesson, monkeypatch):
    other = replace(lesson, concept="cat", number=2)
    for own, same in ((True, False), (False, True)):
        how = training(steps=3, seed_per_lesson=own)
        (one, memory), (two, again) = (drawn(backbone, monkeypatch, which, how) for which in (lesson, other))
        assert torch.equal(one, two) == same and (memory.digest == again.digest) == same
        assert not torch.equal(one[0], one[1])  # each step draws anew
    assert not torch.equal(drawn(backbone, monkeypatch, lesson, training(steps=1), seed=1)[0], one[:1])
    reset, free = training(seed_per_lesson=False, crop="random"), training(crop="random")
    for how, same in ((reset, True), (free, False)):
        encoded = [examples.encode(backbone, pictures(), how, 0, owner).latents for owner in ("dog", "cat")]
        assert torch.equal(*encoded) == same


def test_prior_preservation_adds_its_own_loss(backbone, lesson, monkeypatch):
    prior = examples.encode(backbone, pictures(2, seed=5), training(), 0, "prior")
    how = training(prior=Prior(images=2, weight=0.5), min_snr=5.0)
    draw = lambda *owner: seeds.generator(0, "dog", *owner)  # noqa: E731
    first: list[float] = []
    for todo in (lesson, replace(lesson, prior=prior)):
        seen: list[float] = []
        learn(backbone, NAIVE, Memory(), todo, planned(how), lambda done, seen=seen: seen.append(done.loss))
        first.append(seen[0])
    beside = backbone.loss(prior.batch(backbone, how.batch_size, draw, 0, purpose="prior "), 5.0).item()
    assert first[1] == pytest.approx(first[0] + 0.5 * beside)
    batch = lesson.examples.batch(backbone, 2, draw, 3)
    assert not torch.equal(batch.noise, prior.batch(backbone, 2, draw, 3, purpose="prior ").noise)


# --- encoding ------------------------------------------------------------------------------------------------------


def test_views_and_mirrors_are_encoded_with_their_captions(backbone):
    shown = pictures()
    plain = examples.encode(backbone, shown, training(), 0, "dog")
    assert len(plain) == 3 and plain.latents.shape == (3, 4, 16, 16) and plain.latents.dtype == torch.float32
    many = examples.encode(backbone, shown, training(views=3, flip=True), 0, "dog")
    assert len(many) == 18 and len(many.condition["text"]) == 18
    texts = Counter(tuple(row.flatten().tolist()) for row in many.condition["text"])
    assert sorted(texts.values()) == [6, 6, 6]
    torch.testing.assert_close(many.condition["text"][::6], plain.condition["text"])
    again = examples.encode(backbone, shown, training(views=3, flip=True), 0, "dog")
    assert torch.equal(many.latents, again.latents)


def test_a_picture_is_encoded_alike_in_any_company(backbone):
    """Crops belong to (concept, picture, view): another picture in the lesson does not move them."""
    how = training(crop="random", views=2)
    three, two = (examples.encode(backbone, pictures()[:count], how, 0, "dog") for count in (3, 2))
    torch.testing.assert_close(three.latents[:4], two.latents)


def test_together(backbone, lesson):
    both = examples.together([lesson.examples, lesson.examples])
    assert len(both) == 6 and torch.equal(both.latents[3:], lesson.examples.latents)
    assert len(both.condition["text"]) == 6
