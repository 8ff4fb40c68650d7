"""A frozen base in few bits: beside plain pipelines whose weights are what the libraries make of them."""

import copy

import pytest
import torch
from conftest import planned
from diffusers import DiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from test_families import HANDS, shown, some_delta

from perdure import method
from perdure.bases import loading, quantising
from perdure.errors import PlanError
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.parts.adapter import lora
from perdure.plan import Training

LIBRARY = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}


@pytest.fixture(scope="module", params=[(name, kind) for name in ("flux", "z_image") for kind in LIBRARY], ids="-".join)
def base(request, folders):
    """(by hand, the backbone, a plain pipeline of the weights that the libraries give back)"""
    name, kind = request.param
    pytest.importorskip(LIBRARY[kind], reason=f"{LIBRARY[kind]} is not installed")
    backbone = loading.load(folders(name), device="cpu", few_bits=kind)
    plain = DiffusionPipeline.from_pretrained(folders(name))
    plain.set_progress_bar_config(disable=True)
    changed = 0
    for module, layer in plain.transformer.named_modules():
        if isinstance(layer, torch.nn.Linear):
            weight = read(backbone.network.get_submodule(module).weight)
            changed += not torch.equal(weight, layer.weight)
            layer.weight = torch.nn.Parameter(weight.to(torch.float32))
    assert changed > 10
    for part in plain.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    return HANDS[name], backbone, plain


def read(weight):
    """By the library's own way."""
    if type(weight) is torch.nn.Parameter:
        return weight.detach()
    if kind_of(weight) == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state)
    return weight.dequantize()


def kind_of(weight):
    return type(weight).__name__


def batch_of(backbone):
    return shown(backbone).batch(backbone, 2, lambda purpose, step: torch.Generator().manual_seed(step), 0)


def said(hand, pipe, batch):
    noisy = hand.noised(batch.latents, batch.noise, batch.timesteps)
    return hand.said(pipe, noisy, batch.timesteps, list(batch.captions))


def test_a_lesson_and_its_past_lie_beside_the_few_bits(base):
    """Loss and gradients of pairs on top of a past that is laid under; weights by hand, added up in float32."""
    hand, backbone, pipe = base
    pairs, past = some_delta(backbone)
    small = {n: (a * 0.01, b * 0.01) for n, (a, b) in pairs.items()}  # rounded away, were they put into int8 weights
    batch, weights = (
        batch_of(backbone),
        lora(2, "attention").weights(backbone.projections("attention"), backbone.device),
    )
    with torch.no_grad():
        for name, pair in weights.factors.items():
            for factor, value in zip(pair, small[name], strict=True):
                factor.copy_(value)
    before = {n: m.weight for n, m in backbone.network.named_modules() if isinstance(m, torch.nn.Linear)}
    with backbone.laid(past), backbone.attached(weights):
        loss = backbone.loss(batch)
        loss.backward()
    assert all(backbone.network.get_submodule(n).weight is weight for n, weight in before.items())
    usual = pipe.transformer
    pipe.register_modules(transformer=copy.deepcopy(usual))
    layers = [pipe.transformer.get_submodule(name) for name in pairs]
    for layer, change in zip(layers, past.values(), strict=True):
        layer.weight.data += change.matrix()
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=list(pairs)), pipe.transformer)
    layers = [pipe.transformer.get_submodule(name) for name in pairs]
    for layer, (a, b) in zip(layers, small.values(), strict=True):
        layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = a.clone(), b.clone()
    target = hand.target(batch.latents, batch.noise, batch.timesteps)
    expected = (said(hand, pipe, batch) - target).square().mean()
    expected.backward()
    pipe.register_modules(transformer=usual)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-3)
    for factors, layer in zip(weights.factors.values(), layers, strict=True):
        for factor, own in zip(factors, (layer.lora_A, layer.lora_B), strict=True):
            torch.testing.assert_close(factor.grad, own["default"].weight.grad, atol=1e-4, rtol=2e-2)


def test_weights_and_gradients_are_those_of_the_weights_read_back(base):
    hand, backbone, pipe = base
    names = list(backbone.projections("cross_kv"))
    batch = batch_of(backbone)
    found = backbone.gradients(lambda: backbone.loss(batch), names)
    free = [pipe.transformer.get_submodule(n).weight.requires_grad_(True) for n in names]
    loss = (said(hand, pipe, batch) - hand.target(batch.latents, batch.noise, batch.timesteps)).square().mean()
    for name, weight, expected in zip(names, free, torch.autograd.grad(loss, free), strict=True):
        torch.testing.assert_close(found[name], expected, atol=1e-4, rtol=2e-2)
        torch.testing.assert_close(backbone.weight(name), weight.detach(), atol=1e-3, rtol=1e-2)
        weight.requires_grad_(False)


def test_lessons_on_few_bits_repeat_bit_for_bit(base):
    _, backbone, _ = base
    how = planned(Training(resolution=32, steps=2, batch_size=2, learning_rate=1e-2))

    def taught():
        memory = Memory()
        for number, (concept, token) in enumerate((("dog", "zwz"), ("cat", "sbu")), start=1):
            lesson = Lesson(concept, number, shown(backbone), token, concept, f"{token} {concept}")
            memory = learn(backbone, method.get("merge_init", {"rank": 2}), memory, lesson, how)
        return memory

    first = taught()
    assert taught().digest == first.digest and len(first.delta())
    assert all(t.dtype == torch.float32 for change in first.delta().values() for t in change.tensors().values())
    with backbone.laid(Delta()):
        assert backbone.moved() == {}


def test_a_missing_library_is_told(folders, monkeypatch):
    monkeypatch.setattr(quantising, "import_module", missing)
    with pytest.raises(PlanError, match=r"base_precision: fp8 needs torchao; pip install 'perdure\[torchao\]'"):
        loading.load(folders("pixart_alpha"), device="cpu", few_bits="fp8")


def missing(name):
    raise ImportError(name)
