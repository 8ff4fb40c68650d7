"""Families of transformers beside diffusers and peft used by hand: a training step, a picture, times."""

import inspect
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from conftest import planned
from diffusers import DiffusionPipeline, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from huggingface_hub.errors import GatedRepoError
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image

from perdure import method, plugins
from perdure.bases import loading
from perdure.errors import ModelError, PlanError, TrainingError
from perdure.lesson import examples
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.parts import neurons
from perdure.parts.adapter import lora
from perdure.photos.pictures import Picture
from perdure.plan import Prompts, Sampling, Training, catalogue, yaml_file

PROMPTS = ["a photo of zwz dog", "cat in snow"]
SAMPLING = Sampling(prompts=Prompts(subject=("{concept}",), style=("{concept}",)))


@dataclass
class Hand:
    """A family by hand: what it predicts, how its pipeline is called, and how many projections play each role."""

    said: Any
    """(pipe, noised latents, times, prompts) -> what is predicted, (b, c, h, w)."""
    roles: tuple[int, int, int]
    call: Any = lambda latents, guidance: {"latents": latents, "guidance_scale": guidance}
    target: Any = lambda latents, noise, times: noise - latents
    noised: Any = lambda latents, noise, s: (1 - s.view(-1, 1, 1, 1)) * latents + s.view(-1, 1, 1, 1) * noise


def sd3_said(pipe, noisy, s, prompts):
    text, _, pooled, _ = pipe.encode_prompt(prompts, prompts, prompts, do_classifier_free_guidance=False)
    return pipe.transformer(noisy, text, pooled, 1000 * s).sample


def flux_said(pipe, noisy, s, prompts):
    text, pooled, words = pipe.encode_prompt(prompts, prompts)
    n, _, h, w = noisy.shape
    places = pipe._prepare_latent_image_ids(n, h // 2, w // 2, "cpu", torch.float32)
    packed = pipe._pack_latents(noisy, *noisy.shape)
    said = pipe.transformer(packed, text, pooled, s, places, words, torch.ones(n)).sample
    return pipe._unpack_latents(said, h * pipe.vae_scale_factor, w * pipe.vae_scale_factor, pipe.vae_scale_factor)


def klein_said(pipe, noisy, s, prompts):
    text, words = pipe.encode_prompt(prompts)
    places = pipe._prepare_latent_ids(noisy)
    said = pipe.transformer(
        hidden_states=pipe._pack_latents(noisy), encoder_hidden_states=text, timestep=s, img_ids=places, txt_ids=words,
        guidance=torch.ones(len(s)) if pipe.transformer.config.guidance_embeds else None,
    ).sample  # fmt: skip
    return pipe._unpack_latents_with_ids(said, places)


def z_image_said(pipe, noisy, s, prompts):
    said = [
        pipe.transformer([x[:, None]], 1 - s[k : k + 1], pipe.encode_prompt(prompts[k])[0]).sample[0]
        for k, x in enumerate(noisy)
    ]
    return -torch.cat(said, dim=1).transpose(0, 1)


def pixart_said(pipe, noisy, t, prompts):
    text, mask, _, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
    told = dict.fromkeys(("resolution", "aspect_ratio"))
    if pipe.transformer.config.sample_size == 128:
        told = {"resolution": torch.full((len(noisy), 2), 32.0), "aspect_ratio": torch.ones(len(noisy), 1)}
    return pipe.transformer(noisy, text, t, told, encoder_attention_mask=mask).sample.chunk(2, dim=1)[0]


def noised_by_steps(latents, noise, t):
    kept = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000), dim=0)[t].view(-1, 1, 1, 1)
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise


PIXART = Hand(
    pixart_said, (16, 8, 4),
    lambda latents, g: {"latents": latents, "guidance_scale": g, "use_resolution_binning": False},
    lambda latents, noise, t: noise, noised_by_steps,
)  # fmt: skip
HANDS = {
    "flux": Hand(
        flux_said,
        (2 * 8 + 2 * 3, 8, 4),
        lambda latents, g: {"latents": FluxPipeline._pack_latents(latents, *latents.shape), "guidance_scale": g},
    ),
    "flux_kontext": Hand(
        flux_said,
        (2 * 8 + 2 * 3, 8, 4),
        lambda latents, g: {
            "latents": FluxPipeline._pack_latents(latents, *latents.shape),
            "guidance_scale": g,
            "max_area": 32**2,
        },
    ),
    "flux2_klein": Hand(klein_said, (2 * 8 + 2 * 2, 8, 4)),
    "flux2_dev": Hand(klein_said, (2 * 8 + 2 * 2, 8, 4)),
    "z_image": Hand(z_image_said, (16, 8, 4), lambda latents, g: {"latents": latents, "guidance_scale": g - 1}),
    "pixart_alpha": PIXART,
    "pixart_sigma": PIXART,
    "sd3": Hand(sd3_said, (3 * 8 + 3, 3 * 4 - 1, 3 * 2)),  # three blocks, of which the last gives no text back
}


@pytest.fixture(scope="module", params=HANDS)
def family(request, folders):
    """(by hand, the backbone, the plain pipeline)"""
    plain = DiffusionPipeline.from_pretrained(folders(request.param))
    plain.set_progress_bar_config(disable=True)
    for module in plain.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval()
    return HANDS[request.param], loading.load(folders(request.param), device="cpu"), plain


def shown(backbone, count=2):
    noise = np.random.default_rng(0).integers(0, 256, (count, 36, 40, 3), dtype=np.uint8)
    pictures = [Picture(Image.fromarray(pixels), PROMPTS[k % 2]) for k, pixels in enumerate(noise)]
    return examples.encode(backbone, pictures, Training(resolution=32, posterior="each_step"), 0, "dog")


def some_delta(backbone):
    draw = torch.Generator().manual_seed(3)
    pairs = {
        name: (torch.randn(2, into, generator=draw) * 0.3, torch.randn(out, 2, generator=draw) * 0.3)
        for name, (out, into) in backbone.projections("attention").items()
    }
    return pairs, Delta({name: Change.low_rank(*pair) for name, pair in pairs.items()})


def test_roles(family):
    hand, backbone, _ = family
    names = [set(backbone.projections(targets)) for targets in ("attention", "cross", "cross_kv")]
    assert tuple(map(len, names)) == hand.roles and names[2] <= names[1] <= names[0]


def test_a_training_step_is_the_one_by_hand(family):
    """Loss and gradients of a LoRA by peft on diffusers' own modules, for the noise and times that a lesson drew."""
    hand, backbone, pipe = family
    pairs, _ = some_delta(backbone)
    batch = shown(backbone).batch(backbone, 2, lambda purpose, step: torch.Generator().manual_seed(step), 0)
    weights = lora(2, "attention").weights(backbone.projections("attention"), backbone.device)
    with torch.no_grad():
        for name, pair in weights.factors.items():
            for factor, value in zip(pair, pairs[name], strict=True):
                factor.copy_(value)
    with backbone.attached(weights):
        loss = backbone.loss(batch)
        loss.backward()
    plain = {name: pipe.transformer.get_submodule(name) for name in pairs}
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=list(pairs)), pipe.transformer)
    try:
        layers = [pipe.transformer.get_submodule(name) for name in pairs]
        for layer, (a, b) in zip(layers, pairs.values(), strict=True):
            layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = a.clone(), b.clone()
        noisy = hand.noised(batch.latents, batch.noise, batch.timesteps)
        said = hand.said(pipe, noisy, batch.timesteps, list(batch.captions))
        expected = (said - hand.target(batch.latents, batch.noise, batch.timesteps)).square().mean()
        expected.backward()
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
        for layer, (a, b) in zip(layers, weights.factors.values(), strict=True):
            torch.testing.assert_close(a.grad, layer.lora_A["default"].weight.grad, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(b.grad, layer.lora_B["default"].weight.grad, atol=1e-5, rtol=1e-4)
        still = [name for name, (a, _) in weights.factors.items() if not a.grad.any()]
        assert len(still) <= 1  # the last joint block gives no text back, so that what its text asks for is not used
    finally:
        for name, layer in plain.items():
            pipe.transformer.set_submodule(name, layer)
        del pipe.transformer.peft_config


def test_a_picture_is_the_one_of_the_plain_pipeline(family, tmp_path):
    """The same latents and prompts, with the memory's change as a LoRA file that diffusers reads."""
    hand, backbone, pipe = family
    pairs, delta = some_delta(backbone)
    side = backbone.latent_side(32)
    noise = torch.randn(2, backbone.units.channels, side, side, generator=torch.Generator().manual_seed(5))
    prompts, empty = backbone.encode_prompts(PROMPTS), backbone.encode_negative(None)
    negative = {name: tensor.expand(2, *tensor.shape[1:]) for name, tensor in empty.items()}

    def ours(under):
        with backbone.laid(under):
            return backbone.decode(backbone.draw(prompts, negative, noise, 2, 3.0, "default"))

    def theirs():
        call = hand.call(noise.clone(), 3.0)
        return pipe(prompt=list(PROMPTS), height=32, width=32, num_inference_steps=2, **call).images

    letters = {"A": 0, "B": 1}
    file = {f"transformer.{n}.lora_{c}.weight": pair[k] for n, pair in pairs.items() for c, k in letters.items()}
    bare = theirs()
    with loaded(pipe, file):
        moved = theirs()
    assert distance(ours(Delta()), bare) <= 1 and distance(ours(delta), moved) <= 1
    assert distance(bare, moved) > 4


@contextmanager
def loaded(pipe, file):
    """A LoRA as diffusers loads it; of PixArt, for which it does not, B A added to the weights."""
    if hasattr(pipe, "load_lora_weights"):
        pipe.load_lora_weights(file)
        yield
        pipe.unload_lora_weights()
        return
    kept = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
    for name in {key.split(".lora_")[0] for key in file}:
        change = file[f"{name}.lora_B.weight"] @ file[f"{name}.lora_A.weight"]
        pipe.transformer.get_submodule(name.removeprefix("transformer.")).weight.data += change
    yield
    pipe.transformer.load_state_dict(kept)


def distance(some, others):
    """The largest difference of pixels, of 255."""
    arrays = [[torch.tensor(list(image.tobytes())) for image in images] for images in (some, others)]
    return max(int((a - b).abs().max()) for a, b in zip(*arrays, strict=True))


def test_latents_go_and_come_back(family):
    _, backbone, _ = family
    z = torch.randn(2, int(backbone.pipe.vae.config.latent_channels), 16, 16)
    x = backbone.units.of(z)
    side = backbone.latent_side(32)
    assert x.shape == (2, backbone.units.channels, side, side)
    torch.testing.assert_close(backbone.units.back(x), z, atol=1e-5, rtol=1e-5)
    mean, deviation = backbone.posterior(torch.rand(1, 3, 32, 32))
    assert mean.shape == deviation.shape == (1, backbone.units.channels, side, side) and deviation.min() > 0


@pytest.mark.parametrize("name", ["naive", "c_lora"])
def test_lessons_move_the_base_and_repeat_bit_for_bit(name, folders, family):
    """Two lessons, twice: memories are the same, and learn something."""
    _, backbone, _ = family
    how = planned(Training(resolution=32, steps=2, batch_size=2, learning_rate=1e-2))
    chosen = method.get(name)

    def taught():
        memory = Memory()
        for number, (concept, token) in enumerate((("dog", "zwz"), ("cat", "sbu")), start=1):
            lesson = Lesson(concept, number, shown(backbone), token, concept, f"{token} {concept}")
            memory = learn(backbone, chosen, memory, lesson, how)
        return memory

    first = taught()
    assert taught().digest == first.digest
    assert sum(float(change.matrix().norm()) for change in first.delta().values()) > 0


@pytest.mark.parametrize(("name", "encoders"), [("sd3", 3), ("flux", 2)])
def test_every_encoder_learns_words_and_t5_among_them(name, encoders, folders):
    """Gradients reach each encoder's vectors; what is encoded is what the encoders give for tables that hold them.

    In float64: in float32 the two round apart by more than the bound on some processors.
    """
    backbone = loading.load(folders(name), device="cpu")
    for encoder in backbone.vocabulary.encoders:
        encoder.double()
    draw = torch.Generator().manual_seed(0)
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in backbone.vocabulary.encoders]
    vectors = {n: torch.randn(1, w, generator=draw).double().requires_grad_() for n, w in enumerate(widths)}
    assert len(widths) == encoders
    with backbone.speaking({"zwz": lambda: method.Word(vectors, "")}):
        spoken = backbone.encode_prompts(["a photo of zwz dog"])
        sum((tensor * torch.randn(tensor.shape, generator=draw)).sum() for tensor in spoken.values()).backward()
    assert all(float(own.grad.abs().sum()) > 0 for own in vectors.values())
    pipe = DiffusionPipeline.from_pretrained(folders(name))
    for number, encoder in enumerate(("text_encoder", "text_encoder_2", "text_encoder_3")[:encoders]):
        tokenizer, table = pipe.components[encoder.replace("text_encoder", "tokenizer")], pipe.components[encoder]
        tokenizer.add_tokens(["zwz"])
        table.double().resize_token_embeddings(len(tokenizer))
        with torch.no_grad():
            table.get_input_embeddings().weight[-1] = vectors[number][0]
    theirs = pipe.encode_prompt("a photo of zwz dog", None, *([None] if name == "sd3" else []))
    torch.testing.assert_close(spoken["text"], theirs[0], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3", "flux2_klein", "z_image", "pixart_alpha"])
def test_every_method_teaches_and_is_recalled(name, folders, monkeypatch):
    """Two lessons of one step by each method: memories are finite, fit under the base and move it; they repeat.

    What is counted over many noised pictures is counted over a few.
    """
    for many in ("SAMPLES", "CALIBRATION", "NOISES"):
        monkeypatch.setattr(neurons, many, 2)
    backbone, few = loading.load(folders(name), device="cpu"), {"samples": 2}
    how = planned(Training(resolution=32, steps=1, batch_size=2, learning_rate=1e-2))
    weights = {n: tensor.clone() for n, tensor in backbone.network.state_dict().items()}

    def taught(chosen):
        memory = Memory()
        for number, (concept, token) in enumerate((("dog", "zwz"), ("cat", "sbu")), start=1):
            lesson = Lesson(concept, number, shown(backbone), token, concept, f"{token} {concept}")
            memory = learn(backbone, chosen, memory, lesson, how)
        return memory

    for own in (own for own in plugins.own(plugins.METHOD) if catalogue.card(own).needs != "classes"):
        chosen = method.get(own, few if own in ("dsc", "ewc") else {})
        if own == "custom_diffusion" and name != "pixart_alpha":
            with pytest.raises(TrainingError, match="custom_diffusion's closed form is for text features"):
                taught(chosen)
            continue
        memory = taught(chosen)
        width = max((words.shape[1] for words in memory.under("features").values()), default=1)
        recalled = chosen.consolidate.recall(memory, method.Wanted("cat", lambda: torch.ones(4, width)))  # noqa: B023
        assert all(change.matrix().isfinite().all() for change in recalled.values()), own
        with backbone.laid(recalled):
            assert set(backbone.moved()) == set(recalled)
    assert taught(method.get("ewc", few)).digest == taught(method.get("ewc", few)).digest
    assert all(torch.equal(weights[n], tensor) for n, tensor in backbone.network.state_dict().items())


@pytest.mark.parametrize("name", ["sd3", "z_image", "pixart_sigma"])
def test_a_killed_lesson_goes_on_to_the_bit(name, folders, tmp_path):
    """Words among what is trained, where the family has them."""
    backbone, chosen = loading.load(folders(name), device="cpu"), method.get("c_lora", {"rank": 2})
    how = planned(Training(resolution=32, steps=4, batch_size=2, learning_rate=1e-2, checkpoint_every=2))
    lesson = Lesson("dog", 1, shown(backbone), "zwz", "dog", "zwz dog")
    whole, path = learn(backbone, chosen, Memory(), lesson, how), tmp_path / "checkpoint.safetensors"

    def killed(done):
        if done.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(backbone, chosen, Memory(), lesson, how, killed, path)
    assert path.exists()
    assert learn(backbone, chosen, Memory(), lesson, how, checkpoint=path).digest == whole.digest


@pytest.mark.parametrize("pipeline", [
    "StableDiffusion3Pipeline", "FluxPipeline", "Flux2KleinPipeline", "Flux2Pipeline", "ZImagePipeline",
    "PixArtAlphaPipeline",
])  # fmt: skip
def test_bases_are_drawn_as_their_pipelines_do_by_default(pipeline):
    """Steps and guidance of defaults.yaml; Z-Image's guidance is its card's, counted from 1."""
    families = yaml_file.read_packaged("defaults.yaml")["families"].values()
    (own,) = [family["defaults"]["sampling"] for family in families if pipeline in family["pipelines"]]
    usual = inspect.signature(getattr(diffusers, pipeline).__call__).parameters
    assert own["steps"] == usual["num_inference_steps"].default
    assert own["guidance"] == (4.0 if pipeline == "ZImagePipeline" else usual["guidance_scale"].default)


# --- times and refusals -------------------------------------------------------------------------------------------


def flow(folders):
    return loading.load(folders("sd3"), device="cpu")


def test_times_of_flow_matching(folders):
    backbone = flow(folders)
    latents, objective = torch.zeros(4096, 16, 4, 4), backbone.objective

    def drawn(how):
        return objective.times(latents, how, torch.Generator().manual_seed(0))

    plain, moved, alike = drawn("sigmoid_normal"), drawn("default"), drawn("uniform")
    normal = torch.logit(plain)
    assert abs(float(normal.mean())) < 0.06 and abs(float(normal.std()) - 1) < 0.04
    torch.testing.assert_close(moved, 3 * plain / (1 + 2 * plain))  # the pipeline's scheduler says 3
    assert abs(float(alike.mean()) - 0.5) < 0.02 and abs(float(alike.var()) - 1 / 12) < 0.01


def test_a_dynamic_shift_is_the_one_that_pictures_are_drawn_with(folders):
    schedule = flow(folders).objective.schedule
    dynamic = type(schedule).from_config({**schedule.config, "use_dynamic_shifting": True})
    objective = type(flow(folders).objective)(dynamic, 2)
    for side in (32, 64, 128):
        tokens = (side // 2) ** 2
        mu = calculate_shift(tokens)
        s = torch.sigmoid(torch.randn(8, generator=torch.Generator().manual_seed(1)))
        times = objective.times(torch.zeros(8, 1, side, side), "default", torch.Generator().manual_seed(1))
        torch.testing.assert_close(times, dynamic.time_shift(mu, 1.0, s))
        assert math.isclose(objective.shift(tokens), math.exp(mu), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("training", "sampling", "word"),
    [
        ({"min_snr": 5.0}, {}, "training.min_snr weights the errors of a DDPM.*leave it null"),
        ({}, {"scheduler": "ddim"}, "sampling.scheduler: ddim does not fit this base; allowed: default, euler"),
        ({"resolution": 40}, {}, None),
        ({"resolution": 72}, {}, None),
        ({}, {"resolution": 24}, None),
    ],
)
def test_settings_that_have_no_meaning_are_refused(folders, training, sampling, word):
    backbone = flow(folders)
    settings = Training(**{"resolution": 32, **training}), SAMPLING.model_copy(update=sampling)
    if word is None:
        backbone.check(*settings)  # tokens of 4 pixels
    else:
        with pytest.raises(PlanError, match=word):
            backbone.check(*settings)


def test_a_gated_model_says_how_to_get_it(monkeypatch):
    refused = GatedRepoError.__new__(GatedRepoError)  # made of an answer of the hub otherwise

    def load_config(*args, **options):
        raise OSError("is not a valid model identifier") from refused

    monkeypatch.setattr(loading, "offline", lambda: False)
    monkeypatch.setattr(DiffusionPipeline, "load_config", load_config)
    with pytest.raises(ModelError, match="accept the terms on its page on the hub, then `hf auth login`"):
        loading.load("owner/gated", device="cpu")


def test_times_of_a_unet(pico):
    backbone = loading.load(str(pico), device="cpu")
    backbone.check(Training(resolution=32, times="uniform", min_snr=5.0), SAMPLING)
    with pytest.raises(PlanError, match="times: sigmoid_normal is for bases of flow matching"):
        backbone.check(Training(resolution=32, times="sigmoid_normal"), SAMPLING)


def test_a_transformer_that_is_noised_otherwise_is_refused(folders, tmp_path):
    pipe = DiffusionPipeline.from_pretrained(folders("sd3"))
    from diffusers import DDIMScheduler

    pipe.register_modules(scheduler=DDIMScheduler())
    pipe.save_pretrained(tmp_path / "odd")
    with pytest.raises(ModelError, match="is noised as DDIMScheduler says; its family is trained by flow matching"):
        loading.load(str(tmp_path / "odd"), device="cpu")


def test_sd3_without_its_third_encoder_is_loaded(folders, tmp_path):
    pipe = DiffusionPipeline.from_pretrained(folders("sd3"), text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path / "two")
    backbone = loading.load(str(tmp_path / "two"), device="cpu")
    text = backbone.encode_prompts(["a photo of zwz dog"])["text"]
    assert len(backbone.vocabulary) == 2 and not text[:, 77:].any()
