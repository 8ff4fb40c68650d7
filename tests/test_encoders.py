"""Text encoders that make room: the same bits in lessons and pictures, and nothing of them in memory meanwhile."""

import gc
import weakref

import pytest
import torch
from test_families import shown

from perdure import method, plan
from perdure.bases import loading
from perdure.bases.words import words_of
from perdure.drawing import sample
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory


@pytest.mark.parametrize("name", ["sd3", "flux", "flux2_klein", "z_image", "pixart_alpha"])
def test_dropped_encoders_change_no_bit(name, folders):
    data = {"base": folders(name), "methods": ["merge_init"], "training": {
        "resolution": 32, "steps": 2, "batch_size": 2, "learning_rate": 1e-2, "precision": "fp32",
    }}  # fmt: skip
    found = []
    for how in ("keep", "drop"):
        made = plan.build({**data, "training": {**data["training"], "text_encoders": how}})
        backbone, memory = loading.of(made, "cpu"), Memory()
        alive = weakref.ref(backbone.pipe.text_encoder)

        def gone(done, alive=alive):
            gc.collect()
            assert alive() is None

        for number, (concept, token) in enumerate((("dog", "zwz"), ("cat", "sbu")), start=1):
            lesson = Lesson(concept, number, shown(backbone), token, concept, f"{token} {concept}")
            watch = gone if how == "drop" and number == 1 else lambda done: None
            memory = learn(backbone, method.get("merge_init", {"rank": 2}), memory, lesson, made, watch)
        sampling = made.sampling.model_copy(update={"steps": 2, "images_per_prompt": 1})
        with backbone.laid(memory.delta()):
            drawn = [
                sample.draw_latents(backbone, prompts, sampling, 32) for prompts in (["a zwz dog"], ["a sbu cat"]) * 2
            ]
        assert (backbone.pipe.text_encoder is None) == (how == "drop")  # also what the last prompts had brought back
        found.append((memory.digest, torch.cat(drawn)))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_words_keep_their_encoders(folders):
    """While words are learnt the encoders stay, and they learn."""
    made = plan.build({"base": folders("sd3"), "methods": ["c_lora"], "training": {
        "resolution": 32, "steps": 2, "batch_size": 2, "learning_rate": 1e-2, "precision": "fp32",
        "text_encoders": "drop",
    }})  # fmt: skip
    backbone = loading.of(made, "cpu")
    backbone.encode_prompts(["a photo"])
    backbone.encoders.drop()
    assert backbone.pipe.text_encoder is None and backbone.pipe.text_encoder_3 is None
    lesson = Lesson("dog", 1, shown(backbone), "zwz", "dog", "zwz dog")
    memory = learn(backbone, method.get("c_lora", {"rank": 2}), Memory(), lesson, made)
    assert len(words_of(memory)["zwz"].vectors) == 3
