"""The wrapper around the frozen pipelines, on pico models of the real classes."""

import json
import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import planned
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch import nn

from perdure import method
from perdure.bases import loading
from perdure.bases.batch import Batch, rows
from perdure.bases.families import sdxl, stable_diffusion
from perdure.bases.laying import Laying
from perdure.bases.objective import Diffusion
from perdure.drawing import sample
from perdure.errors import ModelError, TrainingError
from perdure.lesson import examples, train
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.parts.adapter import lora
from perdure.photos.pictures import Picture
from perdure.plan import Prompts, Sampling, Training

SAMPLING = Sampling(
    prompts=Prompts(subject=("{concept}",), style=("{concept}",)),
    images_per_prompt=2,
    steps=3,
    guidance=3.0,
    batch_size=4,
)


@pytest.fixture(scope="module")
def sd(pico):
    return loading.load(str(pico), device="cpu")


@pytest.fixture(scope="module")
def sd_v(pico_v):
    return loading.load(str(pico_v), device="cpu")


@pytest.fixture(scope="module")
def xl(pico_xl):
    return loading.load(str(pico_xl), device="cpu")


@pytest.fixture(params=["sd", "sd_v", "xl"])
def backbone(request):
    return request.getfixturevalue(request.param)


def encoded(backbone):
    shown = [
        Picture(Image.new("RGB", (40, 36), (40 * k, 90, 200 - 40 * k)), f"a photo of zwz {w}")
        for k, w in enumerate(("dog", "cat", "in"))
    ]
    return examples.encode(backbone, shown, Training(resolution=32), 0, "dog")


def batch_of(backbone, index=(0, 1, 2), timesteps=(3, 40, 97)):
    shown = encoded(backbone)
    noise = torch.randn(3, *shown.latents.shape[1:], generator=torch.Generator().manual_seed(1))
    index = list(index)
    return Batch(shown.latents[index], noise[index], torch.tensor(timesteps)[index], rows(shown.condition, index))


def some_delta(backbone, scale=0.3, targets="attention"):
    generator = torch.Generator().manual_seed(3)

    def factor(*shape):
        return torch.randn(*shape, generator=generator) * scale

    shapes = backbone.projections(targets)
    return Delta({name: Change.low_rank(factor(2, into), factor(out, 2)) for name, (out, into) in shapes.items()})


def pixels(images):
    return [image.tobytes() for image in images]


def draw(backbone, prompts=("a photo of zwz dog", "a photo of the cat"), **changes):
    return pixels(sample.draw(backbone, prompts, SAMPLING.model_copy(update=changes), 32))


# --- targets -------------------------------------------------------------------------------------------------------


def test_targets(backbone):
    """Three attention blocks, each with self- and cross-attention: q, k, v, out of all; k, v of the latter."""
    every, cross = backbone.projections("attention"), backbone.projections("cross_kv")
    attentions = {name.rsplit(".attn", 1)[0] for name in every}
    assert len(every) == 8 * len(attentions) and len(cross) == 2 * len(attentions) and cross.items() <= every.items()
    assert len(attentions) == sum(1 for name, _ in backbone.network.named_modules() if name.endswith("attn1"))
    width = backbone.pipe.unet.config.cross_attention_dim
    assert all(".attn2.to_k" in name or ".attn2.to_v" in name for name in cross)
    assert {into for _, into in cross.values()} == {width}
    for name, shape in every.items():
        assert name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))
        assert tuple(backbone.network.get_parameter(f"{name}.weight").shape) == shape


def test_targets_that_a_base_does_not_have_are_named(pico, tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(pico)
    plain = {"down_block_types": ("DownBlock2D",) * 2, "mid_block_type": None, "up_block_types": ("UpBlock2D",) * 2}
    pipe.unet = UNet2DConditionModel.from_config({**pipe.unet.config, **plain})
    pipe.save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="targets: attention is nothing in this base"):
        loading.load(str(tmp_path / "bare"), device="cpu").projections("attention")


def test_everything_is_frozen_and_in_evaluation_mode(backbone):
    for module in (backbone.network, backbone.pipe.vae, backbone.pipe.text_encoder):
        assert not module.training and not any(p.requires_grad for p in module.parameters())


# --- laid ----------------------------------------------------------------------------------------------------------


def parameters(backbone):
    return dict(backbone.network.named_parameters())


def same(before, after):
    return before.keys() == after.keys() and all(before[name] is after[name] for name in before)


def test_laid_restores_the_very_same_parameters(backbone):
    before, values = parameters(backbone), {n: p.clone() for n, p in parameters(backbone).items()}
    delta = some_delta(backbone)
    with backbone.laid(delta):
        now = parameters(backbone)
        assert {name for name in before if now[name] is not before[name]} == {f"{name}.weight" for name in delta}
        for name, change in delta.items():
            torch.testing.assert_close(now[f"{name}.weight"], values[f"{name}.weight"] + change.matrix())
        with backbone.laid(delta):
            assert all(torch.equal(p, now[n]) for n, p in parameters(backbone).items())  # it does not pile up
        assert same(now, parameters(backbone))
        with backbone.laid(Delta()):
            assert same(before, parameters(backbone))
        assert same(now, parameters(backbone))
    assert same(before, parameters(backbone))
    assert all(torch.equal(p, values[n]) for n, p in parameters(backbone).items())


def published(form, out, into):
    """A change of the published size: entries of about 1e-4, in one of the forms that a memory may hold."""
    draw = torch.Generator().manual_seed(7)
    pairs = [
        (torch.randn(16, into, generator=draw) / 16, torch.randn(out, 16, generator=draw) * s) for s in (4e-4, 9e-4)
    ]
    if form == "dense":
        return Change.full(pairs[0][1] @ pairs[0][0])
    return Change(tuple(pairs[: {"pair": 1, "stacked pairs": 2}[form]]))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["pair", "stacked pairs", "dense"])
def test_a_small_change_survives_half_precision(form, precision):
    """The change that a half-precision layer applies, found by least squares from its outputs, is the change held."""
    draw = torch.Generator().manual_seed(5)
    layer = nn.Linear(64, 48, bias=False)
    layer.weight.data = torch.randn(48, 64, generator=draw) * 0.04
    layer.to(precision)
    change, inputs = published(form, 48, 64), torch.randn(20_000, 64, generator=draw).to(precision)
    with torch.no_grad():
        bare, laying = layer(inputs).double(), Laying({"layer": layer})
        with laying.laid(Delta({"layer": change})):
            moved, weight = layer(inputs).double(), laying.weight("layer")
        assert torch.equal(layer(inputs).double(), bare)
    applied = torch.linalg.lstsq(inputs.double(), moved - bare).solution.T
    held = change.matrix().double()
    assert float((applied * held).sum() / (applied.norm() * held.norm())) > 0.995
    folded = (layer.weight.float() + change.matrix()).to(precision).double() - layer.weight.double()
    assert (applied - held).norm() < 0.5 * (folded - held).norm() or precision == torch.float16
    unit = {torch.bfloat16: 2**-8, torch.float16: 2**-11}[precision]
    assert (weight.double() - layer.weight.double() - held).norm() < 2 * unit * held.norm()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_memory_draws_in_half_precision_what_it_draws_in_float32(pico, sd, precision):
    """Latents drawn from a memory are as far from float32's as those of the untouched base are."""
    half, delta = loading.load(str(pico), precision, device="cpu"), some_delta(sd)
    prompts = sd.encode_prompts(["a photo of zwz dog"])
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))

    def drawn(backbone, delta):
        with backbone.laid(delta):
            return backbone.draw(prompts, prompts, noise, 3, 1.0, "default")

    rounding = (drawn(half, Delta()) - drawn(sd, Delta())).norm()
    assert (drawn(half, delta) - drawn(sd, delta)).norm() < 2 * rounding
    assert (drawn(sd, delta) - drawn(sd, Delta())).norm() > 5 * rounding


def test_laid_restores_after_an_exception(sd):
    before = parameters(sd)
    with pytest.raises(ZeroDivisionError), sd.laid(some_delta(sd)):
        raise ZeroDivisionError
    assert same(before, parameters(sd))


@pytest.mark.parametrize(
    ("delta", "word"),
    [
        (Delta({"mid.nowhere": Change.full(torch.ones(2, 2))}), "'mid.nowhere', which the base lacks"),
        ("shape", r"is \(2, 2\), the base's"),
    ],
)
def test_a_memory_of_another_base_is_refused(sd, delta, word):
    before = parameters(sd)
    if delta == "shape":  # the first fits, the last does not: nothing may stay laid
        delta = Delta({**some_delta(sd), list(sd.projections("attention"))[-1]: Change.full(torch.ones(2, 2))})
    with pytest.raises(ModelError, match=word), sd.laid(delta):
        pass
    assert same(before, parameters(sd))


# --- adapters ------------------------------------------------------------------------------------------------------


@contextmanager
def attached(backbone, rank, targets):
    weights = lora(rank, targets).weights(backbone.projections(targets), backbone.device)
    with backbone.attached(weights):
        yield weights


def fill(adapter, delta):
    with torch.no_grad():
        for name, pair in adapter.factors.items():
            for factor, value in zip(pair, delta[name].pairs[0], strict=True):
                factor.copy_(value)


def test_an_adapter_leaves_no_trace(backbone):
    before = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    objects, kinds = parameters(backbone), [type(module) for module in backbone.network.modules()]
    for error in (None, KeyError):
        with pytest.raises(error) if error else torch.no_grad(), attached(backbone, 2, "attention") as adapter:
            assert len(adapter.named().values()) == 2 * len(backbone.projections("attention"))
            if error:
                raise error
        after = backbone.network.state_dict()
        assert list(before) == list(after) and all(torch.equal(before[n], after[n]) for n in before)
        assert same(objects, parameters(backbone)) and kinds == [type(m) for m in backbone.network.modules()]
        assert not hasattr(backbone.network, "peft_config")


@pytest.mark.parametrize("targets", ["attention", "cross_kv"])
def test_an_adapter_equals_the_same_delta_laid(backbone, targets):
    delta, batch = some_delta(backbone, targets=targets), batch_of(backbone)
    with torch.no_grad():
        with backbone.laid(delta):
            laid = backbone.predict(batch)
        with attached(backbone, 2, targets) as adapter:
            fill(adapter, delta)
            on_top = backbone.predict(batch)
        assert not torch.allclose(laid, backbone.predict(batch), atol=1e-3)
    torch.testing.assert_close(on_top, laid, atol=1e-5, rtol=1e-4)
    assert adapter.delta().keys() == delta.keys()
    torch.testing.assert_close(adapter.delta()[next(iter(delta))].matrix(), delta[next(iter(delta))].matrix())


def test_gradients_reach_the_adapter_and_nothing_else(backbone):
    with attached(backbone, 2, "cross_kv") as adapter, backbone.laid(some_delta(backbone)):
        fill(adapter, some_delta(backbone, targets="cross_kv"))
        backbone.loss(batch_of(backbone)).backward()
        own = {id(p) for p in adapter.named().values()}
        for module in (backbone.network, backbone.pipe.vae, backbone.pipe.text_encoder):
            assert all((p.grad is not None) == (id(p) in own) for p in module.parameters())
        assert all(p.dtype == torch.float32 and p.grad.abs().max() > 0 for p in adapter.named().values())


def gradients(backbone):
    with attached(backbone, 2, "attention") as adapter:
        fill(adapter, some_delta(backbone))
        backbone.loss(batch_of(backbone)).backward()
        return [parameter.grad.clone() for parameter in adapter.named().values()]


def test_gradient_checkpointing_gives_equal_gradients(backbone):
    plain = gradients(backbone)
    calls = []
    block = backbone.network.up_blocks[0].resnets[1]  # behind some adapters, so that gradients flow through it
    handle = block.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        backbone.gradient_checkpointing(True)
        saved = gradients(backbone)
        assert len(calls) == 2  # once forward, once again in the backward pass: it is really on
    finally:
        backbone.gradient_checkpointing(False)
        handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(plain, saved, strict=True))


# --- loss ----------------------------------------------------------------------------------------------------------


def naive_loss(backbone, batch, gamma, velocity):
    """One image at a time, from the schedule's own numbers: Ho et al. 2020; Salimans & Ho 2022; Hang et al. 2023."""
    alphas = DDPMScheduler.from_config(backbone.pipe.scheduler.config).alphas_cumprod
    errors = []
    for k in range(len(batch.latents)):
        a = alphas[batch.timesteps[k]]
        x, noise = batch.latents[k : k + 1], batch.noise[k : k + 1]
        told = {"sdxl": sdxl, "stable-diffusion": stable_diffusion}[backbone.family.name].unet_inputs(
            rows(batch.condition, [k])
        )
        said = backbone.network(a.sqrt() * x + (1 - a).sqrt() * noise, batch.timesteps[k], **told).sample
        error = (said - (a.sqrt() * noise - (1 - a).sqrt() * x if velocity else noise)).pow(2).mean()
        snr = a / (1 - a)
        weight = 1.0 if gamma is None else min(float(snr), gamma) / (snr + 1 if velocity else snr)
        errors.append(error * weight)
    return sum(errors) / len(errors)


@pytest.mark.parametrize("gamma", [None, 5.0, 0.5])
def test_loss_is_the_formula(backbone, gamma):
    batch, velocity = batch_of(backbone), backbone.pipe.scheduler.config.prediction_type == "v_prediction"
    with torch.no_grad():
        torch.testing.assert_close(backbone.loss(batch, gamma), naive_loss(backbone, batch, gamma, velocity))


def test_velocity_and_noise_are_told_apart(sd, sd_v):
    one, two = sd.objective.schedule, sd_v.objective.schedule
    assert one.config.prediction_type == "epsilon" and two.config.prediction_type == "v_prediction"
    assert one.alphas_cumprod.equal(two.alphas_cumprod)
    assert float(sd.loss(batch_of(sd)).detach()) != float(sd_v.loss(batch_of(sd_v)).detach())


def test_the_company_of_a_batch_does_not_matter(backbone):
    with torch.no_grad():
        together = backbone.predict(batch_of(backbone))
        alone = torch.cat([backbone.predict(batch_of(backbone, [k])) for k in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


# --- drawing -------------------------------------------------------------------------------------------------------


def test_drawing_twice_is_bit_equal_and_prompts_differ(backbone):
    first = draw(backbone)
    assert draw(backbone) == first and len(set(first)) == 4  # two prompts, two latents
    assert draw(backbone, seed=1) != first and draw(backbone, guidance=1.0) != first


def test_batches_of_any_size_draw_the_same(backbone):
    whole = [torch.frombuffer(bytearray(p), dtype=torch.uint8).float() for p in draw(backbone)]
    for size in (1, 3):
        parts = [torch.frombuffer(bytearray(p), dtype=torch.uint8).float() for p in draw(backbone, batch_size=size)]
        assert max((a - b).abs().max() for a, b in zip(whole, parts, strict=True)) <= 1


@pytest.mark.parametrize("scheduler", Diffusion.solvers)
def test_schedulers(backbone, scheduler):
    usual = backbone.pipe.scheduler
    drawn = draw(backbone, scheduler=scheduler, steps=4)
    assert len(set(drawn)) == 4 and draw(backbone, scheduler=scheduler, steps=4) == drawn
    assert backbone.pipe.scheduler is usual


@pytest.mark.parametrize(("which", "kind"), [("sd", StableDiffusionPipeline), ("xl", StableDiffusionXLPipeline)])
@pytest.mark.parametrize("negative", [None, "", "a photo of the cat"])
def test_drawn_is_what_a_plain_pipeline_with_the_changed_weights_draws(which, kind, negative, request):
    """Whatever it guides away from: without a negative prompt SDXL takes zeros, which is not the empty prompt."""
    backbone = request.getfixturevalue(which)
    delta, noise = some_delta(backbone), sample.latents(backbone, 2, 32, 42)
    with backbone.laid(delta):
        ours = sample.draw(
            backbone, ["a photo of zwz dog"], SAMPLING.model_copy(update={"negative_prompt": negative}), 32
        )
    pipe = kind.from_pretrained(request.getfixturevalue(f"pico{'_xl' if which == 'xl' else ''}"))
    with torch.no_grad():
        for name, change in delta.items():
            pipe.unet.get_parameter(f"{name}.weight").add_(change.matrix())
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        ["a photo of zwz dog"] * 2, negative_prompt=None if negative is None else [negative] * 2, latents=noise,
        height=32, width=32, num_inference_steps=3, guidance_scale=3.0, output_type="pt",
    ).images  # fmt: skip
    shown = torch.stack([torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).reshape(32, 32, 3) for i in ours])
    torch.testing.assert_close(shown.float() / 255, theirs.permute(0, 2, 3, 1), atol=1.01 / 255, rtol=0)


def test_encoding_and_decoding(backbone):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = backbone.encode_images(images, torch.Generator().manual_seed(0))
    assert latents.shape == (2, backbone.units.channels, backbone.latent_side(32), backbone.latent_side(32))
    assert torch.equal(latents, backbone.encode_images(images, torch.Generator().manual_seed(0)))
    posterior = backbone.pipe.vae.encode(images).latent_dist
    scale = backbone.pipe.vae.config.scaling_factor
    assert ((latents - posterior.mean * scale).abs() <= 6 * posterior.std * scale + 1e-6).all()
    assert [image.size for image in backbone.decode(latents)] == [(32, 32)] * 2


def test_decoding_in_parts_gives_the_same_images(sd, monkeypatch):
    latents = sample.latents(sd, 3, 32, 0)
    whole = pixels(sd.decode(latents))
    monkeypatch.setattr("perdure.bases.backbone.DECODED", 2 * 32 * 32)
    parts = pixels(sd.decode(latents))
    assert len(parts) == 3
    near = (
        np.abs(np.frombuffer(a, "u1").astype(int) - np.frombuffer(b, "u1")).max()
        for a, b in zip(whole, parts, strict=True)
    )
    assert max(near) <= 1


# --- SDXL ----------------------------------------------------------------------------------------------------------


def test_sdxl_is_told_sizes_and_crops(xl):
    picture = Picture(Image.new("RGB", (80, 40), "red"), "a photo of zwz dog")
    shown = examples.encode(xl, [picture], Training(resolution=32, views=2), 0, "dog")
    first, second = shown.condition["time_ids"].tolist()
    assert first == [40, 80, 0, 16, 32, 32]  # height, width, crop top, crop left, target
    assert second[:3] == [40, 80, 0] and 0 <= second[3] <= 32
    inputs = sdxl.unet_inputs(shown.condition)
    assert (
        inputs["added_cond_kwargs"]["text_embeds"].shape == (2, 16) and inputs["encoder_hidden_states"].shape[-1] == 40
    )


def test_sdxl_learns_and_draws(xl):
    shown = encoded(xl)
    lesson = train.Lesson("dog", 1, shown)
    how = Training(resolution=32, steps=3, batch_size=2, learning_rate=1e-2)
    memory = train.learn(xl, method.get("merge_init", {"rank": 2}), Memory(), lesson, planned(how))
    before = draw(xl)
    with xl.laid(memory.delta()):
        assert draw(xl) != before
    assert draw(xl) == before


# --- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("which", ["pico", "pico_xl"])
def test_half_precision_learns_and_draws(request, which, precision):
    folder = str(request.getfixturevalue(which))
    try:
        backbone = loading.load(folder, precision, "cpu")
        assert backbone.dtype == loading.DTYPES[precision] and backbone.pipe.vae.dtype == torch.float32
        lesson = train.Lesson("dog", 1, encoded(backbone))
        how = Training(resolution=32, steps=3, batch_size=2, learning_rate=1e-2)
        memory = train.learn(backbone, method.get("merge_init", {"rank": 2}), Memory(), lesson, planned(how))
        assert {t.dtype for t in memory.tensors.values()} == {torch.float32}
        with backbone.laid(memory.delta()):
            assert backbone.network.get_parameter(f"{next(iter(memory.delta()))}.weight").dtype == backbone.dtype
            assert len(set(draw(backbone))) == 4
    finally:
        loading.load(folder, "fp32", "cpu")  # accelerate keeps one precision a process


@pytest.mark.parametrize("spoilt", ["nan", "flat"])
def test_what_is_no_picture_is_no_picture(sd, monkeypatch, spoilt):
    """The third batch of two is of the second prompt."""
    what = {"nan": "numbers that are not finite", "flat": "one colour everywhere"}[spoilt]
    real, calls = (sd.draw, []) if spoilt == "nan" else (sd.decode, [])

    def third(*given):
        calls.append(1)
        made = real(*given)
        if len(calls) == 3:
            made = made * math.nan if spoilt == "nan" else [Image.new("RGB", image.size, (9, 8, 7)) for image in made]
        return made

    monkeypatch.setattr(sd, "draw" if spoilt == "nan" else "decode", third)
    settings = SAMPLING.model_copy(update={"batch_size": 2, "images_per_prompt": 3})
    with pytest.raises(TrainingError, match=f"drawing 'a cat' gave {what}, which is no picture and is not scored; try"):
        sample.draw(sd, ["a dog", "a cat"], settings, 32)
    calls.clear()
    if spoilt == "nan":
        with pytest.raises(TrainingError, match=f"drawing 'a cat' gave {what}"):
            sample.draw_latents(sd, ["a dog", "a cat"], settings, 32)
    assert len(sample.draw(sd, ["a dog"], settings, 32)) == 3


# --- loading -------------------------------------------------------------------------------------------------------


def broken(pico, folder, **files):
    shutil.copytree(pico, folder)
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.unlink() if text is None else path.write_text(text)
    return str(folder)


def test_what_is_no_base(pico, tmp_path):
    (tmp_path / "empty").mkdir()
    other = json.dumps({"_class_name": "KandinskyPipeline"})
    cases = {
        str(tmp_path / "none"): "no such folder",
        "./none": "no such folder",
        str(tmp_path / "empty"): "not a diffusers pipeline",
        str(pico / "model_index.json"): "is no base: give a diffusers folder or a .safetensors file",
        broken(pico, tmp_path / "kandinsky", **{"model_index.json": other}): "is a KandinskyPipeline; perdure teaches",
        broken(pico, tmp_path / "json", **{"model_index.json": "{"}): "cannot be",
        broken(pico, tmp_path / "list", **{"model_index.json": "[]"}): "cannot be read",
        broken(pico, tmp_path / "weights", **{"unet__diffusion_pytorch_model.safetensors": "x"}): "cannot be loaded",
        broken(pico, tmp_path / "missing", **{"unet__diffusion_pytorch_model.safetensors": None}): "is incomplete: the",
        broken(pico, tmp_path / "no-config", **{"vae__config.json": None}): "is incomplete: vae/config.json is missing",
        "https://huggingface.co/owner/name": "give a hub id",
        "owner/name@main": "give a hub id",
        "somebody/nothing": "neither a local folder nor in the hub cache",
        "nothing-at-all": "no such folder, and it is no hub id",
    }
    for base, word in cases.items():
        with pytest.raises(ModelError, match=word) as caught:
            loading.load(base, device="cpu")
        assert "\n" not in str(caught.value), base


def test_a_damaged_tokenizer_is_told_in_a_sentence(pico, tmp_path):
    """tokenizers raises bare exceptions; ids that the text encoder has no row for would only show in a lesson."""
    path = Path("tokenizer") / "tokenizer.json"
    told = json.loads((pico / path).read_text())
    spoilt = {
        "merges": {**told, "model": {**told["model"], "merges": [["a", "nothing"]]}},
        "ids": {**told, "model": {**told["model"], "vocab": {**told["model"]["vocab"], "new": 5000}}},
    }
    for name, word in (("merges", "cannot be loaded: "), ("ids", "tokenizer/ has a word 5000, and text_encoder/ has")):
        base = broken(pico, tmp_path / name, **{"tokenizer__tokenizer.json": json.dumps(spoilt[name])})
        with pytest.raises(ModelError, match=word) as caught:
            loading.load(base, device="cpu")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("scheduler", ["my_scheduler", "Mine"]),
        ("unet", ["./unet", "UNet2DConditionModel"]),
        ("unet", ["diffusers", "os.system"]),
        ("_class_name", ["pipeline", "StableDiffusionPipeline"]),
    ],
)
def test_an_index_that_names_code_is_refused_before_anything_is_loaded(pico, tmp_path, part, value, monkeypatch):
    index = json.loads((pico / "model_index.json").read_text())
    base = broken(pico, tmp_path / "base", **{"model_index.json": json.dumps({**index, part: value})})
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", None)
    with pytest.raises(ModelError, match="no code that comes with a base"):
        loading.load(base, device="cpu")


def changed(pico, folder, part, **settings):
    (path,) = (Path(pico) / part).glob("*config.json")
    text = json.dumps({**json.loads(path.read_text()), **settings})
    return broken(pico, folder, **{f"{part}__{path.name}": text})


@pytest.mark.parametrize(
    ("part", "settings", "word"),
    [
        (
            "scheduler",
            {"prediction_type": "sample"},
            "predicts 'sample'; perdure teaches bases that predict epsilon or",
        ),
        ("scheduler", {"_class_name": "EDMEulerScheduler"}, "noised as EDMEulerScheduler"),
        ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "noised as FlowMatchEulerDiscreteScheduler"),
        ("vae", {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}, "shifts latents"),
    ],
)
def test_a_base_of_another_objective_is_refused_by_name(pico, tmp_path, part, settings, word):
    base = changed(pico, tmp_path / "base", part, **settings)
    if part == "scheduler" and "_class_name" in settings:
        index = json.loads((Path(base) / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", settings["_class_name"]]
        (Path(base) / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=word):
        loading.load(base, device="cpu")


def test_an_inpainting_model_is_refused(pico, tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(pico)
    pipe.unet = UNet2DConditionModel.from_config({**pipe.unet.config, "in_channels": 9})
    pipe.save_pretrained(tmp_path / "nine")
    with pytest.raises(ModelError, match="takes 9 channels and its autoencoder has 4; inpainting"):
        loading.load(str(tmp_path / "nine"), device="cpu")


def test_half_precision_files_and_shards_are_loaded_and_pickles_are_not(pico, sd, tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(pico)
    pipe.save_pretrained(tmp_path / "fp16", variant="fp16")
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    pipe.save_pretrained(tmp_path / "bin", safe_serialization=False)
    for name in ("fp16", "shards"):
        loaded = loading.load(str(tmp_path / name), device="cpu")
        assert all(torch.equal(p, loaded.network.state_dict()[n]) for n, p in sd.network.state_dict().items())
    shard = sorted((tmp_path / "shards/unet").glob("*-00002-of-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ModelError, match=f"incomplete: unet/{shard.name} is missing"):
        loading.load(str(tmp_path / "shards"), device="cpu")
    with pytest.raises(ModelError, match="as pickles only, which perdure does not read"):
        loading.load(str(tmp_path / "bin"), device="cpu")


def test_devices_by_name(pico):
    with pytest.raises(ModelError, match="no device 'gpu' on this machine; there is: cpu"):
        loading.load(str(pico), device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no device 'cuda'"):
            loading.load(str(pico), device="cuda")


def test_identity_tells_bases_apart(pico, pico_v, tmp_path):
    moved = shutil.copytree(pico, tmp_path / "moved")
    assert loading.identity(str(moved)) == loading.identity(str(pico)) != loading.identity(str(pico_v))
    assert loading.identity("a/b") != loading.identity("a/c")
    assert loading.identity(str(pico), "some/vae") != loading.identity(str(pico))
    weights = moved / "unet/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert loading.identity(str(moved)) != loading.identity(str(pico))


def test_another_autoencoder(pico, sd):
    other = loading.load(str(pico), device="cpu", vae=str(pico / "vae"))
    images = torch.zeros(1, 3, 32, 32)
    latents = [one.encode_images(images, torch.Generator().manual_seed(0)) for one in (sd, other)]
    assert torch.equal(*latents)
    with pytest.raises(ModelError, match=r"cannot be loaded|neither"):
        loading.load(str(pico), device="cpu", vae=str(pico / "unet"))


def test_loading_is_silent(pico, capfd):
    loading.load(str(pico), device="cpu")
    told = capfd.readouterr()
    assert told.out == "" and told.err == ""


@pytest.mark.parametrize(
    "file", ["tokenizer/tokenizer.json", "unet/config.json", "text_encoder/config.json", "model_index.json"]
)
@pytest.mark.parametrize("what", ["pipe", "folder", "loop", "[]", '{"a": {}}', '{"intermediate_size": ""}'])
def test_a_base_with_a_damaged_file_is_told_in_a_sentence(pico, tmp_path, file, what):
    base = shutil.copytree(pico, tmp_path / "base")
    path = base / file
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path.name)
    else:
        path.write_text(what)
    with pytest.raises(ModelError, match="base"):
        loading.load(str(base), device="cpu")
