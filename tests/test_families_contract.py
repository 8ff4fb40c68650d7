"""Every family of bases keeps the same promises: perdure's own, and files that `--family FILE` names."""

from pathlib import Path

import pytest
import tiny
import torch
from diffusers import FluxPipeline

from perdure import method, plugins
from perdure.bases import families, loading
from perdure.drawing import sample
from perdure.plan import FamilyChoice, Prompts, Sampling
from perdure.plan.fields import NEW
from perdure.seeds import generator

PROMPTS = ["a photo of zwz dog", "the cat in snow"]
SAMPLING = Sampling(
    prompts=Prompts(subject=("{concept}",), style=("{concept}",)), images_per_prompt=1, steps=3, guidance=3.0
)


@pytest.fixture
def backbone(a_family, request, tmp_path):
    """A small base of the family's pipeline class."""
    source = plugins.find(plugins.FAMILY, a_family)
    pipeline = families.pipeline_of(source)
    known = {"StableDiffusionPipeline": "pico", "StableDiffusionXLPipeline": "pico_xl"}
    if not a_family.isidentifier() and request.config.getoption("--base"):
        base = Path(request.config.getoption("--base"))
    elif pipeline in known:
        base = request.getfixturevalue(known[pipeline])
    elif (own := getattr(tiny, a_family, None)) is not None:
        base = tiny.saved(own, tmp_path / "base")
    else:
        pytest.fail(f"there is no small {pipeline} in tests/tiny.py; give one: --base FOLDER")
    if not source.own:
        plugins.trust(source)
    return loading.load(str(base), device="cpu", chosen=FamilyChoice.model_validate(a_family, context=NEW))


def test_pictures_are_the_pipelines_own(backbone):
    """What is drawn from a condition is what diffusers' own pipeline draws from the prompts and the same noise.

    What a pipeline wants otherwise (packed latents, guidance counted from 0) stands in ASKED.
    """
    drawn = sample.draw_latents(backbone, PROMPTS, SAMPLING, 32)
    noise = sample.latents(backbone, 1, 32, SAMPLING.seed)
    asked = ASKED.get(type(backbone.pipe).__name__, lambda noise: {"latents": noise})(torch.cat([noise, noise]))
    expected = backbone.pipe(
        prompt=list(PROMPTS), height=32, width=32, output_type="latent", num_inference_steps=SAMPLING.steps,
        **{"guidance_scale": SAMPLING.guidance, **asked},
    ).images  # fmt: skip
    if type(backbone.pipe).__name__ in ("FluxPipeline", "FluxKontextPipeline"):
        expected = FluxPipeline._unpack_latents(expected, 32, 32, backbone.pipe.vae_scale_factor)
    if type(backbone.pipe).__name__ == "Flux2Pipeline":
        expected = backbone.pipe._unpack_latents_with_ids(expected, backbone.pipe._prepare_latent_ids(drawn))
    if type(backbone.pipe).__name__ == "Flux2KleinPipeline":
        expected = backbone.units.of(expected)
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-4)


def packed(noise):
    return {"latents": FluxPipeline._pack_latents(noise, *noise.shape)}


def unbinned(noise):
    return {"latents": noise, "use_resolution_binning": False}


ASKED = {
    "FluxPipeline": packed,
    "FluxKontextPipeline": lambda noise: {**packed(noise), "max_area": 32**2},
    "ZImagePipeline": lambda noise: {"latents": noise, "guidance_scale": SAMPLING.guidance - 1},
    "PixArtAlphaPipeline": unbinned,
    "PixArtSigmaPipeline": unbinned,
}


def test_each_row_by_itself(backbone):
    """A prompt's condition is the same whatever prompts stand beside it; every tensor has a row for each."""
    together = backbone.encode_prompts(PROMPTS)
    assert together["text"].ndim == 3
    for row, prompt in enumerate(PROMPTS):
        for name, tensor in backbone.encode_prompts([prompt]).items():
            torch.testing.assert_close(together[name][row : row + 1], tensor, atol=1e-5, rtol=1e-4)
    if backbone.family.negative:
        negative = backbone.encode_negative(None)
        assert {n: t.shape[1:] for n, t in negative.items()} == {n: t.shape[1:] for n, t in together.items()}


def test_the_network_takes_it(backbone):
    """A noised batch of two pictures of different sizes and crops is predicted, and the prompts are read."""
    latents = sample.latents(backbone, 2, 32, seed=1)
    condition = backbone.family.sized(backbone.encode_prompts(PROMPTS), [(40, 30, 4, 0), (32, 32, 0, 0)], (32, 32))
    assert all(len(tensor) == 2 for tensor in condition.values())
    batch = backbone.noised(latents, condition, PROMPTS, generator(0, "noise"), "default")
    predicted = backbone.predict(batch)
    assert predicted.shape == latents.shape and predicted.isfinite().all()
    assert not torch.equal(backbone.predict(backbone.reworded(batch, PROMPTS[::-1])), predicted)


def test_a_lesson_is_learnt(backbone, taught):
    memory = taught(method.get("merge_init", {"rank": 2}), 1)
    before = sample.draw_latents(backbone, PROMPTS, SAMPLING, 32)
    with backbone.laid(memory.delta()):
        after = sample.draw_latents(backbone, PROMPTS, SAMPLING, 32)
    assert len(memory.delta()) and not torch.allclose(before, after)
