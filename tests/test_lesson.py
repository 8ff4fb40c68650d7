"""What a method sees of the model in the middle of a lesson, beside plain pipelines put together by hand."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from perdure import method, plan
from perdure.bases import loading
from perdure.errors import TrainingError
from perdure.lesson import examples
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Protection
from perdure.photos import pictures
from perdure.seeds import generator

METHODS = ["naive", "merge_init", "l2", "independent"]
"""One for each way in which the past can lie under a lesson: in its adapter, below it, in its entries, not at all."""


@pytest.fixture(scope="module")
def backbone(pico):
    return loading.load(str(pico), device="cpu")


def plain(pico, delta):
    """The pipeline as diffusers loads it, base + delta written into its weights."""
    pipe = StableDiffusionPipeline.from_pretrained(pico)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        for name, change in delta.items():
            layer = pipe.unet.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            pairs = sum(b.double() @ a.double() for a, b in change.pairs)
            layer.weight.copy_(layer.weight + (pairs if change.dense is None else change.dense))
    return pipe


def lessons(backbone, made, chosen, watch):
    """Three lessons; in each, `watch(context, memory)` is asked before the first step, as a guard is."""
    memory = Memory()
    for number, concept in enumerate(made.concepts, start=1):

        def guard(adapter, past, context, own=chosen.guard):
            protection = own(adapter, past, context)

            def begin(step):
                if protection.begin is not None:
                    protection.begin(step)
                if step == 2:
                    watch(context, past)

            return Protection(begin, protection.penalties, protection.project)

        encoded = examples.encode(backbone, pictures.of(concept).training, made.training, made.seed, concept.name)
        lesson = Lesson(concept.name, number, encoded, concept.token, concept.noun, concept.phrase)
        memory = learn(backbone, replace(chosen, guard=guard), memory, lesson, made)


@pytest.mark.parametrize("name", METHODS)
def test_the_model_before_this_lesson_is_the_base_and_the_past(name, pico, backbone, plan_data):
    """In every lesson, whatever is laid and attached: before is base + past, under(nothing) is the base."""
    made, chosen, seen = plan.build(plan_data), method.get(name), []

    def watch(context, memory):
        model = context.model
        batch = model.batches("test", 1, 2)[0]
        past = chosen.consolidate.recall(memory, method.Wanted(context.concept))
        noisy = backbone.objective.noised(batch.latents, batch.noise, batch.timesteps)
        for predicted, delta in ((model.before(batch), past), (model.under(Delta(), batch), Delta())):
            unet = plain(pico, delta).unet
            with torch.no_grad():
                expected = unet(noisy, batch.timesteps, batch.condition["text"]).sample
            torch.testing.assert_close(predicted, expected, atol=1e-5, rtol=1e-4)
        for projection in list(past)[::5]:
            with model.laid(past):
                together = plain(pico, past).unet.get_submodule(projection).weight
                torch.testing.assert_close(model.weight(projection), together, atol=1e-6, rtol=1e-5)
        seen.append(len(past))

    lessons(backbone, made, chosen, watch)
    assert len(seen) == 3 and seen[0] == 0 and (name == "independent" or seen[2])


@pytest.mark.parametrize("name", ["naive", "merge_init", "magmax_full"])
def test_pictures_of_the_past_are_drawn_by_the_base_and_the_past(name, pico, backbone, plan_data):
    made, chosen, seen = plan.build(plan_data), method.get(name), []

    def watch(context, memory):
        drawn = context.model.draw(["a photo of zwz dog"], 2)
        seed = context.model.random("replay").initial_seed() % 2**32
        noise = torch.stack([torch.randn(4, 16, 16, generator=generator(seed, "latent", k)) for k in range(2)])
        pipe = plain(pico, chosen.consolidate.recall(memory, method.Wanted(context.concept)))
        expected = pipe(
            prompt=["a photo of zwz dog"] * 2, latents=noise, height=32, width=32, output_type="latent",
            guidance_scale=made.sampling.guidance, num_inference_steps=made.sampling.steps,
        ).images  # fmt: skip
        torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-4)
        seen.append(drawn)

    lessons(backbone, made, chosen, watch)
    assert len(seen) == 3 and not torch.allclose(seen[1], seen[2])


def test_noise_is_timed_as_the_plan_says_wherever_a_lesson_draws_it(backbone, plan_data, monkeypatch):
    """The step's own batch and what is rehearsed beside it, batches for a method, other images, calibration."""
    how = plan.Training(**{**plan_data["training"], "steps": 1, "prior": plan.Prior(images=2), "times": "uniform"})
    made = plan.build(plan_data).model_copy(update={"training": how})
    encoded = examples.encode(backbone, pictures.of(made.concepts[0]).training, how, 0, "dog")
    asked, real = [], backbone.noised

    def noised(latents, condition, captions, generator, times="default"):
        asked.append(times)
        return real(latents, condition, captions, generator, times)

    monkeypatch.setattr(backbone, "noised", noised)
    counts = []

    def guard(adapter, memory, context):
        model = context.model
        calls = {
            "batches": lambda: model.batches("mine", 3, 2),
            "batch_of": lambda: model.batch_of(model.latents[:2], ["a", "b"], "mine", 0),
            "general": lambda: model.general(2, 2),
        }
        for call in calls.values():
            before = len(asked)
            call()
            counts.append(len(asked) - before)
        return Protection()

    lesson = Lesson("dog", 1, encoded, "zwz", "dog", "zwz dog", prior=encoded)
    learn(backbone, replace(method.get("naive", {"rank": 2}), guard=guard), Memory(), lesson, made)
    assert counts == [3, 1, 4] and len(asked) == 3 + 1 + 4 + 2 and set(asked) == {"uniform"}


def test_calibration_prompts_are_spread_and_each_has_copies_of_its_own_noise(backbone, plan_data):
    made, seen = plan.build(plan_data), {}
    encoded = examples.encode(backbone, pictures.of(made.concepts[0]).training, made.training, 0, "dog")

    def guard(adapter, memory, context):
        model = context.model
        seen["batches"], seen["prompts"] = model.general(3, 2), list(model.calibration)
        seen["drawn"] = model.draw([seen["prompts"][k * (len(model.calibration) // 3)] for k in range(3)], 1)
        seen["noise"] = [
            torch.randn(1, *model.latents.shape[1:], generator=context.generator("calibration noise", number))
            for number in range(6)
        ]
        with pytest.raises(TrainingError, match=r"^method 'naive' asks for classes, which only a classifier has$"):
            model.embedded()
        return Protection()

    chosen = replace(method.get("naive", {"rank": 2}), guard=guard)
    made = made.model_copy(update={"methods": plan.build({**plan_data, "methods": ["naive"]}).methods})
    learn(backbone, chosen, Memory(), Lesson("dog", 1, encoded, "zwz", "dog", "zwz dog"), made)
    each = len(seen["prompts"]) // 3
    assert [[b.captions for b in copies] for copies in seen["batches"]] == [
        [(seen["prompts"][k * each],)] * 2 for k in range(3)
    ]
    for number, batch in enumerate(b for copies in seen["batches"] for b in copies):
        assert torch.equal(batch.noise, seen["noise"][number])
        torch.testing.assert_close(batch.latents[0], seen["drawn"][number // 2])
