"""Text encoders that make room: the same bits in lessons and pictures, and nothing of them in memory meanwhile."""

import gc
import weakref

import pytest
import torch
from test_families import shown

from perdure import method, plan
from perdure.bases import encoders, loading
from perdure.bases.words import words_of
from perdure.drawing import sample
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.method import Word


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


def test_what_was_read_lately_is_not_read_again(pico_xl, monkeypatch):
    """The same bits without the encoders; the oldest make room; a prompt with a learnt word is read each time."""
    backbone = loading.of(plan.build({"base": str(pico_xl), "methods": ["naive"]}), "cpu")
    asked, encoder = [], backbone.pipe.text_encoder
    encoder.register_forward_pre_hook(lambda *given: asked.append(1))
    own = {"text": [], "pooled": []}
    for prompts in (["a photo"], ["a dog", "a cat"]):
        for name, tensor in backbone.encode_prompts(prompts).items():
            own[name].append(tensor.clone())
    assert len(asked) == 2
    again = [backbone.encode_prompts(prompts) for prompts in (["a photo"], ["a dog", "a cat"])]
    assert len(asked) == 2
    assert all(torch.equal(again[k][name], own[name][k]) for name in own for k in (0, 1))
    backbone.encode_prompts(["a cat", "a dog"])
    assert len(asked) == 3
    word = Word({0: torch.ones(1, 24), 1: torch.ones(1, 16)}, "")
    with backbone.speaking({"zwz": lambda: word}):
        for times in (4, 5):
            backbone.encode_prompts(["a photo"])
            assert len(asked) == times
    monkeypatch.setattr(encoders, "KEPT", 1 + sum(tensor.nbytes for tensor in again[0].values()))  # one prompt's
    for prompt, times in (("a house", 6), ("a house", 6), ("a photo", 7), ("a house", 8), ("a house", 8)):
        backbone.encode_prompts([prompt])
        assert len(asked) == times
