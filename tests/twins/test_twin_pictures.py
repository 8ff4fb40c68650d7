"""Pictures of a memory beside plain pipelines whose weights, and whose tables of words, are put together by hand."""

import numpy as np
import pytest
from conftest import planned
from plain import Plain, Word
from tape import PLAIN, taped

from perdure import method
from perdure.bases import loading
from perdure.drawing import sample

PROMPTS = ["a photo of sbu cat", "the zwz dog in snow"]


@pytest.mark.parametrize("family", ["pico", "pico_xl"])
@pytest.mark.parametrize("name", ["merge_init", "c_lora"])
def test_pictures_after_two_lessons(name, family, request):
    folder = request.getfixturevalue(family)
    tape = taped(folder, name, {"rank": 2}, PLAIN.model_copy(update={"steps": 2, "learning_rate": 0.3}))[1]
    sampling = planned(PLAIN).sampling.model_copy(update={"steps": 3, "guidance": 4.0, "images_per_prompt": 2})
    backbone = loading.load(str(folder), device="cpu")
    images = sample.images(backbone, method.get(name, {"rank": 2}), tape.memory, "cat", PROMPTS, sampling, 32)
    noise = sample.latents(backbone, 2, 32, sampling.seed)
    plain, words = Plain(folder), {}
    for token, noun in (("zwz", "dog"), ("sbu", "cat")) if name == "c_lora" else ():
        vectors = tape.memory.under(f"words/{token}")
        words[token] = Word([vectors[k] for k in sorted(vectors)], noun)
    told = plain.encode(PROMPTS, words)
    how = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 32, "width": 32, "output_type": "np"}
    if sampling.negative_prompt is not None:
        how["negative_prompt"] = sampling.negative_prompt
    moved = tape.recalled()
    for number, image in enumerate(images):
        row = number // 2
        embeds = {"prompt_embeds": told["text"][row : row + 1]}
        if "pooled" in told:
            embeds["pooled_prompt_embeds"] = told["pooled"][row : row + 1]
        (twin,) = plain.draw(moved, None, noise[number % 2][None], **embeds, **how)
        assert np.abs(np.asarray(image) / 255 - twin).max() < 1.5 / 255
        (untouched,) = plain.draw({}, None, noise[number % 2][None], **embeds, **how)
        assert np.abs(untouched - twin).max() > 3 / 255
