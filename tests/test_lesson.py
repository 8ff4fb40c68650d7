"""What a method sees of the model in the middle of a lesson, beside plain pipelines put together by hand."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from perdure import method, plan
from perdure.bases import loading
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
